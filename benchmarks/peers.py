"""Programs that answer the same question, on the same split of the same data and the same cores, watched.

    python benchmarks/peers.py visium                       a case of cases.toml (its data in NSF_NB_DATA), all methods
    python benchmarks/peers.py quilt cavi mofaflex --limit 60
    python benchmarks/suites.py peers                       each in a process of its own, into the table of chapter 87

Methods. cavi, svi: our two engines with their defaults, as in benchmarks/engines.py (svi from one start). nmf:
scikit-learn's multiplicative updates of the Kullback-Leibler divergence, as in benchmarks/floor.py. mefisto: mofapy2
behind `nsf_nb.MEFISTO`. mofaflex: MOFA-FLEX's preset of nonnegative spatial factorization, in the environment that
`make peers` makes; benchmarks/peer_mofaflex.py says how it predicts. mofaflex-100: the same with 100 inducing points,
the default of the package, instead of the 800 of the preset: an epoch is many times faster.

Numbers. deviance: mean Poisson deviance of the counts of all held-out spots, whatever the method has for a likelihood.
A method that can expect nothing where something was counted would have an infinite one, so that the means of nmf and
mofaflex are at least a twentieth of the gene's mean, as those of mefisto. nmf knows no place and expects the average of
its factors. mofaflex has two predictions (plain, expected); at each look the better one counts. seconds: wall time
without imports, reading, warm-up and the looks. A method that has not converged after `limit` seconds is stopped, but
mefisto, which has no way to stop, and is ended by whoever called.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine import load, read_cases

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
METHODS = "cavi", "svi", "nmf", "mefisto", "mofaflex", "mofaflex-100"


class Held:
    """Held-out spots, and the deviance of what is expected of them."""

    def __init__(self, case):
        import numpy as np

        from nsf_nb.data.anndata import from_anndata
        from nsf_nb.mefisto import floor_at

        self.train, self.val = load(case)
        data, rule = from_anndata(self.train, "counts", size_factors=case["size_factors"])
        held = from_anndata(self.val, "counts", size_factors=rule)[0]
        self.counts, self.size_factors, self.floor = held.counts, held.size_factors, floor_at(data, held.size_factors)
        self.dense, self.sizes = np.asarray(data.counts.toarray(), dtype="f4"), data.size_factors

    def deviance(self, mean):
        """Of expected counts, spots × genes."""
        import numpy as np

        from nsf_nb.reading.metrics import poisson_deviance

        return poisson_deviance(self.counts, np.maximum(mean, self.floor))


def row(part, seconds, deviance, n_iter, converged=None):
    """A look, or the end."""
    return {"part": part, "seconds": seconds, "deviance": deviance, "n_iter": n_iter, "converged": converged}


def ours(case, method, limit, every):
    """One of our engines."""
    from engines import Race, iterations

    result, rows = Race(case).run(method, every, 1000, limit)
    n, found = iterations(result), [row("look", seconds, deviance, None) for seconds, _, deviance in rows[:-1]]
    return [*found, row("end", rows[-1][0], rows[-1][2], n, bool(result.converged))]


def nmf(case, *_):
    """Scikit-learn's factorization; every spot is expected to be the average one."""
    import numpy as np
    from floor import Nmf

    held, method = Held(case), Nmf(case["fit"]["n_factors"])
    method.fit(held.dense[:50], None)
    began = time.perf_counter()
    method.fit(held.dense, None)
    seconds = time.perf_counter() - began
    average = (method.mixture / held.sizes[:, None]).mean(axis=0) @ method.nmf.components_
    n = method.iterations
    return [row("end", seconds, held.deviance(np.outer(held.size_factors, average)), n, n < method.nmf.max_iter)]


def mefisto(case, *_):
    """Mofapy2, as chapter 61 calls it, with its own number of inducing points."""
    import nsf_nb as nsf

    held, model = Held(case), nsf.MEFISTO(case["fit"]["n_factors"])
    began = time.perf_counter()
    model.fit(held.train, layer="counts", size_factors=case["size_factors"])
    seconds = time.perf_counter() - began
    return [row("end", seconds, model.evaluate(held.val)["deviance"], model.n_iter_, bool(model.converged_))]


def mofaflex(case, method, limit, every):
    """MOFA-FLEX in its own environment."""
    import numpy as np

    if not PEERS.exists():
        sys.exit(f"Expected MOFA-FLEX in {PEERS.parents[1].name}, found no such folder. Run make peers.")
    held = Held(case)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("train.h5ad", "val.h5ad", "out.npz")]
        held.train.write_h5ad(files[0])
        held.val.write_h5ad(files[1])
        options = {"factors": case["fit"]["n_factors"], "every": every, "limit": limit}
        options["inducing"] = method.partition("-")[2]
        command = [PEERS, ROOT / "benchmarks" / "peer_mofaflex.py", *files]
        command += [text for name, value in options.items() if value for text in (f"--{name}", str(value))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"MOFA-FLEX failed:\n{done.stderr}")
        found = dict(np.load(files[2]))
    best = [min(held.deviance(one) for one in pair) for pair in zip(found["plain"], found["expected"], strict=True)]
    looks = zip(found["seconds"].tolist(), best, found["epoch"].astype(int).tolist(), strict=True)
    rows = [row("look", *look) for look in looks]
    return [*rows[:-1], rows[-1] | {"part": "end", "converged": bool(found["converged"])}]


def measure(method, case, limit=None, every=10):
    """Rows of a method: looks and the end."""
    others = {"nmf": nmf, "mefisto": mefisto, "mofaflex": mofaflex}
    return others.get(method.partition("-")[0], ours)(case, method, limit, every)


def main():
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", help=", ".join(read_cases()))
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--limit", type=float, default=900, help="seconds; default 900")
    parser.add_argument("--every", type=int, default=10, help="epochs between looks at svi and mofaflex; default 10")
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress = False
    for method in args.methods:
        for one in measure(method, read_cases()[args.case], args.limit, args.every):
            print(f"{method:9} {one['part']:5} {one['seconds']:9.2f} s  deviance {one['deviance']:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
