"""Benchmarks are run by hand: nothing else would notice one that cannot even begin, or a table that has rotted."""

import csv
import datetime
import importlib
import itertools
import runpy

import numpy as np
import pytest
from conftest import ROOT

FOLDER = ROOT / "benchmarks"
TABLE = ROOT / "nbs" / "8_studies" / "scaling.csv"
TINY = {
    "kind": "fit", "vary": {"n_obs": [60]}, "n_features": 12, "n_factors": 2, "n_inducing": 15, "nonzero": 0.6,
    "fit": {"n_starts": 1, "max_iter": 6, "tol": 1e-12},
}


@pytest.fixture
def script(monkeypatch):
    """A benchmark by name, as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))
    found = runpy.run_path(str(script), run_name="benchmark")
    assert found["__doc__"] and "python benchmarks/" in found["__doc__"], "it says how it is run"
    assert callable(found["main"])


def test_suites_are_complete(script):
    suites = script("suites")
    found = suites.read_suites()
    assert {"quick", "spots", "genes", "factors", "inducing", "peak", "peers"} <= set(found)
    for name, cases in found.items():
        assert cases and len({case["case"] for case in cases}) == len(cases), name
        for case in cases:
            assert set(case) == {*suites.KEYS[case["kind"]], "suite", "case", "kind"}
    sizes = [case["n_obs"] for case in found["spots"]]
    assert sizes == [10**3, 10**4, 10**5, 10**6]
    assert len({case["n_factors"] for case in found["spots"]}) == 1, "only one size varies"


def test_a_key_that_nobody_reads_is_refused(script):
    with pytest.raises(ValueError, match="no key n_spots; there is n_obs"):
        script("suites").expand("wrong", TINY | {"vary": {"n_spots": [60]}})


def test_a_tiny_case_runs_from_end_to_end(script, tmp_path):
    suites = script("suites")
    (case,) = suites.expand("tiny", TINY)
    rows = [row | {"date": "2026-01-01T00:00+00:00"} for row in suites.run(case)]
    suites.append(rows, tmp_path / "table.csv")
    suites.append(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == suites.COLUMNS and first == second
    assert (first["N"], first["J"], first["L"], first["M"], first["n_iter"]) == ("60", "12", "2", "15", "6")
    numbers = ["seconds", "per_sweep", "per_refresh", "per_pass", "sweeps", "peak_mb", "peak_gflops", "memory_gb"]
    assert all(float(first[name]) > 0 for name in numbers)
    assert float(first["per_sweep"]) < float(first["sweeps"]) < float(first["seconds"])
    assert float(first["before_mb"]) <= float(first["peak_mb"])


def test_a_case_that_is_too_slow_says_so(script):
    suites = script("suites")
    (case,) = suites.expand("late", {"kind": "peer", "vary": {"method": ["nmf"]}, "data": "quilt", "limit": 0.01})
    (row,) = suites.run(case)
    assert row["method"] == "nmf" and row["converged"] is False and row["seconds"] == 0.02 and "deviance" not in row


def test_a_table_of_other_columns_is_left_alone(script, tmp_path):
    (tmp_path / "other.csv").write_text("fit,seconds\n")
    with pytest.raises(ValueError, match="other columns"):
        script("suites").append([], tmp_path / "other.csv")


def test_the_stored_table_belongs_to_the_suites(script):
    suites = script("suites")
    known = {(name, case["case"]): case["kind"] for name, cases in suites.read_suites().items() for case in cases}
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    assert rows and tuple(rows[0]) == suites.COLUMNS
    for row in rows:
        assert known[row["suite"], row["case"]] == row["kind"]
        assert datetime.datetime.fromisoformat(row["date"]).tzinfo and row["seconds"]
        if row["kind"] == "peak":
            assert row["part"] in script("peak").PHASES and 0 < float(row["share"]) < 2
        if row["kind"] == "peer":
            assert row["method"] in script("peers").METHODS and row["part"] in ("look", "end")
        if row["kind"] == "fit" and row["peak_mb"]:
            assert float(row["N"]) > 0 and float(row["per_sweep"]) > 0


def test_operations_are_those_that_are_executed(script):
    n, m, l = 50, 40, 3
    counted = script("peak").operations(n, m, 7, l)
    edges = [m * i // 4 for i in range(5)]
    bands = sum(2.0 * (high - low) * high * n for low, high in itertools.pairwise(edges))
    assert counted["explained"] == bands < counted["gram"] == 2.0 * n * m**2
    assert counted["refresh"] > sum(counted[name] for name in ("gram", "cholesky", "explained"))
    assert script("peak").operations(n, m, 7, l, "nb")["pass"] == 2 * counted["pass"] == 12.0 * n * 7 * l


def test_a_rectified_gaussian_has_the_mean_that_it_says(script):
    mean, sd = np.array([-2.0, 0.0, 0.5, 3.0]), np.array([1.0, 2.0, 0.0, 0.5])
    draws = mean + sd * np.random.default_rng(0).normal(size=(400_000, 4))
    found = script("peer_mofaflex").rectified(mean, sd)
    np.testing.assert_allclose(found, np.maximum(draws, 0).mean(axis=0), atol=5e-3)
