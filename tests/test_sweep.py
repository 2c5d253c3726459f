"""A sweep: killed and begun again, on workers that die, on a cluster; a comparison that goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT

import nsf_nb as nsf
from nsf_nb.data import store
from nsf_nb.sweeps import fit_of, read_sweep, sweep

PLAN = """
[[grid]]
data = {simulate = "ggblocks", n_features = 30, n_side = 12, seed = [1, 2, 3]}
model = ["PNMF", "NSF", "FA"]
n_factors = [2, 4]
n_starts = 1
max_iter = 25
n_inducing = 40
hold_out = {kind = "last", fraction = 0.1}
"""
COSTS = ["wall_time", "cpu_time", "peak_memory", "host", "kept"]
GROUP = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
MAIN = [sys.executable, "-c", "from nsf_nb.cli import main; main()"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The path of a plan with 18 runs."""
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def whole(plan):
    """Its table, in this process."""
    table = sweep(plan, plan.parent / "whole", keep=True)
    assert (table["status"] == "done").all() and len(table) == 18
    return table


def numbers(table):
    """What does not depend on the machine."""
    return table.drop(columns=[name for name in COSTS if name in table])


def same(one, two):
    """Whether two tables agree to the noise of sums in another order."""
    one, two = numbers(one), numbers(two)
    assert list(one.index) == list(two.index) and set(one.columns) == set(two.columns)
    for name in one.columns:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(two[name], one[name], rtol=2e-3, atol=1e-6, err_msg=name)
        else:
            assert one[name].equals(two[name]), name
    return True


def records(folder):
    """Content of the records, by run."""
    return {path.parent.name: path.read_bytes() for path in (folder / "runs").glob("*/run.json")}


def kill_after(process, folder, n):
    """Kill a process group once n records are there; what was there then."""
    end = time.monotonic() + 240
    while len(records(folder)) < n and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    before = records(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return before


def test_killed_at_any_moment(plan, whole, tmp_path):
    command = [*MAIN, "sweep", str(plan), "-o", str(tmp_path / "sweep")]
    for n in (1, 9):
        with subprocess.Popen(command, cwd=ROOT, **GROUP) as process:
            kept = kill_after(process, tmp_path / "sweep", n)
        assert len(kept) >= n
        table = read_sweep(tmp_path / "sweep")
        assert (table["status"] == "done").sum() >= n and set(table["status"]) <= {"done", "waiting"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "18 done" in done.stdout, done.stderr
    after = records(tmp_path / "sweep")
    assert all(after[key] == content for key, content in kept.items())
    assert same(whole, read_sweep(tmp_path / "sweep"))


def kill_children(stop, killed, after=1.0):
    """Kill one process that works for this one."""
    import psutil

    while not stop.wait(0.05):
        workers = [child for child in psutil.Process().children(recursive=True) if "loky" in " ".join(child.cmdline())]
        busy = [child for child in workers if "resource_tracker" not in " ".join(child.cmdline())]
        if busy and time.time() - busy[0].create_time() > after:
            busy[0].kill()
            killed.append(busy[0].pid)
            return


def test_a_process_of_joblib_is_killed(plan, whole, tmp_path):
    stop, killed = threading.Event(), []
    thread = threading.Thread(target=kill_children, args=(stop, killed))
    thread.start()
    try:
        table = sweep(plan, tmp_path / "jobs", n_jobs=2)
    finally:
        stop.set()
        thread.join()
    assert killed and same(whole, table)


def test_a_cluster_of_two_with_one_killed(plan, whole, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        process = next(iter(client.run(os.getpid).values()))
        folder = tmp_path / "cluster"

        def later():
            while len(records(folder)) < 2:
                time.sleep(0.05)
            os.kill(process, signal.SIGKILL)

        thread = threading.Thread(target=later, daemon=True)
        thread.start()
        table = sweep(plan, folder, client=client)
        thread.join()
        assert process not in client.run(os.getpid).values() and same(whole, table)


def test_ctrl_c_and_the_rest(plan, whole, tmp_path):
    folder, command = tmp_path / "sweep", [*MAIN, "sweep", str(plan), "-o", str(tmp_path / "sweep")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(records(folder)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    statuses = read_sweep(folder)["status"]
    assert 3 <= (statuses == "done").sum() < 18 and (folder / "results.csv").exists()
    assert same(whole, sweep(plan, folder))


def test_kept_fits_and_a_plan_that_grows(plan, whole, tmp_path):
    folder = plan.parent / "whole"
    fit = fit_of(folder, whole.index[whole["model"] == "NSF"][0])
    assert fit["factors"].shape == (130, 2) and fit["loadings"].shape == (30, 2)
    assert list(fit["factors"].columns) == list(fit["loadings"].columns)
    before, longer = records(folder), tmp_path / "longer.toml"
    longer.write_text(PLAN.replace("[2, 4]", "[2, 3, 4]"))
    grown = sweep(longer, folder)
    assert len(grown) == 27 and all(records(folder)[key] == content for key, content in before.items())
    assert same(whole, grown.loc[whole.index])
    with pytest.raises(nsf.DataError, match="keep=True"):
        fit_of(folder, grown.index.difference(whole.index)[0])


def test_a_file_is_known_by_its_content(tmp_path):
    adata = nsf.simulate("ggblocks", 20, n_side=12, seed=1)
    grid = {"data": {"path": str(tmp_path / "a.h5ad")}, "model": "PNMF", "n_factors": 2, "n_starts": 1, "max_iter": 5}
    adata.write_h5ad(tmp_path / "a.h5ad")
    one = sweep(grid, tmp_path / "sweep")
    os.rename(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    moved = sweep(grid | {"data": {"path": str(tmp_path / "b.h5ad")}}, tmp_path / "sweep")
    assert list(one.index) == list(moved.index) and one["val_deviance"].equals(moved["val_deviance"])
    adata.X[0, 0] += 1
    adata.write_h5ad(tmp_path / "b.h5ad")
    other = sweep(grid | {"data": {"path": str(tmp_path / "b.h5ad")}}, tmp_path / "sweep")
    assert list(other.index) != list(one.index)


def test_a_failure_is_a_row_and_can_be_tried_again(tmp_path, monkeypatch):
    grid = {"data": {"simulate": "ggblocks", "n_features": 20, "n_side": 12}, "n_factors": 2, "n_starts": 1}
    grid |= {"model": ["PNMF", "FA"], "max_iter": 5}

    def full(*_, **__):
        raise MemoryError("of 300 GB")

    with monkeypatch.context() as patched:
        patched.setattr(nsf.FA, "fit", full)
        table = sweep(grid, tmp_path)
    assert table["status"].to_dict() == {table.index[0]: "done", table.index[1]: "failed"}
    assert "MemoryError: of 300 GB" in table["reason"].iloc[1]
    assert sweep(grid, tmp_path)["status"].iloc[1] == "failed"
    assert (sweep(grid, tmp_path, retry=True)["status"] == "done").all()


def test_the_table_is_a_file(plan, whole):
    import pandas as pd

    back = pd.read_csv(plan.parent / "whole" / "results.csv", index_col="id")
    assert list(back.index)[:18] and set(back.columns) >= set(whole.columns)
    row = store.read(plan.parent / "whole" / "runs" / whole.index[0], "run")[1]
    assert len(row["factors_pearson"]) == 4 and json.dumps(row)


def test_a_comparison_goes_on(tmp_path, monkeypatch):
    adata = nsf.simulate("ggblocks", 25, n_side=12, seed=2)
    how = {"n_factors": 3, "layer": "counts", "seeds": (0, 1), "params": {"n_starts": 1, "max_iter": 10}}
    first = nsf.compare(adata, ["PNMF", "FA"], folder=tmp_path / "compare", **how)

    def nothing(*_, **__):
        raise AssertionError("all fits are there")

    with monkeypatch.context() as patched:
        patched.setattr(nsf.PNMF, "fit", nothing)
        again = nsf.compare(adata, ["PNMF", "FA"], folder=tmp_path / "compare", **how)
    assert again.summary.equals(first.summary) and again.table.equals(first.table)
    assert "factors_pearson_min" in first.table  # the truth of the simulation went with the counts
    more = nsf.compare(adata, ["PNMF", "FA", nsf.PNMF(2, max_iter=5)], folder=tmp_path / "compare", **how)
    assert list(more.summary.index)[-2:] == ["nearest spots", "gene mean"] and "PNMF (2)" in more.summary.index
    kept = [(label, seed) for label, seed in more.fits if label != "PNMF (2)"]
    assert kept == list(first.fits) and repr(more)


def test_a_gene_that_some_seeds_have_not_seen(tmp_path):
    adata = nsf.simulate("ggblocks", 25, n_side=12, seed=2)
    adata.layers["counts"][:, 3] = 0
    adata.layers["counts"][5, 3] = 4
    how = {"n_factors": 3, "layer": "counts", "params": {"n_starts": 1, "max_iter": 10}}
    seeds = range(12)
    held = [adata.obs_names[5] in nsf.pp.split(adata, 0.1, seed)[1].obs_names for seed in seeds]
    assert any(held) and not all(held)
    pair = held.index(True), held.index(False)
    found = nsf.compare(adata, ["PNMF"], seeds=pair, folder=tmp_path / "compare", **how)
    sizes = [fit.loadings_.shape[0] for fit in found.fits.values()]
    assert sizes == [24, 25] and np.isfinite(found.summary.loc["PNMF", "stability"])


def test_other_size_factors_are_other_data(tmp_path):
    adata = nsf.simulate("ggblocks", 25, n_side=12, seed=2)
    how = {"n_factors": 2, "layer": "counts", "seeds": (0,), "params": {"n_starts": 1, "max_iter": 5}}
    scores = []
    for value in (1.0, 3.0):
        adata.obs["depth"] = np.where(np.arange(adata.n_obs) % 2, value, 1.0)
        found = nsf.compare(adata, ["PNMF"], size_factors="depth", folder=tmp_path / "compare", **how)
        scores.append(found.summary.loc["PNMF", "val_deviance"])
    assert scores[0] != scores[1]
