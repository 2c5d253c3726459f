"""Metrics against independent implementations, on random counts, on edge cases and on published and real tables."""

import math
import tracemalloc
import warnings
from dataclasses import astuple
from itertools import permutations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from sklearn.metrics import mean_poisson_deviance, root_mean_squared_error
from sklearn.neighbors import NearestNeighbors

from nsf_nb.core import ConfigError, DataError, ShapeError
from nsf_nb.data.counts import SpatialCounts
from nsf_nb.reading.metrics import (
    factor_correlation,
    gene_mean,
    match_factors,
    nearest_spots,
    paper_deviance,
    poisson_deviance,
    poisson_log_likelihood,
    prediction_sums,
    rmse,
    sparsity,
)

SCORES = {
    "deviance": poisson_deviance,
    "paper_deviance": paper_deviance,
    "rmse": rmse,
    "log_likelihood": poisson_log_likelihood,
}


def independent_scores(y, mu):
    """The four scores by other people's code, and the published formula by a masked array."""
    y, mu = np.asarray(y, dtype=float), np.asarray(mu, dtype=float)
    masked = np.ma.masked_equal(y, 0)
    return {
        "deviance": mean_poisson_deviance(y.ravel(), mu.ravel()),
        "paper_deviance": float((masked * np.ma.log(masked / mu)).mean() + (mu - y).mean()),
        "rmse": root_mean_squared_error(y.ravel(), mu.ravel()),
        "log_likelihood": stats.poisson.logpmf(y, mu).sum(axis=1).mean(),
    }


@pytest.fixture
def random_counts():
    rng = np.random.default_rng(3)
    mu = rng.gamma(0.7, 3.0, size=(211, 37)) + 1e-6
    return rng.poisson(mu), mu


def read(folder, name):
    """A table, its first 95 per cent of rows for training and the rest held out; real data are shuffled once."""
    import anndata

    with warnings.catch_warnings():  # some files are older than anndata's encoding marks
        warnings.filterwarnings("ignore", "Element .* was written without encoding metadata")
        table = anndata.read_h5ad(folder / f"{name}.h5ad")
    rows = np.arange(table.n_obs)
    if "spfac" not in table.obsm:
        rows = np.random.default_rng(0).permutation(table.n_obs)
    counts, coords = sp.csr_matrix(table.layers["counts"])[rows], np.asarray(table.obsm["spatial"], dtype=float)[rows]
    keep = counts.sum(axis=1).A1 > 0
    return counts[keep], coords[keep], round(0.95 * keep.sum())


def split(folder, name, rule):
    counts, coords, n = read(folder, name)
    totals = counts.sum(axis=1).A1
    s = totals / np.median(totals[:n]) if rule == "scanpy" else np.ones(len(totals))
    return SpatialCounts.build(counts[:n], coords[:n], s[:n]), counts[n:], coords[n:], s[n:]


def test_scores_agree_with_independent_implementations(random_counts):
    expected = independent_scores(*random_counts)
    for name, score in SCORES.items():
        assert score(*random_counts) == pytest.approx(expected[name], rel=1e-12), name
    assert prediction_sums(*random_counts).scores == pytest.approx(expected, rel=1e-12)


def test_scores_are_definitions_entry_by_entry():
    y, mu = [[0, 3], [1, 0]], [[0.5, 2.0], [1.5, 0.25]]
    pairs = [(a, b) for row, means in zip(y, mu, strict=True) for a, b in zip(row, means, strict=True)]
    ratio = [a * math.log(a / b) if a else 0.0 for a, b in pairs]
    assert poisson_deviance(y, mu) == pytest.approx(2 * (sum(ratio) + sum(b - a for a, b in pairs)) / 4)
    assert paper_deviance(y, mu) == pytest.approx(sum(ratio) / 2 + sum(b - a for a, b in pairs) / 4)
    assert rmse(y, mu) == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in pairs) / 4))
    logs = [a * math.log(b) - b - math.log(math.factorial(a)) for a, b in pairs]
    assert poisson_log_likelihood(y, mu) == pytest.approx(sum(logs) / 2)  # two spots


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_matrix, np.asarray])
@pytest.mark.parametrize("entries", [37, 1000, 10**6])
def test_containers_blocks_and_functions_of_rows_agree(random_counts, monkeypatch, container, entries):
    y, mu = random_counts
    whole = astuple(prediction_sums(y, mu))
    monkeypatch.setattr("nsf_nb.reading.metrics._ENTRIES", entries)
    np.testing.assert_allclose(astuple(prediction_sums(container(y), mu)), whole)
    np.testing.assert_allclose(astuple(prediction_sums(container(y), lambda rows: mu[rows])), whole)
    np.testing.assert_allclose(astuple(prediction_sums(y[:50], mu[:50]) + prediction_sums(y[50:], mu[50:])), whole)


def test_large_sparse_counts_are_never_dense_as_a_whole():
    shape = (20_000, 1000)
    counts = sp.random(*shape, density=1e-3, format="csr", random_state=0, data_rvs=lambda n: np.ones(n))
    seen = []

    def mean(rows):
        seen.extend(range(*rows.indices(shape[0])))
        return np.full((rows.stop - rows.start, shape[1]), 0.001)

    tracemalloc.start()
    deviance = poisson_deviance(counts, mean)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == list(range(shape[0]))
    assert peak < 0.5 * 8 * shape[0] * shape[1]
    assert deviance == pytest.approx(2 * 1e-3 * math.log(1 / 1e-3), rel=1e-9)


def test_edges_of_the_scores():
    y = np.array([[0, 2], [3, 0]])
    assert poisson_deviance(y, y) == 0 and rmse(y, y) == 0  # 0 log 0 = 0
    assert poisson_deviance(y, [[0.0, 0.0], [3.0, 0.0]]) == np.inf
    assert paper_deviance(y, [[0.0, 0.0], [3.0, 0.0]]) == np.inf
    assert poisson_log_likelihood(y, [[0.0, 0.0], [3.0, 0.0]]) == -np.inf
    empty = np.zeros((2, 2), dtype=int)
    assert poisson_deviance(empty, empty + 0.5) == 1.0 and paper_deviance(empty, empty + 0.5) == 0.5


def test_the_two_deviances_rank_oppositely(random_counts):
    y, mu = random_counts
    inflated = mu * y.size / np.count_nonzero(y)
    assert poisson_deviance(y, mu) < poisson_deviance(y, inflated)
    assert paper_deviance(y, mu) > paper_deviance(y, inflated)


@pytest.mark.parametrize(
    ("counts", "mean", "error", "words"),
    [
        ([[1, 2]], [[1.0], [2.0]], ShapeError, ["mean", "(1, 2)", "(2, 1)"]),
        ([[1, 2]], lambda rows: np.ones((1, 3)), ShapeError, ["mean", "(1, 3)"]),
        ([1, 2], [1.0, 2.0], ShapeError, ["counts", "(2,)"]),
        (np.empty((0, 3)), np.empty((0, 3)), ShapeError, ["counts", "(0, 3)"]),
        ([[1, 2]], [[1.0, -0.5]], DataError, ["mean", "-0.5", "row 0", "column 1"]),
        ([[1, 2]], [[1.0, np.nan]], DataError, ["mean", "nan"]),
        ([[1, 2]], [[np.inf, 1.0]], DataError, ["mean", "inf"]),
        ([[1], [-2]], [[1.0], [1.0]], DataError, ["counts", "-2", "row 1"]),
    ],
)
def test_unusable_predictions_are_named(counts, mean, error, words):
    with pytest.raises(error, match="^Expected .*, found .*\\. .*\\.$") as caught:
        poisson_deviance(counts, mean)
    assert all(word in str(caught.value) for word in words)


def test_the_row_of_a_bad_value_counts_from_the_first_block(monkeypatch):
    monkeypatch.setattr("nsf_nb.reading.metrics._ENTRIES", 2)
    mean = np.ones((7, 2))
    mean[5, 1] = -1
    with pytest.raises(DataError, match="row 5, column 1"):
        rmse(np.ones((7, 2)), mean)


def test_nearest_spots_by_brute_force():
    rng = np.random.default_rng(1)
    coords, new = rng.normal(size=(60, 2)), rng.normal(size=(9, 2))
    counts, s, s_new = rng.poisson(2.0, size=(60, 7)), rng.gamma(5.0, size=60), rng.gamma(5.0, size=9)
    train = SpatialCounts.build(sp.csc_matrix(counts), coords, s)
    rate = counts.sum(axis=0) / s.sum()
    ours = nearest_spots(train, new, s_new, n_neighbors=4, shrink=0.2)
    for x, size, mean in zip(new, s_new, ours, strict=True):
        near = sorted(range(60), key=lambda n, x=x: math.dist(coords[n], x))[:4]
        np.testing.assert_allclose(mean, size * (0.8 * counts[near].sum(axis=0) / s[near].sum() + 0.2 * rate))
    np.testing.assert_allclose(nearest_spots(train, new, s_new, n_neighbors=60, shrink=0.0), np.outer(s_new, rate))
    np.testing.assert_allclose(nearest_spots(train, new, s_new, shrink=1.0), gene_mean(train, s_new))
    np.testing.assert_allclose(gene_mean(train, s_new), np.outer(s_new, rate))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_neighbors": 0}, ConfigError, ["n_neighbors"]),
        ({"n_neighbors": 5}, ConfigError, ["n_neighbors", "1 to 4"]),
        ({"shrink": -0.1}, ConfigError, ["shrink"]),
        ({"shrink": np.nan}, ConfigError, ["shrink"]),
        ({"coords": [[0.0, 1.0, 2.0]]}, ShapeError, ["coords", "2"]),
        ({"coords": [[0.0, np.nan]]}, DataError, ["coords"]),
        ({"size_factors": [1.0, 1.0]}, ShapeError, ["size factor"]),
        ({"size_factors": [[1.0]]}, ShapeError, ["size factor", "(1, 1)"]),
        ({"size_factors": [-1.0]}, DataError, ["size_factors"]),
    ],
)
def test_unusable_neighbours_are_named(arguments, error, words):
    square = SpatialCounts.build(np.ones((4, 3)), [[0, 0], [0, 1], [1, 0], [1, 1]])
    with pytest.raises(error) as caught:
        nearest_spots(square, **({"coords": [[0.5, 0.6]], "size_factors": [1.0], "n_neighbors": 2} | arguments))
    assert all(word in str(caught.value) for word in words)


CASES = [
    ("S1", "constant", 4.07), ("S6", "constant", 1.81), ("visium_sagittal_anterior1", "scanpy", 2.28),
    ("slideseqv2_hippocampus_sub", "scanpy", None), ("st_mob", "scanpy", None), ("eco_mite", "scanpy", None),
]  # the last column: the known deviance of the 5 nearest spots


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's log of 0 in the independent formulas
@pytest.mark.parametrize(("name", "rule", "floor"), CASES)
def test_baselines_and_scores_on_real_tables(data_dir, name, rule, floor):
    train, counts, coords, s = split(data_dir, name, rule)
    often = np.flatnonzero(train.feature_totals > 0)[:500]  # all genes of the first three tables
    train = SpatialCounts.build(train.counts[:, often], train.coords, train.size_factors)
    counts = counts[:, often]
    y, past = counts.toarray().astype(float), train.counts.toarray().astype(float)
    i = NearestNeighbors(n_neighbors=5).fit(train.coords).kneighbors(coords, return_distance=False)
    rate = past[i].sum(axis=1) / train.size_factors[i].sum(axis=1)[:, None]
    expected = s[:, None] * (0.95 * rate + 0.05 * past.sum(axis=0) / train.size_factors.sum())
    near, flat = nearest_spots(train, coords, s), gene_mean(train, s)
    np.testing.assert_allclose(near, expected, rtol=1e-12)
    for mean in (near, flat):
        assert prediction_sums(counts, mean).scores == pytest.approx(independent_scores(y, mean), rel=1e-9)
    if floor:
        assert poisson_deviance(counts, near) == pytest.approx(floor, abs=0.005)
        assert poisson_deviance(counts, near) < poisson_deviance(counts, flat)


def test_factor_correlation_and_matching_by_brute_force():
    rng = np.random.default_rng(2)
    true, noise = rng.normal(size=(80, 4)), rng.normal(size=(80, 6))
    estimated = 0.3 * noise
    estimated[:, [5, 0, 2]] -= 2 * true[:, [0, 1, 2]]  # the sign does not matter
    r = np.abs([[stats.pearsonr(a, b).statistic for b in estimated.T] for a in true.T])
    np.testing.assert_allclose(factor_correlation(true, estimated), r.max(axis=1))
    columns, correlation = match_factors(true, estimated)
    best = max(permutations(range(6), 4), key=lambda p: sum(r[t, p[t]] for t in range(4)))
    assert tuple(columns) == best
    np.testing.assert_allclose(correlation, r[range(4), best])


def test_edges_of_the_factors():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(30, 2)), np.full((30, 1), 0.1)
    np.testing.assert_array_equal(factor_correlation(a, b), 0)
    np.testing.assert_allclose(factor_correlation(np.hstack([a, b]), 5 * a - 3), [1, 1, 0], atol=1e-12)
    columns, correlation = match_factors(a, a[:, 1:])
    assert columns.tolist() == [-1, 0] and correlation == pytest.approx([0, 1])
    one = np.column_stack([a.sum(axis=1), rng.normal(size=30)])
    assert (factor_correlation(a, one) > 0.3).all() and np.unique(match_factors(a, one)[0]).size == 2
    with pytest.raises(ShapeError, match=r"\(30, 2\) and \(29, 2\)"):
        factor_correlation(a, a[1:])
    with pytest.raises(ShapeError, match="estimated"):
        factor_correlation(a, a[:, 0])
    with pytest.raises(ShapeError):
        match_factors(a, a[:, :0])
    with pytest.raises(DataError, match="true"):
        match_factors(np.where(a > 1, np.nan, a), a)


def test_sparsity():
    w = np.array([[0.0, -1e-7, 1e-6], [2e-6, -3.0, 0.0]])
    assert sparsity(w) == pytest.approx(3 / 6)
    assert sparsity(w, tol=1e-5) == pytest.approx(5 / 6) and sparsity(w, tol=1e-300) == pytest.approx(2 / 6)
    with pytest.raises(DataError):
        sparsity([[0.0, np.nan]])
    with pytest.raises(ShapeError):
        sparsity(np.empty((0, 3)))
    with pytest.raises(ConfigError, match="tol"):
        sparsity(w, tol=0.0)
