"""Maps of many factors and spots: seconds to draw and to save, and bytes of the file.

    python benchmarks/plots.py                                  20 factors, 100,000 spots
    python benchmarks/plots.py --factors 4 --spots 1000000      any other case
    python benchmarks/plots.py --datashader                     the pixels alone, beside those of datashader

The first call of matplotlib in a process is part of the numbers. Limits for the first case: 10 seconds, 5 megabytes;
the exit code is 1 if a limit is passed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

SECONDS, BYTES = 10.0, 5_000_000


def tissue(n_spots, n_factors, seed=0):
    """Places with unit density and factors with a pattern and noise."""
    rng = np.random.default_rng(seed)
    where = rng.uniform(0, np.sqrt(n_spots), size=(n_spots, 2))
    waves = np.sin(where @ rng.normal(scale=0.05, size=(2, n_factors)))
    values = np.exp(waves + 0.3 * rng.normal(size=waves.shape))
    names = [f"F{k + 1}" for k in range(n_factors)]
    return SimpleNamespace(factors_=pd.DataFrame(values, columns=names), coords_=where)


def measure(model, suffix):
    """Seconds to draw, seconds to save, bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from nsf_nb import pl

    with tempfile.TemporaryDirectory() as folder:
        start, path = time.perf_counter(), Path(folder) / f"factors.{suffix}"
        pl.factors(model)
        drawn = time.perf_counter()
        pl.factors(model, save=path)
        return drawn - start, time.perf_counter() - drawn, path.stat().st_size


def compare(model):
    """Seconds that all pictures take here and with datashader, once its functions are compiled."""
    import datashader

    from nsf_nb.reading.maps import Look, scene_of

    values, n = model.factors_.to_numpy(), model.factors_.shape[1]
    start = time.perf_counter()
    grid = scene_of(model.coords_, Look(), n).pixels
    grid.paint(values)
    ours = time.perf_counter() - start
    rows, columns = grid.shape
    table = model.factors_.assign(x=model.coords_[:, 0], y=model.coords_[:, 1])
    for _ in range(2):
        start, canvas = time.perf_counter(), datashader.Canvas(columns, rows)
        for name in model.factors_:
            canvas.points(table, "x", "y", datashader.mean(name))
        theirs = time.perf_counter() - start
    return ours, theirs


def main():
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, default=20)
    parser.add_argument("--spots", type=int, default=100_000)
    parser.add_argument("--suffix", default="pdf")
    parser.add_argument("--datashader", action="store_true")
    options = parser.parse_args()
    model = tissue(options.spots, options.factors)
    if options.datashader:
        print("pixels of all factors: {:.2f} s here, {:.2f} s with datashader".format(*compare(model)))
        return 0
    drawn, saved, size = measure(model, options.suffix)
    print(f"{options.factors} factors × {options.spots:,} spots")
    print(f"drawn in {drawn:.1f} s; drawn again and saved in {saved:.1f} s, {size:,} bytes ({options.suffix})")
    return int(max(drawn, saved) > SECONDS or size > BYTES)


if __name__ == "__main__":
    sys.exit(main())
