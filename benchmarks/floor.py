"""What a fit costs without space: PNMF beside scikit-learn's KL-NMF, in one process on the same cores.

    python benchmarks/floor.py                        all cases (tissues if NSF_NB_DATA has them), 4, 8 and 12 factors
    python benchmarks/floor.py quilt visium           these
    python benchmarks/floor.py --factors 4 --repeats 5
    taskset -c 0 python benchmarks/floor.py           on one core

Cases: simulated quilt, ggblocks and both (200 genes), mixed (quilt and three factors without space in all of 500
genes); Visium mouse brain, sagittal anterior 1 (500 genes), a crop of the hippocampus in Slide-seqV2, and the olfactory
bulb by Spatial Transcriptomics (2,000 genes of largest deviance at the training spots,
spots that have one of them). 10 % of the spots, drawn once, are held out.

Methods. PNMF: `nsf_nb.PNMF(L)` with its defaults, four starts; PNMF 1: one start. NMF: scikit-learn's multiplicative
updates of the Kullback-Leibler divergence from the start "nndsvda" with its own tolerance, until it converges by its
own rule; it gets the counts as a dense array, float32, in which it is faster than in a sparse one or in float64.

Numbers. seconds: median wall time of the whole call of fit, PNMF's reading and checking of the data included, after a
warm-up on the same data; the methods take turns, and every other time in the opposite order. ratio: over the seconds of
NMF. iterations: of NMF; sweeps of PNMF after the race of its starts. other half: mean Poisson deviance of one half of
the genes, drawn once, at the held-out spots, predicted from the counts of the other half there with fixed
loadings ("other genes" of `score_imputation`; NMF finds its factors there by its own updates). average: deviance of all
genes there from the average factors of the training spots, all that a model without space says of a spot by itself.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np

SIMULATED = {"quilt": ("quilt", 200), "ggblocks": ("ggblocks", 200), "both": ("both", 200), "mixed": ("quilt", 500, 3)}
TISSUES = {"visium": "visium_sagittal_anterior1", "hippocampus": "slideseqv2_hippocampus_sub", "bulb": "st_mob"}
N_GENES = 2000
KL = {"solver": "mu", "beta_loss": "kullback-leibler", "max_iter": 10_000, "random_state": 0}
SMALLEST = 1e-6  # expected count of NMF at least: a zero would cost infinitely much


def tissue(name):
    """Where the counts of a tissue are, or would be."""
    return Path(os.environ.get("NSF_NB_DATA", "")) / f"{TISSUES[name]}.h5ad"


def load(name):
    """Training and held-out spots, and the rule of the size factors."""
    import nsf_nb as nsf
    from nsf_nb.data.files import read_h5ad

    if name in TISSUES:
        adata, rule = read_h5ad(tissue(name)), "scanpy"
        adata.layers.setdefault("counts", adata.X)
    else:
        mixed = {"n_features_mixed": 500} if name == "mixed" else {}
        adata, rule = nsf.simulate(*SIMULATED[name], seed=1, **mixed), "constant"
    order, n_train = np.random.default_rng(0).permutation(adata.n_obs), round(0.9 * adata.n_obs)
    train, val = adata[order[:n_train]].copy(), adata[order[n_train:]].copy()
    if adata.n_vars > N_GENES:
        nsf.pp.deviance(train, layer="counts", n_top=N_GENES)
        chosen = train.var["highly_deviant"].to_numpy()
        train, val = (part[dense(part)[:, chosen].any(axis=1), chosen].copy() for part in (train, val))
    return train, val, rule


def dense(adata):
    """Counts as an array, float32."""
    counts = adata.layers["counts"]
    return np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, dtype=np.float32)


class Nmf:
    """Scikit-learn's factorization behind the few calls that are needed here."""

    def __init__(self, n_factors):
        from sklearn.decomposition import NMF

        self.nmf = NMF(n_factors, init="nndsvda", **KL)

    def fit(self, train, rule):
        """Fit to an array of counts."""
        self.mixture = self.nmf.fit_transform(train)
        self.iterations = self.nmf.n_iter_
        return self

    def scores(self, val, held, exposures):
        """Deviance of the other half of the genes, and of all genes from the average factors."""
        from sklearn.decomposition import non_negative_factorization

        from nsf_nb.reading.metrics import poisson_deviance

        counts, topics = dense(val), self.nmf.components_
        given, fixed = (np.ascontiguousarray(x[:, ~held]) for x in (counts, topics))
        own, *_ = non_negative_factorization(given, H=fixed, n_components=len(topics), update_H=False, **KL)
        average = exposures[:, None] * (self.mixture.mean(axis=0) @ topics)
        other = np.maximum(own @ topics[:, held], SMALLEST)
        return poisson_deviance(counts[:, held], other), poisson_deviance(counts, np.maximum(average, SMALLEST))


class Pnmf:
    """Our model behind the same calls."""

    def __init__(self, n_factors, **options):
        import nsf_nb as nsf

        self.model = nsf.PNMF(n_factors, **options)

    def fit(self, train, rule):
        """Fit to an AnnData."""
        self.model.fit(train, layer="counts", size_factors=rule)
        self.iterations = self.model.n_iter_
        return self

    def scores(self, val, held, exposures):
        """As above."""
        from nsf_nb.imputation import score_imputation

        other = score_imputation(self.model, val, held).loc["other genes", "deviance"]
        return other, self.model.evaluate(val)["deviance"]


def methods(n_factors):
    """What makes each method."""
    return {
        "NMF": lambda: Nmf(n_factors), "PNMF": lambda: Pnmf(n_factors), "PNMF 1": lambda: Pnmf(n_factors, n_starts=1),
    }


def compare(name, n_factors, repeats):
    """Seconds, iterations and scores of all methods on one case."""
    train, val, rule = load(name)
    counts, every = dense(train), methods(n_factors)
    held = np.random.default_rng(0).permutation(train.n_vars) < train.n_vars // 2
    exposures = np.ones(val.n_obs) if rule == "constant" else dense(val).sum(axis=1) / counts.sum(axis=1).mean()
    seconds, found = {key: [] for key in every}, {}
    for i in range(repeats + 1):
        for key in list(every)[:: 1 if i % 2 else -1]:
            data, method = counts if key == "NMF" else train, every[key]()
            began = time.perf_counter()
            found[key] = method.fit(data, rule)
            seconds[key].append(time.perf_counter() - began)
    rows = []
    for key, method in ((key, found[key]) for key in every):
        other, average = method.scores(val, held, exposures)
        row = {"case": name, "factors": n_factors, "method": key, "seconds": statistics.median(seconds[key][1:])}
        row |= {"iterations": method.iterations, "other half": float(other), "average": float(average)}
        rows.append(row)
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    return rows


def main():
    """Run what is asked for and print a table."""
    cases = [*SIMULATED, *(name for name in TISSUES if tissue(name).is_file())]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=cases, help=", ".join(cases))
    parser.add_argument("--factors", nargs="+", type=int, default=[4, 8, 12])
    parser.add_argument("--repeats", type=int, default=3, help="after the warm-up; default 3")
    parser.add_argument("--json", action="store_true", help="one JSON object per method and case")
    args = parser.parse_args()
    if unknown := [name for name in args.cases if name not in cases]:
        parser.error(f"no case {', '.join(unknown)}; there is {', '.join(cases)}")
    import nsf_nb as nsf

    nsf.settings.progress = False
    warnings.filterwarnings("ignore", message="Maximum number of iterations")
    if not args.json:
        print(f"{'case':11} {'L':>2}  {'method':7} {'seconds':>8} {'ratio':>6} {'iterations':>10}  other half  average")
    for name, n_factors in ((name, n_factors) for name in args.cases for n_factors in args.factors):
        for row in compare(name, n_factors, args.repeats):
            line = f"{name:11} {n_factors:2d}  {row['method']:7} {row['seconds']:8.3f} {row['ratio']:6.2f}"
            line += f" {row['iterations']:>10}  {row['other half']:10.4f} {row['average']:8.4f}"
            print(json.dumps(row) if args.json else line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
