"""The simulator against two published tables (S1, S6) and against the distribution that it claims to draw from."""

import warnings

import numpy as np
import pytest
from scipy import stats

from nsf_nb.core import ConfigError
from nsf_nb.data.simulate import patterns, simulate

FILES = {"S1": "quilt", "S6": "ggblocks"}
BACKGROUND, EXPRESSION, SHAPE = 0.2, 20.0, 10.0


def published(folder, name):
    """A published table with its rows in reading order, as its obs_names number them."""
    import anndata

    with warnings.catch_warnings():  # the published files are older than anndata's encoding marks
        warnings.filterwarnings("ignore", "Element .* was written without encoding metadata")
        table = anndata.read_h5ad(folder / f"{name}.h5ad")
    return table[np.argsort(table.obs_names.astype(int))]


def in_reading_order(table):
    return table[np.argsort([int(name.removeprefix("spot_")) for name in table.obs_names])]


def mean_of(table):
    spatial = np.asarray(table.obsm["spfac"]) @ np.asarray(table.varm["spload"], dtype=float).T
    return BACKGROUND + spatial + np.asarray(table.obsm["nsfac"]) @ np.asarray(table.varm["nsload"], dtype=float).T


def check_counts(counts, mean):
    """Mean, variance and the whole distribution at each level of the mean, within Monte Carlo error."""
    for level in np.unique(mean.round(4)):
        y = np.asarray(counts, dtype=float)[np.isclose(mean, level, atol=1e-3)]
        law = stats.nbinom(SHAPE, SHAPE / (SHAPE + level))
        variance, kurtosis = (float(v) for v in law.stats("vk"))
        assert variance == pytest.approx(level + level**2 / SHAPE)
        assert abs(y.mean() - level) < 4 * np.sqrt(variance / y.size)
        assert abs(y.var() - variance) < 4 * variance * np.sqrt((kurtosis + 2) / y.size)
        expected = y.size * law.pmf(np.arange(int(y.max()) + 1))
        observed = np.bincount(y.astype(int))
        often = expected > 5
        rest = y.size - np.array([observed[often].sum(), expected[often].sum()])
        chi2 = ((observed[often] - expected[often]) ** 2 / expected[often]).sum() + (rest[0] - rest[1]) ** 2 / rest[1]
        assert stats.chi2.sf(chi2, often.sum()) > 1e-3


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_patterns_and_coordinates_equal_the_published_table(data_dir, name):
    truth, ours = published(data_dir, name), in_reading_order(simulate(FILES[name]))
    np.testing.assert_array_equal(ours.obsm["spfac"], truth.obsm["spfac"])
    np.testing.assert_allclose(ours.obsm["spatial"], truth.obsm["spatial"], atol=1e-5)  # the file is float32


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_published_table_follows_the_generative_model(data_dir, name):
    truth = published(data_dir, name)
    loadings = np.asarray(truth.varm["spload"])
    assert set(np.unique(loadings)) == {0.0, EXPRESSION}
    assert ((loadings > 0).sum(1) == 1).all()
    assert stats.chisquare((loadings > 0).sum(0)).pvalue > 0.01
    check_counts(truth.layers["counts"], mean_of(truth))


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_table_looks_like_the_published_one(data_dir, name):
    truth, ours = published(data_dir, name), simulate(FILES[name])
    assert ours.shape == truth.shape
    for slot in ("obsm", "varm", "layers"):
        theirs, mine = getattr(truth, slot), getattr(ours, slot)
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    assert ours.layers["counts"].dtype == truth.layers["counts"].dtype
    np.testing.assert_array_equal(ours.X, ours.layers["counts"])
    assert not np.array_equal(ours.obs_names, in_reading_order(ours).obs_names)  # rows are shuffled


@pytest.mark.parametrize("pattern", ["quilt", "ggblocks", "both"])
@pytest.mark.parametrize("mixed", [0, 60])
def test_simulated_counts_are_negative_binomial(pattern, mixed):
    table = simulate(pattern, 120, 3, n_features_mixed=mixed, seed=5)
    check_counts(table.X, mean_of(table))


@pytest.mark.parametrize(("pattern", "factors"), [("quilt", 3), ("ggblocks", 3), ("both", 6)])
@pytest.mark.parametrize(("mixed", "kinds"), [(0, (250, 0, 250)), (500, (0, 500, 0))])
def test_published_mixed_settings(pattern, factors, mixed, kinds):
    table = simulate(pattern, 500, factors, n_features_mixed=mixed)
    spatial, nonspatial = table.varm["spload"], table.varm["nsload"]
    weights = spatial.sum(1), nonspatial.sum(1)
    np.testing.assert_allclose(sum(weights), EXPRESSION)
    shares = np.repeat([1.0, 0.6, 0.0], kinds)
    np.testing.assert_allclose(weights[0] / EXPRESSION, shares)
    assert ((spatial > 0).sum(1) == (shares > 0)).all() and ((nonspatial > 0).sum(1) == (shares < 1)).all()
    assert table.obsm["spfac"].shape == (1296, 8 if pattern == "both" else 4)
    on = table.obsm["nsfac"]
    assert on.shape == (1296, factors) and set(np.unique(on)) == {0.0, 1.0}
    assert abs(on.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / on.size)
    correlation = np.corrcoef(np.hstack([table.obsm["spfac"], on]).T)[-factors:]
    assert np.sort(np.abs(correlation))[:, :-1].max() < 5 / np.sqrt(1296)  # chance only, apart from itself


def test_numbers_of_genes_can_be_set_one_by_one():
    table = simulate("quilt", 10, 2, n_features_mixed=3, n_features_nonspatial=5, spatial_share=0.25)
    np.testing.assert_allclose(table.varm["spload"].sum(1) / EXPRESSION, [1] * 2 + [0.25] * 3 + [0] * 5)
    assert table.uns["simulation"]["n_features_nonspatial"] == 5


def test_same_seed_same_bits_and_another_seed_another_table():
    a, b, c = simulate("both", 30, 2, seed=7), simulate("both", 30, 2, seed=7), simulate("both", 30, 2, seed=8)
    np.testing.assert_array_equal(a.X, b.X)
    for key in a.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    for key in a.varm:
        np.testing.assert_array_equal(a.varm[key], b.varm[key])
    assert a.obs_names.equals(b.obs_names)
    assert not np.array_equal(a.X, c.X) and not a.obs_names.equals(c.obs_names)
    assert not np.array_equal(in_reading_order(a).obsm["nsfac"], in_reading_order(c).obsm["nsfac"])


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"n_features": 55}, {"names", "spatial", "spfac", "nsfac"}),
        ({"n_factors_nonspatial": 4}, {"names", "spatial", "spfac", "spload"}),
        ({"nonspatial_probability": 0.5}, {"names", "spatial", "spfac", "spload", "nsload"}),
        ({"background": 1.0}, {"names", "spatial", "spfac", "nsfac", "spload", "nsload"}),
        ({"shape": 2.0}, {"names", "spatial", "spfac", "nsfac", "spload", "nsload"}),
        ({"pattern": "both"}, {"names", "spatial", "nsfac", "nsload"}),
        ({"shuffle": False}, {"spload", "nsload"}),
    ],
)
def test_a_setting_changes_only_what_follows_from_it(change, kept):
    base = {"pattern": "quilt", "n_features": 40, "n_factors_nonspatial": 3, "seed": 2}
    parts = []
    for table in (simulate(**base), simulate(**(base | change))):
        parts.append({"names": table.obs_names, **table.obsm, **table.varm})
    same = {key for key in parts[0] if np.array_equal(parts[0][key], parts[1][key])}
    assert same == kept


def test_shuffling_moves_whole_rows():
    a, b = (in_reading_order(simulate("quilt", 20, 2, shuffle=shuffle)) for shuffle in (True, False))
    np.testing.assert_array_equal(a.X, b.X)
    for key in a.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])


def test_more_spatial_genes_leave_the_first_counts_alone():
    np.testing.assert_array_equal(simulate("quilt", 30).X, simulate("quilt", 45).X[:, :30])


def test_more_nonspatial_factors_leave_the_first_alone():
    few, many = (simulate("quilt", 10, n_factors).obsm["nsfac"] for n_factors in (2, 5))
    np.testing.assert_array_equal(few, many[:, :2])


def test_larger_grids_enlarge_the_tile():
    small, large = patterns("both", 12), patterns("both", 60)
    for name, picture in small.items():
        np.testing.assert_array_equal(large[name], picture.repeat(5, axis=0).repeat(5, axis=1))


@pytest.mark.parametrize("n_factors", [0, 2])
def test_truth_survives_a_file(tmp_path, n_factors):
    import anndata

    table = simulate("ggblocks", 12, n_factors, n_side=6)
    table.write_h5ad(tmp_path / "table.h5ad")
    again = anndata.read_h5ad(tmp_path / "table.h5ad")
    np.testing.assert_array_equal(again.X, table.X)
    assert again.obsm["nsfac"].shape == (36, n_factors)
    stored = dict(again.uns["simulation"])
    stored["spatial_factors"] = list(stored["spatial_factors"])
    assert stored == table.uns["simulation"]
    assert stored["spatial_factors"] == ["cross", "ring", "stairs", "tee"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"pattern": "stripes"}, ["pattern", "quilt", "ggblocks", "both"]),
        ({"n_side": 40}, ["n_side", "48"]),
        ({"pattern": "ggblocks", "n_side": 32}, ["n_side", "36"]),
        ({"n_side": 0}, ["n_side"]),
        ({"n_features": 0}, ["n_features"]),
        ({"n_factors_nonspatial": -1}, ["n_factors_nonspatial"]),
        ({"n_features_mixed": 5}, ["n_factors_nonspatial"]),
        ({"n_features_nonspatial": 5}, ["n_factors_nonspatial"]),
        ({"n_factors_nonspatial": 2, "n_features_mixed": 201}, ["n_features_mixed", "200"]),
        ({"n_factors_nonspatial": 2, "n_features_mixed": 150, "n_features_nonspatial": 51}, ["_nonspatial", "50"]),
        ({"n_factors_nonspatial": 2, "spatial_share": 1.0}, ["spatial_share"]),
        ({"nonspatial_probability": 0.0}, ["nonspatial_probability"]),
        ({"expression": 0.0}, ["expression"]),
        ({"background": -0.1}, ["background"]),
        ({"shape": np.inf}, ["shape"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_bad_settings_are_named(arguments, names):
    with pytest.raises(ConfigError, match="^Expected .*, found .*\\. .*\\.$") as error:
        simulate(**arguments)
    assert all(name in str(error.value) for name in names)
