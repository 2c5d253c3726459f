"""Fits that are dealt out: by estimators, stopped and resumed on other cuts, in little memory; what is refused."""

import numpy as np
import pytest

import nsf_nb as nsf
from nsf_nb.budget import within_memory
from nsf_nb.core import ConfigError
from nsf_nb.data.counts import SpatialCounts
from nsf_nb.inference import fit as fits
from nsf_nb.inference.dealing import Shards, cuts, part_of
from nsf_nb.inference.machine import memory_in_use
from nsf_nb.inference.records import FitSettings
from nsf_nb.inference.sharded_ascent import Here, ShardedAscent
from nsf_nb.inference.shards import Shard
from nsf_nb.models.spatial import nsf as nsf_model

TINY = {"n_inducing": 60, "n_starts": 1}


class Parts(Here):
    """Shards in this process, of so many spots."""

    def __init__(self, spots):
        self.spots = spots

    def deal(self, model, data, points, kind):
        parts = cuts(data.n_obs, self.spots)
        super().__init__([Shard(model, part_of(data, at), points, kind) for at in parts])
        self.n_shards = len(parts)
        return parts


@pytest.fixture(scope="module")
def adata():
    return nsf.simulate("ggblocks", 60, n_factors_nonspatial=1, n_side=24, seed=1)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(nsf.settings, "progress", False)


@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_an_estimator_that_is_dealt_out(adata, likelihood, tmp_path):
    """The same model with and without shards: bound, predictions, and a file of it."""
    params = {"n_spatial": 3, "n_nonspatial": 1, "likelihood": likelihood, "max_iter": 60, **TINY}
    whole, executor = nsf.NSFH(**params).fit(adata), Parts(200)
    dealt = nsf.NSFH(**params).fit(adata, executor=executor)
    assert executor.n_shards == 3 and not executor.shards  # closed at the end
    assert dealt.elbo_.total == pytest.approx(whole.elbo_.total, rel=5e-3)
    bounds = np.array([row["elbo"] for row in dealt.result_.history if row["start"] == "final"])
    assert np.all(np.diff(bounds) > -1e-6 * np.abs(bounds[1:]))
    assert dealt.factors_.shape == whole.factors_.shape and dealt.loadings_.shape == whole.loadings_.shape
    at = np.random.default_rng(0).uniform(0, 20, size=(50, 2))
    again = nsf.load(dealt.save(tmp_path / "model"))
    assert np.array_equal(again.predict(at).X, dealt.predict(at).X) and np.isfinite(dealt.predict(at).X).all()


def test_resumed_on_other_cuts(adata, tmp_path):
    """Stopped after some sweeps and resumed with more shards, the fit reaches the bound of an undisturbed one."""
    params = {"n_factors": 3, **TINY}
    undisturbed = nsf.NSF(**params, max_iter=60).fit(adata, executor=Parts(200))
    folder = tmp_path / "checkpoint"
    seen = []

    class Stopping(Parts):
        def ask(self, name, *args, each=None):
            seen.append(name)
            if seen.count("move") == 22:
                raise KeyboardInterrupt
            return super().ask(name, *args, each=each)

    with pytest.raises(KeyboardInterrupt):
        nsf.NSF(**params, max_iter=60).fit(adata, executor=Stopping(200), checkpoint=folder, checkpoint_seconds=1e-3)
    assert list(folder.glob("*.json"))
    found = nsf.NSF(**params, max_iter=60).fit(adata, executor=Parts(150), checkpoint=folder, resume=True)
    assert found.elbo_.total == pytest.approx(undisturbed.elbo_.total, rel=1e-3)
    assert len([row for row in found.result_.history if row["start"] == "final"]) > 22 - 5 - 5


def test_what_cannot_be_dealt_out(adata):
    """Refused before any work, with a way out."""
    for model in (nsf.PNMF(3), nsf.RSF(3), nsf.NSF(3, likelihood="gaussian"), nsf.NSF(3, refine_samples=4)):
        with pytest.raises(ConfigError, match="without an executor"):
            model.fit(adata, executor=Parts(200))
    with pytest.raises(ConfigError, match="another engine"):
        nsf.NSF(3, inference="svi").fit(adata, executor=Parts(200))
    with pytest.raises(ConfigError, match="share of the spots"):
        Shards(share=1.5)


def test_memory_chooses_how_projections_are_kept():
    """Less memory, other ways; too little is an error that says how much is needed."""
    rng, n = np.random.default_rng(0), 120_000
    data = SpatialCounts.build(rng.poisson(0.5, size=(n, 3)), rng.uniform(size=(n, 2)))
    how, found = FitSettings(n_inducing=1000), []
    for more in (5e9, 3.4e9, 2.4e9):
        own, _ = within_memory(nsf_model(2), how, data, memory_in_use() + more)
        found.append(own.shards.kind)
    assert found == ["float32", "float16", "disk"], found
    with pytest.raises(ConfigError, match="max_memory of at least"):
        within_memory(nsf_model(2), how, data, "0.1GB")


def test_the_schedule_of_many_spots(adata, monkeypatch):
    """Kernels move before the first covariance; covariances that would gain little are not made; no bound falls."""
    monkeypatch.setattr(fits, "many_spots", lambda n_obs: True)
    asked, refreshed = [], []

    class Counting(Parts):
        def ask(self, name, *args, each=None):
            asked.append((name, args))
            return super().ask(name, *args, each=each)

    refresh = ShardedAscent.refresh

    def counted(engine):
        refreshed.append((engine.least_gain, refresh(engine)))
        return refreshed[-1][1]

    monkeypatch.setattr(ShardedAscent, "refresh", counted)
    model = nsf.NSF(3, **TINY, max_iter=60).fit(adata, executor=Counting(200))
    first = [args[1] for name, args in asked if name == "begin_trial"][:3]
    prior = model.result_.model.groups[0].prior
    assert any(kernel != (prior.length_scale, prior.amplitude) for kernel in first)
    assert all(least > 0 for least, _ in refreshed) and min(renewed for _, renewed in refreshed) < 3
    bounds = np.array([row["elbo"] for row in model.result_.history if row["start"] == "final"])
    assert model.converged_ and np.all(np.diff(bounds) > -1e-6 * np.abs(bounds[1:]))
