"""What it costs a fit to be dealt out: held-out deviance, bound and time, beside the fit of all spots at once.

    python benchmarks/shares.py FILE.h5ad                            a file of benchmarks/million.py
    python benchmarks/shares.py FILE.h5ad --n-inducing 500 --ways whole,all,default,half

Ways: "whole" keeps all spots together, as fits of smaller tissues do; "all" deals them out, covariances look at all
spots; "default" at the share that chapter 450 says; "half" keeps projections in half precision besides. Each way runs
in a process of its own. One JSON object per way: seconds of the fit and of its phases, sweeps, bound per spot, peak
memory, Poisson deviance of the last 5,000 spots, which are held out.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from engine import run_alone
from million import memory

HELD = 5000
WAYS = {  # settings of the shards
    "whole": {"least": 10**9}, "all": {"least": 1, "share": 1.0}, "default": {"least": 1},
    "half": {"least": 1, "kind": "float16"},
}


def measure(path: str, way: str, n_inducing: int) -> dict:
    """One fit in this process."""
    import anndata
    import numpy as np
    import tensorflow  # noqa: F401  the time of imports is not the time of the fit

    from nsf_nb.data.anndata import from_anndata
    from nsf_nb.inference.dealing import Shards
    from nsf_nb.inference.fit import fit
    from nsf_nb.inference.records import FitSettings
    from nsf_nb.models.spatial import nsf
    from nsf_nb.reading.metrics import poisson_deviance

    data, _ = from_anndata(anndata.read_h5ad(path))
    train, held = data.subset(slice(0, data.n_obs - HELD)), data.subset(slice(data.n_obs - HELD, data.n_obs))
    how, start = FitSettings(n_inducing=n_inducing, shards=Shards(**WAYS[way])), time.perf_counter()
    found = fit(nsf(10), train, how)
    seconds = time.perf_counter() - start
    mean = found.state.mean_at(found.scaling.apply(held.coords), held.size_factors)
    share = replace(how.shards).share_of(train.n_obs, n_inducing) if way != "whole" else 1.0
    return {
        "way": way, "spots": train.n_obs, "n_inducing": n_inducing, "share": round(share, 3),
        "seconds": round(seconds, 1),
        **{f"  {phase}": round(spent, 1) for phase, spent in found.seconds.items() if phase != "total"},
        "sweeps": sum(row["start"] == "final" for row in found.history), "converged": found.converged,
        "bound per spot": round(found.elbo.per_observation, 4), "peak MB": round(memory("VmHWM") / 1e6),
        "deviance": round(float(poisson_deviance(np.asarray(held.counts.toarray()), mean)), 5),
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-inducing", type=int, default=500)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(str(given.path), given.one, given.n_inducing)))
        return
    for way in given.ways.split(","):
        row = run_alone(__file__, str(given.path), "--n-inducing", str(given.n_inducing), "--one", way)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
