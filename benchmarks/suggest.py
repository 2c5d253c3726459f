"""Suggested numbers of factors against true ones: the published simulations; and how long real counts take.

    python benchmarks/suggest.py                                     all kinds, seeds 1 to 3
    python benchmarks/suggest.py quilt both --kinds mixed --seeds 1  these
    NSF_NB_DATA=../shared/data python benchmarks/suggest.py visium   2,695 spots × 500 genes, no truth
    python benchmarks/suggest.py --confirm --json                    with hybrid fits; one JSON object per case

"spatial": 200 genes; "mixed": 500 genes that follow a pattern and a factor without space; "split": 250 genes follow a
pattern and 250 a factor without space. The last lines count how often L and T were found
exactly, and within one.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

KINDS = {"spatial": (200, 0, 0), "split": (500, 0, 250), "mixed": (500, 500, 0)}  # genes, mixed, without space


def simulated(pattern, kind, seed):
    """One data set, and its numbers of factors."""
    import nsf_nb as nsf

    n_spatial, n_other = (8, 6) if pattern == "both" else (4, 3)
    n_genes, n_mixed, n_without = KINDS[kind]
    if kind == "spatial":
        return nsf.simulate(pattern, n_genes, seed=seed), n_spatial, 0
    given = {"n_features_mixed": n_mixed, "n_features_nonspatial": n_without, "seed": seed}
    return nsf.simulate(pattern, n_genes, n_other, **given), n_spatial, n_other


def suggested(adata, args, size_factors="constant"):
    """A suggestion, and its seconds."""
    import nsf_nb as nsf
    from nsf_nb.choose_factors import suggest_factors

    nsf.settings.progress, nsf.settings.verbosity = False, "warning"
    folder = None if args.folder is None else Path(args.folder)
    began = time.perf_counter()
    found = suggest_factors(
        adata, layer="counts", size_factors=size_factors, n_seeds=args.n_seeds, confirm=args.confirm, folder=folder
    )
    return found, time.perf_counter() - began


def alone(found, stage, hold_out):
    """What one kind of hold-out says alone."""
    rows = found.table.query("stage == @stage and hold_out == @hold_out and chosen").iloc[0]
    return int(rows["n_factors" if stage == "factors" else "n_spatial"])


def visium(args):
    """Real counts: no truth, but minutes."""
    from nsf_nb.data.files import read_h5ad

    adata = read_h5ad(Path(os.environ["NSF_NB_DATA"]) / "visium_sagittal_anterior1.h5ad")
    found, seconds = suggested(adata, args, "scanpy")
    print(f"{found}\n{seconds / 60:.1f} minutes")
    print(found.table.query("hold_out == 'both'").drop(columns="hold_out").to_string(index=False))


def main():
    """Run what is asked for and print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["quilt", "ggblocks", "both"], help="patterns, or visium")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--n-seeds", type=int, default=3)
    parser.add_argument("--confirm", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if "visium" in args.what:
        return visium(args)
    off = []
    for seed, kind, pattern in ((s, k, p) for s in args.seeds for k in args.kinds for p in args.what):
        adata, n_spatial, n_other = simulated(pattern, kind, seed)
        found, seconds = suggested(adata, args)
        truth, said = (n_spatial + n_other, n_spatial), (found.n_factors, found.n_spatial)
        off.append([abs(a - b) for a, b in zip(truth, said, strict=True)])
        row = {"pattern": pattern, "kind": kind, "seed": seed, "true": truth, "found": said}
        row |= {"seconds": round(seconds, 1)} | {
            f"{s} by {h}": alone(found, s, h) for s in ("factors", "spatial") for h in ("random", "spatial")
        }
        line = json.dumps(row) if args.json else "  ".join(f"{key} {value}" for key, value in row.items())
        print(line, flush=True)
    for name, values in zip("LT", zip(*off, strict=True), strict=True):
        exact, near = (100 * sum(value <= most for value in values) / len(values) for most in (0, 1))
        print(f"{name}: {exact:.0f} % exact, {near:.0f} % within one, of {len(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
