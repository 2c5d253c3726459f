"""The rules of the house that a program can check. Each function returns complaints, one line each; none is good."""

import ast
import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
MAX_CELL, MAX_MODULE, MAX_CELLS = 40, 350, 60
MAX_BYTES, MAX_STUDY_BYTES = 300_000, 2_000_000
OPTION = re.compile(r"^\s*#\s*\|\s*(.*?)\s*$", re.MULTILINE)
# Directives of nbdev stand alone, options of Quarto have a value.
DIRECTIVES = {"export", "exporti", "hide", "notest"}
OPTIONS = {"label", "fig-cap", "fig-alt", "echo", "eval", "output", "warning", "code-fold", "tbl-cap", "fig-width"}
LABEL = re.compile(r"\{#((?:eq|fig|tbl|sec)-[\w-]+)\}|^#\| label: ((?:fig|tbl)-[\w-]+)", re.MULTILINE)
CITED = re.compile(r"@((?:eq|fig|tbl|sec)-[\w-]*\w)")
PLACES = re.compile(r"(?<![\w.:])/(?:tmp|work|root|home|Users|opt)/[\w.-]+")


# Notebooks


def notebooks(root: Path = ROOT) -> list[Path]:
    """All chapters, in the order of their names; index.ipynb last."""
    return sorted(path for path in (root / "nbs").rglob("*.ipynb") if not re.search(r"/[._]", path.as_posix()))


def notebook_id(path: Path) -> str:
    """Short name of a chapter for test reports."""
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


def read_notebook(path: Path) -> dict:
    """A notebook whose fields of text are strings."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def write_notebook(path: Path, notebook: dict) -> None:
    """Store a notebook."""
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


def code_cells(notebook: dict) -> list[dict]:
    """The cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(notebook: dict) -> str:
    """All cells of prose as one text."""
    return "\n\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def options(cell: dict) -> list[str]:
    """The `#|` lines of a cell, without the mark."""
    return OPTION.findall(cell["source"])


def exported_module(notebook: dict) -> str | None:
    """Name of the module that a chapter exports."""
    lines = [line for cell in code_cells(notebook) for line in options(cell)]
    names = [line.split()[1] for line in lines if line.startswith("default_exp ")]
    return names[0] if names else None


# Rules for one chapter


def check_lengths(notebook: dict) -> list[str]:
    """Short cells, not too many, and a third of them prose."""
    cells = notebook["cells"]
    lengths = [len(cell["source"].splitlines()) for cell in code_cells(notebook)]
    wrong = [f"a cell has {length} lines, {MAX_CELL} are allowed" for length in lengths if length > MAX_CELL]
    if len(cells) > MAX_CELLS:
        wrong.append(f"{len(cells)} cells, {MAX_CELLS} are allowed")
    if 3 * (len(cells) - len(lengths)) < len(cells):
        wrong.append(f"{len(cells) - len(lengths)} of {len(cells)} cells are prose, a third is wanted")
    return wrong


def check_directives(notebook: dict) -> list[str]:
    """Only known directives, spelled as their reader wants them: `#| export:` exports nothing, silently."""
    wrong = []
    for cell in code_cells(notebook):
        lines = [line for line in cell["source"].splitlines() if re.match(r"\s*#\s*\|", line)]
        for line, option in zip(lines, options(cell), strict=True):
            key, colon, value = option.partition(":")
            fine = (key in OPTIONS and colon and value.startswith(" ")) or (option in DIRECTIVES)
            if not line.startswith("#| ") or not (fine or re.fullmatch(r"default_exp [\w.]+", option)):
                wrong.append(f"unknown or misspelled directive {line!r}")
    return wrong


def check_tests_visible(notebook: dict) -> list[str]:
    """No test is hidden from the reader."""
    hiding = {"hide", "echo: false", "include: false"}
    hidden = [cell["source"] for cell in code_cells(notebook) if hiding & set(options(cell))]
    return [f"hidden test: {source[:60]!r}" for source in hidden if re.search(r"^\s*assert\b", source, re.M)]


def check_figures(notebook: dict) -> list[str]:
    """Each figure has a label, a caption and a stored picture."""
    wrong = []
    for cell in code_cells(notebook):
        keys = {line.partition(":")[0] for line in options(cell)}
        figure = "label: fig-" in "\n".join(options(cell))
        picture = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        start = cell["source"][:60]
        if picture and not (figure and "fig-cap" in keys):
            wrong.append(f"a figure without label and caption: {start!r}")
        if figure and not picture:
            wrong.append(f"a figure without stored picture (run the chapter): {start!r}")
    return wrong


def check_outputs(notebook: dict) -> list[str]:
    """No stored error, and no place of one machine in what readers see."""
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    wrong = [f"stored error {output['ename']}" for output in outputs if output["output_type"] == "error"]
    texts = [json.dumps({k: v for k, v in o.get("data", o).items() if not k.startswith("image/")}) for o in outputs]
    texts += [cell["source"] for cell in notebook["cells"]]
    return wrong + [f"path of one machine: {match}" for text in texts for match in PLACES.findall(text)]


def check_opening(notebook: dict) -> list[str]:
    """Title and summary first, then the directive that names the module; sources last."""
    first = notebook["cells"][0]["source"].splitlines()
    wrong = [] if first[0].startswith("# ") else ["the first cell has no title"]
    if not any(line.startswith("> ") for line in first):
        wrong.append("the first cell has no summary line ('> …')")
    if exported_module(notebook) and not code_cells(notebook)[0]["source"].startswith("#| default_exp "):
        wrong.append("the first code cell is not #| default_exp")
    if exported_module(notebook) and not re.search(r"^## Sources$", prose(notebook), re.MULTILINE):
        wrong.append("no section '## Sources'")
    return wrong


def check_size(size: int, study: bool = False) -> list[str]:
    """Small enough to be read on the web."""
    allowed = MAX_STUDY_BYTES if study else MAX_BYTES
    return [f"{size} bytes, {allowed} are allowed"] if size > allowed else []


# Rules for the book as a whole


def labels(text: str) -> list[str]:
    """Labels of equations, figures, tables and sections that a text defines."""
    return [one or other for one, other in LABEL.findall(text)]


def check_citations(defined: list[str], texts: dict[str, str]) -> list[str]:
    """Labels are unique, and what is cited exists."""
    wrong = [f"label {label} is defined more than once" for label in set(defined) if defined.count(label) > 1]
    cited = [(place, label) for place, text in texts.items() for label in CITED.findall(text)]
    missing = [(place, label) for place, label in cited if label not in defined]
    return wrong + [f"{place} cites @{label}, which no chapter defines" for place, label in missing]


def listed_chapters(text: str) -> list[str]:
    """Chapters in _quarto.yml, in order, parts opened."""
    def flatten(items):
        for item in items:
            yield from flatten(item["chapters"]) if isinstance(item, dict) else [item]

    book = yaml.safe_load(text)["book"]
    return [*flatten(book["chapters"]), *flatten(book.get("appendices", []))]


def check_book(listed: list[str], present: list[str]) -> list[str]:
    """Every chapter is listed once, and every listed chapter exists."""
    wrong = [f"{path} is not listed in _quarto.yml" for path in present if path not in listed]
    wrong += [f"{path} is listed in _quarto.yml and does not exist" for path in set(listed) - set(present)]
    return wrong + [f"{path} is listed {listed.count(path)} times" for path in set(listed) if listed.count(path) > 1]


# Rules for one module


def check_module_text(source: str) -> list[str]:
    """Not too long, and no print."""
    length = len(source.splitlines())
    wrong = [f"{length} lines, {MAX_MODULE} are allowed"] if length > MAX_MODULE else []
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return wrong + ["print( in a module: use the logger" for f in calls if isinstance(f, ast.Name) and f.id == "print"]


def is_public(node: ast.AST) -> bool:
    """Whether a definition is public."""
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")


def decorators(node: ast.AST) -> set[str]:
    """Last parts of the names of a definition's decorators."""
    return {ast.unparse(item).split("(")[0].split(".")[-1] for item in node.decorator_list}


def public_definitions(source: str) -> list[tuple[str, ast.AST, ast.ClassDef | None]]:
    """Public functions, classes and methods: name, node, class of a method."""
    found = []
    for node in filter(is_public, ast.parse(source).body):
        found.append((node.name, node, None))
        if isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{part.name}", part, node) for part in node.body if is_public(part)]
    return found


def arguments(node: ast.AST) -> list[str]:
    """Names of the arguments that a docstring has to explain; for a class, those of its making."""
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        if inits:
            return arguments(inits[0])
        if "dataclass" not in decorators(node):
            return []
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        kept = [f for f in fields if "ClassVar" not in ast.unparse(f.annotation) and "init=False" not in ast.unparse(f)]
        return [field.target.id for field in kept if not field.target.id.startswith("_")]
    spec = node.args
    named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *([spec.vararg] if spec.vararg else [])]
    return [item.arg for item in named if item.arg not in ("self", "cls") and not item.arg.startswith("_")]


def returns_value(node: ast.AST) -> bool:
    """Whether a function says that it returns something."""
    return node.returns is not None and ast.unparse(node.returns) not in ("None", "NoReturn")


def section(doc: str, title: str) -> str | None:
    """Body of a section of a numpy docstring."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    return match[1] if match else None


def check_docstring(name: str, node: ast.AST) -> list[str]:
    """A summary line, every argument, and what is returned."""
    doc = ast.get_docstring(node)
    if not doc:
        return [f"{name} has no docstring"]
    if decorators(node) & {"property", "cached_property", "command", "callback", "overload"}:
        return []  # a summary is enough: an attribute for its readers, a command whose help is made of its options
    wrong, explained = [], section(doc, "Parameters") or ""
    for argument in arguments(node):
        if not re.search(rf"^\*{{0,2}}(?:\w+, )*\*{{0,2}}{argument}\b", explained, re.MULTILINE):
            wrong.append(f"{name}: the section Parameters does not explain {argument}")
    result = not isinstance(node, ast.ClassDef) and returns_value(node)
    if result and section(doc, "Returns") is None and section(doc, "Yields") is None:
        wrong.append(f"{name}: no section Returns")
    return wrong


def check_docstrings(source: str) -> list[str]:
    """Docstrings of all public functions, classes and methods."""
    wrong = [] if ast.get_docstring(ast.parse(source)) else ["the module has no docstring ('> …' under the title)"]
    for name, node, _ in public_definitions(source):
        wrong += check_docstring(name, node)
    return wrong


def check_signatures(source: str) -> list[str]:
    """No **kwargs in public functions, and every argument and result has a type."""
    wrong = []
    for name, node, _ in public_definitions(source):
        if isinstance(node, ast.ClassDef):
            continue
        if node.args.kwarg:
            wrong.append(f"{name} takes **{node.args.kwarg.arg}")
        if node.returns is None:
            wrong.append(f"{name} does not say what it returns (-> …)")
    return wrong
