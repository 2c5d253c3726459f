"""The suggested numbers of factors: true ones are found, work is kept, and bad input is refused before any work."""

import numpy as np
import pytest

import nsf_nb as nsf
from nsf_nb import choose_factors
from nsf_nb.choose_factors import suggest_factors
from nsf_nb.core import ConfigError, DataError

HOW = {"layer": "counts", "n_factors": [4, 5, 6, 7, 8], "n_seeds": 1}


@pytest.fixture(scope="module")
def adata():
    """Four spatial factors and two without space, two of them in every gene, so that L = 6 and T = 4."""
    return nsf.simulate("ggblocks", 60, 2, n_features_mixed=60, n_side=24, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the pieces are."""
    return tmp_path_factory.mktemp("suggest") / "work"


@pytest.fixture(scope="module")
def found(adata, folder):
    """A suggestion, made once."""
    return suggest_factors(adata, **HOW, folder=folder)


def test_true_numbers_are_found(found):
    assert (found.n_factors, found.n_spatial) == (6, 4)
    chosen = found.table[found.table["chosen"] & (found.table["hold_out"] == "both")]
    assert chosen["stage"].tolist() == ["factors", "spatial"]
    assert chosen["n_factors"].tolist() == [6, 6] and chosen["n_spatial"].iloc[1] == 4
    assert "n_factors=6, n_spatial=4" in repr(found) and all(line in repr(found) for line in found.reason)
    assert (found.table["difference"].groupby([found.table["stage"], found.table["hold_out"]]).min() == 0).all()


def test_a_second_call_fits_nothing_and_says_the_same(adata, folder, found, monkeypatch):
    def no_fit(*_):
        raise AssertionError("a fit")

    for name in ("fit", "fit_from", "nested_deviance"):
        monkeypatch.setattr(choose_factors, name, no_fit)
    again = suggest_factors(adata, **HOW, folder=folder)
    assert again.table.equals(found.table) and again.reason == found.reason


def test_what_was_interrupted_goes_on_with_the_same_numbers(adata, folder, found, tmp_path, monkeypatch):
    true, calls = choose_factors.fit_from, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true(*args)

    monkeypatch.setattr(choose_factors, "fit_from", interrupted)
    verbosity, progress = nsf.settings.verbosity, nsf.settings.progress
    with pytest.raises(KeyboardInterrupt):
        suggest_factors(adata, **HOW, folder=tmp_path / "work")
    assert len(list((tmp_path / "work").glob("random-0-L*.json"))) == 3  # the first fit, and two warm ones
    assert (nsf.settings.verbosity, nsf.settings.progress) == (verbosity, progress)
    again = suggest_factors(adata, **HOW, folder=tmp_path / "work")
    assert len(calls) == 3 + 2 * 4 - 2
    assert again.table.drop(columns="seconds").equals(found.table.drop(columns="seconds"))


def test_another_folder_is_refused(adata, folder, found, tmp_path):
    with pytest.raises(ConfigError, match="random_state"):
        suggest_factors(adata, **HOW, folder=folder, random_state=1)
    with pytest.raises(ConfigError, match="another data"):
        suggest_factors(adata[::-1], **HOW, folder=folder)
    (tmp_path / "letter.txt").write_text("not mine")
    with pytest.raises(ConfigError, match="other files"):
        suggest_factors(adata, **HOW, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("change", [
    {"n_factors": [0, 2]}, {"n_factors": []}, {"n_factors": [2.5]}, {"n_factors": [10**4]}, {"n_seeds": 0},
    {"n_seeds": 4, "n_folds": 3}, {"n_folds": 1}, {"likelihood": "gaussian"}, {"max_minutes": 0}, {"max_spots": 3},
    {"folder": ""}, {"random_state": -1}, {"confirm": 1},
])
def test_bad_arguments_are_refused_before_any_work(adata, change, monkeypatch):
    monkeypatch.setattr(choose_factors, "fit", None)
    with pytest.raises(ConfigError):
        suggest_factors(adata, **{**HOW, **change})


def test_bad_data_are_refused_before_any_work(adata, monkeypatch, tmp_path):
    monkeypatch.setattr(choose_factors, "fit", None)
    with pytest.raises(DataError):
        suggest_factors(adata, layer="none", folder=tmp_path / "work")
    with pytest.raises(DataError, match="at least 20 spots"):
        suggest_factors(adata[:15], layer="counts", folder=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_no_factor_is_spatial_if_places_say_nothing(adata):
    nowhere = adata.copy()
    nowhere.obsm["spatial"] = np.random.default_rng(0).permutation(adata.obsm["spatial"])
    assert suggest_factors(nowhere, 6, layer="counts", n_seeds=1).n_spatial == 0


def test_a_part_of_the_data_is_used_and_the_time_is_kept(adata):
    how = {"layer": "counts", "n_factors": [4, 5], "n_seeds": 2, "max_minutes": 1e-6}
    found = suggest_factors(adata, **how, max_spots=300, max_features=50)
    assert any("300 spots, 50 genes and 2 hold-outs" in line and "time was up" in line for line in found.reason)
    assert found.table.query("stage == 'factors' and hold_out == 'both'")["difference"].min() == 0


def test_hybrid_fits_have_the_last_word(adata, folder, found):
    sure = suggest_factors(adata, **HOW, folder=folder, confirm=True)
    rows = sure.table[(sure.table["stage"] == "hybrid") & (sure.table["hold_out"] == "both")]
    assert sure.n_spatial == 4 and rows["n_spatial"].tolist() == [3, 4, 5] and rows["chosen"].sum() == 1
