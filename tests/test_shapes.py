"""Arrays have the shapes that signatures state: the chapters' own tests, run with jaxtyping and beartype."""

import pytest
import rules
from conftest import ROOT

PURE_LAYERS = "01235"  # layers whose modules are functions of arrays


def chapters(root=ROOT):
    """Chapters of pure layers whose module states shapes."""
    found = []
    for path in rules.notebooks(root):
        module = rules.exported_module(rules.read_notebook(path))
        source = root / "nsf_nb" / f"{(module or '').replace('.', '/')}.py"
        if path.name[0] in PURE_LAYERS and module and "jaxtyping" in source.read_text(encoding="utf-8"):
            found.append(path)
    return found


def check(run_tool, path, root=ROOT):
    """Run one chapter with shapes checked: exit code, number of checked calls, error text."""
    done = run_tool(["python", root / "tests" / "shape_check.py", path], cwd=root, timeout=300)
    calls = done.stdout.rpartition("CHECKED ")[2].strip()
    return done.returncode, int(calls) if calls.isdigit() else 0, done.stderr[-4000:]


@pytest.mark.notebook
@pytest.mark.parametrize("path", chapters(), ids=rules.notebook_id)
def test_shapes(path, run_tool):
    code, calls, errors = check(run_tool, path)
    assert code == 0, errors
    assert calls > 0


MODULE = '''
import numpy as np
from jaxtyping import Float


def scale(values: Float[np.ndarray, "N J"], sizes: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N J"]:
    return (values * sizes[:, None])RESULT


def count(value: int) -> int:
    return value
'''
CELLS = ["#| default_exp notation", "import numpy as np\nassert scale(np.ones((3, 2)), np.ones(3)).shape", "count('x')"]


@pytest.mark.parametrize("result, code", [("", 0), ("[:, :1]", 1), (".astype(int)", 1)])
def test_a_wrong_shape_is_noticed(result, code, house_copy, run_tool):
    (house_copy / "nsf_nb" / "notation.py").write_text(MODULE.replace("RESULT", result), encoding="utf-8")
    path = house_copy / "nbs" / "00_notation.ipynb"
    cells = [{"cell_type": "code", "metadata": {}, "source": source, "outputs": []} for source in CELLS]
    rules.write_notebook(path, {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    found, calls, errors = check(run_tool, path, house_copy)
    assert (found, calls > 0) == (code, code == 0), errors
    assert code == 0 or "TypeCheckError" in errors
