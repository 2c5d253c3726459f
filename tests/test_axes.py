"""A length scale for each axis, learned: truth on simulated tissues, dense oracles, and what becomes of it later."""

import warnings

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from sklearn.gaussian_process.kernels import RBF, Matern  # noqa: E402

import nsf_nb as nsf  # noqa: E402
from nsf_nb.probability.kernels import Kernel  # noqa: E402
from nsf_nb.probability.sparse_gp import JITTER, project  # noqa: E402

ARD, UNIT = Kernel(ard=True), 100.0  # input units in a unit of the length scales below


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars."""
    monkeypatch.setattr(nsf.settings, "progress", False)


def tissue(length_scales, n_obs=700, n_features=60, seed=0):
    """Poisson counts from three factors that are exponentials of draws with one length scale along each axis."""
    import anndata

    rng = np.random.default_rng(seed)
    places = rng.uniform(-2, 2, (n_obs, len(length_scales)))
    root = np.linalg.cholesky(Matern(length_scales, nu=1.5)(places) + 1e-8 * np.eye(n_obs))
    factors, loadings = np.exp(root @ rng.normal(size=(n_obs, 3)) - 0.5), rng.gamma(0.5, 1.0, (n_features, 3))
    counts = rng.poisson(5 * factors @ loadings.T / loadings.sum(axis=1).mean())
    return anndata.AnnData(counts.astype("f4"), obsm={"spatial": UNIT * places})


def fitted(adata, kernel=ARD, begin=None, make=nsf.NSF, **params):
    """A fit of three factors; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="tensorflow|tf_keras")
        params = {"n_starts": 1, "random_state": 0} | params
        return make(3, kernel=kernel, **params).fit(adata, begin=begin)


def stretch(model):
    """Of the axes, as the posterior has it."""
    return np.array(model.state_.spatial.prior.kernel.stretch or (1.0, 1.0))


@pytest.fixture(scope="module")
def long():
    """A tissue with length scales 0.3 and 1.2: spots to fit, spots held out, and a fit that learns both."""
    nsf.settings.progress = False
    train, val = nsf.pp.split(tissue((0.3, 1.2)), val_fraction=0.2, seed=0)
    return train, val, fitted(train)


def test_truth_comes_back_and_predicts_better(long):
    train, val, model = long
    ratio = stretch(model)[1] / stretch(model)[0]
    assert 4 / 1.5 < ratio < 4 * 1.5 and np.isclose(np.prod(stretch(model)), 1)
    plain = fitted(train, Kernel())
    assert model.evaluate(val)["deviance"] < 0.97 * plain.evaluate(val)["deviance"]
    assert model.elbo_.total > plain.elbo_.total + 100


def test_length_scales_are_in_input_units(long):
    train, _, model = long
    table, posterior = model.length_scales_, model.state_.spatial
    assert list(table.columns) == ["x", "y"] and list(table.index) == list(model.loadings_.columns)
    scale = np.exp(np.log(np.ptp(train.obsm["spatial"], axis=0)).mean()) / 4
    assert np.allclose(table, scale * posterior.length_scales[:, None] * stretch(model))
    assert np.all(np.abs(np.log2(table / (UNIT * np.array([0.3, 1.2])))) < 1)
    assert np.allclose(np.sqrt(table["x"] * table["y"]), scale * posterior.length_scales)


def test_real_valued_models_learn_it(long):
    train, val, _ = long
    model, plain = (fitted(train, kernel, make=nsf.RSF, n_starts=4, likelihood="poisson") for kernel in (ARD, Kernel()))
    assert 4 / 1.5 < stretch(model)[1] / stretch(model)[0] < 4 * 1.5
    assert model.evaluate(val)["deviance"] < 0.97 * plain.evaluate(val)["deviance"]


@pytest.mark.parametrize("seed", [1, 2])
def test_isotropic_tissue_stays_so(seed):
    adata = tissue((0.6, 0.6), seed=seed)
    model = fitted(adata)
    assert np.abs(np.log2(stretch(model)[1] / stretch(model)[0])) < 0.51  # a step of the grid
    if model.state_.spatial.prior.kernel.stretch is None:  # looked at and left alone: the same fit as without
        assert np.array_equal(model.loadings_, fitted(adata, Kernel()).loadings_)


def test_unit_of_one_axis_does_not_matter():
    adata = tissue((0.6, 0.6), seed=3)
    adata.obsm["spatial"][:, 0] *= 5
    model = fitted(adata)
    assert 5 / 1.5 < stretch(model)[0] / stretch(model)[1] < 5 * 1.5


def test_predictions_use_the_stretch(long):
    train, _, model = long
    posterior, rng = model.state_.spatial, np.random.default_rng(0)
    assert stretch(model)[1] > 2 * stretch(model)[0]
    seen = posterior.at(model.result_.scaling.apply(train.obsm["spatial"]))
    assert len(posterior.inducing_points) == train.n_obs  # no residuals: fit and prediction agree
    assert np.allclose(np.exp(seen[0] + seen[1] / 2), model.factors_, rtol=1e-3)
    places = model.result_.scaling.apply(rng.uniform(-200, 200, (40, 2)))
    for l, (length, a) in enumerate(zip(posterior.length_scales, posterior.amplitudes, strict=True)):
        kernel, z = Matern(length * stretch(model), nu=1.5), posterior.inducing_points
        root = np.linalg.cholesky(kernel(z) + JITTER * np.eye(len(z)))
        basis = np.linalg.solve(root, kernel(z, places))
        mean = posterior.trend[l] @ np.vstack([np.ones(40), places.T]) + a * posterior.mean[l] @ basis
        own = 1 - (basis**2).sum(axis=0) + ((posterior.scale[l] @ basis) ** 2).sum(axis=0)
        assert np.allclose(posterior.at(places)[0][:, l], mean, atol=1e-3)
        assert np.allclose(posterior.at(places)[1][:, l], a**2 * own, atol=1e-3)


@pytest.mark.parametrize("family", ["matern12", "matern32", "matern52", "squared_exponential"])
def test_projection_against_scikit_learn(family):
    rng = np.random.default_rng(0)
    z, x, axes = rng.uniform(-2, 2, (30, 3)), rng.uniform(-2, 2, (80, 3)), np.array([0.4, 0.8, 1.6])
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}
    oracle = Matern(axes, nu=nu[family]) if family in nu else RBF(axes)
    kernel = Kernel(family, stretch=tuple(axes / 0.8), ard=True)
    found = project(kernel, z, x, 0.8)
    explained = oracle(x, z) @ np.linalg.solve(oracle(z) + JITTER * np.eye(30), oracle(z, x))
    assert np.allclose(found.basis.numpy().T @ found.basis.numpy(), explained, atol=1e-4)
    assert np.allclose(found.residual, 1 - np.diag(explained), atol=1e-4)


def test_other_engine_keeps_it_and_this_one_goes_on(long):
    train, val, model = long
    sampled = fitted(train, begin=model, inference="svi", max_iter=15)
    assert np.array_equal(stretch(sampled), stretch(model)) and sampled.length_scales_.shape == (3, 2)
    before = model.evaluate(val)["deviance"]
    assert sampled.evaluate(val)["deviance"] < 1.05 * before
    again = fitted(train, begin=sampled, max_iter=60)
    assert np.allclose(stretch(again), stretch(model)) and again.evaluate(val)["deviance"] < 1.02 * before


def test_nothing_to_learn():
    adata = tissue((0.6,), n_obs=150, n_features=20)
    line = fitted(adata, max_iter=40)
    assert list(line.length_scales_.columns) == ["x"] and line.state_.spatial.prior.kernel.stretch is None
    flat = tissue((0.3, 1.2), n_obs=300, n_features=30)
    fixed = fitted(flat, Kernel(stretch=(0.5, 2.0), ard=True), learn_kernels=False, max_iter=40)
    assert np.array_equal(stretch(fixed), [0.5, 2.0])
    assert np.allclose(fixed.length_scales_["y"] / fixed.length_scales_["x"], 4)
    given = fitted(flat, Kernel(stretch=(1.0, 1.0)), max_iter=40)
    assert np.array_equal(stretch(given), [1.0, 1.0]) and given.length_scales_.ndim == 1  # given, not learned


def test_three_axes():
    places = tissue((0.4, 1.6), n_obs=500)
    places.obsm["spatial"] = np.column_stack([places.obsm["spatial"], np.tile([0.0, 40.0], 250)])  # two sections
    model = fitted(places, max_iter=40)
    table = model.length_scales_
    assert list(table.columns) == ["x", "y", "z"] and 4 / 1.5 < (table["y"] / table["x"]).iloc[0] < 4 * 1.5
    assert (table["z"] > table["y"]).all()  # the sections are alike


def test_fit_is_stored(long, tmp_path):
    import anndata

    train, _, model = long
    adata = train.copy()
    nsf.tl.fit(adata, model)
    adata.write_h5ad(tmp_path / "fit.h5ad")
    facts = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["nsf"]
    assert np.array_equal(facts["length_scales"], model.length_scales_) and "ard=True" in facts["params"]["kernel"]
    text = nsf.report(model, train, tmp_path / "fit.html").read_text(encoding="utf-8")
    assert "length scale along x, input units" in text
