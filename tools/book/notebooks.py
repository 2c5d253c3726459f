"""A notebook of the book as a notebook for Sphinx: options of cells become captions, labels and tags."""

import ast
import re
from html.parser import HTMLParser

from quarto_filter import strip_directives

from .markup import Context, to_myst

OPTION = re.compile(r"^\s*#\s*\|\s*([\w-]+):\s*(.*?)\s*$")
NOQA = re.compile(r" +# noqa: \w+(?:, \w+)*$", re.MULTILINE)  # for a program, not for readers
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output", ("code-fold", "true"): "hide-input"}
META = (
    '<p class="chapter-meta">{module}<a href="{name}.ipynb" download><span class="fa-solid fa-download"></span> '
    'Notebook</a><a href="{address}"><span class="fa-brands fa-github"></span> Source</a></p>'
)


def as_text(value: str | list[str]) -> str:
    """Text of a notebook's field, which may be a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def split_options(source: str) -> tuple[dict[str, str], str]:
    """The `#|` options of a code cell, and its code."""
    options, code = {}, []
    for line in source.splitlines():
        match = OPTION.match(line)
        if match and not code:
            quoted = re.fullmatch(r'"(?:[^"\\]|\\.)*"', match[2])
            options[match[1]] = ast.literal_eval(match[2]) if quoted else match[2].strip("'")
        else:
            code.append(line)
    return options, "\n".join(code).strip("\n")


class Cells(HTMLParser):
    """The cells of an HTML table, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        """A row or a cell begins."""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        """A cell ends."""
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        """Text of a cell."""
        if self.inside:
            self.rows[-1][-1] += data.strip()


def pipe_table(html: str) -> str:
    """An HTML table as a table of Markdown."""
    cells = Cells()
    cells.feed(html)
    head, *rows = [["\\|".join(cell.split("|")) for cell in row] for row in cells.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def markdown_cell(source: str, key: str) -> dict:
    """A cell of prose."""
    return {"cell_type": "markdown", "id": key, "metadata": {}, "source": source}


def isolate_figure(cell: dict) -> list[dict]:
    """A figure is its last picture; other outputs of the cell stand before and after it, without caption."""
    outputs, figure = cell["outputs"], cell["metadata"].get("mystnb")
    pictures = [i for i, output in enumerate(outputs) if "image/png" in output.get("data", {})]
    shown = [i for i, output in enumerate(outputs) if output["output_type"] != "stream"]
    if figure is None or len(shown) < 2 or not pictures:
        return [cell]
    at, tags = pictures[-1], [*cell["metadata"].get("tags", []), "remove-input"]
    plain = {key: value for key, value in cell["metadata"].items() if key != "mystnb"}
    rest = {**plain, "tags": tags}
    silent = {**cell, "source": "", "metadata": rest}
    return [
        {**cell, "metadata": {**plain, "mystnb": {"image": figure["image"]}}, "outputs": outputs[:at]},
        {**silent, "id": f"{cell['id']}-figure", "metadata": {**rest, "mystnb": figure}, "outputs": [outputs[at]]},
        {**silent, "id": f"{cell['id']}-after", "outputs": outputs[at + 1 :]},
    ]


def convert_code(cell: dict, context: Context, fold: bool) -> list[dict]:
    """A cell of code with its caption, label and tags; a captioned table becomes a cell of its own."""
    options, code = split_options(as_text(cell["source"]))
    code = NOQA.sub("", code)
    tags = [tag for (key, value), tag in TAGS.items() if options.get(key) == value]
    tags += ["hide-input"] if fold and "code-fold" not in options else []
    meta, after = {}, []
    if "fig-cap" in options:
        caption = to_myst(options["fig-cap"], context)
        meta = {"mystnb": {"figure": {"caption": caption, "name": options.get("label", "")}}}
        meta["mystnb"]["image"] = {"alt": options.get("fig-alt", options["fig-cap"])}
    if "tbl-cap" in options:
        tables = [as_text(o["data"]["text/html"]) for o in cell["outputs"] if "text/html" in o.get("data", {})]
        text = "".join(map(pipe_table, tables))
        head = f":::{{table}} {to_myst(options['tbl-cap'], context)}\n:name: {options['label']}\n\n"
        after, tags = [markdown_cell(f"{head}{text}\n:::", f"{cell['id']}-table")], [*tags, "remove-output"]
    done = {**cell, "source": code, "metadata": {**meta, **({"tags": tags} if tags else {})}}
    return [*isolate_figure(done), *after]


def split_opening(source: str) -> tuple[str, str, str]:
    """Title, summary and the rest of the first cell."""
    match = re.match(r"# ([^\n]+)\n+((?:> [^\n]*\n?)*)(.*)", source, re.DOTALL)
    if not match:
        return "", "", source
    return match[1], " ".join(line.removeprefix("> ") for line in match[2].splitlines()), match[3]


def exported_module(notebook: dict) -> str:
    """Dotted name of the module that a chapter exports; empty if none."""
    for cell in notebook["cells"]:
        found = re.search(r"^#\| default_exp ([\w.]+)$", as_text(cell["source"]), re.MULTILINE)
        if found and cell["cell_type"] == "code":
            return "nsf_nb" if found[1] == "__init__" else f"nsf_nb.{found[1]}"
    return ""


def convert_opening(source: str, context: Context, module: str, address: str) -> str:
    """Title, summary as a lead, what the page is made of, and the rest."""
    title, summary, rest = split_opening(source)
    name = context.here.rpartition("/")[2].rpartition(".")[0]
    shown = f"<span>Module <code>{module}</code></span>" if module else ""
    meta = META.format(module=shown, name=name, address=address)
    lead = f":::{{container}} lead\n\n{to_myst(summary, context)}\n:::\n\n" if summary else ""
    return f"# {title}\n\n{lead}{meta}\n\n{to_myst(rest, context)}"


def convert_notebook(notebook: dict, context: Context, address: str = "", fold: bool = False) -> dict:
    """A notebook of the book for Sphinx.

    Parameters
    ----------
    notebook
        As it is stored; it is not changed.
    context
        What may be cited, and where the notebook is.
    address
        Where its source can be seen.
    fold
        Whether code is folded unless a cell says otherwise.

    Returns
    -------
    dict
        A notebook in the Markdown of MyST, without directives.
    """
    module, cells = exported_module(notebook), []
    for index, cell in enumerate(strip_directives(notebook)["cells"]):
        source = as_text(cell["source"])
        if cell["cell_type"] == "code":
            cells += convert_code(cell, context, fold)
        elif index == 0:
            cells.append({**cell, "source": convert_opening(source, context, module, address)})
        else:
            cells.append({**cell, "source": to_myst(source, context)})
    return {**notebook, "cells": cells}
