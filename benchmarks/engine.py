"""Time, memory and quality of the default fit: each case in a process of its own, its numbers in a column.

    python benchmarks/engine.py                 all cases of cases.toml whose data are there (in NSF_NB_DATA)
    python benchmarks/engine.py quilt S1        these
    python benchmarks/engine.py --repeats 3     the best wall time of three runs
    python benchmarks/engine.py --json          one JSON object per case and run
    python benchmarks/engine.py --list          what there is

Numbers. seconds: wall time of fit() without imports and reading; below it, those of its phases. n_iter: sweeps of the
final run. peak MB: largest resident memory of the process; before fit: of it libraries and data. bound: evidence lower
bound per training spot, nats. deviance, paper_deviance: on the held-out spots; nearest: deviance of the mean of the 5
nearest training spots. correlation: smallest over the true factors of a simulation.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHASES = ("starts", "refine", "refresh", "kernels", "sweeps")


def read_cases(path: Path = HERE / "cases.toml") -> dict[str, dict]:
    """The cases by name."""
    with path.open("rb") as file:
        return tomllib.load(file)


def data_file(case: dict) -> Path | None:
    """Where the data of a case are; None for a simulated one."""
    return Path(os.environ.get("NSF_NB_DATA", "")) / case["file"] if "file" in case else None


def available(case: dict) -> bool:
    """Whether a case has its data."""
    path = data_file(case)
    return path is None or bool(os.environ.get("NSF_NB_DATA")) and path.is_file()


def load(case: dict):
    """Training and held-out spots of a case."""
    import numpy as np

    import nsf_nb as nsf
    from nsf_nb.data.files import read_h5ad

    adata = nsf.simulate(**case["simulate"]) if "simulate" in case else read_h5ad(data_file(case))
    if "shuffle" in case:
        adata = adata[np.random.default_rng(case["shuffle"]).permutation(adata.n_obs)]
    n_train = round(0.95 * adata.n_obs)
    return adata[:n_train].copy(), adata[n_train:].copy()


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(name: str, case: dict) -> dict:
    """Fit one case in this process."""
    import tensorflow  # noqa: F401  the time of imports is not the time of the fit

    import nsf_nb as nsf
    from nsf_nb.reading.metrics import factor_correlation

    train, val = load(case)
    model, before = nsf.NSF(random_state=0, **case["fit"]), peak_megabytes()
    start = time.perf_counter()
    model.fit(train, layer="counts", size_factors=case["size_factors"])
    seconds = time.perf_counter() - start
    phases, scores = model.result_.seconds, model.score_table(val)
    found = {
        "case": name, "N": train.n_obs, "J": train.n_vars, "L": case["fit"]["n_factors"], "seconds": seconds,
        **{f"  {phase}": phases.get(phase, 0.0) for phase in PHASES}, "n_iter": model.n_iter_,
        "converged": bool(model.converged_), "peak MB": peak_megabytes(), "before fit": before,
        "bound": float(model.elbo_.per_observation), "deviance": float(scores.loc["NSF", "deviance"]),
        "paper_deviance": float(scores.loc["NSF", "paper_deviance"]),
        "nearest": float(scores.loc["nearest spots", "deviance"]),
    }
    if "spfac" in train.obsm:
        found["correlation"] = float(factor_correlation(train.obsm["spfac"], model.factors_).min())
    return found


def run_alone(script: str, *arguments: str, limit: float | None = None) -> dict | list:
    """What a script writes as JSON in its last line, in a process of its own; TimeoutExpired after `limit` seconds."""
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """Rows as text: a line for each number, a column for each case."""
    def show(value):
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 500 else f"{value:.1f}" if abs(value) >= 50 else f"{value:.3f}"
        return {True: "yes", False: "no", None: ""}.get(value, f"{value:,}" if isinstance(value, int) else value)

    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[name, *(show(row.get(name)) for row in rows)] for name in names]
    widths = [max(len(line[i]) for line in lines) for i in range(len(rows) + 1)]
    return "\n".join(line[0].ljust(widths[0]) + "".join("  " + cell.rjust(width) for cell, width in
                     zip(line[1:], widths[1:], strict=True)) for line in lines)


def main() -> None:
    """Read the arguments, run, print."""
    cases = read_cases()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(cases))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--one", choices=list(cases), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, cases[given.one])))
        return
    if unknown := [name for name in given.names if name not in cases]:
        parser.error(f"no case {', '.join(unknown)}; there is {', '.join(cases)}")
    if given.list:
        for name, case in cases.items():
            print(f"{name:8} {case['about']}{'' if available(case) else '   (no data: set NSF_NB_DATA)'}")
        return
    chosen = given.names or [name for name, case in cases.items() if available(case)]
    if missing := [name for name in chosen if not available(cases[name])]:
        parser.error(f"no data for {', '.join(missing)}: set NSF_NB_DATA to the folder of the h5ad files")
    rows = []
    for name in chosen:
        runs = [run_alone(__file__, "--one", name) for _ in range(max(1, given.repeats))]
        if given.json:
            print("\n".join(map(json.dumps, runs)), flush=True)
        rows.append(min(runs, key=lambda row: row["seconds"]))
    if not given.json:
        print(table(rows))


if __name__ == "__main__":
    main()
