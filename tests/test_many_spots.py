"""The schedule of fits with many spots: what it finds, what it writes down, stopped and resumed."""

import numpy as np
import pytest
from test_care import same, stop_after

import nsf_nb as nsf
from nsf_nb.inference import fit as fits
from nsf_nb.inference.factor_updates import SpatialFactors
from nsf_nb.inference.sampled_start import SETTLE
from nsf_nb.probability.priors import GaussianProcess

TINY = {"n_factors": 3, "n_inducing": 64, "n_starts": 1, "random_state": 0}


@pytest.fixture(scope="module")
def adata():
    """More spots than are raced with, few genes; every twentieth spot is held out."""
    return nsf.simulate("ggblocks", 16, n_side=132, seed=1)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(nsf.settings, "progress", False)


@pytest.fixture(scope="module")
def parts(adata):
    held = np.arange(adata.n_obs) % 20 == 0
    assert fits.many_spots((~held).sum())
    return adata[~held].copy(), adata[held].copy()


@pytest.fixture(scope="module")
def found(parts):
    return nsf.NSF(**TINY).fit(parts[0])


def rows_of(model, start):
    return [row for row in model.result_.history if row["start"] == start]


def test_its_history(found):
    """All spots settle on the coarse cover; no bound falls; kernels move at the sweeps of the schedule only."""
    assert found.converged_ and 5 < len(rows_of(found, "all spots")) <= SETTLE
    for start in ("all spots", "final"):
        bounds = np.array([row["elbo"] for row in rows_of(found, start)])
        assert np.all(np.diff(bounds) > -1e-6 * np.abs(bounds[1:]))
    moved = {row["sweep"] for row in rows_of(found, "final") if "moved" in row["event"]}
    assert moved <= set(fits.MANY_SPOTS.learn_at)


def test_beside_the_schedule_of_few_spots(found, parts, monkeypatch):
    """Held-out deviance within half a per cent of that of a race with all spots and the other schedule."""
    train, val = parts
    for name in ("many_spots", "some_spots"):
        monkeypatch.setattr(fits, name, {"many_spots": lambda n: False, "some_spots": lambda data, rng: data}[name])
    other = nsf.NSF(**TINY).fit(train)
    assert not rows_of(other, "all spots")
    new, old = (float(model.score_table(val).loc["NSF", "deviance"]) for model in (found, other))
    assert new < 1.005 * old, (new, old)


def test_thrift_leaves_covariances_alone(parts):
    """A group that expects less than its least gain renews nothing; without one it renews all that are stale."""
    coords = np.random.default_rng(0).uniform(-2, 2, size=(300, 2))
    factors = SpatialFactors(GaussianProcess(length_scale=0.5), coords[::6], coords, 2)
    exposure = np.random.default_rng(1).gamma(2.0, 2.0, size=(300, 2)).astype("f4")
    for l in range(2):
        factors.regress(l, np.sin(coords[:, l]), exposure[:, l])
    exposure *= np.array([1.0, 1.3], "f4") / np.exp(factors.log_factors + factors.variance / 2)
    expected = 0.25 * np.square(0.3 * factors.sites[:, 1] * factors.variance[:, 1]).sum()
    factors.least_gain = 1.1 * expected
    assert expected > 0.01 and factors.refresh(exposure) == 0
    factors.least_gain = 0.9 * expected
    assert factors.refresh(exposure) == 1


@pytest.mark.parametrize("start", ["all spots", "final"])
def test_resumed(parts, found, tmp_path, monkeypatch, start):
    """Stopped while it settles, or in the final run, and resumed: the bits of an undisturbed fit."""
    train, starts = parts[0], [row["start"] for row in found.result_.history]
    monkeypatch.setattr(nsf.settings, "cache_dir", tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, starts.index(start) + 4)
        assert not nsf.NSF(**TINY).fit(train).converged_
    again = nsf.NSF(**TINY).fit(train, resume=True)
    assert same(again, found) and [*again.history["elbo"]] == [*found.history["elbo"]]
