"""MEFISTO: counts in, counts out, by mofapy2; quiet, repeatable, in the rows it was given; and what is refused."""

import logging
import sys
import warnings

import numpy as np
import pytest

anndata = pytest.importorskip("anndata")
pytest.importorskip("mofapy2")
SWEEPS = 40
L = 4


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No progress bars; the estimator is loaded before a test replaces what it imports."""
    import nsf_nb.mefisto  # noqa: F401
    from nsf_nb import settings

    before, settings.progress = settings.progress, False
    yield
    settings.progress = before


def mefisto(n_factors=L, **params):
    """A small model."""
    from nsf_nb import MEFISTO

    return MEFISTO(n_factors, **({"max_iter": SWEEPS} | params))


@pytest.fixture(scope="module")
def split():
    """Twelve by twelve spots, thirty genes: training and held-out spots."""
    from nsf_nb import pp, simulate

    return pp.split(simulate("ggblocks", n_features=30, n_side=12, seed=1), val_fraction=0.15, seed=0)


@pytest.fixture(scope="module")
def model(split):
    """The model that most tests look at."""
    return mefisto().fit(split[0], layer="counts", size_factors="scanpy")


def dense(adata):
    """The counts as an array of their own."""
    from nsf_nb.data.anndata import counts_of

    return counts_of(adata, "counts").toarray()


def same(a, b):
    """Two fits are equal to the bit."""
    names = ("factors_", "loadings_", "factor_std_", "length_scales_", "amplitudes_")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


# What a fit gives


def test_names_and_shapes(model, split):
    train = split[0]
    assert list(model.factors_.index) == list(train.obs_names) and model.factors_.shape == (train.n_obs, L)
    assert list(model.loadings_.index) == list(train.var_names) and (model.loadings_.to_numpy() < 0).any()
    assert (model.factor_std_.to_numpy() > 0).all() and np.isfinite(model.factor_std_.to_numpy()).all()
    assert list(model.history) == ["start", "sweep", "elbo", "seconds", "event"] and len(model.history) == model.n_iter_
    assert model.history["seconds"].is_monotonic_increasing and (model.history["event"] != "").any()
    assert model.elbo_.total == pytest.approx(model.history["elbo"].iloc[-1])
    assert model.elbo_.as_dict()["per_observation"] == pytest.approx(model.elbo_.total / train.n_obs)


def test_factors_are_sorted_and_signed(model):
    explained = (model.loadings_**2).sum() * (model.factors_**2).sum()
    assert (np.diff(explained) <= 0).all() and ((model.loadings_**3).sum() >= 0).all()


def test_length_scales_are_in_input_units(split, model):
    wide = split[0].copy()
    wide.obsm["spatial"] = 250 * wide.obsm["spatial"] + 1e4
    again = mefisto().fit(wide, layer="counts", size_factors="scanpy")
    equal = np.isclose(again.length_scales_, 250 * model.length_scales_, rtol=1e-6) & (model.length_scales_ > 0)
    assert equal.sum() >= 3  # mofapy2 picks from a grid, and for a weak factor a rounding error may decide


def test_prediction_beats_the_gene_mean(model, split):
    scores = model.score_table(split[1])
    assert list(scores.index) == ["MEFISTO", "nearest spots", "gene mean"] and np.isfinite(scores.to_numpy()).all()
    assert scores.loc["MEFISTO", "deviance"] < 0.5 * scores.loc["gene mean", "deviance"]
    assert scores.loc["MEFISTO", "rmse"] < 0.8 * scores.loc["gene mean", "rmse"]
    assert scores.loc["MEFISTO"].to_dict() == model.evaluate(split[1])
    assert model.score(split[1]) == scores.loc["MEFISTO", "log_likelihood"]


def test_without_logarithm(split):
    plain = mefisto(log1p=False).fit(split[0], layer="counts")
    scores = plain.score_table(split[1])
    assert scores.loc["MEFISTO", "deviance"] < 0.5 * scores.loc["gene mean", "deviance"]
    assert (plain.predict(split[1]).X == 0).any() and np.isfinite(scores.to_numpy()).all()  # the floor of the scores


def test_rates_are_predicted_on_the_count_scale(split):
    """Noise-free rates of one gene group come back: centring and size factors are undone."""
    train, val = split
    scaled = train.copy()
    scaled.obs["depth"] = 3.0
    a = mefisto().fit(train, layer="counts")
    b = mefisto().fit(scaled, layer="counts", size_factors="depth")
    assert a.predict(val).X.mean() == pytest.approx(train.layers["counts"].mean(), rel=0.35)
    assert b.predict(val.obsm["spatial"], size_factors=3.0).X.mean() == pytest.approx(a.predict(val).X.mean(), rel=0.1)
    ratio = a.predict(val, size_factors=2.0).X[a.predict(val).X > 0] / a.predict(val).X[a.predict(val).X > 0]
    assert np.allclose(ratio, 2)


def test_prediction(model, split):
    val = split[1]
    found = model.predict(val, interval=0.9)
    assert found.shape == val.shape and list(found.obs_names) == list(val.obs_names) and found.X.dtype == np.float32
    assert found.X.min() >= 0 and (found.layers["lower"] <= found.X).all() and (found.layers["upper"] >= found.X).all()
    counts = dense(val)
    assert ((found.layers["lower"] <= counts) & (counts <= found.layers["upper"])).mean() > 0.85
    alone = model.predict(val.obsm["spatial"])
    assert np.array_equal(alone.obsm["X_nsf"], found.obsm["X_nsf"]) and not np.allclose(alone.X, found.X)


def test_far_away_nothing_is_known(model, split):
    far = model.predict(np.array([[1e4, 1e4]]))
    assert np.allclose(far.obsm["X_nsf"], 0, atol=1e-6) and np.allclose(far.obsm["X_nsf_std"], 1, atol=1e-6)


def test_interpolation_is_that_of_mofapy2(split):
    """Full and sparse, against the predictor of the package itself."""
    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.data.scaling import CoordinateScaling, Normalization
    from nsf_nb.inference import mofapy2 as ours

    data = from_anndata(split[0], "counts")[0]
    values = Normalization().fit(data).apply(data.counts.toarray(), data.size_factors)
    places = CoordinateScaling.fit(data.coords).apply(data.coords)
    new = np.unique(np.random.default_rng(0).uniform(-2, 2, size=(15, 2)), axis=0)
    for n_inducing in ("auto", 100):
        kept, how = [], ours.MefistoSettings(3, n_inducing, max_iter=25)

        class Kept(ours.entry_point()):
            def __init__(self, kept=kept):
                super().__init__()
                kept.append(self)

        with ours._quietly(how.seed):
            net = ours._train(Kept, values, places, how, ours._Diary(how))
            kept[0].predict_factor(new)
        assert ("U" in net.nodes) == (n_inducing == 100)
        mean, std = ours._learned(net, places, np.ones(data.n_features, bool)).factors_at(new)
        assert np.allclose(mean, kept[0].Zpredictions["mean"], atol=1e-6) and np.abs(mean).max() > 0.1
        assert np.allclose(std**2, kept[0].Zpredictions["variance"], atol=1e-4)


def test_sparse(split):
    sparse = mefisto(n_inducing=100, max_iter=25).fit(split[0], layer="counts")
    scores = sparse.score_table(split[1])
    assert sparse.state_.places.shape == (100, 2)
    assert scores.loc["MEFISTO", "deviance"] < scores.loc["gene mean", "deviance"]


# Same in, same out; nothing else is touched


def test_same_seed_same_result(model, split):
    assert same(model, mefisto().fit(split[0], layer="counts", size_factors="scanpy"))
    few = {"n_inducing": 100, "max_iter": 3}
    sparse = [mefisto(**few, random_state=seed).fit(split[0], layer="counts") for seed in (1, 1, 2)]
    assert same(sparse[0], sparse[1])
    assert np.array_equal(sparse[0].state_.places, sparse[1].state_.places)
    assert not np.array_equal(sparse[0].state_.places, sparse[2].state_.places)  # ties among inducing points


def test_global_state_is_left_alone(split):
    before, filters, state = split[0].copy(), list(warnings.filters), np.random.get_state()[1].copy()  # noqa: NPY002
    mefisto(max_iter=3).fit(split[0], layer="counts")
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert list(warnings.filters) == filters
    assert np.array_equal(dense(split[0]), dense(before))
    assert np.array_equal(split[0].obsm["spatial"], before.obsm["spatial"])


def test_small_fits_take_one_thread(split, monkeypatch):
    from threadpoolctl import threadpool_info

    from nsf_nb.inference import mofapy2 as ours

    def threads():
        return [pool["num_threads"] for pool in threadpool_info()]

    class Looking(ours.entry_point()):
        def build(self):
            inside.extend(threads())
            super().build()

    inside, before = [], threads()
    monkeypatch.setattr(ours, "entry_point", lambda: Looking)
    mefisto(max_iter=3).fit(split[0], layer="counts")
    assert inside and set(inside) == {1} and threads() == before


def test_silence(split, capsys, caplog):
    caplog.set_level(logging.DEBUG, logger="nsf_nb")
    mefisto(max_iter=3).fit(split[0], layer="counts")
    printed = capsys.readouterr()
    assert printed.out == "" and "MOFA" not in printed.err and "Iteration" not in printed.err
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert any("Iteration 1:" in line for line in said) and any("Training the model" in line for line in said)


def test_duplicate_coordinates():
    """Four spots in each well; the factors differ between wells without any smoothness."""
    rng = np.random.default_rng(0)
    wells = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    order = rng.permutation(144)
    rates = np.exp(rng.normal(size=(36, 2)) @ rng.normal(size=(2, 20)) + 2)[np.repeat(np.arange(36), 4)]
    adata = anndata.AnnData(rng.poisson(rates)[order].astype(np.float32))
    adata.obsm["spatial"] = np.repeat(wells, 4, axis=0)[order]
    found = mefisto(2, max_iter=25).fit(adata)
    assert list(found.factors_.index) == list(adata.obs_names)
    assert np.array_equal(found.coords_, adata.obsm["spatial"])
    assert (found.amplitudes_ > 0.7).all() and (found.length_scales_ > 0).all()
    there = found.predict(adata).obsm["X_nsf"]
    assert min(np.corrcoef(there[:, k], found.factors_.iloc[:, k])[0, 1] for k in (0, 1)) > 0.9  # rows stay


def test_genes_that_do_not_vary(split):
    from scipy.sparse import csr_matrix

    train = split[0].copy()
    counts = dense(train)
    counts[:, 0], counts[:, 1] = 0, 7
    train.layers["counts"] = csr_matrix(counts)
    found = mefisto(max_iter=25).fit(train, layer="counts")
    without = mefisto(max_iter=25).fit(train[:, 2:], layer="counts")
    assert not found.loadings_.iloc[:2].to_numpy().any() and found.elbo_.total == without.elbo_.total
    assert np.array_equal(found.loadings_.iloc[2:], without.loadings_)
    assert np.allclose(found.predict(split[1]).X[:, :2], [0, 7])
    assert np.isfinite(list(found.evaluate(split[1]).values())).all()


def test_written_by_tl_fit(split, tmp_path):
    import nsf_nb as nsf

    written = nsf.tl.fit(split[0], mefisto(max_iter=25), layer="counts", key_added="mefisto", copy=True)
    assert written.obsm["X_mefisto"].shape == (split[0].n_obs, L) and written.varm["mefisto"].shape == (30, L)
    written.write_h5ad(tmp_path / "a.h5ad")
    assert anndata.read_h5ad(tmp_path / "a.h5ad").uns["mefisto"]["n_iter"] == 25


# What is refused


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"n_factors": 0}, "n_factors"),
        ({"n_factors": 31}, "n_factors"),
        ({"kernel": "matern32"}, "'squared_exponential'"),
        ({"n_inducing": 50}, "100"),
        ({"n_inducing": "all"}, "n_inducing"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"log1p": 1}, "log1p"),
        ({"random_state": "seed"}, "random_state"),
    ],
)
def test_bad_parameters(params, word, split):
    from nsf_nb import ConfigError

    with pytest.raises(ConfigError, match=word):
        mefisto(**params).fit(split[0], layer="counts")


def test_bad_data(split, model):
    from nsf_nb import ConfigError, DataError, NotFittedError, ShapeError

    train, val = split
    zeros = anndata.AnnData(np.zeros((20, 20), dtype=np.float32), obsm={"spatial": train.obsm["spatial"][:20]})
    with pytest.raises(DataError, match="zeros only"):
        mefisto().fit(zeros)
    with pytest.raises(DataError, match="layer"):
        mefisto().fit(train, layer="none")
    with pytest.raises(DataError, match="2 of 30 missing"):
        model.evaluate(val[:, 2:])
    with pytest.raises(ConfigError, match="at most 9 for 10 spots"):
        mefisto(10).fit(train[:10], layer="counts")
    with pytest.raises(DataError, match="at least 0"):
        model.interpret()
    with pytest.raises(ShapeError, match="2 coordinates"):
        model.predict(np.zeros((2, 3)))
    for ask in (lambda: mefisto().predict(val), lambda: mefisto().loadings_):
        with pytest.raises(NotFittedError, match="Call fit first"):
            ask()


def test_too_few_varying_genes():
    from nsf_nb import ConfigError

    counts = np.full((20, 20), 3, dtype=np.float32)
    counts[:, 0] = np.arange(20)
    adata = anndata.AnnData(counts, obsm={"spatial": np.random.default_rng(0).normal(size=(20, 2))})
    with pytest.raises(ConfigError, match="genes that vary"):
        mefisto(2).fit(adata)


def test_missing_package(monkeypatch, split):
    from nsf_nb import ConfigError

    monkeypatch.setitem(sys.modules, "mofapy2.run.entry_point", None)
    with pytest.raises(ConfigError, match="pip install 'mofapy2"):
        mefisto().fit("no data are read before")


def test_memory(monkeypatch, split):
    from nsf_nb import ConfigError
    from nsf_nb.inference import mofapy2 as ours

    monkeypatch.setattr(ours, "machine_memory", lambda: 1e6)
    with pytest.raises(ConfigError, match="GiB of memory"):
        mefisto().fit(split[0], layer="counts")


@pytest.mark.parametrize("failure", [SystemExit(), ValueError("array"), np.linalg.LinAlgError("singular")])
def test_what_mofapy2_cannot_do_is_an_error_of_this_package(monkeypatch, split, failure):
    from nsf_nb import DivergenceError
    from nsf_nb.inference import mofapy2 as ours

    class Broken(ours.entry_point()):
        def build(self):
            raise failure

    monkeypatch.setattr(ours, "entry_point", lambda: Broken)
    with pytest.raises(DivergenceError, match="mofapy2"):
        mefisto().fit(split[0], layer="counts")


def test_an_interrupt_ends_the_fit(monkeypatch, split):
    """Mofapy2 would swallow it and return what it has."""
    from nsf_nb.inference import mofapy2 as ours

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ours._Diary, "bound", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mefisto().fit(split[0], layer="counts")
