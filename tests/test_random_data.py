"""Random small data: whatever can be fitted is fitted, predicted, saved and loaded without a number that is none."""

import itertools
import logging
from tempfile import TemporaryDirectory

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.internal.conjecture import providers

import nsf_nb as nsf
from nsf_nb.core import NsfError

N_EXAMPLES = 500
NUMBER = itertools.count()
COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 50), st.integers(0, 10**6))
PLACES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_subnormal=False))
KINDS = {
    "NSF": ("poisson", "nb", "gaussian"), "NSFH": ("poisson", "nb", "gaussian"), "PNMF": ("poisson", "nb", "gaussian"),
    "RSF": ("gaussian", "poisson", "nb"), "RSFH": ("gaussian", "poisson"), "FA": ("gaussian", "poisson", "nb"),
}


@st.composite
def data(draw):
    """A few spots and genes, counts from none to a million, places on a line, in a plane or in a box, some shared."""
    n, j, d = draw(st.integers(2, 8)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    counts = draw(arrays(np.float64, (n, j), elements=COUNTS))
    places = draw(arrays(np.float64, (n, d), elements=PLACES))
    matrix = sp.csr_matrix(counts) if draw(st.booleans()) else counts
    return anndata.AnnData(matrix, obsm={"spatial": places})


@st.composite
def models(draw, n_largest):
    """An estimator of the family with at most so many factors, that stops soon."""
    kind = draw(st.sampled_from([name for name in KINDS if n_largest > 1 or not name.endswith("H")]))
    likelihood, seed = draw(st.sampled_from(KINDS[kind])), draw(st.integers(0, 9))
    n_factors = draw(st.integers(1 + kind.endswith("H"), min(3, n_largest)))
    sizes = (n_factors - n_factors // 2, n_factors // 2) if kind.endswith("H") else (n_factors,)
    how = {"likelihood": likelihood, "random_state": seed, "n_starts": 1, "max_iter": draw(st.integers(1, 6))}
    if kind not in ("PNMF", "FA"):
        how["n_inducing"] = draw(st.one_of(st.just("auto"), st.integers(1, 12)))
        how["kernel"] = draw(st.sampled_from(["matern12", "matern32", "matern52", "squared_exponential"]))
    if kind == "NSF" and likelihood == "poisson" and draw(st.integers(0, 4)) == 0:
        how["inference"] = "svi"
    return getattr(nsf, kind)(*sizes, **how)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No warnings before a fit: they are expected here. Data are the same whatever other tests have imported."""
    assert nsf.NSF
    logging.getLogger("nsf_nb").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        # hypothesis would draw from the constants of all modules that are loaded, and so other data in each run
        patch.setattr(providers, "_get_local_constants", providers.Constants, raising=False)
        yield
    logging.getLogger("nsf_nb").setLevel(logging.INFO)


def numbers(model, said):
    """All that a fit and a prediction say, as arrays."""
    tables = model.loadings_, model.factors_, model.factor_std_, model.length_scales_, model.amplitudes_
    tables += said.X, said.obsm["X_nsf"], said.obsm["X_nsf_std"], *said.layers.values(), model.elbo_.total
    dispersion = () if model.dispersion_ is None else (model.dispersion_,)
    return [np.asarray(table, dtype=float) for table in (*tables, *dispersion)]


@settings(
    max_examples=N_EXAMPLES, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_fit_predict_save_load(choose):
    adata = choose.draw(data())
    model = choose.draw(models(min(adata.shape)))
    rule = choose.draw(st.sampled_from(["constant", "mean", "scanpy"]))
    found = nsf.check(adata, model, size_factors=rule)
    if found.worst == "error":
        with pytest.raises(NsfError, match="Expected .* found"):
            model.fit(adata, size_factors=rule)
        reject()
    model.fit(adata, size_factors=rule)
    interval = 0.9 if model.result_.model.link.nonnegative else None
    said = model.predict(adata, interval=interval)
    wrong = [k for k, table in enumerate(numbers(model, said)) if not np.isfinite(table).all()]
    assert not wrong and all(np.isfinite(score) for score in model.evaluate(adata).values())
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        again = nsf.load(f"{folder}/model")
    pairs = zip(numbers(model, said), numbers(again, again.predict(adata, interval=interval)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    event(type(model).__name__)
    next(NUMBER)


FOUND = {  # what has gone wrong before: counts, places, model
    "one gene, signs": ([[1], [2]], [[0, 1], [1, 0]], lambda: nsf.FA(1)),
    "one gene": ([[1], [1]], [[0, 1], [1, 0]], lambda: nsf.PNMF(1)),
    "the same everywhere": ([[2, 2, 2]] * 4, [[0], [1], [2], [3]], lambda: nsf.RSF(2)),
    "a single count": ([[0, 1, 0]] + [[0, 0, 0]] * 3, [[3, 0], [3, 1], [3, 2], [0, 3]], lambda: nsf.NSF(3)),
    "a last step that goes too far": (
        [[0, 736, 38, 0, 0], [699421, 0, 641, 0, 0]], [[3, 2, -3], [1, 610212.5, 1]],
        lambda: nsf.NSF(1, inference="svi", max_iter=2, n_inducing=4, n_starts=1),
    ),
    "a zero with a large slope": (
        [[11, 187158, 31, 31, 899], [31] * 5, [31] * 5, [42, 27, 31, 25, 854], [3, 11, 31, 31, 15],
         [31, 31, 1072, 24, 31], [31, 31, 0, 2319, 11445], [31, 31, 1, 16, 31]],
        [[-1], [0], [0], [2], [1], [-1], [425855], [1]], lambda: nsf.NSF(3, n_starts=1, n_inducing=8, max_iter=4),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name):
    counts, places, model = FOUND[name]
    adata = anndata.AnnData(np.array(counts, dtype=float), obsm={"spatial": np.array(places, dtype=float)})
    fitted = model().fit(adata)
    assert all(np.isfinite(table).all() for table in numbers(fitted, fitted.predict(adata)))


def test_all_of_them_were_fitted():
    assert next(NUMBER) >= N_EXAMPLES
