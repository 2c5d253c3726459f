"""Run the tests of one chapter against its module with all shapes checked.

    python tests/shape_check.py nbs/1_data/10_counts.ipynb

The package is imported with jaxtyping's hook, so that each array argument and result that has a shape in its signature
is checked by beartype. Other annotations are left alone: chapters pass wrong values on purpose, to show the errors. For
the same reason a cell that shows an error may break a shape. The cells that are exported are not executed; the module
stands in for them. Prints how often shapes were checked.
"""

import functools
import sys
import warnings
from pathlib import Path

import jaxtyping
import rules

CHECKED = [0]


def of_array(annotation: object) -> bool:
    """Whether an annotation holds a shape, alone or within a container or a union."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(of_array(part) for part in getattr(annotation, "__args__", ()))


def arrays_only(function):
    """A decorator that checks the annotations with shapes and no others, and counts the checks."""
    from beartype import beartype

    if isinstance(function, type):
        return function
    shapes = {name: kind for name, kind in function.__annotations__.items() if of_array(kind)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    checked = beartype(function)

    @functools.wraps(checked)
    def counting(*args, **kwargs):
        CHECKED[0] += 1
        return checked(*args, **kwargs)

    return counting


def run_cells(notebook: dict, namespace: dict) -> None:
    """Execute the cells that are not exported; a shape may be broken where an error is shown."""
    for cell in rules.code_cells(notebook):
        source, options = cell["source"], rules.options(cell)
        if any(line.split()[0] in ("export", "exporti", "default_exp") for line in options) or "eval: false" in options:
            continue
        try:
            exec(compile(source, f"cell starting {source[:50]!r}", "exec"), namespace)
        except jaxtyping.TypeCheckError:
            if "Error" not in source and "refused" not in source:
                raise


def main(path: Path) -> int:
    """Check one chapter; how often shapes were checked."""
    import importlib

    import matplotlib

    matplotlib.use("Agg")
    notebook = rules.read_notebook(path)
    with jaxtyping.install_import_hook("nsf_nb", "shape_check.arrays_only"):
        module = importlib.import_module(f"nsf_nb.{rules.exported_module(notebook)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_cells(notebook, dict(vars(module)))
    return sys.modules["shape_check"].CHECKED[0]


if __name__ == "__main__":
    import shape_check  # the hook imports this file by name: one counter, not two

    print("CHECKED", shape_check.main(Path(sys.argv[1])))
