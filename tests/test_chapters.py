"""Every chapter runs, each in a process of its own."""

import pytest
import rules
from conftest import ROOT

SECONDS = 240  # a chapter takes less than 60 s; a busy machine gets four times that
LONGER = {"697_faults": 1500}  # it kills some eighty fits
LONGER |= dict.fromkeys(["81_slideseqv2_hippocampus", "82_visium_mouse_brain", "83_xyzeq_liver"], 900)  # tissues


def run_chapter(run_tool, path, cwd=ROOT):
    """Run one notebook; nbdev_test exits with 0 when it finds none, so its word is required as well."""
    done = run_tool(["nbdev_test", "--path", path, "--n_workers", "0"], cwd=cwd, timeout=LONGER.get(path.stem, SECONDS))
    return done.returncode == 0 and "Success" in done.stdout, done.stdout + done.stderr


@pytest.mark.notebook
@pytest.mark.parametrize("path", rules.notebooks(), ids=rules.notebook_id)
def test_chapter_runs(path, run_tool):
    passed, output = run_chapter(run_tool, path)
    assert passed, output[-6000:]


def test_a_failing_chapter_and_a_missing_one_are_noticed(house_copy, run_tool):
    path = house_copy / "nbs" / "00_notation.ipynb"
    notebook = rules.read_notebook(path)
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["source"] = "assert 1 + 1 == 3"
    rules.write_notebook(path, notebook)
    passed, output = run_chapter(run_tool, path, cwd=house_copy)
    assert not passed and "1 + 1 == 3" in output
    assert not run_chapter(run_tool, house_copy / "nbs" / "absent.ipynb", cwd=house_copy)[0]
