"""The two engines on one machine in one run: bound and held-out deviance of both over time, and the ratio of times.

    python benchmarks/engines.py S1                       a case of cases.toml whose data are there (in NSF_NB_DATA)
    python benchmarks/engines.py visium --figure out.png  and a picture of both curves
    python benchmarks/engines.py S1 --every 5             epochs between two looks at the stochastic engine

Both engines run with their defaults until their own rule stops them: "cavi" with its starts, its kernel learning and
the kernels it predicts with; "svi", the published method, from one start. While they run, the held-out deviance of what
they have so far is measured; the clock stands still meanwhile, except for the work that a prediction needs of its own
(the kernels between the spots), which is added to the time of the point.

Numbers. seconds: wall time without imports and reading. per epoch: seconds of the stochastic engine for one epoch,
kernel moves included. reached: seconds until the deterministic engine predicts at least as well as the stochastic one
ends. ratio: seconds of the stochastic engine over these; "never" if it does not get there.
"""

import argparse
import sys
import time
from dataclasses import replace

from engine import load, read_cases

LOOKS = (0, 2, 5, 10, 15, 20, 30)  # sweeps after which the deterministic engine is looked at


class Watcher:
    """Looks at a running fit: rows of seconds, bound per spot and held-out deviance."""

    def __init__(self, score, wanted, predictive):
        self.score, self.wanted, self.predictive, self.rows, self.idle = score, wanted, predictive, [], 0.0

    def __call__(self, engine, row):
        if not self.wanted(row["sweep"]):
            return
        began = time.perf_counter()
        state = self.predictive(engine)
        own = time.perf_counter() - began
        bound = row["elbo"] / engine.data.n_obs
        self.rows.append((row["seconds"] - self.idle + own, bound, self.score(state)))
        self.idle += time.perf_counter() - began


def with_kernels_between(engine):
    """What a deterministic fit that ended now would predict with."""
    from nsf_nb.inference.interpolation import interpolate

    return replace(engine.state(), between=interpolate(engine.factors.parts[0], engine.pseudo_counts, engine.exposure))


class Race:
    """A case made ready: engines run on it one after the other, watched."""

    def __init__(self, case):
        import numpy as np
        from scipy.special import xlogy

        import nsf_nb as nsf
        from nsf_nb.data.anndata import from_anndata
        from nsf_nb.data.scaling import CoordinateScaling

        self.fit = case["fit"]
        train, val = load(case)
        options = {"layer": "counts", "size_factors": case["size_factors"]}
        nsf.NSF(2, n_inducing=20, n_starts=1, max_iter=2).fit(train, **options)  # what is loaded and compiled once
        self.data, rule = from_anndata(train, "counts", size_factors=case["size_factors"])
        held = from_anndata(val, "counts", size_factors=rule)[0]
        places = CoordinateScaling.fit(self.data.coords).apply(held.coords)
        y = held.counts.toarray().astype(float)

        def deviance(state):
            expected = state.mean_at(places, held.size_factors)
            return float(np.mean(2 * (xlogy(y, y / expected) - y + expected)))

        self.deviance = deviance

    def run(self, name, every, epochs, limit=None):
        """Result of an engine, and rows of seconds, bound per spot and held-out deviance; the last is the end."""
        import nsf_nb as nsf
        from nsf_nb.inference.run import run
        from nsf_nb.inference.stopping import Stop

        looks = {
            "cavi": ({}, LOOKS.__contains__, with_kernels_between),
            "svi": ({"n_starts": 1, "max_iter": epochs}, lambda i: i % every == 0, lambda engine: engine.state()),
        }
        more, *wanted = looks[name]
        watcher = Watcher(self.deviance, *wanted)
        model, settings = nsf.NSF(**self.fit, random_state=0, inference=name, **more).plan()
        result = run(model, self.data, settings, watch=watcher, stop=Stop(limit and limit / 60))
        end = result.seconds["total"] - watcher.idle, result.elbo.per_observation, self.deviance(result.state)
        return result, [*watcher.rows, end]


def iterations(result):
    """Sweeps of the final run, or epochs."""
    return sum(row["start"] in ("final", "svi") for row in result.history)


def draw(found, case, path):
    """Bound and held-out deviance over seconds, both engines."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    labels = {"cavi": "coordinate ascent", "svi": "stochastic gradients"}
    for (name, (_, rows)), marker in zip(found.items(), "o.", strict=True):
        seconds, bound, deviance = zip(*rows, strict=True)
        axes[0].plot(seconds, bound, marker=marker, label=labels[name])
        axes[1].plot(seconds, deviance, marker=marker, label=labels[name])
    axes[1].axhline(found["svi"][1][-1][2], color="0.6", linestyle=":")
    for ax, what in zip(axes, ("bound per spot, nats", "held-out deviance"), strict=True):
        ax.set(xlabel="seconds", ylabel=what, xscale="log", title=case)
        ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False)
    fig.savefig(path, dpi=150)


def main():
    """Fit a case with both engines and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default="quilt")
    parser.add_argument("--every", type=int, default=10, help="epochs between two looks at svi; default 10")
    parser.add_argument("--epochs", type=int, default=1000, help="epochs of svi at most; default 1000")
    parser.add_argument("--figure", help="where to draw both curves")
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress = False
    race = Race(read_cases()[args.case])
    found = {name: race.run(name, args.every, args.epochs) for name in ("cavi", "svi")}
    for name, (result, rows) in found.items():
        seconds, bound, deviance = rows[-1]
        n = iterations(result)
        line = f"{name:5s} {seconds:8.1f} s  {n:4d} iterations  bound per spot {bound:9.2f}  deviance {deviance:.3f}"
        line += f"  {'converged' if result.converged else 'stopped'}"
        print(line + (f"  {seconds / n:.2f} s per epoch" if name == "svi" else ""), flush=True)
    goal, total = found["svi"][1][-1][2], found["svi"][1][-1][0]
    reached = next((seconds for seconds, _, deviance in found["cavi"][1] if deviance <= goal), None)
    print("reached: never" if reached is None else f"reached: {reached:.2f} s  ratio {total / reached:.1f}")
    if args.figure:
        draw(found, args.case, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
