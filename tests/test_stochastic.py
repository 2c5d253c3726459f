"""The stochastic engine: its bound against other ways to the same number, its gradients, its steps, and its fits."""

from dataclasses import replace

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from scipy.sparse import csr_matrix  # noqa: E402
from scipy.stats import nbinom, norm, poisson  # noqa: E402

from nsf_nb.core import ConfigError, DivergenceError, ShapeError, settings  # noqa: E402
from nsf_nb.data.counts import SpatialCounts  # noqa: E402
from nsf_nb.data.simulate import simulate  # noqa: E402
from nsf_nb.inference import stochastic as sampled  # noqa: E402
from nsf_nb.inference.fit import fit  # noqa: E402
from nsf_nb.inference.parts import IndependentPart, SpatialPart, projection_slope, spot_variance  # noqa: E402
from nsf_nb.inference.records import FitSettings  # noqa: E402
from nsf_nb.inference.stochastic_ascent import StochasticAscent  # noqa: E402
from nsf_nb.inference.svi import SviSettings, fit_svi, resume  # noqa: E402
from nsf_nb.models.hybrid import nsfh, rsfh  # noqa: E402
from nsf_nb.models.nonspatial import pnmf  # noqa: E402
from nsf_nb.models.spatial import nsf  # noqa: E402
from nsf_nb.probability.kernels import Kernel  # noqa: E402
from nsf_nb.probability.likelihoods import Gaussian, NegativeBinomial, Poisson  # noqa: E402
from nsf_nb.probability.priors import GaussianProcess, Independent, SpatialPosterior  # noqa: E402
from nsf_nb.probability.sparse_gp import project  # noqa: E402

LIKELIHOODS = Poisson(), NegativeBinomial(), Gaussian()


@pytest.fixture(scope="module")
def grid():
    """A small simulation: data and true patterns."""
    settings.progress = False
    adata = simulate("ggblocks", n_features=40, n_side=12, seed=1)
    sizes = np.random.default_rng(0).uniform(0.5, 1.5, adata.n_obs)
    return SpatialCounts.build(csr_matrix(adata.layers["counts"]), adata.obsm["spatial"], sizes), adata.obsm["spfac"]


@pytest.fixture(scope="module")
def start(grid):
    """A result to stand on: both kinds of factors, every spot an inducing point; with scaled data."""
    found = fit(nsfh(2, 2), grid[0], FitSettings(n_starts=1, max_sweeps=30))
    return found, replace(grid[0], coords=found.scaling.apply(grid[0].coords))


def engine_at(start, **changes):
    found, scaled = start
    return StochasticAscent(found.model, scaled, SviSettings(**changes), found.state, sampled.at_spots(found))


def bounds(engine):
    """The bound of each batch of an epoch, nothing moved."""
    seen = tuple(part.held[:2] for part in engine.parts)
    terms = [engine.terms(*batch, seen) for batch in engine.batches()]
    return [float(engine.n_batches * own - shared) for own, shared in terms]


# The bound


@pytest.mark.parametrize("make", [nsfh, rsfh])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda likelihood: likelihood.name)
def test_log_likelihood_is_that_of_scipy(make, likelihood):
    rng = np.random.default_rng(0)
    model, (s, n, j, l) = make(2, 1, likelihood=likelihood), (4, 9, 5, 3)
    f, w, b = rng.normal(size=(s, n, l)) / 2, rng.uniform(0.1, 1, (j, l)), rng.normal(size=j) / 3
    sizes, y, dispersion = rng.uniform(0.5, 2, n), rng.poisson(2.0, (n, j)).astype(float), rng.uniform(0.2, 1, j)
    emission = w, None if model.link.nonnegative else b, None if likelihood.start is None else dispersion
    ours = sampled.sampled_log_likelihood(model, y, sizes, tf.constant(f), emission)
    for draw, value in zip(f, ours, strict=True):
        mean = np.exp(draw) @ w.T if model.link.nonnegative else b + draw @ w.T
        mean = np.exp(mean) if not model.link.nonnegative and likelihood.name != "gaussian" else mean
        if likelihood.name == "gaussian":
            each = norm.logpdf(y, mean, np.sqrt(dispersion))
        elif likelihood.name == "nb":
            each = nbinom.logpmf(y, 1 / dispersion, 1 / (1 + dispersion * sizes[:, None] * mean))
        else:
            each = poisson.logpmf(y, sizes[:, None] * mean)
        assert np.isclose(value, each.sum(), rtol=1e-9)


def test_the_mean_over_batches_is_the_whole(start):
    for exact in (False, True):
        whole, batched = (bounds(engine_at(start, analytic_rate=exact, batch_size=b)) for b in (None, 30))
        assert len(whole) == 1 and len(batched) == 5
        assert np.isclose(np.mean(batched), whole[0], rtol=1e-6)


def test_every_spot_is_in_one_batch_and_batches_change(start):
    engine = engine_at(start, batch_size=30)
    rows = [[batch[0].numpy() for batch in engine.batches()] for _ in range(2)]
    for epoch in rows:
        assert sorted(np.concatenate(epoch)) == list(range(engine.data.n_obs))
    assert not np.array_equal(rows[0][0], rows[1][0])


def test_engines_agree_on_the_sampled_bound(start):
    found, scaled = start
    reference = sampled.sampled_elbo(found.model, found.state, scaled, 400, 3, sampled.at_spots(found))
    ours = bounds(engine_at(start, n_samples=400))[0]
    assert abs(ours - reference.total) < 5 * np.sqrt(2) * reference.standard_error
    assert reference.standard_error < 0.01 * abs(reference.total)
    assert abs(reference.total - found.elbo.total) < 0.02 * abs(reference.total)


def test_sampled_bound_counts_kl_and_blocks(grid, monkeypatch):
    model, data = nsf(4), grid[0]
    found = fit(model, data, FitSettings(n_starts=1, max_sweeps=20))
    scaled = replace(data, coords=found.scaling.apply(data.coords))
    mean, variance, kl = sampled.spots_of(found.state, scaled.coords)
    assert np.isclose(kl, found.elbo.kl, rtol=1e-3)
    free = sampled.sampled_elbo(model, found.state, scaled, 20, 0, (mean, variance, 0.0))
    assert np.isclose(free.total - sampled.sampled_elbo(model, found.state, scaled, 20).total, kl, rtol=1e-6)
    monkeypatch.setattr(sampled, "_ENTRIES", 50 * data.n_features)
    other = sampled.sampled_elbo(model, found.state, scaled, 20, 0, (mean, variance, 0.0))
    assert abs(other.total - free.total) < 5 * np.sqrt(2) * free.standard_error


# Parts


@pytest.mark.parametrize("m", [3, 8, 21])
def test_spot_variance_and_its_gradient(m):
    rng = np.random.default_rng(m)
    basis, scale = rng.normal(size=(m, 30)), tf.Variable(np.tril(rng.normal(size=(2, m, m))))
    weight = rng.normal(size=(2, 30))
    with tf.GradientTape() as tape:
        found = spot_variance(basis, scale)
        total = tf.reduce_sum(weight * found)
    assert np.allclose(found, ((scale @ basis) ** 2).numpy().sum(axis=1))
    full = 2 * np.stack([(r @ basis * w) @ basis.T for r, w in zip(scale.numpy(), weight, strict=True)])
    assert np.allclose(tape.gradient(total, scale), np.tril(full))


def small_parts():
    rng = np.random.default_rng(1)
    coords = rng.uniform(-2, 2, (20, 2))
    scale = (np.tril(rng.normal(size=(1, 6, 6)) / 4, -1) + np.eye(6) * 0.7).astype("f4")
    own = np.array([0.8]), np.array([1.2]), rng.normal(size=(1, 3)), rng.normal(size=(1, 6)), scale
    part = SpatialPart(SpatialPosterior(GaussianProcess(), coords[:6], *own), np.array([0]), coords, tf.float64)
    loose = IndependentPart(Independent(0.6), rng.normal(size=(20, 2)), rng.uniform(0.1, 1, (20, 2)), dtype=tf.float64)
    return coords, part, loose


def test_divergences_are_those_of_tfp():
    import tensorflow_probability as tfp

    _, part, loose = small_parts()
    tfd, r = tfp.distributions, part.scale().numpy()[0]
    q = tfd.MultivariateNormalTriL(part.mean[:, 0], np.linalg.cholesky(r.T @ r))
    reference = tfd.kl_divergence(q, tfd.MultivariateNormalTriL(np.zeros(6), np.eye(6)))
    assert np.isclose(part.kl(None), reference, rtol=1e-10)
    q = tfd.Normal(loose.mean, tf.exp(loose.log_variance / 2))
    each = tfd.kl_divergence(q, tfd.Normal(loose.centre, np.sqrt(0.6))).numpy()
    assert np.isclose(loose.kl(None), each.sum(), rtol=1e-10)
    assert np.isclose(loose.kl([3, 5]), each[[3, 5]].sum(), rtol=1e-10)


def test_gradients_of_the_whole_bound_are_finite_differences():
    rng = np.random.default_rng(2)
    coords, part, loose = small_parts()
    seen = part.seen(project(Kernel(), coords[:6], coords, 0.8))
    noise, y, s = rng.normal(size=(3, 20, 3)), rng.poisson(2.0, (20, 4)).astype(float), rng.uniform(0.5, 2, 20)
    w, model = tf.Variable(rng.uniform(0.2, 1, (4, 3))), nsfh(1, 2)

    def value():
        both = zip(part.marginals(None, seen), loose.marginals(None), strict=True)
        mean, variance = (tf.concat(one, axis=1) for one in both)
        draws = mean + tf.sqrt(variance) * noise
        own = tf.reduce_mean(sampled.sampled_log_likelihood(model, y, s, draws, (w, None, None)))
        own += sampled.rate_correction(s, draws, mean, variance, w)
        return own - part.kl(None) - loose.kl(None)

    variables = [*part.variables, part.log_amplitude, *loose.variables, w]
    with tf.GradientTape() as tape:
        found = value()
    for variable, gradient in zip(variables, tape.gradient(found, variables), strict=True):
        way, kept = rng.normal(size=variable.shape), variable.numpy()
        way = np.tril(way, -1) if variable is part.lower else way
        sides = []
        for sign in (1, -1):
            variable.assign(kept + sign * 1e-5 * way)
            sides.append(float(value()))
        variable.assign(kept)
        assert np.isclose(np.sum(way * gradient), (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-5)


def test_slope_of_a_projection():
    coords, *_ = small_parts()
    at = lambda rho: project(Kernel("matern52"), coords[:6], coords, rho)  # noqa: E731
    slope, residual = projection_slope(Kernel("matern52"), coords[:6], coords, at(0.8))
    above, below = at(0.8 * np.exp(1e-3)), at(0.8 * np.exp(-1e-3))
    assert np.allclose(slope, (above.basis - below.basis) / 2e-3, atol=1e-3)
    assert np.allclose(residual, (above.residual - below.residual) / 2e-3, atol=1e-3)


# Steps and fits


def test_one_trace_whatever_the_batches(start):
    for size in (None, 30):
        engine = engine_at(start, batch_size=size)
        for _ in range(2):
            engine.epoch()
            engine.move_kernels()
        assert engine.traces == {"step": 1, "kernel": 1}


def test_same_seed_same_bits(grid):
    how = SviSettings(max_epochs=3, n_inducing=40, batch_size=60, kernel_every=2)
    one, other = fit_svi(nsfh(2, 1), grid[0], how), fit_svi(nsfh(2, 1), grid[0], how)
    assert [row["elbo"] for row in one.history] == [row["elbo"] for row in other.history]
    assert np.array_equal(one.state.loadings, other.state.loadings) and np.array_equal(one.factors, other.factors)
    assert np.array_equal(one.state.spatial.length_scales, other.state.spatial.length_scales)
    assert one.elbo == other.elbo
    third = fit_svi(nsfh(2, 1), grid[0], replace(how, seed=1))
    assert third.history[-1]["elbo"] != one.history[-1]["elbo"]


@pytest.mark.parametrize("make", [nsf, pnmf])
def test_patterns_are_found(make, grid):
    data, truth = grid
    found = fit_svi(make(4), data, SviSettings(max_epochs=150, learn_kernels=False))
    correlation = np.abs(np.corrcoef(truth.T, found.factors.T)[:4, 4:]).max(axis=1)
    assert correlation.min() > 0.9
    assert found.elbo.total > found.history[0]["elbo"] and found.state.loadings.min() == 0
    assert {row["start"] for row in found.history} == {"svi"}
    assert [row["sweep"] for row in found.history] == list(range(len(found.history)))


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda likelihood: likelihood.name)
@pytest.mark.parametrize("make", [nsfh, rsfh])
def test_either_engine_continues_from_the_other(make, likelihood, grid):
    data, model = grid[0], make(1, 2, likelihood=likelihood)
    here = fit_svi(model, data, SviSettings(max_epochs=10, n_inducing=40, learn_kernels=False))
    engine = resume(here, data)
    before = engine.elbo().total
    assert before < here.elbo.total + 0.03 * abs(here.elbo.total)
    if likelihood.name != "nb":  # whose bound in closed form gives more away
        assert np.isclose(before, here.elbo.total, rtol=0.03)
    engine.refresh()
    assert engine.sweep().total > before
    again = fit_svi(model, data, SviSettings(max_epochs=1, n_samples=50, learn_kernels=False), begin=here)
    assert np.isclose(again.history[0]["elbo"], here.elbo.total, rtol=0.02)


def test_kernels_move_at_their_own_pace(grid):
    prior = GaussianProcess(length_scale=0.7, amplitude=0.9)
    found = fit_svi(nsf(2, prior), grid[0], SviSettings(max_epochs=21, n_inducing=40))
    assert [row["sweep"] for row in found.history if row["event"]] == [9, 19]
    shift = np.abs(np.log(found.state.spatial.length_scales / 0.7))
    assert np.all(shift > 0) and np.all(shift < 3e-4)
    still = fit_svi(nsf(2, prior), grid[0], SviSettings(max_epochs=21, n_inducing=40, learn_kernels=False))
    assert np.allclose(still.state.spatial.length_scales, 0.7) and np.allclose(still.state.spatial.amplitudes, 0.9)


def test_a_run_ends_when_the_smoothed_bound_stands_still(grid):
    from nsf_nb.inference.convergence import CubicConvergence

    how = SviSettings(max_epochs=400, n_inducing=40, learn_kernels=False, convergence=CubicConvergence(1e-2, 10, 2))
    found = fit_svi(nsf(2), grid[0], how)
    assert found.converged and 10 < len(found.history) < 400
    assert not fit_svi(nsf(2), grid[0], replace(how, max_epochs=5)).converged


def test_what_is_refused(grid, start):
    data, short = grid[0], SviSettings(max_epochs=20, n_inducing=40)
    with pytest.raises(DivergenceError, match="not finite.*rate of 50"):
        fit_svi(nsf(2), data, replace(short, rate=50.0))
    with pytest.raises(ShapeError, match="40 genes and 3 factors"):
        fit_svi(nsf(3), data, short, begin=start[0])
    with pytest.raises(ConfigError, match="result of the fit"):
        fit_svi(start[0].model, data, short, begin=start[0].state)
    for wrong in (nsf(2, likelihood=NegativeBinomial()), rsfh(1, 1)):
        with pytest.raises(ConfigError, match="analytic_rate"):
            fit_svi(wrong, data, replace(short, analytic_rate=True))
    for wrong in ({"n_samples": 0}, {"batch_size": 0}, {"rate": -1.0}, {"kernel_every": 0}, {"n_inducing": "many"}):
        with pytest.raises(ConfigError):
            SviSettings(**wrong)
