"""The package and the help of its command are light; every public name exists."""

import json
import time

import pytest

HEAVY = ["tensorflow", "tensorflow_probability", "tf_keras", "scanpy", "anndata", "sklearn", "pandas", "matplotlib"]
SHOW = f"print('LOADED', json.dumps([name for name in {HEAVY} if name in sys.modules]))"
IMPORT = f"import json, sys, nsf_nb; {SHOW}"
HELP = f"""
import json, sys
sys.argv = ["nsf", "--help"]
from nsf_nb.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
{SHOW}
"""


def loaded(run_tool, code):
    """Heavy packages that a fresh process has loaded after running code."""
    done = run_tool(["python", "-c", code])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("LOADED ")[2])


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import nsf_nb", "nsf --help"])
def test_light(code, run_tool):
    assert loaded(run_tool, code) == []


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import nsf_nb", "nsf --help"])
def test_below_one_second(code, run_tool):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run_tool(["python", "-c", code]).returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_a_heavy_import_is_noticed(house_copy, run_tool):
    module = house_copy / "nsf_nb" / "__init__.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nimport pandas\n", encoding="utf-8")
    done = run_tool(["python", "-c", IMPORT], cwd=house_copy)
    assert "pandas" in done.stdout


def test_every_public_name_exists(run_tool):
    code = """
import nsf_nb
missing = {}
for name in nsf_nb.__all__:
    try:
        getattr(nsf_nb, name)
    except Exception as err:
        missing[name] = repr(err)
assert not missing, missing
assert callable(nsf_nb.report) and callable(nsf_nb.simulate)
"""
    done = run_tool(["python", "-c", code])
    assert done.returncode == 0, done.stderr[-3000:]
