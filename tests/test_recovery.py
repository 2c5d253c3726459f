"""Recovery of a known truth, matching of fits, stability over seeds: definitions, invariance, edge cases, refusals."""

import csv
import json
import warnings
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment, nnls
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity as cosines

from nsf_nb.core import ConfigError, DataError, ShapeError
from nsf_nb.data.simulate import simulate
from nsf_nb.reading.importance import importance_shares
from nsf_nb.reading.interpret import factor_shares
from nsf_nb.reading.matching import best_of_two, dead_factors, factor_warnings, plot_matches, split_merged
from nsf_nb.reading.recovery import (
    best_correlations,
    distance_agreement,
    group_agreement,
    recovery,
    spatial_shares,
    support_groups,
)
from nsf_nb.reading.stability import pooled_silhouette, stability


@pytest.fixture(scope="module")
def truth():
    kinds = {"n_features_mixed": 30, "n_features_nonspatial": 30}
    return simulate("ggblocks", n_features=90, n_factors_nonspatial=2, **kinds, n_side=18, seed=4)


@pytest.fixture(scope="module")
def estimate(truth):
    """A fit that is neither right nor hopeless: noisy, with one factor too many, without ties."""
    rng = np.random.default_rng(5)
    f = np.hstack([truth.obsm["spfac"], truth.obsm["nsfac"]])
    w = np.hstack([truth.varm["spload"], truth.varm["nsload"]])
    f = np.column_stack([f, rng.gamma(1.0, size=len(f))]) + rng.gamma(1.0, 0.2, size=(len(f), 7))
    w = np.column_stack([w, rng.gamma(1.0, size=len(w))]) + rng.gamma(1.0, 1.0, size=(len(w), 7))
    columns = [f"F{l + 1}" for l in range(7)]
    return pd.DataFrame(f, truth.obs_names, columns), pd.DataFrame(w, truth.var_names, columns)


def true_tables(truth):
    f = np.hstack([truth.obsm["spfac"], truth.obsm["nsfac"]])
    return f, np.hstack([truth.varm["spload"], truth.varm["nsload"]])


def flat(scores):
    """All numbers, lists in order."""
    return np.concatenate([np.ravel(scores[key]) for key in sorted(scores)])


# Recovery


def scaled_by_hand(f, w):
    places = f / np.abs(f).sum(axis=0)
    shares = w * np.abs(f).sum(axis=0)
    return places, shares / np.abs(shares).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("signs", [False, True])
def test_recovery_is_what_others_compute(truth, estimate, signs):
    f, w = (table.to_numpy() for table in estimate)
    if signs:
        f, w = f - 0.5, w - 2.0
    found = recovery(truth, f, w, n_spatial=4)
    for name, true, own in zip(
        ("factors", "loadings"), scaled_by_hand(*true_tables(truth)), scaled_by_hand(f, w), strict=True
    ):
        for kind, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):
            table = np.abs([[correlation(a, b)[0] for b in own.T] for a in true.T])
            best = found[f"{name}_{kind}"]
            assert np.allclose(best, table.max(axis=1)) and len(best) == 6
            assert np.isclose(found[f"{name}_{kind}_min"], min(best))
            assert np.isclose(found[f"{name}_{kind}_mean"], np.mean(best))
            distances = [np.round(pdist(rows), 12) for rows in (true, own)]
            assert np.isclose(found[f"d{name}_{kind}"], correlation(*distances)[0], atol=1e-6)


@pytest.mark.parametrize("signs", [False, True])
def test_importance_is_that_of_its_own_chapter(truth, estimate, signs):
    f, w = (table.to_numpy() for table in estimate)
    true_f, true_w = true_tables(truth)
    true = importance_shares(true_w, true_f.sum(axis=0), 4)
    if signs:
        f, w = f - 0.5, w - 2.0
        own = importance_shares(w**2, f.var(axis=0), 3)
    else:
        own = importance_shares(w, f.sum(axis=0), 3)
    found = recovery(truth, f, w, n_spatial=3)["spatial_importance_dist"]
    assert np.isclose(found, np.abs(own - true).sum()) and found > 1
    assert np.allclose(spatial_shares(f, w, 3), own)
    all_spatial, none = (recovery(truth, f, w, n)["spatial_importance_dist"] for n in (7, 0))
    assert np.isclose(none, true.sum()) and np.isclose(all_spatial, (1 - true).sum())
    assert np.isnan(recovery(truth, f, w)["spatial_importance_dist"])
    one_kind = simulate("ggblocks", n_features=20, n_side=6, seed=1)
    same = one_kind.obsm["spfac"], one_kind.varm["spload"]
    assert np.isnan(recovery(one_kind, *same, n_spatial=4)["spatial_importance_dist"])


def test_groups_of_genes(truth):
    true = true_tables(truth)[1]
    groups = support_groups(true)
    for j, k in combinations(range(0, 90, 7), 2):
        assert (groups[j] == groups[k]) == np.array_equal(true[j] > 0, true[k] > 0)
    assert support_groups(np.array([[1e-9, 0], [3, 0], [0, 2], [0, 0], [-1, 0]])).tolist() == [2, 2, 1, 0, 2]
    rng = np.random.default_rng(0)
    rows = np.eye(groups.max() + 1)[groups] + rng.normal(0, 0.05, size=(90, groups.max() + 1))
    assert group_agreement(groups, rows) == 1 == group_agreement(rng.permutation(groups.max() + 1)[groups], rows)
    poor = rng.normal(size=(90, 5))
    labels = KMeans(groups.max() + 1, n_init=10, random_state=3).fit_predict(np.round(poor, 10))
    pairs = np.triu_indices(90, 1)
    a, b = ((x[:, None] == x)[pairs] for x in (groups, labels))  # the index from counts of pairs
    expected = a.sum() * b.sum() / len(a)
    by_pairs = ((a & b).sum() - expected) / ((a.sum() + b.sum()) / 2 - expected)
    assert np.isclose(group_agreement(groups, poor, seed=3), by_pairs)
    assert np.isclose(by_pairs, adjusted_rand_score(groups, labels)) and abs(by_pairs) < 0.1
    assert group_agreement(np.zeros(90, dtype=int), poor) == 1


@pytest.mark.parametrize("seed", range(3))
def test_recovery_does_not_depend_on_order_scale_or_sign(truth, estimate, seed):
    f, w = estimate
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(4), 4 + rng.permutation(3)])
    scale = rng.uniform(0.01, 100, 7)
    rows = rng.permutation(len(f)), rng.permutation(len(w))
    turned = (f * scale).iloc[rows[0], order], (w / scale).iloc[rows[1], order]
    before = recovery(truth, f, w, n_spatial=4)
    assert np.allclose(flat(before), flat(recovery(truth, *turned, n_spatial=4)))
    signs = rng.choice([-1.0, 1.0], 7)
    real = f - 0.5, w - 2.0
    flipped = (real[0] * signs).iloc[:, order], (real[1] * signs).iloc[:, order]
    assert np.allclose(flat(recovery(truth, *real, n_spatial=4)), flat(recovery(truth, *flipped, n_spatial=4)))


def test_truth_finds_itself_at_some_spots_and_genes(truth, estimate):
    f, w = (pd.DataFrame(values, names) for values, names in zip(
        true_tables(truth), (truth.obs_names, truth.var_names), strict=True))
    spots, genes = np.arange(10, 300), np.arange(0, 90, 2)
    perfect = recovery(truth, f.iloc[spots], w.iloc[genes], n_spatial=4)
    for key, value in perfect.items():
        assert np.allclose(value, 0 if key == "spatial_importance_dist" else 1), key
    f, w = estimate
    part = truth[spots, genes].copy()
    arrays = f.to_numpy()[spots], w.to_numpy()[genes]
    by_name = recovery(truth, f.iloc[spots[::-1]], w.iloc[genes[::-1]], n_spatial=4)
    assert np.array_equal(flat(by_name), flat(recovery(part, *arrays, n_spatial=4)))


def test_rounding_breaks_no_ties():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, size=(60, 2)) / 3.0
    nearly = true * (1 + 1e-13 * rng.normal(size=true.shape))
    assert np.allclose(best_correlations(true, nearly, ranks=True), 1)
    assert np.isclose(distance_agreement(true, nearly, ranks=True), 1)


def test_constants_are_zero_and_silent(truth):
    f, w = true_tables(truth)
    f[:, 1], w[:, 2] = 3.0, 0.0
    nearly = f * (1 + 1e-14 * np.random.default_rng(0).normal(size=f.shape))  # constant up to rounding
    constant = np.ones((len(f), 1)), np.ones((len(w), 1))
    for factors, loadings in ((f, w), (nearly, w), constant, (np.zeros_like(f), np.zeros_like(w))):
        found = recovery(truth, factors, loadings, n_spatial=1)
        assert np.isfinite(flat(found)).all()
    assert recovery(truth, *constant)["factors_spearman"] == [0.0] * 6
    assert recovery(truth, *constant)["dfactors_pearson"] == 0 == recovery(truth, *constant)["dloadings_spearman"]
    assert best_correlations(nearly[:, [1]], nearly)[0] == 0
    assert distance_agreement(np.eye(2), np.eye(2)) == 0 == distance_agreement(np.ones((1, 2)), np.ones((1, 2)))


def test_large_data_use_some_rows():
    rng = np.random.default_rng(0)
    true = rng.gamma(1.0, size=(36_000, 3))
    noisy = true + rng.normal(size=true.shape)
    found = distance_agreement(true, noisy)
    assert found == distance_agreement(true, noisy) != distance_agreement(true, noisy, seed=1)
    assert abs(found - distance_agreement(true, noisy, seed=1)) < 0.1
    without = [distance_agreement(np.delete(true[:6], k, 0), np.delete(noisy[:6], k, 0)) for k in range(6)]
    assert np.isclose(distance_agreement(true[:6], noisy[:6], n_rows=5), without).sum() == 1  # no row comes twice
    assert distance_agreement(true[:900], noisy[:900]) == distance_agreement(true[:900], noisy[:900], seed=1)


def test_recovery_refuses(truth, estimate):
    f, w = estimate
    twice = f.rename(index={f.index[1]: f.index[0]})
    for error, factors, loadings in (
        (ShapeError, f.to_numpy()[1:], w), (ShapeError, f, w.iloc[:, :3]), (ShapeError, f[[]], w[[]]),
        (DataError, f * np.nan, w), (DataError, twice, w), (DataError, f, w.rename(index=str.upper)),
    ):
        with pytest.raises(error):
            recovery(truth, factors, loadings)
    for wrong in (8, -1, True):
        with pytest.raises(ConfigError):
            recovery(truth, f, w, n_spatial=wrong)
    nothing = SimpleNamespace(obs_names=truth.obs_names, var_names=truth.var_names, obsm={}, varm={})
    with pytest.raises(DataError, match="spfac"):
        recovery(nothing, f, w)


@pytest.mark.data
@pytest.mark.parametrize("file, pattern", [("S1", "quilt"), ("S6", "ggblocks")])
def test_published_numbers_come_out(data_dir, file, pattern):
    """PNMF of this package on two published data sets, beside the row of the published table."""
    import anndata

    import nsf_nb as nsf

    path = data_dir.parent / "reference" / "paper_bm_sp.csv"
    if not path.is_file():
        pytest.skip("the published tables are not there")
    with path.open() as lines:
        keys = {"sim": pattern, "seed": "1", "model": "PNMF"}
        row = next(row for row in csv.DictReader(lines) if all(row[key] == value for key, value in keys.items()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Element .* was written without encoding metadata")
        adata = anndata.read_h5ad(data_dir / f"{file}.h5ad")
    model = nsf.PNMF(4, n_starts=1).fit(adata[: round(0.95 * adata.n_obs)].copy(), layer="counts", checkpoint=None)
    found = recovery(adata, model.factors_, model.loadings_)
    for key in ("factors_pearson", "factors_spearman", "loadings_pearson"):
        assert np.allclose(sorted(found[key]), sorted(json.loads(row[key])), atol=0.01), key
    for key in ("dfactors_pearson", "dfactors_spearman", "dloadings_pearson", "loadings_clust_ari"):
        assert np.isclose(found[key], float(row[key]), atol=0.01), key


# Matching


def maps(values, loadings=None):
    """Something with the tables of a fit."""
    loadings = np.ones((5, values.shape[1])) + np.arange(5)[:, None] if loadings is None else loadings
    names = [f"F{l + 1}" for l in range(values.shape[1])]
    spots, genes = ([f"{letter}{k}" for k in range(n)] for letter, n in (("s", len(values)), ("g", len(loadings))))
    return SimpleNamespace(
        factors_=pd.DataFrame(values, spots, names), loadings_=pd.DataFrame(loadings, genes, names)
    )


def scene(seed, n=250, n_factors=5):
    """Maps with a little noise, and the first two of them in halves and in one."""
    rng = np.random.default_rng(seed)
    f = rng.gamma(0.5, size=(n, n_factors))
    noisy, here = f * rng.gamma(25.0, 0.04, size=f.shape), rng.uniform(size=n) < 0.5
    return f, np.column_stack([noisy[:, 0] * here, noisy[:, 0] * ~here, noisy[:, 1:]]), rng


@pytest.mark.parametrize("centred", [False, True])
def test_best_of_two_is_nonnegative_least_squares(centred):
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(30, 4)) + 0.5, rng.normal(size=(30, 5)) + 0.5
    v[:, 1], v[:, 2], v[:, 3] = u[:, 0] + 0.3 * v[:, 1], u[:, 0] - v[:, 1], 2 * v[:, 4]  # alike, opposed, the same
    if centred:
        u, v = u - u.mean(0), v - v.mean(0)
    found, inside = best_of_two(cosines(u.T, v.T), cosines(v.T)), 0
    assert np.allclose(found, found.transpose(0, 2, 1))
    for l, a, b in np.ndindex(found.shape):
        weights = nnls(v[:, [a, b]], u[:, l])[0]
        expected = max(cosines(u.T, v.T)[l, [a, b]])
        if weights.any():
            expected = cosines([u[:, l]], [v[:, [a, b]] @ weights])[0, 0]
        assert np.isclose(found[l, a, b], expected), (l, a, b)
        inside += bool((weights > 0).all())
    assert inside > 10


def by_brute_force(first, second, margin=0.05, floor=0.3, level=0.8):
    """Splits of the first in the second, one pair after the other, by nonnegative least squares."""
    u, v = (fit.factors_.to_numpy() - fit.factors_.to_numpy().mean(axis=0) for fit in (first, second))
    s, lines = cosines(u.T, v.T), []
    for l in range(u.shape[1]):
        best = None
        for a, b in combinations(range(v.shape[1]), 2):
            together = cosines([u[:, l]], [v[:, [a, b]] @ nnls(v[:, [a, b]], u[:, l])[0]])[0, 0]
            alike = min(s[l, a], s[l, b]) >= floor and s[:, a].argmax() == l == s[:, b].argmax()
            if alike and together >= level and together >= s[l].max() + margin and together > (best or (0,))[0]:
                best = together, (f"F{a + 1}", f"F{b + 1}")
        if best:
            lines.append((f"F{l + 1}", best[1], round(best[0], 9), round(s[l].max(), 9)))
    return lines


@pytest.mark.parametrize("seed", range(3))
def test_splits_are_those_of_a_search(seed):
    f, parted, rng = scene(seed)
    mixed = parted @ (np.eye(6) + 0.3 * rng.uniform(size=(6, 6)))
    for one, two in ((f, parted), (f, mixed), (parted, mixed), (rng.gamma(0.5, size=(250, 4)), f)):
        first, second = maps(one), maps(two)
        found = split_merged(first, second, level=0.5)
        for what, expected in (
            ("split", by_brute_force(first, second, level=0.5)), ("merged", by_brute_force(second, first, level=0.5))
        ):
            rows = found[found["what"] == what]
            own = [(r.factor, r.parts, round(r.together, 9), round(r.single, 9)) for r in rows.itertuples()]
            assert own == expected


@pytest.mark.parametrize("seed", range(4))
def test_splits_and_merges_are_found_whatever_the_order_and_scale(seed):
    f, parted, rng = scene(seed)
    found = split_merged(maps(f), maps(parted))
    assert found[["what", "factor", "parts"]].to_numpy().tolist() == [["split", "F1", ("F1", "F2")]]
    back = split_merged(maps(parted), maps(f))
    assert back["what"].tolist() == ["merged"] and back["together"].tolist() == found["together"].tolist()
    order = rng.permutation(6)
    turned = maps((parted * rng.uniform(0.01, 100, 6))[:, order])
    turned.factors_ = turned.factors_.sample(frac=1, random_state=seed)
    again = split_merged(maps(f), turned)
    assert np.allclose(again["together"], found["together"]) and again["factor"].tolist() == ["F1"]
    assert {order[int(name[1:]) - 1] for name in again["parts"][0]} == {0, 1}
    one = maps(np.column_stack([f[:, 0] + f[:, 1], f[:, 2:]]))  # merged, fewer factors than the first
    assert split_merged(maps(f), one)[["what", "factor"]].to_numpy().tolist() == [["merged", "F1"]]
    for strict in ({"level": 0.999}, {"margin": 0.9}, {"floor": 0.95}):
        assert split_merged(maps(f), maps(parted), **strict).empty


def test_parts_belong_to_nobody_else():
    """A sum that fits because it borrows the partners of others is no split."""
    f = np.random.default_rng(0).gamma(0.5, size=(300, 3))
    first = maps(np.column_stack([f[:, 0] + f[:, 1], f[:, 0], f[:, 1], f[:, 2]]))
    second = maps(f)
    found = split_merged(first, second)
    assert found.empty and by_brute_force(first, second) == []
    assert split_merged(maps(first.factors_.to_numpy()[:, [0, 3]]), second)["what"].tolist() == ["split"]


def test_noisy_copies_raise_few_alarms():
    rng, alarms, n_pairs = np.random.default_rng(2), 0, 80
    for _ in range(n_pairs):
        n_factors = rng.integers(2, 9)
        f = rng.gamma(0.5, size=(200, n_factors)) @ (np.eye(n_factors) + 0.5 * rng.uniform(size=(n_factors, n_factors)))
        a, b = (maps(f * rng.gamma(4.0, 0.25, size=f.shape)) for _ in range(2))
        alarms += not split_merged(a, b).empty
    assert alarms / n_pairs < 0.05


def test_dead_factors_are_shares_and_variation():
    rng = np.random.default_rng(0)
    f, w, s = rng.gamma(1.0, size=(60, 5)), rng.gamma(1.0, size=(30, 5)), rng.uniform(0.2, 3, 60)
    f[:, 1], w[:, 2], f[:, 3] = 2.0, 0.0, 0.0
    w[:, 4] *= 1e-5
    found = dead_factors(pd.DataFrame(f, columns=list("abcde")), w, s)
    assert np.allclose(found["share"], factor_shares(f, w, s))
    mean = f.mean(axis=0)
    assert np.allclose(found["variation"], f.std(axis=0) / np.where(mean > 0, mean, 1))
    assert found["dead"].tolist() == [False, True, True, True, True] and found.index.tolist() == list("abcde")
    assert [bool(why) for why in found["why"]] == found["dead"].tolist()
    assert "share" not in found["why"]["b"] and "accounts" not in found["why"]["b"] and "spots" in found["why"]["b"]
    assert "spots" not in found["why"]["e"] and "expected counts" in found["why"]["e"]
    scale = np.array([3.0, 0.1, 7.0, 1.0, 20.0])
    assert np.allclose(dead_factors(f * scale, w / scale, s)[["share", "variation"]], found[["share", "variation"]])
    assert dead_factors(f, w, min_share=0.9)["dead"].all() and dead_factors(f, w)["dead"].sum() == 4
    real = dead_factors(f - f.mean(axis=0), w - 0.5)
    variances = f.var(axis=0) * ((w - 0.5) ** 2).sum(axis=0)
    assert np.allclose(real["share"], variances / variances.sum()) and real["dead"]["F2"] and real["dead"]["F4"]
    assert dead_factors(np.zeros((4, 2)), np.ones((3, 2)))["dead"].all()
    for call in (lambda: dead_factors(f, w, s[1:]), lambda: dead_factors(f[0], w)):
        with pytest.raises(ShapeError):
            call()


def test_warnings_say_what_was_found():
    f, parted, _ = scene(0)
    w = np.random.default_rng(1).gamma(1.0, size=(20, 7))
    fine, split = maps(f, w[:, :5]), maps(np.column_stack([parted, np.full(250, 0.7)]), w)
    found = factor_warnings({"one": fine, "two": split})
    assert found.columns.tolist() == ["fit", "factor", "what", "other", "detail"]
    assert found.iloc[:, :4].to_numpy().tolist() == [["two", "F7", "dead", ""], ["one", "F1", "split", "two: F1 + F2"]]
    assert found["detail"][0] == "F7 of two is the same at all spots."
    assert found["detail"][1].startswith("F1 of one is split in two: its similarity to F1 and F2 together is 0.9")
    back = factor_warnings({"two": split, "one": fine})
    assert back["what"].tolist() == ["dead", "merged"] and back["fit"].tolist() == ["two", "one"]
    nothing = factor_warnings({"one": fine, "again": fine})
    assert nothing.empty and nothing.columns.tolist() == found.columns.tolist() and factor_warnings({}).empty
    dead = maps(np.ones((250, 2)), w[:, :2])
    assert factor_warnings({"dead": dead, "one": fine})["what"].tolist() == ["dead", "dead"]
    only = factor_warnings({"one": maps(f[:, :1], w[:, :1]), "two": maps(parted[:, :2], w[:, :2])})
    assert only["what"].tolist() == ["split"]
    faint = maps(parted, np.column_stack([w[:, 0], w[:, 1] * 1e-9, w[:, 2:6]]))  # a dead half is no part
    assert factor_warnings({"one": fine, "faint": faint})["what"].tolist() == ["dead"]
    assert split_merged(fine, faint)["what"].tolist() == ["split"]
    at_one = np.zeros(250)
    at_one[f[:, 2].argmin()] = 1.0  # all counts where the third factor is smallest
    assert set(factor_warnings({"one": fine}, exposure={"one": at_one})["factor"]) >= {"F3"}


def test_matches_are_drawn():
    import matplotlib.pyplot as plt

    f, parted, _ = scene(0)
    _, given = plt.subplots()
    ax = plot_matches(maps(f), maps(parted), ax=given)
    assert ax is given
    drawn = ax.images[0].get_array()
    columns = [int(label.get_text()[1:]) - 1 for label in ax.get_xticklabels()]
    expected = np.corrcoef(f.T, parted.T)[:5, 5:]
    assert np.allclose(drawn, expected[:, columns]) and columns[1:5] == [2, 3, 4, 5] and set(columns) == set(range(6))
    rows, taken = linear_sum_assignment(expected, maximize=True)
    assert [text.get_text() for text in ax.texts] == [f"{value:.2f}" for value in expected[rows, taken]]
    corners = [(patch.get_x() + 0.46, patch.get_y() + 0.46) for patch in ax.patches]
    assert np.allclose(corners, [(l, l) for l in range(5)])
    fewer = plot_matches(maps(parted), maps(f))
    assert len(fewer.patches) == 5 and len(fewer.get_yticklabels()) == 6
    many = plot_matches(maps(np.random.default_rng(0).gamma(1.0, size=(50, 13))), maps(f[:50]))
    assert not many.texts and len(many.patches) == 5
    assert len(plot_matches(maps(f[:, :1]), maps(f[:, :1]), by="loadings").patches) == 1
    plt.close("all")


# Stability


def seeds(n_fits=4, n_factors=4, noise=0.3):
    rng = np.random.default_rng(7)
    w = rng.gamma(0.4, size=(80, n_factors))
    genes, names = [f"g{j}" for j in range(80)], [f"F{l + 1}" for l in range(n_factors)]
    tables = [w * rng.gamma(noise**-2, noise**2, size=w.shape) * rng.uniform(0.1, 9, n_factors) for _ in range(n_fits)]
    return [pd.DataFrame(table[:, rng.permutation(n_factors)], genes, names) for table in tables]


def test_stability_is_what_others_compute():
    tables = seeds()
    found = stability(tables)
    arrays, means, first = [table.to_numpy() for table in tables], [], []
    for r, s in combinations(range(4), 2):
        similarity = cosines(arrays[r].T, arrays[s].T)
        rows, columns = linear_sum_assignment(-similarity)
        means.append(similarity[rows, columns].mean())
        first += [similarity[rows, columns]] if r == 0 else []
    assert np.isclose(found.overall, np.mean(means)) and np.allclose(found.factors, np.mean(first, axis=0))
    assert found.factors.index.tolist() == ["F1", "F2", "F3", "F4"] and found.n_fits == 4
    partners = [linear_sum_assignment(-cosines(arrays[0].T, array.T))[1] for array in arrays]
    labels = np.concatenate([np.argsort(own) for own in partners])
    pooled = np.vstack([(array / np.linalg.norm(array, axis=0)).T for array in arrays])
    assert np.isclose(found.silhouette, silhouette_score(pooled, labels)) and found.silhouette > 0.5
    assert "4 fits of 4 factors" in repr(found)


def test_stability_does_not_depend_on_order_or_scale():
    tables, rng = seeds(), np.random.default_rng(0)
    turned = [(table * rng.uniform(0.1, 9, 4)).sample(frac=1, axis=1, random_state=k).sample(frac=1, random_state=k)
              for k, table in enumerate(tables)]
    one, two = stability(tables), stability(turned)
    assert np.isclose(one.overall, two.overall) and np.isclose(one.silhouette, two.silhouette)
    assert np.allclose(one.factors, two.factors[one.factors.index])
    noisier = stability(seeds(noise=1.0))
    assert noisier.overall < one.overall - 0.1 and noisier.silhouette < one.silhouette - 0.1


def test_stability_where_there_is_little_to_compare():
    tables = seeds()
    single = stability(tables[:1])
    assert np.isnan([single.overall, single.silhouette, *single.factors]).all() and "single" in repr(single)
    one = stability([table[["F1"]] for table in [tables[0]] * 3])
    assert one.overall == 1 == one.factors["F1"] and np.isnan(one.silhouette)
    dead = [table.assign(F4=0.0) for table in [tables[0]] * 3]
    found = stability(dead)
    assert np.allclose(found.factors, [1, 1, 1, 0]) and np.allclose([found.overall, found.silhouette], [0.75, 1])
    rows = np.vstack([table.to_numpy().T for table in tables])
    assert pooled_silhouette(np.vstack([rows, np.zeros((5, 80))]), 4) == pooled_silhouette(rows, 4)
    assert np.isnan(pooled_silhouette(np.ones((6, 4)), 3)) and np.isnan(pooled_silhouette(np.eye(4), 4))
    for error, wrong in (
        (ShapeError, []), (ShapeError, [tables[0], tables[1][["F1"]]]), (ShapeError, [None]),
        (DataError, [tables[0], tables[1].rename(index=str.upper)]), (DataError, [tables[0] * np.nan]),
    ):
        with pytest.raises(error):
            stability(wrong)


def test_nothing_heavy_is_imported(run_tool):
    code = "import sys; import nsf_nb.reading.recovery, nsf_nb.reading.matching, nsf_nb.reading.stability; "
    code += "sys.exit(bool({'tensorflow', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = run_tool(["python", "-c", code])
    assert done.returncode == 0, done.stderr
