"""A million spots from a file: make it, read it, fit it without holding the counts.

    python benchmarks/million.py make FILE.h5ad [--n 1000000] [--genes 500] [--seed 0]   simulate the file
    python benchmarks/million.py read FILE.h5ad                                          read the counts as a fit does
    python benchmarks/million.py fit FILE.h5ad [--held 5000] [--n-inducing 1000] [--max-iter 300]
    python benchmarks/million.py all FILE.h5ad [--n 20000]                               make, read and fit

Each step runs in a process of its own and prints one JSON object.

Data (simulated): spots jittered on a square grid; ten factors exp(f), f a sum of cosines with length scales of 3 to 25
per cent of the side; sparse gamma loadings scaled so that the wanted share of counts is above zero; Poisson counts in
csr, written in blocks of spots. Each block has a stream of its own: the same seed makes the same file.

Numbers. seconds: wall time by phase, without imports. peak MB: largest resident memory of the process, and the part of
it that is its own; pages of mapped files, which the system takes back when memory is short, are only in the former.
import MB: resident memory before the data are opened. deviance: mean Poisson deviance at held-out spots, and that of
the mean of the 5 nearest training spots and of each gene's mean.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

BLOCK = 20_000  # spots that are simulated at the same time


def places(n: int, rng):
    """Coordinates on a square of side 1, jittered on a grid, in random order."""
    import numpy as np

    side = int(np.ceil(np.sqrt(n)))
    at = rng.permutation(side * side)[:n]
    return (np.column_stack(np.divmod(at, side)) + rng.uniform(size=(n, 2))) / side


def waves(n_factors: int, rng, n_waves: int = 60):
    """A function that gives f of each factor at any places, each with variance 1."""
    import numpy as np

    lengths = np.geomspace(0.03, 0.25, n_factors)
    frequency = rng.normal(size=(n_factors, 2, n_waves)) / lengths[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (n_factors, n_waves))

    def at(xy):
        columns = [np.cos(xy @ w + p).sum(axis=1) for w, p in zip(frequency, phase, strict=True)]
        return np.column_stack(columns) * np.sqrt(2 / n_waves)

    return at


def mixing(n_features: int, at, share: float, rng):
    """J×L loadings, three of four zero, on the scale where a share of counts is above zero."""
    import numpy as np

    n_factors = at(np.zeros((1, 2))).shape[1]
    w = rng.gamma(0.6, 1.0, (n_features, n_factors)) * (rng.uniform(size=(n_features, n_factors)) < 0.25)
    w[np.arange(n_features), rng.integers(n_factors, size=n_features)] += 0.3
    mean, low, high = np.exp(at(rng.uniform(size=(2000, 2)))) @ w.T, 1e-6, 1e3
    for _ in range(60):
        scale = np.sqrt(low * high)
        low, high = (scale, high) if -np.expm1(-scale * mean).mean() < share else (low, scale)
    return w * scale


def simulate(path, n: int = 1_000_000, n_features: int = 500, n_factors: int = 10, share: float = 0.12, seed: int = 0):
    """Write an h5ad file whose X is csr, block by block; numbers of spots, genes and counts above zero."""
    import anndata
    import h5py
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from anndata.io import sparse_dataset, write_elem

    starts = range(0, n, BLOCK)
    first, *streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(len(starts) + 1))
    xy, at = places(n, first), waves(n_factors, first)
    loadings = mixing(n_features, at, share, first)
    tables = {
        "obs": pd.DataFrame(index=np.char.add("s", np.arange(n).astype(str))),
        "var": pd.DataFrame(index=np.char.add("g", np.arange(n_features).astype(str))),
    }
    shell = anndata.AnnData(**tables, obsm={"spatial": xy}, varm={"true_loadings": loadings})
    shell.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.pop("X", None)
        for start, rng in zip(starts, streams, strict=True):
            mean = np.exp(at(xy[start : start + BLOCK])) @ loadings.T
            block = sp.csr_matrix(rng.poisson(mean).astype(np.float32))
            if start:
                sparse_dataset(file["X"]).append(block)
            else:
                write_elem(file, "X", block)
        return {"spots": n, "genes": n_features, "counts above zero": int(file["X/data"].shape[0])}


def memory(kind: str) -> int:
    """Bytes of the process: RssAnon (no pages of files), VmRSS, or VmHWM (at most so far); 0 if nobody knows."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
    except OSError:
        return 0


class Watch:
    """Seconds by phase, and the largest memory of the process's own, looked at twenty times a second."""

    def __init__(self):
        self.seconds, self.own, self.before = {}, 0, memory("VmRSS")
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while True:
            self.own = max(self.own, memory("RssAnon"))
            time.sleep(0.05)

    def phase(self, name, function):
        start = time.perf_counter()
        found = function()
        self.seconds[name] = round(time.perf_counter() - start, 2)
        return found

    def report(self):
        sizes = {"peak MB": memory("VmHWM"), "own MB": self.own, "import MB": self.before}
        return {"seconds": self.seconds} | {name: round(size / 1e6) for name, size in sizes.items()}


def read(path):
    """Read counts and coordinates as a fit does."""
    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.data.lazy import read_lazy

    watch = Watch()
    adata = watch.phase("open", lambda: read_lazy(path))
    data, _ = watch.phase("read", lambda: from_anndata(adata))
    totals = watch.phase("pass", lambda: sum(block.sum(dtype="f8") for _, block in data.blocks()))
    return {"spots": data.n_obs, "genes": data.n_features, "counts": int(totals)} | watch.report()


def fit(path, held: int, n_inducing: int, max_iter: int):
    """Fit all but the held-out spots, which are the last ones: the order is random."""
    import tensorflow  # noqa: F401

    import nsf_nb as nsf
    from nsf_nb.data.lazy import read_lazy

    watch = Watch()
    adata = watch.phase("open", lambda: read_lazy(path))
    train, val = adata[:-held], adata[-held:]
    model = nsf.NSF(n_factors=10, n_inducing=n_inducing, max_iter=max_iter)
    watch.phase("fit", lambda: model.fit(train))
    table = watch.phase("score", lambda: model.score_table(val))
    phases = {name: round(value, 2) for name, value in model.result_.seconds.items()}
    facts = {"spots": train.n_obs, "sweeps": model.n_iter_, "converged": bool(model.converged_)}
    facts |= {"bound per spot": round(model.elbo_.per_observation, 4)}
    return facts | watch.report() | {"phases": phases, "deviance": table["deviance"].round(5).to_dict()}


def apart(step: str, path: Path, *options: str) -> None:
    """A step in a process of its own."""
    line = [sys.executable, __file__, step, str(path), "--here", *options]
    done = subprocess.run(line, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "read", "fit", "all"])
    parser.add_argument("path", type=Path)
    sizes = {"n": 1_000_000, "genes": 500, "seed": 0, "held": 5000, "n-inducing": 1000, "max-iter": 300}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.here:
        given = [word for name in sizes for word in (f"--{name}", str(getattr(args, name.replace("-", "_"))))]
        for step in ("make", "read", "fit") if args.step == "all" else (args.step,):
            apart(step, args.path, *given)
        return
    if args.step == "make":
        watch = Watch()
        found = watch.phase("make", lambda: simulate(args.path, args.n, args.genes, seed=args.seed)) | watch.report()
    elif args.step == "read":
        found = read(args.path)
    else:
        found = fit(args.path, args.held, args.n_inducing, args.max_iter)
    print(json.dumps({"step": args.step} | found))


if __name__ == "__main__":
    main()
