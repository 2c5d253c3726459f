"""Save small models as this version does, for the tests of later versions.

    python tests/make_fixture.py

Run once for each version of the schema; what is there is never replaced.
"""

from pathlib import Path

import numpy as np

import nsf_nb as nsf
from nsf_nb.model_schema import VERSION
from nsf_nb.probability.kernels import Kernel

FOLDER = Path(__file__).resolve().parent / "fixtures"
SMALL = {"n_starts": 1, "max_iter": 10, "n_inducing": 20}


def main() -> None:
    """Fit, save, and keep what each model predicts."""
    adata = nsf.simulate("ggblocks", n_features=15, n_factors_nonspatial=1, n_side=12, background=0.5, seed=1)
    kernel = Kernel("matern32", (1.25, 0.8), nugget=0.01, ard=True)
    models = {
        "": nsf.NSFH(2, 1, likelihood="nb", kernel=kernel, random_state=np.random.SeedSequence(3), **SMALL),
        "-rsf": nsf.RSF(2, likelihood="poisson", **SMALL), "-mefisto": nsf.MEFISTO(1, max_iter=25, n_inducing=100),
    }
    places = np.random.default_rng(0).uniform(-1, 13, (10, 2))
    FOLDER.mkdir(exist_ok=True)
    for suffix, model in models.items():
        path = FOLDER / f"model-v{VERSION}{suffix}"
        model.fit(adata, layer="counts", size_factors="scanpy").save(path, counts=suffix == "")
        there = model.predict(places)
        np.savez(
            path.with_name(f"{path.name}-expected.npz"), places=places, counts=there.X, factors=there.obsm["X_nsf"],
            std=there.obsm["X_nsf_std"], bound=model.elbo_.per_observation,
        )


if __name__ == "__main__":
    main()
