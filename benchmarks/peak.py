"""What share of the machine's speed the phases of a fit reach, each measured alone on arrays of given sizes.

    python benchmarks/peak.py                          10,000 spots, 1,000 inducing points, 500 genes, 12 factors
    python benchmarks/peak.py 36000 3000 2000 20       other sizes: N, M, J, L
    python benchmarks/suites.py peak                   several sizes, into the table that chapter 87 reads

The unit is the peak: products of two square float32 matrices, by TensorFlow or by NumPy, measured before each phase;
the fastest of all.
`share` is the operations of a phase that are executed, over its seconds, over the peak. An addition and a
multiplication are two operations; those of single entries (exponentials, quotients, logarithms) are not counted.

gram        A Λ Aᵀ, one factor: 2NM² (the full square), from 512 inducing points on in eight bands: 1.125 NM²
cholesky    of B = I + a² A Λ Aᵀ in float64, M³/3, and the inverse of the root in float32, M³: a float64 product is
            half as fast, so that this phase can not reach the whole peak
explained   aᵀSa, one factor, in four bands of the triangular root, 1.25 NM², or in eight: 1.125 NM²
refresh     one factor's covariance and mean anew, by `SpatialFactors.regress`: the three above, and 6NM + 2M²
project     one kernel: the Cholesky factor of K_uu and the triangular solve for A, in float64: M³/3 + NM²
ascend      of a sweep: A times N×L, Aᵀ times M×L, L roots twice, and the back-tracking: 4NML + 4M²L
pass        over the counts: three products of N×J with L (Poisson), 6NJL; six (negative binomial), 12NJL
"""

import argparse
import sys
import time

PHASES = "gram", "cholesky", "explained", "refresh", "project", "ascend", "pass"


def fastest(function, repeats=5):
    """Seconds of the fastest of some calls; the first one, which may compile, does not count."""
    function()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def sgemm_peak(n=1200, repeats=20):
    """Operations a second of a product of two n×n float32 matrices."""
    import numpy as np
    import tensorflow as tf

    a = np.random.default_rng(0).normal(size=(n, n)).astype("f4")
    t = tf.constant(a)
    seconds = min(fastest(lambda: a @ a, repeats), fastest(lambda: tf.matmul(t, t).numpy(), repeats))
    return 2.0 * n**3 / seconds


def operations(n, m, j, l, likelihood="poisson"):
    """Operations that each phase executes, as stated above."""
    from nsf_nb.probability.products import LARGE

    square, half = (1.125, 1.125) if m >= LARGE else (2.0, 1.25)
    found = {"gram": square * n * m**2, "cholesky": 4 / 3 * m**3, "explained": half * n * m**2}
    found["refresh"] = sum(found.values()) + 6.0 * n * m + 2.0 * m**2
    found |= {"project": n * m**2 + m**3 / 3, "ascend": 4.0 * n * m * l + 4.0 * m**2 * l}
    return found | {"pass": (6.0 if likelihood == "poisson" else 12.0) * n * j * l}


def pass_over(likelihood, data, log_factors, variance, loadings, dispersion=None):
    """What an engine does to read the counts once, as a function."""
    import numpy as np

    m, expected = log_factors.astype("f4"), np.exp(log_factors + variance / 2).astype("f4")
    loadings, sizes = loadings.astype("f4"), data.size_factors.astype("f4")
    own = None if dispersion is None else dispersion.astype("f4")

    def once():
        for rows, counts in data.blocks():
            likelihood.read(counts, m[rows], expected[rows], loadings, sizes[rows], own)

    return once


def phases(adata, n_inducing, n_factors, likelihood="poisson"):
    """What is to be measured, by phase: functions without arguments, on factors of these sizes."""
    import numpy as np
    import tensorflow as tf

    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.data.scaling import CoordinateScaling
    from nsf_nb.estimators import LIKELIHOODS
    from nsf_nb.inference.factor_updates import SpatialFactors
    from nsf_nb.probability.priors import GaussianProcess
    from nsf_nb.probability.sparse_gp import explained_variance, posterior_scale, project, weighted_gram

    data, rng, prior = from_anndata(adata, None, size_factors="scanpy")[0], np.random.default_rng(0), GaussianProcess()
    coords = CoordinateScaling.fit(data.coords).apply(data.coords)
    points = coords[rng.choice(len(coords), n_inducing, replace=False)]
    factors = SpatialFactors(prior, points, coords, n_factors)
    sites, targets = rng.gamma(1.0, size=len(coords)), rng.normal(size=(len(coords), n_factors))
    factors.regress_alike(targets, sites)
    basis, weights = factors.projection(0).basis, tf.constant(sites, tf.float32)
    gram, a = weighted_gram(basis, weights), tf.constant(1.0)
    counts, exposure = np.exp(0.1 * targets).astype("f4"), np.ones_like(targets, dtype="f4")
    kind, loadings = LIKELIHOODS[likelihood](), rng.gamma(1.0, size=(data.n_features, n_factors))
    dispersion = np.full(data.n_features, 0.1) if kind.weighted else None
    length = factors.length_scales[0]
    return {
        "gram": lambda: weighted_gram(basis, weights).numpy(),
        "cholesky": lambda: posterior_scale(gram, a)[0].numpy(),
        "explained": lambda: explained_variance(basis, factors.scale[0]).numpy(),
        "refresh": lambda: factors.regress(0, targets[:, 0], sites),
        "project": lambda: project(prior.kernel, points, coords, length).basis.numpy(),
        "ascend": lambda: factors.ascend(counts, exposure),
        "pass": pass_over(kind, data, 0.1 * targets, np.full_like(targets, 0.01), loadings, dispersion),
    }


def measure(adata, n_inducing, n_factors, likelihood="poisson", repeats=5):
    """A row for each phase: seconds, operations, share of the peak; and the peak itself."""
    counted, rows, peaks = operations(adata.n_obs, n_inducing, adata.n_vars, n_factors, likelihood), [], []
    for part, function in phases(adata, n_inducing, n_factors, likelihood).items():
        peaks.append(sgemm_peak())
        rows.append({"part": part, "seconds": fastest(function, repeats), "operations": counted[part]})
    peak = max(peaks)
    return [row | {"share": row["operations"] / row["seconds"] / peak} for row in rows], peak


def main():
    """Measure one set of sizes and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 1000, 500, 12], help="N M J L")
    parser.add_argument("--likelihood", choices=["poisson", "nb"], default="poisson")
    args = parser.parse_args()
    from full_size import simulate

    n, m, j, l = args.sizes
    adata = simulate({"n": n, "layout": "disc", "nonzero": 0.2}, args.likelihood, j)
    rows, peak = measure(adata, m, l, args.likelihood)
    print(f"peak {peak / 1e9:.0f} Gflop/s")
    for row in rows:
        print(f"{row['part']:10} {row['seconds']:9.4f} s {row['operations'] / 1e9:10.2f} Gflop {row['share']:7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
