"""The atlas works in a browser, from a file and without a network: clicks, keys, downloads, phones, dark, odd names."""

import csv
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from nsf_nb.cards import read_fit
from nsf_nb.core import ConfigError, DataError
from nsf_nb.data.simulate import simulate
from nsf_nb.reporting import report, versions

EVIL = '</script><img src="x" onerror="document.title=1"><b>&amp;,"'
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-gl=swiftshader", "--enable-unsafe-swiftshader",
         "--disable-background-networking"]
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def fit():
    """Counts with odd names of genes, and a small fit with factors of both kinds."""
    pytest.importorskip("tensorflow")
    import nsf_nb

    adata = simulate("ggblocks", 40, 1, n_side=12, seed=1)
    adata.var_names = [EVIL, "constructor", *adata.var_names[2:]]
    before, nsf_nb.settings.progress = nsf_nb.settings.progress, False
    model = nsf_nb.NSFH(3, 1, n_inducing=60, n_starts=1, max_iter=12, random_state=11)
    model.fit(adata, layer="counts", size_factors="scanpy")
    nsf_nb.settings.progress = before
    return adata, model


@pytest.fixture(scope="module")
def importance(fit):
    """Importances of genes and factors, as if they had been computed with their uncertainty."""
    adata, model = fit
    rng = np.random.default_rng(0)

    def table(names):
        value = rng.permutation(np.linspace(0.1, 0.9, len(names)))
        ends = {"lower": value - 0.05, "upper": value + 0.05, "q_value": 1 - value, "spatial": value > 0.5}
        return pd.DataFrame({"importance": value, **ends}, index=names)

    return SimpleNamespace(genes=table(adata.var_names), factors=table(model.factors_.columns))


@pytest.fixture(scope="module")
def path(fit, importance, tmp_path_factory):
    """The file of the report."""
    adata, model = fit
    rows = [(name, f"{cell} of {name}", 0.25) for name in model.factors_ for cell in ("astrocytes", EVIL)]
    tables = {"enrichment": pd.DataFrame(rows, columns=["factor", "source", "score"])}
    scores = {"NSFH": {"deviance": 1.5}, "gene mean": {"deviance": 2.5}}
    folder = tmp_path_factory.mktemp("atlas")
    return report(model, adata, folder / "a.html", scores=scores, tables=tables, importance=importance, genes=[EVIL])


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def visit(browser, path):
    """Open the file without a network; what went wrong and what was asked for is kept in the tab's `trouble`."""
    contexts = []

    def go(viewport=WIDE, init="", wait="complete", **options):
        context = browser.new_context(offline=True, viewport=viewport, accept_downloads=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.trouble = []
        tab.on("console", lambda message: message.type == "error" and tab.trouble.append(message.text))
        tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
        tab.on("dialog", lambda dialog: tab.trouble.append("a dialog"))
        tab.on("request", lambda asked: asked.url == path.as_uri() or tab.trouble.append(asked.url))
        if init:
            tab.add_init_script(init)
        tab.goto(path.as_uri())
        if wait:
            tab.wait_for_selector(f"html[data-atlas={wait}]", state="attached")
        return tab

    yield go
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def opened(visit):
    """One tab for many tests: it takes seconds to open it."""
    return visit()


@pytest.fixture
def tab(opened):
    """This tab at the top of the page; a test that leaves it in trouble fails."""
    opened.trouble.clear()
    opened.evaluate("scrollTo(0, 0)")
    yield opened
    assert opened.trouble == []


def drawn(tab, plot, panel, what="marker.color"):
    """Values that a map shows."""
    get = "([id, i, keys]) => Array.from(keys.split('.').reduce((o, k) => o[k], document.getElementById(id).data[i]))"
    return np.array(tab.evaluate(get, [plot, panel, what]))


def pairs(tab, target):
    """Terms and their values."""
    return dict(zip(tab.locator(f"#{target} dt").all_inner_texts(), tab.locator(f"#{target} dd").all_inner_texts(),
                    strict=True))


def wait_for(tab, condition, argument=None):
    """Wait until JavaScript says yes."""
    tab.wait_for_function(condition, arg=argument)


HEADING = "([id, text]) => document.getElementById(id).textContent === text"


def test_it_opens_without_a_network_and_without_errors(opened):
    tab = opened
    assert tab.trouble == [] and tab.locator("#atlas").is_visible() and not tab.locator("#atlas-missing").is_visible()
    assert tab.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 4
    titles = tab.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert titles and not [title for title in titles if re.search("share|cloud|edit", title, re.IGNORECASE)]
    assert tab.evaluate("document.getElementById('atlas-factor').data[0].type") == "scattergl"


def test_a_factor_is_chosen_by_a_click(tab, fit, importance):
    adata, model = fit
    reading = read_fit(model)
    tab.get_by_label(reading.names[1]).check(force=True)
    wait_for(tab, HEADING, ["atlas-name", f"Factor {reading.names[1]}"])
    first = "document.getElementById('atlas-factor').data[0].marker.color[0]"
    wait_for(tab, f"(v) => Math.abs({first} - v) < 1e-3 + v / 1e3",
             float(model.factors_[reading.names[1]].iloc[0]))
    for panel, table in ((0, model.factors_), (1, model.factor_std_)):
        wanted = table[reading.names[1]].to_numpy()
        assert np.abs(drawn(tab, "atlas-factor", panel) - wanted).max() <= np.ptp(wanted) / 65_535
    assert np.allclose(drawn(tab, "atlas-factor", 0, "x"), adata.obsm["spatial"][:, 0], atol=1e-3)
    numbers = pairs(tab, "atlas-numbers")
    assert numbers["share of the counts"] == f"{100 * reading.shares[1]:.1f} %"
    assert numbers["length scale"] == f"{model.length_scales_[reading.names[1]]:.4g} input units"
    value = importance.factors.loc[reading.names[1]]
    wanted = f"{value.importance:.4g} ({value.lower:.4g} to {value.upper:.4g}), q = {value.q_value:.4g}"
    assert numbers["spatial importance"] == wanted
    near = np.argsort(cdist(adata.obsm["spatial"], adata.obsm["spatial"]), axis=1, kind="stable")[:, 1:7]
    z = model.factors_[reading.names[1]].to_numpy() - model.factors_[reading.names[1]].mean()
    moran = (z * z[near].mean(axis=1)).sum() / (z**2).sum()
    assert float(numbers["Moran's I"]) == pytest.approx(moran, abs=0.02)  # ties among neighbours at the edges
    rows = [row.split("\t") for row in tab.locator("#atlas-genes tbody").inner_text().splitlines()]
    wanted = np.sort(reading.specificity[reading.weight[:, 1] > 0, 1])[::-1][:8]
    assert [float(row[2]) for row in rows] == pytest.approx(wanted, rel=1e-3)
    assert [row[0] for row in rows] == [reading.genes[j] for j in facts(tab)["factors"][1]["specificity"]]
    given = tab.locator("#atlas-given").inner_text()
    assert f"astrocytes of {reading.names[1]}" in given and f"astrocytes of {reading.names[0]}" not in given


def facts(tab):
    """The JSON of the page."""
    return json.loads(tab.locator("#atlas-facts").text_content())


def test_a_gene_is_chosen_in_three_ways(tab, fit, importance):
    adata, model = fit
    tab.locator("#atlas-genes button").nth(2).click()
    name = tab.locator("#atlas-genes button").nth(2).inner_text()
    check_gene(tab, name, adata, model)
    tab.locator("#atlas-gene").select_option(EVIL)
    check_gene(tab, EVIL, adata, model)
    ranked = importance.genes["importance"].sort_values(ascending=False)
    held = {facts(tab)["genes"][j] for j in facts(tab)["shown"]}
    at, name = next((i, name) for i, name in enumerate(ranked.index[:20]) if name in held and name != EVIL)
    place = tab.evaluate("""([x, y]) => {
        const div = document.getElementById("atlas-importance"), box = div.getBoundingClientRect();
        div.scrollIntoView({block: "center", behavior: "instant"});
        const {xaxis, yaxis} = div._fullLayout, now = div.getBoundingClientRect();
        return [now.x + xaxis._offset + xaxis.l2p(x), now.y + yaxis._offset + yaxis.l2p(y)];
    }""", [float(ranked.iloc[at]), 19 - at])
    tab.mouse.move(place[0], place[1])
    tab.mouse.click(*place)
    check_gene(tab, name, adata, model)


def check_gene(tab, name, adata, model):
    """The page shows a gene, its counts, and what the model expects."""
    wait_for(tab, HEADING, ["atlas-gene-name", f"Gene {name}"])
    j = adata.var_names.get_loc(name)
    counts = np.asarray(adata.layers["counts"])[:, j]
    total = "document.getElementById('atlas-counts').data[0].marker.color.reduce((a, b) => a + b, 0)"
    wait_for(tab, f"(n) => {total} === n", int(counts.sum()))
    assert (drawn(tab, "atlas-counts", 0) == counts).all()
    sizes = counts_of_spots(adata)
    expected = sizes * (model.factors_.to_numpy() @ model.loadings_.to_numpy()[j])
    assert np.abs(drawn(tab, "atlas-counts", 1) - expected).max() <= np.ptp(expected) / 65_535 + 1e-9
    numbers = pairs(tab, "atlas-gene-numbers")
    assert numbers["counts"] == f"{int(counts.sum()):,}" and numbers["spots with counts"] == str((counts > 0).sum())


def counts_of_spots(adata):
    """Size factors of the rule "scanpy"."""
    totals = np.asarray(adata.layers["counts"]).sum(axis=1)
    return totals / np.median(totals)


def read_csv(tab):
    """Name and rows of the file that the button makes."""
    with tab.expect_download() as waiting:
        tab.locator("#atlas-download").click()
    file = waiting.value
    with open(file.path(), encoding="utf-8", newline="") as stream:
        return file.suggested_filename, list(csv.reader(io.StringIO(stream.read())))


def test_tables_are_handed_out_whole(tab, fit, importance):
    adata, model = fit
    reading = read_fit(model)
    tab.locator("#atlas-table").select_option("genes of factors")
    name, (head, *rows) = read_csv(tab)
    assert name == "genes_of_factors.csv" and head == ["factor", "gene", "weight", "specificity"]
    assert len(rows) == (reading.weight != 0).sum() and EVIL in {row[1] for row in rows}
    for factor, gene, weight, specificity in rows[:: max(1, len(rows) // 50)]:
        at = reading.genes.index(gene), reading.names.index(factor)
        assert float(weight) == pytest.approx(reading.weight[at], rel=1e-5)
        assert float(specificity) == pytest.approx(reading.specificity[at], rel=1e-5)
    first = [float(row[2]) for row in rows if row[0] == reading.names[0]]
    assert first == sorted(first, reverse=True)
    tab.locator("#atlas-table").select_option("spatial importance")
    name, (head, *rows) = read_csv(tab)
    found = pd.DataFrame(rows, columns=head).set_index("gene")
    assert head == ["gene", "importance", "lower", "upper", "q_value", "spatial"]
    assert found["importance"].astype(float).to_dict() == pytest.approx(importance.genes["importance"].to_dict())
    assert (found["spatial"] == "true").to_dict() == importance.genes["spatial"].to_dict()
    tab.locator("#atlas-table").select_option("enrichment")
    assert read_csv(tab)[1][2] == [model.factors_.columns[0], f"{EVIL} of {model.factors_.columns[0]}", "0.25"]


def test_a_phone_scrolls_in_one_direction(visit):
    tab = visit(PHONE, is_mobile=True, has_touch=True)
    for width in (360, 320):
        tab.set_viewport_size({**PHONE, "width": width})
        assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        assert tab.evaluate("document.getElementById('atlas-factor').getBoundingClientRect().right") < width
    tops = tab.evaluate("document.getElementById('atlas-factor').layout.annotations.map((one) => one.y)")
    assert tops[0] > tops[1]  # one map below the other
    small = tab.evaluate("""[...document.querySelectorAll('#atlas button, #atlas select, .chips label')]
        .map((one) => one.getBoundingClientRect())
        .filter((box) => box.height && Math.min(box.width, box.height) < 24)""")
    assert small == [] and tab.evaluate("document.getElementById('atlas-factor').layout.dragmode") is False


COLOURS = """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
    document.getElementById("atlas-bound").layout.font.color,
    getComputedStyle(document.querySelector("button")).color]"""


def test_dark_is_dark(tab, visit):
    light, dark = tab.evaluate(COLOURS), visit(color_scheme="dark").evaluate(COLOURS)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert sum(map(int, re.findall(r"\d+", dark[0]))) < 100 < sum(map(int, re.findall(r"\d+", light[0])))
    for scheme, wanted in (("dark", dark), ("light", light)):  # while it is open
        tab.emulate_media(color_scheme=scheme)
        wait_for(tab, "(c) => document.getElementById('atlas-bound').layout.font.color === c", wanted[2])
        assert tab.evaluate(COLOURS) == wanted


def test_text_has_contrast(path):
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)[1]
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media", 2)[:2]]

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for scheme in schemes:
        for ink in ("ink", "soft", "accent"):
            for paper in ("paper", "card"):
                low, high = sorted((light(scheme[ink]), light(scheme[paper])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper, scheme)


def test_keys_do_what_clicks_do(tab, fit):
    names = read_fit(fit[1]).names
    tab.get_by_role("radio", name=re.compile(rf"^{names[0]}\b")).check(force=True)
    tab.evaluate("document.activeElement.blur(); document.querySelector('header').setAttribute('tabindex', -1)")
    tab.evaluate("document.querySelector('header').focus()")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.name") == "atlas-chip"
    tab.keyboard.press("ArrowRight")
    wait_for(tab, HEADING, ["atlas-name", f"Factor {names[1]}"])
    assert tab.locator("#atlas-say").inner_text() == f"Factor {names[1]}."
    for _ in range(30):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.className") == "gene":
            break
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    name = tab.evaluate("document.activeElement.textContent")
    tab.keyboard.press("Enter")
    wait_for(tab, HEADING, ["atlas-gene-name", f"Gene {name}"])
    assert outline == "solid"


def test_odd_names_stay_text(tab):
    tab.locator("#atlas-gene").select_option("constructor")
    wait_for(tab, HEADING, ["atlas-gene-name", "Gene constructor"])
    tab.locator("#atlas-gene").select_option(EVIL)
    wait_for(tab, HEADING, ["atlas-gene-name", f"Gene {EVIL}"])
    assert tab.evaluate("document.querySelectorAll('img[src=x], main b').length") == 0
    assert tab.title().startswith("NSFH: 4 factors")


def test_no_other_script_runs(tab):
    tab.evaluate("""() => {
        const made = document.createElement("script");
        made.textContent = "window.stranger = 1";
        document.body.append(made);
    }""")
    for _ in range(100):  # until the browser has said that it refuses
        tab.wait_for_timeout(100)
        if tab.trouble:
            break
    assert tab.evaluate("window.stranger") is None and "Content Security Policy" in tab.trouble.pop()


def test_without_scripts_the_rest_is_there(visit):
    tab = visit(java_script_enabled=False, wait="")
    assert not tab.locator("#atlas").is_visible() and tab.locator("noscript p").is_visible()
    assert tab.locator("img.map").count() == 4 and tab.locator("img.map").first.is_visible()
    assert tab.locator("#methods").is_visible()


def test_without_webgl_small_maps_are_drawn_and_a_failure_is_told(visit):
    none = "HTMLCanvasElement.prototype.getContext = () => null;"
    tab = visit(init=none)
    assert tab.evaluate("document.getElementById('atlas-factor').data[0].type") == "scatter" and tab.trouble == []
    tab = visit(init="delete window.DecompressionStream;", wait="")
    tab.wait_for_selector("#atlas-missing:not([hidden])")
    assert "could not start" in tab.locator("#atlas-missing").inner_text() and not tab.locator("#atlas").is_visible()


def test_the_cards_lead_to_the_atlas_and_the_paragraph_is_copied(tab, fit):
    names = read_fit(fit[1]).names
    tab.locator("article.card .open").nth(2).click()
    wait_for(tab, HEADING, ["atlas-name", f"Factor {names[2]}"])
    tab.get_by_role("button", name="Copy").click()
    assert tab.evaluate("getSelection().toString()").strip() == tab.locator("#methods").inner_text().strip()


def test_the_paragraph_is_that_of_the_fit(path, fit):
    adata, model = fit
    text = path.read_text(encoding="utf-8").partition('<blockquote id="methods">')[2].partition("</blockquote>")[0]
    lengths = model.length_scales_
    for part in (
        "Counts of 40 genes at 144 spots", "4 factors, 3 of them spatial", "Poisson likelihood", "Matérn 3/2 kernel",
        "totals of the spots divided by their median", "inducing points (number: 60)", "the best of 1 start;",
        f"{lengths.min():.4g} to {lengths.max():.4g} input units", f"after {model.n_iter_} sweeps (at most 12,",
        f"{model.elbo_.per_observation:.4g} nats per spot", "The random seed was 11.",
        "deviance was 1.5 for NSFH, 2.5 for gene mean", *(f"{name} {version}" for name, version in versions().items()),
    ):
        assert part in text, (part, text)
    assert ("had not converged" in text) == (not model.converged_)


def test_what_cannot_be_shown_is_refused_before_any_work(fit, tmp_path):
    adata, model = fit
    cases = [
        (ConfigError, "tables", {"tables": {"enrichment": [1]}}),
        (ConfigError, "importance", {"importance": SimpleNamespace(genes=pd.DataFrame({"x": [1]}))}),
        (DataError, "Plp1", {"genes": ["Plp1"]}),
    ]
    for error, text, more in cases:
        with pytest.raises(error, match=text):
            report(model, adata, tmp_path / "a.html", **more)
    assert not list(tmp_path.iterdir())
