"""Independent oracles of the engine: TensorFlow Probability, dense Gaussian processes, scikit-learn's NMF, SciPy."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from nsf_nb.data.counts import SpatialCounts  # noqa: E402
from nsf_nb.inference.coordinate_ascent import CoordinateAscent  # noqa: E402
from nsf_nb.inference.factor_updates import SpatialFactors  # noqa: E402
from nsf_nb.inference.kernel_learning import Candidates, Sites, tiles_of  # noqa: E402
from nsf_nb.models.spatial import nsf  # noqa: E402
from nsf_nb.probability.inducing import choose_inducing_points  # noqa: E402
from nsf_nb.probability.kernels import FAMILIES, Kernel  # noqa: E402
from nsf_nb.probability.priors import GaussianProcess, SpatialPosterior  # noqa: E402
from nsf_nb.probability.sparse_gp import JITTER, kl_covariance, posterior_scale, project, weighted_gram  # noqa: E402

N, M, LENGTH_SCALE, AMPLITUDE = 70, 15, 0.9, 1.4


def regression(seed, n_dims):
    """Places, inducing points, precisions and targets."""
    rng = np.random.default_rng(seed)
    coords = rng.uniform(-2, 2, (N, n_dims))
    target = np.sin(2 * coords[:, 0]) + rng.normal(size=N) / 3
    return coords, choose_inducing_points(coords, M), rng.uniform(2, 20, N), target


def posterior_of(kernel, coords, points, precision, target):
    """The whitened posterior of a sparse regression: as an object, with its half log determinant."""
    p = project(kernel, points, coords, LENGTH_SCALE)
    scale, half_log_det = posterior_scale(weighted_gram(p.basis, precision.astype("f4")), AMPLITUDE)
    scale64 = scale.numpy().astype(float)
    mean = scale64.T @ (scale64 @ (AMPLITUDE * p.basis.numpy() @ (precision * target)))
    trend = np.zeros((1, coords.shape[1] + 1))
    lengths, amplitudes = np.array([LENGTH_SCALE]), np.array([AMPLITUDE])
    prior = GaussianProcess(kernel, LENGTH_SCALE, AMPLITUDE)
    found = SpatialPosterior(prior, points, lengths, amplitudes, trend, mean[None], scale.numpy()[None])
    return found, half_log_det, p.chol.numpy()


def dense(kernel, coords, precision, target, places):
    """Textbook posterior of a Gaussian process."""
    covariance = AMPLITUDE**2 * (kernel.matrix(coords, coords, LENGTH_SCALE).numpy() + JITTER * np.eye(len(coords)))
    cross = AMPLITUDE**2 * kernel.matrix(coords, places, LENGTH_SCALE).numpy()
    gain = np.linalg.solve(covariance + np.diag(1 / precision), cross)
    return gain.T @ target, AMPLITUDE**2 - (cross * gain).sum(axis=0)


@pytest.mark.parametrize(
    "family, seed, n_dims", [("matern32", 0, 1), ("matern32", 3, 3), *[(family, 1, 2) for family in sorted(FAMILIES)]]
)
def test_marginals_and_divergence_are_those_of_tfp(seed, n_dims, family):
    import tensorflow_probability as tfp

    kernel = Kernel(family)
    coords, points, precision, target = regression(seed, n_dims)
    posterior, half_log_det, chol = posterior_of(kernel, coords, points, precision, target)
    places = np.random.default_rng(9).uniform(-3, 3, (40, n_dims))
    mean, variance = posterior.at(places)

    scale = posterior.scale[0].astype(float)
    location, root = AMPLITUDE * chol @ posterior.mean[0], AMPLITUDE * chol @ scale.T
    vgp = tfp.distributions.VariationalGaussianProcess(
        kernel.tfp(LENGTH_SCALE, AMPLITUDE), places, points, variational_inducing_observations_loc=location,
        variational_inducing_observations_scale=root, jitter=JITTER * AMPLITUDE**2, observation_noise_variance=0.0,
    )
    assert np.allclose(mean[:, 0], vgp.mean(), atol=2e-3)
    assert np.allclose(variance[:, 0], vgp.variance(), atol=2e-3)

    tril = tfp.distributions.MultivariateNormalTriL
    ours = tril(location, np.linalg.cholesky(root @ root.T + 1e-12 * np.eye(M)))
    kl = kl_covariance(tf.constant(posterior.scale[0]), half_log_det) + 0.5 * (posterior.mean[0] ** 2).sum()
    assert np.isclose(kl, tfp.distributions.kl_divergence(ours, tril(np.zeros(M), AMPLITUDE * chol)), rtol=1e-3)


@pytest.mark.parametrize("seed, n_dims", [(0, 1), (1, 2), (2, 2), (3, 3)])
def test_with_inducing_points_at_the_spots_it_is_the_dense_process(seed, n_dims):
    coords, _, precision, target = regression(seed, n_dims)
    places = np.random.default_rng(9).uniform(-3, 3, (40, n_dims))
    kernel = Kernel("matern32")
    posterior = posterior_of(kernel, coords, coords, precision, target)[0]
    mean, variance = dense(kernel, coords, precision, target, places)
    found = posterior.at(places)
    assert np.allclose(found[0][:, 0], mean, atol=2e-3) and np.allclose(found[1][:, 0], variance, atol=2e-3)

    factors = SpatialFactors(posterior.prior, coords, coords, 1)
    factors.regress(0, target, precision)
    mean, variance = dense(kernel, coords, precision, target, coords)
    assert np.allclose(factors.log_factors[:, 0], mean, atol=2e-3)
    assert np.allclose(factors.variance[:, 0], variance, atol=2e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_variance_the_updates_are_those_of_kl_nmf(seed):
    from sklearn.decomposition import NMF

    rng = np.random.default_rng(seed)
    factors, loadings = rng.gamma(1.0, size=(50, 3)) + 0.1, rng.gamma(1.0, size=(20, 3)) + 0.1
    counts = rng.poisson(3 * factors @ loadings.T).astype(float)
    counts[0, 0] = counts.max() + 5
    group = SpatialFactors(GaussianProcess(), rng.uniform(size=(5, 2)), rng.uniform(size=(50, 2)), 3)
    group.log_factors, group.variance[:] = np.log(factors).astype("f4"), 0.0
    data = SpatialCounts.build(counts, rng.uniform(size=(50, 2)))
    engine = CoordinateAscent(nsf(3), data, group, loadings)

    # One iteration of scikit-learn moves W (our factors) with H fixed, then H (our loadings) with the new W.
    nmf = NMF(3, solver="mu", beta_loss="kullback-leibler", max_iter=1, init="custom", tol=0)
    moved = nmf.fit_transform(counts, W=factors.copy(), H=loadings.T.copy())
    # Pseudo-counts are what a factor would be if its rate met them: e^m W_l = c.
    assert np.allclose(engine.pseudo_counts / engine.exposure, moved, rtol=1e-4)

    group.log_factors = np.log(moved).astype("f4")
    engine.restart()
    step = loadings * engine.loading_ratio / engine.factor_totals
    assert np.allclose(step, nmf.components_.T, rtol=1e-4)


@pytest.mark.parametrize("n_points", [N, M])
@pytest.mark.parametrize("seed, n_dims", [(0, 1), (1, 2), (2, 3)])
def test_the_collapsed_bound_is_the_evidence_of_the_sites(seed, n_dims, n_points):
    from scipy.stats import multivariate_normal

    coords, points, precision, target = regression(seed, n_dims)
    points = coords if n_points == N else points
    kernel, zero = Kernel("matern32"), np.zeros(N)
    group = SpatialFactors(GaussianProcess(kernel, LENGTH_SCALE, AMPLITUDE), points, coords, 1)
    candidates = Candidates(tiles_of(group), Sites(precision, target, zero, zero, zero))
    for length_scale, amplitude in [(0.5, 1.0), (0.9, 1.4), (2.0, 0.7)]:
        if n_points == N:
            correlation = kernel.matrix(coords, coords, length_scale).numpy() + JITTER * np.eye(N)
        else:  # independent residuals: the correlations that pass through the inducing points, and ones on the diagonal
            inner = kernel.matrix(points, points, length_scale).numpy() + JITTER * np.eye(M)
            cross = kernel.matrix(points, coords, length_scale).numpy()
            correlation = cross.T @ np.linalg.solve(inner, cross)
            np.fill_diagonal(correlation, 1.0)
        covariance = amplitude**2 * correlation + np.diag(1 / precision)
        evidence = multivariate_normal(zero, covariance).logpdf(target) + 0.5 * N * np.log(2 * np.pi)
        assert np.isclose(candidates.evidence(length_scale, amplitude), evidence, atol=0.02, rtol=1e-4)
