"""Suites of benchmarks, described in suites.toml: each case in a process of its own, its numbers in a row of a table.

    python benchmarks/suites.py                        the suite "quick"
    python benchmarks/suites.py spots genes            these; make bench SUITE="spots genes" does the same
    python benchmarks/suites.py spots --most 10000     without cases of more spots
    python benchmarks/suites.py peers --only nmf cavi  these of its cases
    python benchmarks/suites.py peers --limit 60       no method longer than this, in seconds
    python benchmarks/suites.py --table FILE.csv       another table than nbs/8_studies/scaling.csv; "-" for none
    python benchmarks/suites.py --list                 what there is

Rows are added to the table, which chapter 87 reads; it takes the latest run of each case. A case that takes more than
twice its limit is ended, and its row says only that.

Fits. Data are simulated as in benchmarks/full_size.py, or one of cases.toml, and written to a file by another process,
so that making them does not count as memory. A small fit warms up. seconds: wall time of fit(). per_sweep: median of
the differences between the times in the history (epochs of svi), without the first two. per_refresh: seconds of the
phase "refresh" over the number of sweeps at which one was due; factors whose covariance still fits are passed over.
per_pass: one pass over the counts at the end of the fit, the fastest of three. starts … between: seconds by phase, as
in `result_.seconds`. peak_mb: largest resident memory of the process; before_mb: of it libraries and data.
Peak: benchmarks/peak.py. A row for each phase. Peers: benchmarks/peers.py. A row for each look, and one for the end.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from engine import HERE, available, peak_megabytes, read_cases, run_alone

TABLE = HERE.parent / "nbs" / "8_studies" / "scaling.csv"
PHASES = "starts", "refine", "refresh", "kernels", "sweeps", "between"
FACTS = "date", "version", "machine", "cores", "threads", "memory_gb", "peak_gflops"
WHAT = "suite", "case", "kind", "method", "likelihood", "data", "N", "J", "L", "M", "nonzero", "repeat", "part"
FOUND = (
    "seconds", "n_iter", "converged", "per_sweep", "per_refresh", "per_pass", *PHASES, "peak_mb", "before_mb",
    "operations", "share", "deviance",
)
COLUMNS = (*FACTS, *WHAT, *FOUND)
SIZES = {"n_obs": 1000, "n_features": 100, "n_factors": 10, "n_inducing": 500, "likelihood": "poisson"}
KEYS = {  # of a case, by kind, with defaults
    "fit": {
        **SIZES, "data": "simulated", "model": "NSF", "inference": "cavi", "fit": {}, "nonzero": 0.2,
        "backed_from": 10**9, "repeats": 1, "limit": 3600,
    },
    "peak": {**SIZES, "data": "simulated", "nonzero": 0.2, "repeats": 5, "limit": 3600},
    "peer": {"data": "visium", "method": "cavi", "every": 10, "repeats": 1, "limit": 900},
}


def read_suites(path: Path = HERE / "suites.toml") -> dict[str, list[dict]]:
    """Cases by suite, complete; a ValueError names a key that is not known."""
    with path.open("rb") as file:
        suites = tomllib.load(file)
    return {name: expand(name, suite) for name, suite in suites.items()}


def expand(name: str, suite: dict) -> list[dict]:
    """The cases of a suite: one for each value that is varied."""
    known, common = KEYS[suite["kind"]], {key: value for key, value in suite.items() if key not in ("about", "vary")}
    if unknown := sorted({*common, *suite["vary"]} - {*known, "kind"}):
        raise ValueError(f"suite {name!r}: no key {', '.join(unknown)}; there is {', '.join(known)}")
    base = {"suite": name, **known, **common}
    pairs = [(key, value) for key, values in suite["vary"].items() for value in values]
    return [{**base, key: value, "case": f"{key}={value}"} for key, value in pairs]


def has_data(case: dict) -> bool:
    """Whether the data of a case are there or can be made."""
    return case["data"] == "simulated" or available(read_cases()[case["data"]])


def prepare(case: dict, path: str) -> dict:
    """Write the data of a case into a file."""
    from engine import load
    from full_size import simulate

    if case["data"] == "simulated":
        size = {"n": case["n_obs"], "layout": "disc", "nonzero": case["nonzero"]}
        adata = simulate(size, case["likelihood"], case["n_features"])
        adata = adata[adata.X.getnnz(axis=1) > 0]  # a spot without any count has no size factor
    else:
        adata = load(read_cases()[case["data"]])[0]
        adata.X = adata.layers["counts"]
        del adata.layers
    adata.write_h5ad(path)
    return {}


def median_of(values: list[float]) -> float | None:
    """Median; None of nothing."""
    import statistics

    return statistics.median(values) if values else None


def fit(case: dict, path: str) -> list[dict]:
    """Measure a fit in this process."""
    import anndata
    from peak import fastest, pass_over

    import nsf_nb as nsf
    from nsf_nb.inference.fit import schedule_of

    nsf.settings.progress = False
    backed = "r" if case["n_obs"] >= case["backed_from"] else None
    adata, likelihood = anndata.read_h5ad(path, backed=backed), case["likelihood"]
    small = adata[:200].to_memory() if backed else adata[:200].copy()
    nsf.NSF(2, n_inducing=20, n_starts=1, max_iter=2, likelihood=likelihood).fit(small)
    options = {"likelihood": likelihood, "inference": case["inference"], "random_state": 0, **case["fit"]}
    if case["model"] not in ("PNMF", "FA"):
        options["n_inducing"] = case["n_inducing"]
    model, before = getattr(nsf, case["model"])(case["n_factors"], **options), peak_megabytes()
    began = time.perf_counter()
    model.fit(adata, size_factors="scanpy")
    seconds, peak, result, data = time.perf_counter() - began, peak_megabytes(), model.result_, model.data_
    times = [row["seconds"] for row in result.history if row["start"] in ("final", "svi")]
    every = schedule_of(result.model, data.n_obs).refresh_every
    due = -(-len(times) // every) if case["inference"] == "cavi" else 0
    m, v = fitted_moments(model)
    once = pass_over(result.model.likelihood, data, m, v, model.state_.loadings, model.state_.dispersion)
    return [{
        "method": case["inference"], "N": data.n_obs, "J": data.n_features,
        "M": len(getattr(model.state_.spatial, "inducing_points", ())) or None,
        "nonzero": data.counts.nnz / (data.n_obs * data.n_features), "part": "", "seconds": seconds,
        "n_iter": len(times), "converged": bool(model.converged_),
        "per_sweep": median_of([after - one for one, after in zip(times[2:], times[3:], strict=False)]),
        "per_refresh": result.seconds.get("refresh", 0.0) / due if due else None, "per_pass": fastest(once, 3),
        **{phase: result.seconds.get(phase) for phase in PHASES}, "peak_mb": peak, "before_mb": before,
    }]


def fitted_moments(model):
    """Means and variances of the log factors, N×L, from the moments of the factors."""
    import numpy as np

    ratio = (model.factor_std_.to_numpy() / model.factors_.to_numpy()) ** 2
    variance = np.log1p(ratio)
    return np.log(model.factors_.to_numpy()) - variance / 2, variance


def peak(case: dict, path: str) -> list[dict]:
    """Measure the phases of a fit in this process."""
    import anndata
    from peak import measure

    adata = anndata.read_h5ad(path)
    rows, _ = measure(adata, case["n_inducing"], case["n_factors"], case["likelihood"], case["repeats"])
    sizes = {"N": adata.n_obs, "J": adata.n_vars, "M": case["n_inducing"], "method": "cavi"}
    return [sizes | row for row in rows]


def peer(case: dict, _: str) -> list[dict]:
    """Measure a program on held-out spots."""
    from peers import measure

    import nsf_nb as nsf

    nsf.settings.progress = False
    data = read_cases()[case["data"]]
    rows = measure(case["method"], data, case["limit"], case["every"])
    return [{"method": case["method"], "L": data["fit"]["n_factors"], **row} for row in rows]


MEASURES = {"fit": fit, "peak": peak, "peer": peer}


def facts() -> dict:
    """The machine and the version, for every row; measured in this process."""
    from peak import sgemm_peak

    import nsf_nb
    from nsf_nb.inference.machine import available_cores, machine_memory

    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    version = "+".join(filter(None, (nsf_nb.__version__, commit.stdout.strip())))
    names = [line.split(":")[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")]
    cores = available_cores()
    return {
        "version": version, "machine": f"{names[0] if names else platform.processor()} {platform.system()}",
        "cores": cores, "threads": int(os.environ.get("OMP_NUM_THREADS", cores)),
        "memory_gb": machine_memory() / 1e9, "peak_gflops": sgemm_peak() / 1e9,
    }


def lines_of(path: str) -> list[str]:
    """Of a file; none if there is no such file."""
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def one(case: dict, path: str) -> list[dict]:
    """Rows of a case, measured in this process."""
    rows = MEASURES[case["kind"]](case, path)
    common = {"likelihood": case.get("likelihood"), "L": case.get("n_factors"), **name_of(case), **facts()}
    return [common | row for row in rows]


def name_of(case: dict) -> dict:
    """What a row says of its case, even if nothing was measured."""
    return {name: case.get(name) for name in ("suite", "case", "kind", "data", "method")}


def run(case: dict) -> list[dict]:
    """Rows of a case, measured in processes of its own, one for each repeat; a case that is too slow says so."""
    rows, text = [], json.dumps(case)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.h5ad")
        if case["kind"] != "peer":
            run_alone(__file__, "--prepare", text, path)
        for repeat in range(1 if case["kind"] == "peak" else case["repeats"]):
            try:
                found = run_alone(__file__, "--one", text, path, limit=2 * case["limit"])
            except subprocess.TimeoutExpired as late:
                end = {"part": "end" if case["kind"] == "peer" else "", "seconds": late.timeout, "converged": False}
                found = [name_of(case) | end]
            rows += [row | {"repeat": repeat} for row in found]
    return rows


def append(rows: list[dict], path: Path) -> None:
    """Add rows to a table; a ValueError if it has other columns."""
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    head = tuple(lines_of(str(path))[0].split(","))
    if head != COLUMNS:
        raise ValueError(f"{path} has other columns: {sorted(set(head) ^ set(COLUMNS))}")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for row in rows:
            writer.writerow({key: f"{x:.5g}" if isinstance(x, float) else x for key, x in row.items()})


def in_words(row: dict) -> str:
    """A row for the terminal."""
    shown = ("seconds", "per_sweep", "per_refresh", "per_pass", "peak_mb", "share", "deviance")
    numbers = "  ".join(f"{name} {row[name]:.4g}" for name in shown if isinstance(row.get(name), float))
    return f"{row['suite']:9} {row['case']:20} {row.get('part') or '':10} {numbers}"


def main() -> int:
    """Read the arguments, run, write down, print."""
    suites = read_suites()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=["quick"], help=", ".join(suites))
    parser.add_argument("--most", type=int, default=10**9, metavar="N", help="spots of a case at most")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="n_obs=1000, or all of n_obs, or all with cavi")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="of a case, instead of its own")
    parser.add_argument("--table", default=str(TABLE), metavar="FILE.csv")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if given := args.one or args.prepare:
        found = (one if args.one else prepare)(json.loads(given[0]), given[1])
        print(json.dumps(found))
        return 0
    if unknown := [name for name in args.suites if name not in suites]:
        parser.error(f"no suite {', '.join(unknown)}; there is {', '.join(suites)}")
    if args.list:
        print("\n".join(f"{name:9} {case['case']}" for name, cases in suites.items() for case in cases))
        return 0
    date, failed = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"), 0
    for case in (case for name in args.suites for case in suites[name]):
        names = {case["case"], *case["case"].split("=")}
        if case.get("n_obs", 0) > args.most or args.only and not names & set(args.only):
            continue
        try:
            if not has_data(case):
                sys.exit(f"no data for {case['data']}: set NSF_NB_DATA to the folder of the h5ad files")
            rows = [row | {"date": date} for row in run(case | ({"limit": args.limit} if args.limit else {}))]
        except SystemExit as error:
            why, failed = str(error).splitlines()[-1], 1
            print(f"{case['suite']:9} {case['case']:20} failed: {why}", file=sys.stderr, flush=True)
            continue
        if args.table != "-":
            append(rows, Path(args.table))
        print("\n".join(map(in_words, rows)), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
