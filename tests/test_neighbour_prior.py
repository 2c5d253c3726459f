"""The prior of nearest neighbours: agreement with inducing points, files, engines, predictions, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("anndata")
K = 12


@pytest.fixture(scope="module")
def split():
    """Twelve by twelve spots, thirty genes, two of the spots at one place: training and held-out spots."""
    from nsf_nb import pp, settings, simulate

    settings.progress, settings.verbosity = False, "error"
    adata = simulate("ggblocks", n_features=30, n_side=12, background=0.5, seed=1)
    adata.obsm["spatial"][1] = adata.obsm["spatial"][0]
    return pp.split(adata, val_fraction=0.15, seed=0)


def make(name="NSF", **params):
    """A small estimator by neighbours."""
    import nsf_nb

    sizes = {"n_spatial": 2, "n_nonspatial": 1} if name == "NSFH" else {"n_factors": 3}
    return getattr(nsf_nb, name)(**(sizes | {"n_neighbors": K, "n_starts": 1, "max_iter": 40} | params))


@pytest.fixture(scope="module")
def model(split):
    """The fit that most tests look at."""
    return make().fit(split[0], layer="counts")


def test_bound_never_falls(model):
    """Beyond the noise of float32 sums."""
    final = model.history[model.history["start"] == "final"]["elbo"].to_numpy()
    assert len(final) > 5 and np.diff(final).min() > -2e-6 * abs(final[-1])


def test_as_good_as_inducing_points(split, model):
    """Held-out deviance within two per cent of that of an inducing point at every place, on little data."""
    dense = make(n_neighbors=None).fit(split[0], layer="counts")
    near, full = (one.evaluate(split[1])["deviance"] for one in (model, dense))
    assert near < 1.02 * full
    assert abs(model.elbo_.per_observation - dense.elbo_.per_observation) < 0.01 * abs(dense.elbo_.per_observation)
    ratio = (model.factor_std_.to_numpy() / model.factors_) / (dense.factor_std_.to_numpy() / dense.factors_)
    assert 0.9 < np.median(ratio) < 1.1


@pytest.mark.parametrize(("name", "params"), [("NSFH", {"likelihood": "nb"}), ("NSF", {"kernel": "ard"})])
def test_family(split, name, params):
    """Hybrid models, negative binomial counts and a learned stretch."""
    from nsf_nb.probability.kernels import Kernel

    if params.get("kernel") == "ard":
        params = {"kernel": Kernel("matern32", (2.0, 0.5), nugget=0.05, ard=True)}
    found = make(name, **params).fit(split[0], layer="counts")
    assert np.isfinite(found.evaluate(split[1])["deviance"])
    assert len(found.length_scales_) == (2 if name == "NSFH" else 3)


@pytest.mark.parametrize("n_dims", [1, 3])
def test_dimensions(split, n_dims):
    """A line, and a stack of sections."""
    train = split[0].copy()
    x = train.obsm["spatial"]
    train.obsm["spatial"] = x[:, :1] if n_dims == 1 else np.column_stack([x, np.arange(len(x)) % 3])
    found = make(max_iter=8).fit(train, layer="counts")
    assert np.isfinite(found.predict(train.obsm["spatial"][:5] + 0.3).X).all()


def test_file(split, model, tmp_path):
    """Loaded, it predicts and transforms to the same bits, and its tables read without TensorFlow's classes."""
    import nsf_nb

    model.save(tmp_path / "model")
    again = nsf_nb.load(tmp_path / "model")
    assert again.get_params() == model.get_params() and again.get_params()["n_neighbors"] == K
    assert np.array_equal(again.predict(split[1]).X, model.predict(split[1]).X)
    assert np.array_equal(again.transform(split[1]), model.transform(split[1]))
    assert np.array_equal(nsf_nb.read_model(tmp_path / "model").length_scales_, model.length_scales_)


def test_files_without_the_parameter(split, tmp_path):
    """A model with inducing points does not write the parameter, as files from before it do not have it."""
    import nsf_nb

    make(n_neighbors=None, max_iter=2).fit(split[0], layer="counts").save(tmp_path / "model")
    assert "n_neighbors" not in nsf_nb.read_model(tmp_path / "model").facts["params"]
    assert nsf_nb.load(tmp_path / "model").get_params()["n_neighbors"] is None


def test_memory_of_an_engine(split):
    """An engine that is put back goes on to the same bits."""
    from dataclasses import replace

    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.data.scaling import CoordinateScaling
    from nsf_nb.inference.memory import engine_from, memory_of
    from nsf_nb.inference.svi import resume

    found = make(max_iter=5).fit(split[0], layer="counts")
    data = from_anndata(split[0], "counts")[0]
    engine = resume(found.result_, data)
    engine.refresh()
    engine.sweep()
    scaled = replace(data, coords=CoordinateScaling.fit(data.coords).apply(data.coords))
    twin = engine_from(memory_of(engine), engine.model, scaled)
    for _ in range(3):
        assert engine.sweep().total == twin.sweep().total
    assert np.array_equal(engine.factors.log_factors, twin.factors.log_factors)


def test_a_fit_goes_on_from_another(split, tmp_path):
    """A fit that was stopped and resumed ends where one that was not does."""
    whole = make(max_iter=20).fit(split[0], layer="counts", checkpoint=None)
    part = make(max_iter=8).fit(split[0], layer="counts", checkpoint=None)
    more = make(max_iter=20).fit(split[0], layer="counts", begin=part, checkpoint=None)
    assert abs(more.elbo_.total - whole.elbo_.total) < 0.01 * abs(whole.elbo_.total)
    assert more.elbo_.total > part.elbo_.total - 1.0


def test_places_of_the_fit(split, model):
    """Two spots at one place share their factors; intervals and coverage come as for other priors."""
    train = split[0]
    same = np.flatnonzero((train.obsm["spatial"] == train.obsm["spatial"][0]).all(axis=1))
    assert np.allclose(model.factors_.to_numpy()[same], model.factors_.to_numpy()[same[0]], rtol=1e-4)
    low, high = model.factor_interval(split[1])
    assert (low < high).to_numpy().all() and 0.5 < model.coverage(split[1]).randomised <= 1


@pytest.mark.parametrize("params", [
    {"inference": "svi"}, {"n_inducing": 20}, {"refine_samples": 4}, {"likelihood": "gaussian"}, {"n_neighbors": 0},
])
def test_refused_at_once(split, params):
    """What is not offered is said before any work."""
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError, match="n_neighbors"):
        make(**params).plan()


def test_draws_are_refused(split, model):
    """Whole maps are not drawn, and the error says what to do."""
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError, match="prior of neighbours"):
        model.sample(split[1])


def test_check_knows_the_costs(split):
    """Time and memory are predicted, and nothing grows with the square of the number of places."""
    from dataclasses import replace

    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.inference.costs import memory_of, work_of

    data = from_anndata(split[0], "counts")[0]
    work = work_of(*make().plan(), data)
    many = replace(work, n_obs=10**5, n_inducing=10**5)
    assert work.n_neighbors == K and memory_of(many)["projections"] + memory_of(many)["covariances"] < 4e9
