"""How large a report is, how long it takes to write, and when a browser has it ready for a click.

    python benchmarks/report.py                      10,000 and 50,000 spots
    python benchmarks/report.py 10000 --factors 20   these spots, so many factors
    python benchmarks/report.py --json               one JSON object per case

The fit is a stand-in: smooth factors and their standard deviations, loadings that are mostly zero, counts drawn from
both; no engine has run. Numbers. MB: the file. plotly MB: plotly.js in it, packed. write s and atlas s: writing the
page, and the part of it that the atlas takes. ready s: from opening the file, without a network, until factors can be
chosen and the first maps are drawn; complete s: until the second pair of maps, the curves and the tables are there as
well. Medians of five openings by chromium with WebGL in software, so that a machine with a graphics card is faster;
"-" without a browser. factor s: from the click on another factor until its maps are drawn.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engine import table

FLAGS = ["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader", "--enable-unsafe-swiftshader",
         "--disable-background-networking"]


def stand_in(n_obs: int, n_factors: int, n_genes: int):
    """Data, and what a report reads of a model."""
    import anndata
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from nsf_nb.reading.interpret import interpret

    rng = np.random.default_rng(0)
    coords, centres = rng.uniform(0, 1000, (n_obs, 2)), rng.uniform(0, 1000, (n_factors, 2))
    squares = ((coords[:, None] - centres) ** 2).sum(axis=2)
    factors = np.exp(-squares / 2 / 150**2 + 0.05 * rng.normal(size=squares.shape))
    loadings = rng.gamma(0.3, 1.0, (n_genes, n_factors)) * (rng.uniform(size=(n_genes, n_factors)) < 0.2)
    rows = [sp.csr_matrix(rng.poisson(factors[i : i + 1000] @ loadings.T), dtype=np.float32)
            for i in range(0, n_obs, 1000)]
    names = [f"F{k + 1}" for k in range(n_factors)]
    adata = anndata.AnnData(sp.vstack(rows, format="csr"), obsm={"spatial": coords})
    history = pd.DataFrame({"start": "final", "sweep": range(100), "elbo": -np.exp(-np.arange(100) / 9.0), "event": ""})

    class StandIn:
        factors_ = pd.DataFrame(factors, adata.obs_names, names)
        factor_std_ = 0.1 * factors_ * rng.uniform(0.5, 1.5, factors.shape)
        loadings_ = pd.DataFrame(loadings, adata.var_names, names)
        length_scales_, amplitudes_ = pd.Series(150.0, names), pd.Series(1.0, names)
        elbo_ = SimpleNamespace(total=-1.0, per_observation=-1.0, as_dict=lambda: {"KL": 1.0})
        converged_, n_iter_, seconds_ = True, 100, 60.0

        def get_params(self):
            return {"n_factors": n_factors, "random_state": 0}

        def interpret(self, mode="spde"):
            return interpret(self.factors_, self.loadings_, mode)

    StandIn.history = history
    return adata, StandIn()


def opened(browser, path: Path) -> dict[str, float]:
    """Seconds until a page is ready and complete, and of one click, by its own clock."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script("""
        window.times = {};
        new MutationObserver(() => { times[document.documentElement.dataset.atlas] ??= performance.now(); })
            .observe(document, {attributes: true, subtree: true, attributeFilter: ["data-atlas"]});
    """)
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-atlas=complete]", state="attached", timeout=120_000)
    found = {f"{name} s": value / 1000 for name, value in tab.evaluate("times").items()}
    found["factor s"] = tab.evaluate("""async () => {
        const start = performance.now(), chip = document.querySelectorAll("input[name=atlas-chip]")[1];
        const drawn = new Promise((go) => document.getElementById("atlas-factor").once("plotly_afterplot", go));
        chip.click();
        await drawn;
        return (performance.now() - start) / 1000;
    }""")
    context.close()
    return found


def in_browser(path: Path, times: int = 5) -> dict[str, float]:
    """Medians of several openings; nan without a browser."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        return dict.fromkeys(("ready s", "complete s", "factor s"), float("nan"))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=found, args=FLAGS)
        runs = [opened(browser, path) for _ in range(times)]
        browser.close()
    return {name: statistics.median(run[name] for run in runs) for name in ("ready s", "complete s", "factor s")}


def measure(n_obs: int, n_factors: int, n_genes: int) -> dict:
    """Write and open one report."""
    from nsf_nb.atlas import Extras, atlas_facts, atlas_section
    from nsf_nb.atlas_script import plotly_script
    from nsf_nb.cards import read_fit
    from nsf_nb.reporting import report

    adata, model = stand_in(n_obs, n_factors, n_genes)
    plotly = len(plotly_script()[1]) / 1e6
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = report(model, adata, Path(folder) / "report.html")
        written = time.perf_counter() - start
        start = time.perf_counter()
        facts, *blocks = atlas_facts(model, read_fit(model), adata.X, adata.obsm["spatial"], 8, Extras())
        atlas_section(facts, *blocks)
        atlas = time.perf_counter() - start
        size = {"N": n_obs, "J": n_genes, "L": n_factors, "genes held": len(facts["shown"])}
        bytes_ = {"MB": path.stat().st_size / 1e6, "plotly MB": plotly}
        return size | bytes_ | {"write s": written, "atlas s": atlas} | in_browser(path)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spots", nargs="*", type=int, help="default 10000 50000")
    parser.add_argument("--factors", type=int, default=20)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [measure(n_obs, given.factors, given.genes) for n_obs in given.spots or (10_000, 50_000)]
    print("\n".join(map(json.dumps, rows)) if given.json else table(rows))


if __name__ == "__main__":
    main()
