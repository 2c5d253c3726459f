"""Time and memory of the studies' fits on simulated counts of the published size, beside what the published code took.

    python benchmarks/full_size.py                        all fits below
    python benchmarks/full_size.py puck-NSFH liver-NSFH   these
    python benchmarks/full_size.py --json                 one JSON object per fit
    python benchmarks/full_size.py --write FILE.csv       with its numbers in the table that the studies read
    python benchmarks/full_size.py --list                 what there is

Data (simulated, no file needed): a disc of beads, a hexagonal section, or cells in wells. Ten factors are smooth
fields with length scales of 2 to 20 per cent of the width, ten differ from spot to spot; loadings are sparse gammas,
depth is log-normal, counts are Poisson or negative binomial, and the mean is such that the published share of counts
is not zero. The last 5 per cent of the rows, which are in random order, are held out.

Numbers. seconds: wall time of fit() without imports and simulation; below it, those of its phases. predicted: what
`nsf.check` says of it beforehand. peak GB: largest resident memory of the process; before fit: of it libraries and
data. deviance: on the held-out spots; nearest, mean: of the mean of the 5 nearest training spots and of all.
published, published processor: wall and processor seconds of the published code with these settings, on a node of a
cluster and its own data (paper_*.csv).
"""

import argparse
import json
import os
import time
from pathlib import Path

from engine import peak_megabytes, run_alone

# Sizes after quality control. The published studies: 36,536 beads, 2,487 spots, 289 wells; 2,000 genes.
TISSUES = {
    "puck": {"n": 36_536, "layout": "disc", "nonzero": 0.12},
    "section": {"n": 2_487, "layout": "hexagons", "nonzero": 0.6},
    "liver": {"n": 2_500, "layout": "wells", "nonzero": 0.15},
}
HALVES = {"n_spatial": 10, "n_nonspatial": 10}
FITS = {  # tissue, model, its arguments, likelihood, published seconds: wall and processor
    "puck-NSF": ("puck", "NSF", {"n_factors": 20, "n_inducing": 3000}, "poisson", (15_884, 169_714)),
    "puck-NSFH": ("puck", "NSFH", {**HALVES, "n_inducing": 3000}, "poisson", (9_119, 97_481)),
    "puck-NSFH-nb": ("puck", "NSFH", {**HALVES, "n_inducing": 3000}, "nb", None),
    "section-NSF": ("section", "NSF", {"n_factors": 20, "n_inducing": 2363}, "poisson", (3_068, 33_333)),
    "section-NSFH": ("section", "NSFH", {**HALVES, "n_inducing": 2363}, "poisson", (2_375, 26_208)),
    "liver-NSFH": ("liver", "NSFH", {**HALVES, "n_inducing": 288}, "poisson", (70, 586)),
}


def places(layout: str, n: int, rng):
    """Coordinates of n observations in a square of side 1."""
    import numpy as np

    if layout == "disc":
        radius, angle = np.sqrt(rng.uniform(size=n)) / 2, rng.uniform(0, 2 * np.pi, n)
        return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    side = int(np.ceil(np.sqrt((289 if layout == "wells" else n) / np.sqrt(0.75)))) + 1
    row, column = np.divmod(np.arange(side * side * 2), side)
    grid = np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)])[: 289 if layout == "wells" else n] / side
    return grid[rng.integers(len(grid), size=n)] if layout == "wells" else rng.permutation(grid)


def fields(xy, lengths, rng, n_waves: int = 400):
    """Draws of smooth Gaussian processes as sums of random waves: observations × length scales."""
    import numpy as np

    found, parts = [], np.array_split(xy, -(-len(xy) // 100_000))
    for length in lengths:
        waves, phase = rng.normal(0, 1 / length, (n_waves, 2)), rng.uniform(0, 2 * np.pi, n_waves)
        sums = [np.cos(part @ waves.T + phase).sum(axis=1) for part in parts]
        found.append(np.sqrt(2 / n_waves) * np.concatenate(sums))
    return np.column_stack(found)


def simulate(tissue: str | dict, likelihood: str, n_genes: int = 2000, seed: int = 0):
    """Counts of a tissue of full size, or of other sizes, sparse."""
    import anndata
    import numpy as np
    import scipy.sparse as sp

    size, rng = TISSUES[tissue] if isinstance(tissue, str) else tissue, np.random.default_rng(seed)
    xy = places(size["layout"], size["n"], rng)
    smooth = np.exp(1.5 * fields(xy, np.geomspace(0.02, 0.2, 10), rng))
    factors = np.column_stack([smooth, rng.gamma(0.5, 2, (size["n"], 10))])
    loadings = rng.gamma(0.3, 1, (n_genes, 20)) * (rng.uniform(size=(n_genes, 20)) < 0.4) + 0.02
    level = rng.lognormal(0, 1.2, n_genes)
    depth = rng.lognormal(0, 0.6, size["n"])

    def rates(rows, scale=1.0):
        return scale * depth[rows, None] * (factors[rows] / factors.mean(axis=0) @ loadings.T) * level

    sample, scale = rates(rng.integers(size["n"], size=300)), 1.0
    for _ in range(60):  # the scale at which the expected share of nonzero counts is the wanted one
        scale *= (size["nonzero"] / -np.expm1(-scale * sample).mean()) ** 1.5
    blocks = []
    for start in range(0, size["n"], 1000):
        mean = rates(slice(start, min(start + 1000, size["n"])), scale)
        if likelihood == "nb":
            mean = rng.gamma(5.0, mean / 5.0)
        blocks.append(sp.csr_matrix(rng.poisson(mean).astype("f4")))
    return anndata.AnnData(sp.vstack(blocks, format="csr"), obsm={"spatial": xy})


def measure(name: str) -> dict:
    """One fit in this process."""
    import tensorflow  # noqa: F401  the time of imports is not the time of the fit

    import nsf_nb as nsf

    tissue, kind, arguments, likelihood, published = FITS[name]
    adata = simulate(tissue, likelihood)
    n_train = round(0.95 * adata.n_obs)
    train, val = adata[:n_train].copy(), adata[n_train:].copy()
    arguments = arguments | {"n_inducing": min(arguments["n_inducing"], n_train)}
    model = getattr(nsf, kind)(random_state=0, likelihood=likelihood, **arguments)
    costs = nsf.check(train, model, size_factors="scanpy").costs
    before, start, cpu = peak_megabytes() * 2**20 / 1e9, time.perf_counter(), time.process_time()
    model.fit(train, size_factors="scanpy")
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    peak, scores = peak_megabytes() * 2**20 / 1e9, model.score_table(val)
    wall, processor = published or (None, None)
    return {
        "fit": name, "N": n_train, "J": train.n_vars, "nonzero": round(train.X.nnz / (n_train * train.n_vars), 3),
        "seconds": round(seconds, 1),
        **{f"  {phase}": round(spent, 1) for phase, spent in model.result_.seconds.items() if phase != "total"},
        "processor": round(used, 1), "predicted": round(float(costs.total_seconds), 1), "n_iter": model.n_iter_,
        "converged": bool(model.converged_), "peak GB": round(peak, 2), "before fit": round(before, 2),
        "predicted GB": round(costs.total_memory / 1e9, 2),
        "deviance": round(float(scores.loc[kind, "deviance"]), 4),
        "nearest": round(float(scores.loc["nearest spots", "deviance"]), 4),
        "mean": round(float(scores.loc["gene mean", "deviance"]), 4),
        "published": wall, "published processor": processor, "cores": len(os.sched_getaffinity(0)),
    }


def write(row: dict, path: Path) -> None:
    """Put a fit into a table, in the place of an older measurement of it."""
    import pandas as pd

    new = pd.DataFrame([{key.strip(): value for key, value in row.items()}])
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[old["fit"] != row["fit"]], new], ignore_index=True)
    new.sort_values("fit").to_csv(path, index=False)


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(FITS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", type=Path, metavar="FILE.csv")
    parser.add_argument("--one", choices=list(FITS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    if given.list:
        print("\n".join(FITS))
        return
    if unknown := [name for name in given.names if name not in FITS]:
        parser.error(f"no fit {', '.join(unknown)}; there is {', '.join(FITS)}")
    for name in given.names or FITS:
        row = run_alone(__file__, "--one", name)
        if given.write:
            write(row, given.write)
        lines = [f"{key:20}{value}" for key, value in row.items()]
        print(json.dumps(row) if given.json else "\n".join([*lines, ""]), flush=True)


if __name__ == "__main__":
    main()
