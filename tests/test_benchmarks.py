"""Benchmarks are run by hand, so that nothing else would notice one that cannot even begin."""

import runpy

import pytest
from conftest import ROOT


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))
    found = runpy.run_path(str(script), run_name="benchmark")
    assert found["__doc__"] and "python benchmarks/" in found["__doc__"], "it says how it is run"
    assert callable(found["main"])
