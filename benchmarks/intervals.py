"""Do 90 % intervals hold nine of ten? Counts and factors of data that the model has drawn itself, and counts of Visium.

    python benchmarks/intervals.py                       all: simulations, then the set in the folder NSF_NB_DATA
    python benchmarks/intervals.py --seeds 0 --no-data   one seed of the simulations

Simulation: 1,300 places in a square, four Gaussian processes (Matérn 3/2, length scale 0.6 of a side of 4, amplitude
1), sparse gamma loadings of 150 genes, Poisson or negative binomial counts (dispersion 0.3). 1,000 spots are fitted.

Numbers. plain: share of held-out counts between the ends of the interval of whole numbers. ranks: share of randomised
ranks inside, to be compared with 0.9. factors: share of true factors within `factor_interval`, true factors brought
to the scale of the fit by the ratio of means over the training spots; narrow: within the fit's own standard deviations;
at the held-out spots and, second, at those of the fit. genes: 5 % and 95 % quantiles of the ranks by gene. held-out
genes: deviance of a third of the genes at the held-out spots, from the other genes and the place, the other genes, the
place, the five nearest spots, the mean of the gene.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

LEVEL, NORMAL = 0.9, 1.6448536


def simulation(seed, dispersion=None, n_obs=1300, n_features=150, n_factors=4):
    """Data from the model: an AnnData with the true log factors."""
    import anndata

    from nsf_nb.probability.kernels import Kernel

    rng = np.random.default_rng(seed)
    places = rng.uniform(-2, 2, (n_obs, 2))
    root = np.linalg.cholesky(Kernel().matrix(places, places, 0.6).numpy() + 1e-6 * np.eye(n_obs))
    log_factors = root @ rng.standard_normal((n_obs, n_factors))
    on = rng.random((n_features, n_factors)) < 0.3
    on[np.arange(n_features), rng.integers(n_factors, size=n_features)] = True
    mean = np.exp(log_factors) @ (rng.gamma(0.5, 1.0, on.shape) * on).T
    rate = mean if dispersion is None else mean * rng.gamma(1 / dispersion, dispersion, mean.shape)
    counts = rng.poisson(rate).astype("f4")
    return anndata.AnnData(counts, obsm={"spatial": places, "truth": log_factors})


def visium():
    """Training spots and a tenth that is held out, of the sagittal section in the folder NSF_NB_DATA."""
    from nsf_nb.data.files import read_h5ad

    adata = read_h5ad(Path(os.environ["NSF_NB_DATA"]) / "visium_sagittal_anterior1.h5ad")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)]
    n = round(0.9 * adata.n_obs)
    train = adata[:n].copy()
    genes = np.asarray(train.layers["counts"].sum(axis=0)).ravel() > 0
    return train[:, genes].copy(), adata[n:, genes].copy()


def factor_shares(model, train, val):
    """Shares of true factors within narrow and wide intervals, at new spots and at those of the fit."""
    from nsf_nb.reading.draws import log_moments
    from nsf_nb.reading.information import _moments_at
    from nsf_nb.reading.metrics import match_factors

    found = model.result_
    columns, _ = match_factors(np.exp(train.obsm["truth"]), found.factors)
    shift = np.log(found.factors[:, columns].mean(axis=0) / np.exp(train.obsm["truth"]).mean(axis=0))
    shares = {}
    for name, part in (("new", val), ("fit", train)):
        places = part.obsm["spatial"]
        m, v = log_moments(found) if part is train else _moments_at(found.state, found.scaling.apply(places))
        m, v, truth = m[:, columns], v[:, columns], part.obsm["truth"] + shift
        lower, upper = (np.log(end.to_numpy()[:, columns]) for end in model.factor_interval(part, LEVEL))
        shares["narrow", name] = float((np.abs(truth - m) < NORMAL * np.sqrt(v)).mean())
        shares["wide", name] = float(((truth > lower) & (truth < upper)).mean())
    return shares


def line(name, model, train, val, seconds):
    """One line of the table."""
    from nsf_nb.imputation import score_imputation

    said = model.coverage(val, LEVEL)
    text = f"{name:22s} {seconds:6.1f} s  plain {said.plain:.3f}  ranks {said.randomised:.3f}"
    if "truth" in val.obsm:
        shares = factor_shares(model, train, val)
        for kind in ("wide", "narrow"):
            text += f"  {'factors' if kind == 'wide' else 'narrow'} {shares[kind, 'new']:.3f} {shares[kind, 'fit']:.3f}"
    table = score_imputation(model, val, np.arange(val.n_vars) % 3 == 0)["deviance"]
    by_gene = np.quantile(said.by_feature, [0.05, 0.95])
    text += f"  genes {by_gene[0]:.2f}-{by_gene[1]:.2f}  held-out genes"
    return text + "".join(f" {value:.3f}" for value in table)


def main():
    """Fit, measure and print a line for each fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--likelihoods", nargs="+", default=["poisson", "nb"])
    parser.add_argument("--no-data", action="store_true")
    parser.add_argument("--n-inducing", type=int, default=300)
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress = False
    for likelihood in args.likelihoods:
        for seed in args.seeds:
            adata = simulation(seed, 0.3 if likelihood == "nb" else None)
            train, val, began = adata[:1000].copy(), adata[1000:].copy(), time.perf_counter()
            model = nsf.NSF(4, likelihood=likelihood, n_inducing=args.n_inducing).fit(train)
            name = f"simulation {likelihood} {seed}"
            print(line(name, model, train, val, time.perf_counter() - began), flush=True)
    if args.no_data or "NSF_NB_DATA" not in os.environ:
        return 0
    train, val = visium()
    for likelihood in args.likelihoods:
        began = time.perf_counter()
        model = nsf.NSF(12, likelihood=likelihood, n_inducing=args.n_inducing)
        model.fit(train, layer="counts", size_factors="scanpy")
        print(line(f"visium {likelihood}", model, train, val, time.perf_counter() - began), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
