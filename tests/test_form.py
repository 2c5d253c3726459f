"""The rules of form, for every chapter and every module; and for each rule something that breaks it."""

import pytest
import rules
from conftest import ROOT

CHAPTERS = rules.notebooks()
MODULES = sorted(p for p in (ROOT / "nsf_nb").rglob("*.py") if p.name != "_modidx.py" and p.stat().st_size)
CHAPTER_RULES = [
    rules.check_directives,
    rules.check_tests_visible,
    rules.check_figures,
    rules.check_outputs,
    rules.check_opening,
    rules.check_lengths,
]
MODULE_RULES = [rules.check_module_text, rules.check_docstrings, rules.check_signatures]


def module_id(path):
    return path.relative_to(ROOT / "nsf_nb").as_posix()


def rule_id(rule):
    return rule.__name__.removeprefix("check_")


@pytest.mark.parametrize("rule", CHAPTER_RULES, ids=rule_id)
@pytest.mark.parametrize("path", CHAPTERS, ids=rules.notebook_id)
def test_chapter(path, rule):
    assert rule(rules.read_notebook(path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=rules.notebook_id)
def test_chapter_size(path):
    assert rules.check_size(path.stat().st_size, study="8_studies" in path.parts) == []


@pytest.mark.parametrize("rule", MODULE_RULES, ids=rule_id)
@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_module(path, rule):
    assert rule(path.read_text(encoding="utf-8")) == []


def test_citations():
    read = {rules.notebook_id(path): rules.read_notebook(path) for path in CHAPTERS}
    texts = {name: "\n\n".join(cell["source"] for cell in notebook["cells"]) for name, notebook in read.items()}
    defined = [label for text in texts.values() for label in rules.labels(text)]
    texts |= {module_id(path): path.read_text(encoding="utf-8") for path in MODULES}
    assert rules.check_citations(defined, texts) == []


def test_book_lists_every_chapter_once():
    present = [path.relative_to(ROOT).as_posix() for path in CHAPTERS]
    present.remove("nbs/index.ipynb")  # it is the README; a book opens at its root
    present += [path.name for path in ROOT.glob("*.qmd")]
    listed = rules.listed_chapters((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert rules.check_book(listed, present) == []
    assert (ROOT / "index.qmd").exists() and listed[0] == "index.qmd"


def test_ruff(run_tool):
    done = run_tool(["ruff", "check", "."])
    assert done.returncode == 0, done.stdout


# What breaks each rule


def markdown(source):
    return {"cell_type": "markdown", "source": source}


def code(source, *outputs):
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def notebook(*cells):
    return {"cells": [markdown("# Title\n\n> Summary."), *cells]}


PICTURE = {"output_type": "display_data", "data": {"image/png": "aGk="}}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
PATH = {"output_type": "stream", "name": "stdout", "text": ["saved to /" + "tmp/xyz/out.h5ad"]}
BAD_CHAPTERS = [
    (rules.check_lengths, notebook(code("x = 1\n" * 41))),
    (rules.check_lengths, notebook(*[markdown("text")] * 60)),
    (rules.check_lengths, notebook(*[code("x = 1")] * 3)),
    *[
        (rules.check_directives, notebook(code(line + "\nx = 1")))
        for line in ["#| export:", "#|export", "# | export", "#| exports_", "#| label fig-x", "#| default_exp"]
    ],
    (rules.check_tests_visible, notebook(code("#| hide\nx = 1\nassert x == 1"))),
    (rules.check_tests_visible, notebook(code("#| echo: false\nfor x in y:\n    assert x"))),
    (rules.check_figures, notebook(code("plt.plot()", PICTURE))),
    (rules.check_figures, notebook(code("#| label: fig-x\nplt.plot()", PICTURE))),
    (rules.check_figures, notebook(code("#| label: fig-x\n#| fig-cap: 'A claim.'\nplt.plot()"))),
    (rules.check_outputs, notebook(code("1 / 0", ERROR))),
    (rules.check_outputs, notebook(code("save()", PATH))),
    (rules.check_opening, {"cells": [markdown("Title\n\n> Summary.")]}),
    (rules.check_opening, {"cells": [markdown("# Title")]}),
    (rules.check_opening, notebook(code("import x"), code("#| default_exp a.b"), markdown("## Sources"))),
    (rules.check_opening, notebook(code("#| default_exp a.b"))),
]
DOC = '"""Module."""\n'
ONE = '    """Do.\n\n    Parameters\n    ----------\n    a\n        One.\n    """\n'
GOOD = ONE.replace("    a\n        One.\n", """    a, b
        Two.
    *rest
        More.

    Returns
    -------
    int
""")
BAD_MODULES = [
    (rules.check_module_text, "x = 1\n" * 351),
    (rules.check_module_text, "def f():\n    print('here')"),
    (rules.check_docstrings, "x = 1"),
    (rules.check_docstrings, DOC + "def f(): ..."),
    (rules.check_docstrings, DOC + 'def f(a: int) -> None:\n    """Do."""'),
    (rules.check_docstrings, DOC + "def f(a, b):\n" + ONE),
    (rules.check_docstrings, DOC + 'def f() -> int:\n    """Do."""'),
    (rules.check_docstrings, DOC + 'class A:\n    """Is."""\n    def f(self, a): ...'),
    (rules.check_docstrings, DOC + '@dataclass(frozen=True)\nclass A:\n    """Is."""\n    a: int = 1'),
    (rules.check_docstrings, DOC + 'class A:\n    """Is."""\n    def __init__(self, a): ...'),
    (rules.check_signatures, "def f(**options) -> None: ..."),
    (rules.check_signatures, "def f(): ..."),
    (rules.check_signatures, "class A:\n    def f(self, **options) -> None: ..."),
]


@pytest.mark.parametrize("rule, chapter", BAD_CHAPTERS)
def test_a_bad_chapter_is_noticed(rule, chapter):
    assert rule(chapter)


@pytest.mark.parametrize("rule, source", BAD_MODULES)
def test_a_bad_module_is_noticed(rule, source):
    assert rule(source)


def test_good_form_is_accepted():
    figure = code('#| label: fig-x\n#| fig-cap: "A claim: it holds."\nplt.plot()', PICTURE)
    first = code("#| default_exp a.b")
    chapter = notebook(first, markdown("text"), code("#| export\nx = 1"), figure, markdown("## Sources\n\n- One."))
    assert [complaint for rule in CHAPTER_RULES for complaint in rule(chapter)] == []
    source = DOC + "def f(a: int, b: int, *rest: int) -> int:\n" + GOOD
    assert [complaint for rule in MODULE_RULES for complaint in rule(source)] == []


def test_bad_sizes_citations_and_lists_are_noticed():
    assert rules.check_size(300_001) and not rules.check_size(300_001, study=True)
    assert rules.check_size(2_000_001, study=True)
    text = "$$ a = b $$ {#eq-one}\n\n#| label: fig-two\n"
    assert rules.labels(text) == ["eq-one", "fig-two"]
    assert not rules.check_citations(["eq-one"], {"m": "Implements @eq-one."})
    assert rules.check_citations(["eq-one"], {"m": "Implements @eq-two."})
    assert rules.check_citations(["eq-one", "eq-one"], {})
    listed = rules.listed_chapters("book: {chapters: [a, {part: P, chapters: [b, c]}], appendices: [d]}")
    assert listed == ["a", "b", "c", "d"] and not rules.check_book(listed, listed)
    assert rules.check_book(listed, listed[:-1]) and rules.check_book(listed[:-1], listed)
    assert rules.check_book([*listed, "a"], listed)
