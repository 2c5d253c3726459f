"""The report is one well-formed file that needs nothing else, says what was fitted, and overwrites nothing unasked."""

import base64
import gzip
import hashlib
import io
import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from nsf_nb import reporting
from nsf_nb.core import ConfigError, DataError, NotFittedError
from nsf_nb.data.simulate import simulate
from nsf_nb.reading.interpret import interpret
from nsf_nb.reporting import report

NAMES = ["F1", 'F"<2>', "F3"]
EVIL = '<img src="https://evil.example/x.png" onerror="alert(1)">&amp;'


class Fitted:
    """What a report reads of a fitted model, with names that would break a page if they were not escaped."""

    def __init__(self, adata, seed=5):
        rng = np.random.default_rng(seed)
        factors, weights = rng.gamma(1, size=(adata.n_obs, 3)), rng.gamma(0.5, size=(adata.n_vars, 3))
        self.factors_ = pd.DataFrame(factors, adata.obs_names, NAMES)
        self.loadings_ = pd.DataFrame(weights, adata.var_names, NAMES)
        self.length_scales_, self.amplitudes_ = pd.Series([0.25, 1.5, 3.75], NAMES), pd.Series([1, 0.5, np.nan], NAMES)
        self.history = pd.DataFrame({"start": [0, 0, 0], "sweep": [0, 1, 2], "elbo": [-30.0, -20, -19]})
        self.history["event"] = ["", "<kernel>", None]
        parts = {"likelihood": -12.0, "KL": -7}
        self.elbo_ = SimpleNamespace(total=-19.0, per_observation=-0.125, as_dict=lambda: parts)
        self.converged_, self.n_iter_, self.seconds_ = True, 3, 131.0

    def get_params(self):
        """The settings."""
        return {"n_factors": 3, "kernel": EVIL, "random_state": 4711}

    def interpret(self, mode):
        """One of the two scalings."""
        return interpret(self.factors_, self.loadings_, mode)


@pytest.fixture
def adata():
    """Counts of 144 spots and 20 genes; one gene has an evil name."""
    adata = simulate("ggblocks", n_features=20, n_side=12)
    adata.var_names = [EVIL, *adata.var_names[1:]]
    return adata


def read(path):
    """Text and tree of a page; fails if it is not well-formed."""
    text = path.read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def tables(tree):
    """Rows of cells by the caption of the table; the last one if several share it."""
    found = {}
    for table in tree.iter("table"):
        rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
        found["".join(table.find("caption").itertext())] = rows
    return found


@pytest.fixture
def page(adata, tmp_path):
    """Text and tree of a page."""
    return read(report(Fitted(adata), adata, tmp_path / "report.html"))


def test_nothing_comes_from_elsewhere(page):
    text, tree = page
    for element in tree.iter():
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "data", "action", "poster", "{http://www.w3.org/1999/xlink}href"):
                assert value.startswith(("data:image/png;base64,", "#")), value
            assert not name.startswith("on"), name
    assert {element.tag for element in tree.iter()}.isdisjoint({"link", "iframe", "object", "base", "embed", "form"})
    quoted = re.sub("https://evil\\.example/x\\.png", "", text)
    assert "://" not in quoted and "url(" not in re.sub(r"url\(#", "", text) and "@import" not in text


def test_the_policy_allows_two_scripts_by_their_digests(page):
    policy = page[1].find("head/meta[@http-equiv='Content-Security-Policy']").get("content")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data: blob:" and rules["style-src"] == "'unsafe-inline'" and len(rules) == 6
    scripts = {script.get("id"): script for script in page[1].iter("script")}
    running = [script for script in scripts.values() if script.get("type") is None]
    assert len(running) == 1 and set(scripts) == {
        None, "atlas-facts", "atlas-arrays", "atlas-counts-arrays", "atlas-plotly"
    }
    own = page[0].rpartition("<script>")[2].partition("</script>")[0]
    plotly = gzip.decompress(base64.b64decode(scripts["atlas-plotly"].text))
    digests = [base64.b64encode(hashlib.sha256(one).digest()).decode() for one in (own.encode(), plotly)]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests) + " 'unsafe-eval'"


def test_text_of_the_data_stays_text(page):
    text, tree = page
    cells = [cell.text for cell in [*tree.iter("th"), *tree.iter("td")]]
    assert EVIL in cells and cells.count(EVIL) > 2  # as a gene and as a setting
    assert not any(element.get("onerror") for element in tree.iter())
    assert {heading.text.strip() for heading in tree.iterfind(".//article/h3")} == set(NAMES)
    facts = tree.find(".//script[@id='atlas-facts']").text
    assert not set("<>&") & set(facts) and EVIL in json.loads(facts)["genes"]
    assert json.loads(facts)["factors"][0]["name"] in NAMES and text.count("</script>") == 5
    assert "<kernel>" in {"".join(element.itertext()).strip() for element in tree.iter("text")}


def test_images_decode_and_have_a_text(page, adata):
    from matplotlib import pyplot as plt

    images = list(page[1].iter("img"))
    assert len(images) == 3
    for image in images:
        raw = base64.b64decode(image.get("src").removeprefix("data:image/png;base64,"), validate=True)
        pixels = plt.imread(io.BytesIO(raw), format="png")
        assert pixels.shape == (480, 480, 4) and (pixels[:3, :, 3] == 0).all() and (pixels[..., 3] > 0.98).mean() > 0.4
    names = [image.get("alt").split(" over ")[0] for image in images]
    assert sorted(names) == sorted(f"Factor {name}" for name in NAMES)
    for image, name in zip(images, (name.removeprefix("Factor ") for name in names), strict=True):
        values = Fitted(adata).factors_[name]
        assert f"from {values.min():.4g} to {np.percentile(values, 99):.4g}." in image.get("alt")
    assert len({image.get("src") for image in images}) == 3
    labels = [svg.get("aria-label") for svg in page[1].iter("svg")]
    assert len(labels) == 1 and "-19 nats" in labels[0]


def test_facts(page, adata):
    found = tables(page[1])
    counts = adata.X
    facts = dict(found["Data of the fit"])
    assert facts["spots"] == "144" and facts["genes"] == "20" and facts["counts"] == f"{int(counts.sum()):,}"
    assert facts["zeros"] == f"{100 * (counts == 0).mean():.1f} %" and facts["extent, input units"] == "4 × 4"
    assert float(facts["median counts of a spot"]) == np.median(counts.sum(axis=1))
    fit = dict(found["Fit"])
    assert fit["seed"] == dict(found["Settings"])["random_state"] == "4711"
    assert (fit["converged"], fit["wall time"], fit["bound, nats"]) == ("yes", "2 min 11 s", "-19")
    assert dict(found["Parts of the bound, nats"]) == {"likelihood": "-12", "KL": "-7"}
    assert dict(found["Settings"])["kernel"] == EVIL
    versions = dict(found["Versions"])
    assert versions["numpy"] == np.__version__ and {"python", "nsf_nb", "tensorflow", "scanpy"} <= set(versions)
    assert not any("Scores" in caption for caption in found)


def test_cards_hold_the_factor_that_they_name(page, adata):
    model = Fitted(adata)
    reading = model.interpret("spde")
    cards = list(page[1].iter("article"))
    assert [card.find("h3").text.strip() for card in cards] == list(reading.factor_names)
    for k, (card, name) in enumerate(zip(cards, reading.factor_names, strict=True)):
        found = tables(card)
        prior = dict(found["Prior"])
        assert prior["length scale, input units"] == f"{model.length_scales_[name]:g}"
        assert prior["amplitude"] == ("–" if name == "F3" else f"{model.amplitudes_[name]:g}")
        for by, values in (("weight", reading.weight), ("specificity", reading.specificity)):
            rows = found[f"Genes by {by}"][1:]
            best = np.argsort(-values[:, k])[:8]
            assert [row[0] for row in rows] == [reading.feature_names[j] for j in best]
            assert [row[1] for row in rows] == [f"{reading.weight[j, k]:.4g}" for j in best]
            assert [row[2] for row in rows] == [f"{reading.specificity[j, k]:.4g}" for j in best]


SCORES = {"NSF": {"deviance": 2.0}, "nearest spots": {"deviance": 2.5, "rmse": 1.0}, "gene mean": {"deviance": 3.0}}


@pytest.mark.parametrize("scores", [SCORES, pd.DataFrame(SCORES).T])
def test_scores_beside_the_baselines(scores, adata, tmp_path):
    text, tree = read(report(Fitted(adata), adata, tmp_path / "a.html", scores=scores))
    rows = next(rows for caption, rows in tables(tree).items() if caption.startswith("Scores"))
    assert rows[0] == ["method", "deviance", "rmse"]
    assert rows[1:] == [["NSF", "2", "–"], ["nearest spots", "2.5", "1"], ["gene mean", "3", "–"]]
    assert "Held-out deviance of NSF: 2, below the 2.5 of nearest spots." in text


def test_a_fit_that_loses_is_told(adata, tmp_path):
    worse = {**SCORES, "NSF": {"deviance": 2.6}}
    text, _ = read(report(Fitted(adata), adata, tmp_path / "a.html", scores=worse))
    assert "not below the 2.5 of nearest spots" in text
    alone = read(report(Fitted(adata), adata, tmp_path / "b.html", scores={"deviance": 2.6}))
    assert "Held-out deviance" not in alone[0] and "Held-out spots" in alone[0]


def test_spots_and_genes_are_found_by_name(adata, tmp_path):
    model = Fitted(adata[20:, 3:].copy())
    first = report(model, adata[20:, 3:].copy(), tmp_path / "a.html").read_text(encoding="utf-8")
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs), ::-1].copy()
    second = report(model, shuffled, tmp_path / "b.html").read_text(encoding="utf-8")
    dates = r"Written [^<]* by"
    assert re.sub(dates, "", first) == re.sub(dates, "", second)
    with pytest.raises(DataError, match="obs_names"):
        report(model, adata[30:], tmp_path / "c.html")
    with pytest.raises(DataError, match="var_names"):
        report(model, adata[:, 5:], tmp_path / "c.html")


def test_layer_and_key_of_the_fit(adata, tmp_path):
    model = Fitted(adata)
    adata.X = np.log1p(adata.X)
    adata.obsm["place"] = adata.obsm.pop("spatial") * [10, 20]
    model.layer_, model.spatial_key_ = "counts", "place"
    facts = dict(tables(read(report(model, adata, tmp_path / "a.html"))[1])["Data of the fit"])
    assert facts["counts"] == f"{int(adata.layers['counts'].sum()):,}" and facts["extent, input units"] == "40 × 80"
    del model.layer_
    with pytest.raises(DataError, match="layers"):
        report(model, adata, tmp_path / "b.html")
    assert report(model, adata, tmp_path / "b.html", layer="counts").exists()


@pytest.mark.parametrize("n_dims, images, curves", [(1, 0, 4), (3, 3, 1)])
def test_lines_and_volumes(n_dims, images, curves, adata, tmp_path):
    adata.obsm["spatial"] = np.random.default_rng(0).normal(size=(adata.n_obs, n_dims))
    _, tree = read(report(Fitted(adata), adata, tmp_path / "a.html"))
    assert len(list(tree.iter("img"))) == images and len(list(tree.iter("svg"))) == curves


def test_nothing_is_overwritten_unasked(adata, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("mine")
    monkeypatch.setattr(reporting, "_body", lambda *_: pytest.fail("work was done before the path was checked"))
    with pytest.raises(ConfigError, match="force"):
        report(Fitted(adata), adata, path)
    with pytest.raises(ConfigError, match="folder"):
        report(Fitted(adata), adata, tmp_path / "absent" / "report.html")
    monkeypatch.undo()
    assert path.read_text() == "mine"
    assert report(Fitted(adata), adata, str(path), force=True) == path and path.read_text()[:9] == "<!DOCTYPE"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_an_interrupted_report_leaves_the_old_file(adata, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("mine")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        report(Fitted(adata), adata, path, force=True)
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_bad_input_is_refused(adata, tmp_path):
    path = tmp_path / "report.html"
    cases = [
        (NotFittedError, "without a fit", lambda: report(SimpleNamespace(), adata, path)),
        (ConfigError, "row of scores", lambda: report(Fitted(adata), adata, path, scores={})),
        (ConfigError, "row of scores", lambda: report(Fitted(adata), adata, path, scores=3.0)),
        (ConfigError, "n_genes", lambda: report(Fitted(adata), adata, path, n_genes=0)),
        (DataError, "place", lambda: report(Fitted(adata), adata, path, spatial_key="place")),
    ]
    for error, text, call in cases:
        with pytest.raises(error, match=text):
            call()
    assert not path.exists()


# The whole family


SMALL = {"max_iter": 30}
MODELS = {
    "NSF": lambda nsf: nsf.NSF(3, n_starts=1, likelihood="nb", **SMALL),
    "NSF gaussian": lambda nsf: nsf.NSF(3, likelihood="gaussian", **SMALL),
    "PNMF": lambda nsf: nsf.PNMF(3, n_starts=1, **SMALL),
    "NSFH": lambda nsf: nsf.NSFH(2, 2, n_starts=1, **SMALL),
    "RSF": lambda nsf: nsf.RSF(3, **SMALL),
    "FA": lambda nsf: nsf.FA(3, likelihood="nb", **SMALL),
    "RSFH": lambda nsf: nsf.RSFH(2, 1, likelihood="poisson", **SMALL),
    "MEFISTO": lambda nsf: nsf.MEFISTO(3, **SMALL),
}
SIGNED = {"RSF", "FA", "RSFH", "MEFISTO"}
SCATTER = {"NSF": "Dispersion", "NSF gaussian": "Noise", "RSF": "Noise", "FA": "Dispersion"}


@pytest.fixture(scope="module")
def mixed():
    """Four patterns and a scattered factor, 144 spots."""
    return simulate("ggblocks", 40, 1, n_side=12, seed=1)


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, mixed, tmp_path_factory):
    """A name, a fitted model, the text and the tree of its page."""
    pytest.importorskip("tensorflow")
    import nsf_nb

    before, nsf_nb.settings.progress = nsf_nb.settings.progress, False
    model = MODELS[request.param](nsf_nb).fit(mixed, layer="counts")
    nsf_nb.settings.progress = before
    return request.param, model, *read(report(model, mixed, tmp_path_factory.mktemp("page") / "report.html"))


def headings(tree):
    """Titles of the sections."""
    return ["".join(heading.itertext()) for heading in tree.iter("h2")]


def words(text):
    """A page without what its scripts hold."""
    return re.sub(r"<script.*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)


def test_every_model_has_a_page_of_its_own(fitted):
    name, model, text, tree = fitted
    wanted = ["Atlas", "Data and fit", "Findings", "Factors"] + ["Spatial importance of genes"] * name.endswith("H")
    wanted += [title for key, title in SCATTER.items() if key == name] + ["Bound", "Methods", "To repeat it"]
    assert headings(tree) == wanted
    assert tree.find("head/title").text.startswith(f"{type(model).__name__}: {model.factors_.shape[1]} factors")
    facts = tables(tree)
    assert dict(facts["Fit"])["of them spatial"] == str(len(model.length_scales_))
    for parameter, value in model.get_params().items():
        assert dict(facts["Settings"])[parameter] == str(value)
    assert all(part in dict(facts["Parts of the bound, nats"]) for part in model.elbo_.as_dict())
    assert "mofapy2" in dict(facts["Versions"])
    sources = [image.get("src") for image in tree.iter("img")]
    assert len(sources) == model.factors_.shape[1] and all(one.startswith("data:image/png;base64,") for one in sources)


def pixels_of(card):
    """The pixels of the map on a card that are not transparent, N×4."""
    from matplotlib import pyplot as plt

    raw = base64.b64decode(card.find("figure/img").get("src").removeprefix("data:image/png;base64,"))
    pixels = plt.imread(io.BytesIO(raw), format="png").reshape(-1, 4)
    return pixels[pixels[:, 3] > 0.98]


def test_signs_are_shown(fitted):
    from matplotlib import colormaps

    name, model, _, tree = fitted
    for card in tree.iter("article"):
        factor = card.find("h3").text.strip()
        values, found, signed = model.factors_[factor].to_numpy(), tables(card), name in SIGNED
        ends = [span.text for span in card.iter("span")]
        weight = model.loadings_[factor].to_numpy() * values.std()
        assert card.find("h3/small").text.split(" % ")[1].startswith("of the variance" if signed else "of the counts")
        if not signed:
            assert len(ends) == 2 and "Genes by weight" in found
            continue
        limit = np.percentile(np.abs(values), 99)
        assert [float(ends[0]), float(ends[2])] == pytest.approx([-limit, limit], rel=1e-3) and ends[1] == "0"
        there = colormaps["coolwarm"](0.5 + 0.5 * values / limit)
        red, wanted = (colours[:, 0] - colours[:, 2] for colours in (pixels_of(card), there))  # minus blue
        assert red.mean() == pytest.approx(wanted.mean(), abs=0.02)
        assert np.quantile(red, [0.05, 0.95]) == pytest.approx(np.quantile(wanted, [0.05, 0.95]), abs=0.15)
        rows = found["Genes by size of weight"][1:]
        best = np.argsort(-np.abs(weight), kind="stable")[:8]
        assert {row[0] for row in rows} == set(model.loadings_.index[best])
        for gene, shown, _ in rows:
            wanted = weight[model.loadings_.index.get_loc(gene)]
            assert float(shown.replace("−", "-")) == pytest.approx(wanted, rel=1e-2) and shown[0] in "+−"


def test_kinds_of_factors_are_told_apart(fitted):
    name, model, text, tree = fitted
    cards = {card.find("h3").text.strip(): card for card in tree.iter("article")}
    spatial = list(model.length_scales_.index)
    assert sorted(cards) == sorted(model.factors_.columns) and set(list(cards)[: len(spatial)]) == set(spatial)
    for factor, card in cards.items():
        prior = dict(tables(card).get("Prior", []))
        assert bool(prior) == (factor in spatial) == ("a value of its own" not in "".join(card.itertext()))
        if prior:
            assert prior["length scale, input units"] == f"{model.length_scales_[factor]:.4g}"
            assert prior["amplitude"] == f"{model.amplitudes_[factor]:.4g}"
        kind = card.find("h3/small").text.partition(", ")[2]
        assert kind == ("" if not name.endswith("H") else "spatial" if factor in spatial else "not spatial")
    assert ("No factor is a function of place" in text) == (not spatial)
    assert ("factors are functions of place: F1, F2" in text) == name.endswith("H")


def test_spatial_importance_is_that_of_the_loadings(fitted):
    name, model, text, tree = fitted
    if not name.endswith("H"):
        assert "importance" not in words(text)
        return
    factors, loadings = model.factors_.to_numpy(), model.loadings_.to_numpy()
    parts = (loadings * factors.std(axis=0)) ** 2 if name in SIGNED else loadings * factors.sum(axis=0)
    importance = pd.Series(parts[:, :2].sum(axis=1) / parts.sum(axis=1), model.loadings_.index)
    found = tables(tree)
    for end, wanted in (("Most", importance.nlargest(8)), ("Least", importance.nsmallest(8))):
        rows = found[f"{end} spatial genes"][1:]
        assert [float(row[1]) for row in rows] == pytest.approx(list(wanted), rel=1e-3, abs=1e-6)
        assert all(float(value) == pytest.approx(importance[gene], rel=1e-3, abs=1e-6) for gene, value in rows)
    what = "variance" if name in SIGNED else "counts"
    assert f"more than half of the {what} of {(importance > 0.5).sum()} among 40 genes" in text


def test_scatter_of_the_genes(fitted):
    name, model, text, tree = fitted
    if name not in SCATTER:
        assert "Genes with the largest" not in text
        return
    found = tables(tree)
    spread = dict(found[f"{SCATTER[name]}, over 40 genes"])
    assert spread["median"] == f"{model.dispersion_.median():.4g}"
    assert found["Genes with the largest"][1] == [model.dispersion_.idxmax(), f"{model.dispersion_.max():.4g}"]
    assert ("φ μ²" in text) == (SCATTER[name] == "Dispersion")


# The command


def numbers_of(text):
    """What the atlas of a page holds, to ten digits, and its packed arrays."""
    facts = re.search(r'id="atlas-facts">(.*?)</script>', text, re.DOTALL)[1]
    arrays = re.findall(r'id="atlas-(?:counts-)?arrays">(.*?)</script>', text)
    assert len(arrays) == 2
    return json.loads(facts, parse_float=lambda number: float(f"{float(number):.10g}")), arrays


@pytest.mark.parametrize("options", ["nsf -M 30", "pnmf", "rsf", "rsfh --likelihood nb -T 2", "mefisto"])
def test_the_command_writes_the_page_of_the_fit(options, mixed, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    from typer.testing import CliRunner

    from nsf_nb.cli import app
    from nsf_nb.data.files import write_h5ad

    monkeypatch.chdir(tmp_path)
    write_h5ad(mixed, tmp_path / "data.h5ad")

    def run(line):
        done = CliRunner().invoke(app, line.split(), prog_name="nsf")
        assert done.exit_code in (0, 2), (done.output, done.exception)
        return done.exit_code, done.output

    fit = "fit data.h5ad -L 3 --max-iter 4 --size-factors mean -o out.h5ad --report a.html --model"
    assert run(f"{fit} {options}")[0] == 0
    code, said = run("report out.h5ad -o b.html")
    assert code == 0 and "3 factors of 137 spots\nreport   b.html" in said
    first, second = ((tmp_path / name).read_text(encoding="utf-8") for name in ("a.html", "b.html"))
    assert numbers_of(first) == numbers_of(second)
    left_out = r"Written [^<]* by|<table><caption>(Settings|Parts of the bound).*?</table>|<svg.*?</svg>"
    assert re.sub(left_out, "", words(first), flags=re.DOTALL) == re.sub(left_out, "", words(second), flags=re.DOTALL)
    assert "Held-out deviance of" in second

    code, said = run("report out.h5ad -o b.html")
    assert code == 2 and said.count("\n") == 1 and "--force" in said
    code, said = run("report data.h5ad -o c.html")
    assert code == 2 and said.count("\n") == 1 and "a fit in uns['nsf']" in said
    assert [run(f"report out.h5ad -o c.html {more}")[0] for more in ("--table absent.csv", "--gene Plp1")] == [2, 2]
    assert run("report data.h5ad --model out.h5ad -o c.html")[0] == 2 and not (tmp_path / "c.html").exists()
