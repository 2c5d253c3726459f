"""Spatial importance and calls: definitions, models of all kinds, zeros, refusals; similarity of genes and fits."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import kstest, kurtosis

import nsf_nb as nsf
from nsf_nb.data.counts import SpatialCounts
from nsf_nb.data.simulate import simulate
from nsf_nb.reading.importance import importance_shares
from nsf_nb.reading.loading_draws import _projected
from nsf_nb.reading.similarity import compare_fits, cosine_similarity
from nsf_nb.reading.spatial_calls import _tails, neighbour_weights, standardised_moran

SMALL = {"n_inducing": 60, "max_iter": 40}


@pytest.fixture(scope="module")
def adata():
    kinds = {"n_features_nonspatial": 20, "n_features_mixed": 20}
    found = simulate("ggblocks", n_features=60, n_factors_nonspatial=2, **kinds, n_side=18, seed=2)
    found.layers["counts"][:, 3] = 0
    return found


MODELS = {
    "NSFH": lambda: nsf.NSFH(4, 2, **SMALL, n_starts=2),
    "NSFH nb": lambda: nsf.NSFH(4, 2, likelihood="nb", **SMALL, n_starts=1),
    "NSFH gaussian": lambda: nsf.NSFH(4, 2, likelihood="gaussian", **SMALL, n_starts=1),
    "NSF": lambda: nsf.NSF(4, **SMALL, n_starts=1), "PNMF": lambda: nsf.PNMF(4, max_iter=40, n_starts=1),
    "RSFH": lambda: nsf.RSFH(3, 2, **SMALL), "RSF": lambda: nsf.RSF(3, likelihood="gaussian", **SMALL),
    "FA": lambda: nsf.FA(3, max_iter=40),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_importance(adata, name):
    before = adata.layers["counts"].copy()
    model = MODELS[name]().fit(adata, layer="counts", checkpoint=None)
    found = model.spatial_importance(n_samples=40, n_permutations=5)
    assert np.array_equal(adata.layers["counts"], before)
    for table, n in ((found.genes, 60), (found.spots, 324), (found.factors, model.loadings_.shape[1])):
        low, middle, high = (table[column] for column in ("lower", "importance", "upper"))
        assert len(table) == n and low.min() >= 0 and high.max() <= 1
        assert (low <= middle).all() and (middle <= high).all()
    assert np.isclose(found.factors["importance"].sum(), 1) and found.genes["p_value"].between(0, 1).all()
    assert not found.genes["spatial"].iloc[3] and found.genes["p_value"].iloc[3] == 1  # without counts
    kinds = set(found.factors["kind"])
    assert kinds == {"NSF": {"spatial"}, "RSF": {"spatial"}, "PNMF": {"non-spatial"}, "FA": {"non-spatial"}}.get(
        name, {"spatial", "non-spatial"}
    )
    assert set(found.factors["length_scale"].notna() == (found.factors["kind"] == "spatial")) == {True}
    seen = np.arange(60) != 3
    if kinds == {"spatial"}:
        assert (found.genes["importance"][seen] == 1).all() and found.genes["importance"].iloc[3] == 0
    if kinds == {"non-spatial"}:
        assert (found.genes["importance"] == 0).all()


def test_same_seed_same_bits_and_another_seed_others(adata):
    model = MODELS["NSFH"]().fit(adata, layer="counts", checkpoint=None)
    one, two, other = (model.spatial_importance(n_samples=40, n_permutations=3, random_state=k) for k in (1, 1, 2))
    assert one.genes.equals(two.genes) and one.spots.equals(two.spots) and one.factors.equals(two.factors)
    assert not one.genes["lower"].equals(other.genes["lower"])
    assert one.genes["importance"].equals(other.genes["importance"])


def test_totals_are_conserved():
    w, a = np.array([[1.0, 3.0], [0.0, 2.0], [5.0, 0.0]]), np.array([2.0, 1.0])
    share = importance_shares(w, a, 1)
    assert share.tolist() == [0.4, 0.0, 1.0]
    total = (w * a).sum(axis=1)
    assert np.array_equal(share * total + (1 - share) * total, total)
    assert importance_shares(np.zeros((2, 2)), a, 1).tolist() == [0, 0]
    assert importance_shares(w, np.zeros(2), 1).tolist() == [0, 0, 0]


def test_calls_are_calibrated_for_genes_of_every_depth():
    """P values of genes that know nothing of space, from a count in a hundred spots to a hundred in each."""
    rng = np.random.default_rng(0)
    n, places = 500, rng.uniform(size=(500, 2))
    rate = np.repeat([0.01, 0.1, 1, 10, 100], 60)
    data = SpatialCounts.build(sp.csr_matrix(rng.negative_binomial(1, 1 / (1 + rate), (n, 300)).astype("f4")), places)
    from nsf_nb.inference.fit import fit
    from nsf_nb.inference.records import FitSettings
    from nsf_nb.models.spatial import nsf as model
    from nsf_nb.reading.spatial_calls import spatial_calls

    found = fit(model(2), data, FitSettings(n_inducing=40, n_starts=1, max_sweeps=5))
    calls = spatial_calls(found, data, 20, rng)
    deep = rate >= 0.1
    assert kstest(calls["p_value"][deep], "uniform").pvalue > 0.01
    assert (calls["p_value"] < 0.05).mean() < 0.08 and calls["spatial"].mean() < 0.02


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1])
def test_rare_genes_have_a_longer_tail_and_are_not_called_for_it(rate):
    """A normal tail would call many of them: one p value in forty below a thousandth at the lowest rate."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1, 1 / (1 + rate), (500, 1000))
    z = (counts - counts.mean(axis=0)) / np.sqrt(np.maximum(counts.mean(axis=0), 1e-9))
    weights, orders = neighbour_weights(rng.uniform(size=(500, 2))), [rng.permutation(500) for _ in range(20)]
    null = np.stack([standardised_moran(z[order], weights) for order in orders], axis=1)
    heavy = np.nan_to_num(kurtosis(z, axis=0))
    p = _tails(standardised_moran(z, weights), null, heavy)
    assert (p < 0.01).mean() < 0.02 and (p < 0.001).mean() <= 0.002 and (p < 0.05).mean() < 0.08


def test_moran_agrees_with_a_dense_calculation():
    rng = np.random.default_rng(3)
    places, z = rng.uniform(size=(40, 2)), rng.normal(size=(40, 3))
    weights = neighbour_weights(places)
    dense, centred = weights.toarray(), z - z.mean(axis=0)
    moran = np.einsum("nj,nm,mj->j", centred, dense, centred) / (centred**2).sum(axis=0) * 40 / dense.sum()
    many = []
    for _ in range(4000):
        own = centred[rng.permutation(40)]
        many.append(np.einsum("nj,nm,mj->j", own, dense, own) / (own**2).sum(axis=0) * 40 / dense.sum())
    expected = (moran - np.mean(many, axis=0)) / np.std(many, axis=0)
    assert np.allclose(standardised_moran(z, weights), expected, atol=0.1)


def test_projection_survives_degenerate_curvature():
    zero = np.zeros((2, 3, 3))
    found = _projected(np.zeros((2, 3)), -np.ones((2, 3)), zero, np.ones((2, 5, 3)), np.zeros((2, 3)))
    assert found.shape == (2, 5, 3) and not found.any()


def test_refusals(adata, tmp_path):
    model = MODELS["NSFH"]()
    with pytest.raises(nsf.NotFittedError):
        model.spatial_importance()
    model.fit(adata, layer="counts", checkpoint=None)
    for wrong in ({"level": 1.5}, {"fdr": 0}, {"n_samples": 3}, {"n_permutations": 0}):
        with pytest.raises(nsf.ConfigError, match=next(iter(wrong))):
            model.spatial_importance(**wrong)
    light = nsf.load(model.save(tmp_path / "light", counts=False))
    with pytest.raises(nsf.DataError, match="counts"):
        light.spatial_importance()
    whole = nsf.load(model.save(tmp_path / "whole"))
    few = {"n_samples": 20, "n_permutations": 2}
    assert whole.spatial_importance(**few).genes.equals(model.spatial_importance(**few).genes)


def test_tl_writes_into_the_object(adata):
    model = MODELS["NSFH"]()
    keep = np.arange(60) != 3
    done = nsf.tl.fit(adata, model, layer="counts", mask_var=keep, key_added="two", copy=True)
    assert np.isnan(done.var["two_spatial_importance"].iloc[3]) and "two_spatial_importance" not in adata.var
    nsf.tl.spatial_importance(done, model, key_added="two", n_permutations=3)
    assert done.var["two_spatial"].dtype == bool and not done.var["two_spatial"].iloc[3]
    assert (done.obs["two_spatial_importance_lower"] <= done.obs["two_spatial_importance_upper"]).all()
    with pytest.raises(nsf.DataError):
        nsf.tl.spatial_importance(adata[:50], model, key_added="two")
    plain = nsf.tl.fit(adata, MODELS["NSF"](), layer="counts", copy=True)
    assert "nsf_spatial_importance" not in plain.var


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore")  # zarr announces changes of its own
def test_files_hold_importance_calls_and_modules(adata, tmp_path, kind):
    import anndata

    model = MODELS["NSFH"]()
    done = nsf.tl.fit(adata, model, layer="counts", copy=True)
    nsf.tl.spatial_importance(done, model, n_permutations=2)
    nsf.tl.to_flowsig(done)
    getattr(done, f"write_{kind}")(tmp_path / "a")
    back = getattr(anndata, f"read_{kind}")(tmp_path / "a")
    for table in ("obs", "var"):
        kept = [name for name in getattr(done, table) if name.startswith("nsf_spatial")]
        assert len(kept) == {"obs": 3, "var": 5}[table]
        for name in kept:
            assert np.array_equal(getattr(back, table)[name], getattr(done, table)[name])
    assert back.var["nsf_spatial"].dtype == bool
    for name, value in done.uns["nsf_info"].items():
        assert np.array_equal(back.uns["nsf_info"][name], value)
    assert np.array_equal(back.obsm["X_gem"], done.obsm["X_gem"])


def test_flowsig_export(adata):
    done = nsf.tl.fit(adata, MODELS["NSFH"](), layer="counts", copy=True)
    for mode in ("spde", "lda"):
        out = nsf.tl.to_flowsig(done, mode=mode, copy=True)
        info = out.uns["nsf_info"]
        assert set(info) == {"vars", "n_gems", "factors", "loadings", "totals"} and "nsf_info" not in done.uns
        assert np.array_equal(out.obsm["X_gem"], info["factors"]) and np.isfinite(info["loadings"]).all()
    with pytest.raises(nsf.DataError, match="Run nsf_nb.tl.fit"):
        nsf.tl.to_flowsig(adata)
    signed = nsf.tl.fit(adata, MODELS["RSF"](), layer="counts", copy=True)
    with pytest.raises(nsf.DataError, match="at least 0"):
        nsf.tl.to_flowsig(signed)


def test_cosine_similarity_of_zero_rows_and_other_tables():
    found = cosine_similarity([[1, 0], [0, 0]], [[2, 0], [1, 1], [0, 3]])
    assert np.allclose(found, [[1, np.sqrt(0.5), 0], [0, 0, 0]])
    with pytest.raises(nsf.ShapeError):
        cosine_similarity([[1.0, 0.0]], [[1.0]])
    with pytest.raises(nsf.DataError):
        cosine_similarity([[1.0, np.nan]])


def test_fits_of_different_size_are_compared(adata):
    three, four = (nsf.PNMF(n, max_iter=60).fit(adata, layer="counts", checkpoint=None) for n in (3, 4))
    table = compare_fits(four, three, by="factors")
    assert len(table) == 4 and table["other"].isna().sum() == 1 and table["similarity"].dropna().between(-1, 1).all()
