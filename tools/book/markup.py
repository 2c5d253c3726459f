"""Quarto's Markdown becomes MyST's: equations, citations, cross references, callouts, figures, links."""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

# What is no prose: fenced code, displayed equations, code spans, formulas, comments.
PROTECTED = re.compile(
    r"""(?P<fence>^(?P<indent>[ ]*)(?P<mark>`{3,}|~{3,})[^\n]*\n.*?^[ ]*(?P=mark)[ ]*$)
    |(?P<display>\$\$(?P<tex>.+?)\$\$(?:[ ]*\{\#(?P<label>eq-[\w-]+)\})?)
    |(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))
    |(?P<math>(?<![\\$])\$(?![\s$])(?:\\.|[^\\$])+?(?<!\s)\$(?!\d))
    |(?P<comment><!--.*?-->)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
CROSS = re.compile(r"(?<![\w@\\])@((?:eq|fig|tbl|sec)-[\w-]*\w)")
GROUP = re.compile(r"\[([^\[\]]*@[^\[\]]+)\](?![(\[])")
KEY = re.compile(r"(?<![\w@\\.])@(?!(?:eq|fig|tbl|sec)-)([A-Za-z](?:[\w:-]*\w)?)")
NUMBERED = re.compile(
    r"\b(?P<word>[Cc]hapters?|[Aa]ppendix)(?P<space>\s+)"
    r"(?P<list>[A-Z]?\d+(?![.\d]\d)(?:(?:, | and | to | or |, and )[A-Z]?\d+(?![.\d]\d))*)"
)
IDENTIFIER = re.compile(
    r"(?<![\w/\[(<])(?:doi:(?P<doi>10\.\d{4,}/[^\s,;)\]]*[^\s,;.:)\]])|arXiv:(?P<arxiv>\d{4}\.\d{4,5})"
    r"|(?P<url>https?://[^\s<>)\]]*[^\s<>)\].,;:]))"
)
ROLES = {"eq": "eq", "fig": "numref", "tbl": "numref", "sec": "ref"}
CALLOUTS = {"note", "tip", "warning", "important", "caution"}
OPENING = re.compile(r"^(:{3,})\s*(?:\{(.*)\}|([\w-]+))\s*:*$")
CLOSING = re.compile(r"^:{3,}\s*$")
HEADING = re.compile(r"^(#+)\s+(.*?)\s*\{([^{}]*)\}\s*$", re.MULTILINE)
PICTURE = re.compile(r"^!\[(?P<alt>[^\n]*)\]\((?P<source>[^()\s]+)\)(?:\{(?P<options>[^{}]*)\})?[ ]*$", re.MULTILINE)
LINKED = re.compile(
    r"^\[!\[(?P<text>[^\n]*?)\]\((?P<source>[^()\s]+)\)(?:\{(?P<options>[^{}]*)\})?\]\((?P<target>[^()\s]+)\)[ ]*$",
    re.MULTILINE,
)
CAPTIONED = re.compile(
    r"(?P<table>(?:^\|[^\n]*\n)+)\n: (?P<text>[^\n]*?)\s*\{#(?P<label>tbl-[\w-]+)\}\s*$", re.MULTILINE
)


@dataclass
class Context:
    """What a page may refer to, and the complaints about it."""

    keys: set[str] = field(default_factory=set)
    numbers: dict[str, str] = field(default_factory=dict)
    here: str = ""
    wrong: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        """Note what is wrong with the page."""
        self.wrong.append(f"{self.here}: {text}")


def outside(text: str, change: Callable[[str], str], keep: Callable[[re.Match], str] = lambda m: m[0]) -> str:
    """Change the prose of a text; what is protected goes through `keep`."""
    parts, last = [], 0
    for match in PROTECTED.finditer(text):
        parts += [change(text[last : match.start()]), keep(match)]
        last = match.end()
    return "".join([*parts, change(text[last:])])


def equation(match: re.Match) -> str:
    """A labelled equation as a directive; everything else stays."""
    if not match["label"]:
        return match[0]
    return f"```{{math}}\n:label: {match['label']}\n\n{match['tex'].strip()}\n```"


def cite(key: str, role: str, context: Context) -> str:
    """A citation; a key without entry is a complaint."""
    if key not in context.keys:
        context.complain(f"no entry {key!r} in the bibliography")
    return f"{{cite:{role}}}`{key}`"


def cite_group(match: re.Match, context: Context) -> str:
    """`[see @a, p. 3; @b]`; a bracket with a cross reference stays a bracket."""
    parts, inside = [], match[1]
    if CROSS.search(inside) and not KEY.search(inside):
        return match[0]
    for item in inside.split(";"):
        found = re.fullmatch(r"\s*(?P<before>[^@]*?)\s*@(?P<key>[\w:-]*\w)(?:,\s*(?P<after>.*?))?\s*", item)
        if not found or CROSS.search(item):
            context.complain(f"a bracket that is no citation: {match[0]!r}")
            return match[0]
        if found["key"] not in context.keys:
            context.complain(f"no entry {found['key']!r} in the bibliography")
        before = f"{{{found['before']}}}" if found["before"] else ""
        after = f"{{{found['after']}}}" if found["after"] else ""
        parts.append(before + found["key"] + after)
    return f"{{cite:p}}`{','.join(parts)}`"


def relative(path: str, here: str) -> str:
    """A path of the repository as seen from a page."""
    return posixpath.relpath(path, posixpath.dirname(here) or ".")


def link_numbers(match: re.Match, context: Context) -> str:
    """`chapter 412` and `chapters 410 to 412` become links; numbers of other people's books stay."""
    def link(text: str, number: str) -> str:
        path = context.numbers.get(number)
        return f"[{text}]({relative(path, context.here)})" if path else text

    word, listed = match["word"] + match["space"], match["list"]
    if re.fullmatch(r"[A-Z]?\d+", listed):
        return link(word + listed, listed)
    return word + re.sub(r"[A-Z]?\d+", lambda m: link(m[0], m[0]), listed)


def link_identifier(match: re.Match) -> str:
    """DOIs, numbers of arXiv and bare addresses become links."""
    if match["doi"]:
        return f"[doi:{match['doi']}](https://doi.org/{match['doi']})"
    return f"[{match[0]}](https://arxiv.org/abs/{match['arxiv']})" if match["arxiv"] else f"<{match[0]}>"


def convert_prose(text: str, context: Context) -> str:
    """Citations, cross references and links of prose."""
    if "{{<" in text:
        context.complain("a shortcode of Quarto, which this build does not know")
    text = NUMBERED.sub(lambda m: link_numbers(m, context), text)
    text = IDENTIFIER.sub(link_identifier, text)
    text = GROUP.sub(lambda m: cite_group(m, context), text)
    text = KEY.sub(lambda m: cite(m[1], "t", context), text)
    return CROSS.sub(lambda m: f"{{{ROLES[m[1].partition('-')[0]]}}}`{m[1]}`", text)


def convert_heading(match: re.Match) -> str:
    """Attributes of a heading go away; its label becomes a target."""
    label = re.search(r"#([\w-]+)", match[3])
    return (f"({label[1]})=\n" if label else "") + f"{match[1]} {match[2]}"


def convert_picture(match: re.Match) -> str:
    """A picture on a line of its own, with a label or a width, is a figure."""
    options = match["options"] or ""
    label, width = re.search(r"#(fig-[\w-]+)", options), re.search(r"width=\"?([\w.%]+)", options)
    alt = re.search(r'fig-alt="([^"]*)"', options)
    if not label and not width:
        return f"![{match['alt']}]({match['source']})"
    head = [f"```{{figure}} {match['source']}"]
    head += [f":name: {label[1]}"] if label else []
    head += [f":width: {width[1]}"] if width else []
    head += [f":alt: {alt[1]}"] if alt else []
    return "\n".join([*head, "", match["alt"], "```"])


def convert_linked(match: re.Match) -> str:
    """A picture with a caption that leads elsewhere: a panel."""
    alt = re.search(r'fig-alt="([^"]*)"', match["options"] or "")
    picture = f"[![{alt[1] if alt else match['text']}]({match['source']})]({match['target']})"
    return f"```{{container}} panel\n{picture}\n\n{match['text']}\n```"


def convert_table(match: re.Match) -> str:
    """A table with a labelled caption."""
    return f":::{{table}} {match['text']}\n:name: {match['label']}\n\n{match['table']}:::"


def open_div(attributes: str, following: list[str], context: Context) -> str:
    """First lines of the block that a div of pandoc becomes, still without its colons; a title is taken from below."""
    classes = re.findall(r"(?:^|\s)\.([\w-]+)", attributes) or ([attributes] if "=" not in attributes else [])
    if "#refs" in attributes:
        return "{bibliography}"
    columns = re.search(r"(?:^|\s)layout-ncol=\"?(\d)", attributes)
    if columns and not classes:
        return f"{{container}} layout layout-{columns[1]}\n"
    kind = next((name.removeprefix("callout-") for name in classes if name.startswith("callout-")), None)
    if kind is None:
        if "#" in attributes or not classes or "panel-tabset" in classes:
            context.complain(f"a div that this build does not know: {attributes!r}")
        return "{container} " + " ".join(classes) + "\n"
    if kind not in CALLOUTS:
        context.complain(f"an unknown callout: {kind!r}")
    while following and not following[0].strip():
        following.pop(0)
    title = re.search(r'title="([^"]*)"', attributes)
    text = title[1] if title else ""
    if not text and following and following[0].startswith("#"):
        text = following.pop(0).lstrip("#").strip()
    return f"{{admonition}} {text}\n:class: {kind}\n" if text else f"{{{kind}}}\n"


def convert_divs(text: str, context: Context) -> str:
    """Divs of pandoc, callouts among them, become blocks of MyST; an outer one has a longer fence."""
    lines, stack, done, fence = text.split("\n"), [], [], None
    while lines:
        line = lines.pop(0)
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark:
            fence = None if fence == mark[1] else fence or mark[1]
        opening = None if fence else OPENING.match(line)
        if opening:
            stack.append(len(done))
            done.append(open_div(opening[2] or opening[3], lines, context))
        elif not fence and stack and CLOSING.match(line):
            begin = stack.pop()
            inner = [len(found[0]) for found in (re.match(":{3,}", item) for item in done[begin + 1 :]) if found]
            colons = ":" * max([3, *(length + 1 for length in inner)])
            done[begin] = colons + done[begin]
            done.append(colons)
        else:
            done.append(line)
    if stack:
        context.complain("a div that is not closed")
    return "\n".join(done)


def to_myst(text: str, context: Context) -> str:
    """A text of Quarto as MyST.

    Parameters
    ----------
    text
        Markdown as Quarto reads it.
    context
        What may be cited; complaints are added to it.

    Returns
    -------
    str
        Markdown as MyST reads it.
    """
    text = convert_divs(text, context)
    text = outside(text, lambda prose: convert_prose(prose, context), equation)
    text = HEADING.sub(convert_heading, text)
    text = PICTURE.sub(convert_picture, LINKED.sub(convert_linked, text))
    return CAPTIONED.sub(convert_table, text)
