"""The published simulation grids, by this package: 150 fits (MEFISTO: three more), beside the published results.

    nsf sweep --preset simulations -o nsf-simulations -j 2                  the fits; goes on where it was stopped
    python benchmarks/published.py nsf-simulations                          our means beside the published ones
    python benchmarks/published.py nsf-simulations --write nbs/8_studies    the table that chapters 80 and 84 read

Rows: pattern, kind of genes, model; means over the seeds. kind: "spatial", 200 genes that follow a pattern; "split",
250 that do and 250 that follow a factor without space; "mixed", 500 that follow one of each. correlation: smallest over
the true factors of the largest absolute correlation with a found one. distance: L1 distance between the true and the
found spatial importance of the genes. The published tables lie in the folder `reference` beside NSF_NB_DATA.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import pandas as pd

KEY = ["data", "kind", "model", "seed"]
OURS = {
    "data": "data", "data_seed": "seed", "model": "model", "n_iter": "iterations", "wall_time": "wall_time",
    "cpu_time": "cpu_time", "peak_memory": "peak_memory", "converged": "converged", "sparsity": "sparsity",
    "train_deviance": "train_deviance", "train_paper_deviance": "train_paper_deviance", "val_deviance": "val_deviance",
    "val_paper_deviance": "val_paper_deviance", "factors_pearson_min": "correlation",
    "factors_pearson_mean": "mean_correlation", "loadings_pearson_min": "loadings_correlation",
    "loadings_clust_ari": "ari", "spatial_importance_dist": "distance",
}
PUBLISHED = {
    "sim": "data", "seed": "seed", "model": "model", "epochs": "iterations", "wtime": "wall_time", "ptime": "cpu_time",
    "converged": "converged", "sparsity": "sparsity", "dev_tr_mean": "train_paper_deviance",
    "dev_val_mean": "val_paper_deviance", "loadings_clust_ari": "ari", "spatial_importance_dist": "distance",
}


def kind_of(mixed, nonspatial):
    """Kind of genes."""
    return "mixed" if mixed > 0 else "split" if nonspatial > 0 else "spatial"


def ours(folder):
    """The results of a sweep, in the columns of the comparison."""
    import nsf_nb as nsf

    table = nsf.read_sweep(folder)
    late = table[table["status"] != "done"]
    if len(late):
        sys.exit(f"{len(late)} of {len(table)} runs are not done: {late['status'].value_counts().to_dict()}")
    counts = table[["data_n_features_mixed", "data_n_features_nonspatial"]].fillna(0)
    found = table[list(OURS)].rename(columns=OURS)
    return found.assign(kind=[kind_of(*row) for row in counts.to_numpy()], source="nsf_nb")


def published():
    """The published results, in the same columns."""
    folder, found = Path(os.environ.get("NSF_NB_DATA", "")) / ".." / "reference", []
    for file in ("paper_bm_sp.csv", "paper_bm_mixed.csv"):
        rows = pd.read_csv(folder / file)
        lists = {name: rows[name].map(json.loads) for name in ("factors_pearson", "loadings_pearson")}
        part = rows[[name for name in PUBLISHED if name in rows]].rename(columns=PUBLISHED)
        part["correlation"] = lists["factors_pearson"].map(min)
        part["mean_correlation"] = lists["factors_pearson"].map(lambda values: sum(values) / len(values))
        part["loadings_correlation"] = lists["loadings_pearson"].map(min)
        part["kind"] = [kind_of(*row) for row in rows[["Jmix", "Jns"]].to_numpy()]
        found.append(part)
    return pd.concat(found, ignore_index=True).assign(source="published")


def main():
    """Print a table, or write one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--write", type=Path, help="folder for simulations.csv")
    args = parser.parse_args()
    both = pd.concat([ours(args.folder), published()], ignore_index=True)
    both = both[["source", *KEY, *(name for name in dict.fromkeys(OURS.values()) if name not in KEY)]]
    both = both.sort_values(["source", *KEY], kind="stable").reset_index(drop=True)
    if args.write is not None:
        both.to_csv(args.write / "simulations.csv", index=False, float_format="%.6g")
        print(args.write / "simulations.csv")
        return
    shown = ["val_paper_deviance", "correlation", "distance", "wall_time"]
    means = both.groupby(["kind", "data", "model", "source"])[shown].mean().unstack("source")
    own = both[both["source"] == "nsf_nb"].groupby(["kind", "data", "model"])
    means[("val_deviance", "nsf_nb")] = own["val_deviance"].mean()
    print(means.to_string(float_format="{:.3f}".format, na_rep=""))


if __name__ == "__main__":
    main()
