"""Oracles of the engine for real values: scikit-learn, dense Gaussian processes, finite differences, real tissue."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

tf = pytest.importorskip("tensorflow")

from nsf_nb.core import settings  # noqa: E402
from nsf_nb.data.counts import SpatialCounts  # noqa: E402
from nsf_nb.data.scaling import CoordinateScaling  # noqa: E402
from nsf_nb.inference.convergence import Convergence  # noqa: E402
from nsf_nb.inference.count_terms import CountTerm, _gene_pass, _read  # noqa: E402
from nsf_nb.inference.factor_updates import SpatialFactors  # noqa: E402
from nsf_nb.inference.groups import Groups  # noqa: E402
from nsf_nb.inference.normal_terms import NormalTerm  # noqa: E402
from nsf_nb.inference.real_ascent import RealAscent  # noqa: E402
from nsf_nb.inference.real_valued import fit_real, principal_factors  # noqa: E402
from nsf_nb.inference.records import Diary, FitSettings  # noqa: E402
from nsf_nb.inference.site_moves import Mixing  # noqa: E402
from nsf_nb.models.hybrid import nsfh, rsfh  # noqa: E402
from nsf_nb.models.nonspatial import fa, pnmf  # noqa: E402
from nsf_nb.models.spatial import nsf, rsf  # noqa: E402
from nsf_nb.probability.kernels import Kernel  # noqa: E402
from nsf_nb.probability.likelihoods import Gaussian, NegativeBinomial, Poisson  # noqa: E402
from nsf_nb.probability.priors import GaussianProcess  # noqa: E402

COUNTS = {"poisson": Poisson(), "nb": NegativeBinomial()}
MODELS = {
    **{f"{make.__name__} {like.name}": make(3, likelihood=like) for make in (fa, rsf) for like in COUNTS.values()},
    **{f"rsfh {like.name}": rsfh(2, 1, likelihood=like) for like in COUNTS.values()},
    "fa gaussian": fa(3), "rsf gaussian": rsf(3), "rsfh gaussian": rsfh(2, 1),
    "pnmf gaussian": pnmf(3, likelihood=Gaussian()), "nsf gaussian": nsf(3, likelihood=Gaussian()),
    "nsfh gaussian": nsfh(2, 1, likelihood=Gaussian()),
}  # fmt: skip


def fitted(model, data, **how):
    """A fit without a progress bar."""
    scaling, how = CoordinateScaling.fit(data.coords), FitSettings(**{"n_inducing": 60} | how)
    settings.progress = False
    data = replace(data, coords=scaling.apply(data.coords))
    return fit_real(model, data, scaling, how, Diary(how.max_sweeps))


def simulated(seed=0, n=150, j=25, how="exponential"):
    """Counts made from two fields and a pattern without space, mixed as the models under test mix them."""
    rng = np.random.default_rng(seed)
    coords = rng.uniform(-2, 2, (n, 2))
    f = np.column_stack([np.sin(2 * coords[:, 0]), np.cos(2 * coords[:, 1]), rng.normal(size=n)])
    w, s = rng.normal(size=(j, 3)) * 0.5, rng.uniform(0.5, 2, n)
    mixed = {"exponential": np.exp(1 + f @ w.T), "linear": 60 + 12 * f @ w.T}
    mean = np.maximum(mixed[how], 0) if how in mixed else np.exp(f) @ (6 * np.abs(w).T)
    return SpatialCounts.build(csr_matrix(rng.poisson(s[:, None] * mean).astype(float)), coords, size_factors=s), f


def assert_never_falls(found):
    """Beyond float noise, a hundred-millionth of the bound."""
    bounds = np.array([row["elbo"] for row in found.history])
    assert np.isfinite(bounds).all()
    assert np.all(np.diff(bounds) >= -1e-8 * np.abs(bounds[1:]))
    assert np.isclose(found.elbo.total, bounds[-1], rtol=1e-9)
    assert bounds[-1] > bounds[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_bound_never_falls_and_factors_are_found(name):
    nonnegative = not name.startswith(("fa", "rsf"))
    data, f = simulated(how="nonnegative" if nonnegative else "linear" if "gaussian" in name else "exponential")
    found = fitted(MODELS[name], data, max_sweeps=45)
    assert_never_falls(found)
    truth, design = np.exp(f) if nonnegative else f, np.column_stack([np.ones(len(f)), found.factors])
    rest = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert np.all(1 - rest.var(axis=0) / truth.var(axis=0) > 0.8)
    state = found.state
    assert (state.intercept is None) == nonnegative and (state.dispersion is None) == name.endswith("poisson")
    assert np.all(found.factors_std > 0) and state.link == MODELS[name].link


@pytest.mark.parametrize("seed", range(3))
def test_factor_analysis_reaches_the_optimum_of_scikit_learn(seed):
    from sklearn.decomposition import FactorAnalysis

    rng = np.random.default_rng(seed)
    y = 60 + rng.normal(size=(200, 3)) @ rng.normal(size=(3, 25)) * (4, 2, 1)[seed] * 2
    y = np.rint(np.maximum(y + rng.normal(size=y.shape) * rng.uniform(1, 4, 25), 0))
    data = SpatialCounts.build(csr_matrix(y), rng.uniform(size=(200, 2)))
    found = fitted(fa(3), data, max_sweeps=600, convergence=Convergence(1e-5))
    reference = FactorAnalysis(3, tol=1e-10, max_iter=10000, svd_method="lapack").fit(y)
    assert abs(found.elbo.per_observation - reference.score(y)) < 1e-3
    assert np.allclose(found.state.intercept, y.mean(axis=0), atol=1e-6)
    assert np.allclose(found.state.dispersion, reference.noise_variance_, rtol=0.05)


def test_one_factor_with_known_loadings_is_a_dense_regression():
    rng = np.random.default_rng(3)
    places = rng.uniform(-2, 2, (90, 2))
    y = np.rint(50 + 5 * np.sin(2 * places[:, :1]) + 3 * rng.normal(size=(90, 12)))
    model = rsf(1, GaussianProcess(Kernel("matern52"), 0.7, 1.3))
    group = SpatialFactors(model.groups[0].prior, places, places, 1)
    group.regress(0, np.zeros(90), np.ones(90))
    mixing = Mixing(rng.uniform(1, 4, (12, 1)), np.full(12, 50.0), rng.uniform(5, 12, 12))
    data = SpatialCounts.build(csr_matrix(y), places)
    engine = RealAscent(model, NormalTerm(data, model.link), Groups([group]), mixing)
    engine.refresh()
    start, engine.term.improve = engine.total, lambda m, v, mixing: mixing
    engine.sweep()
    precision = float((mixing.loadings[:, 0] ** 2 / mixing.dispersion).sum())
    target = (y - 50) @ (mixing.loadings[:, 0] / mixing.dispersion) / precision
    h = group.trend_basis.astype(float)
    smooth = 1.3**2 * Kernel("matern52").matrix(places, places, 0.7).numpy()
    noise = np.eye(90) / precision
    dense = (smooth + 1e4 * h @ h.T) @ np.linalg.solve(smooth + 1e4 * h @ h.T + noise, target)
    m, v = engine.marginals
    assert np.abs(m[:, 0] - dense).max() < 2e-3
    assert np.abs(v[:, 0] - np.diag(smooth - smooth @ np.linalg.solve(smooth + noise, smooth))).max() < 2e-3
    # and the bound is the log-density of the values under the dense covariance, at the trend that was found
    covariance = np.kron(smooth, mixing.loadings @ mixing.loadings.T) + np.kron(np.eye(90), np.diag(mixing.dispersion))
    rest = y - 50 - np.outer(h @ group.trend[:, 0], mixing.loadings[:, 0])
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    density = -0.5 * (rest.ravel() @ np.linalg.solve(covariance, rest.ravel()) + log_det)
    assert engine.total > start and np.isclose(engine.total, density, atol=0.05)


@pytest.mark.parametrize("name", ["poisson", "nb", "gaussian", "nonnegative"])
def test_slopes_are_finite_differences(name):
    rng = np.random.default_rng(0)
    data, _ = simulated(n=40, j=7)
    m, v = rng.normal(size=(40, 2)) / 2, rng.uniform(0.05, 0.3, (40, 2))
    w, b, phi = rng.normal(size=(7, 2)) / 2, rng.normal(size=7), rng.uniform(0.2, 1, 7)
    if name in COUNTS:
        term, mixing = CountTerm(data, COUNTS[name]), Mixing(w, b, phi if name == "nb" else None)
    else:
        model = nsf(2, likelihood=Gaussian()) if name == "nonnegative" else rsf(2)
        mixing = Mixing(np.abs(w), None, phi) if name == "nonnegative" else Mixing(w, b, phi)
        term = NormalTerm(data, model.link)

    def change(which, index, step=5e-3):
        ends = []
        for sign in (1, -1):
            at = {"m": m.copy(), "v": v.copy()}
            at[which][index] += sign * step
            data_part, rate, constant = term.value(at["m"], at["v"], mixing)
            ends.append(data_part - rate + constant)
        return (ends[0] - ends[1]) / (2 * step)

    gradient, precision = term.slopes(m, v, mixing)
    for index in ((0, 0), (11, 1), (39, 0)):
        assert np.isclose(change("m", index), gradient[index], rtol=2e-3, atol=5e-3)
        if name in ("poisson", "gaussian"):  # exact there; a tangent for nb, held up by a floor for exponentials
            assert np.isclose(-2 * change("v", index), precision[index], rtol=5e-3, atol=5e-3)


def test_negative_binomial_with_tiny_dispersion_is_poisson():
    data, _ = simulated(n=80, j=10)
    rng = np.random.default_rng(1)
    m, v = rng.normal(size=(80, 2)), rng.uniform(0.05, 0.3, (80, 2))
    w, b = rng.normal(size=(10, 2)) / 2, rng.normal(size=10)
    one, other = CountTerm(data, Poisson()), CountTerm(data, NegativeBinomial())
    small = np.full(10, 1e-5)
    assert np.isclose(np.dot(one.value(m, v, Mixing(w, b)), (1, -1, 1)),
                      np.dot(other.value(m, v, Mixing(w, b, small)), (1, -1, 1)), rtol=2e-4)  # fmt: skip
    for mine, theirs in zip(one.slopes(m, v, Mixing(w, b)), other.slopes(m, v, Mixing(w, b, small)), strict=True):
        assert np.allclose(mine, theirs, rtol=1e-3, atol=1e-2)
    mine, theirs = one.improve(m, v, Mixing(w, b)), other.improve(m, v, Mixing(w, b, small))
    assert np.allclose(mine.loadings, theirs.loadings, atol=2e-3)


@pytest.mark.parametrize("name", COUNTS)
def test_no_gene_loses_however_bad_the_start(name):
    data, _ = simulated(n=60, j=15)
    rng, values = np.random.default_rng(2), []
    m, v = rng.normal(size=(60, 2)), np.full((60, 2), 0.1)
    term = CountTerm(data, COUNTS[name])
    mixing = Mixing(1.5 * rng.normal(size=(15, 2)), rng.normal(size=15), np.full(15, 0.3) if name == "nb" else None)
    for _ in range(8):
        alone = [sum(part) for part in zip(*_read(term, _gene_pass, m, v, mixing), strict=True)]
        values.append(alone[0] - alone[1])
        mixing = term.improve(m, v, mixing)
    assert np.all(np.diff(values, axis=0) >= -1e-9 * np.abs(values[1:])) and np.all(values[-1] > values[0])


def test_starts_are_singular_vectors():
    data, _ = simulated(n=60, j=20)
    x = data.counts.toarray() / data.size_factors[:, None]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    u = np.linalg.svd(x, full_matrices=False)[0][:, :3]
    found = principal_factors(data, 3, False)
    assert np.allclose(np.abs(u.T @ found), np.sqrt(60) * np.eye(3), atol=1e-4)
    assert np.allclose(found.mean(axis=0), 0, atol=1e-6) and np.allclose(found.std(axis=0), 1, atol=1e-4)
    assert np.all(principal_factors(data, 25, False)[:, 20:] == 0)


DATA = os.environ.get("NSF_NB_DATA")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.skipif(not DATA or not Path(DATA, "st_mob.h5ad").exists(), reason="NSF_NB_DATA has no st_mob.h5ad")
def test_all_finish_on_real_tissue(name):
    import anndata

    adata = anndata.read_h5ad(Path(DATA, "st_mob.h5ad"))
    counts = csr_matrix(adata.layers["counts"])
    genes = np.sort(np.argsort(-np.asarray(counts.sum(axis=0)).ravel())[:120])
    counts = counts[:, genes]
    spots = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() > 0)[:300]
    totals = np.asarray(counts[spots].sum(axis=1), dtype=float).ravel()
    coords = np.asarray(adata.obsm["spatial"], dtype=float)[spots]
    data = SpatialCounts.build(counts[spots], coords, size_factors=totals / np.median(totals))
    found = fitted(MODELS[name], data, max_sweeps=20)
    assert_never_falls(found)
    assert np.isfinite(found.factors).all() and np.isfinite(found.state.loadings).all()
