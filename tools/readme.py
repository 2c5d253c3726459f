"""Write README.md, and its figures, from nbs/index.ipynb.

    python tools/readme.py            write
    python tools/readme.py --check    exit with 1 if README.md or a figure is not what the notebook gives

Markdown cells are taken as they are, code cells become fenced blocks, stored outputs follow: text as a block, Markdown
as it is, PNG images as files under nbs/index_files/. Cells marked `#| hide` are left out, `#| echo: false` leaves out
the code only, `#| output: false` the outputs.
"""

import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "nbs/index.ipynb"
FIGURES = "nbs/index_files"
OPTION = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")


def split_options(source: str) -> tuple[dict[str, str], str]:
    """The `#|` options of a code cell and the code without them."""
    options, lines = {}, []
    for line in source.splitlines():
        match = OPTION.match(line)
        if match:
            options[match[1]] = match[2].strip("\"'")
        else:
            lines.append(line)
    return options, "\n".join(lines).strip("\n")


def as_text(value: str | list[str]) -> str:
    """Text of a notebook field, which may be a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def render_output(output: dict, caption: str, figures: dict[str, bytes]) -> str:
    """One stored output as Markdown; an image is added to figures."""
    data = output.get("data", {})
    if "image/png" in data:
        path = f"{FIGURES}/figure-{len(figures) + 1}.png"
        figures[path] = base64.b64decode(as_text(data["image/png"]))
        return f"![{caption}]({path})"
    if "text/markdown" in data:
        return as_text(data["text/markdown"]).strip("\n")
    text = as_text(output["text"] if "text" in output else data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```" if text.strip() and output.get("name") != "stderr" else ""


def render_code(cell: dict, figures: dict[str, bytes]) -> list[str]:
    """A code cell as Markdown blocks."""
    options, code = split_options(as_text(cell["source"]))
    if "hide" in options:
        return []
    blocks = [f"```python\n{code}\n```"] if code and options.get("echo") != "false" else []
    if options.get("output") != "false":
        blocks += [render_output(output, options.get("fig-cap", ""), figures) for output in cell["outputs"]]
    return [block for block in blocks if block]


def render(notebook: dict) -> tuple[str, dict[str, bytes]]:
    """README text and figure files (path relative to the root, content) of a notebook."""
    blocks, figures = ["<!-- Written by tools/readme.py from nbs/index.ipynb: edit the notebook. -->"], {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            blocks.append(as_text(cell["source"]).strip("\n"))
        elif cell["cell_type"] == "code":
            blocks += render_code(cell, figures)
    return "\n\n".join(blocks) + "\n", figures


def expected_files(root: Path = ROOT) -> dict[str, bytes]:
    """Path and content of README.md and of all its figures."""
    text, figures = render(json.loads((root / SOURCE).read_text(encoding="utf-8")))
    return {"README.md": text.encode(), **figures}


def differences(root: Path = ROOT) -> list[str]:
    """Files that are missing, differ from what the notebook gives, or are left over."""
    expected = expected_files(root)
    wrong = [p for p, content in expected.items() if not (root / p).exists() or (root / p).read_bytes() != content]
    stored = {path.relative_to(root).as_posix() for path in (root / FIGURES).glob("*.png")}
    return wrong + sorted(stored - set(expected))


def write(root: Path = ROOT) -> None:
    """Write README.md and its figures, and remove figures that are no longer used."""
    expected = expected_files(root)
    for path in (root / FIGURES).glob("*.png"):
        if path.relative_to(root).as_posix() not in expected:
            path.unlink()
    for path, content in expected.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        wrong = differences()
        sys.exit(f"Not what {SOURCE} gives: {', '.join(wrong)}. Run: python tools/readme.py" if wrong else 0)
    write()
