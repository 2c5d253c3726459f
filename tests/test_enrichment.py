"""Genes and cell types: files of sets, what a fit says of genes, overlap, enrichment, and how they are drawn."""

import gzip
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsf_nb.core import ConfigError, DataError, NotFittedError
from nsf_nb.estimators import NSF
from nsf_nb.reading.gene_weights import GeneWeights, gene_weights, signed_weights, top_genes
from nsf_nb.reading.interpret import interpret
from nsf_nb.reading.markers import gene_sets_of, positions_of, read_gmt, read_markers


@pytest.fixture
def said(caplog, monkeypatch):
    """Messages of the package."""
    monkeypatch.setattr(logging.getLogger("nsf_nb"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def fit_of(factors, loadings, names=None):
    """A model with tables, as a fit leaves them."""
    factors, loadings = np.asarray(factors, dtype=float), np.asarray(loadings, dtype=float)
    columns = [f"F{k + 1}" for k in range(factors.shape[1])]
    names = [f"g{j + 1}" for j in range(len(loadings))] if names is None else names
    tables = {"factors_": pd.DataFrame(factors, columns=columns), "loadings_": pd.DataFrame(loadings, names, columns)}
    return SimpleNamespace(**tables)


# Files


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
def test_gmt_is_read_in_every_form(tmp_path, end, bom, packed):
    lines = ["# comment", "A\tdescription\tx\ty\tx\t\t", "", "  ", "B B\t\tz z", "empty\t-"]
    raw = (bom + end.join(lines)).encode()
    path = tmp_path / ("s.gmt.gz" if packed else "s.gmt")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    expected = [["A", "x"], ["A", "y"], ["B B", "z z"]]
    for table in (read_gmt(path), read_gmt(str(path)), gene_sets_of(path)):
        assert table.columns.tolist() == ["set", "gene"] and table.values.tolist() == expected


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"A\t-\tx\nonly\n", ["line 2", "'only'", "tabs"]),
        (b"A\t-\tx\n\n\t-\ty\n", ["line 3", "name"]),
        (b"", ["none"]),
        (b"A\t-\n", ["none"]),
        (b"A\t-\t\xff\xfe", ["UTF-8", "byte 4"]),
        (gzip.compress(b"A\t-\tx\n" * 99)[:20], ["damaged"]),
    ],
)
def test_bad_gmt_names_file_and_line(tmp_path, raw, words):
    path = tmp_path / "s.gmt"
    path.write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_gmt(path)
    assert all(word in str(error.value) for word in [*words, str(path)]), error.value


def test_a_repeated_set_is_joined_and_said(tmp_path, said):
    path = tmp_path / "s.gmt"
    path.write_text("A\t-\tx\nB\t-\ty\nA\t-\tx\tz\n")
    assert read_gmt(path).values.tolist() == [["A", "x"], ["B", "y"], ["A", "z"]]
    assert any("line 3" in text and "'A'" in text and "line 1" in text for text in said())


def test_no_file_no_folder_no_address(tmp_path):
    for path, word in ((tmp_path, "a folder"), (tmp_path / "x", "nothing"), ("https://x.org/s.gmt", "an address")):
        for read in (read_gmt, read_markers):
            with pytest.raises(DataError, match=word):
                read(path)


PANGLAO = pd.DataFrame(
    {
        "species": ["Mm Hs", "Hs", "Mm", "Mm Hs", "Mm"],
        "official gene symbol": ["MBP", "MBP", " AQP4 ", "INS", ""],
        "cell type": ["Oligodendrocytes", "Oligodendrocytes", "Astrocytes", "Beta cells", "Astrocytes"],
        "organ": ["Brain", "Brain", "Brain", "Pancreas", "Brain"],
        "sensitivity_mouse": ["0.9", "", "NA", "0.5", "1"],
        "sensitivity_human": ["0.1", "0.8", "", "0.7", "1"],
    }
)


@pytest.mark.parametrize("sep, name", [("\t", "m.tsv"), (",", "m.csv"), (";", "m.txt"), ("\t", "m.tsv.gz")])
def test_marker_tables_of_every_form(tmp_path, sep, name):
    PANGLAO.to_csv(tmp_path / name, sep=sep, index=False)
    before = PANGLAO.copy()
    for source in (tmp_path / name, PANGLAO):
        assert read_markers(source)["gene"].tolist() == ["MBP", "AQP4", "INS"]
        assert read_markers(source, species="Mm", organ="brain")["gene"].tolist() == ["MBP", "AQP4"]
        assert read_markers(source, species="hs", organ="Brain")["gene"].tolist() == ["MBP"]
        assert read_markers(source, species="Mm", min_sensitivity=0.6)["gene"].tolist() == ["MBP"]
        assert read_markers(source, min_sensitivity=0.7, sensitivity_column="sensitivity_human")["gene"].tolist() == [
            "MBP", "INS"]
    pd.testing.assert_frame_equal(PANGLAO, before)


def test_a_separator_at_the_end_of_lines_shifts_no_column(tmp_path):
    (tmp_path / "m.tsv").write_text("cell type\tofficial gene symbol\nA\tx\t\nB\ty\t\n")
    assert read_markers(tmp_path / "m.tsv").values.tolist() == [["A", "x"], ["B", "y"]]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"cell_type": "type"}, DataError, ["'type'", "'cell type'"]),
        ({"organ": "Liver"}, DataError, ["'Liver'", "'Brain'", "'Pancreas'"]),
        ({"species": "Mm", "organ": "Pancreas", "min_sensitivity": 0.6}, DataError, ["none"]),
        ({"min_sensitivity": 0.5}, ConfigError, ["species=None"]),
        ({"species": "Mm", "min_sensitivity": 2}, ConfigError, ["min_sensitivity"]),
    ],
)
def test_bad_marker_arguments_say_what_there_is(options, error, words):
    with pytest.raises(error) as raised:
        read_markers(PANGLAO, **options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_sets_from_dicts_and_frames():
    table = read_markers({"A": ["x", "x", " y ", None], "B": {"b", "a"}, "C": np.array(["z"]), "D": []})
    assert table.values.tolist() == [["A", "x"], ["A", "y"], ["B", "a"], ["B", "b"], ["C", "z"]]
    assert gene_sets_of(table).equals(table) and gene_sets_of(PANGLAO).equals(read_markers(PANGLAO))
    for bad in ({"A": "Mbp"}, {"A": 3}, {}, {"A": []}, 7, ["Mbp"], pd.DataFrame({"gene": ["x"]})):
        with pytest.raises(DataError):
            gene_sets_of(bad)


def test_dates_among_genes_are_said(said):
    read_markers({"A": ["Mbp", "2-Sep", "Mar-01", "H2-Ab1", "Sept2"]})
    assert any("2-Sep, Mar-01)" in text for text in said())


# Which genes a fit has


def test_case_is_an_explicit_choice(said):
    sets = read_markers({"A": ["MBP", "Ttr"], "B": ["mbp", "nowhere"]})
    names = ["Ttr", "Mbp", "MBP", "x"]
    exact, case = positions_of(sets, names), positions_of(sets, names, "case")
    assert {k: v.tolist() for k, v in exact.items()} == {"A": [0, 2], "B": []}
    assert {k: v.tolist() for k, v in case.items()} == {"A": [0, 1, 2], "B": [1, 2]}
    assert not said()
    with pytest.raises(ConfigError, match="'exact', 'case'"):
        positions_of(sets, names, "lower")


def test_nothing_in_common_is_an_error_that_shows_both_sides():
    sets = read_markers({"A": ["MBP", "PLP1", "MOG", "CNP"]})
    with pytest.raises(DataError, match="begins with Mbp, Plp1, x, the sets with MBP, PLP1, MOG.*which finds 2"):
        positions_of(sets, ["Mbp", "Plp1", "x", "y"])
    for match in ("exact", "case"):
        with pytest.raises(DataError, match="ENSMUSG01.*names of one kind"):
            positions_of(sets, ["ENSMUSG01", "ENSMUSG02"], match)


def test_little_in_common_is_a_warning(said):
    few = read_markers({"A": [f"a{i}" for i in range(30)]})
    positions_of(few, [f"b{i}" for i in range(30)] + ["a1", "a2", "a3"])
    assert not said()
    positions_of(few, [f"b{i}" for i in range(30)] + ["a1", "a2"])
    assert len(said()) == 1 and "found 2 in common" in said()[0]
    positions_of(read_markers({"A": ["a", "b", "C"]}), ["A", "B", "C"])
    assert len(said()) == 2 and "match='case', which finds 3" in said()[1]


# What a fit says of genes

FACTORS = np.array([[1.0, 2.0], [3.0, 0.0]])  # sums 4 and 2
LOADINGS = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 2.0]])  # rates 4, 4; 12, 0; 0, 4


def test_weights_by_hand():
    fit = gene_weights(fit_of(FACTORS, LOADINGS))
    assert fit.factor_names == ("F1", "F2") and fit.feature_names == ("g1", "g2", "g3") and not fit.signed
    assert np.allclose(fit.weight, [[4 / 16, 4 / 8], [12 / 16, 0], [0, 4 / 8]])
    assert np.allclose(fit.specificity, [[1 / 2, 1 / 2], [1, 0], [0, 1]])
    assert fit.first(1, by="specificity").tolist() == [2, 0] and fit.first(0, 1).tolist() == [1]


def test_weights_of_a_fit_with_signs_by_hand():
    factors, loadings = [[-1.0, 2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, 5.0]], [[-2.0, 1.0], [0.0, 0.0], [1.0, -2.0]]
    fit = gene_weights(fit_of(factors, loadings))
    spread = np.sqrt(27 / 16)
    assert fit.signed and fit.factor_names == ("F2", "F1")
    assert np.allclose(fit.weight, [[spread, -2], [0, 0], [-2 * spread, 1]])
    assert np.allclose(fit.specificity[0], [27 / 91, 64 / 91]) and not fit.specificity[1].any()
    assert fit.first(0).tolist() == [2, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_shares_sum_to_one_or_are_zero(seed, signed):
    rng = np.random.default_rng(seed)
    factors, loadings = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) * (rng.random((5, 3)) < 0.5)
    if not signed:
        factors, loadings = np.abs(factors), np.abs(loadings)
    factors[:, rng.integers(3)] = 0
    fit = gene_weights(fit_of(factors, loadings))
    rows = fit.specificity.sum(axis=1)
    assert np.isfinite(fit.weight).all() and np.all(np.isclose(rows, 1) | (rows == 0)) and (fit.specificity >= 0).all()
    assert top_genes(fit, 5)["gene"].isin(fit.feature_names).all()


def test_no_fit_is_an_error():
    with pytest.raises(NotFittedError):
        gene_weights(NSF())
    with pytest.raises(DataError):
        gene_weights(None)
    with pytest.raises(ConfigError, match="by"):
        top_genes(fit_of(FACTORS, LOADINGS), by="size")


def test_reading_changes_nothing():
    model = fit_of(FACTORS, LOADINGS)
    gene_weights(model), top_genes(model), signed_weights(FACTORS, LOADINGS)
    assert np.array_equal(model.factors_, FACTORS) and np.array_equal(model.loadings_, LOADINGS)
    fit = interpret(model.factors_, model.loadings_)
    pd.testing.assert_frame_equal(top_genes(model, 2), fit.top_genes(2))
    assert isinstance(gene_weights(fit), GeneWeights)
