"""Pages that are made of others: parts, the index of equations, the index of all names."""

import ast
import re

from . import modules
from .contents import Book, Chapter, Part
from .markup import PROTECTED, Context, to_myst
from .notebooks import as_text, exported_module, split_opening

UNSEARCHED = "---\nnosearch: true\n---"  # the search leads to chapters, not to lists of what they have
EXPORTED = re.compile(r"^#\| export$", re.MULTILINE)


def opening_of(notebook: dict) -> tuple[str, str]:
    """Title and summary of a chapter."""
    title, summary, _ = split_opening(as_text(notebook["cells"][0]["source"]))
    return title, summary


def toctree(paths: list[str], *options: str) -> str:
    """A list of pages that only the sidebar shows."""
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *(f"/{path}" for path in paths), "```"])


def part_page(part: Part, notebooks: dict[str, dict], context: Context) -> str:
    """A part: its chapters with their summaries."""
    blocks = [f"# {part.title}", ":::{container} chapters"]
    for chapter in part.chapters:
        title, summary = opening_of(notebooks[chapter.path])
        blocks.append(f"[{chapter.number}]{{.number}} [{title}](/{chapter.path})\n: {to_myst(summary, context)}")
    return "\n\n".join([*blocks, ":::", toctree([chapter.docname for chapter in part.chapters])]) + "\n"


def equations_of(notebook: dict) -> list[tuple[str, str]]:
    """Labels and formulas of a chapter."""
    text = "\n\n".join(as_text(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return [(match["label"], match["tex"].strip()) for match in PROTECTED.finditer(text) if match["label"]]


def equation_page(book: Book, notebooks: dict[str, dict]) -> str:
    """Every labelled equation, by chapter, with a link to where it stands."""
    text = "Every equation that has a number, which leads to the place where it is explained."
    blocks = [UNSEARCHED, "# Index of equations", text]
    for chapter in book.chapters():
        found = equations_of(notebooks[chapter.path]) if chapter.path in notebooks else []
        if found:
            title = opening_of(notebooks[chapter.path])[0]
            blocks.append(f"## [{chapter.number}]{{.section-number}} [{title}](/{chapter.path})")
        blocks += [f":::{{container}} indexed\n\n{{eq}}`{label}`\n\n$$\n{tex}\n$$\n:::" for label, tex in found]
    return "\n\n".join(blocks) + "\n"


def exports_of(notebook: dict) -> dict[str, str]:
    """Public names that the cells of a chapter define, and the first line of their docstrings."""
    found = {}
    for cell in notebook["cells"]:
        source = as_text(cell["source"])
        if cell["cell_type"] != "code" or not EXPORTED.search(source):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return {name: doc for name, doc in found.items() if not name.startswith("_")}


def names_page(book: Book, notebooks: dict[str, dict], escape) -> str:
    """Every public name of every module, by part."""
    text = "Every function and class that a chapter defines. A name leads to its explanation."
    blocks = [UNSEARCHED, "# All names", text]
    for part in book.parts():
        rows = []
        for chapter in part.chapters:
            module = exported_module(notebooks[chapter.path])
            found = exports_of(notebooks[chapter.path])
            rows += [f"| `{module}.{name}` | {escape(doc)} |" for name, doc in found.items()]
        if rows:
            blocks += [f"## {part.title}", "\n".join(["| name | what it is |", "|---|---|", *rows])]
    return "\n\n".join(blocks) + "\n"


def called_class(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name that a call like `nsf.NSF(4).fit(adata)` begins with."""
    while isinstance(node, ast.Call):
        node = node.func
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and node.attr == "fit":
            node = node.value
    head, _, rest = ast.unparse(node).partition(".")
    return ".".join([names[head], *([rest] if rest else [])]) if head in names else ""


def names_in(notebook: dict, places: dict[str, list[str]]) -> dict[str, str]:
    """What names in the code of a chapter stand for: imports, own definitions, and models ("nsf_nb.NSF()")."""
    module = exported_module(notebook)
    found = {name: f"{module}.{name}" for name in exports_of(notebook)} if module else {}
    for cell in notebook["cells"]:
        try:
            tree = ast.parse(as_text(cell["source"])) if cell["cell_type"] == "code" else None
        except SyntaxError:  # a line for the shell
            continue
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Import):
                found |= {a.asname or a.name: a.name for a in node.names if a.name.split(".")[0] == modules.PACKAGE}
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == modules.PACKAGE:
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = called_class(node.value, found)
                if made in places and made.rpartition(".")[2][:1].isupper():
                    found |= {target.id: f"{made}()" for target in node.targets if isinstance(target, ast.Name)}
    others = attributes_of_others(notebook, set(found)) & {name.rpartition(".")[2] for name in places}
    return dict.fromkeys(others, "") | found


def attributes_of_others(notebook: dict, known: set[str]) -> set[str]:
    """Attributes of what is not the package's: `read_h5ad` in a chapter with `anndata.read_h5ad` is not ours."""
    found = set()
    for cell in notebook["cells"]:
        text = as_text(cell["source"]) if cell["cell_type"] == "code" else ""
        for chain in re.findall(r"\b[a-z]\w*(?:\.\w+)+", text):
            head, *rest = chain.split(".")
            found |= set() if head in known else set(rest)
    return found


def root_page(text: str, book: Book) -> str:
    """The landing page with the lists of all pages."""
    places = [i for i, entry in enumerate(book.entries) if isinstance(entry, Part)]
    front = [entry.docname for entry in book.entries[1 : places[0]]]
    back = [entry.docname for entry in book.entries[places[0] :] if isinstance(entry, Chapter)]
    parts = [part.docname for part in book.parts()]
    lists = [toctree(front)] if front else []
    lists += [toctree(parts, ":numbered: 3"), toctree(["api/index", "equations", *back], ":caption: Reference")]
    return "\n\n".join([text, *lists]) + "\n"
