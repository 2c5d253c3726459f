"""The two engines on one machine in one run: how long each takes, and how well it predicts.

    python benchmarks/engines.py S1                     a case of cases.toml whose data are there (in NSF_NB_DATA)
    python benchmarks/engines.py S1 --epochs 300        epochs of the stochastic engine
    python benchmarks/engines.py S1 --figure curves.png bound per spot over seconds, both engines

Numbers. seconds: wall time of fit() without imports and reading, restarts and kernel learning included. deviance: on
the held-out spots. ratio: seconds of the stochastic engine over those of the deterministic one; it is printed only if
the deterministic engine predicts at least as well as the stochastic one ends, else it would be no comparison.
"""

import argparse
import sys

from engine import load, read_cases


def main():
    """Fit a case with both engines and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="?", default="quilt")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--figure")
    args = parser.parse_args()
    import nsf_nb as nsf

    nsf.settings.progress, case, found = False, read_cases()[args.case], {}
    train, val = load(case)
    options = {"layer": "counts", "size_factors": case["size_factors"]}
    nsf.NSF(2, n_inducing=20, n_starts=1, max_iter=2).fit(train, **options)  # what is loaded and compiled once
    for name, more in {"cavi": {}, "svi": {"n_starts": 1, "max_iter": args.epochs}}.items():
        model = nsf.NSF(**case["fit"], inference=name, **more).fit(train, **options)
        found[name] = model, model.evaluate(val)["deviance"]
        line = f"{name:5s} {model.seconds_:8.1f} s  {model.n_iter_:4d} iterations  deviance {found[name][1]:.3f}"
        line += f"  {model.seconds_ / model.n_iter_:.2f} s per epoch" if name == "svi" else ""
        print(f"{line}  bound per spot {model.elbo_.per_observation:.1f}", flush=True)
    (cavi, ours), (svi, theirs) = found["cavi"], found["svi"]
    print(f"ratio {svi.seconds_ / cavi.seconds_:.1f}" if ours <= theirs else "no ratio: svi predicts better")
    if args.figure:
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
        for name, (model, _) in found.items():
            rows = model.history[model.history["start"].isin(["final", "svi"])]
            ax.plot(rows["seconds"], rows["elbo"] / train.n_obs, label=name)
        ax.set(xlabel="seconds", ylabel="bound per spot, nats", xscale="log", title=args.case)
        ax.legend(frameon=False)
        fig.savefig(args.figure, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
