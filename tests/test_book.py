"""The book: its converter, what its chapters cite, what pandoc says of them, and the built site in a browser."""

import json
import re
import subprocess
from pathlib import Path

import check_book
import gallery
import pytest
import rules
import yaml
from book import contents, links, modules, notebooks, pages, reference
from book.__main__ import digest, write_sources
from book.markup import CROSS, KEY, NUMBERED, Context, outside, to_myst
from book.names import Names
from conftest import ROOT
from quarto_filter import strip_directives

BOOK = contents.read_book(ROOT)
KEYS = contents.read_keys(ROOT, BOOK)
CHAPTERS = [chapter for chapter in BOOK.chapters() if chapter.path.endswith(".ipynb")]
NOTEBOOKS = {chapter.path: json.loads((ROOT / chapter.path).read_text(encoding="utf-8")) for chapter in CHAPTERS}
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(\w+)(?!.*:)", re.MULTILINE)


def sources(kind):
    """Path and text of every cell of a kind."""
    for path, notebook in NOTEBOOKS.items():
        for cell in notebook["cells"]:
            if cell["cell_type"] == kind:
                yield path, notebooks.as_text(cell["source"])


def prose(text):
    """A text without code and formulas."""
    parts = []
    outside(text, lambda part: parts.append(part) or part)
    return "\n".join(parts)


# The list of chapters


def test_chapters_have_their_numbers_and_parts_their_layers():
    numbers = [chapter.number for chapter in CHAPTERS]
    assert len(set(numbers)) == len(numbers) == len(BOOK.numbers()) and "" not in numbers
    for part in BOOK.parts():
        assert {chapter.number[0] for chapter in part.chapters} == {part.number}, part.title
    names = [part.docname for part in BOOK.parts()]
    assert names[:2] == ["parts/0_foundations", "parts/1_data"] and names[-1] == "parts/A_appendix"
    assert next(BOOK.chapters()).docname == "index" and contents.Chapter("references.qmd").number == ""


def test_quarto_lists_what_exists_and_names_the_filter():
    text = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert text["project"]["type"] == "book" and text["execute"] == {"enabled": False}
    named = [*text["format"]["html"]["ipynb-filters"], *BOOK.bibliography, *(c.path for c in BOOK.chapters())]
    assert [path for path in named if not (ROOT / path).exists()] == []


# Markdown of Quarto, Markdown of MyST


@pytest.mark.parametrize("text, wanted", [
    ("$$\na = b\n$$ {#eq-x}", "```{math}\n:label: eq-x\n\na = b\n```"),
    ("$$a$$", "$$a$$"),
    ("see @eq-x, @fig-y and @tbl-z.", "see {eq}`eq-x`, {numref}`fig-y` and {numref}`tbl-z`."),
    ("(@eq-a to @eq-b)", "({eq}`eq-a` to {eq}`eq-b`)"),
    ("[@one]", "{cite:p}`one`"),
    ("[see @one, p. 3; @two]", "{cite:p}`{see}one{p. 3},two`"),
    ("@one says", "{cite:t}`one` says"),
    ("`@eq-x [@one]` and $[@a]$", "`@eq-x [@one]` and $[@a]$"),
    ("```python\n@one\n::: x\n```", "```python\n@one\n::: x\n```"),
    ("me@one.org", "me@one.org"),
    ("chapter 20, chapters 20 to 31, chapter 5",
     "[chapter 20](../b/20_x.ipynb), chapters [20](../b/20_x.ipynb) to 31, chapter 5"),
    ("chapter 20.1 of theirs", "chapter 20.1 of theirs"),
    ("doi:10.1234/ab.c.", "[doi:10.1234/ab.c](https://doi.org/10.1234/ab.c)."),
    ("arXiv:1905.02269: it", "[arXiv:1905.02269](https://arxiv.org/abs/1905.02269): it"),
    ("from https://x.org/a.", "from <https://x.org/a>."),
    ("[x](https://x.org/a)", "[x](https://x.org/a)"),
    ("## A title {#sec-a .unnumbered}", "(sec-a)=\n## A title"),
    ("# Preface {.unnumbered}", "# Preface"),
    ('![A claim.](a.png){#fig-a fig-alt="x y" width=50%}',
     "```{figure} a.png\n:name: fig-a\n:width: 50%\n:alt: x y\n\nA claim.\n```"),
    ("| a |\n|---|\n| b |\n\n: A caption {#tbl-a}",
     ":::{table} A caption\n:name: tbl-a\n\n| a |\n|---|\n| b |\n:::"),
    ("::: {.callout-note}\ntext\n:::", ":::{note}\n\ntext\n:::"),
    ("::: {.callout-tip}\n\n## Do this\n\ntext\n:::", ":::{admonition} Do this\n:class: tip\n\n\ntext\n:::"),
    ('::: {.callout-warning title="Mind"}\ntext\n:::', ":::{admonition} Mind\n:class: warning\n\ntext\n:::"),
    ("::: {.grid}\n::: {.g-col-6}\na\n:::\n:::", "::::{container} grid\n\n:::{container} g-col-6\n\na\n:::\n::::"),
    ("::: {layout-ncol=3}\na\n:::", ":::{container} layout layout-3\n\na\n:::"),
    ('[![A claim.](a.png){fig-alt="x y"}](b.ipynb)',
     "```{container} panel\n[![x y](a.png)](b.ipynb)\n\nA claim.\n```"),
    ("::: {#refs}\n:::", ":::{bibliography}\n:::"),
])
def test_markup(text, wanted):
    context = Context({"one", "two"}, {"20": "nbs/b/20_x.ipynb"}, "nbs/a/10_y.ipynb")
    assert to_myst(text, context) == wanted and context.wrong == []


@pytest.mark.parametrize("text, complaint", [
    ("[@nobody]", "no entry 'nobody'"), ("@nobody says", "no entry 'nobody'"), ("[@one; @eq-x]", "no citation"),
    ("::: {.callout-joke}\n:::", "unknown callout"), ("::: {.panel-tabset}\n:::", "does not know"),
    ("::: {#fig-x}\n:::", "does not know"), ("::: {.callout-note}\ntext", "not closed"),
    ("{{< video x >}}", "shortcode"),
])
def test_what_cannot_be_converted_is_a_complaint(text, complaint):
    context = Context({"one"}, here="a.md")
    to_myst(text, context)
    assert len(context.wrong) == 1 and complaint in context.wrong[0] and context.wrong[0].startswith("a.md: ")


# Cells


def code(source, *outputs, **more):
    return {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": None, "source": source,
            "outputs": list(outputs), **more}


def shown(**data):
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/"): v for k, v in data.items()}}


FIGURE = '#| label: fig-a\n#| fig-cap: "A claim, \\"so\\", @eq-x."\nplot()'


def test_options_become_captions_labels_and_tags():
    options, text = notebooks.split_options(FIGURE + "\n#| not: one")
    assert options == {"label": "fig-a", "fig-cap": 'A claim, "so", @eq-x.'} and text == "plot()\n#| not: one"
    (cell,) = notebooks.convert_code(code(FIGURE, shown(image_png="aGk=")), Context(), False)
    assert cell["metadata"]["mystnb"]["figure"] == {"caption": 'A claim, "so", {eq}`eq-x`.', "name": "fig-a"}
    assert cell["source"] == "plot()"
    (cell,) = notebooks.convert_code(code("from a import b  # noqa: F401, E402\nx = 1  # why"), Context(), False)
    assert cell["source"] == "from a import b\nx = 1  # why"
    text = "#| echo: false\n#| output: false\n#| code-fold: true\nx"
    (cell,) = notebooks.convert_code(code(text), Context(), False)
    assert cell["metadata"]["tags"] == ["remove-input", "remove-output", "hide-input"]


def test_a_figure_is_the_last_picture_of_its_cell():
    outputs = [shown(text_plain="1"), shown(image_png="YQ=="), shown(image_png="Yg=="), shown(text_plain="2")]
    cells = notebooks.convert_code(code(FIGURE, *outputs), Context(), False)
    assert [len(cell["outputs"]) for cell in cells] == [2, 1, 1] and cells[1]["outputs"] == outputs[2:3]
    assert ["figure" in cell["metadata"].get("mystnb", {}) for cell in cells] == [False, True, False]
    assert len({cell["id"] for cell in cells}) == 3 and [cell["source"] for cell in cells] == ["plot()", "", ""]


def test_a_table_with_a_caption_becomes_one():
    html = "<style>x</style><table><tr><th></th><th>a|b</th></tr><tr><th>r</th><td> 1 </td></tr></table>"
    source = '#| label: tbl-a\n#| tbl-cap: "Ones."\nt'
    cells = notebooks.convert_code(code(source, shown(text_html=html)), Context(), False)
    wanted = ":::{table} Ones.\n:name: tbl-a\n\n|  | a\\|b |\n| --- | --- |\n| r | 1 |\n:::"
    assert cells[1]["source"] == wanted and cells[0]["metadata"]["tags"] == ["remove-output"]


def test_a_chapter_opens_with_its_summary_and_the_way_to_its_notebook():
    source = ["# T\n", "\n", "> What\n", "> it is.\n", "\n", "Text."]
    first = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}
    notebook = {"cells": [first, code("#| default_exp a.b"), code("#| export\ndef f(): ...")]}
    before = json.dumps(notebook)
    done = notebooks.convert_notebook(notebook, Context(here="nbs/1_x/10_t.ipynb"), "https://x.org/s")["cells"]
    assert done[0]["source"].startswith("# T\n\n:::{container} lead\n\nWhat it is.\n:::\n\n")
    assert all(part in done[0]["source"] for part in ("nsf_nb.a.b", 'href="10_t.ipynb" download', "https://x.org/s"))
    assert [cell["source"] for cell in done[1:]] == ["def f(): ..."] and json.dumps(notebook) == before


# All chapters


def test_no_directive_of_nbdev_is_left():
    for path, notebook in NOTEBOOKS.items():
        cells = [cell for cell in strip_directives(notebook)["cells"] if cell["cell_type"] == "code"]
        left = [notebooks.as_text(cell["source"]) for cell in cells]
        assert [found for text in left for found in DIRECTIVE.findall(text)] == [], path
        done = notebooks.convert_notebook(notebook, Context(KEYS, BOOK.numbers(), path))["cells"]
        left = [cell["source"] for cell in done if cell["cell_type"] == "code"]
        assert [text for text in left if re.search(r"^#\|", text, re.MULTILINE)] == [], path


def test_what_chapters_cite_exists():
    defined = [label for _, text in [*sources("markdown"), *sources("code")] for label in rules.labels(text)]
    assert sorted(defined) == sorted(set(defined))
    texts = [(path, prose(text)) for path, text in sources("markdown")]
    texts += [(path.name, prose(path.read_text(encoding="utf-8"))) for path in ROOT.glob("*.qmd")]
    cited = [(path, key) for path, text in texts for key in KEY.findall(text)]
    assert cited and [(path, key) for path, key in cited if key not in KEYS] == []
    texts += sources("code")
    assert [(path, label) for path, text in texts for label in CROSS.findall(text) if label not in defined] == []


def test_numbers_of_chapters_in_prose_are_chapters():
    wrong = []
    for path, text in sources("markdown"):
        for match in NUMBERED.finditer(prose(text)):
            found = re.findall(r"[A-Z]?\d+", match["list"])
            wrong += [(path, match[0]) for number in found if len(number) > 1 and number not in BOOK.numbers()]
    assert wrong == []


def test_the_bibliography_is_whole():
    text = (ROOT / "references.bib").read_text(encoding="utf-8")
    entries = re.split(r"^@", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(KEYS)
    for entry in entries:
        for name in ("author", "title", "journal|booktitle|publisher|school", "year"):
            assert re.search(rf"\b(?:{name}) = \{{", entry), (name, entry)
        assert re.search(r"doi = \{10\.\d{4,}/\S+\},|url = \{https://\S+\},", entry), entry
        assert re.search(r"\w+\{[a-z]+(\d{4}),", entry)[1] in re.search(r"year = \{(\d{4})\}", entry)[1], entry


def test_pandoc_reads_the_chapters_without_warnings(tmp_path):
    pypandoc = pytest.importorskip("pypandoc", reason="pypandoc-binary is not installed")
    for number, (path, notebook) in enumerate(NOTEBOOKS.items()):
        text = "\n\n".join(notebooks.as_text(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
        (tmp_path / f"{number:03}.md").write_text(f"{text}\n\n<!-- {path} -->\n", encoding="utf-8")
    command = [pypandoc.get_pandoc_path(), "--from", "markdown", "--to", "html", "--mathml", "--file-scope"]
    files = [*map(str, sorted(tmp_path.glob("*.md"))), *map(str, sorted(ROOT.glob("*.qmd")))]
    command += ["--output", str(tmp_path / "all.html"), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_sources_are_written_without_complaints(tmp_path):
    assert write_sources(ROOT, tmp_path / "book") == []
    written = {path.relative_to(tmp_path / "book").as_posix() for path in (tmp_path / "book").rglob("*.*")}
    assert {"index.md", "references.md", "equations.md", "api/tl.md", "parts/3_models.md", "names.json"} <= written
    assert {"nbs/index_files/figure-1.png", *(picture.path for picture in gallery.PICTURES)} <= written
    assert {chapter.path for chapter in CHAPTERS} | {f"extra/{chapter.path}" for chapter in CHAPTERS} <= written
    equations = (tmp_path / "book" / "equations.md").read_text(encoding="utf-8")
    defined = {label for _, text in sources("markdown") for label in rules.labels(text) if label.startswith("eq-")}
    assert set(re.findall(r"\{eq\}`(.*?)`", equations)) == defined


# Names


def test_every_public_name_is_in_the_reference_with_its_chapter():
    names = modules.public_names(ROOT)
    assert {"nsf_nb.NSF", "nsf_nb.load", "nsf_nb.tl.fit", "nsf_nb.pl.factors", "nsf_nb.metrics.rmse"} <= set(names)
    assert all(names.values()) and len(names) > 60
    exported = {notebooks.exported_module(notebook): pages.exports_of(notebook) for notebook in NOTEBOOKS.values()}
    for name, item in names.items():
        assert item.kind == "data" or item.name in exported[item.module], name
        assert item.kind == "data" or item.doc, name
    made, places, wrong = reference.make_pages(ROOT, KEYS, {})
    assert wrong == [] and set(names) <= set(places)
    for name in names:
        page, anchor = places[name]
        assert re.search(rf"\}} {re.escape(anchor)}\b", made[page]), name
    assert places["nsf_nb.NSF.fit"] == ["api/estimators", "nsf_nb.factorization.Factorization.fit"]


def test_signatures_and_docstrings_are_read_without_import():
    item = modules.find(ROOT, "nsf_nb.tl", "recovery")
    assert item.module == "nsf_nb.reading.recovery" and item.kind == "function"
    nsf = modules.find(ROOT, "nsf_nb.estimators", "NSF")
    first = [("n_factors", "", "10"), ("*", "", ""), ("likelihood", "", "'poisson'")]
    assert modules.parameters(ROOT, nsf)[:3] == first
    doc = "One.\n\nTwo.\n\nParameters\n----------\na, b\n    First\n    line.\nc\n\nReturns\n-------\nint\n"
    text, sections = modules.sections(doc)
    assert text == "One.\n\nTwo." and list(sections) == ["Parameters", "Returns"]
    assert modules.items(sections["Parameters"]) == [("a, b", "First\nline."), ("c", "")]
    assert reference.escape("a*b `c*d` (@eq-x_y)") == r"a\*b `c*d` (@eq-x_y)"


def test_names_are_resolved_as_a_reader_would():
    places = {"nsf_nb": ["api/index", ""], "nsf_nb.NSF": ["api/e", "n"], "nsf_nb.NSF.fit": ["api/e", "f"],
              "nsf_nb.tl.fit": ["api/tl", "t"], "nsf_nb.a.twice": ["p", "1"], "nsf_nb.b.twice": ["q", "2"],
              "nsf_nb.a.match_all": ["p", "3"], "nsf_nb.a.word": ["p", "4"]}
    names = Names(places, {"page": {"w": "nsf_nb.a.word", "m": "nsf_nb.NSF()"}}, {})
    for text, wanted in {
        "nsf.tl.fit": "nsf_nb.tl.fit", "tl.fit": "nsf_nb.tl.fit", "NSF": "nsf_nb.NSF",
        "nsf.NSF.fit": "nsf_nb.NSF.fit", "m.fit": "nsf_nb.NSF.fit", "model.fit": "nsf_nb.NSF.fit",
        "match_all": "nsf_nb.a.match_all", "w": "nsf_nb.a.word",
        "twice": "", "word": "", "fit": "", "m": "", "m.factors_": "", "numpy": "", "nsf.NSF.none": "nsf_nb.NSF",
    }.items():
        assert names.resolve(text, "page")[1] == wanted, text
    text = "import nsf_nb as nsf\nm = nsf.NSF(3).fit(x)\nfrom nsf_nb.a import word as w\nother.match_all(nsf.tl.twice)"
    own = pages.names_in({"cells": [code(text)]}, places)
    assert own == {"nsf": "nsf_nb", "m": "nsf_nb.NSF()", "w": "nsf_nb.a.word", "match_all": ""}
    assert Names(places, {"page": own}, {}).resolve("match_all", "page") == ("", "")


# The landing page


def test_the_gallery_is_what_the_chapters_store(house_copy):
    assert gallery.differences() == [], "run python tools/gallery.py"
    assert sum((ROOT / picture.path).stat().st_size for picture in gallery.PICTURES) < 400_000
    shown = re.findall(r"^\[!\[.+\]\((\S+)\)\{.+\}\]\((\S+)\)$", (ROOT / "index.qmd").read_text(), re.MULTILINE)
    assert shown == [(picture.path, f"nbs/{picture.chapter}.ipynb") for picture in gallery.PICTURES]
    first, second, third = (house_copy / picture.path for picture in gallery.PICTURES[:3])
    first.unlink()
    second.write_bytes(third.read_bytes())
    (third.parent / "old.png").write_bytes(b"")
    assert gallery.differences(house_copy) == sorted(
        path.relative_to(house_copy).as_posix() for path in (first, second, third.parent / "old.png")
    )


def test_the_landing_page_opens_with_the_six_lines_of_the_readme():
    code = re.search(r"^```python\n(.*?)\n```$", (ROOT / "index.qmd").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert len(code.splitlines()) == 6 and f"```python\n{code}\n```" in (ROOT / "README.md").read_text()


# The site


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text('<a id="there" href="../index.html#top">x</a>')
    good = '<h1 id="top"></h1><a href="a/b.html#there"></a><a href="https://x.org"></a><a href="#top"></a>'
    good += '<img src="data:x">'
    (tmp_path / "index.html").write_text(good)
    assert links.check_site(tmp_path) == []
    bad = ['<a href="a/c.html">', '<a href="a/b.html#here">', '<a href="#none">', '<img src="x.png">',
           '<script src="https://x.org/a.js">', '<link rel="stylesheet" href="//x.org/a.css">', '<a href="../../etc">']
    for tag in bad:
        (tmp_path / "index.html").write_text(good + tag)
        assert len(links.check_site(tmp_path)) == 1, tag


def test_the_workflow_makes_and_checks_the_book():
    text = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in text["jobs"].values() for step in job["steps"]]
    assert any("make docs" in step for step in steps) and text["permissions"]["pages"] == "write"


@pytest.fixture(scope="module")
def site():
    """The site that `make docs` has built of these sources."""
    built = ROOT / "_docs"
    if not (built / ".digest").exists():
        pytest.skip("the book is not built: make docs")
    if (built / ".digest").read_text(encoding="utf-8") != digest(ROOT):
        pytest.skip("the book was built of other sources: make docs")
    return built


def test_the_built_site_has_no_dead_link(site):
    assert links.check_site(site) == []
    assert {f"{chapter.docname}.html" for chapter in BOOK.chapters()} <= {
        path.relative_to(site).as_posix() for path in site.rglob("*.html")
    }


def test_the_site_works_in_a_browser(site):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if check_book.find_browser() is None:
        pytest.skip("there is no chromium on this machine")
    some = ["index.html", check_book.CHAPTER, "api/tl.html", "nbs/8_studies/80_simulations.html", "references.html"]
    assert check_book.check(Path(site), some) == []
