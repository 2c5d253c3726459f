"""Shards in the processes of a dask cluster: the same bits as here, through losses; bytes as dask carries them."""

import logging
import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("distributed", reason="needs the extra dask")

import dask
from distributed import Client, LocalCluster
from typer.testing import CliRunner

import nsf_nb as nsf
from nsf_nb.cli import app
from nsf_nb.data.counts import SpatialCounts
from nsf_nb.inference.coordinate_ascent import CoordinateAscent
from nsf_nb.inference.elsewhere import Elsewhere, Lost
from nsf_nb.inference.factor_updates import SpatialFactors
from nsf_nb.inference.groups import Groups
from nsf_nb.inference.sharded_ascent import Here, ShardedAscent
from nsf_nb.inference.shards import Shard
from nsf_nb.models.factor_model import FactorGroup, FactorModel
from nsf_nb.probability.priors import GaussianProcess

T, CUTS = 2, [slice(0, 120), slice(120, 310), slice(310, 400)]
RNG = np.random.default_rng(0)
XY = RNG.uniform(-2, 2, size=(400, 2))
LOGS = np.column_stack([np.sin(2 * XY[:, 0]), np.cos(2 * XY[:, 1])])
GENES = RNG.gamma(0.4, 2.0, size=(40, T))
DATA = SpatialCounts.build(RNG.poisson(np.exp(LOGS) @ GENES.T), XY)
MODEL, POINTS = FactorModel((FactorGroup(GaussianProcess(length_scale=1.0), T),)), XY[::20]


@pytest.fixture(scope="module")
def cluster():
    quiet = {"logging": dict.fromkeys(["distributed.nanny", "distributed.worker"], "critical")}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with dask.config.set(quiet), LocalCluster(**options) as made:
        yield made


@pytest.fixture
def executor(cluster):
    with Elsewhere(cluster.scheduler_address) as made:
        made.deal(MODEL, DATA, POINTS, cuts=CUTS)
        yield made


def begun(shards):
    spatial = SpatialFactors(MODEL.groups[0].prior, XY[::40], XY, T)
    for l in range(T):
        spatial.regress(l, 0.3 * LOGS[:, l], np.full(len(XY), 2.0))
    engine = ShardedAscent(MODEL, shards, POINTS, len(XY))
    engine.begin(CoordinateAscent(MODEL, DATA, Groups([spatial]), GENES))
    return engine


def climb(engine, before=lambda i: None, n_sweeps=9):
    """Bounds after each sweep, and the sweeps that were carried out; after a loss from the last refresh on."""
    bounds, done, i, kept = [], [], 0, None
    while i < n_sweeps:
        try:
            if i % 4 == 0 and (kept is None or kept[0] < i):
                engine.refresh()
                kept = i, engine.memory()
            before(i)
            bounds[i:] = [engine.sweep(sparsify=i < 4).total]
            done.append(i)
            i += 1
        except Lost:
            engine.shards.restore(wait=0.0)
            engine.recall(kept[1])
            i = kept[0]
    return np.array(bounds), done


@pytest.fixture(scope="module")
def alone():
    return climb(begun(Here([Shard(MODEL, DATA.subset(at), POINTS) for at in CUTS])))[0]


def test_answers_are_those_of_shards_here(executor, alone):
    engine = begun(executor)
    bounds, done = climb(engine)
    assert np.allclose(bounds, alone, rtol=1e-6) and done == list(range(9))
    state, m, v = engine.end(DATA.size_factors)
    assert m.shape == v.shape == (400, T) and state.loadings.shape == (40, T)
    assert [len(one["m"]) for one in executor.ask("memory")] == [at.stop - at.start for at in CUTS]
    each = [(np.arange(k + 1),) for k in range(3)]
    assert [len(one["m"]) for one in executor.ask("sample", each=each)] == [1, 2, 3]


def test_bytes_are_those_of_the_transport(executor, monkeypatch):
    from distributed.comm.tcp import TCP

    begun(executor)
    write, carried = TCP.write, []

    async def writing(self, *args, **options):
        written = await write(self, *args, **options)
        carried.append(written)
        return written

    monkeypatch.setattr(TCP, "write", writing)
    sent = executor.sent["probe"]
    scale = np.zeros((1000, 500), dtype=np.float32)
    with pytest.raises(AttributeError):
        executor.ask("probe", scale)
    assert executor.sent["probe"] - sent >= 2 * scale.nbytes, "once for each worker"
    assert 0 <= sum(carried) / (executor.sent["probe"] - sent) - 1 < 0.01


def test_loads_follow_workers_and_a_stranger_is_refused(executor, cluster):
    assert executor.deal(MODEL, DATA, POINTS) == [slice(0, 200), slice(200, 400)]
    assert len(set(executor.places)) == 2
    with pytest.raises(nsf.ConfigError, match="nobody who answers"):
        Elsewhere("tcp://127.0.0.1:9", timeout=1.0)
    with Client(cluster, set_as_default=False) as client:
        mine = Elsewhere(client, direct=False)
        mine.deal(MODEL, lambda rows: DATA.subset(rows), POINTS, n_obs=400)
        assert mine.ask("constant", None) == executor.ask("constant", None)
        mine.close()
        assert client.status == "running"
        with pytest.raises(nsf.ConfigError, match="n_obs"):
            mine.deal(MODEL, DATA.subset, POINTS)


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(nsf.ConfigError, match=r"nsf_nb\[dask\]"):
        Elsewhere("tcp://127.0.0.1:8786")


def test_the_command_passes_the_cluster_on(cluster, tmp_path, monkeypatch):
    given = {}

    def fit_held_out(adata, model, **how):
        given.update(how)
        raise nsf.DataError("Enough.")

    monkeypatch.setattr("nsf_nb.held_out.fit_held_out", fit_held_out)
    nsf.simulate("ggblocks", 10, n_side=12, seed=1).write_h5ad(tmp_path / "a.h5ad")
    line = f"fit {tmp_path / 'a.h5ad'} -L 2 -o {tmp_path / 'b.h5ad'} --dask {cluster.scheduler_address} --max-minutes 9"
    assert CliRunner().invoke(app, line.split()).exit_code == 2
    executor = given["care"]["executor"]
    assert isinstance(executor, Elsewhere) and given["care"]["max_minutes"] == 9
    assert executor.client.scheduler.address == cluster.scheduler_address
    executor.client.close()


def test_a_killed_worker_changes_nothing_and_nobody_left_is_said(executor, cluster):
    undisturbed, _ = climb(begun(executor))
    processes, killed = executor.client.run(os.getpid), []
    engine = begun(executor)

    def kill():
        if not killed:
            killed.append(executor.places[0])
            os.kill(processes[killed[0]], signal.SIGKILL)

    ask, far = executor.ask, [0]

    def asked(name, *args, **more):
        if name == "keep" and far[0] >= 3:  # in the middle of a refresh
            kill()
        return ask(name, *args, **more)

    def before(i):
        far[0] = i

    executor.ask = asked
    bounds, done = climb(engine, before)
    assert killed and killed[0] not in executor.places and len(done) > 9
    assert np.array_equal(bounds, undisturbed)

    executor.patience = 1.0
    cluster.scale(0)
    while executor.client.scheduler_info()["workers"]:
        time.sleep(0.05)
    with pytest.raises(Lost, match="Start some workers|logs of the workers"):
        executor.restore(wait=0.0)
