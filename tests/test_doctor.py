"""The doctor in a fit: one table of warnings, refusals before any work, at next to no cost; and nothing is changed."""

import json
import logging
import time

import numpy as np
import pytest
from conftest import ROOT

import nsf_nb as nsf
from nsf_nb.core import ConfigError, DataError, DivergenceError

FAST = {"n_starts": 1, "max_iter": 3, "n_inducing": 30}


@pytest.fixture
def tissue():
    """A small tissue with an empty spot and one that is far away."""
    adata = nsf.simulate("quilt", n_side=12, n_features=20, seed=1)
    adata.layers["counts"] = np.array(adata.layers["counts"], dtype=float)
    adata.layers["counts"][5] = 0
    adata.obsm["spatial"][7] = 900, -40
    return adata


@pytest.fixture
def no_work(monkeypatch):
    """A fit may not begin."""
    from nsf_nb.inference.records import Diary

    def refuse(*args, **kwargs):
        raise AssertionError("the fit has begun")

    monkeypatch.setattr(Diary, "__init__", refuse)


def test_warnings_are_one_table(tissue, caplog):
    with caplog.at_level(logging.WARNING, "nsf_nb"):
        nsf.NSF(3, **FAST).fit(tissue, layer="counts")
    [table] = [record.getMessage() for record in caplog.records if "Diagnosis" in record.getMessage()]
    assert table.startswith("Diagnosis: 2 warnings\n") and "note" not in table
    assert "empty spots" in table and "outlying spots" in table


def test_good_data_say_nothing(caplog):
    adata = nsf.simulate("quilt", n_side=12, n_features=20, seed=1)
    with caplog.at_level(logging.WARNING, "nsf_nb"):
        nsf.NSF(3, **FAST).fit(adata, layer="counts")
    assert not [record for record in caplog.records if "Diagnosis" in record.getMessage()]


def test_refusals_come_before_any_work(tissue, no_work, caplog):
    tissue.layers["zeros"] = 0 * tissue.layers["counts"]
    with pytest.raises(ConfigError, match="n_factors of at most 20"):
        nsf.NSF(21, **FAST).fit(tissue, layer="counts")
    with pytest.raises(DataError, match="zeros only"):
        nsf.PNMF(3).fit(tissue, layer="zeros")
    assert "Diagnosis" not in caplog.text  # an error, and no table of warnings on top of it


def test_nothing_is_changed(tissue):
    before = tissue.copy()
    nsf.check(tissue, nsf.NSF(3), layer="counts", size_factors="scanpy")
    assert np.array_equal(before.layers["counts"], tissue.layers["counts"]) and before.uns.keys() == tissue.uns.keys()
    assert np.array_equal(before.obsm["spatial"], tissue.obsm["spatial"]) and list(before.obs) == list(tissue.obs)


def test_the_logger_is_as_before(tissue):
    filters = list(logging.getLogger("nsf_nb").filters)
    nsf.check(tissue, nsf.NSF(3), layer="counts")
    nsf.check(None)
    assert logging.getLogger("nsf_nb").filters == filters


def test_a_diverging_fit_is_explained(tissue, monkeypatch):
    import nsf_nb.factorization as home

    def diverge(*args):
        raise DivergenceError("Expected a finite bound, found nan. Check the counts.")

    monkeypatch.setattr(home, "run_with_care", diverge)
    with pytest.raises(DivergenceError, match="finite bound.* Diagnosis: .*empty spots") as caught:
        nsf.NSF(3, **FAST).fit(tissue, layer="counts")
    assert caught.value.diagnosis.worst == "warning"


def test_its_part_of_a_fit_is_small():
    from nsf_nb.doctor import diagnose

    adata = nsf.simulate("quilt", n_features=200, seed=1)
    model = nsf.NSF(4, random_state=0).fit(adata, layer="counts")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        diagnose(model.plan(), model.data_, quick=True)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.01 * model.seconds_


@pytest.mark.parametrize("change, few, many", [
    ({"n_inducing": 100}, 0.2, 0.9), ({"n_factors": 2}, 0.1, 0.95), ({"n_starts": 1}, 0.5, 1.0),
    ({"inference": "svi"}, 1.0, 1e3), ({"max_iter": 20}, 0.1, 0.95),
])
def test_predictions_follow_the_settings(change, few, many, monkeypatch):
    """Time of a fit in relation to that of ten factors on a thousand inducing points, on a machine of a round speed."""
    from nsf_nb.inference import costs
    from nsf_nb.inference.machine import Speed

    monkeypatch.setattr(costs, "measured_speed", lambda: Speed(1e11, 1e9))
    adata = nsf.simulate("quilt", n_side=48, n_features=100, seed=1)
    plain = {"n_factors": 10, "n_inducing": 1000}
    one = nsf.check(adata, nsf.NSF(**plain), layer="counts").costs
    other = nsf.check(adata, nsf.NSF(**plain | change), layer="counts").costs
    assert few < other.total_seconds / one.total_seconds < many
    if change.keys() & {"n_inducing", "n_factors"}:
        assert other.total_memory < one.total_memory


def test_memory_is_predicted_within_a_factor_of_two(run_tool):
    done = run_tool(["python", ROOT / "benchmarks" / "doctor.py", "short", "--json"])
    assert done.returncode == 0, done.stderr
    assert 0.5 < json.loads(done.stdout)["ratio MB"] < 2


def test_as_json_and_html(tissue):
    found = nsf.check(tissue, nsf.NSF(3), layer="counts")
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["worst"] == "warning" and len(plain["findings"]) == len(found.findings)
    assert sum(plain["memory"].values()) == found.costs.total_memory
    page = found._repr_html_()
    assert page.count("<tr") == len(found.findings) + 1 and "..." not in page
    order = [["error", "warning", "note"].index(one.severity) for one in found.findings]
    assert order == sorted(order) and found.table()["what"].tolist() == [one.what for one in found.findings]
