"""Calls of spatial genes: power and false calls on the mixed simulations, and the error of the importance.

    python benchmarks/importance.py [SEEDS]

Nothing is written; two tables are printed.
"""

import sys
import time

import numpy as np
import pandas as pd

import nsf_nb as nsf
from nsf_nb.data.anndata import from_anndata
from nsf_nb.reading.importance import spatial_importance
from nsf_nb.reading.spatial_calls import spatial_calls

PATTERNS = {"quilt": 4, "ggblocks": 4, "both": 8}
GENES = {"n_features": 500, "n_factors_nonspatial": 3, "n_features_mixed": 200, "n_features_nonspatial": 150}


def calls(pattern, seed):
    """A row for one simulation."""
    adata = nsf.simulate(pattern, seed=seed, **GENES)
    model = nsf.NSFH(PATTERNS[pattern], 3, n_inducing=600, n_starts=4, random_state=seed)
    model.fit(adata, layer="counts", checkpoint=None)
    data, _ = from_anndata(adata, "counts")
    began = time.perf_counter()
    found = spatial_calls(model.result_, data, 20, np.random.default_rng(seed))
    seconds, true = time.perf_counter() - began, adata.varm["spload"].any(axis=1)
    called, importance = found["spatial"], spatial_importance(model.result_, data, list(model.loadings_.columns)).genes
    w, v = adata.varm["spload"] @ adata.obsm["spfac"].sum(0), adata.varm["nsload"] @ adata.obsm["nsfac"].sum(0)
    return {
        "simulation": pattern, "seed": seed, "power": called[true].mean(), "others called": called[~true].mean(),
        "false among calls": (called & ~true).sum() / max(called.sum(), 1),
        "error of importance": np.sqrt(np.mean((importance["importance"] - w / (w + v)) ** 2)), "seconds": seconds,
    }


def main(n_seeds=3):
    """Print the table and its means."""
    nsf.settings.verbosity, nsf.settings.progress = "error", False
    rows = [calls(pattern, seed) for pattern in PATTERNS for seed in range(1, n_seeds + 1)]
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(table.groupby("simulation").mean(numeric_only=True).drop(columns="seed").round(3).to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
