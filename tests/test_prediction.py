"""Prediction anywhere, through the public surface: draws, factors of new spots from counts, intervals and coverage."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import nsf_nb as nsf
from nsf_nb.core import ConfigError, DataError, NotFittedError, ShapeError
from nsf_nb.imputation import impute, score_imputation
from nsf_nb.probability.kernels import Kernel
from nsf_nb.reading.metrics import factor_correlation, match_factors

nsf.settings.progress = False
MODELS = {
    "NSF": lambda **kw: nsf.NSF(3, n_inducing=150, n_starts=2, max_iter=120, **kw),
    "NSFH": lambda **kw: nsf.NSFH(2, 1, n_inducing=100, n_starts=2, max_iter=60, **kw),
    "PNMF": lambda **kw: nsf.PNMF(3, n_starts=2, max_iter=80, **kw),
    "RSF": lambda **kw: nsf.RSF(3, n_inducing=100, max_iter=60, **kw),
    "FA": lambda **kw: nsf.FA(3, max_iter=60, **kw),
    "RSFH": lambda **kw: nsf.RSFH(2, 1, n_inducing=100, max_iter=60, **kw),
}


def drawn_from_model(seed, dispersion=None, n_obs=900, n_features=80):
    """Data that NSF itself has drawn, with the true log factors."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-2, 2, (n_obs, 2))
    root = np.linalg.cholesky(Kernel().matrix(places, places, 0.6).numpy() + 1e-6 * np.eye(n_obs))
    truth = root @ rng.standard_normal((n_obs, 3))
    on = rng.random((n_features, 3)) < 0.3
    on[np.arange(n_features), np.arange(n_features) % 3] = True
    mean = np.exp(truth) @ (rng.gamma(0.7, 1.0, on.shape) * on).T
    counts = rng.poisson(mean if dispersion is None else mean * rng.gamma(1 / dispersion, dispersion, mean.shape))
    adata = anndata.AnnData(sp.csr_matrix(counts.astype("f4")), obsm={"spatial": places, "truth": truth})
    adata.obs_names = [f"spot{n}" for n in range(n_obs)]
    adata.var_names = [f"gene{j}" for j in range(n_features)]
    return adata


@pytest.fixture(scope="module")
def parts():
    adata = drawn_from_model(1)
    return adata[:600].copy(), adata[600:].copy()


@pytest.fixture(scope="module")
def model(parts):
    return MODELS["NSF"]().fit(parts[0])


@pytest.fixture(scope="module")
def family(parts):
    """One fitted model of each kind and likelihood, made when it is asked for."""
    fits = {}

    def get(name, likelihood):
        if (name, likelihood) not in fits:
            fits[name, likelihood] = MODELS[name](likelihood=likelihood).fit(parts[0][:300])
        return fits[name, likelihood]

    return get


KINDS = [(name, likelihood) for name in MODELS for likelihood in ("poisson", "nb", "gaussian")]


# Draws


@pytest.mark.parametrize(("name", "likelihood"), KINDS)
def test_draws_agree_with_predicted_moments(family, parts, name, likelihood):
    found, n = family(name, likelihood), 1500
    where = np.concatenate([parts[1].obsm["spatial"][:30], found.coords_[:30]])
    said, drawn = found.predict(where), found.sample(where, n, random_state=2)
    mean, std = said.obsm["X_nsf"], said.obsm["X_nsf_std"]
    assert drawn.shape == (n, 60, mean.shape[1]) and drawn.dtype == np.float32
    heavy = 1 + std**2 / np.maximum(mean**2, 1e-12) if found.state_.link.nonnegative else 1.0  # lognormal: heavy tails
    assert (np.abs(drawn.mean(axis=0) - mean) < 5.5 * np.sqrt(heavy) * std / np.sqrt(n) + 1e-3 * np.abs(mean)).all()
    ratio = drawn.std(axis=0) / np.maximum(std, 1e-9)
    # Without space predict has one lognormal with the moments of all spots; the ceiling cuts more of it than of theirs.
    most = 0.05 if found.state_.spatial_columns else 0.08
    for places in (slice(0, 30), slice(30, 60)):  # new ones, and those of the fit
        assert abs(np.median(ratio[places, :2]) - 1) < most


@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_draws_of_counts_agree_with_the_interval(family, parts, likelihood):
    found, where = family("NSF", likelihood), parts[1].obsm["spatial"][:100]
    said, counts = found.predict(where, 2.0, interval=0.9), found.sample(where, 800, what="counts", size_factors=2.0)
    assert np.array_equal(counts, np.round(counts)) and (counts >= 0).all()
    low, high = (counts < said.layers["lower"]).mean(), (counts > said.layers["upper"]).mean()
    assert low < 0.05 and high < 0.05 and low + high > 0.005
    assert np.allclose(counts.mean(axis=(0, 1)), said.X.mean(axis=0), rtol=0.06, atol=0.02)
    rate = found.sample(where, 800, what="rate", size_factors=2.0)
    assert np.allclose(rate.mean(axis=(0, 1)), counts.mean(axis=(0, 1)), rtol=0.03, atol=0.01)


def test_draws_are_maps(model):
    """Neighbours move together in a draw, places that are far apart do not, and spots of the fit agree with the gap."""
    left, right = np.array([[0.05, 0.05]]), np.array([[0.06, 0.05]])
    drawn = np.log(model.sample(np.concatenate([left, right, [[1.9, -1.9]]]), 2000))
    close, far = (np.corrcoef(drawn[:, 0, 0], drawn[:, i, 0])[0, 1] for i in (1, 2))
    assert close > 0.95 and abs(far) < 0.3


def test_draws_are_the_same_for_a_seed(model, parts):
    where = parts[1].obsm["spatial"][:40]
    for what in ("factors", "rate", "counts"):
        first, again, other = (model.sample(where, 7, what=what, random_state=seed) for seed in (3, 3, 4))
        assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(model.sample(where, 7), model.sample(parts[1][:40], 7))


def test_size_factors_scale_rates(model, parts):
    where = parts[1].obsm["spatial"][:5]
    one, three = (model.sample(where, 9, what="rate", size_factors=s) for s in (1.0, 3.0))
    assert np.allclose(three, 3 * one, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.sample(np.zeros((2, 2)), 0), ConfigError, "n_samples"),
        (lambda m: m.sample(np.zeros((2, 2)), 2, what="mean"), ConfigError, "'rate'"),
        (lambda m: m.sample(np.zeros((2, 3)), 2), ShapeError, "2 coordinates"),
        (lambda m: m.sample(np.zeros((2, 2)), 2, what="rate", size_factors=[1, -1]), DataError, "size_factors"),
        (lambda m: m.factor_interval(np.zeros((2, 2)), 1.5), ConfigError, "level"),
        (lambda m: nsf.NSF(3).sample(np.zeros((2, 2))), NotFittedError, "fit first"),
    ],
)
def test_errors(model, call, error, words):
    with pytest.raises(error, match=words):
        call(model)


# Factors from counts


@pytest.mark.parametrize(("name", "likelihood"), KINDS)
def test_spots_of_the_fit_get_their_factors_back(family, parts, name, likelihood):
    found = family(name, likelihood)
    before = found.state_.loadings.copy()
    back = found.transform(parts[0][:300])
    link = np.log if found.state_.link.nonnegative else np.asarray
    assert (np.diag(np.corrcoef(link(found.factors_).T, link(back).T)[:3, 3:]) > 0.98).all()
    assert list(back.index) == list(parts[0].obs_names[:300]) and list(back.columns) == list(found.factors_.columns)
    assert np.array_equal(found.state_.loadings, before)


def test_counts_know_more_than_the_place(model, parts):
    val = parts[1]
    truth, place = val.obsm["truth"], np.log(model.predict(val).obsm["X_nsf"])
    both, counts = (np.log(model.transform(val, use_location=use)) for use in (True, False))
    columns, _ = match_factors(truth, both)
    of = {name: factor_correlation(truth, table) for name, table in (("p", place), ("b", both), ("c", counts))}
    assert sorted(columns) == [0, 1, 2] and (of["b"] > of["p"]).all() and (of["b"] > of["c"]).all()


@pytest.mark.parametrize(("name", "likelihood"), [("NSF", "nb"), ("RSF", "poisson"), ("NSF", "gaussian")])
def test_spots_do_not_know_of_each_other(family, parts, name, likelihood):
    found, val = family(name, likelihood), parts[1][:60]
    whole = found.transform(val)
    order = np.random.default_rng(0).permutation(60)
    assert np.allclose(found.transform(val[order]), whole.iloc[order], rtol=5e-3, atol=5e-3)
    assert np.allclose(found.transform(val[7:8]), whole.iloc[7:8], rtol=5e-3, atol=5e-3)
    genes = val[:, ::-1]
    assert np.allclose(found.transform(genes), whole, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("name", "likelihood"), KINDS)
def test_a_spot_without_counts(family, parts, name, likelihood):
    empty = parts[1][:4].copy()
    empty.X = sp.csr_matrix(empty.shape, dtype="f4")
    found = family(name, likelihood)
    factors, std = found.transform(empty, return_std=True)
    assert np.isfinite(factors).all(axis=None) and np.isfinite(std).all(axis=None)


def test_without_exposure_the_prior_is_what_is_known(parts):
    train, empty = parts[0][:300], parts[1][:4].copy()
    empty.X = sp.csr_matrix(empty.shape, dtype="f4")
    found = MODELS["NSF"]().fit(train, size_factors="scanpy")
    factors, std = found.transform(empty, return_std=True)
    said = found.predict(empty, size_factors=1.0)
    assert np.allclose(factors, said.obsm["X_nsf"], rtol=1e-3) and np.allclose(std, said.obsm["X_nsf_std"], rtol=1e-2)


def test_another_tissue_needs_no_places(model, parts):
    val = parts[1].copy()
    expected = model.transform(val, use_location=False)
    del val.obsm["spatial"]
    assert np.allclose(model.transform(val, use_location=False), expected)
    with pytest.raises(DataError, match="spatial"):
        model.transform(val)


def test_missing_genes(model, parts):
    some = parts[1][:, 3:]
    with pytest.raises(DataError, match="3 of 80 missing.*gene0"):
        model.transform(some)
    near = model.transform(some, allow_missing=True)
    assert factor_correlation(np.log(model.transform(parts[1])), np.log(near)).min() > 0.9
    none = parts[1][:, :2].copy()
    none.var_names = ["a", "b"]
    with pytest.raises(DataError, match="none of 80"):
        model.transform(none, allow_missing=True)


def test_a_part_of_the_genes_has_the_exposure_of_all(parts):
    found = MODELS["PNMF"]().fit(parts[0][:300], size_factors="scanpy")
    half = np.arange(80) % 2 == 0
    every, some = (found.transform(part, allow_missing=True) for part in (parts[1], parts[1][:, half]))
    assert np.median(some.to_numpy() / every.to_numpy()) == pytest.approx(1, abs=0.25)


def test_a_saved_model_transforms(model, parts, tmp_path):
    expected = model.transform(parts[0][:50])
    for counts in (True, False):
        model.save(tmp_path / str(counts), counts=counts)
        again = nsf.load(tmp_path / str(counts))
        assert np.allclose(again.transform(parts[0][:50]), expected, rtol=1e-3)
        assert np.array_equal(again.sample(np.zeros((1, 2)), 3), model.sample(np.zeros((1, 2)), 3))
        assert np.allclose(again.factor_interval(np.zeros((1, 2)))[0], model.factor_interval(np.zeros((1, 2)))[0])
    with pytest.raises(ConfigError, match="saved without its counts"):
        again.transform(parts[0][:50, 3:], allow_missing=True)


# Genes from other genes


def test_other_genes_predict_better_than_the_place(model, parts):
    held = np.arange(80) % 3 == 0
    table = score_imputation(model, parts[1], held)["deviance"]
    assert table["other genes and place"] < table["place"] < table["gene mean"]
    assert table["other genes and place"] < min(table["other genes"], table["nearest spots"])
    assert score_imputation(model, parts[1], list(parts[1].var_names[held]))["deviance"].equals(table)
    assert impute(model, parts[1][:, ~held]).shape == parts[1].shape


def test_held_out_genes_are_not_looked_at(model, parts):
    held, other = np.arange(80) % 3 == 0, parts[1].copy()
    other.X = sp.csr_matrix(np.where(held, 50.0, other.X.toarray()).astype("f4"))
    assert impute(model, other[:, ~held]).equals(impute(model, parts[1][:, ~held]))


# Coverage


@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_intervals_hold_what_they_promise(likelihood):
    """Data from the model itself: counts by randomised ranks, and factors up to their scale."""
    adata = drawn_from_model(5, 0.3 if likelihood == "nb" else None, 1200)
    train, val = adata[:800].copy(), adata[800:].copy()
    found = nsf.NSF(3, likelihood=likelihood, n_inducing=200, n_starts=2).fit(train)
    said = found.coverage(val, 0.9)
    assert said.randomised == pytest.approx(0.9, abs=0.03) and said.plain > said.randomised
    assert np.abs(said.histogram * 20 - 1).max() < 0.15
    columns, _ = match_factors(np.exp(train.obsm["truth"]), found.factors_)
    scale = found.factors_.to_numpy()[:, columns].mean(axis=0) / np.exp(train.obsm["truth"]).mean(axis=0)
    shares = {}
    for name, part in (("new", val), ("fit", train)):
        lower, upper = (end.to_numpy()[:, columns] for end in found.factor_interval(part, 0.9))
        truth = np.exp(part.obsm["truth"]) * scale
        shares[name] = ((truth > lower) & (truth < upper)).mean()
    assert shares["new"] == pytest.approx(0.9, abs=0.03) and shares["fit"] > 0.82, shares


def test_coverage_by_spot_and_gene(model, parts):
    said, half = model.coverage(parts[1], 0.9), model.coverage(parts[1], 0.5)
    assert said.by_spot.shape == (300,) and said.by_feature.shape == (80,) and said.histogram.sum() == pytest.approx(1)
    assert said.by_spot.mean() == pytest.approx(said.randomised) == pytest.approx(said.by_feature.mean())
    assert half.randomised == pytest.approx(0.5, abs=0.05) and half.plain >= half.randomised
    there = model.predict(parts[1], interval=0.9)
    y = parts[1].X.toarray()
    assert said.plain == pytest.approx(((y >= there.layers["lower"]) & (y <= there.layers["upper"])).mean(), abs=1e-3)


def test_coverage_needs_an_interval(family, parts):
    with pytest.raises(ConfigError, match="nonnegative loadings"):
        family("RSF", "poisson").coverage(parts[1])


def test_mefisto_says_what_it_has():
    found = nsf.MEFISTO(2)
    found.state_ = object()  # what matters is that it is not made of the parts of the other models
    for ask in (lambda: found.sample(np.zeros((1, 2))), lambda: found.transform(None), lambda: found.coverage(None)):
        with pytest.raises(ConfigError, match="MEFISTO.*predict with interval"):
            ask()


# Between sections


def test_a_section_between_sections():
    """A stack of five sections, the middle one held out: predicted from its neighbours."""
    rng = np.random.default_rng(0)
    flat = rng.uniform(0, 4, (120, 2))
    places = np.concatenate([np.column_stack([flat, np.full(120, 0.4 * k)]) for k in range(5)])
    truth = np.exp(np.column_stack([np.sin(places[:, 0] + places[:, 2]), np.cos(places[:, 1] - places[:, 2])]))
    loadings = rng.gamma(0.7, 1.0, (50, 2)) * (rng.random((50, 2)) < 0.5)
    counts = rng.poisson(truth @ loadings.T).astype("f4")
    adata = anndata.AnnData(counts, obsm={"spatial": places})
    middle = places[:, 2] == 0.8
    found = nsf.NSF(2, n_inducing=150, n_starts=2, max_iter=80).fit(adata[~middle].copy())
    there = found.predict(places[middle], interval=0.9)
    assert factor_correlation(truth[middle], there.obsm["X_nsf"]).min() > 0.9
    assert ((counts[middle] >= there.layers["lower"]) & (counts[middle] <= there.layers["upper"])).mean() > 0.9
