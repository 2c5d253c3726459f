"""What readers read: every public name is explained and used, words are spelled right, and in one way."""

import ast
import re
import subprocess
import sys

import pytest
import rules
from book import modules
from conftest import ROOT

NAMES = modules.public_names(ROOT)
CHAPTERS = {rules.notebook_id(path): rules.read_notebook(path) for path in rules.notebooks()}
FOUNDATIONS = "nsf_nb.core"  # errors and settings: nothing of them is computed
TREE = {"DataError", "ShapeError", "ConfigError", "DivergenceError", "NotFittedError"}
CHECKS = re.compile(r"check_(choice|int|positive|fraction)")
SHAPED = re.compile(r"×|\b[NJLMDST]\b\*?|\b(?:shape|length|as for|as in|as there|one for all)\b", re.IGNORECASE)
ARRAY = re.compile(r"ndarray|ArrayLike|Float\[|Int\[|\bCounts\b|\bMean\b")
# A library may want them in code (color=); prose does not. The method is called factorization.
AMERICAN = re.compile(
    r"\b(?:colors?|colored|coloring|behaviors?|neighbors?|neighboring|favor\w*|center(?:s|ed|ing)?|fibers?|meters?"
    r"|gray|artifacts?|catalogs?|tumors?|judgment|modeled|modeling|labeled|labeling|canceled|traveled|fulfill"
    r"|(?:normal|standard|initial|optim|minim|maxim|general|regular|real|organ|recogn|summar|visual|character|emphas"
    r"|parametr|random|penal|util|marginal|special|stabil|final|memor|local)iz(?:e[ds]?|ing|ations?)|analyz\w+"
    r"|factoris\w+)\b",
    re.IGNORECASE,
)
NO_PROSE = re.compile(
    r"```.*?```|``?[^`]+``?|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)\s]*\)|<!--.*?-->|\{[#.][^}]*\}|@[\w-]+", re.DOTALL
)
KNOWN = "theis,lik,coo,trough"  # a name, a label, a format of matrices, the lowest place of a map


# Texts


def spoken(text):
    """Prose without code, formulas and addresses, and without titles of works: what is in italics, and the sources."""
    text = re.sub(r"^## Sources$.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<![*\w])\*[^*\n]+\*(?![*\w])", "", NO_PROSE.sub(" ", text))


def docstrings(source):
    """All docstrings of a module, without names of arguments and types."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    parts = [modules.sections(doc) for doc in filter(None, found)]
    bodies = [body for _, sections in parts for text in sections.values() for _, body in modules.items(text)]
    return "\n\n".join([*(text for text, _ in parts), *bodies])


def texts():
    """Everything that is read: cells of prose, captions, docstrings, pages."""
    found = {name: rules.prose(notebook) for name, notebook in CHAPTERS.items()}
    for name, notebook in CHAPTERS.items():
        lines = [line for cell in rules.code_cells(notebook) for line in rules.options(cell)]
        found[f"{name} captions"] = "\n\n".join(line.partition(": ")[2] for line in lines if "-cap: " in line)
    for path in (ROOT / "nsf_nb").rglob("*.py"):
        found[path.relative_to(ROOT).as_posix()] = docstrings(path.read_text(encoding="utf-8"))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.qmd")]:
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def american(text):
    """American spellings in prose."""
    return AMERICAN.findall(spoken(text))


# Public names


def callables():
    """Public functions, and public methods of public classes, by the name under which they are used."""
    for name, item in NAMES.items():
        if item.kind == "function":
            yield name, item
        elif item.kind == "class" and item.module != FOUNDATIONS:
            parts = modules.members(ROOT, item)
            yield from ((f"{name}.{part}", found) for part, found in parts.items() if found.kind == "method")


def users(name, item, sources):
    """Chapters in which a public name stands as users write it, or is imported."""
    short = re.escape(name.removeprefix("nsf_nb."))
    written = rf"(?<![\w.])(?:nsf\.|nsf_nb\.|(?=(?:tl|pl|pp|datasets|metrics)\.)){short}\b"
    imported = rf"from (?:nsf_nb|{re.escape(item.module)}) import (?:\([^)]*|.*)\b{re.escape(item.name)}\b"
    return [path for path, text in sources.items() if re.search(f"{written}|{imported}", text)]


def raised(item, node=None, seen=()):
    """Errors that a function raises itself, or through functions of its own module."""
    tree, found = modules.read_module(ROOT, item.module), set()
    own = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}
    for part in ast.walk(node or item.node):
        if isinstance(part, ast.Raise) and part.exc is not None:
            found.add(ast.unparse(part.exc.func if isinstance(part.exc, ast.Call) else part.exc))
        called = ast.unparse(part.func) if isinstance(part, ast.Call) else ""
        if CHECKS.fullmatch(called):
            found.add("ConfigError")
        if called in own and called not in seen:
            found |= raised(item, own[called], (*seen, called))
    return found & TREE


def unexplained(item):
    """Errors that a docstring does not name; that a model has to be fitted first is said once, in its chapter."""
    known = {"NotFittedError"} if "." in item.name or item.name.startswith("_") else set()
    return sorted(error for error in raised(item) - known if error not in item.doc)


def shapeless(item):
    """Arguments and results that are arrays, whose docstring does not say their shape."""
    _, parts = modules.sections(item.doc)
    explained = {head: f"{head} {body}" for head, body in modules.items(parts.get("Parameters", ""))}
    arrays = [name.lstrip("*") for name, kind, _ in modules.parameters(ROOT, item) if ARRAY.search(kind)]
    wrong = []
    for name in arrays:
        told = [text for head, text in explained.items() if name in re.findall(r"\w+", head.partition(" : ")[0])]
        wrong += [] if told and SHAPED.search(told[0]) else [name]
    result = ast.unparse(item.node.returns) if getattr(item.node, "returns", None) else ""
    return wrong + (["Returns"] if ARRAY.search(result) and not SHAPED.search(parts.get("Returns", item.doc)) else [])


# Tests


def test_public_names_are_used_in_chapters():
    sources = {path: "\n\n".join(cell["source"] for cell in notebook["cells"]) for path, notebook in CHAPTERS.items()}
    unused = [name for name, item in NAMES.items() if item.kind != "data" and not users(name, item, sources)]
    assert unused == []
    assert users("nsf_nb.tl.fit", NAMES["nsf_nb.tl.fit"], {"x": "Call `nsf.tl.fit`."})
    assert not users("nsf_nb.tl.fit", NAMES["nsf_nb.tl.fit"], {"x": "Call model.fit and nsf.tl.fitted."})


def test_public_functions_name_their_errors_and_the_shapes_of_arrays():
    found = dict(callables())
    assert len(found) > 60 and "nsf_nb.NSF.transform" in found and "nsf_nb.tl.fit" in found
    assert {name: wrong for name, item in found.items() if (wrong := unexplained(item))} == {}
    assert {name: wrong for name, item in found.items() if (wrong := shapeless(item))} == {}


def test_what_computes_a_formula_names_it_and_its_chapter_its_source():
    metrics = {name: item for name, item in NAMES.items() if ".metrics." in name and item.kind == "function"}
    assert len(metrics) > 8 and [name for name, item in metrics.items() if "@eq-" not in item.doc] == []
    homes = {f"nsf_nb.{rules.exported_module(notebook)}": notebook for notebook in CHAPTERS.values()}
    for name, item in NAMES.items():
        if "@eq-" in item.doc or "References" in item.doc:
            sources = re.search(r"^## Sources\n+(.+)", rules.prose(homes[item.module]), re.MULTILINE | re.DOTALL)
            assert sources and re.search(r"\b(?:1[6-9]|20)\d\d\b|PEP \d+|[Dd]ocumentation", sources[1]), name


def test_spelling_is_british():
    found = texts()
    assert len(found) > 200
    assert {name: wrong for name, text in found.items() if (wrong := american(text))} == {}


def test_words_are_spelled_right(tmp_path):
    pytest.importorskip("codespell_lib", reason="codespell is not installed")
    assert misspelled({"x": "It is wrong to seperate them."}, tmp_path)
    assert misspelled(texts(), tmp_path) == ""


def misspelled(found, folder):
    """What codespell says of some texts."""
    for name, text in found.items():
        path = folder / f"{name.replace('/', '-')}.md"
        path.write_text(NO_PROSE.sub(" ", text), encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", KNOWN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 65) and not done.stderr, done.stderr
    for path in folder.glob("*.md"):
        path.unlink()
    return done.stdout


# What breaks them


def test_american_spellings_are_noticed():
    wrong = ["The color of a neighbor.", "It is normalized.", "**Modeling** gray fibers.", "A factorisation."]
    assert [len(american(text)) for text in wrong] == [2, 1, 3, 1]
    fine = ["`color` is colour; $center$.", "A *Modeling* title.", "Factorization, sizes.", "## Sources\n\ncolor"]
    assert [american(text) for text in fine] == [[], [], [], []]
    assert american("## Sources\n\ncolor\n\n## After\n\ngray") == ["gray"]


def test_missing_errors_and_shapes_are_noticed():
    def item(doc, body="", kind="Float[np.ndarray, 'N L']"):
        source = f'def f(a: {kind}) -> {kind}:\n    """{doc}"""\n    {body or "return a"}'
        return modules.Definition("nsf_nb.core", "f", ast.parse(source).body[0], "function", doc)

    good = "Do.\n\nParameters\n----------\na\n    N×L.\n\nReturns\n-------\narray\n    N×L; or a DataError.\n"
    raises = "raise DataError('no')"
    assert unexplained(item(good, raises)) == [] and shapeless(item(good)) == []
    assert unexplained(item("Do.", raises)) == ["DataError"] and unexplained(item("Do.", "check_int('a', a, 1)"))
    assert shapeless(item(good.replace("×", " by ").replace("N by L", "Values"))) == ["a", "Returns"]
    assert shapeless(item("Do.", kind="int")) == []
