"""The family of models: what is the same when parts coincide, and what negative binomial counts are worth."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars."""
    from nsf_nb import settings

    monkeypatch.setattr(settings, "progress", False)


@pytest.fixture(scope="module")
def mixed():
    """Three patterns of four and two factors without space, 24 × 24 spots; the last tenth of the rows apart."""
    from nsf_nb import simulate

    adata = simulate("quilt", 80, 2, n_side=24, seed=3)
    return adata[:518].copy(), adata[518:].copy()


SMALL = {"n_starts": 2, "max_iter": 60}


def bits(model):
    """Everything that a fit has found."""
    return [model.loadings_.to_numpy(), model.factors_.to_numpy(), model.history["elbo"].to_numpy()]


@pytest.mark.parametrize("hybrid, plain", [((4, 0), ("NSF", 4)), ((0, 3), ("PNMF", 3))])
def test_a_hybrid_with_one_kind_of_factors_is_that_model(mixed, hybrid, plain):
    import nsf_nb

    params = SMALL | ({"n_inducing": 100} if plain[0] == "NSF" else {})
    other = getattr(nsf_nb, plain[0])(plain[1], **params).fit(mixed[0], layer="counts")
    model = nsf_nb.NSFH(*hybrid, **params).fit(mixed[0], layer="counts")
    assert all(np.array_equal(one, two) for one, two in zip(bits(model), bits(other), strict=True))


@pytest.fixture(scope="module")
def hybrid(mixed):
    """A hybrid fit of the two kinds of counts."""
    from nsf_nb import NSFH, settings

    settings.progress = False
    fits = {name: NSFH(4, 2, likelihood=name, n_starts=4) for name in ("poisson", "nb")}
    return {name: model.fit(mixed[0], layer="counts") for name, model in fits.items()}


def test_a_hybrid_finds_both_kinds_of_factors(mixed, hybrid):
    truth = np.hstack([mixed[0].obsm["spfac"], mixed[0].obsm["nsfac"]])
    found = np.abs(np.corrcoef(truth.T, hybrid["poisson"].factors_.T)[:6, 6:])
    assert found.max(axis=1).min() > 0.96  # of 518 spots; 0.99 on the published 1,231
    match = found.argmax(axis=1)
    assert set(match[:4]) == {0, 1, 2, 3} and set(match[4:]) == {4, 5}  # each in the group of its kind


def test_the_bound_of_a_hybrid_never_decreases(hybrid):
    for model in hybrid.values():
        for _, run in model.history.groupby("start"):
            bound = run["elbo"].to_numpy()
            assert (np.diff(bound) >= -1e-6 * np.abs(bound[1:])).all()


def test_dispersions_of_simulated_counts_are_recovered(hybrid):
    assert hybrid["poisson"].dispersion_ is None
    assert abs(hybrid["nb"].dispersion_.median() / 0.1 - 1) < 0.2  # the simulation has shape 10


def test_negative_binomial_counts_are_predicted_better_by_their_own_likelihood(mixed, hybrid):
    scores = {name: model.evaluate(mixed[1])["log_likelihood"] for name, model in hybrid.items()}
    assert scores["nb"] > scores["poisson"]


def test_without_dispersion_negative_binomial_is_poisson(mixed, monkeypatch):
    from nsf_nb import NSF
    from nsf_nb.probability.likelihoods import NegativeBinomial

    monkeypatch.setattr(NegativeBinomial, "start", 1e-5)
    monkeypatch.setattr(NegativeBinomial, "learn", lambda self, blocks, dispersion: dispersion)
    params = {"n_inducing": 100, "n_starts": 1, "max_iter": 60, "learn_kernels": False}
    one, two = (NSF(4, likelihood=name, **params).fit(mixed[0], layer="counts") for name in ("poisson", "nb"))
    assert np.isclose(one.elbo_.total, two.elbo_.total, rtol=1e-3)
    between = np.corrcoef(one.factors_.T, two.factors_.T)[:4, 4:]
    assert np.diag(between).min() > 0.999  # factor by factor: scale is shared with the loadings


def test_a_factor_without_space_is_the_same_at_every_new_place(mixed, hybrid):
    found = hybrid["poisson"].predict(mixed[1]).obsm["X_nsf"]
    assert np.ptp(found[:, 4:], axis=0).max() == 0 and np.ptp(found[:, :4], axis=0).min() > 0
    average = hybrid["poisson"].factors_.to_numpy()[:, 4:].mean(axis=0)
    assert np.all(found[0, 4:] <= average * 1.0001) and np.all(found[0, 4:] > 0.8 * average)


NAMES = ["NSF", "PNMF", "NSFH", "RSF", "FA", "RSFH", "MEFISTO"]
ABSENT = {
    "NSF": {"n_spatial": "NSFH(n_spatial=..., n_nonspatial=...)", "n_nonspatial": "NSFH(", "log1p": "MEFISTO("},
    "PNMF": {"kernel": "NSF(kernel=...) or NSFH(kernel=...)", "n_inducing": "NSF(n_inducing=", "n_spatial": "NSFH("},
    "NSFH": {"n_factors": "NSFH(n_spatial=..., n_nonspatial=...)"},
    "RSF": {"n_spatial": "RSFH(n_spatial=..., n_nonspatial=...)"},
    "FA": {"kernel": "RSF(kernel=...) or RSFH(kernel=...)", "learn_kernels": "RSF(", "n_nonspatial": "RSFH("},
    "RSFH": {"n_factors": "RSFH(n_spatial=..., n_nonspatial=...)"},
    "MEFISTO": {"likelihood": "RSF(likelihood=...)", "inference": "RSF(inference=...)", "n_spatial": "NSFH("},
}


@pytest.mark.parametrize("name, parameter", [(name, parameter) for name in NAMES for parameter in ABSENT[name]])
def test_a_parameter_of_another_model_is_refused_with_the_way_to_it(name, parameter):
    import nsf_nb

    with pytest.raises(nsf_nb.ConfigError) as caught:
        getattr(nsf_nb, name)(**{parameter: 3})
    text, first = str(caught.value), next(iter(getattr(nsf_nb, name)().get_params(deep=False)))
    assert text.startswith(f"Expected parameters of {name} (") and first in text and f"found {parameter}. " in text
    assert f"use {ABSENT[name][parameter]}" in text


@pytest.mark.parametrize("name", NAMES)
def test_unknown_parameters_are_refused_and_constructors_stay_inert(name):
    import inspect

    from sklearn.base import clone

    import nsf_nb

    kind = getattr(nsf_nb, name)
    with pytest.raises(nsf_nb.ConfigError, match=r"found random_sate\. Did you mean random_state\?"):
        kind(random_sate=1)
    with pytest.raises(nsf_nb.ConfigError, match=r"found nothing_like_it and more\. Leave it out"):
        kind(nothing_like_it=1, more=2)
    with pytest.raises(nsf_nb.ConfigError, match="by name"):
        kind(3, 2, "nb")
    with pytest.raises(ValueError, match="random_sate"):  # by scikit-learn
        kind().set_params(random_sate=1)
    signature = inspect.signature(kind)
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in signature.parameters.values())
    odd = {parameter: object() for parameter in signature.parameters}
    model = kind(**odd)
    assert list(model.get_params(deep=False)) == sorted(odd) and model.get_params(deep=False) == odd
    copy = clone(kind(random_state=5))
    assert type(copy) is kind and copy.random_state == 5


def test_an_estimator_of_ones_own_is_checked_as_well():
    from nsf_nb import NSF, ConfigError

    class Mine(NSF):
        def __init__(self, n_factors=3, *, tuned=1.0):
            super().__init__(n_factors)
            self.tuned = tuned

    assert Mine(4).n_factors == 4
    with pytest.raises(ConfigError, match=r"of Mine \(n_factors, tuned\), found kernel"):
        Mine(kernel="matern32")


WRONG = {
    "none": ((0, 0), {}, ["at least one factor", "n_spatial and n_nonspatial of zero"]),
    "negative": ((-1, 2), {}, ["at least 0 for n_spatial", "found -1"]),
    "negative nonspatial": ((2, -1), {}, ["at least 0 for n_nonspatial", "found -1"]),
    "fraction": ((2, 1.5), {}, ["integer", "n_nonspatial", "1.5 (float)"]),
    "too many": ((60, 40), {}, ["n_spatial + n_nonspatial of at most 80", "found 100"]),
    "unknown likelihood": ((2, 1), {"likelihood": "normal"}, ["'poisson', 'nb', 'gaussian'", "'normal'"]),
    "unknown kernel": ((2, 1), {"kernel": "matern"}, ["'matern12', 'matern32'", "'matern'"]),
    "no kernel": ((2, 1), {"kernel": None}, ["'matern12', 'matern32'", "None"]),
    "unknown engine": ((2, 1), {"inference": "vi"}, ["'cavi', 'svi'", "'vi'"]),
}


@pytest.mark.parametrize("name", ["NSFH", "RSFH"])
@pytest.mark.parametrize("case", WRONG)
def test_values_without_meaning_are_refused(mixed, name, case, monkeypatch):
    import nsf_nb
    from nsf_nb import factorization

    monkeypatch.setattr(factorization, "run_with_care", lambda *_: pytest.fail("the fit has begun"))
    sizes, params, parts = WRONG[case]
    with pytest.raises(nsf_nb.ConfigError) as caught:
        getattr(nsf_nb, name)(*sizes, **params).fit(mixed[0], layer="counts")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("kind", ["Poisson", "NegativeBinomial", "Gaussian"])
def test_a_likelihood_is_named_not_passed(mixed, kind):
    from nsf_nb import RSF, ConfigError
    from nsf_nb.probability import likelihoods

    for value in (getattr(likelihoods, kind), getattr(likelihoods, kind)()):
        with pytest.raises(ConfigError, match="one of 'poisson', 'nb', 'gaussian' for likelihood"):
            RSF(2, likelihood=value).fit(mixed[0], layer="counts")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["centred", "normalised"])
def test_every_model_wants_raw_counts(mixed, name, change):
    import nsf_nb

    adata = mixed[0].copy()
    counts = np.asarray(adata.layers.pop("counts").todense() if hasattr(adata.layers["counts"], "todense") else adata.X)
    adata.X = counts - counts.mean(axis=0) if change == "centred" else np.log1p(counts / 2)
    with pytest.raises(nsf_nb.DataError) as caught:
        getattr(nsf_nb, name)().fit(adata)
    assert "adata.X" in str(caught.value) and "raw counts" in str(caught.value) and "inside" in str(caught.value)


def test_a_kernel_may_be_an_object_but_not_a_class(mixed):
    from tensorflow_probability.python.math import psd_kernels as tfk

    from nsf_nb import NSF
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError, match=r"'matern12', 'matern32'.* the class MaternOneHalf.*MaternOneHalf\(\.\.\.\)"):
        NSF(2, kernel=tfk.MaternOneHalf).fit(mixed[0], layer="counts")
    params = {"n_inducing": 60, "n_starts": 1, "max_iter": 10}
    kernel = tfk.MaternThreeHalves(np.float64(1.0), np.float64(1.0))
    one, two = (NSF(2, kernel=k, **params).fit(mixed[0], layer="counts") for k in (kernel, "matern32"))
    assert np.allclose(one.factors_, two.factors_, rtol=1e-3)


def test_either_engine_goes_on_from_the_other(mixed):
    from nsf_nb import NSF, NSFH
    from nsf_nb.core import ConfigError, DataError

    train, params = mixed[0], {"n_inducing": 60, "n_starts": 1}
    first = NSF(4, inference="svi", max_iter=15, **params).fit(train, layer="counts")
    assert set(first.history["start"]) == {"svi"} and first.n_iter_ == 15
    finished = NSF(4, max_iter=40, **params).fit(train, layer="counts", begin=first)
    assert set(finished.history["start"]) == {"final"} and finished.elbo_.total > first.elbo_.total
    with pytest.raises(DataError, match="to begin with"):
        NSF(4, **params).fit(mixed[1], layer="counts", begin=first)
    with pytest.raises(ConfigError, match="to begin with"):
        NSFH(3, 1, **params).fit(train, layer="counts", begin=first)


@pytest.mark.parametrize("name", ["RSF", "FA"])
def test_real_valued_models_predict_counts(mixed, name):
    import nsf_nb

    for likelihood in ("gaussian", "poisson"):
        model = getattr(nsf_nb, name)(3, likelihood=likelihood, max_iter=40).fit(mixed[0], layer="counts")
        scores = model.score_table(mixed[1])
        assert (model.predict(mixed[1]).X >= 0).all() and np.isfinite(scores.to_numpy()).all()
        assert scores.loc[name, "deviance"] < 1.01 * scores.loc["gene mean", "deviance"]


def test_at_its_own_spots_a_fit_predicts_what_it_has_found(mixed):
    from nsf_nb import NSF

    model = NSF(4, n_inducing=200, **SMALL).fit(mixed[0], layer="counts")
    again = model.predict(mixed[0])
    assert np.allclose(again.obsm["X_nsf"], model.factors_) and np.allclose(again.obsm["X_nsf_std"], model.factor_std_)
    shuffled = np.random.default_rng(0).permutation(mixed[0].n_obs)
    some = model.predict(np.vstack([mixed[0].obsm["spatial"][shuffled], mixed[1].obsm["spatial"]]))
    assert np.allclose(some.obsm["X_nsf"][: len(shuffled)], model.factors_.to_numpy()[shuffled])
    elsewhere = model.predict(mixed[1]).obsm["X_nsf"]
    assert np.allclose(some.obsm["X_nsf"][len(shuffled) :], elsewhere)
    state, places = model.state_, model.result_.scaling.apply(mixed[1].obsm["spatial"])
    assert state.between is not None and np.allclose(elsewhere, state.factors_at(places)[0], rtol=1e-5)


def test_kernels_that_do_not_move_predict_as_they_are(mixed):
    from nsf_nb import NSF

    model = NSF(4, n_inducing=60, learn_kernels=False, **SMALL).fit(mixed[0], layer="counts")
    assert model.state_.between is None


def test_the_bound_is_recorded_beside_its_sampled_value(hybrid):
    for model in hybrid.values():
        elbo = model.elbo_
        assert elbo.gap == elbo.sampled - elbo.total and elbo.sampled_error > 0
        assert elbo.gap > -4 * elbo.sampled_error and elbo.gap < 0.01 * abs(elbo.total)
        assert {"sampled", "sampled_error", "gap"} <= set(elbo.as_dict())


EXACT = [("RSF", "gaussian"), ("RSF", "poisson"), ("FA", "gaussian"), ("NSF", "gaussian")]


@pytest.mark.parametrize("name, likelihood", EXACT)
def test_a_bound_without_inequality_has_no_gap(mixed, name, likelihood):
    import nsf_nb

    params = {"n_inducing": 60} if name != "FA" else {}
    model = getattr(nsf_nb, name)(3, likelihood=likelihood, max_iter=40, **params).fit(mixed[0], layer="counts")
    assert abs(model.elbo_.gap) < 5 * model.elbo_.sampled_error


def test_a_refined_fit_has_a_higher_sampled_bound():
    from nsf_nb import PNMF, simulate
    from nsf_nb.inference.stochastic import at_spots, sampled_elbo

    adata = simulate("ggblocks", 60, n_side=24, expression=1.0, seed=2)
    plain, refined = (PNMF(4, refine_samples=s, **SMALL).fit(adata, layer="counts") for s in (0, 8))
    assert set(refined.history["start"]) == set(plain.history["start"]) | {"sampled"}
    assert refined.n_iter_ > plain.n_iter_ and "refinement" in refined.result_.seconds
    fits = [(one.result_, one.data_) for one in (plain, refined)]
    before, after = (sampled_elbo(f.model, f.state, data, 200, 5, at_spots(f)) for f, data in fits)
    assert after.total > before.total + 5 * np.hypot(before.standard_error, after.standard_error)
    assert refined.elbo_.total < plain.elbo_.total  # it has left the optimum of the other bound


@pytest.mark.parametrize(
    "name, params, words",
    [
        ("NSF", {"refine_samples": 3}, "draws come in pairs"),
        ("NSF", {"refine_samples": -2}, "at least 0"),
        ("NSFH", {"refine_samples": 4, "inference": "svi"}, "sample in any case"),
        ("PNMF", {"refine_samples": 4, "likelihood": "gaussian"}, "bound is exact"),
        ("RSF", {"refine_samples": 4}, "mixtures of exponentials"),
    ],
)
def test_a_refinement_that_has_no_meaning(name, params, words):
    import nsf_nb
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError, match=words):
        getattr(nsf_nb, name)(**params).plan()
