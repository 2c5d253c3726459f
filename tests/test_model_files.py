"""Saved models: the same to the bit after loading, for every model; damage, forgery and kills; older files."""

import hashlib
import io
import json
import os
import shutil
import stat

import numpy as np
import pytest
from conftest import ROOT

anndata = pytest.importorskip("anndata")
FIXTURES = ROOT / "tests" / "fixtures"
TINY = {"n_starts": 1, "max_iter": 3}
SPATIAL = TINY | {"n_inducing": 15}
PARAMS = {
    "NSF": {"n_factors": 3, **SPATIAL}, "PNMF": {"n_factors": 3, **TINY},
    "NSFH": {"n_spatial": 2, "n_nonspatial": 1, **SPATIAL}, "RSF": {"n_factors": 3, **SPATIAL},
    "FA": {"n_factors": 3, **TINY}, "RSFH": {"n_spatial": 2, "n_nonspatial": 1, **SPATIAL},
}
CASES = [(name, {"likelihood": likelihood}) for name in PARAMS for likelihood in ("poisson", "nb", "gaussian")]
CASES += [
    ("NSF", {"inference": "svi"}), ("RSFH", {"inference": "svi"}), ("NSF", {"refine_samples": 4}),
    ("NSFH", {"kernel": "ard"}), ("NSF", {"kernel": "nugget"}), ("MEFISTO", {"n_factors": 3, "max_iter": 25}),
]


def ids(part):
    """Short names for test reports."""
    return part if isinstance(part, str) else "-".join(map(str, part.values()))


TABLES = ("loadings_", "factors_", "factor_std_", "length_scales_", "amplitudes_", "history")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No progress bars, warnings only."""
    import nsf_nb.mefisto  # noqa: F401 (its imports warn once)
    from nsf_nb import settings

    before = settings.progress, settings.verbosity
    settings.progress, settings.verbosity = False, "error"
    yield
    settings.progress, settings.verbosity = before


@pytest.fixture(scope="module")
def split():
    """Twelve by twelve spots, sixteen genes, with a column of exposures: training and held-out spots."""
    from nsf_nb import pp, simulate

    adata = simulate("ggblocks", n_features=16, n_side=12, background=0.5, seed=1)
    adata.obs["exposure"] = np.linspace(0.5, 2, adata.n_obs)
    return pp.split(adata, val_fraction=0.15, seed=0)


def make(name, params):
    """An estimator that is not fitted."""
    import nsf_nb
    from nsf_nb.probability.kernels import Kernel

    kernels = {"ard": Kernel("matern32", (2.0, 0.5), ard=True), "nugget": Kernel("matern52", nugget=0.1)}
    params = {key: kernels.get(value, value) if key == "kernel" else value for key, value in params.items()}
    return getattr(nsf_nb, name)(**(PARAMS.get(name, {}) | params))


def fitted(name, params, train, size_factors="scanpy"):
    """A small fit."""
    return make(name, params).fit(train, layer="counts", size_factors=size_factors)


@pytest.fixture(scope="module")
def model(split):
    """The model that most tests look at."""
    return fitted("NSFH", {"likelihood": "nb"}, split[0])


def same_table(one, other):
    """Two tables or columns with equal names, types and bits; or neither is there."""
    if one is None or other is None:
        return one is other
    values = [table.to_numpy() for table in (one, other)]
    if not one.equals(other) or one.dtypes is None or values[0].dtype != values[1].dtype:
        return False
    return values[0].dtype == object or values[0].tobytes() == values[1].tobytes()


def bits(prediction):
    """Everything in a prediction, comparable."""
    arrays = {"X": prediction.X, **prediction.obsm, **prediction.layers}
    names = [list(part) for part in (prediction.obs_names, prediction.var_names)]
    return {key: (value.dtype.str, value.tobytes()) for key, value in arrays.items()}, names


def predictions(model, split, interval=None):
    """Predictions at bare places, at the spots of the fit and at others."""
    places = np.random.default_rng(0).uniform(-1, 13, (20, 2))
    return [bits(model.predict(where, interval=interval)) for where in (places, *split)]


# The same after loading


@pytest.mark.parametrize("name, params", CASES, ids=ids)
def test_the_same_to_the_bit(name, params, split, tmp_path):
    from nsf_nb import load, read_model

    model = fitted(name, params, split[0])
    again = load(model.save(tmp_path / "model"))
    assert type(again) is type(model) and again.get_params() == model.get_params() and repr(again) == repr(model)
    interval = 0.8 if name in ("NSF", "PNMF", "NSFH", "MEFISTO") else None
    assert predictions(again, split, interval) == predictions(model, split, interval)
    assert again.evaluate(split[1]) == model.evaluate(split[1])
    assert same_table(again.score_table(split[1]), model.score_table(split[1]))
    assert again.elbo_ == model.elbo_ and again.elbo_.as_dict() == model.elbo_.as_dict()
    assert again.result_.history == model.result_.history and again.result_.seconds == model.result_.seconds
    saved = read_model(tmp_path / "model")
    for table in (*TABLES, "dispersion_"):
        assert same_table(getattr(again, table), getattr(model, table)), table
        assert same_table(getattr(saved, table), getattr(model, table)), table
    assert saved.converged_ == model.converged_ == again.converged_


@pytest.mark.parametrize("name, params", [*CASES[:7], CASES[9], ("NSF", {"inference": "svi"})], ids=ids)
def test_a_loaded_fit_goes_on(name, params, split, tmp_path):
    from nsf_nb import load

    model = fitted(name, params, split[0])
    more = []
    for counts in (True, False):
        loaded = load(model.save(tmp_path / str(counts), counts=counts))
        more.append(make(name, params).fit(split[0], layer="counts", size_factors="scanpy", begin=loaded))
    there = make(name, params).fit(split[0], layer="counts", size_factors="scanpy", begin=model)
    for other in more:
        assert all(same_table(getattr(other, table), getattr(there, table)) for table in TABLES[:5])
        assert other.elbo_ == there.elbo_


def test_the_data_come_back(model, split, tmp_path):
    from nsf_nb import load
    from nsf_nb.data.store import digest_of

    data, again = model.data_, load(model.save(tmp_path / "model")).data_
    for name in ("coords", "size_factors", "obs_names", "feature_names", "totals", "feature_totals"):
        one, other = getattr(data, name), getattr(again, name)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes() and not other.flags.writeable, name
    for name in ("data", "indices", "indptr"):
        one, other = getattr(data.counts, name), getattr(again.counts, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    assert digest_of(data) == digest_of(again)


def test_the_digest_is_of_counts_places_and_names(split):
    import scipy.sparse as sp

    from nsf_nb.data.counts import SpatialCounts
    from nsf_nb.data.store import digest_of

    counts = np.array([[1, 0, 3], [0, 2, 0]])
    places, spots, genes = np.array([[0.0, 0], [1, 1]]), ["a", "b"], ["x", "y", "z"]
    parts = {"counts": counts, "coords": places, "obs_names": spots, "feature_names": genes}
    digest = digest_of(SpatialCounts.build(**parts))
    sparse = sp.csc_matrix(counts.astype("i8"))
    assert digest == digest_of(SpatialCounts.build(**parts | {"counts": sparse})) and len(digest) == 64
    other = {"counts": counts + np.eye(2, 3, dtype=int), "coords": places + 1, "obs_names": ["a", "c"],
             "feature_names": ["xy", "", "z"]}
    others = [digest_of(SpatialCounts.build(**parts | {key: value})) for key, value in other.items()]
    assert len({digest, *others}) == 5


def test_a_column_of_exposures_is_remembered(split, tmp_path):
    from nsf_nb import load

    model = fitted("NSF", {}, split[0], "exposure")
    again = load(model.save(tmp_path / "model"))
    assert again.size_factors_ == model.size_factors_ and predictions(again, split) == predictions(model, split)


def test_another_process_finds_the_same(model, split, tmp_path, run_tool):
    model.save(tmp_path / "model")
    places = np.random.default_rng(0).uniform(-1, 13, (20, 2))
    np.save(tmp_path / "places.npy", places)
    code = f"""
import numpy as np, nsf_nb as nsf
found = nsf.load({str(tmp_path / "model")!r}).predict(np.load({str(tmp_path / "places.npy")!r}))
np.save({str(tmp_path / "counts.npy")!r}, found.X)
"""
    done = run_tool(["python", "-c", code])
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "counts.npy").tobytes() == model.predict(places).X.tobytes()


def test_tables_without_tensorflow(model, tmp_path, run_tool):
    model.save(tmp_path / "model")
    code = f"""
import sys, nsf_nb as nsf
saved = nsf.read_model({str(tmp_path / "model")!r})
shapes = [getattr(saved, name).shape for name in {TABLES + ("dispersion_",)!r}]
for heavy in ("tensorflow", "tensorflow_probability", "mofapy2", "anndata"):
    assert heavy not in sys.modules, heavy
print(shapes, saved.facts["model"], saved)
"""
    done = run_tool(["python", "-c", code])
    assert done.returncode == 0, done.stderr
    shapes = [getattr(model, name).shape for name in (*TABLES, "dispersion_")]
    assert str(shapes) in done.stdout and "NSFH" in done.stdout


def test_facts(model, tmp_path):
    from nsf_nb import __version__, read_model
    from nsf_nb.data.store import digest_of

    facts = read_model(model.save(tmp_path / "model")).facts
    assert facts["schema"] == 1 and facts["data"]["sha256"] == digest_of(model.data_)
    assert facts["params"]["random_state"] == 0 and facts["date"].endswith("+00:00")
    assert facts["versions"]["nsf_nb"] == __version__ and {"tensorflow", "numpy", "python"} <= facts["versions"].keys()


# Without counts


@pytest.mark.parametrize("name, params", [("NSFH", {"likelihood": "nb"}), ("RSF", {}), CASES[-1]], ids=ids)
def test_without_counts(name, params, split, tmp_path):
    from nsf_nb import DataError, load, read_model, tl

    model = fitted(name, params, split[0])
    light = load(model.save(tmp_path / "light", counts=False))
    assert predictions(light, split) == predictions(model, split)
    assert light.evaluate(split[1]) == model.evaluate(split[1])
    assert all(same_table(getattr(light, table), getattr(model, table)) for table in TABLES)
    with pytest.raises(DataError, match="saved without them"):
        light.score_table(split[1])
    with pytest.raises(DataError, match="saved without them"):
        light.data_.counts  # noqa: B018
    assert light.data_.n_obs == model.data_.n_obs and light.data_.n_features == model.data_.n_features
    assert "values" not in str(sorted(read_model(tmp_path / "light").arrays))
    written = tl.fit(split[0], light, layer="counts", size_factors="scanpy", copy=True)
    assert written.obsm["X_nsf"].tobytes() == model.factors_.to_numpy().tobytes()


def test_a_light_model_is_saved_again_without_counts(model, tmp_path):
    from nsf_nb import ConfigError, load, read_model

    light = load(model.save(tmp_path / "light", counts=False))
    with pytest.raises(ConfigError, match="counts=False"):
        light.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    light.save(tmp_path / "other", counts=False)
    one, other = (read_model(tmp_path / name).facts["data"] for name in ("light", "other"))
    assert one == other and len(one["sha256"]) == 64


# Parameters


def test_random_states(model, tmp_path):
    from sklearn.base import clone

    from nsf_nb import load

    seeds = np.random.SeedSequence(12345678901234567890, spawn_key=(1, 2))
    before = model.random_state
    try:
        model.set_params(random_state=seeds)
        again = load(model.save(tmp_path / "seeds")).random_state
        assert (again.entropy, again.spawn_key) == (seeds.entropy, seeds.spawn_key)
        assert again.generate_state(4).tolist() == seeds.generate_state(4).tolist()
        model.set_params(random_state=np.random.default_rng(0))
        loaded = load(model.save(tmp_path / "generator"))
        assert loaded.random_state is None and clone(loaded).random_state is None
        model.set_params(random_state=np.int64(7), tol=np.float32(0.5))
        loaded = load(model.save(tmp_path / "numpy"))
        assert loaded.get_params() == model.get_params() and type(loaded.random_state) is int
    finally:
        model.set_params(random_state=before, tol=1e-4)


def test_kernel_objects_are_refused(split, tmp_path):
    from tensorflow_probability.python.math import psd_kernels as tfk

    from nsf_nb import ConfigError
    from nsf_nb.probability.kernels import Kernel

    kernel = tfk.MaternOneHalf(np.float64(1), np.float64(1))
    for given in (kernel, Kernel(kernel, nugget=0.1)):
        model = make("NSF", {}).set_params(kernel=given).fit(split[0], layer="counts")
        for params in ({}, {"kernel": "matern12"}):  # the fit is that of the object still
            model.set_params(**params)
            with pytest.raises(ConfigError, match="MaternOneHalf.*matern|matern.*MaternOneHalf"):
                model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_models_that_cannot_be_saved(split, tmp_path):
    from nsf_nb import NSF, ConfigError, NotFittedError

    class Own(NSF):
        """A model of somebody's own."""

    with pytest.raises(NotFittedError, match="call fit|Call fit"):
        NSF().save(tmp_path / "model")
    with pytest.raises(ConfigError, match="class Own"):
        Own(**PARAMS["NSF"]).fit(split[0], layer="counts").save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Shown


def test_repr(model, split, tmp_path):
    from sklearn.base import clone

    first, _, second = repr(model).rpartition("\n")
    assert first == repr(clone(model)) and first.startswith("NSFH(likelihood='nb', max_iter=3, n_inducing=15,")
    bound = f"bound per spot {model.elbo_.per_observation:,.2f}"
    assert second == f"not converged, 3 sweeps, {bound}, {split[0].n_obs} spots × 16 genes, {model.seconds_:.1f} s"
    assert "NSFH" in model._repr_html_() and model.__repr__(N_CHAR_MAX=20).startswith("NSFH(")
    calm = fitted("PNMF", {"max_iter": 500, "tol": 0.1}, split[0])
    assert repr(calm).split("\n")[1].startswith("converged, ")


def test_the_parameters_are_shown_as_by_scikit_learn():
    from sklearn.base import BaseEstimator

    from nsf_nb import NSF

    plain = type("NSF", (BaseEstimator,), {"__init__": NSF.__init__})
    for params in ({}, {"n_factors": 3}, {"kernel": "matern12" * 12, "likelihood": "x" * 60, "tol": 1.0}):
        assert repr(NSF(**params)) == repr(plain(**params))


# Where a model may be written


def files(folder):
    """Names and contents below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_stays(model, tmp_path):
    from nsf_nb import ConfigError, load

    places = {name: tmp_path / name for name in ("note", "keras", "damaged", "file", "model")}
    for name in ("note", "keras", "damaged"):
        places[name].mkdir()
    (places["note"] / "note.txt").write_text("mine")
    (places["keras"] / "model.json").write_text('{"class_name": "Sequential"}')
    (places["damaged"] / "model.json").write_text("{")
    places["file"].write_text("mine")
    model.save(places["model"])
    before = files(tmp_path)
    for name, place in places.items():
        for overwrite in (False, True)[: 1 if name == "model" else 2]:
            with pytest.raises(ConfigError, match="[Oo]verwrite|another path"):
                model.save(place, overwrite=overwrite)
    assert files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert load(model.save(tmp_path / "empty")).elbo_ == model.elbo_
    assert load(model.save(places["model"], overwrite=True)).elbo_ == model.elbo_
    assert len(files(places["model"])) == 2


@pytest.mark.parametrize("path", ["", 5, None, "a\0b", "x" * 5000, "file/model", "absent/model"])
def test_paths_that_are_none(path, model, tmp_path, monkeypatch):
    from nsf_nb import NsfError, load

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("nsf_nb.model_files._content", lambda *given: pytest.fail("work before the check"))
    with pytest.raises(NsfError, match="Expected"):
        model.save(path)
    with pytest.raises(NsfError, match="Expected"):
        load(path)
    assert list(files(tmp_path)) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(model, tmp_path):
    from nsf_nb import NsfError

    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(NsfError, match="permission"):
        model.save(tmp_path / "fixed" / "model")
    with pytest.raises(NsfError, match="permission"):
        model.save(tmp_path / "fixed")


@pytest.mark.parametrize("name, n", [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
def test_a_full_disk(name, n, model, tmp_path, monkeypatch):
    from nsf_nb import ConfigError, load
    from nsf_nb.learned import DataWithoutCounts

    model.save(tmp_path / "model", counts=False)
    true, calls = getattr(os, name), []

    def full(*given):
        calls.append(given)
        if len(calls) == n:
            raise OSError(28, "No space left on device")
        return true(*given)

    monkeypatch.setattr(os, name, full)
    with pytest.raises(ConfigError, match="No space left"):
        model.save(tmp_path / "model", overwrite=True)
    monkeypatch.undo()
    again = load(tmp_path / "model")
    assert isinstance(again.data_, DataWithoutCounts) and again.loadings_.equals(model.loadings_) and len(calls) == n
    assert not list((tmp_path / "model").glob(".*"))


# Damage


def damaged(content, rng):
    """A file with one thing wrong."""
    data, kind = bytearray(content), int(rng.integers(6))
    i, j = sorted(int(k) for k in rng.integers(len(content), size=2))
    if kind == 0:
        data[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[i:]
    elif kind == 2:
        del data[i : i + int(rng.integers(1, 40))]
    elif kind == 3:
        data[i:i] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
        data[i : i + 16] = bytes(16)
    else:
        data[i], data[j] = data[j], data[i]
    return bytes(data)


def outcome(path, right):
    """Load: "right" if the model is the one that was saved, "refused" if there is a clear error."""
    from nsf_nb import NsfError, load

    try:
        found = load(path)
    except NsfError as error:
        assert str(error).startswith("Expected ") and len(str(error)) < 2000
        return "refused"
    assert found.loadings_.equals(right.loadings_) and found.factors_.equals(right.factors_)
    assert found.elbo_ == right.elbo_ and found.result_.history == right.result_.history
    return "right"


def test_a_thousand_damaged_files(model, split, tmp_path):
    folder = model.save(tmp_path / "model", counts=False)
    other = fitted("NSFH", {"likelihood": "nb", "random_state": 1}, split[0]).save(tmp_path / "other", counts=False)
    rng, found = np.random.default_rng(0), {"right": 0, "refused": 0}
    json_file, their_json = (path / "model.json" for path in (folder, other))
    arrays, their_arrays = (next(path.glob("model-*.npz")) for path in (folder, other))
    for path in (json_file, arrays):
        content = path.read_bytes()
        for _ in range(520):
            path.write_bytes(damaged(content, rng))
            found[outcome(folder, model)] += 1
        path.write_bytes(content)
    for mine, theirs in ((json_file, their_json), (arrays, their_arrays), (json_file, arrays), (arrays, json_file)):
        content = mine.read_bytes()
        mine.write_bytes(theirs.read_bytes())
        found[outcome(folder, model)] += 1
        mine.write_bytes(content)
    assert outcome(folder, model) == "right"
    assert found["refused"] >= 1000 and sum(found.values()) == 1044, found


def leaves(node, path=()):
    """Paths of everything in a tree of JSON."""
    yield path
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))


def at(tree, path):
    """What is at a path."""
    for key in path:
        tree = tree[key]
    return tree


def with_value(tree, path, value):
    """A copy of a tree with another value at a path."""
    tree = json.loads(json.dumps(tree))
    if not path:
        return value
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def test_forged_facts(model, tmp_path, monkeypatch):
    """The checksums agree, the content does not: whatever is at a place, it is a clear error or a model."""
    from nsf_nb import NsfError, load, read_model
    from nsf_nb.data import store

    arrays, facts = store.read(model.save(tmp_path / "model", counts=False), "model")
    paths, refused, n = list(leaves(facts))[1:], 0, 0
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for path in paths:
        for value in (None, True, -1, "os.system", 1e308, [], {"is": "eval"}):
            store.write(tmp_path / "forged", "model", arrays, with_value(facts, path, value))
            for reader in (load, read_model)[: 1 + (value is None)]:
                n += 1
                try:
                    reader(tmp_path / "forged")
                except NsfError as error:
                    assert str(error).startswith("Expected ")
                    refused += 1
    assert n > 1000 and refused > 0.8 * n


def test_fields_too_many_or_too_few(model, tmp_path, monkeypatch):
    from nsf_nb import DataError, read_model
    from nsf_nb.data import store

    arrays, facts = store.read(model.save(tmp_path / "model", counts=False), "model")
    monkeypatch.setattr(os, "fsync", lambda file: None)
    there = {path: at(facts, path) for path in leaves(facts)}
    records = {path: node for path, node in there.items() if isinstance(node, dict) and ("is" in node or not path)}
    assert len(records) > 15
    for path, node in {**records, ("params",): facts["params"]}.items():
        changes = {"unknown.*'news'": node | {"news": 1}}
        left = {key: {k: v for k, v in node.items() if k != key} for key in node if key not in ("is", "schema")}
        changes |= {f"no.*'{key}'": rest for key, rest in left.items()}
        for words, changed in changes.items():
            store.write(tmp_path / "forged", "model", arrays, with_value(facts, path, changed))
            with pytest.raises(DataError, match=f"Expected.*{words}"):
                read_model(tmp_path / "forged")


def test_forged_arrays(model, tmp_path, monkeypatch):
    from nsf_nb import NsfError, load
    from nsf_nb.data import store

    arrays, facts = store.read(model.save(tmp_path / "model"), "model")
    monkeypatch.setattr(os, "fsync", lambda file: None)
    changes = {
        "longer": lambda x: np.concatenate([x, x]), "shorter": lambda x: x[:-1], "scalar": lambda x: x.ravel()[0],
        "text": lambda x: x.astype(str), "none": lambda x: np.full(x.shape, np.nan),
        "complex": lambda x: np.ones(x.shape, "c16"),
    }
    for name, array in arrays.items():
        for kind, change in changes.items():
            if kind == "text" and array.dtype.kind == "U" or kind in ("text", "none") and "history" in name:
                continue  # names are text, and a column of a history may be text or have gaps
            store.write(tmp_path / "forged", "model", arrays | {name: change(array)}, facts)
            with pytest.raises(NsfError, match="Expected"):
                load(tmp_path / "forged")
        store.write(tmp_path / "forged", "model", {key: value for key, value in arrays.items() if key != name}, facts)
        with pytest.raises(NsfError, match="Expected"):
            load(tmp_path / "forged")
    for name, value in (("data.counts.indices", 10**6), ("data.counts.values", -1), ("data.counts.indptr", 5)):
        wrong = arrays | {name: np.full_like(arrays[name], value, dtype="i8")}
        store.write(tmp_path / "forged", "model", wrong, facts)
        with pytest.raises(NsfError, match="Expected"):
            load(tmp_path / "forged")


def test_parts_that_do_not_fit(model, split, tmp_path):
    """Each right by itself."""
    from nsf_nb import DataError, load
    from nsf_nb.data import store

    arrays, facts = store.read(model.save(tmp_path / "model", counts=False), "model")
    fit, state = facts["fit"], facts["fit"]["state"]
    spatial = {key: value for key, value in arrays.items() if ".posteriors.0." not in key}
    other = store.read(fitted("MEFISTO", CASES[-1][1], split[0]).save(tmp_path / "mefisto", counts=False), "model")
    forged = [
        (arrays, with_value(facts, ("fit", "seconds"), {})),
        (arrays, with_value(facts, ("fit", "model", "groups"), fit["model"]["groups"][::-1])),
        (arrays, with_value(facts, ("fit", "model", "groups"), fit["model"]["groups"][:1])),
        (arrays, with_value(facts, ("fit", "model", "groups", 0, "n_factors"), 1)),
        (spatial, with_value(facts, ("fit", "state", "posteriors"), state["posteriors"][1:])),
        (spatial, with_value(facts, ("fit", "state", "posteriors"), [])),
        (other[0], facts | {"fit": other[1]["fit"]}),
    ]
    for held, told in forged:
        store.write(tmp_path / "forged", "model", held, told)
        with pytest.raises(DataError, match="Expected"):
            load(tmp_path / "forged")


def test_objects_are_not_read(model, tmp_path):
    """An array of objects would be a pickle, which could run code."""
    from nsf_nb import DataError, load, read_model
    from nsf_nb.data import store

    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was read",)

    folder = model.save(tmp_path / "model")
    arrays, _ = store.read(folder, "model")
    record = json.loads((folder / "model.json").read_bytes())
    content = io.BytesIO()
    np.savez(content, **arrays | {"data.coords": np.array([Bomb()], dtype=object)})
    (folder / record["arrays"]).write_bytes(content.getvalue())
    record["sha256"] = hashlib.sha256(content.getvalue()).hexdigest()  # a file that is whole, by all that it says
    (folder / "model.json").write_text(json.dumps(record))
    for reader in (load, read_model):
        with pytest.raises(DataError, match="Expected a model"):
            reader(tmp_path / "model")


def test_other_versions(model, tmp_path):
    from nsf_nb import DataError, load, read_model
    from nsf_nb.data import store

    arrays, facts = store.read(model.save(tmp_path / "model"), "model")
    ages = {2: "made by a newer nsf_nb \\(9.9.9\\). Update nsf_nb", 0: "made by an older nsf_nb"}
    for schema, words in ages.items():
        told = facts | {"schema": schema, "versions": {"nsf_nb": "9.9.9"}, "news": 1}
        store.write(tmp_path / "other", "model", arrays, told)
        for reader in (load, read_model):
            with pytest.raises(DataError, match=f"schema 1.*schema {schema}, {words}"):
                reader(tmp_path / "other")


def test_other_genes(model, split, tmp_path):
    from nsf_nb import DataError, load

    again = load(model.save(tmp_path / "model"))
    for call in (again.predict, again.evaluate, again.score_table):
        with pytest.raises(DataError, match=r"2 of 16 missing, the first \['gene_0', 'gene_1'\]"):
            call(split[1][:, 2:].copy())


# Kills


KILLS = """
import os, random, signal, sys, time
import nsf_nb as nsf
folder, one, other = sys.argv[1:]
models = [nsf.load(path) for path in (one, other)]
models[0].save(folder)
bounds, rng, seen = {model.elbo_.total for model in models}, random.Random(0), set()
for n in range(20):
    child = os.fork()
    if not child:
        while True:
            for model in models[::-1]:
                model.save(folder, overwrite=True)
    time.sleep(rng.uniform(0.002, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = nsf.load(folder)
    assert found.elbo_.total in bounds, found
    seen.add(found.elbo_.total)
models[0].save(folder, overwrite=True)
print("KILLS", n + 1, len(seen), nsf.load(folder).elbo_.total == models[0].elbo_.total)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_saving(model, split, tmp_path, run_tool):
    other = fitted("NSFH", {"likelihood": "nb", "random_state": 1, "max_iter": 2}, split[0])
    paths = model.save(tmp_path / "one"), other.save(tmp_path / "other")
    done = run_tool(["python", "-c", KILLS, tmp_path / "killed", *paths], timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "KILLS 20 2 True" in done.stdout


# The file of an earlier version


@pytest.mark.parametrize("name", ["model-v1", "model-v1-rsf", "model-v1-mefisto"])
def test_files_of_earlier_versions(name, tmp_path):
    from nsf_nb import load, read_model

    shutil.copytree(FIXTURES / name, tmp_path / name)
    assert sum(len(content) for content in files(tmp_path).values()) < 200_000
    found, expected = load(tmp_path / name), np.load(FIXTURES / f"{name}-expected.npz")
    there = found.predict(expected["places"])
    for key, values in {"counts": there.X, "factors": there.obsm["X_nsf"], "std": there.obsm["X_nsf_std"]}.items():
        assert np.allclose(values, expected[key], rtol=1e-5, atol=1e-7), key
    assert np.isclose(found.elbo_.per_observation, expected["bound"], rtol=1e-12)
    assert np.array_equal(read_model(tmp_path / name).loadings_, found.loadings_)
    assert found.data_.n_obs == 144 and repr(found).endswith(" s")
