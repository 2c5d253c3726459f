"""Plots draw what is stored, on the axes that they are given, and never fit or show."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from nsf_nb.core import ConfigError, DataError, NotFittedError
from nsf_nb.data.anndata import read_h5ad, write_h5ad, write_results
from nsf_nb.data.simulate import simulate
from nsf_nb.reading import maps, plot

NAMES = ["F1", "F2", "F3"]


@pytest.fixture(autouse=True)
def canvas(monkeypatch):
    """Draw in memory; a call of show is an error; figures are closed."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("show was called"))
    yield plt
    plt.close("all")


@pytest.fixture
def fit():
    """An AnnData with a fit whose first gene was left out, and the model of that fit."""
    rng = np.random.default_rng(4)
    adata = simulate("ggblocks", n_features=30, n_side=12)
    values = rng.gamma(1, size=(adata.n_obs, 3))
    weights = rng.gamma(0.5, size=(29, 3))
    history = pd.DataFrame({"start": [0, 0, 1, 1, 1], "sweep": [0, 1, 0, 1, 2], "elbo": [-9.0, -7, -9, -6, -5]})
    history["event"] = [None, "", "kernel", "", "swap"]
    stored = {"factor_names": NAMES, "history": {name: history[name].to_numpy() for name in ("start", "sweep", "elbo")}}
    mask = np.arange(30) > 0
    write_results(adata, "nsf", values, values / 10, weights, stored, mask_var=mask)
    model = SimpleNamespace(
        factors_=pd.DataFrame(values, adata.obs_names, NAMES), factor_std_=pd.DataFrame(values / 10, columns=NAMES),
        loadings_=pd.DataFrame(weights, adata.var_names[mask], NAMES), history=history, coords_=adata.obsm["spatial"],
    )
    return adata, model


def drawn(ax):
    """Coordinates and values of a map."""
    spots = ax.collections[0]
    return np.asarray(spots.get_offsets()), np.asarray(spots.get_array())


def test_all_factors_make_one_panel_each(fit):
    adata, model = fit
    for data in fit:
        axes = plot.factors(data)
        assert [ax.get_title() for ax in axes] == NAMES
        for k, ax in enumerate(axes):
            where, values = drawn(ax)
            assert np.array_equal(where, adata.obsm["spatial"]) and np.array_equal(values, adata.obsm["X_nsf"][:, k])
            assert ax.get_aspect() == 1 and ax.get_xlim()[0] < where[:, 0].min() < where[:, 0].max() < ax.get_xlim()[1]
    assert np.array_equal(drawn(plot.factors(model, "F2", std=True))[1], adata.obsm["X_nsf_std"][:, 1])


@pytest.mark.parametrize("wanted, titles", [("F3", None), (1, None), (["F3", "F1"], ["F3", "F1"]), (["F2"], ["F2"])])
def test_one_name_gives_axes_a_list_gives_a_list(wanted, titles, fit):
    axes = plot.factors(fit[0], wanted)
    if titles is None:
        assert axes.get_title() == (wanted if isinstance(wanted, str) else NAMES[wanted])
    else:
        assert [ax.get_title() for ax in axes] == titles


def test_columns_of_panels(fit, canvas):
    figure = plot.factors(fit[0], ncols=2, return_fig=True)
    maps_only = [ax for ax in figure.axes if ax.get_title()]
    figure.draw_without_rendering()
    lefts = [round(ax.get_position().x0, 2) for ax in maps_only]
    assert len(maps_only) == 3 and lefts[0] == lefts[2] < lefts[1] and canvas.fignum_exists(figure.number)


def test_given_axes_are_used(fit, canvas):
    figure, (left, right) = canvas.subplots(1, 2)
    assert plot.factors(fit[0], "F1", ax=left) is left
    assert plot.factors(fit[0], ["F1", "F2"], ax=[left, right]) == [left, right]
    assert plot.loadings(fit[0], ax=left) is left and plot.history(fit[1], ax=right) is right
    assert canvas.get_fignums() == [figure.number]
    with pytest.raises(ConfigError, match="Expected 3 axes"):
        plot.factors(fit[0], ax=[left, right])


def test_limits(fit):
    values = fit[0].obsm["X_nsf"][:, 0]
    low, high = plot.factors(fit[0], "F1", vmin="p5", vmax="p90").collections[0].get_clim()
    assert np.isclose(low, np.percentile(values, 5)) and np.isclose(high, np.percentile(values, 90))
    assert plot.factors(fit[0], "F1", vmax=None).collections[0].get_clim() == (values.min(), values.max())
    assert plot.factors(fit[0], "F1", vmin=0, vmax=2).collections[0].get_clim() == (0, 2)
    for bad in ("99", "p101", "pp", np.nan, [1]):
        with pytest.raises(ConfigError, match="vmax"):
            plot.factors(fit[0], "F1", vmax=bad)


def test_spots_have_the_size_of_their_spacing_at_any_figure_size(fit, canvas):
    ax = plot.factors(fit[0], "F1", colorbar=False)
    ax.figure.draw_without_rendering()
    widths = []
    for size in (3, 6):
        ax.figure.set_size_inches(size, size)
        ax.figure.canvas.draw()
        spots = ax.collections[0]
        pixels = 2 * spots.get_transform().get_matrix()[0, 0] * spots.get_transforms()[0][0, 0]  # radius
        step = ax.transData.transform([[4 / 11, 0]]) - ax.transData.transform([[0, 0]])
        widths.append((pixels, step[0, 0]))
    assert np.allclose(*np.transpose(widths)) and widths[1][0] > 1.9 * widths[0][0]
    assert np.allclose(plot.factors(fit[0], "F1", size=0.1).collections[0].get_widths(), 0.1)


def test_y_grows_downward_on_demand(fit):
    bottom, top = plot.factors(fit[0], "F1", invert_y=True).get_ylim()
    assert bottom > top


def test_many_spots_are_pixels():
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(maps.RASTERIZED_ABOVE + 1, 2))
    for n, rasterized in ((len(where), True), (len(where) - 1, False)):
        ax = maps.draw_maps(where[:n], where[:n, :1], ["x"])[0]
        assert bool(ax.collections[0].get_rasterized()) is rasterized


@pytest.mark.parametrize("plane, axis", [("xy", 2), ("yx", 2), ("xz", 1), ("zy", 0)])
def test_a_volume_is_seen_along_an_axis(plane, axis, fit):
    model, where = fit[1], np.random.default_rng(1).normal(size=(144, 3))
    ax = plot.factors(model, "F1", coords=where, projection=plane)
    order = np.argsort(where[:, axis])
    columns = ["xyz".index(letter) for letter in plane]
    assert np.array_equal(drawn(ax)[0], where[order][:, columns])
    assert np.array_equal(drawn(ax)[1], model.factors_["F1"].to_numpy()[order])
    assert ax.get_xlabel() + ax.get_ylabel() == plane


def test_a_line_is_a_curve(fit):
    model, where = fit[1], np.random.default_rng(1).permutation(144.0 + np.arange(144))
    x, y = plot.factors(model, "F1", coords=where).lines[0].get_data()
    assert np.array_equal(x, np.sort(where)) and np.array_equal(y, model.factors_["F1"].to_numpy()[np.argsort(where)])


def test_spots_in_one_place_and_on_a_straight_line_are_drawn(fit, canvas):
    for where in (np.zeros((144, 2)), np.column_stack([np.arange(144.0), np.zeros(144)])):
        ax = plot.factors(fit[1], "F1", coords=where)
        ax.figure.canvas.draw()
        assert np.isfinite(ax.get_xlim()).all() and len(drawn(ax)[0]) == 144


def test_gene_beside_its_mean(fit):
    adata, model = fit
    adata.obs["depth"] = np.linspace(1, 2, adata.n_obs)
    names = list(adata.var_names[[5, 3]])
    axes = plot.gene(adata, names, layer="counts", size_factors="depth")
    assert [ax.get_title() for ax in axes] == [f"{name}, {kind}" for name in names for kind in ("counts", "mean")]
    for k, name in enumerate(names):
        counts, mean = axes[2 * k : 2 * k + 2]
        expected = adata.obs["depth"] * (model.factors_ @ model.loadings_.loc[name])
        assert np.array_equal(drawn(counts)[1], adata[:, name].layers["counts"].ravel())
        assert np.allclose(drawn(mean)[1], expected)
        assert counts.collections[0].get_clim() == mean.collections[0].get_clim()
    with pytest.raises(ConfigError, match="genes of the fit"):
        plot.gene(adata, adata.var_names[0])


def test_heat_map_rows_are_shares(fit):
    adata, model = fit
    genes = list(adata.var_names[[4, 2]])
    for data in fit:
        ax = plot.loadings(data, genes)
        table = np.asarray(ax.images[0].get_array())
        columns = [tick.get_text() for tick in ax.get_xticklabels()]
        scaled = model.loadings_.loc[genes, columns] * model.factors_[columns].sum()
        assert [tick.get_text() for tick in ax.get_yticklabels()] == genes
        assert np.allclose(table, scaled.div(scaled.sum(axis=1), axis=0))
    tops = plot.loadings(adata, n_genes=2, by="weight", mode="lda")
    rows = [tick.get_text() for tick in tops.get_yticklabels()]
    assert 2 <= len(rows) <= 6 and len(set(rows)) == len(rows) and set(rows) <= set(model.loadings_.index)


def test_history_marks_events_and_the_best_start(fit):
    lines = {line.get_label(): line for line in plot.history(fit[1]).lines}
    assert set(lines) == {"start 0", "start 1 (best)", "kernel", "swap"}
    assert lines["start 1 (best)"].get_ydata().tolist() == [-9, -6, -5]
    assert lines["kernel"].get_xydata().tolist() == [[0, -9]] and lines["swap"].get_xydata().tolist() == [[2, -5]]
    assert {line.get_label() for line in plot.history(fit[0]).lines} == {"start 0", "start 1 (best)"}


def test_a_fit_read_from_a_file_is_drawn(fit, tmp_path):
    fit[0].uns["nsf"]["factor_names"] = ["north", "south", "rim"]
    again = read_h5ad(write_h5ad(fit[0], tmp_path / "fit.h5ad"))
    assert [ax.get_title() for ax in plot.factors(again)] == ["north", "south", "rim"]
    assert len(plot.history(again).lines) == 2 and len(plot.gene(again, again.var_names[1])) == 2


@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_save(suffix, start, fit, tmp_path):
    path = tmp_path / f"factors.{suffix}"
    plot.factors(fit[0], "F1", save=path)
    assert path.read_bytes().startswith(start)
    with pytest.raises(ConfigError, match="folder"):
        plot.history(fit[1], save=tmp_path / "absent" / "a.png")


def test_data_are_left_alone(fit):
    adata, model = fit
    before = adata.copy()
    plot.factors(adata), plot.loadings(adata), plot.gene(adata, adata.var_names[2]), plot.history(model)
    assert all(np.array_equal(before.obsm[key], adata.obsm[key]) for key in before.obsm)
    assert set(before.uns) == set(adata.uns) and set(before.obs) == set(adata.obs) and set(before.var) == set(adata.var)


class Unfitted:
    """Has fit and no factors."""

    def fit(self):
        """Never called."""
        pytest.fail("a plot has called fit")


def test_what_is_not_there_is_said(fit):
    adata, model = fit
    empty = SimpleNamespace(factors_=model.factors_, history=model.history[:0])
    cases = [
        (NotFittedError, "not fitted", lambda: plot.factors(Unfitted())),
        (DataError, "X_other", lambda: plot.factors(adata, key_added="other")),
        (DataError, "obsm\\['place'\\]", lambda: plot.factors(adata, spatial_key="place")),
        (DataError, "found str", lambda: plot.loadings("adata")),
        (ConfigError, "F4", lambda: plot.factors(model, "F4")),
        (ConfigError, "at least one", lambda: plot.factors(model, [])),
        (ConfigError, "projection", lambda: plot.factors(model, projection="xz")),
        (ConfigError, "size", lambda: plot.factors(model, size=-1)),
        (ConfigError, "ncols", lambda: plot.factors(model, ncols=0)),
        (DataError, "history with bounds", lambda: plot.history(empty)),
    ]
    for error, text, call in cases:
        with pytest.raises(error, match=text):
            call()
