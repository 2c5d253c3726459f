"""Counts that stay on disk: the same fits as from memory, in bounded memory, and nothing left behind."""

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata.io import sparse_dataset
from conftest import ROOT

import nsf_nb
from nsf_nb.core import ConfigError, DataError
from nsf_nb.data import on_disk
from nsf_nb.data.anndata import from_anndata, read_h5ad, write_h5ad
from nsf_nb.data.counts import to_csr
from nsf_nb.data.lazy import read_lazy
from nsf_nb.data.on_disk import PREFIX, clear_scratch, is_mapped, mapped, mapped_rows
from nsf_nb.data.stored import part_of
from nsf_nb.data.values import BLOCK

KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A folder for scratch of this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def adata():
    made = nsf_nb.simulate("ggblocks", n_features=30, seed=1)
    made.X = sp.csr_matrix(made.layers["counts"], dtype=np.float32)
    made.layers["columns"] = sp.csc_matrix(made.X)
    made.layers["dense"] = made.X.toarray()
    return made


@pytest.fixture
def paths(adata, tmp_path):
    """The same object in a file and in a store."""
    adata.copy().write_h5ad(tmp_path / "a.h5ad")
    found = [tmp_path / "a.h5ad"]
    if pytest.importorskip("zarr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the default format will be another one
            adata.copy().write_zarr(tmp_path / "a.zarr")
        found.append(tmp_path / "a.zarr")
    return found


def folders(folder):
    gc.collect()
    return sorted(folder.glob(f"{PREFIX}*"))


def model():
    return nsf_nb.NSF(n_factors=3, n_inducing=40, n_starts=2, max_iter=12)


def same_fit(one, other):
    return one.factors_.equals(other.factors_) and one.loadings_.equals(other.loadings_) and one.elbo_ == other.elbo_


@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_a_fit_from_disk_is_the_fit_from_memory(adata, paths, scratch, likelihood):
    first = model().set_params(likelihood=likelihood).fit(adata)
    for path in paths:
        lazy = read_lazy(path)
        for layer in (None, "columns", "dense"):
            found = model().set_params(likelihood=likelihood).fit(lazy, layer=layer)
            assert is_mapped(found.data_.counts) and same_fit(found, first)
        part, whole = lazy[5:90], adata[5:90]
        assert found.score(lazy) == first.score(adata) and found.score_table(part).equals(first.score_table(whole))
        assert np.array_equal(found.transform(part).to_numpy(), first.transform(whole).to_numpy())
        assert np.array_equal(found.predict(part).X, first.predict(whole).X)
    del found, lazy, part
    assert not folders(scratch)


def test_backed_objects_keep_their_counts_on_disk_and_get_the_results(adata, paths, scratch):
    backed = read_h5ad(paths[0], backed=True)
    before = paths[0].read_bytes()
    fitted = model()
    nsf_nb.tl.fit(backed, fitted)
    in_memory = adata.copy()
    nsf_nb.tl.fit(in_memory, model())
    assert backed.isbacked and is_mapped(fitted.data_.counts)
    assert np.array_equal(backed.obsm["X_nsf"], in_memory.obsm["X_nsf"])
    assert np.array_equal(backed.varm["nsf"], in_memory.varm["nsf"]) and "nsf" in backed.uns
    back = read_h5ad(write_h5ad(backed, paths[0].with_name("out.h5ad")))
    assert (back.X != adata.X).nnz == 0 and np.array_equal(back.obsm["X_nsf"], backed.obsm["X_nsf"])
    backed.file.close()
    assert paths[0].read_bytes() == before


def test_counts_in_memory_stay_in_memory(adata, scratch):
    data, _ = from_anndata(adata)
    assert not is_mapped(data.counts) and np.shares_memory(data.counts.data, adata.X.data) and not folders(scratch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 37, BLOCK])
def test_parts_of_any_kind_are_what_memory_gives(kind, block, tmp_path):
    rng = np.random.default_rng(3)
    table = rng.poisson(0.3, size=(60, 11)).astype(np.int64)
    anndata.AnnData(KINDS[kind](table)).write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad") as file:
        source = file["X"] if kind == "dense" else sparse_dataset(file["X"])
        for rows in (None, rng.permutation(60)[:20], rng.random(60) < 0.5, slice(50, 3, -4), [7]):
            for columns in (None, rng.permutation(11)[:4], rng.random(11) < 0.5):
                wanted = table if rows is None else table[rows]
                wanted = wanted if columns is None else wanted[:, columns]
                found = mapped(replace(part_of(source, rows, columns), block=block))
                assert found.has_canonical_format and np.array_equal(found.toarray(), wanted)
                own = sp.csr_matrix((found.data, found.indices, found.indptr), shape=found.shape)
                assert own.has_canonical_format, "it is what it says"


def test_untidy_files_become_canonical(tmp_path):
    parts = {"data": [1.0, 0.0, 2.0, 3.0], "indices": [2, 1, 0, 0], "indptr": [0, 2, 4]}
    for kind, shape in (("csr_matrix", (2, 3)), ("csc_matrix", (3, 2))):
        with h5py.File(tmp_path / f"{kind}.h5", "w") as file:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": np.array(shape)})
            for name, values in parts.items():
                group[name] = np.array(values, dtype="f8" if name == "data" else "i4")
            found = mapped(sparse_dataset(group))
        wanted = np.array([[0, 0, 1], [5, 0, 0]])
        assert np.array_equal(found.toarray(), wanted if kind == "csr_matrix" else wanted.T) and found.nnz == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong", [{(41, 3): -1}, {(2, 9): 0.5, (2, 3): 1.5}, {(50, 0): np.nan, (1, 1): -2}, {(9, 9): 2**25}]
)
def test_wrong_values_are_refused_in_the_words_for_memory(kind, wrong, tmp_path, scratch):
    table = np.random.default_rng(3).poisson(0.3, size=(60, 11)).astype(float)
    for place, value in wrong.items():
        table[place] = value
    with pytest.raises(DataError) as memory:
        to_csr(table, "adata.X")
    anndata.AnnData(KINDS[kind](table)).write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad") as file:
        source = file["X"] if kind == "dense" else sparse_dataset(file["X"])
        for block in (20, BLOCK):
            with pytest.raises(DataError) as disk:
                mapped(replace(part_of(source), block=block), "adata.X")
            assert str(disk.value) == str(memory.value)
    assert not folders(scratch)


def test_values_that_are_no_numbers_are_refused(tmp_path, scratch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = np.full((4, 3), b"a")
        with pytest.raises(DataError, match="numbers in adata.X"):
            mapped(file["X"], "adata.X")
    assert not folders(scratch)


def test_damaged_files_are_refused(adata, paths, scratch):
    whole = paths[0].read_bytes()
    with h5py.File(paths[0], "r+") as file:
        file["X/indices"][7] = 10**6
        with pytest.raises(DataError, match="indices outside the matrix"):
            mapped(sparse_dataset(file["X"]))
        file["layers/columns/indptr"][3] = 10**9
        with pytest.raises(DataError, match="indptr"):
            mapped(sparse_dataset(file["layers/columns"]))
    paths[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_lazy(paths[0])
    if len(paths) > 1:
        for chunk in (paths[1] / "X" / "data").rglob("*"):
            if chunk.is_file() and chunk.name not in ("zarr.json", ".zarray", ".zattrs"):
                chunk.write_bytes(b"nothing that can be unpacked")
        with pytest.raises(DataError, match="cannot be read"):
            from_anndata(read_lazy(paths[1]))
    assert not folders(scratch)


def test_no_room_is_an_error_before_anything_is_written(paths, scratch, monkeypatch):
    lazy = read_lazy(paths[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    for layer in (None, "columns", "dense"):
        with pytest.raises(ConfigError, match="bytes of room for counts .* found 100. .*TMPDIR"):
            from_anndata(lazy, layer=layer)
    assert not folders(scratch)


def test_a_disk_that_fills_up_is_the_same_error(paths, scratch, monkeypatch):
    def full(self, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(on_disk._Column, "append", full)
    with pytest.raises(ConfigError, match="room for counts .* No space left"):
        from_anndata(read_lazy(paths[0]))
    assert not folders(scratch)


def test_scratch_goes_with_the_last_of_its_arrays(paths, scratch):
    data, _ = from_anndata(read_lazy(paths[0]))
    indices, part = data.counts.indices[:5], data.subset([3, 1])
    assert len(folders(scratch)) == 1 and not is_mapped(part.counts)
    del data
    assert [path.name for path in folders(scratch)[0].glob("*.npy")] == ["indices.npy"] and indices.size == 5
    del indices
    assert not folders(scratch) and part.counts.nnz


def test_a_large_part_of_mapped_counts_is_mapped(paths, scratch, monkeypatch):
    data, _ = from_anndata(read_lazy(paths[0]))
    rows = np.random.default_rng(0).permutation(data.n_obs)[:-9]
    monkeypatch.setattr(on_disk, "BLOCK", 500)
    part = mapped_rows(data.counts, rows)
    assert is_mapped(part) and (part != data.counts[rows]).nnz == 0 and len(folders(scratch)) == 2
    assert not is_mapped(mapped_rows(data.counts, rows[:4]))


def test_indices_of_very_many_counts_have_eight_bytes(paths, monkeypatch):
    source, seen = read_lazy(paths[0]), []
    monkeypatch.setattr(on_disk, "_LONG", 100)
    monkeypatch.setattr(on_disk, "read_only", lambda matrix: seen.append(matrix) or matrix)
    load = np.load

    def watched(path, **how):
        seen.append((Path(path).name, load(path, **how)))
        return seen[-1][1]

    monkeypatch.setattr(np, "load", watched)
    from_anndata(source)
    kept = dict(one for one in seen if isinstance(one, tuple))
    assert kept["indices.npy"].dtype == np.int64 and kept["data.npy"].dtype == np.float32


def run(script, **env):
    """A script in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=env, stdout=subprocess.PIPE, text=True)


def test_scratch_goes_at_the_end_of_the_process_and_after_a_kill(paths, scratch):
    script = f"""
        from nsf_nb.data.lazy import read_lazy
        from nsf_nb.data.anndata import from_anndata
        data = from_anndata(read_lazy({str(paths[0])!r}))
        print("ready", flush=True)
        input() if WAIT else None
    """
    done = run(script.replace("WAIT", "False"), TMPDIR=str(scratch))
    assert done.communicate()[0] == "ready\n" and done.returncode == 0 and not folders(scratch)
    killed = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script.replace("WAIT", "True"))], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
    )
    killed.stdout.readline()
    left = folders(scratch)
    assert len(left) == 1
    os.utime(left[0], (0, 0))
    assert clear_scratch() == [] and left[0].is_dir(), "it lives"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert folders(scratch) == left, "nobody could tidy up"
    data, _ = from_anndata(read_lazy(paths[0]))
    assert left[0] not in folders(scratch) and len(folders(scratch)) == 1
    del data


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks the kernel of Linux")
def test_peak_memory_follows_the_block_size(tmp_path):
    n_obs, n_features = 200_000, 500
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("X")
        shape = np.array([n_obs, n_features])
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        per_row, n = 60, 60 * n_obs
        group["indptr"] = np.arange(n_obs + 1, dtype=np.int64) * per_row
        for name, kind in (("data", "f4"), ("indices", "i4")):
            group.create_dataset(name, (n,), kind, chunks=(2**16,))
        for start in range(0, n, n // 10):
            rows = np.tile(np.sort(rng.permutation(n_features)[:per_row]), n // 10 // per_row)
            group["indices"][start : start + n // 10] = rows
            group["data"][start : start + n // 10] = rng.integers(1, 9, n // 10)
    script = rf"""
        import re, h5py
        from dataclasses import replace
        from pathlib import Path
        from anndata.io import sparse_dataset
        from nsf_nb.data.counts import to_csr
        from nsf_nb.data.stored import part_of
        with h5py.File({str(tmp_path / 'x.h5')!r}) as file:
            source = sparse_dataset(file["X"])
            to_csr(part_of(source, slice(0, 10)))
            most = lambda: int(re.search(r"VmHWM:\s*([0-9]+)", Path("/proc/self/status").read_text())[1])
            before = most()  # of this process: getrusage would give that of its parent if it is more
            counts = to_csr(WAY)
            print(most() - before, counts.nnz)
    """
    peaks = {}
    blocks = {2**18: "replace(part_of(source), block=2**18)", 2**22: "part_of(source)", None: "source.to_memory()"}
    for block, way in blocks.items():
        done = run(script.replace("WAY", way), TMPDIR=str(tmp_path))
        peak, many = map(int, done.communicate()[0].split())
        assert many == n
        peaks[block] = 1024 * peak
    for block in (2**18, 2**22):
        assert peaks[block] < 40 * block + 48 * n_obs + 2**24, "the bound of the chapter, and 16 MB for libraries"
    assert peaks[2**18] < peaks[None] / 3, peaks
