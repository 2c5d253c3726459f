"""Remove nbdev's directives from notebooks, so that Quarto sees only cell options that it knows.

Quarto calls this file as an ipynb filter (see _quarto.yml): notebook JSON on standard input, notebook JSON on standard
output. The offline build of the book calls `strip_directives`.
"""

import json
import re
import sys

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(default_exp|exporti|exports?|hide|notest)\b[^:]*$")
HIDDEN = re.compile(r"^\s*#\s*\|\s*hide\s*$")


def strip_directives(notebook: dict) -> dict:
    """Drop nbdev's directive lines; cells that hold nothing else, or that are hidden, go away.

    Parameters
    ----------
    notebook
        A notebook of format 4; it is not changed.

    Returns
    -------
    dict
        The notebook for readers.
    """
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines(keepends=True)
            kept = [line for line in lines if not DIRECTIVE.match(line)]
            if any(HIDDEN.match(line) for line in lines) or (lines and not "".join(kept).strip()):
                continue
            cell = {**cell, "source": "".join(kept).strip("\n").splitlines(keepends=True)}
        cells.append(cell)
    return {**notebook, "cells": cells}


if __name__ == "__main__":
    json.dump(strip_directives(json.load(sys.stdin)), sys.stdout)
