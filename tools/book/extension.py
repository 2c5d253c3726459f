"""A Sphinx extension: chapters have the numbers of their files, names in code are links, pages have their buttons."""

import html
import json
import re
from pathlib import Path

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx

from .names import Names

NAME = re.compile(r"([A-Za-z_][\w.]*\w)(\(.*\))?", re.DOTALL)
COMMAND = re.compile(r"nsf (?:[a-z]+|--help)\b")
DEFINED = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
CHAIN = re.compile(r'<span class="nn?">[\w.]+</span>(?:<span class="o">\.</span><span class="n">\w+</span>)*')
TOKEN = re.compile(r'<span class="nn?">([\w.]+)</span>')
EQUATION = re.compile(r"@(eq-[\w-]*\w)")


class Labels(BaseLabelStyle):
    """Labels of the bibliography: author and year."""

    def format_labels(self, sorted_entries):
        """One label for each entry; those of the same author and year get letters."""
        seen = {}
        for entry in sorted_entries:
            label = f"{' '.join(entry.persons['author'][0].last_names)} {entry.fields['year']}"
            seen[label] = seen.get(label, 0) + 1
            yield label if seen[label] == 1 else label + "abcdefgh"[seen[label] - 1]


class BookStyle(Style):
    """Entries as in `plain`, under these labels."""

    default_label_style = Labels


def load_names(app: Sphinx) -> None:
    """Read what the converter has found."""
    app.names = Names(**json.loads((Path(app.srcdir) / "names.json").read_text(encoding="utf-8")))


def number_chapters(app: Sphinx, env) -> list[str]:
    """Part and chapter of a number become the number of the chapter's file: (4, 3, 2) is 412.2."""
    def renumber(page: str, number):
        label = app.names.numbers.get(page)
        if not number or label is None:
            return number
        return type(number)([label, *list(number)[1 if page.startswith("parts/") else 2 :]])

    for page, numbers in env.toc_secnumbers.items():
        env.toc_secnumbers[page] = {anchor: renumber(page, number) for anchor, number in numbers.items()}
        for reference in [*env.tocs[page].findall(nodes.reference), env.titles[page]]:
            if reference.get("secnumber"):
                reference["secnumber"] = renumber(page, reference["secnumber"])
    for page, kinds in env.toc_fignumbers.items():
        for numbers in kinds.values():
            numbers.update({key: renumber(page, number) for key, number in numbers.items()})
    return list(env.toc_secnumbers)


def anchor_cells(app: Sphinx, doctree: nodes.document) -> None:
    """The cell that defines a public name has that name as its anchor."""
    page = app.env.docname
    own = {tuple(place)[1]: name for name, place in app.names.places.items() if place[0] == page}
    module = app.names.pages.get(page, {})
    for cell in doctree.findall(lambda node: isinstance(node, nodes.container) and "cell" in node["classes"]):
        for block in cell.findall(nodes.literal_block):
            for name in DEFINED.findall(block.astext()):
                if module.get(name) in own and module[name] not in cell["ids"]:
                    cell["ids"].append(module[name])
            break


def address(app: Sphinx, page: str, name: str) -> str:
    """Where a name is explained, from a page."""
    target, anchor = app.names.places[name]
    start = "" if target == page else app.builder.get_relative_uri(page, target)
    return f"{start}#{anchor}" if anchor else start or "#"


def link_literals(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Names in code spans become links."""
    for literal in list(doctree.findall(nodes.literal)):
        parents, node = [], literal.parent
        while node is not None:
            parents.append(type(node))
            node = node.parent
        if {nodes.title, nodes.reference, nodes.caption} & set(parents):
            continue
        text = literal.astext()
        match = NAME.fullmatch(text)
        shown, name = app.names.resolve(match[1], page) if match else ("", "")
        if COMMAND.match(text):
            own = f"nsf_nb.{text.split()[1]}_command"
            shown, name = text, own if own in app.names.places else "nsf_nb.cli"
        if match and name and shown != match[1] and not name.rpartition(".")[2][:1].isupper():
            continue  # only a part of it is known, and no class whose attribute it could be
        if not name or name not in app.names.places or app.names.places[name] == [page, ""]:
            continue
        link = nodes.reference("", "", internal=True, refuri=address(app, page, name), classes=["name"])
        link["reftitle"] = name
        literal.replace_self(link)
        link += literal


def link_code(app: Sphinx, page: str, body: str) -> str:
    """Names in highlighted code become links."""
    own = app.names.pages.get(page, {})

    def link(match: re.Match) -> str:
        words, ends = TOKEN.findall(match[0]), [found.end() for found in TOKEN.finditer(match[0])]
        head = words[0].partition(".")[0]
        if head not in own and head != "nsf_nb":  # in code a name is what was imported or defined, nothing else
            return match[0]
        shown, name = app.names.resolve(".".join(words), page)
        lengths = [len(".".join(words[: i + 1])) for i in range(len(words))]
        if not name or len(shown) not in lengths or app.names.places[name] == [page, ""]:
            return match[0]
        end = ends[lengths.index(len(shown))]
        where = html.escape(address(app, page, name))
        return f'<a class="name" href="{where}" title="{name}">{match[0][:end]}</a>{match[0][end:]}'

    def link_equation(match: re.Match) -> str:
        found = app.env.domains["math"].equations.get(match[1])
        where = f"{app.builder.get_relative_uri(page, found[0])}#equation-{match[1]}" if found else ""
        return f'<a class="name" href="{where}">{match[0]}</a>' if found else match[0]

    def change(block: re.Match) -> str:
        return EQUATION.sub(link_equation, CHAIN.sub(link, block[0]))

    return re.sub(r"<pre>.*?</pre>", change, body, flags=re.DOTALL)


def dress_page(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Links in code and the button that hides code."""
    if "body" in context:
        context["body"] = link_code(app, page, context["body"])
    if page.startswith("nbs/"):
        for button in ({
            "type": "javascript", "javascript": "toggleCode()", "icon": "fas fa-code", "label": "toggle-code-button",
            "tooltip": "Show or hide code", "text": "", "classes": "pst-navbar-icon",
        }, {
            "type": "link", "url": page.rpartition("/")[2] + ".ipynb", "icon": "fas fa-download", "text": "",
            "label": "download-notebook-button", "tooltip": "Download the notebook", "classes": "pst-navbar-icon",
        }):
            context.get("header_buttons", []).append(button)


def setup(app: Sphinx) -> dict:
    """Connect everything."""
    register_plugin("pybtex.style.formatting", "book", BookStyle)
    app.connect("builder-inited", load_names)
    app.connect("env-get-updated", number_chapters, priority=900)
    app.connect("doctree-read", anchor_cells)
    app.connect("doctree-resolved", link_literals)
    app.connect("html-page-context", dress_page, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
