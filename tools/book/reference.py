"""Pages of the API: every public name with its signature and its docstring, from the source."""

import re
from pathlib import Path

from . import modules
from .markup import Context, to_myst
from .modules import Definition

PAGES = {
    "estimators": ("Models", "The models. All of them are used alike."),
    "package": ("Functions and data", "What `import nsf_nb as nsf` gives besides the models."),
    "errors": ("Errors and settings", "Errors say what was expected, what was found, and what to do."),
    "pp": ("Preparing: `nsf.pp`", ""),
    "tl": ("Tools: `nsf.tl`", ""),
    "pl": ("Pictures: `nsf.pl`", ""),
    "datasets": ("Published data: `nsf.datasets`", ""),
    "metrics": ("Metrics: `nsf.metrics`", ""),
}
BASE = "nsf_nb.factorization", "Factorization"
SPECIAL = re.compile(r"([*_<>$\[\]|~^])")


def page_of(name: str, item: Definition) -> str:
    """The page on which a public name is explained."""
    short = name.split(".")
    if len(short) == 3:
        return short[1]
    if item.module == "nsf_nb.core":
        return "errors"
    return "estimators" if item.module in ("nsf_nb.estimators", "nsf_nb.mefisto") else "package"


def escape(text: str) -> str:
    """Text of a docstring in Markdown: code spans and references stay, everything else is text."""
    parts = re.split(r"(`[^`\n]+`|@(?:eq|fig|tbl)-[\w-]*\w)", text)
    return "".join(part if i % 2 else SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


def convert(text: str, context: Context) -> str:
    """A docstring's text as MyST."""
    return to_myst(escape(text), context)


def code(text: str) -> str:
    """A code span; quotes around an annotation go away."""
    text = re.sub(r"^'(.*)'$", r"\1", text)
    return f"`{text}`" if text else ""


def signature(arguments: list[tuple[str, str, str]]) -> str:
    """Arguments with their defaults."""
    return ", ".join(f"{name}={default}" if default else name for name, _, default in arguments)


def definition_list(rows: list[tuple[str, str]]) -> str:
    """A list of terms; a term without text gets a dash."""
    return "\n\n".join(f"{term}\n: " + (text or "–").replace("\n", "\n  ") for term, text in rows)


def describe_parameters(text: str, arguments: list, context: Context) -> str:
    """The section Parameters, with types from the annotations."""
    types = {name.lstrip("*"): annotation for name, annotation, _ in arguments}
    rows = []
    for head, body in modules.items(text):
        names = [name.strip() for name in head.partition(" : ")[0].split(",")]
        kinds = {types.get(name.lstrip("*"), "") for name in names}
        kind = code(kinds.pop()) if len(kinds) == 1 else ""
        rows.append((", ".join(map(code, names)) + (f" : {kind}" if kind else ""), convert(body, context)))
    return definition_list(rows)


def describe(item: Definition, arguments: list, context: Context) -> str:
    """A docstring as Markdown."""
    text, found = modules.sections(item.doc)
    blocks = [convert(text, context)]
    for title, body in found.items():
        if title in ("Parameters", "Attributes"):
            content = describe_parameters(body, arguments, context)
        elif title in ("Returns", "Yields", "Raises"):
            content = definition_list([(code(head), convert(rest, context)) for head, rest in modules.items(body)])
        else:
            content = convert(re.sub(r"^\s+", "", body, flags=re.MULTILINE), context)
        blocks.append(f":::{{rubric}} {title}\n:::\n\n{content}")
    return "\n\n".join(blocks)


def source_line(item: Definition, chapters: dict[str, str]) -> str:
    """Where the code is explained."""
    chapter = chapters.get(item.module)
    return f"Explained and tested in [](/{chapter})." if chapter else ""


def entry(directive: str, name: str, arguments: list | None, content: str, level: int = 4) -> str:
    """A directive of Sphinx's Python domain."""
    shown = name if arguments is None else f"{name}({signature(arguments)})"
    return f"{'`' * level}{{py:{directive}}} {shown}\n\n{content}\n{'`' * level}"


def render_member(root: Path, name: str, item: Definition, context: Context) -> str:
    """A method or a property."""
    if item.kind == "property":
        return entry("property", name, None, convert(item.doc, context), 5)
    arguments = modules.parameters(root, item)
    return entry("method", name, arguments, describe(item, arguments, context), 5)


def render(root: Path, name: str, item: Definition, context: Context, chapters: dict[str, str]) -> str:
    """One public name; methods that the models share are explained once, with their base."""
    arguments = modules.parameters(root, item)
    content = [describe(item, arguments, context), source_line(item, chapters)]
    if item.kind == "data":
        return entry("data", name, None, source_line(item, chapters))
    if item.kind == "function":
        return entry("function", name, arguments, "\n\n".join(content))
    shown = modules.members(root, item)
    if page_of(name, item) == "estimators":
        shared = modules.members(root, modules.find(root, *BASE))
        listed = ", ".join(code(f"{name}.{one}") for one in shown if one in shared and one != "plan")
        content.append(f"Methods: {listed}.")
    else:
        content += [render_member(root, one, made, context) for one, made in shown.items()]
    kind = "exception" if name.endswith("Error") else "class"
    return entry(kind, name, None if kind == "exception" else arguments, "\n\n".join(content), 6)


def render_base(root: Path, context: Context, chapters: dict[str, str]) -> str:
    """What all models share."""
    base = modules.find(root, *BASE)
    content = [convert(base.doc, context), source_line(base, chapters)]
    content += [render_member(root, name, item, context) for name, item in modules.members(root, base).items()]
    return "## Methods of all models\n\n" + entry("class", ".".join(BASE), None, "\n\n".join(content), 6)


def make_pages(root: Path, keys: set[str], chapters: dict[str, str]) -> tuple[dict, dict, list[str]]:
    """The pages, the places of names, and complaints.

    Parameters
    ----------
    root
        Folder of the repository.
    keys
        Keys of the bibliography.
    chapters
        Module -> page of its chapter.

    Returns
    -------
    pages : dict
        Name of a page -> Markdown.
    places : dict
        Dotted name -> page and anchor.
    wrong : list of str
        Complaints.
    """
    context = Context(keys=keys, here="api/index.md")
    names, pages, places = modules.public_names(root), {}, {}
    for page, (title, text) in PAGES.items():
        short = modules.SHORT.get(page)
        doc = modules.ast.get_docstring(modules.read_module(root, short)) if short else text
        shown = {name: item for name, item in names.items() if page_of(name, item) == page}
        blocks = [f"# {title}", doc, overview(shown, context)]
        blocks += [render(root, name, item, context, chapters) for name, item in shown.items()]
        for name, item in shown.items():
            places |= {name: [f"api/{page}", name], item.path: [f"api/{page}", name]}
            places |= place_members(root, page, name, item)
        if page == "estimators":
            blocks.append(render_base(root, context, chapters))
            places |= base_places(root)
        pages[f"api/{page}"] = "\n\n".join(blocks) + "\n"
    pages["api/index"] = index_page(names, context)
    return pages, places, context.wrong


def base_places(root: Path) -> dict[str, list[str]]:
    """Where the methods are that all models share."""
    base, owner = ".".join(BASE), modules.find(root, *BASE)
    names = [base, *(f"{base}.{name}" for name in modules.members(root, owner))]
    return {name: ["api/estimators", name] for name in names}


def place_members(root: Path, page: str, name: str, item: Definition) -> dict[str, list[str]]:
    """Where the methods of a class are explained, under both names of the class."""
    if item.kind != "class":
        return {}
    owner = ".".join(BASE) if page == "estimators" else name
    found = modules.members(root, modules.find(root, *BASE) if page == "estimators" else item)
    return {f"{one}.{part}": [f"api/{page}", f"{owner}.{part}"] for one in (name, item.path) for part in found}


def overview(shown: dict[str, Definition], context: Context) -> str:
    """A table of names and their summaries."""
    short = {name.replace("nsf_nb", "nsf", 1): item.summary for name, item in shown.items()}
    rows = [f"| `{name}` | {convert(summary, context)} |" for name, summary in short.items()]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def index_page(names: dict[str, Definition], context: Context) -> str:
    """The first page of the reference."""
    text = "Every public name, with its arguments, what it returns, and the chapter that explains it."
    blocks = ["# API reference", text]
    for page, (title, _) in PAGES.items():
        shown = {name: item for name, item in names.items() if page_of(name, item) == page}
        blocks += [f"## [{title}](/api/{page})", overview(shown, context)]
    listed = "\n".join(f"/api/{page}" for page in PAGES)
    return "\n\n".join([*blocks, f"```{{toctree}}\n:hidden:\n\n{listed}\n/api/names\n```"]) + "\n"
