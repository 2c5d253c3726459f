"""What a checkpoint costs, how large it is, and how soon a resumed fit works: on real counts, in one run.

    NSF_NB_DATA=../shared/data python benchmarks/checkpoints.py [visium|slideseqv2_hippocampus_sub]
"""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nsf_nb as nsf
from nsf_nb.data.anndata import from_anndata
from nsf_nb.data.files import read_h5ad
from nsf_nb.inference.checkpoints import Keeper, identity_of
from nsf_nb.inference.run import run
from nsf_nb.inference.stopping import Stop

NAMES = {"visium": "visium_sagittal_anterior1"}


class Going(Exception):
    """A resumed fit has made its first sweep."""


def leave(*_):
    """Leave as soon as there is a sweep."""
    raise Going


def fitted(model, data, how, every):
    """Seconds of a fit that keeps a checkpoint, and its keeper."""
    keeper = Keeper(Path(tempfile.mkdtemp()) / "run", identity_of(model, how, data), every)
    keeper.begin(resume=False)
    with Stop() as stop:
        found = run(model, data, how, stop=stop, keeper=keeper)
    keeper.close(finished=True)
    return found, keeper


def main(name="visium", every=1.0):
    """Print the three numbers."""
    folder = Path(os.environ["NSF_NB_DATA"])
    adata = read_h5ad(folder / f"{NAMES.get(name, name)}.h5ad")
    layer = "counts" if "counts" in adata.layers else None
    data, _ = from_anndata(adata, layer, "spatial", "scanpy")
    model, how = nsf.NSF(10).plan()
    run(model, data, replace(how, max_sweeps=2))  # compilation
    found, keeper = fitted(model, data, how, every)
    size = sum(file.stat().st_size for file in keeper.folder.iterdir())
    share = keeper.spent / found.seconds["total"]
    print(f"{name}: {data.n_obs:,} spots, {data.n_features} genes, fit {found.seconds['total']:.1f} s")
    print(f"checkpoints: {keeper.written}, {keeper.spent:.2f} s, {share:.1%} of the time; {size / 1e6:.0f} MB")
    longer, began = replace(how, max_sweeps=len(found.history) + 100), time.perf_counter()
    again = Keeper(keeper.folder, identity_of(model, longer, data))
    again.begin(resume=True)
    again.found["final"]["bounds"] = again.found["final"]["bounds"][:20]  # not converged yet
    with contextlib.suppress(Going), Stop() as stop:
        run(model, data, longer, watch=leave, stop=stop, keeper=again)
    print(f"first sweep {time.perf_counter() - began:.1f} s after resuming")
    again.close(finished=False)


if __name__ == "__main__":
    main(*sys.argv[1:2])
