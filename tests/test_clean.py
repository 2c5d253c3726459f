"""The notebooks are clean: nbdev_clean has nothing to do."""

import rules


def contents(root):
    """Relative path and content of every notebook."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in rules.notebooks(root)}


def changed_by_cleaning(house, run_tool):
    """Names of the notebooks that nbdev_clean changes."""
    before = contents(house)
    done = run_tool(["nbdev_clean", "--fname", "nbs"], cwd=house)
    assert done.returncode == 0, done.stderr
    after = contents(house)
    return [name for name in before if before[name] != after[name]]


def test_notebooks_are_clean(house_copy, run_tool):
    assert not changed_by_cleaning(house_copy, run_tool), "run make clean-notebooks"


def test_an_unclean_notebook_is_noticed(house_copy, run_tool):
    path = house_copy / "nbs" / "00_notation.ipynb"
    notebook = rules.read_notebook(path)
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["execution_count"] = 7
    rules.write_notebook(path, notebook)
    assert changed_by_cleaning(house_copy, run_tool) == ["nbs/00_notation.ipynb"]
