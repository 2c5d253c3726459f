"""The numbers that the first version promises, on the shared data, with definitions independent of the package."""

import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.data


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars."""
    from nsf_nb import settings

    monkeypatch.setattr(settings, "progress", False)


def held_out(path, shuffle):
    """The first 95 % of the rows and the last 5 %, for real data after one seeded shuffle."""
    from nsf_nb.data.files import read_h5ad  # it knows that some of the files are old

    adata = read_h5ad(path)
    if shuffle:
        adata = adata[np.random.default_rng(0).permutation(adata.n_obs)]
    n = round(0.95 * adata.n_obs)
    return adata[:n].copy(), adata[n:].copy()


def dense(adata):
    """Counts as floats."""
    counts = adata.layers["counts"]
    return np.asarray(counts.todense() if hasattr(counts, "todense") else counts, dtype=float)


def deviance(y, mu):
    """Mean Poisson deviance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * (np.where(y > 0, y * np.log(y / mu), 0.0) - y + mu).mean()


def paper_deviance(y, mu):
    """The published code's formula."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = y * np.log(y / mu)
    return terms[np.isfinite(terms)].mean() + (mu - y).mean()


def correlations(true, found):
    """Of each true factor, the largest absolute one."""
    k = true.shape[1]
    return np.abs(np.corrcoef(true.T, found.T)[:k, k:]).max(axis=1)


def fitted(train, n_factors, size_factors, **params):
    """A fit with default settings; a warning is an error."""
    from nsf_nb import NSF

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="tensorflow|tf_keras")
        model = NSF(n_factors, random_state=0, **params)
        return model.fit(train, layer="counts", spatial_key="spatial", size_factors=size_factors)


LIMITS = {"S1": (0.996, 4.0, 4.4, 0.7), "S6": (0.997, 1.45, 1.9, 0.3)}


@pytest.mark.parametrize("name", LIMITS)
def test_simulations(name, data_dir):
    correlation, limit, paper_limit, zeros = LIMITS[name]
    train, val = held_out(data_dir / f"{name}.h5ad", shuffle=False)
    model = fitted(train, 4, "constant")
    y, mu = dense(val), model.predict(val).X.astype(float)
    found = {
        "correlation": correlations(train.obsm["spfac"], model.factors_.to_numpy()).min(), "deviance": deviance(y, mu),
        "paper_deviance": paper_deviance(y, mu), "sparsity": (model.loadings_.to_numpy() < 1e-6).mean(),
    }
    assert model.evaluate(val)["deviance"] == pytest.approx(found["deviance"], rel=1e-4)
    assert model.evaluate(val)["paper_deviance"] == pytest.approx(found["paper_deviance"], rel=1e-3, abs=1e-3)
    good = found["correlation"] >= correlation, found["deviance"] <= limit, found["paper_deviance"] <= paper_limit
    assert all(good) and found["sparsity"] >= zeros, found


def test_visium(data_dir):
    train, val = held_out(data_dir / "visium_sagittal_anterior1.h5ad", shuffle=True)
    model = fitted(train, 12, "scanpy", n_inducing=1000)
    y, mu = dense(val), model.predict(val).X.astype(float)
    found = {"deviance": deviance(y, mu), "paper_deviance": paper_deviance(y, mu)}
    found["bound"] = float(model.elbo_.per_observation)
    assert found["bound"] >= -1180 and found["deviance"] <= 2.25 and found["paper_deviance"] <= 1.36, found


REAL = {"slideseqv2_hippocampus_sub": (6, 1000), "st_mob": (6, None), "eco_mite": (3, None)}


@pytest.mark.parametrize("name", REAL)
def test_small_real_data(name, data_dir, caplog):
    from nsf_nb import pp

    n_factors, n_top = REAL[name]
    train, val = held_out(data_dir / f"{name}.h5ad", shuffle=True)
    mask = None
    if n_top:
        pp.deviance(train, layer="counts", n_top=n_top)
        mask = train.var["highly_deviant"].to_numpy()
    train, val = (part if mask is None else part[:, mask].copy() for part in (train, val))
    counted = dense(train).any(axis=0)  # a gene without counts has a warning of its own
    train, val = train[:, counted].copy(), val[:, counted].copy()
    model = fitted(train, n_factors, "scanpy")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
    sizes = dense(val).sum(axis=1) / np.median(dense(train).sum(axis=1))
    train_sizes = dense(train).sum(axis=1) / np.median(dense(train).sum(axis=1))
    flat = sizes[:, None] * dense(train).sum(axis=0) / train_sizes.sum()
    y, mu = dense(val), model.predict(val).X.astype(float)
    table = model.score_table(val)
    assert deviance(y, mu) < deviance(y, flat), table.to_string()
    assert table.loc["gene mean", "deviance"] == pytest.approx(deviance(y, flat), rel=1e-6)
