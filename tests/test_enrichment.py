"""Genes and cell types: files of sets, what a fit says of genes, overlap, enrichment, and how they are drawn."""

import gzip
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nsf_nb.core import ConfigError, DataError, NotFittedError
from nsf_nb.data.anndata import write_results
from nsf_nb.estimators import NSF
from nsf_nb.reading.dot_plot import diameter_of, enrichment_dots, gene_dots
from nsf_nb.reading.enrichment import (
    jaccard,
    log_odds,
    marker_overlap,
    over_representation,
    t_scores,
    ulm,
    upper_tail,
)
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
        (gzip.compress(b"A\t-\tx\n" * 99, mtime=0)[:20], ["damaged"]),
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


# Overlap


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_agree_with_fisher_and_with_sets(data):
    size = data.draw(st.integers(2, 40))
    top, members = (data.draw(st.sets(st.integers(0, size - 1))) for _ in range(2))
    k, n, m = (np.array([len(x)]) for x in (top & members, top, members))
    table = [[len(top & members), len(top - members)], [len(members - top), size - len(top | members)]]
    assert np.isclose(upper_tail(k, n, m, size), stats.fisher_exact(table, alternative="greater")[1])
    assert jaccard(k, n, m) == len(top & members) / max(len(top | members), 1)
    (a, b), (c, d) = np.array(table) + 0.5
    assert np.isclose(log_odds(k, n, m, size), np.log(a * d / (b * c)))


def test_overlap_by_hand():
    """Three genes, two factors: the first gene of each is g2 and g3 by either number."""
    table = marker_overlap(fit_of(FACTORS, LOADINGS), {"A": ["g2", "g1"], "B": ["g3", "absent"], "C": ["absent"]}, 1)
    assert table.columns.tolist() == [
        "factor", "set", "jaccard", "p_value", "q_value", "overlap", "n_top", "n_set", "genes"]
    assert table[["factor", "set"]].values.tolist() == [["F1", "A"], ["F1", "B"], ["F2", "B"], ["F2", "A"]]
    assert np.allclose(table["jaccard"], [1 / 2, 0, 1, 0]) and np.allclose(table["p_value"], [2 / 3, 1, 1 / 3, 1])
    assert np.allclose(table["q_value"], [1, 1, 1, 1]) and table["genes"].tolist() == ["g2", "", "g3", ""]
    assert table["overlap"].tolist() == [1, 0, 1, 0] and table["n_set"].tolist() == [2, 1, 1, 2]


def random_fit(seed=0, n_genes=60, signed=False):
    """A model of sparse loadings with a gene and a factor without weight, and four sets of its genes."""
    rng = np.random.default_rng(seed)
    loadings = rng.gamma(0.5, size=(n_genes, 4)) * (rng.random((n_genes, 4)) < 0.7)
    loadings *= np.where(rng.random((n_genes, 4)) < 0.5, -1, 1) if signed else 1
    loadings[3], loadings[:, 2] = 0, 0
    model = fit_of(rng.gamma(1, size=(30, 4)), loadings)
    names = model.loadings_.index
    return model, {f"S{s}": [*rng.choice(names, 12, replace=False), f"other{s}"] for s in range(4)}


def test_by_is_the_ranking_that_is_counted():
    model, sets = random_fit()
    for by in ("weight", "specificity"):
        tops = top_genes(model, 9, by).groupby("factor")["gene"].apply(list)
        for row in marker_overlap(model, sets, 9, by).itertuples():
            common = [gene for gene in tops.get(row.factor, []) if gene in sets[row.set]]
            assert row.genes == ", ".join(common) and row.overlap == len(common) and row.n_set == 12


def test_the_tables_agree_and_are_sorted():
    model, sets = random_fit(5)
    overlap, odds = marker_overlap(model, sets, 15), over_representation(model, sets, 15)
    both = overlap.merge(odds, on=["factor", "set"])
    assert np.allclose(both["p_value_x"], both["p_value_y"]) and np.allclose(both["q_value_x"], both["q_value_y"])
    for table in (overlap, odds, ulm(model, sets)):
        assert list(dict.fromkeys(table["factor"])) == list(gene_weights(model).factor_names) and len(table) == 16
        column, sign = ("score", -1) if "n_top" not in table else ("p_value", 1)
        assert table.groupby("factor")[column].apply(lambda x, sign=sign: (sign * x).is_monotonic_increasing).all()
        q = stats.false_discovery_control(table["p_value"])
        assert np.allclose(table["q_value"], q) and not table.isna().any(axis=None)
        assert table["p_value"].between(0, 1).all()


def test_a_background_is_what_could_have_been_found():
    model, sets = random_fit(1)
    names = list(model.loadings_.index)
    default = over_representation(model, sets, 10)
    pd.testing.assert_frame_equal(over_representation(model, sets, 10, background=names[::-1]), default)
    wide = over_representation(model, sets, 10, background=[*names, *(f"other{i}" for i in range(40))])
    assert set(wide["n_set"]) == {13}
    k, n, m = (wide[name].to_numpy() for name in ("overlap", "n_top", "n_set"))
    assert np.allclose(wide["p_value"], stats.hypergeom.sf(k - 1, 100, m, n))
    half = names[:30]
    narrow = over_representation(model, sets, 10, background=half, min_size=1)
    tops = top_genes(model, 60, "specificity").groupby("factor")["gene"].apply(list)
    for row in narrow.itertuples():
        top = [gene for gene in tops.get(row.factor, []) if gene in half]
        assert row.genes == ", ".join(gene for gene in top[:10] if gene in sets[row.set])
        assert row.n_set == len(set(half) & set(sets[row.set]))
    for bad, error in (("g1", ConfigError), (["x", "y"], DataError), ([], DataError)):
        with pytest.raises(error, match="background"):
            over_representation(model, sets, 10, background=bad)


def test_sets_of_the_wrong_size_are_left_out_and_named(said):
    model, sets = random_fit()
    sets |= {"tiny": ["g1", "g2"], "all": list(model.loadings_.index)}
    assert "tiny" not in set(over_representation(model, sets, 10)["set"])
    found = set(ulm(model, sets)["set"])
    assert found == {"S0", "S1", "S2", "S3"} and "tiny" in set(marker_overlap(model, sets, 10)["set"])
    assert any("tiny" in text for text in said())
    with pytest.raises(DataError, match="min_size"):
        ulm(model, {"tiny": ["g1", "g2"]})
    with pytest.raises(DataError, match="fewer than 60"):
        ulm(model, {"all": list(model.loadings_.index)})


def test_case_reaches_every_function():
    model, sets = random_fit(2)
    upper = {name: [gene.upper() for gene in genes] for name, genes in sets.items()}
    for function, options in ((marker_overlap, {"n_genes": 9}), (over_representation, {"n_genes": 9}), (ulm, {})):
        with pytest.raises(DataError, match="match='case'"):
            function(model, upper, **options)
        pd.testing.assert_frame_equal(function(model, upper, match="case", **options), function(model, sets, **options))
    background = [f"G{i + 1}" for i in range(60)]
    found = over_representation(model, upper, 9, match="case", background=background)
    assert found["p_value"].tolist() == over_representation(model, sets, 9)["p_value"].tolist()


# The linear model


@pytest.mark.parametrize("seed, signed", [(0, False), (1, False), (2, True)])
def test_ulm_is_a_linear_regression(seed, signed):
    """The oracle solves the normal equations itself."""
    model, sets = random_fit(seed, signed=signed)
    fit, table = gene_weights(model), ulm(model, sets)
    assert fit.signed == signed
    for row in table.itertuples():
        k = fit.factor_names.index(row.factor)
        y = fit.specificity[:, k] * (np.sign(fit.weight[:, k]) if signed else 1)
        X = np.column_stack([np.ones(60), np.isin(fit.feature_names, sets[row.set])])
        if not y.any():
            assert (row.score, row.p_value) == (0, 1)
            continue
        beta = np.linalg.solve(X.T @ X, X.T @ y)
        variance = np.sum((y - X @ beta) ** 2) / 58 * np.linalg.inv(X.T @ X)[1, 1]
        assert np.isclose(row.score, beta[1] / np.sqrt(variance)) and row.overlap == 12
        assert np.isclose(row.p_value, 2 * stats.t.sf(abs(row.score), 58))


def test_ulm_takes_no_notice_of_shift_and_scale_and_of_what_is_first():
    rng = np.random.default_rng(0)
    values, members = rng.random((30, 3)), {"A": np.array([1, 2]), "B": np.arange(29)}
    scores = t_scores(values, members)
    assert scores.shape == (3, 2) and np.allclose(t_scores(7 * values - 3, members), scores)
    turned = {name: 29 - rows for name, rows in members.items()}
    assert np.allclose(t_scores(values[::-1], turned), scores)
    assert not t_scores(np.ones((30, 3)), members).any()


def test_q_values_of_decoupler_are_those_of_one_factor():
    import decoupler

    model, sets = random_fit(3)
    fit, table = gene_weights(model), ulm(model, sets)
    net = pd.DataFrame([(name, gene) for name in sets for gene in sets[name]], columns=["source", "target"])
    live = [k for k in range(4) if fit.weight[:, k].any()]
    mat = pd.DataFrame(fit.specificity.T[live], [fit.factor_names[k] for k in live], fit.feature_names)
    scores, adjusted = decoupler.mt.ulm(mat, net, empty=False)
    for factor, rows in table.groupby("factor"):
        if factor in mat.index:
            assert np.allclose(scores.loc[factor, rows["set"]], rows["score"])
            assert np.allclose(adjusted.loc[factor, rows["set"]], stats.false_discovery_control(rows["p_value"]))


def test_ulm_lists_the_most_specific_genes():
    model, sets = random_fit(4)
    tops = top_genes(model, 60, "specificity").groupby("factor")["gene"].apply(list)
    for row in ulm(model, sets, n_listed=3).itertuples():
        assert row.genes == ", ".join([gene for gene in tops.get(row.factor, []) if gene in sets[row.set]][:3])


@pytest.mark.parametrize("found", [None, SimpleNamespace(__version__="1.8.0")])
def test_without_decoupler_only_ulm_is_refused(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "decoupler", found)
    model, sets = random_fit()
    assert len(marker_overlap(model, sets, 9)) == len(over_representation(model, sets, 9)) == 16
    with pytest.raises(ConfigError, match=r"pip install 'nsf_nb\[enrichment\]'"):
        ulm(model, sets)


OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
import nsf_nb.reading.enrichment as enrichment
assert "decoupler" not in sys.modules
found = enrichment.t_scores(np.random.default_rng(0).random((20, 2)), {"A": np.arange(5)})
assert found.shape == (2, 1) and "decoupler" in sys.modules
"""


def test_nothing_asks_the_network_and_decoupler_waits_until_it_is_needed(run_tool):
    done = run_tool(["python", "-c", OFFLINE])
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


# Every kind of fit, and nothing is changed


def test_every_kind_of_fit_gives_the_same_tables():
    import anndata

    model, sets = random_fit(6)
    fit = interpret(model.factors_, model.loadings_)
    adata, mask = anndata.AnnData(np.ones((30, 61))), np.arange(61) != 7
    adata.var_names = [*model.loadings_.index[:7], "not fitted", *model.loadings_.index[7:]]
    stored = {"factor_names": list(model.factors_.columns)}
    write_results(adata, "mine", model.factors_, model.factors_ / 9, model.loadings_, stored, mask_var=mask)
    for function in (marker_overlap, over_representation, ulm):
        options = {} if function is ulm else {"n_genes": 9}
        expected = function(fit, sets, **options)
        pd.testing.assert_frame_equal(function(model, sets, **options), expected)
        pd.testing.assert_frame_equal(function(gene_weights(fit), sets, **options), expected)
        pd.testing.assert_frame_equal(function(adata, sets, key_added="mine", **options), expected)


def test_genes_of_one_name_stay_two():
    model = fit_of(FACTORS, LOADINGS, ["a", "b", "a"])
    table = marker_overlap(model, {"A": ["a"]}, 2)
    assert table["n_set"].tolist() == [2, 2] and table["overlap"].tolist() == [1, 2]
    assert np.isfinite(ulm(model, {"A": ["a"]}, min_size=1)["score"]).all()


def test_enrichment_changes_no_input():
    model, sets = random_fit()
    table = gene_sets_of(sets)
    kept = model.factors_.copy(), model.loadings_.copy(), table.copy(), {name: list(sets[name]) for name in sets}
    for source in (sets, table):
        marker_overlap(model, source, 9), over_representation(model, source, 9), ulm(model, source)
    pd.testing.assert_frame_equal(model.factors_, kept[0])
    pd.testing.assert_frame_equal(model.loadings_, kept[1])
    pd.testing.assert_frame_equal(table, kept[2])
    assert sets == kept[3]


@pytest.mark.parametrize("value", [0, 60, 2.5, "9"])
def test_n_genes_is_smaller_than_the_background(value):
    model, sets = random_fit()
    for function in (marker_overlap, over_representation):
        with pytest.raises(ConfigError, match="from 1 to 59 for n_genes"):
            function(model, sets, value)


# Dot plots


@pytest.fixture
def canvas(monkeypatch):
    """Draw in memory; a call of show is an error; figures are closed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("show was called"))
    yield plt
    plt.close("all")


def grid(ax):
    """Colours, diameters, rings, and names of rows and columns of a dot plot."""
    rows, columns = ([text.get_text() for text in texts] for texts in (ax.get_yticklabels(), ax.get_xticklabels()))
    dots, shape = ax.collections[0], (len(rows), len(columns))
    rings = np.broadcast_to(dots.get_linewidths(), (shape[0] * shape[1],)).reshape(shape) > 0
    return np.reshape(dots.get_array(), shape), np.reshape(dots.get_widths(), shape), rings, rows, columns


def test_gene_dots_draw_weight_and_specificity(canvas):
    model, _ = random_fit()
    fit = gene_weights(model)
    ax = gene_dots(model, ["g9", "g2", "g30"])
    colour, width, rings, rows, columns = grid(ax)
    places = [8, 1, 29]
    assert rows == ["g9", "g2", "g30"] and tuple(columns) == fit.factor_names and not rings.any()
    assert np.allclose(colour, fit.specificity[places])
    weight = fit.weight[places]
    assert np.allclose(width, 0.95 * (weight / weight.max()) ** 0.25)
    centres = ax.collections[0].get_offsets().reshape(3, 4, 2)
    assert np.array_equal(centres[0, :, 0], range(4)) and np.array_equal(centres[:, 0, 1], [2, 1, 0])
    assert np.array_equal(ax.get_yticks(), [2, 1, 0]) and ax.get_aspect() == 1


def test_genes_are_grouped_by_factor_and_drawn_once(canvas):
    model, _ = random_fit()
    for by in ("weight", "specificity"):
        rows = grid(gene_dots(model, n_genes=4, by=by))[3]
        assert rows == list(dict.fromkeys(top_genes(model, 4, by)["gene"]))
    ax = gene_dots(model, {"one": ["g1", "g2"], "two": ["g5"]})
    assert grid(ax)[3] == ["g1", "g2", "g5"] and {"one", "two"} <= {text.get_text() for text in ax.texts}
    assert [line.get_ydata()[0] for line in ax.lines] == [0.5]


def test_gene_dots_of_a_fit_with_signs(canvas):
    model, _ = random_fit(signed=True)
    fit = gene_weights(model)
    colour = grid(gene_dots(model, ["g1", "g2"]))[0]
    assert np.allclose(colour, (fit.specificity * np.sign(fit.weight))[:2]) and (colour < 0).any()
    low, high = gene_dots(model).collections[0].get_clim()
    assert low == -high


@pytest.mark.parametrize("kind", [marker_overlap, over_representation, ulm])
def test_enrichment_dots_draw_q_and_score(kind, canvas):
    model, sets = random_fit(7)
    first = top_genes(model, 12, "specificity").query("factor == 'F2'")["gene"]
    table = kind(model, sets | {"own": list(first)}, **({} if kind is ulm else {"n_genes": 12}))
    before, score = table.copy(), "jaccard" if kind is marker_overlap else "score"
    ax = enrichment_dots(table, sets=["S2", "own"], factors=["F2", "F1"], largest=4)
    colour, width, rings, rows, columns = grid(ax)
    assert rows == ["S2", "own"] and columns == ["F2", "F1"]
    cells = table.set_index(["set", "factor"])
    for r, name in enumerate(rows):
        for k, factor in enumerate(columns):
            q, value = cells.loc[(name, factor), ["q_value", score]]
            assert np.isclose(colour[r, k], value) and rings[r, k] == (q <= 0.05)
            assert np.isclose(width[r, k], 0.95 * np.sqrt(min(-np.log10(q), 4) / 4))
    assert rings[1, 0]
    pd.testing.assert_frame_equal(table, before)


def test_the_best_sets_are_drawn_and_missing_pairs_have_no_dot(canvas):
    rows = [("F1", "A", 3, 0.01), ("F1", "B", 2, 0.02), ("F1", "C", -5, 0.001), ("F2", "D", 1, 0), ("F2", "A", 1, 1)]
    table = pd.DataFrame(rows, columns=["factor", "set", "score", "q_value"])
    colour, width, rings, names, _ = grid(enrichment_dots(table, n_sets=1))
    assert names == ["A", "D"] and np.isfinite(colour).all()
    assert np.allclose(width, [[0.95 * np.sqrt(0.2), 0], [0, 0.95]]) and np.array_equal(rings, np.eye(2, dtype=bool))
    assert grid(enrichment_dots(table.assign(q_value=1.0)))[3] == ["A", "B", "C", "D"]


def test_dots_obey_the_common_arguments(tmp_path, canvas):
    model, sets = random_fit()
    table, (figure, (left, right)) = ulm(model, sets), canvas.subplots(1, 2)
    assert gene_dots(model, ax=left) is left and enrichment_dots(table, ax=right) is right
    assert canvas.get_fignums() == [figure.number]
    for draw, data in ((gene_dots, model), (enrichment_dots, table)):
        made = draw(data, return_fig=True, save=tmp_path / "x.png", cmap="magma", vmin=0, vmax=2)
        assert (tmp_path / "x.png").stat().st_size > 0 and made.axes[0].collections[0].get_clim() == (0, 2)
        assert made.axes[0].collections[0].get_cmap().name == "magma"
        with pytest.raises(ConfigError, match="folder"):
            draw(data, save=tmp_path / "none" / "x.png")
        with pytest.raises(ConfigError, match="vmax"):
            draw(data, vmax="99")
        with pytest.raises(ConfigError, match="1 axes"):
            draw(data, ax=[left, right])


def test_bad_requests_say_what_there_is(canvas):
    model, sets = random_fit()
    table = ulm(model, sets)
    for call, words in (
        (lambda: gene_dots(model, ["Mbp"]), "'g1'.*found 'Mbp'"), (lambda: gene_dots(model, []), "at least one"),
        (lambda: gene_dots(model, by="size"), "by"), (lambda: enrichment_dots(table, sets=["T"]), "'T'"),
        (lambda: enrichment_dots(table, factors=["F9"]), "'F9'"), (lambda: enrichment_dots(table, alpha=2), "alpha"),
        (lambda: enrichment_dots(table, largest=0), "largest"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
    for bad in (table.drop(columns="q_value"), table.drop(columns="score"), table.head(0), [1]):
        with pytest.raises(DataError, match="Expected a table with"):
            enrichment_dots(bad)
    with pytest.raises(DataError, match="no weights"):
        gene_dots(GeneWeights(("F1",), ("g",), np.zeros((1, 1)), np.zeros((1, 1))))
    assert not canvas.get_fignums()


def test_diameters_have_areas():
    assert np.allclose(diameter_of(np.array([[0.0, 1, 4, 9, np.nan]]), 4), [[0, 0.475, 0.95, 0.95, 0]])
    assert not diameter_of(np.zeros((2, 2)), 0).any()


def test_a_plot_of_the_same_fit_is_the_same_in_an_own_figure_and_has_keys(canvas):
    model, _ = random_fit()
    ax = gene_dots(model)
    assert {"specificity", "weight"} <= {text.get_text() for text in ax.texts} and len(ax.child_axes) == 1
    ax.figure.draw_without_rendering()
    inside = ax.get_tightbbox().padded(-2)
    box = ax.figure.bbox
    assert box.x0 <= inside.x0 and inside.x1 <= box.x1 and box.y0 <= inside.y0 and inside.y1 <= box.y1


def test_rings_are_for_q_up_to_alpha(canvas):
    table = pd.DataFrame({"factor": "F1", "set": ["A", "B"], "score": [2.0, 1.0], "q_value": [0.02, 0.03]})
    assert grid(enrichment_dots(table, alpha=0.02))[2].ravel().tolist() == [True, False]


def test_many_sets_keep_their_order():
    values = np.random.default_rng(1).random((40, 2))
    members = {f"S{s}": np.arange(s, s + 6) for s in range(12)}
    alone = np.column_stack([t_scores(values, {name: rows}) for name, rows in members.items()])
    assert np.allclose(t_scores(values, members), alone)
