"""The published comparison on tissues, by this package: all models on the data at hand, beside the published results.

    python benchmarks/tissues.py prepare DATA      the three tissues after quality control, as h5ad files
    nsf sweep --preset visium --data DATA/visium.h5ad --inducing 500 --likelihood poisson -o DATA/visium -j 2
    nsf sweep --preset hippocampus --data DATA/hippocampus.h5ad --inducing 400 --likelihood poisson -o DATA/hippocampus
    nsf sweep --preset liver --data DATA/liver.h5ad --inducing 288 --likelihood poisson -o DATA/liver -j 2
    python benchmarks/tissues.py table DATA        scores of both, model by model
    python benchmarks/tissues.py table DATA --write nbs/8_studies    the table that chapter 85 reads

Data. visium: spots with 100 counts and more of the section with 500 genes. hippocampus: the crop after quality control
as published, the 2,000 genes of the highest deviance. Both lie in NSF_NB_DATA. liver: cells in 289 wells, simulated by
benchmarks/full_size.py, no tissue at all. MEFISTO is left out (--mefisto adds it): on the section, mofapy2 had not
finished six factors after eighteen minutes. The published tables lie in the folder `reference` beside NSF_NB_DATA.
"""

import argparse
import os
import sys
from pathlib import Path

import pandas as pd

REFERENCE = {"visium": "visium_brain_sagittal", "hippocampus": "sshippo", "liver": "xyzeq_liver"}
KEY = ["data", "model", "likelihood", "size_factors", "n_factors", "n_inducing"]
OURS = {
    "n_iter": "iterations", "wall_time": "wall_time", "cpu_time": "cpu_time", "peak_memory": "peak_memory",
    "converged": "converged", "sparsity": "sparsity", "train_deviance": "train_deviance",
    "train_paper_deviance": "train_paper_deviance", "val_deviance": "val_deviance",
    "val_paper_deviance": "val_paper_deviance", "val_rmse": "val_rmse",
}
PUBLISHED = {
    "model": "model", "lik": "likelihood", "sz": "size_factors", "L": "n_factors", "M": "n_inducing",
    "epochs": "iterations", "wtime": "wall_time", "ptime": "cpu_time", "converged": "converged",
    "sparsity": "sparsity", "dev_tr_mean": "train_paper_deviance", "dev_val_mean": "val_paper_deviance",
    "rmse_val": "val_rmse",
}


def prepare(folder: Path) -> None:
    """Write the tissues, ready for a sweep."""
    import anndata
    from full_size import simulate

    import nsf_nb as nsf

    place = Path(os.environ.get("NSF_NB_DATA", ""))
    section = anndata.read_h5ad(place / "visium_sagittal_anterior1.h5ad")
    crop = anndata.read_h5ad(place / "slideseqv2_hippocampus_sub.h5ad")
    found = {
        "visium": nsf.pp.qc(section, layer="counts", min_counts=100),
        "hippocampus": nsf.pp.qc(crop, layer="counts", min_counts=100, max_mito_fraction=0.2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, adata in found.items():
        nsf.pp.deviance(adata, layer="counts", n_top=2000)
        chosen = adata[:, adata.var["highly_deviant"]]
        found[name] = anndata.AnnData(chosen.layers["counts"].copy(), obsm={"spatial": chosen.obsm["spatial"].copy()})
    found["liver"] = simulate("liver", "poisson")
    for name, adata in found.items():
        adata.write_h5ad(folder / f"{name}.h5ad")
        print(f"{name:12}{adata.n_obs:,} × {adata.n_vars:,}")


def ours(folder: Path) -> pd.DataFrame:
    """The results of the three sweeps, in the columns of the comparison."""
    import nsf_nb as nsf

    tables = []
    for name in REFERENCE:
        table = nsf.read_sweep(folder / name)
        late = table[table["status"] != "done"]
        if len(late):
            sys.exit(f"{name}: {len(late)} of {len(table)} runs are {late['status'].value_counts().to_dict()}")
        tables.append(table.assign(data=name))
    found = pd.concat(tables, ignore_index=True)
    found["likelihood"] = found["likelihood"].fillna("gaussian")
    return found[KEY + list(OURS)].rename(columns=OURS).assign(source="nsf_nb")


def published() -> pd.DataFrame:
    """The published results, in the same columns."""
    folder, found = Path(os.environ.get("NSF_NB_DATA", "")) / ".." / "reference", []
    for name, file in REFERENCE.items():
        rows = pd.read_csv(folder / f"paper_{file}.csv")
        found.append(rows[list(PUBLISHED)].rename(columns=PUBLISHED).assign(data=name, source="published"))
    table = pd.concat(found, ignore_index=True)
    table["likelihood"] = table["likelihood"].replace({"poi": "poisson", "gau": "gaussian"})
    table.loc[table["likelihood"] == "gaussian", "size_factors"] = "scanpy"  # fitted to normalised values: chapter 703
    return table


def main() -> None:
    """Read the arguments, prepare or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="folder for tissues.csv")
    given = parser.parse_args()
    if given.what == "prepare":
        return prepare(given.folder)
    table = pd.concat([ours(given.folder), published()], ignore_index=True)
    if given.write:
        table.to_csv(given.write / "tissues.csv", index=False, float_format="%.6g")
    kept = table[table["size_factors"].eq("scanpy") | table["likelihood"].eq("gaussian")]
    best = kept.groupby(["data", "likelihood", "model", "n_factors", "source"])["val_paper_deviance"].min()
    print(best.unstack(["n_factors", "source"]).round(2).to_string())
    print(table.groupby(["data", "source"])[["wall_time", "cpu_time"]].sum().round(0).to_string())


if __name__ == "__main__":
    main()
