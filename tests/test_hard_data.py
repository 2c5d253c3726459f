"""Data that are wrong or extreme: a finite fit that converges, or one clear error that the doctor has announced."""

import logging

import numpy as np
import pytest

import nsf_nb as nsf
from nsf_nb.core import NsfError
from nsf_nb.data.hard import HARD, hard_data

MODELS = ("NSF", "NSF nb", "NSF gaussian", "PNMF", "NSFH", "RSF", "RSF poisson", "FA", "RSFH", "MEFISTO")
REFUSED = {
    "zero spots", "zero genes", "one spot", "all spots at one place", "more factors than genes", "zeros only",
    "an empty spot, scaled", "fractional counts", "negative counts", "log1p of rates", "a spot without place",
}
MEFISTO_TOO = REFUSED | {"two spots"}  # mofapy2 wants fewer factors than spots
SAID = {
    "zero spots": "0 spots", "zero genes": "0 genes", "one spot": "at least 2 spots", "fractional counts": "fractional",
    "all spots at one place": "all spots are at one place", "more factors than genes": "of at most 12",
    "two spots at one place": "39 different places", "more inducing points than places": "40 different places",
    "coordinates × 1e6": "a box of 9", "coordinates × 1e-6": "a box of 9", "a count of 1e6": "of all counts",
    "a spot with 1e6 counts": "1,000,000 counts", "a gene in a single spot": "seen in a single spot",
    "an empty spot, an empty gene": "spots without counts", "99.9 % zeros": "99.9", "zeros only": "zeros only",
    "negative counts": "negative", "a spot far away": "far from all others", "a spot without place": "1 without",
    "an axis in other units": "a box of", "log1p of rates": "exp(x) - 1", "an empty spot, scaled": "positive",
    "a spot with 1e6 counts, scaled": "ratio",
}


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Warnings before a fit are expected here."""
    logging.getLogger("nsf_nb").setLevel(logging.ERROR)
    yield
    logging.getLogger("nsf_nb").setLevel(logging.INFO)


def estimator(name, case, **how):
    """An estimator for a hard data set: its class and its likelihood, if that is not the default."""
    kind, *likelihood = name.split()
    how |= dict(zip(["likelihood"], likelihood, strict=False))
    if kind != "MEFISTO":
        how["n_starts"] = 2
    if kind not in ("PNMF", "FA"):
        how["n_inducing"] = case.n_inducing
    half = (case.n_factors + 1) // 2
    sizes = (half, max(1, case.n_factors - half)) if kind.endswith("H") else (case.n_factors,)
    return getattr(nsf, kind)(*sizes, **how)


def finite(model, adata):
    """Whether all that a fit says is a number."""
    amounts = type(model).__name__ in ("NSF", "PNMF", "NSFH")
    said = model.predict(adata, interval=0.9 if amounts else None)
    tables = model.loadings_, model.factors_, model.factor_std_, model.length_scales_, model.amplitudes_, said.X
    tables += *said.layers.values(), said.obsm["X_nsf"], said.obsm["X_nsf_std"], model.elbo_.total
    return all(np.isfinite(np.asarray(table, dtype=float)).all() for table in tables)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", HARD)
def test_finite_or_refused(name, model):
    case, adata = HARD[name], hard_data(name)
    fitted, refused = estimator(model, case, max_iter=2000), MEFISTO_TOO if model == "MEFISTO" else REFUSED
    found = nsf.check(adata, fitted, size_factors=case.size_factors)
    try:
        fitted.fit(adata, size_factors=case.size_factors)
    except NsfError as err:
        assert name in refused and str(err).startswith("Expected") and "found" in str(err)
        errors = [f"{one.found} {one.do}" for one in found.findings if one.severity == "error"]
        assert errors == [str(err)]
        return
    assert name not in refused and found.worst != "error"
    assert fitted.converged_ and finite(fitted, adata)


@pytest.mark.parametrize("name", HARD)
def test_the_stochastic_engine(name):
    case, adata = HARD[name], hard_data(name)
    model = nsf.NSF(case.n_factors, inference="svi", n_inducing=case.n_inducing, n_starts=1, max_iter=30)
    if name in REFUSED:
        with pytest.raises(NsfError, match="Expected .* found"):
            model.fit(adata, size_factors=case.size_factors)
    else:
        assert finite(model.fit(adata, size_factors=case.size_factors), adata)


@pytest.mark.parametrize("name", HARD)
def test_what_the_doctor_says(name):
    case = HARD[name]
    found = nsf.check(hard_data(name), estimator("NSF", case), size_factors=case.size_factors)
    text = " ".join(f"{one.found} {one.do}" for one in found.findings)
    assert SAID.get(name, "memory" if name in REFUSED else "beside the data") in text, text
    usual = {"time", "memory", "kernel matrix"}
    assert (name in SAID) == any(one.what not in usual for one in found.findings)
    assert (found.worst == "error") == (name in REFUSED)


def test_a_unit_does_not_matter():
    """The same fit whatever the unit of the coordinates, length scales in that unit."""
    names = "whole numbers as floats", "coordinates × 1e6"
    one, million = (estimator("NSF", HARD[name]).fit(hard_data(name)) for name in names)
    np.testing.assert_allclose(million.length_scales_, 1e6 * one.length_scales_, rtol=1e-6)
    np.testing.assert_allclose(million.factors_, one.factors_, rtol=1e-3)
