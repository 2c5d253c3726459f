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
from nsf_nb.reading.pixels import pixels_of

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


def test_many_spots_are_a_picture():
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(maps.RASTERIZED_ABOVE + 1, 2))
    for n, many in ((len(where), True), (len(where) - 1, False)):
        for ax in maps.draw_maps(where[:n], where[:n], ["x", "y"]):
            assert len(ax.images) == many and len(ax.collections) == (not many)


def test_a_picture_has_the_spots_in_their_places():
    """Also where y grows downward, and seen along another axis: the value is the coordinate."""
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(12_000, 3)) * [4, 1, 2]
    for plane, upward in (("xz", 2), ("yx", 0)):
        ax = maps.draw_maps(where, where[:, [upward]], ["up"], maps.Look(projection=plane, invert_y=True))[0]
        image, (left, right, bottom, top) = ax.images[0], ax.images[0].get_extent()
        heights = bottom + (np.arange(image.get_array().shape[0]) + 0.5) / image.get_array().shape[0] * (top - bottom)
        assert np.abs(image.get_array() - heights[:, None]).max() < 0.15 and ax.get_ylim()[0] > ax.get_ylim()[1]
        assert image.origin == "lower" and left < 0.1 < right


def test_pixels_are_the_means_that_datashader_finds():
    datashader = pytest.importorskip("datashader")
    rng = np.random.default_rng(0)
    where, values = rng.uniform(size=(20_000, 2)), rng.gamma(1.0, size=20_000)
    grid = pixels_of(where, np.zeros(len(where)), 0.001, 900)
    rows, columns = grid.shape
    left, right, bottom, top = grid.extent
    canvas = datashader.Canvas(columns, rows, x_range=(left, right), y_range=(bottom, top))
    table = pd.DataFrame({"x": where[:, 0], "y": where[:, 1], "value": values})
    theirs = np.asarray(canvas.points(table, "x", "y", datashader.mean("value")))
    assert np.allclose(grid.paint(values[:, None])[:, :, 0], theirs, equal_nan=True)


def test_every_spot_counts_and_gaps_stay_gaps():
    rng = np.random.default_rng(1)
    where = rng.uniform(size=(5_000, 2))
    where = where[np.abs(where[:, 0] - 0.5) > 0.1]
    for most in (300, 5_000, 200_000):
        grid = pixels_of(where, np.zeros(len(where)), maps.spot_spacing(where), most)
        assert (np.asarray(grid.weights.sum(axis=0)) > 0).all()
        sums = np.asarray(grid.weights.sum(axis=1)).ravel()
        assert np.allclose(sums[sums > 0], 1)
        picture = grid.paint(np.ones((len(where), 1)))[:, :, 0]
        assert np.isnan(picture[:, picture.shape[1] // 2]).all()


def test_the_highest_spot_of_a_pixel_is_seen():
    rng = np.random.default_rng(0)
    where, height = rng.uniform(size=(3_000, 2)), rng.uniform(1, 2, size=3_000)
    grid = pixels_of(where, height, 0.001, 50)
    left, right, bottom, top = grid.extent
    at = np.floor((where - [left, bottom]) / [right - left, top - bottom] * grid.shape[::-1]).astype(int)
    best = np.zeros(grid.shape)
    np.maximum.at(best, (at[:, 1], at[:, 0]), height)
    assert np.array_equal(np.nan_to_num(grid.paint(height[:, None])[:, :, 0]), best)


def test_what_panels_share_is_found_once(monkeypatch):
    calls = []
    monkeypatch.setattr(maps, "spot_spacing", lambda plane: calls.append(len(plane)) or 0.01)
    where = np.random.default_rng(0).uniform(size=(11_000, 2))
    maps.draw_maps(where, np.tile(where, 3), list("abcdef"))
    assert calls == [11_000]


def test_a_file_of_many_spots_is_small(tmp_path):
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(30_000, 2))
    table = pd.DataFrame(rng.gamma(1.0, size=(30_000, 4)), columns=list("abcd"))
    axes = plot.factors(SimpleNamespace(factors_=table, coords_=where), save=tmp_path / "factors.pdf")
    assert all(len(ax.images) == 1 and not ax.collections for ax in axes)
    assert (tmp_path / "factors.pdf").stat().st_size < 2_000_000


def test_pixels_of_a_figure_are_bounded():
    where = np.random.default_rng(0).uniform(size=(20_000, 2))
    look = maps.Look(size=1e-4)
    for n, most in ((1, 1_000_000), (20, 150_000)):
        assert 0.95 * most < np.prod(maps.scene_of(where, look, n).pixels.shape) < 1.05 * most


def test_a_volume_in_perspective(fit, canvas, tmp_path):
    where = np.random.default_rng(1).normal(size=(144, 3))
    axes = plot.factors(fit[1], ["F1", "F2"], coords=where, projection="3d", save=tmp_path / "volume.pdf")
    spots = axes[0].collections[0]
    assert np.array_equal(np.stack(spots._offsets3d, axis=1), where) and not spots.get_rasterized()
    assert np.array_equal(axes[1].collections[0].get_array(), fit[1].factors_["F2"])
    with pytest.raises(ConfigError, match="three dimensions"):
        plot.factors(fit[1], "F1", coords=where, projection="3d", ax=canvas.figure().subplots())
    with pytest.raises(ConfigError, match="projection"):
        plot.factors(fit[1], "F1", projection="3d")
    many = np.random.default_rng(1).normal(size=(10_001, 3))
    assert maps.draw_maps(many, many[:, :1], ["x"], maps.Look(projection="3d"))[0].collections[0].get_rasterized()


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
