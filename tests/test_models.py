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


@pytest.mark.parametrize("name", ["PNMF", "FA"])
def test_a_model_without_space_has_no_parameters_of_space(name):
    import nsf_nb

    with pytest.raises(TypeError, match="kernel"):
        getattr(nsf_nb, name)(3, kernel="matern32")


@pytest.mark.parametrize("sizes", [(0, 0), (-1, 2), (2, 1.5)])
def test_impossible_numbers_of_factors_are_refused(mixed, sizes):
    from nsf_nb import NSFH
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError):
        NSFH(*sizes).fit(mixed[0], layer="counts")


def test_a_kernel_may_be_an_object_but_not_a_class(mixed):
    from tensorflow_probability.python.math import psd_kernels as tfk

    from nsf_nb import NSF
    from nsf_nb.core import ConfigError

    with pytest.raises(ConfigError, match=r"MaternOneHalf\(\.\.\.\)"):
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
