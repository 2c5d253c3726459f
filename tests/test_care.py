"""A fit under care: stopped by signals and limits, continued, kept within memory; and what an error carries."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import nsf_nb as nsf
from nsf_nb.data.files import read_h5ad, write_h5ad
from nsf_nb.data.simulate import simulate

QUICK = {"n_inducing": 100, "n_starts": 2}


@pytest.fixture(scope="module")
def adata():
    return simulate("ggblocks", n_features=60, seed=3)


@pytest.fixture(scope="module")
def whole(adata):
    return nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=None)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(nsf.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


def same(a, b):
    """Whether two fits have the same bits."""
    tables = "factors_", "factor_std_", "loadings_", "length_scales_"
    return all(getattr(a, name).equals(getattr(b, name)) for name in tables) and a.elbo_ == b.elbo_


def stop_after(monkeypatch, n):
    """Ctrl-C after n sweeps; a real signal."""
    from nsf_nb.inference.records import Diary

    sweep, left = Diary.sweep, [n]

    def counted(self, *args, **kwargs):
        sweep(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Diary, "sweep", counted)


@pytest.mark.parametrize("n", [1, 23, 57])
def test_ctrl_c_returns_a_model_and_fit_goes_on(adata, whole, cache, tmp_path, monkeypatch, n):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_after(patch, n)
        model = nsf.NSF(3, **QUICK).fit(adata, layer="counts")
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.converged_ and "stopped by Ctrl-C" in model.history["event"].iloc[-1]
    assert "not converged" in repr(model)
    assert np.isfinite(model.predict(adata).X).all() and np.isfinite(model.evaluate(adata)["deviance"])
    model.save(tmp_path / "model")
    assert same(nsf.load(tmp_path / "model"), model)
    assert len(list(cache.rglob("checkpoint.json"))) == 1
    again = nsf.NSF(3, **QUICK).fit(adata, layer="counts", resume=True)
    assert same(again, whole) and again.converged_
    assert [*again.history["elbo"]] == [*whole.history["elbo"]] and not list(cache.rglob("checkpoint.*"))


def test_a_second_ctrl_c_interrupts(adata, monkeypatch):
    from nsf_nb.inference.coordinate_ascent import CoordinateAscent

    def impatient(self, *args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CoordinateAscent, "sweep", impatient)
    with pytest.raises(KeyboardInterrupt):
        nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=None)


def test_an_interrupt_that_native_code_turns_into_another_error_is_still_one(adata, monkeypatch):
    from nsf_nb.inference.coordinate_ascent import CoordinateAscent

    def impatient(self, *args):
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("an error without a value") from None

    monkeypatch.setattr(CoordinateAscent, "sweep", impatient)
    with pytest.raises(KeyboardInterrupt):
        nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=None)


@pytest.mark.parametrize("inference", ["cavi", "svi"])
def test_max_minutes_ends_a_fit_in_time(inference):
    large = simulate("ggblocks", n_features=400, seed=3)
    model = nsf.NSF(8, n_inducing=1000, inference=inference, tol=1e-12, max_iter=100_000)
    began = time.perf_counter()
    model.fit(large, layer="counts", checkpoint=None, max_minutes=3 / 60)
    assert time.perf_counter() - began < 40  # compilation is in it
    assert not model.converged_ and np.isfinite(model.factors_.to_numpy()).all()
    assert "limit of 0.05 minutes" in model.history["event"].iloc[-1]


def test_a_stopped_model_goes_on_from_itself_without_a_checkpoint(adata, monkeypatch):
    model = nsf.NSF(3, **QUICK)
    with monkeypatch.context() as patch:
        stop_after(patch, 60)
        model.fit(adata, layer="counts", checkpoint=None)
    stopped = model.elbo_.total
    with monkeypatch.context() as patch:
        from nsf_nb.inference import fit

        patch.setattr(fit, "best_start", lambda *args: pytest.fail("it began anew"))
        patch.setattr(nsf.settings, "cache_dir", "/proc/none")
        model.fit(adata, layer="counts", resume=True)
    assert model.converged_ and model.elbo_.total > stopped


def test_a_fit_in_a_thread(adata, whole):
    found = []
    job = threading.Thread(target=lambda: found.append(nsf.NSF(3, **QUICK).fit(adata, layer="counts")))
    job.start()
    job.join()
    assert same(found[0], whole)


def test_a_cache_that_cannot_be_written_is_no_obstacle(adata, whole, monkeypatch):
    monkeypatch.setattr(nsf.settings, "cache_dir", "/proc/none")
    model = nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint_seconds=1e-3)
    assert same(model, whole)


@pytest.mark.parametrize("estimator", [nsf.NSF(3, **QUICK), nsf.RSF(3, n_inducing=60, likelihood="poisson")])
def test_trouble_that_stays_is_an_error_with_all_that_is_known(adata, monkeypatch, estimator):
    from nsf_nb.inference.coordinate_ascent import CoordinateAscent
    from nsf_nb.inference.real_ascent import RealAscent

    for engine in (CoordinateAscent, RealAscent):
        sweep, calls = engine.sweep, []

        def late(self, *args, sweep=sweep, calls=calls):
            calls.append(1)
            if len(calls) > 90:
                raise np.linalg.LinAlgError("Matrix is not positive definite")
            return sweep(self, *args)

        monkeypatch.setattr(engine, "sweep", late)
    estimator.set_params(tol=1e-12)
    with pytest.raises(nsf.core.DivergenceError, match=r"not positive definite.*tried: momentum.*Diagnosis") as caught:
        estimator.fit(adata, layer="counts", checkpoint=None)
    error = caught.value
    assert error.iteration > 10 and np.isfinite(error.last_finite) and len(error.tried) == 3
    assert error.diagnosis.findings and "state_" not in vars(estimator)


def test_trouble_that_goes_is_not_noticed(adata, whole, monkeypatch):
    from nsf_nb.inference.coordinate_ascent import CoordinateAscent

    sweep, calls = CoordinateAscent.sweep, []

    def once(self, *args):
        calls.append(1)
        found = sweep(self, *args)
        if len(calls) == 66:
            self.factors.parts[0].log_factors[:] = np.nan
            self.data_term = np.nan
            return self.elbo()
        return found

    monkeypatch.setattr(CoordinateAscent, "sweep", once)
    model = nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=None)
    assert model.history["event"].str.contains("momentum forgotten").sum() == 1
    assert model.converged_ and np.isclose(model.elbo_.total, whole.elbo_.total, rtol=1e-4)


def test_the_history_has_the_parts_of_the_bound(whole):
    table = whole.history
    assert [*table.columns] == [
        "start", "sweep", "elbo", "seconds", "event", "data", "rate", "constant", "kl", "jitter",
    ]
    total = table["data"] - table["rate"] + table["constant"] - table["kl"]
    assert np.allclose(total, table["elbo"], rtol=1e-12) and np.isclose(table["jitter"], 1e-6).all()


MEMORY = """
import sys, numpy as np, scipy.sparse as sp, anndata, nsf_nb as nsf
rng = np.random.default_rng(0)
x = sp.random(6000, 3000, 0.03, "csr", np.float32, rng, lambda size: rng.integers(1, 5, size).astype(np.float32))
adata = anndata.AnnData(x, obsm={"spatial": rng.uniform(size=(6000, 2))})
limit = sys.argv[1] if len(sys.argv) > 1 else None
model = nsf.NSF(6, n_starts=1, max_iter=35).fit(adata, checkpoint=None, max_memory=limit)
m = model.state_.spatial.inducing_points.shape[0]
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(m, int(lines["VmHWM"].split()[0]) * 1024)  # the peak that getrusage knows is inherited
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not say what a process had")
def test_max_memory_is_kept():
    def peak(*limit):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *limit], capture_output=True, text=True, check=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        m, most = done.stdout.split()
        return int(m), float(most), done.stderr

    m, most, log = peak("1.2GB")
    assert most < 1.2e9 and 50 <= m < 1500, (m, most)
    assert "max_memory 1.2 GB" in log and f"{m} inducing points" in log


def run(*args, **how):
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", "from nsf_nb.cli import main; main()", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **how)


def test_a_job_that_is_told_to_end_and_sent_again(adata, tmp_path):
    write_h5ad(adata, tmp_path / "data.h5ad")
    base = ["fit", tmp_path / "data.h5ad", "-L", 3, "-M", 200, "--max-iter", 100, "-o", tmp_path / "out.h5ad"]
    base += ["--checkpoint", tmp_path / "run"]
    job = run(*base)
    while not (tmp_path / "run").exists() and job.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)
    said, log = job.communicate(timeout=120)
    assert job.returncode == 0, log
    if "stopped before it had converged" in said:  # a fast machine may have been faster
        assert "--resume --force" in said and (tmp_path / "run" / "checkpoint.json").exists()
    first = read_h5ad(tmp_path / "out.h5ad").obsm["X_nsf"]
    assert np.isfinite(first).all()
    job = run(*base, "--resume", "--force")
    said, log = job.communicate(timeout=120)
    assert job.returncode == 0 and "converged;" in said, log
    job = run(*base[:-2], "--force", "--checkpoint", "none")
    assert job.communicate(timeout=120) and job.returncode == 0
    ends = read_h5ad(tmp_path / "out.h5ad").obsm["X_nsf"]
    job = run(*base, "--resume", "--force")  # the finished one answers again
    assert job.communicate(timeout=120) and job.returncode == 0
    assert np.array_equal(read_h5ad(tmp_path / "out.h5ad").obsm["X_nsf"], ends)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "mefisto", "--resume"], ["options that mefisto has", "--resume"]),
        (["--max-memory", "8 apples"], ["amount of memory", "'8 apples'"]),
        (["--max-minutes", "0"], ["positive finite number", "max_minutes"]),
        (["--checkpoint", "none", "--resume"], ["a checkpoint to resume from"]),
        (["--checkpoint", "a/b/c"], ["an existing folder"]),
        (["--max-memory", "1MB"], ["max_memory of at least"]),
    ],
)
def test_refused_before_any_work(adata, tmp_path, options, words):
    write_h5ad(adata, tmp_path / "data.h5ad")
    job = run("fit", tmp_path / "data.h5ad", "-L", 3, "-o", tmp_path / "out.h5ad", *options, cwd=tmp_path)
    _, log = job.communicate(timeout=120)
    assert job.returncode == 2 and all(word in log for word in words), log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.h5ad"]


def test_a_checkpoint_says_whose_it_is(adata, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "checkpoint.json").read_text(encoding="utf-8"))["facts"]
    assert not facts["finished"] and facts["schema"] == 1
    other = adata.copy()
    other.layers["counts"] = other.layers["counts"].copy()
    other.layers["counts"][0, 0] += 1
    for model, data, words in (
        (nsf.NSF(4, **QUICK), adata, "another model"), (nsf.NSF(3, **QUICK, random_state=1), adata, "another seed"),
        (nsf.NSF(3, n_starts=2, n_inducing=99), adata, "another n_inducing"),
        (nsf.NSF(3, **QUICK), other, "another counts"),
    ):
        with pytest.raises(nsf.core.ConfigError, match=words):
            model.fit(data, layer="counts", checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(nsf.core.ConfigError, match="unfinished fit"):
        nsf.NSF(3, **QUICK).fit(adata, layer="counts", checkpoint=tmp_path / "run")
    more = nsf.NSF(3, **QUICK, max_iter=400, tol=1e-5)  # when to stop may change
    assert more.fit(adata, layer="counts", checkpoint=tmp_path / "run", resume=True).converged_
