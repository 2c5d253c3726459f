"""Every model with every likelihood on the real data of the folder NSF_NB_DATA: does it finish, and what is it worth?

    python benchmarks/family.py                      all sets, models and likelihoods
    python benchmarks/family.py mites --models NSF   these

Numbers. seconds: wall time of fit(). deviance: on the last 5 % of the spots after one seeded shuffle; nearest, mean: of
the mean of the 5 nearest training spots, and of the mean of the gene. An `inf` is a gene that no training spot has.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

# file, genes kept by deviance, factors, size factors
SETS = {
    "visium": ("visium_sagittal_anterior1.h5ad", None, 12, "scanpy"),
    "hippocampus": ("slideseqv2_hippocampus_sub.h5ad", 1000, 10, "scanpy"),
    "bulb": ("st_mob.h5ad", 1000, 8, "scanpy"),
    "mites": ("eco_mite.h5ad", None, 3, "scanpy"),
}
MODELS = {"NSF": {}, "PNMF": {}, "NSFH": {}, "RSF": {}, "FA": {}, "RSFH": {}}
LIKELIHOODS = "poisson", "nb", "gaussian"


def load(name):
    """Training and held-out spots; genes that no training spot has are left out."""
    import nsf_nb as nsf
    from nsf_nb.data.files import read_h5ad

    file, n_top, n_factors, rule = SETS[name]
    adata = read_h5ad(Path(os.environ["NSF_NB_DATA"]) / file)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)]
    n = round(0.95 * adata.n_obs)
    total = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    train, val = adata[:n][total[:n] > 0].copy(), adata[n:][total[n:] > 0].copy()
    if n_top:
        nsf.pp.deviance(train, layer="counts", n_top=n_top)
        keep = train.var["highly_deviant"].to_numpy()
    else:
        keep = np.asarray(train.layers["counts"].sum(axis=0)).ravel() > 0
    parts = (part[:, keep] for part in (train, val))  # a spot may have none of the genes that are kept
    train, val = (part[np.asarray(part.layers["counts"].sum(axis=1)).ravel() > 0].copy() for part in parts)
    return train, val, n_factors, rule


def sizes(model, n_factors):
    """Numbers of factors: a hybrid has half of them without space."""
    return (n_factors - n_factors // 2, n_factors // 2) if model.endswith("H") else (n_factors,)


def main():
    """Run what is asked for and print a line for each fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--likelihoods", nargs="+", default=LIKELIHOODS)
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress, failed = False, 0
    warnings.simplefilter("error", RuntimeWarning)  # an overflow is not to be overlooked
    for name in args.sets:
        train, val, n_factors, rule = load(name)
        for model, likelihood in ((m, k) for m in args.models for k in args.likelihoods):
            began = time.perf_counter()
            fit = getattr(nsf, model)(*sizes(model, n_factors), likelihood=likelihood)
            fit.fit(train, layer="counts", size_factors=rule)
            seconds, table = time.perf_counter() - began, fit.score_table(val)["deviance"]
            finite = np.isfinite(fit.factors_.to_numpy()).all() and np.isfinite(fit.elbo_.total)
            failed += not finite
            line = f"{name:11s} {model:4s} {likelihood:8s} {seconds:7.1f} s  {fit.n_iter_:4d} sweeps"
            line += f"  {'converged' if fit.converged_ else 'stopped  '}  deviance {table.iloc[0]:.3f}"
            line += f"  nearest {table['nearest spots']:.3f}  mean {table['gene mean']:.3f}"
            print(line + ("" if finite else "  NOT FINITE"), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
