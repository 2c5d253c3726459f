"""The public way through the package: fit, predict, score and write, from any container; and what is refused."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

anndata = pytest.importorskip("anndata")
SMALL = {"n_starts": 1, "max_iter": 40}
L = 3


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No progress bars."""
    from nsf_nb import settings

    before, settings.progress = settings.progress, False
    yield
    settings.progress = before


@pytest.fixture(scope="module")
def adata():
    """Twelve by twelve spots, forty genes; counts in X and in a layer, csr."""
    from nsf_nb import simulate

    return simulate("ggblocks", n_features=40, n_side=12, seed=1)


def nsf(n_factors=L, **params):
    """A small model."""
    from nsf_nb import NSF

    return NSF(n_factors, **(SMALL | params))


@pytest.fixture(scope="module")
def model(adata):
    """The model that most tests look at."""
    return nsf().fit(adata, layer="counts")


@pytest.fixture(scope="module")
def split(adata):
    """Some spots to fit and some to score, size factors by scanpy's rule."""
    from nsf_nb import pp

    train, val = pp.split(adata, val_fraction=0.2, seed=0)
    return nsf().fit(train, layer="counts", size_factors="scanpy"), train, val


def same(a, b, **tolerance):
    """Two fits are equal, to the bit unless a tolerance is given."""
    compare = (lambda x, y: np.allclose(x, y, **tolerance)) if tolerance else np.array_equal
    names = ("factors_", "loadings_", "factor_std_", "length_scales_", "amplitudes_")
    return all(compare(getattr(a, name), getattr(b, name)) for name in names) and compare(a.elbo_.total, b.elbo_.total)


def dense(adata):
    """Its counts as an array."""
    return adata.layers["counts"].toarray() if sp.issparse(adata.layers["counts"]) else np.array(adata.layers["counts"])


def with_counts(adata, counts):
    """A copy with other counts in X."""
    return anndata.AnnData(counts, obs=adata.obs.copy(), var=adata.var.copy(), obsm={"spatial": adata.obsm["spatial"]})


def snapshot(adata):
    """Everything in it, comparable."""
    matrices = [sp.csr_matrix(matrix) for matrix in (adata.X, adata.layers["counts"])]
    counts = [(m.data.tobytes(), m.indices.tobytes(), m.indptr.tobytes()) for m in matrices]
    tables = {"obsm": adata.obsm, "varm": adata.varm}
    arrays = [(slot, key, values.tobytes()) for slot in tables for key, values in tables[slot].items()]
    names = [list(part) for part in (adata.layers, adata.uns, adata.obs, adata.var, adata.obs_names, adata.var_names)]
    return counts, arrays, names


# Containers


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.int64, np.float32])
def test_any_container_gives_the_same_bits(make, adata, model):
    assert same(nsf().fit(with_counts(adata, make(dense(adata)))), model)


def test_a_view_gives_the_same_bits(adata, model):
    large = anndata.concat([adata, adata[:20]], index_unique="-")
    large.obs_names = [*adata.obs_names, *(f"more {i}" for i in range(20))]
    view = large[: adata.n_obs]
    assert view.is_view and same(nsf().fit(view, layer="counts"), model) and view.is_view


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix], ids=["dense", "csr"])
def test_a_backed_object_gives_the_same_bits(make, adata, model, tmp_path):
    with_counts(adata, make(dense(adata))).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert same(nsf().fit(backed), model) and backed.isbacked
    backed.file.close()


def test_the_input_is_not_changed(adata, split):
    before = snapshot(adata)
    found = nsf(max_iter=5).fit(adata, layer="counts", size_factors="scanpy", mask_var=np.arange(40) < 30)
    found.predict(adata), found.evaluate(adata), found.score_table(adata), found.interpret()
    assert snapshot(adata) == before


# Reproducibility


def test_same_seed_same_bits(adata, model):
    assert same(nsf().fit(adata, layer="counts"), model)
    first, second = (nsf(n_starts=2, max_iter=5, random_state=seed).fit(adata, layer="counts") for seed in (1, 2))
    assert not same(first, second)


THREADS = """
import sys
import numpy as np
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
tf.config.threading.set_inter_op_parallelism_threads(1)
import nsf_nb as nsf
nsf.settings.progress = False
adata = nsf.simulate("ggblocks", n_features=40, n_side=12, seed=1)
m = nsf.NSF(3, n_starts=1, max_iter=40).fit(adata, layer="counts")
np.savez(sys.argv[2], factors=m.factors_, loadings=m.loadings_, elbo=m.elbo_.total)
"""


def test_another_number_of_threads_gives_the_same_fit(model, run_tool, tmp_path):
    done = run_tool(["python", "-c", THREADS, "1", tmp_path / "one.npz"])
    assert done.returncode == 0, done.stderr[-3000:]
    one = np.load(tmp_path / "one.npz")
    assert abs(one["elbo"] / model.elbo_.total - 1) < 1e-4
    for name, found in (("factors", model.factors_), ("loadings", model.loadings_)):
        assert np.abs(one[name] - found.to_numpy()).max() < 1e-4 * found.to_numpy().max()


def test_the_bound_never_decreases(model, split):
    for history in (model.history, split[0].history):
        assert set(history["start"]) >= {"final"} and len(history) > 40
        for _, run in history.groupby("start"):
            bound = run["elbo"].to_numpy()
            assert (np.diff(bound) >= -1e-7 * np.abs(bound[1:])).all()
    assert model.elbo_.total == model.history["elbo"].iloc[-1]


def traces():
    """How often each compiled function of the package has been traced."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("nsf_nb."):
            for key, value in vars(module).items():
                if hasattr(value, "experimental_get_tracing_count"):
                    found[name, key] = value.experimental_get_tracing_count()
    return found


def test_other_sizes_are_not_traced_again(adata, model):
    before = traces()
    assert len(before) >= 5 and max(before.values()) == 1
    nsf(2, n_inducing=50).fit(adata[:100, :25], layer="counts", size_factors="mean")
    after = traces()
    assert all(count == 1 for count in after.values() if count), after
    assert {key: after[key] for key in before if before[key]} == {key: count for key, count in before.items() if count}


# Results


def test_attributes(adata, model):
    from nsf_nb.reading.interpret import factor_shares

    names = ["F1", "F2", "F3"]
    assert list(model.loadings_.columns) == list(model.factors_.columns) == list(model.length_scales_.index) == names
    assert list(model.loadings_.index) == list(adata.var_names) and list(model.factors_.index) == list(adata.obs_names)
    assert list(model.history.columns)[:5] == ["start", "sweep", "elbo", "seconds", "event"]
    assert model.n_iter_ == (model.history["start"] == "final").sum() <= 40 and model.seconds_ > 0
    assert (np.diff(factor_shares(model.factors_.values, model.loadings_.values, np.ones(adata.n_obs))) <= 0).all()
    assert np.array_equal(model.state_.loadings, model.loadings_) and (model.loadings_.values >= 0).all()
    side = np.ptp(adata.obsm["spatial"], axis=0).max()
    assert (model.length_scales_ > 0.01 * side).all() and (model.length_scales_ < 3 * side).all()
    assert repr(model).startswith("NSF(") and "n_factors=3" in repr(model)


def test_factors_are_put_in_order_everywhere(adata, model):
    import dataclasses

    from nsf_nb.reading.ordering import in_order

    found, mixed = model.result_, [2, 0, 1]
    p = found.state.spatial
    parts = {name: getattr(p, name)[mixed] for name in ("length_scales", "amplitudes", "trend", "mean", "scale")}
    state = dataclasses.replace(
        found.state, loadings=found.state.loadings[:, mixed], posteriors=(dataclasses.replace(p, **parts),)
    )
    shuffled = dataclasses.replace(
        found, state=state, factors=found.factors[:, mixed], factors_std=found.factors_std[:, mixed]
    )
    again = in_order(shuffled, np.ones(adata.n_obs))
    assert np.array_equal(again.factors, found.factors) and np.array_equal(again.factors_std, found.factors_std)
    assert np.array_equal(again.state.loadings, found.state.loadings)
    assert all(np.array_equal(getattr(again.state.spatial, name), getattr(p, name)) for name in parts)


def test_units_of_the_coordinates_do_not_matter(adata, model):
    other = adata.copy()
    other.obsm["spatial"] = 1000 * adata.obsm["spatial"] + 5e4
    found = nsf().fit(other, layer="counts")
    assert np.allclose(found.length_scales_, 1000 * model.length_scales_, rtol=1e-6)
    assert abs(found.elbo_.total / model.elbo_.total - 1) < 1e-4


def test_parameters_are_those_of_scikit_learn(model):
    from sklearn.base import clone

    from nsf_nb import NSF

    assert NSF().get_params() == {
        "n_factors": 10, "likelihood": "poisson", "kernel": "matern32", "n_inducing": "auto", "inference": "cavi",
        "n_starts": 4, "max_iter": 300, "tol": 1e-4, "learn_kernels": True, "refine_samples": 0, "n_neighbors": None,
        "random_state": 0,
    }
    copy = clone(model).set_params(n_factors=2, kernel="matern52")
    assert copy.get_params() == model.get_params() | {"n_factors": 2, "kernel": "matern52"}
    assert not hasattr(copy, "state_") and hasattr(model, "state_")
    NSF("many", likelihood=None, tol="x")  # a constructor checks nothing
    again = pickle.loads(pickle.dumps(model))
    assert same(again, model)


def test_genes_left_out_are_not_in_the_loadings(adata):
    mask = np.arange(adata.n_vars) % 2 == 0
    found = nsf(max_iter=5).fit(adata, layer="counts", mask_var=mask)
    assert list(found.loadings_.index) == list(adata.var_names[mask])
    assert found.evaluate(adata) == found.evaluate(adata[:, mask])


def test_genes_without_counts_are_legal(adata, caplog):
    counts = dense(adata)
    counts[:, [4, 9]] = 0
    with caplog.at_level("WARNING", logger="nsf_nb"):
        found = nsf(max_iter=5).fit(with_counts(adata, counts))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and told[0].startswith("2 of 40 genes")
    assert not found.loadings_.values[[4, 9]].any() and np.isfinite(found.elbo_.total)


def test_empty_spots_are_legal_with_constant_size_factors(adata):
    counts = dense(adata)
    counts[[0, 50]] = 0
    found = nsf(max_iter=20).fit(with_counts(adata, counts))
    assert np.isfinite(found.factors_.values).all() and np.isfinite(found.elbo_.total)


@pytest.mark.parametrize("n_dims", [1, 3])
def test_other_dimensions(n_dims, adata):
    other = adata.copy()
    third = np.random.default_rng(0).uniform(size=(adata.n_obs, 1))
    other.obsm["spatial"] = np.hstack([adata.obsm["spatial"], third])[:, :n_dims]
    found = nsf(max_iter=10).fit(other, layer="counts")
    assert found.coords_.shape == (adata.n_obs, n_dims) and np.isfinite(found.elbo_.total)
    there = found.predict(found.coords_[:5])
    assert there.obsm["spatial"].shape == (5, n_dims) and np.isfinite(there.X).all()


def test_duplicate_coordinates_are_legal(adata):
    twice = anndata.concat([adata, adata], index_unique="-")
    found = nsf(max_iter=20).fit(twice, layer="counts")
    first, second = np.split(found.predict(found.coords_).obsm["X_nsf"], 2)
    assert np.allclose(first, second, rtol=1e-5) and np.isfinite(found.elbo_.total)


# Prediction and scores


def test_predictions_at_the_training_spots(adata, model):
    found = model.predict(adata)
    assert np.allclose(found.obsm["X_nsf"], model.factors_, rtol=1e-3)
    assert np.allclose(found.obsm["X_nsf_std"], model.factor_std_, rtol=1e-2, atol=1e-4)
    assert np.allclose(found.X, model.factors_.values @ model.loadings_.values.T, rtol=2e-3)
    assert found.X.dtype == np.float32 and found.X.shape == adata.shape and not len(found.layers)
    assert list(found.obs_names) == list(adata.obs_names) and list(found.var_names) == list(adata.var_names)
    assert np.array_equal(found.obsm["spatial"], adata.obsm["spatial"])


def test_predictions_belong_to_their_places(adata, model):
    order = np.random.default_rng(0).permutation(adata.n_obs)
    everywhere, mixed = model.predict(adata), model.predict(adata.obsm["spatial"][order])
    assert np.allclose(mixed.X, everywhere.X[order], rtol=1e-5)
    one = model.predict(adata.obsm["spatial"][[7]], size_factors=3.0)
    assert np.allclose(one.X, 3 * everywhere.X[[7]], rtol=1e-5)


def test_size_factors_of_new_spots_are_on_the_training_scale(split):
    model, train, val = split
    scale = np.median(dense(train).sum(axis=1))
    sizes = dense(val).sum(axis=1) / scale
    assert np.allclose(model.predict(val).X, sizes[:, None] * model.predict(val.obsm["spatial"]).X, rtol=1e-5)
    assert np.allclose(model.predict(val, size_factors=1.0).X, model.predict(val.obsm["spatial"]).X, rtol=1e-6)
    assert np.allclose(model.predict(val[:3]).X, model.predict(val).X[:3], rtol=1e-5)


def test_a_constant_rule_needs_no_genes(adata, model):
    bare = anndata.AnnData(np.zeros((2, 1)), obsm={"spatial": adata.obsm["spatial"][:2]})
    assert np.allclose(model.predict(bare).X, model.predict(adata[:2]).X)


def test_an_interval_covers_its_share_of_counts(adata, model):
    found = model.predict(adata, interval=0.9)
    assert (found.layers["lower"] <= found.layers["upper"]).all()
    inside = (dense(adata) >= found.layers["lower"]) & (dense(adata) <= found.layers["upper"])
    assert 0.5 < inside.mean() <= 1
    narrow = model.predict(adata, interval=0.5)
    assert (narrow.layers["upper"] <= found.layers["upper"]).all()


def test_scores_against_definitions(split):
    model, train, val = split
    y, mu = dense(val).astype(float), model.predict(val).X.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        term = np.where(y > 0, y * np.log(y / mu), 0.0)
    scores = model.evaluate(val)
    assert set(scores) == {"deviance", "paper_deviance", "rmse", "log_likelihood"}
    assert abs(scores["deviance"] / (2 * (term - y + mu).mean()) - 1) < 1e-4
    assert abs(scores["rmse"] / np.sqrt(((y - mu) ** 2).mean()) - 1) < 1e-4
    assert model.score(val) == scores["log_likelihood"]
    table = model.score_table(val)
    assert list(table.index) == ["NSF", "nearest spots", "gene mean"] and table.loc["NSF"].to_dict() == scores
    sizes = dense(val).sum(axis=1) / np.median(dense(train).sum(axis=1))
    flat = sizes[:, None] * dense(train).sum(axis=0) / model.data_.size_factors.sum()
    assert abs(table.loc["gene mean", "rmse"] / np.sqrt(((y - flat) ** 2).mean()) - 1) < 1e-6


def test_genes_are_matched_by_name(split):
    model, _, val = split
    assert model.evaluate(val[:, ::-1]) == pytest.approx(model.evaluate(val), rel=1e-9)


def test_interpretation(model):
    found = model.interpret("lda")
    assert found.mode == "lda" and found.factor_names == ("F1", "F2", "F3") and list(found.order) == [0, 1, 2]
    assert np.allclose(found.loadings.sum(axis=0), 1)


# Results in an AnnData


@pytest.fixture(scope="module")
def written(adata, model):
    from nsf_nb import tl

    tl.fit(found := adata.copy(), model)
    return found


def check_written(found, model):
    for slot, key, wanted in (("obsm", "X_nsf", model.factors_), ("obsm", "X_nsf_std", model.factor_std_),
                              ("varm", "nsf", model.loadings_)):
        assert np.array_equal(getattr(found, slot)[key], wanted)
    facts = found.uns["nsf"]
    assert list(facts["factor_names"]) == ["F1", "F2", "F3"] and facts["elbo"]["total"] == model.elbo_.total
    assert np.array_equal(facts["history"]["elbo"], model.history["elbo"]) and facts["params"]["kernel"] == "matern32"
    assert list(facts["history"]["start"]) == list(model.history["start"])
    assert np.array_equal(facts["length_scales"], model.length_scales_) and "numpy" in facts["versions"]


def test_results_survive_h5ad(written, model, tmp_path):
    check_written(written, model)
    written.write_h5ad(tmp_path / "a.h5ad")
    check_written(anndata.read_h5ad(tmp_path / "a.h5ad"), model)


@pytest.mark.filterwarnings("ignore")  # zarr announces changes of its own
def test_results_survive_zarr(written, model, tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed")
    written.write_zarr(tmp_path / "a.zarr")
    check_written(anndata.read_zarr(tmp_path / "a.zarr"), model)


def test_tl_fits_what_is_not_fitted(adata, model):
    from nsf_nb import tl

    fresh = nsf()
    found = tl.fit(adata, fresh, layer="counts", copy=True)
    assert same(fresh, model) and "X_nsf" in found.obsm and "X_nsf" not in adata.obsm
    state = fresh.state_
    assert tl.fit(found, fresh, key_added="b") is None and fresh.state_ is state  # written, not fitted again
    assert {"X_b", "X_b_std", "X_nsf"} <= set(found.obsm)


# What is refused


def nothing(adata):
    return adata


def poisoned(value):
    """Put one value into the layer."""
    def change(adata):
        counts = dense(adata).astype(float)
        counts[3, 5] = value
        adata.layers["counts"] = counts
        return adata

    return change


def moved(value):
    """Put one value into the coordinates, or into all of the second axis."""
    def change(adata):
        coords = np.array(adata.obsm["spatial"], dtype=float)
        coords[(2, 1) if np.isnan(value) else (slice(None), 1)] = value
        adata.obsm["spatial"] = coords
        return adata

    return change


def emptied(adata):
    """A spot without counts."""
    counts = dense(adata)
    counts[6] = 0
    adata.layers["counts"] = counts
    return adata


def silenced(adata):
    """No counts at all."""
    adata.layers["counts"] = 0 * dense(adata)
    return adata


def exposed(adata):
    """A size factor of zero."""
    adata.obs["depth"] = np.where(np.arange(adata.n_obs) == 8, 0.0, 1.0)
    return adata


DATA, CONFIG, SHAPE = "DataError", "ConfigError", "ShapeError"
REFUSED = {
    "negative": (poisoned(-1), {}, {}, DATA, ["layers['counts']", "negative", "row 3, column 5"]),
    "fractional": (poisoned(0.5), {}, {}, DATA, ["layers['counts']", "fractional", "row 3, column 5"]),
    "nan": (poisoned(np.nan), {}, {}, DATA, ["layers['counts']", "missing", "row 3, column 5"]),
    "no counts": (silenced, {}, {}, DATA, ["zeros only"]),
    "layer": (nothing, {}, {"layer": "raw"}, DATA, ["'raw'", "'counts'"]),
    "spatial key": (nothing, {}, {"spatial_key": "X_pca"}, DATA, ["'X_pca'", "'spatial'"]),
    "nan coordinates": (moved(np.nan), {}, {}, DATA, ["obsm['spatial']", "row 2"]),
    "constant coordinates": (moved(7.0), {}, {}, DATA, ["obsm['spatial']", "axis 1"]),
    "empty spot": (emptied, {}, {"size_factors": "scanpy"}, DATA, ["size_factors='scanpy'", "row 6", "no counts"]),
    "zero size factor": (exposed, {}, {"size_factors": "depth"}, DATA, ["obs['depth']", "row 8"]),
    "size factor column": (nothing, {}, {"size_factors": "depth"}, DATA, ["'depth'", "'scanpy'"]),
    "mask": (nothing, {}, {"mask_var": np.ones(3, bool)}, SHAPE, ["mask_var", "40"]),
    "no spots": (lambda a: a[:0], {}, {}, DATA, ["0 spots"]),
    "no genes": (lambda a: a[:, :0], {}, {}, DATA, ["0 genes"]),
    "no AnnData": (lambda a: a.X, {}, {}, DATA, ["AnnData"]),
    "L = 0": (nothing, {"n_factors": 0}, {}, CONFIG, ["n_factors"]),
    "L > J": (nothing, {"n_factors": 41}, {}, CONFIG, ["n_factors", "40", "41"]),
    "L > N": (lambda a: a[:10], {"n_factors": 11}, {}, CONFIG, ["n_factors", "10", "11"]),
    "M = 0": (nothing, {"n_inducing": 0}, {}, CONFIG, ["n_inducing"]),
    "M text": (nothing, {"n_inducing": "many"}, {}, CONFIG, ["n_inducing", "auto"]),
    "starts": (nothing, {"n_starts": 0}, {}, CONFIG, ["n_starts"]),
    "sweeps": (nothing, {"max_iter": 0}, {}, CONFIG, ["max_iter"]),
    "tolerance": (nothing, {"tol": -1.0}, {}, CONFIG, ["tol"]),
    "kernel": (nothing, {"kernel": "matern"}, {}, CONFIG, ["kernel", "'matern32'"]),
    "likelihood": (nothing, {"likelihood": "normal"}, {}, CONFIG, ["likelihood", "'poisson'"]),
    "engine": (nothing, {"inference": "vi"}, {}, CONFIG, ["inference", "'cavi'"]),
    "switch": (nothing, {"learn_kernels": "no"}, {}, CONFIG, ["learn_kernels"]),
    "seed": (nothing, {"random_state": "x"}, {}, CONFIG, ["random_state"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_any_work(case, adata, monkeypatch):
    import nsf_nb
    from nsf_nb import factorization

    monkeypatch.setattr(factorization, "run_with_care", lambda *_: pytest.fail("the fit has begun"))
    change, params, options, kind, parts = REFUSED[case]
    with pytest.raises(nsf_nb.NsfError) as caught:
        nsf(**params).fit(change(adata.copy()), **({"layer": "counts"} | options))
    text = str(caught.value)
    assert type(caught.value).__name__ == kind and all(part in text for part in parts), text
    assert text.startswith("Expected ") and ", found " in text


def test_parameters_are_checked_before_data(adata):
    from nsf_nb import ConfigError

    with pytest.raises(ConfigError, match="n_factors"):
        nsf(0).fit(None)


@pytest.mark.parametrize("name", ["predict", "evaluate", "score", "score_table", "interpret", "loadings_", "history"])
def test_too_early(name, adata):
    from nsf_nb import NotFittedError

    with pytest.raises(NotFittedError, match="Call fit first"):
        found = getattr(nsf(), name)
        found() if name == "interpret" else found(adata)


def test_a_failed_fit_leaves_the_last_one(adata, model):
    from nsf_nb import DataError

    kept = pickle.loads(pickle.dumps(model))
    with pytest.raises(DataError):
        kept.fit(adata, layer="absent")
    assert same(kept, model)


def test_bad_places_are_refused(adata, model, split):
    import nsf_nb

    cases = [
        (lambda: model.predict(np.zeros((4, 3))), "ShapeError", "2 coordinates"),
        (lambda: model.predict(np.zeros((0, 2))), "ShapeError", "at least one"),
        (lambda: model.predict(np.full((1, 2), np.nan)), "DataError", "finite"),
        (lambda: model.predict(np.zeros((4, 2)), size_factors=np.ones(3)), "ShapeError", "size_factors"),
        (lambda: model.predict(np.zeros((4, 2)), size_factors=0), "DataError", "size_factors"),
        (lambda: model.predict(np.zeros((4, 2)), interval=1.0), "ConfigError", "interval"),
        (lambda: model.evaluate(adata[:, 2:]), "DataError", "2 of 40 missing"),
        (lambda: split[0].predict(adata[:, 2:]), "DataError", repr(str(adata.var_names[0]))),
        (lambda: model.interpret("nmf"), "ConfigError", "'spde'"),
    ]
    for call, kind, part in cases:
        with pytest.raises(nsf_nb.NsfError) as caught:
            call()
        assert type(caught.value).__name__ == kind and part in str(caught.value), str(caught.value)


def test_nothing_is_left_in_the_folder(adata, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nsf(max_iter=2).fit(adata, layer="counts")
    assert os.listdir(Path.cwd()) == []
