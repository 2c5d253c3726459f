"""The data layer on real files and against independent implementations: what is read, refused and undone."""

import hashlib
import logging
import tracemalloc
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from nsf_nb.core import ConfigError, DataError, NotFittedError, NsfError, ShapeError
from nsf_nb.data.anndata import KEYS, coords_of, counts_of, from_anndata, read_h5ad, write_h5ad, write_results
from nsf_nb.data.counts import SizeFactors, SpatialCounts
from nsf_nb.data.preprocess import (
    CoordinateScaling,
    Normalization,
    deviance,
    feature_deviance,
    qc,
    spatial_blocks,
    split,
)

FILES = ["S1", "S6", "eco_mite", "st_mob", "slideseqv2_hippocampus_sub", "visium_sagittal_anterior1"]
SMALL = ["S6", "eco_mite", "visium_sagittal_anterior1"]


def untidy(matrix):
    """A csr matrix with a stored zero, columns in falling order and each entry above 1 in two pieces."""
    rows, columns = matrix.nonzero()
    values = matrix[rows, columns].A1
    more = values > 1
    rows, columns = np.r_[rows, rows[more], 0][::-1], np.r_[columns, columns[more], 0][::-1]
    values = np.r_[values - more, np.ones(more.sum()), 0][::-1]
    order = np.argsort(rows, kind="stable")
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))]
    return sp.csr_matrix((values[order].astype(matrix.dtype), columns[order], indptr), shape=matrix.shape)


def canonical(matrix):
    """Whether a csr matrix is sorted, summed and without stored zeros, found out anew."""
    fresh = sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    return fresh.has_canonical_format and bool(fresh.data.all())


CONTAINERS = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "coo": sp.coo_matrix,
    "csr_array": sp.csr_array,
    "dense": lambda m: m.toarray(),
    "fortran": lambda m: np.asfortranarray(m.toarray()),
    "float64": lambda m: m.toarray().astype(np.float64),
    "int": lambda m: m.astype(np.int64),
    "matrix": sp.spmatrix.todense,
    "frame": lambda m: pd.DataFrame(m.toarray()),
    "untidy": untidy,
}


def digest(value):
    """A hash of every byte of a nested structure of arrays and tables, with its types."""
    if isinstance(value, anndata.AnnData):
        parts = [value.X, value.obs, value.var, dict(value.uns)]
        parts += [dict(getattr(value, name)) for name in ("layers", "obsm", "varm", "obsp", "varp")]
        return digest(parts)
    if isinstance(value, pd.DataFrame):
        columns = {str(name): (str(value[name].dtype), value[name].to_numpy().astype(str)) for name in value}
        return digest([columns, value.index.to_numpy().astype(str)])
    if isinstance(value, dict):
        return digest([part for pair in sorted(value.items()) for part in pair])
    if isinstance(value, (list, tuple)):
        return hashlib.sha256("".join(digest(part) for part in value).encode()).hexdigest()
    if sp.issparse(value):
        own = [getattr(value, name) for name in ("data", "indices", "indptr", "row", "col") if hasattr(value, name)]
        return digest([value.format, str(value.shape), *own])
    if isinstance(value, np.ndarray):
        return hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


@pytest.fixture(scope="module", params=FILES)
def real(request, data_dir):
    """One real file, and its counts as a plain csr matrix."""
    adata = read_h5ad(data_dir / f"{request.param}.h5ad")
    return adata, sp.csr_matrix(adata.layers["counts"]).astype(np.float32)


@pytest.fixture(scope="module", params=SMALL)
def small(request, data_dir):
    """One of the smaller files."""
    adata = read_h5ad(data_dir / f"{request.param}.h5ad")
    return adata, sp.csr_matrix(adata.layers["counts"]).astype(np.float32)


@pytest.fixture
def made():
    """A small AnnData with counts in X and in a layer."""
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(2.0, size=(50, 12)).astype(np.float32))
    obs = pd.DataFrame({"depth": rng.gamma(3, 1, 50), "kind": ["a", "b"] * 25}, index=[f"spot{n}" for n in range(50)])
    var = pd.DataFrame({"use": np.arange(12) > 3}, index=[f"gene{j}" for j in range(12)])
    return anndata.AnnData(
        counts.copy(), obs=obs, var=var, obsm={"spatial": rng.uniform(size=(50, 2))}, layers={"counts": counts.copy()}
    )


def same(matrix, other):
    """Equal shape and equal entries."""
    return matrix.shape == other.shape and (matrix != other).nnz == 0


# What is read


@pytest.mark.data
def test_a_real_file_is_read_as_it_is(real):
    adata, counts = real
    before = digest(adata)
    data, rule = from_anndata(adata, layer="counts", size_factors="scanpy")
    assert same(data.counts, counts) and data.counts.dtype == np.float32 and canonical(data.counts)
    assert (data.coords == np.asarray(adata.obsm["spatial"], dtype=np.float64)).all()
    assert data.obs_names.tolist() == adata.obs_names.tolist()
    assert data.feature_names.tolist() == adata.var_names.tolist()
    assert (data.totals == counts.astype(np.float64).sum(axis=1).A1).all()
    assert rule.rule == "scanpy" and rule.scale > 0
    assert digest(adata) == before


@pytest.mark.data
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_and_stays_as_it_is(small, container):
    adata, counts = small
    matrix = CONTAINERS[container](counts)
    copy = matrix.copy()
    data = SpatialCounts.build(matrix, adata.obsm["spatial"])
    assert same(data.counts, counts) and canonical(data.counts)
    assert canonical(counts) and not canonical(untidy(counts))
    assert digest(matrix) == digest(copy)
    dense = np.vstack([block for _, block in data.blocks(size=100)])
    assert dense.dtype == np.float32 and (dense == counts.toarray()).all()


@pytest.mark.data
@pytest.mark.parametrize("container", ["csr", "csc", "csr_array", "dense"])
def test_views_keep_their_rows_and_stay_views(small, container):
    adata, counts = small
    whole = anndata.AnnData(CONTAINERS[container](counts), obs=adata.obs, obsm={"spatial": adata.obsm["spatial"]})
    rows = np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs // 2]
    view = whole[rows, 3:30]
    data, _ = from_anndata(view)
    assert same(data.counts, counts[rows][:, 3:30]) and (data.coords == adata.obsm["spatial"][rows]).all()
    assert data.obs_names.tolist() == adata.obs_names[rows].tolist()
    assert view.is_view


@pytest.mark.data
@pytest.mark.parametrize("container", ["csr", "csc", "dense"])
def test_backed_files_are_read_by_rows(small, container, tmp_path):
    adata, counts = small
    source = anndata.AnnData(CONTAINERS[container](counts), obs=adata.obs, obsm={"spatial": adata.obsm["spatial"]})
    lazy = read_h5ad(write_h5ad(source, tmp_path / "x.h5ad"), backed=True)
    stored = (tmp_path / "x.h5ad").read_bytes()
    rows, mask = np.arange(adata.n_obs)[::-3], np.arange(adata.n_vars) % 2 == 0
    assert same(from_anndata(lazy)[0].counts, counts)
    assert same(from_anndata(lazy, mask_var=mask)[0].counts, counts[:, mask])
    assert same(from_anndata(lazy[rows])[0].counts, counts[rows])
    assert same(from_anndata(lazy[rows, 4:20], mask_var=np.arange(16) < 9)[0].counts, counts[rows][:, 4:13])
    assert lazy.isbacked
    lazy.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == stored


@pytest.mark.parametrize("view", [False, True])
def test_a_dense_matrix_on_disk_is_never_dense_in_memory(tmp_path, view):
    n_obs, n_features = 40_000, 500  # 80 MB dense
    chosen = np.random.default_rng(0).integers(n_features, size=n_obs)
    counts = sp.csr_matrix((np.ones(n_obs, dtype=np.float32), (np.arange(n_obs), chosen)), shape=(n_obs, n_features))
    coords = np.random.default_rng(1).uniform(size=(n_obs, 2))
    source = anndata.AnnData(counts.toarray(), obsm={"spatial": coords})
    lazy = read_h5ad(write_h5ad(source, tmp_path / "x.h5ad"), backed=True)
    del source
    lazy = lazy[1:] if view else lazy
    tracemalloc.start()
    data, _ = from_anndata(lazy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (lazy._adata_ref if view else lazy).file.close()
    assert data.counts.nnz == n_obs - view
    assert peak < 0.7 * 4 * n_obs * n_features


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_to_three_dimensions_and_repeated_places(made, dims):
    coords = np.random.default_rng(2).integers(0, 4, size=(50, dims))
    made.obsm["spatial"] = coords
    data, _ = from_anndata(made)
    assert data.n_dims == dims and (data.coords == coords).all()
    assert len(np.unique(data.coords, axis=0)) < 50
    assert coords_of(made).shape == (50, dims)


def test_the_container_is_read_only_and_owns_what_it_had_to_convert(made):
    data, _ = from_anndata(made)
    for array in (data.counts.data, data.counts.indices, data.coords, data.size_factors, data.obs_names, data.totals):
        with pytest.raises(ValueError):
            array[0] = array[1]
    with pytest.raises(AttributeError):
        data.coords = data.coords * 2
    first = data.coords[0, 0]
    made.obsm["spatial"][0, 0] += 1
    assert data.coords[0, 0] == first
    assert made.X.data.flags.writeable


def test_subset_keeps_order_and_size_factors(made):
    data, _ = from_anndata(made, size_factors="depth")
    part = data.subset([30, 2, 2])
    assert part.obs_names.tolist() == ["spot30", "spot2", "spot2"] and same(part.counts, made.X[[30, 2, 2]])
    assert (part.size_factors == made.obs["depth"].to_numpy()[[30, 2, 2]]).all()
    assert (data.subset(data.totals > 24).totals > 24).all()


# Size factors


@pytest.mark.data
def test_size_factors_are_those_of_scanpy(real):
    import scanpy as sc

    adata, counts = real
    data, rule = from_anndata(adata, layer="counts", size_factors="scanpy")
    theirs = sc.pp.normalize_total(anndata.AnnData(counts.astype(np.float64)), inplace=False)["X"]
    ours = counts.toarray() / data.size_factors[:, None]
    assert np.allclose(ours, theirs.toarray(), rtol=1e-6)
    assert np.isclose(from_anndata(adata, layer="counts", size_factors="mean")[0].size_factors.mean(), 1)
    assert (from_anndata(adata, layer="counts")[0].size_factors == 1).all()


def test_new_spots_are_measured_with_the_scale_of_the_training_spots(made):
    train, val = made[:40].copy(), made[40:].copy()
    totals = made.X.sum(axis=1).A1
    for rule, scale in (("mean", totals[:40].mean()), ("scanpy", np.median(totals[:40]))):
        _, fitted = from_anndata(train, size_factors=rule)
        data, again = from_anndata(val, size_factors=fitted)
        assert np.allclose(data.size_factors, totals[40:] / scale) and again == fitted
    assert (from_anndata(made, size_factors="depth")[0].size_factors == made.obs["depth"]).all()


def test_empty_spots_do_not_shift_the_median():
    assert SizeFactors("scanpy").fit(np.array([0, 0, 0, 2, 4, 6])).scale == 4
    assert SizeFactors("mean").fit(np.array([0, 2])).scale == 1
    with pytest.raises(NotFittedError, match="no scale"):
        SizeFactors("mean").apply(np.ones(3))


def test_a_mask_gives_what_the_smaller_object_gives(made):
    for mask in ("use", made.var["use"].to_numpy()):
        masked, _ = from_anndata(made, size_factors="scanpy", mask_var=mask)
        smaller, _ = from_anndata(made[:, made.var["use"]], size_factors="scanpy")
        assert same(masked.counts, smaller.counts) and (masked.size_factors == smaller.size_factors).all()
        assert masked.feature_names.tolist() == smaller.feature_names.tolist()


# Bad input


def spoil_counts(adata, value):
    adata.X[3, 0] = value  # the first entry of its row
    return adata


def spoil_coords(adata, change):
    coords = adata.obsm["spatial"]
    change(coords)
    return adata


def nan_coord(coords):
    coords[7, 1] = np.nan


def flat_coord(coords):
    coords[:, 1] = 4.0


def dtype(adata, kind):
    adata.layers["counts"] = adata.X.astype(kind)
    return adata


def empty_x(adata):
    return anndata.AnnData(obs=adata.obs, var=adata.var, obsm=adata.obsm, layers=adata.layers)


def wide(adata):
    adata.obsm["spatial"] = np.ones((50, 4)) * np.arange(50)[:, None]
    return adata


ADVICE = "Pass layer='counts'"
BAD = {
    "negative": (lambda a: spoil_counts(a, -2), {}, DataError, ["adata.X", "1 negative", "row 3, column 0", ADVICE]),
    "fractional": (lambda a: spoil_counts(a, 0.5), {}, DataError, ["adata.X", "1 fractional", "row 3", ADVICE]),
    "nan": (lambda a: spoil_counts(a, np.nan), {}, DataError, ["adata.X", "1 missing or infinite", "row 3, column 0"]),
    "infinite": (lambda a: spoil_counts(a, np.inf), {}, DataError, ["1 missing or infinite"]),
    "too large": (lambda a: spoil_counts(a, 2.0**25), {}, DataError, ["1 too large", "row 3"]),
    "complex": (lambda a: dtype(a, complex), {"layer": "counts"}, DataError, ["adata.layers['counts']", "complex128"]),
    "no X": (empty_x, {}, DataError, ["adata.X", "none", "'counts'"]),
    "layer": (lambda a: a, {"layer": "raw"}, DataError, ["'raw'", "adata.layers", "'counts'", "Pass the name"]),
    "key": (lambda a: a, {"spatial_key": "xy"}, DataError, ["adata.obsm['xy']", "'spatial'", "spatial_key"]),
    "rule": (lambda a: a, {"size_factors": "depht"}, DataError, ["'scanpy'", "'depth'", "'depht'"]),
    "words": (lambda a: a, {"size_factors": "kind"}, DataError, ["'kind'", "real numbers"]),
    "nan coords": (lambda a: spoil_coords(a, nan_coord), {}, DataError, ["adata.obsm['spatial']", "row 7", "Drop"]),
    "flat coords": (lambda a: spoil_coords(a, flat_coord), {}, DataError, ["['spatial']", "axis 1", "4 for all"]),
    "wide coords": (wide, {}, ShapeError, ["adata.obsm['spatial']", "(50, 4)", "one to three"]),
    "no spots": (lambda a: a[:0], {}, DataError, ["0 spots", "filters"]),
    "no genes": (lambda a: a[:, :0], {}, DataError, ["0 genes", "filters"]),
    "one spot": (lambda a: a[:1], {}, DataError, ["at least 2 spots"]),
    "no mask": (lambda a: a, {"mask_var": "hvg"}, DataError, ["'hvg'", "adata.var", "'use'"]),
    "mask": (lambda a: a, {"mask_var": np.ones(3, dtype=bool)}, ShapeError, ["mask_var", "12", "(3,)"]),
    "empty mask": (lambda a: a, {"mask_var": np.zeros(12, dtype=bool)}, DataError, ["no gene selected"]),
    "no AnnData": (lambda a: a.X, {}, DataError, ["AnnData", "csr_matrix"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_slot_and_way_out(made, name):
    spoil, options, error, words = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = spoil(made)
    with pytest.raises(error) as caught:
        from_anndata(adata, **options)
    assert isinstance(caught.value, NsfError)
    text = str(caught.value)
    assert text.startswith("Expected ") and ", found " in text and "\n" not in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("rule, slot", [("scanpy", "size_factors='scanpy'"), ("mean", "size_factors='mean'")])
def test_an_empty_spot_is_named_where_its_size_factor_is_zero(made, rule, slot):
    made.X = sp.csr_matrix(made.X.toarray() * (np.arange(50) != 9)[:, None])
    with pytest.raises(DataError) as caught:
        from_anndata(made, size_factors=rule)
    for word in (slot, "row 9", "1 of these spots have no counts", "size_factors='constant'"):
        assert word in str(caught.value)
    assert from_anndata(made)[0].totals[9] == 0  # legal with constant size factors
    with pytest.raises(DataError, match="spot with counts"):
        from_anndata(anndata.AnnData(made.X * 0, obsm=made.obsm), size_factors=rule)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_bad_size_factors_in_a_column(made, value):
    made.obs.iloc[11, made.obs.columns.get_loc("depth")] = value
    with pytest.raises(DataError, match=r"adata.obs\['depth'\].*row 11"):
        from_anndata(made, size_factors="depth")


def test_lengths_that_differ(made):
    with pytest.raises(ShapeError, match="coords"):
        SpatialCounts.build(made.X, made.obsm["spatial"][:-1])
    with pytest.raises(ShapeError, match="coords"):
        SpatialCounts.build(made.X, np.empty((0, 2)), spread=False)
    with pytest.raises(ShapeError, match="size_factors"):
        SpatialCounts.build(made.X, made.obsm["spatial"], np.ones(49))
    with pytest.raises(ShapeError, match="feature_names"):
        SpatialCounts.build(made.X, made.obsm["spatial"], feature_names=["a"] * 11)
    with pytest.raises(ShapeError, match="spots × genes"):
        SpatialCounts.build(np.ones(5), np.arange(5))


def test_genes_without_counts_are_legal_and_mentioned_once(made, caplog):
    made.X = sp.csr_matrix(made.X.toarray() * (np.arange(12) > 2))
    with caplog.at_level(logging.WARNING, logger="nsf_nb"):
        data, _ = from_anndata(made)
    assert (data.feature_totals[:3] == 0).all()
    assert [record.message for record in caplog.records] == ["3 of 12 genes in adata.X have no counts: loadings zero."]


def test_spots_that_are_only_evaluated_may_lie_anyhow(made):
    data, _ = from_anndata(made[:1], spread=False)
    assert data.n_obs == 1


# Files


def test_files_that_cannot_be_used(made, tmp_path):
    whole = write_h5ad(made, tmp_path / "whole.h5ad")
    (tmp_path / "cut.h5ad").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "text.h5ad").write_text("not a file of this kind")
    (tmp_path / "void.h5ad").touch()
    made[:0].copy().write_h5ad(tmp_path / "hollow.h5ad")
    import h5py

    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["data"] = np.ones(3)
    cases = {
        "absent": "found nothing", "cut": "cannot be read", "text": "another format", "void": "empty file",
        "hollow": "0 spots", "other": "without the tables",
    }  # fmt: skip
    for name, word in cases.items():
        for backed in (False, True):
            with pytest.raises(DataError) as caught:
                read_h5ad(tmp_path / f"{name}.h5ad", backed=backed)
            assert word in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="a folder"):
        read_h5ad(tmp_path)


def test_writing_is_all_or_nothing(made, tmp_path, monkeypatch):
    path = write_h5ad(made, tmp_path / "out.h5ad")
    first = path.read_bytes()
    with pytest.raises(ConfigError, match="force"):
        write_h5ad(made, path)
    with pytest.raises(ConfigError, match="folder"):
        write_h5ad(made, tmp_path / "absent" / "out.h5ad")

    def full_disk(growing, adata):
        growing.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(anndata.io, "write_h5ad", full_disk)
        with pytest.raises(ConfigError, match="No space left"):
            write_h5ad(made, path, force=True)
    assert path.read_bytes() == first and [file.name for file in tmp_path.iterdir()] == ["out.h5ad"]
    made.obs["depth"] *= 2
    write_h5ad(made, path, force=True)
    assert np.allclose(read_h5ad(path).obs["depth"], made.obs["depth"])


def test_writing_leaves_the_object_and_a_backed_file_as_they_were(made, tmp_path):
    made.raw = made
    before = digest(made)
    path = write_h5ad(made, tmp_path / "one.h5ad")
    assert digest(made) == before and made.obs["kind"].dtype == object
    assert read_h5ad(path).raw.n_vars == 12
    lazy = read_h5ad(path, backed=True)
    copy = write_h5ad(lazy, tmp_path / "two.h5ad")
    assert lazy.isbacked and str(lazy.filename) == str(path)
    lazy.file.close()
    assert same(read_h5ad(copy).X, made.X)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_come_back_from_files(made, tmp_path, suffix):
    rng = np.random.default_rng(0)
    factors, loadings = rng.gamma(1, 1, (50, 3)), rng.gamma(1, 1, (8, 3))
    facts = {"version": "0.1", "elbo": -1.5, "done": True, "layer": None, "starts": [1, 2, 3], "genes": ["a", "b"]}
    facts |= {"mixed": [1, "a", None], "kernel": {"name": "matern32", "scales": np.ones(3)}}
    before = digest([made.X, made.layers["counts"], made.obsm["spatial"], made.obs])
    write_results(made, "mine", factors, 2 * factors, loadings, facts, mask_var="use", var_importance=loadings[:, 0])
    assert digest([made.X, made.layers["counts"], made.obsm["spatial"], made.obs]) == before
    path = tmp_path / f"out.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.write_zarr(path) if suffix == "zarr" else write_h5ad(made, path)
        back = anndata.io.read_zarr(path) if suffix == "zarr" else read_h5ad(path)
    keys = KEYS.named("mine")
    assert (back.obsm[keys.factors] == factors).all() and (back.obsm[keys.factors_std] == 2 * factors).all()
    assert (back.varm[keys.loadings][4:] == loadings).all() and np.isnan(back.varm[keys.loadings][:4]).all()
    assert (back.var["mine_spatial_importance"][4:] == loadings[:, 0]).all()
    assert back.uns["mine"]["kernel"]["name"] == "matern32" and back.uns["mine"]["starts"].tolist() == [1, 2, 3]
    assert back.uns["mine"]["mixed"] == '[1, "a", null]' and "layer" not in back.uns["mine"]
    assert back.obs_names.tolist() == made.obs_names.tolist()


def test_results_are_written_completely_or_not_at_all(made):
    before, factors = digest(made), np.ones((50, 2))
    wrong = [
        (factors[:9], None, np.ones((12, 2)), {}, {}),
        (factors, factors[:, :1], np.ones((12, 2)), {}, {}),
        (factors, None, np.ones((8, 2)), {}, {}),
        (factors, None, np.ones((12, 2)), {"model": object()}, {}),
        (factors, None, np.ones((12, 2)), {}, {"obs_importance": np.ones(3)}),
    ]
    for *arrays, options in wrong:
        with pytest.raises((ShapeError, ConfigError)):
            write_results(made, "nsf", *arrays, **options)
    assert digest(made) == before
    view = made[:20].copy()[::2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
        write_results(view, "nsf", np.ones((10, 2)), None, np.ones((12, 2)), {}, obs_importance=np.ones(10))
    assert view.obs["nsf_spatial_importance"].sum() == 10 and view.obsm["X_nsf"].shape == (10, 2)


# Deviance


def scry_poisson(dense):
    """Poisson deviance of each gene from a constant rate, size factors as scry: totals over their geometric mean."""
    from sklearn.metrics import mean_poisson_deviance

    dense = dense[dense.sum(axis=1) > 0].astype(np.float64)
    total = dense.sum(axis=1)
    size = np.exp(np.log(total) - np.log(total).mean())
    rate = dense.sum(axis=0) / size.sum()
    pairs = zip(dense.T, rate, strict=True)
    return np.array([len(dense) * mean_poisson_deviance(y, size * r) if r > 0 else 0.0 for y, r in pairs])


def binomial(dense):
    """Binomial deviance of each gene from a constant share, as a log likelihood ratio."""
    dense = dense[dense.sum(axis=1) > 0].astype(np.float64)
    n, share = dense.sum(axis=1, keepdims=True), dense.sum(axis=0) / dense.sum()
    return 2 * (stats.binom.logpmf(dense, n, dense / n) - stats.binom.logpmf(dense, n, share)).sum(axis=0)


@pytest.mark.data
@pytest.mark.parametrize("family, reference", [("poisson", scry_poisson), ("binomial", binomial)])
def test_deviance_is_that_of_scry(small, family, reference):
    _, counts = small
    dense = counts.toarray()
    ours = feature_deviance(counts, family)
    assert np.allclose(ours, reference(dense), rtol=1e-6, atol=1e-6)
    for container in ("csc", "coo", "dense", "float64"):
        assert (feature_deviance(CONTAINERS[container](counts), family) == ours).all()


@pytest.mark.parametrize("family, reference", [("poisson", scry_poisson), ("binomial", binomial)])
def test_deviance_at_the_edges(family, reference):
    rng = np.random.default_rng(0)
    dense = rng.poisson(rng.gamma(0.3, 5, size=20), size=(9000, 20))  # more rows than one block
    dense[:, 4] = 0
    dense[7] = 0
    dense[8], dense[8, 2] = 0, 30  # a spot with one gene
    ours = feature_deviance(dense, family)
    assert ours[4] == 0 and (ours >= 0).all() and np.allclose(ours, reference(dense), rtol=1e-6)
    flat = np.full((40, 6), 10**6)  # nothing but chance would differ, and here not even that
    assert (feature_deviance(flat, family) < 1e-6).all()
    assert (feature_deviance(np.full((5, 1), 3), family) == 0).all()  # one gene has all counts
    assert (feature_deviance(np.zeros((5, 3)), family) == 0).all()
    whole = feature_deviance(dense, family)
    assert np.allclose(feature_deviance(dense[:, :7], family, totals=dense.sum(axis=1)), whole[:7])


def test_deviance_of_sparse_counts_needs_no_dense_copy():
    counts = sp.random(20_000, 2_000, density=0.002, random_state=0, format="csr", dtype=np.float32)
    counts.data = np.ceil(3 * counts.data)
    for family in ("poisson", "binomial"):
        tracemalloc.start()
        feature_deviance(counts, family)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.1 * 4 * 20_000 * 2_000


@pytest.mark.data
def test_genes_are_ranked_in_the_table(small):
    adata, counts = small
    ranked = adata.copy()
    deviance(ranked, layer="counts", n_top=20)
    values = ranked.var["deviance"].to_numpy()
    chosen = ranked.var["highly_deviant"].to_numpy()
    assert chosen.sum() == 20 and values[chosen].min() >= values[~chosen].max() and ranked.shape == adata.shape
    deviance(ranked, layer="counts", family="binomial", n_top=10**6, subset=True)
    assert ranked.n_vars == (feature_deviance(counts) > 0).sum()
    for options in ({"n_top": 0}, {"n_top": 1.5}, {"subset": True}, {"family": "gaussian"}):
        with pytest.raises(ConfigError):
            deviance(ranked, layer="counts", **options)


def test_a_gene_without_counts_is_never_chosen(made):
    made.X = sp.csr_matrix(made.X.toarray() * (np.arange(12) != 4))
    deviance(made, n_top=12)
    assert made.var["highly_deviant"].tolist() == (np.arange(12) != 4).tolist()


# Quality control, normalisation, scaling


@pytest.mark.data
def test_qc_leaves_out_poor_spots_and_silent_genes(data_dir):
    adata = read_h5ad(data_dir / "st_mob.h5ad")
    before = digest(adata)
    kept = qc(adata, layer="counts", min_counts=100, min_features=50, min_obs=5)
    dense = adata.layers["counts"].toarray()
    spots = (dense.sum(axis=1) >= 100) & ((dense > 0).sum(axis=1) >= 50)
    genes = (dense[spots] > 0).sum(axis=0) >= 5
    assert 0 < (~spots).sum() < 10 and kept.obs_names.tolist() == adata.obs_names[spots].tolist()
    assert kept.var_names.tolist() == adata.var_names[genes].tolist()
    assert (kept.obs["total_counts"] == dense[spots].sum(axis=1)).all()
    assert digest(adata) == before
    with pytest.raises(DataError, match="0 of 262 spots"):
        qc(adata, layer="counts", min_counts=10**9)
    with pytest.raises(ConfigError, match="min_obs"):
        qc(adata, layer="counts", min_obs=-1)


def test_qc_judges_genes_on_the_spots_that_stay(made):
    dense = made.X.toarray()
    dense[:5], dense[5:, 6] = 0, 0
    dense[:5, 6] = 1  # gene 6 is seen in poor spots only
    made.X = sp.csr_matrix(dense)
    kept = qc(made, min_counts=5)
    assert kept.shape == (45, 11) and "gene6" not in kept.var_names
    assert (kept.var["n_cells_by_counts"] == (kept.X.toarray() > 0).sum(axis=0)).all()


def test_qc_knows_mitochondrial_genes(made):
    made.var_names = ["MT-A", "mt-b", *made.var_names[2:]]
    share = made.X[:, :2].sum(axis=1).A1 / made.X.sum(axis=1).A1
    kept = qc(made, max_mito_fraction=0.2)
    assert kept.obs_names.tolist() == made.obs_names[share <= 0.2].tolist() and 0 < kept.n_obs < 50
    with pytest.raises(DataError, match="xx-"):
        qc(made, max_mito_fraction=0.2, mito_prefix="xx-")


@pytest.mark.data
@pytest.mark.parametrize("log1p", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_normalisation_inverts(small, log1p, centre):
    import scanpy as sc

    adata, counts = small
    data, rule = from_anndata(adata, layer="counts", size_factors="scanpy")
    normalization = Normalization(log1p, centre).fit(data)
    values = np.vstack([normalization.apply(block, data.size_factors[rows]) for rows, block in data.blocks(500)])
    back = normalization.invert(values, data.size_factors)
    assert np.allclose(back, counts.toarray(), atol=1e-8)
    theirs = anndata.AnnData(counts.toarray().astype(np.float64))
    sc.pp.normalize_total(theirs, target_sum=rule.scale)
    if log1p:
        sc.pp.log1p(theirs)
    assert np.allclose(values, theirs.X - centre * theirs.X.mean(axis=0), atol=1e-8)
    assert (normalization.invert(values - 1e9, data.size_factors) == 0).all()


@pytest.mark.data
def test_coordinate_scaling_inverts(real):
    adata, _ = real
    coords = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    scaling = CoordinateScaling.fit(coords)
    scaled = scaling.apply(coords)
    sides = np.ptp(scaled, axis=0)
    assert np.allclose(scaling.invert(scaled), coords, rtol=1e-12)
    assert np.isclose(np.exp(np.log(sides).mean()), 4) and np.allclose(scaled.max(axis=0), -scaled.min(axis=0))
    assert np.allclose(sides / sides[0], np.ptp(coords, axis=0) / np.ptp(coords, axis=0)[0])
    steps = [np.linalg.norm(places[1] - places[0]) for places in (scaled, coords)]
    assert np.isclose(scaling.length_to_input(steps[0]), steps[1])
    assert np.isclose(scaling.length_from_input(scaling.length_to_input(0.3)), 0.3)


# Splits


@pytest.mark.data
@pytest.mark.parametrize("blocks", [None, "spatial"])
def test_splits_are_disjoint_cover_and_seeded(real, blocks):
    adata, _ = real
    before = digest(adata)
    train, val = split(adata, val_fraction=0.2, seed=5, blocks=blocks)
    rows = [adata.obs_names.get_indexer(part.obs_names) for part in (train, val)]
    assert sorted(np.concatenate(rows)) == list(range(adata.n_obs))
    assert all((np.diff(index) > 0).all() for index in rows)  # in the order of the input
    assert abs(val.n_obs / adata.n_obs - 0.2) < 0.05
    assert split(adata, 0.2, seed=5, blocks=blocks)[1].obs_names.equals(val.obs_names)
    assert split(adata, 0.2, seed=np.random.default_rng(5), blocks=blocks)[1].obs_names.equals(val.obs_names)
    assert not split(adata, 0.2, seed=6, blocks=blocks)[1].obs_names.equals(val.obs_names)
    assert not train.is_view and digest(adata) == before


@pytest.mark.data
def test_blocks_are_boxes_without_foreign_spots(real):
    coords = np.asarray(real[0].obsm["spatial"])
    labels = spatial_blocks(coords, 16)
    sizes = np.bincount(labels)
    assert len(sizes) == 16 and sizes.max() <= 2.5 * sizes.min()
    for label in range(16):
        box = coords[labels == label]
        inside = ((coords >= box.min(axis=0)) & (coords <= box.max(axis=0))).all(axis=1)
        assert (inside == (labels == label)).all()


def test_spots_at_one_place_stay_together(made):
    made.obsm["spatial"] = np.random.default_rng(0).integers(0, 3, size=(50, 2))
    train, val = split(made, val_fraction=0.3, blocks="spatial", n_blocks=200)
    places = [set(map(tuple, part.obsm["spatial"])) for part in (train, val)]
    assert not places[0] & places[1] and val.n_obs > 5
    assert spatial_blocks(np.ones((5, 2)), 4).tolist() == [0] * 5


def test_splits_that_cannot_be_made(made):
    for value in (0, 1, -0.1, 2, np.nan, "half"):
        with pytest.raises(ConfigError, match="val_fraction"):
            split(made, val_fraction=value)
    with pytest.raises(ConfigError, match="blocks"):
        split(made, blocks="round")
    with pytest.raises(ConfigError, match="n_blocks"):
        split(made, blocks="spatial", n_blocks=1)
    with pytest.raises(DataError, match="at least 2 spots"):
        split(made[:2], val_fraction=0.9)
    with pytest.raises(DataError, match="obsm"):
        split(made, blocks="spatial", spatial_key="xy")


def test_counts_of_a_backed_split(made, tmp_path):
    lazy = read_h5ad(write_h5ad(made, tmp_path / "x.h5ad"), backed=True)
    train, val = split(lazy, val_fraction=0.2)
    assert not train.isbacked and train.n_obs + val.n_obs == 50
    assert same(counts_of(val), made[val.obs_names].X)
    lazy.file.close()
