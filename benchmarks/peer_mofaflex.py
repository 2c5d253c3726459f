"""MOFA-FLEX's preset of nonnegative spatial factorization, watched: what it expects of held-out spots, over time.

    make peers                                        its environment, .venv-peers, from benchmarks/peers.txt
    .venv-peers/bin/python benchmarks/peer_mofaflex.py train.h5ad val.h5ad out.npz --factors 12

It runs in that environment, without nsf_nb: `python benchmarks/suites.py peers` writes the files and calls it. Counts
are in the layer "counts", coordinates in obsm["spatial"]. All settings are those of `mofaflex.presets.NSF` (negative
binomial, rectified factors and weights, 800 inducing points, rate 0.05, its early stopping), but for what is asked
for here.

A held-out spot. `MOFAFLEX.get_gps(x=...)` says mean and standard deviation of the Gaussian processes at new places. A
factor there is that value plus the residual of its own model, of variance one less the scale of the process; weights
have Gaussian posteriors. `plain` multiplies the rectified means, as MOFA-FLEX imputes; `expected` the means of the
rectified Gaussians. Both are times the mean count of the spot, its own rule of exposure. The clock starts after imports
and a small fit that warms up, and stands still while it is looked at; what follows the training is not counted.

out.npz: seconds, epoch (looks); plain, expected (looks × spots × genes); converged.
"""

import argparse
import time
from contextlib import contextmanager

import anndata
import numpy as np


class OutOfTime(Exception):
    """The limit of seconds is reached."""


def rectified(mean, sd):
    """Mean of a Gaussian variable that is set to zero where it is negative."""
    from scipy.special import ndtr

    z = mean / np.maximum(sd, 1e-12)
    return mean * ndtr(z) + sd * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def tables(adata):
    """An AnnData as MOFA-FLEX wants it: dense float32 counts, coordinates."""
    counts = adata.layers["counts"]
    counts = np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, dtype=np.float32)
    return anndata.AnnData(counts, obs=adata.obs[[]], var=adata.var[[]], obsm={"spatial": adata.obsm["spatial"]})


def watched_class():
    """MOFA-FLEX with a look after some of its steps."""
    import mofaflex

    class Watched(mofaflex.MOFAFLEX):
        def __init__(self, data, *options, look):
            self.look = look
            super().__init__(data, *options)

        def _setup_svi(self, *given):
            svi, model, order = super()._setup_svi(*given)
            step, self.parts = svi.step, model

            def one(**batch):
                loss = step(**batch)
                self.look(self)
                return loss

            svi.step = one
            return svi, model, order

    return Watched


@contextmanager
def untouched(process):
    """What a process remembers between calls is set aside, so that a prediction and the training share nothing."""
    def take():
        return [(m, m.__dict__.pop("_memoize_cache")) for m in process.modules() if "_memoize_cache" in m.__dict__]

    kept = take()
    try:
        yield
    finally:
        take()
        for module, memory in kept:
            module._memoize_cache = memory


def means_at(model, places, depth):
    """Expected counts at new places in two ways, spots × genes each."""
    places = {"group": places}
    with untouched(model._gp):
        gp, sd = (model.get_gps("numpy", moment, x=places)["group"] for moment in ("mean", "std"))
    weights = model.parts.get_weights()  # means are rectified
    raw = [part for prior in model.parts._weights for part in prior.posterior]
    loc, scale = (part["counts"].detach().cpu().numpy() for part in raw)
    spread = np.sqrt(sd**2 + 1 - model.gp_scale)
    plain = np.maximum(gp, 0) @ weights.mean["counts"]
    return depth * plain, depth * (rectified(gp, spread) @ rectified(loc, scale))


class Watch:
    """Looks every so many epochs, with a clock that stands still meanwhile."""

    def __init__(self, places, depth, every, limit):
        self.given, self.every, self.limit, self.epoch, self.idle, self.rows = (places, depth), every, limit, 0, 0.0, []

    def start(self):
        self.began = time.perf_counter()
        return self

    def __call__(self, model):
        self.epoch += 1
        now = time.perf_counter()
        spent = now - self.began - self.idle
        over = spent > self.limit
        self.last = spent, self.epoch, model
        if over or self.epoch % self.every == 0:
            self.look()
            self.idle += time.perf_counter() - now
        if over:
            raise OutOfTime

    def look(self):
        """Write down what would be predicted now."""
        spent, epoch, model = self.last
        if not self.rows or self.rows[-1][1] != epoch:
            self.rows.append((spent, epoch, *means_at(model, *self.given)))


def fit(train, watch, factors, inducing, epochs, seed):
    """Whether it stopped by its own rule; the watch has seen it."""
    import mofaflex
    from mofaflex import DataOptions, ModelOptions, SmoothOptions, TrainingOptions

    options = [
        DataOptions(covariates_obsm_key="spatial", plot_data_overview=False, subset_var=None,
                    remove_constant_features=False),
        ModelOptions(n_factors=factors, weight_prior="Horseshoe"),
        TrainingOptions(device="cpu", seed=seed, save_path=False, **({"max_epochs": epochs} if epochs else {})),
    ]
    model, training, smooth = mofaflex.presets.NSF
    if inducing:  # options are merged, and what is a default does not replace what is none
        smooth = SmoothOptions(n_inducing=inducing, kernel=smooth.kernel)
    try:
        watched_class()({"group": {"counts": train}}, model, training, smooth, *options, look=watch.start())
    except OutOfTime:
        return False
    watch.look()
    return not epochs or watch.epoch < epochs


def main():
    """Fit, watched, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("out")
    parser.add_argument("--factors", type=int, required=True)
    parser.add_argument("--inducing", type=int, help="default: that of the preset")
    parser.add_argument("--epochs", type=int, help="at most; default: that of the preset")
    parser.add_argument("--every", type=int, default=20, help="epochs between two looks; default 20")
    parser.add_argument("--limit", type=float, default=900, help="seconds at most; default 900")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train, val = (tables(anndata.read_h5ad(path)) for path in (args.train, args.val))
    places, depth = np.asarray(val.obsm["spatial"], dtype=np.float32), val.X.mean(axis=1)[:, None]
    small = train[:200, :20].copy()
    fit(small, Watch(places[:9], depth[:9, :1], 2, np.inf), 2, 20, 3, args.seed)
    watch = Watch(places, depth, args.every, args.limit)
    converged = fit(train, watch, args.factors, args.inducing, args.epochs, args.seed)
    seconds, epoch, plain, expected = (np.array(column, dtype="f4") for column in zip(*watch.rows, strict=True))
    np.savez(args.out, seconds=seconds, epoch=epoch, plain=plain, expected=expected, converged=converged)


if __name__ == "__main__":
    main()
