"""What the doctor predicts, and what it was: memory and time of fits, each case in a process of its own.

    python benchmarks/doctor.py                 all cases
    python benchmarks/doctor.py visium svi      these
    python benchmarks/doctor.py --json          one JSON object per case

Numbers. n_iter: sweeps or epochs that it took. seconds: wall time of fit() without imports. predicted s: what
`nsf.check` says, which counts with a typical number of sweeps; ratio s: seconds over predicted; ratio at n_iter: over
what is predicted for as many sweeps as it took. MB: growth of the largest resident memory of the process during the
fit; predicted MB and ratio MB likewise. check s: time of `nsf.check`; in fit %: part of the fit that its own look at
the data takes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engine import peak_megabytes, table

# Simulated tissues: pattern and size, then the estimator and its arguments.
CASES = {
    "short": ({"pattern": "quilt", "n_side": 48}, "NSF",
              {"n_factors": 8, "n_inducing": 800, "n_starts": 1, "max_iter": 15}),
    "quilt": ({"pattern": "quilt", "seed": 1}, "NSF", {"n_factors": 4}),
    "visium": ({"pattern": "quilt", "n_side": 48, "n_features": 500}, "NSF", {"n_factors": 10, "n_inducing": 1000}),
    "slide": ({"pattern": "quilt", "n_side": 96, "n_features": 500}, "NSF", {"n_factors": 10, "n_inducing": 1000}),
    "hybrid": ({"pattern": "quilt", "n_side": 48, "n_features": 500, "n_factors_nonspatial": 3}, "NSFH",
               {"n_spatial": 6, "n_nonspatial": 4, "n_inducing": 1000}),
    "plain": ({"pattern": "quilt", "n_side": 96, "n_features": 500}, "PNMF", {"n_factors": 10}),
    "real": ({"pattern": "quilt", "n_side": 48, "n_features": 200}, "RSF", {"n_factors": 6, "n_inducing": 600}),
    "svi": ({"pattern": "quilt", "seed": 1}, "NSF", {"n_factors": 4, "n_inducing": 300, "inference": "svi"}),
}


def measure(name: str) -> dict:
    """Predict and fit one case in this process."""
    import tensorflow  # noqa: F401  the time of imports is not the time of the fit

    import nsf_nb as nsf
    from nsf_nb.doctor import diagnose
    from nsf_nb.inference.costs import time_of

    simulated, estimator, arguments = CASES[name]
    adata = nsf.simulate(**simulated)
    model = getattr(nsf, estimator)(random_state=0, **arguments)
    before, start = peak_megabytes(), time.perf_counter()
    model.fit(adata, layer="counts")
    seconds, grown = time.perf_counter() - start, peak_megabytes() - before
    start = time.perf_counter()
    costs = nsf.check(adata, model, layer="counts").costs
    checked = time.perf_counter() - start
    start = time.perf_counter()
    diagnose(model.plan(), model.data_, quick=True)
    looked = time.perf_counter() - start
    expected = costs.total_seconds, costs.total_memory / 2**20
    known = sum(time_of(replace(costs.work, n_sweeps=model.n_iter_)).values())
    return {
        "case": name, "N": adata.n_obs, "J": adata.n_vars, "M": costs.work.n_inducing, "L": costs.work.n_factors,
        "n_iter": model.n_iter_, "seconds": seconds, "predicted s": expected[0], "ratio s": seconds / expected[0],
        "ratio at n_iter": seconds / known, "MB": grown, "predicted MB": expected[1], "ratio MB": grown / expected[1],
        "check s": checked, "in fit %": 100 * looked / seconds,
    }


def run(name: str) -> dict:
    """Measure one case in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name]
    done = subprocess.run(command, env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    if unknown := [name for name in given.names if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}; there is {', '.join(CASES)}")
    rows = [run(name) for name in given.names or CASES]
    print("\n".join(map(json.dumps, rows)) if given.json else table(rows))


if __name__ == "__main__":
    main()
