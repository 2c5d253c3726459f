"""Quality on the simulations of the published comparison: our models beside the published means.

    python benchmarks/published.py                          NSF, PNMF and NSFH, seeds 1 to 5
    python benchmarks/published.py NSFH --patterns quilt    these
    python benchmarks/published.py --seeds 1 2 --json       one JSON object per fit

Simulations with the published settings: 36 × 36 spots, the last 5 % of the rows held out. "spatial": 200 genes;
"split": 250 genes follow a pattern and 250 a factor without space; "mixed": all 500 follow one of each.

Numbers. correlation: smallest over the true factors of the largest absolute correlation with a found one. distance:
L1 distance between the true and the found spatial importance of the genes, where importance is the share of a gene's
expected counts that spatial factors make. deviance, paper_deviance: on the held-out spots. published: means over five
seeds, from the tables in the folder `reference` beside NSF_NB_DATA; without it the column is empty.
"""

import argparse
import csv
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

KINDS = {"spatial": (200, 0, 0), "split": (500, 0, 250), "mixed": (500, 500, 0)}  # genes, mixed, without space
PLAN = {"NSF": ["spatial"], "PNMF": ["spatial"], "NSFH": ["split", "mixed"]}


def simulated(pattern, kind, seed):
    """One data set, and its numbers of factors."""
    import nsf_nb as nsf

    n_spatial, n_other = (8, 6) if pattern == "both" else (4, 3)
    n_genes, n_mixed, n_without = KINDS[kind]
    if kind == "spatial":
        return nsf.simulate(pattern, n_genes, seed=seed), n_spatial, 0
    given = {"n_features_mixed": n_mixed, "n_features_nonspatial": n_without, "seed": seed}
    return nsf.simulate(pattern, n_genes, n_other, **given), n_spatial, n_other


def importance(loadings, factors, n_spatial):
    """Share of each gene's expected counts that the first factors make."""
    counts = loadings * factors.mean(axis=0)
    return counts[:, :n_spatial].sum(axis=1) / np.maximum(counts.sum(axis=1), 1e-12)


def run(name, pattern, kind, seed):
    """Fit one model to one data set and score it."""
    import nsf_nb as nsf

    adata, n_spatial, n_other = simulated(pattern, kind, seed)
    train, val = (part.copy() for part in (adata[: round(0.95 * adata.n_obs)], adata[round(0.95 * adata.n_obs) :]))
    sizes = (n_spatial, n_other) if name == "NSFH" else (n_spatial + n_other,)
    began = time.perf_counter()
    model = getattr(nsf, name)(*sizes).fit(train, layer="counts")
    seconds = time.perf_counter() - began
    truth = np.hstack([train.obsm[key] for key in ("spfac", "nsfac") if n_other or key == "spfac"])
    found = np.abs(np.corrcoef(truth.T, model.factors_.T)[: truth.shape[1], truth.shape[1] :]).max(axis=1).min()
    scores = model.evaluate(val)
    row = {"model": name, "pattern": pattern, "kind": kind, "seed": seed, "seconds": seconds, "correlation": found}
    row |= {key: scores[key] for key in ("deviance", "paper_deviance")} | {"bound": model.elbo_.per_observation}
    if name == "NSFH":
        loadings = np.hstack([train.varm["spload"], train.varm["nsload"]])
        true = importance(loadings, truth, n_spatial)
        estimate = importance(model.loadings_.to_numpy(), model.factors_.to_numpy(), n_spatial)
        row["distance"] = np.abs(true - estimate).sum()
    return {key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()}


def published():
    """Means of the published tables by model, pattern and kind."""
    folder, found = Path(os.environ.get("NSF_NB_DATA", "")) / ".." / "reference", {}
    for file in ("paper_bm_sp.csv", "paper_bm_mixed.csv"):
        if not (folder / file).is_file():
            continue
        with (folder / file).open() as lines:
            for row in csv.DictReader(lines):
                kind = "spatial" if row["Jns"] == row["Jmix"] == "0" else "mixed" if row["Jmix"] != "0" else "split"
                worst = min(json.loads(row["factors_pearson"]))
                numbers = [worst, row.get("spatial_importance_dist"), row["dev_val_mean"]]
                numbers = [float(value or "nan") for value in numbers]
                found.setdefault((row["model"], row["sim"], kind), []).append(numbers)
    names = "correlation", "distance", "paper_deviance"
    return {key: dict(zip(names, np.mean(rows, axis=0), strict=True)) for key, rows in found.items()}


def main():
    """Run what is asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(PLAN), help="NSF, PNMF, NSFH")
    parser.add_argument("--patterns", nargs="+", default=["quilt", "ggblocks", "both"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress, reference = False, published()
    for name, pattern in ((m, p) for m in args.models for p in args.patterns):
        for kind in (kind for kind in PLAN[name] if kind in args.kinds):
            rows = [run(name, pattern, kind, seed) for seed in args.seeds]
            if args.json:
                print("\n".join(json.dumps(row) for row in rows), flush=True)
                continue
            paper, line = reference.get((name, pattern, kind), {}), f"{name:5s} {pattern:9s} {kind:8s}"
            for key in ("correlation", "distance", "paper_deviance"):
                if key in rows[0]:
                    line += f"  {key} {np.mean([row[key] for row in rows]):.4g}"
                    line += f" (published {paper[key]:.4g})" if key in paper else ""
            line += f"  deviance {np.mean([row['deviance'] for row in rows]):.3g}"
            print(f"{line}  {np.mean([row['seconds'] for row in rows]):.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
