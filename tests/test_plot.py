"""Plots draw what is stored, on the axes that they are given, and never fit or show."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from nsf_nb import pl
from nsf_nb.core import ConfigError, DataError, NotFittedError
from nsf_nb.data.anndata import read_h5ad, write_h5ad, write_results
from nsf_nb.data.counts import SizeFactors
from nsf_nb.data.simulate import simulate
from nsf_nb.inference.convergence import CubicConvergence
from nsf_nb.reading import goodness, maps, plot
from nsf_nb.reading.composite import PALETTE, mixed_colours, oklab, screen_colours
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


def test_one_factor_one_gene_and_one_spot(fit, canvas):
    """The smallest data there are, in each picture."""
    one = SimpleNamespace(
        factors_=pd.DataFrame({"F1": [2.0]}), factor_std_=pd.DataFrame({"F1": [1.0]}), coords_=np.zeros((1, 2)),
        loadings_=pd.DataFrame({"F1": [1.0]}, index=["g"]), history=fit[1].history[:1],
    )
    for draw in (pl.factors, pl.uncertainty, pl.composite, pl.loadings, pl.history, pl.convergence):
        figure = draw(one, return_fig=True)
        figure.canvas.draw()


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


def test_uncertainty_is_relative_unless_a_factor_has_signs(fit):
    adata, model = fit
    for data in fit:
        axes = pl.uncertainty(data, ["F3", "F1"])
        titles = [f"{name}, {kind}" for name in ("F3", "F1") for kind in ("mean", "sd / mean")]
        assert [ax.get_title() for ax in axes] == titles
        assert np.array_equal(drawn(axes[0])[1], model.factors_["F3"]) and np.allclose(drawn(axes[1])[1], 0.1)
    signed = SimpleNamespace(**{**vars(model), "factors_": model.factors_ - 1})
    mean, std = pl.uncertainty(signed, "F1")
    assert std.get_title() == "F1, sd" and np.array_equal(drawn(std)[1], model.factor_std_["F1"])
    zeros = SimpleNamespace(**{**vars(model), "factors_": 0 * model.factors_, "factor_std_": 0 * model.factors_})
    assert not drawn(pl.uncertainty(zeros, "F1")[1])[1].any()


def test_colours_mix_by_the_shares_of_counts(fit):
    adata, model = fit
    where, loads = adata.obsm["spatial"], model.loadings_.sum().to_numpy()
    amounts = model.factors_.to_numpy() * loads
    hues = np.array([matplotlib.colors.to_rgb(name) for name in PALETTE[:3]])
    for data in fit:
        spots = pl.composite(data, fade=False).collections[0]
        shares = amounts / amounts.sum(axis=1, keepdims=True)
        assert np.allclose(spots.get_facecolor()[:, :3], screen_colours(shares @ oklab(hues)), atol=1e-6)
        assert np.array_equal(spots.get_offsets(), where)
    amounts[:5] = 0
    assert np.allclose(mixed_colours(amounts, hues)[:5], 1, atol=1e-3)
    assert np.array_equal(mixed_colours(0 * amounts, hues).round(3), np.ones((144, 3)))


def test_each_factor_by_its_own_scale(fit):
    scaled = SimpleNamespace(**{**vars(fit[1]), "factors_": fit[1].factors_ * [1, 1e6, 0.01]})
    one, other = (pl.composite(model, scale="each").collections[0].get_facecolor() for model in (fit[1], scaled))
    assert np.allclose(one, other)
    counts = pl.composite(scaled, fade=False).collections[0].get_facecolor()[:, :3]
    assert np.abs(counts - matplotlib.colors.to_rgb(PALETTE[1])).max() < 0.15  # the second is nearly all of the counts


def test_composites_of_other_kinds(fit):
    model, rng = fit[1], np.random.default_rng(0)
    bands = pl.composite(model, coords=rng.uniform(size=144), legend=False)
    assert len(bands.collections) == 3 and bands.get_legend() is None
    solid = pl.composite(model, ["F2", "F1"], coords=rng.normal(size=(144, 3)), projection="3d")
    assert [text.get_text() for text in solid.get_legend().get_texts()] == ["F2", "F1"]
    one = pl.composite(model, "F3", fade=False, colors=["red"]).collections[0].get_facecolor()
    assert np.allclose(one, [1, 0, 0, 1], atol=2e-3)
    many = SimpleNamespace(factors_=pd.DataFrame(rng.gamma(1, size=(12_000, 2))), loadings_=np.ones((3, 2)))
    picture = pl.composite(many, coords=rng.uniform(size=(12_000, 2))).images[0].get_array()
    assert picture.shape[2] == 4 and set(np.unique(picture[:, :, 3])) <= {0, 1}
    with pytest.raises(ConfigError, match="at most 12"):
        many = SimpleNamespace(factors_=pd.DataFrame(np.ones((9, 13))), loadings_=np.ones((3, 13)))
        pl.composite(many, coords=np.ones(9))


def test_signs_do_not_mix(fit):
    model = fit[1]
    centred = model.loadings_ - model.loadings_.mean()  # as in a real-valued fit: sums of about zero
    for signed in ({"factors_": model.factors_ - 1}, {"loadings_": centred}):
        with pytest.raises(DataError, match="nonnegative"):
            pl.composite(SimpleNamespace(**{**vars(model), **signed}))
    pl.composite(SimpleNamespace(**{**vars(model), "loadings_": centred}), scale="each")


def test_a_model_that_cannot_predict_is_told(fit):
    stored = SimpleNamespace(factors_=fit[1].factors_, coords_=fit[1].coords_)
    for draw in (pl.fit, pl.continuous):
        with pytest.raises((ConfigError, DataError), match="nsf_nb.load"):
            draw(stored)


def test_hues_stay_apart_for_colour_blind_readers():
    """Projection of Vienot, Brettel and Mollon (1999) for readers without red or green cones, not the chapter's."""
    hues = np.array([matplotlib.colors.to_rgb(name) for name in PALETTE])
    light = np.where(hues <= 0.04045, hues / 12.92, ((hues + 0.055) / 1.055) ** 2.4)
    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    red = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    green = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    for loss in (red, green):
        seen = (light @ np.linalg.solve(cones, loss @ cones).T).clip(0, 1)
        lab = oklab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(len(hues))
        assert apart.min() > 0.08 and apart[:6, :6].min() > 0.15


def test_importance_of_genes_from_each_source(fit):
    adata = fit[0]
    values = np.random.default_rng(0).uniform(size=30)
    values[0] = np.nan  # a gene that the fit left out
    adata.var["nsf_spatial_importance"] = values
    table = pd.DataFrame({"importance": values}, index=adata.var_names)
    for data in (adata, table, SimpleNamespace(genes=table)):
        ranks, histogram = pl.spatial_importance(data, n_labels=2)
        rank, shown = ranks.lines[0].get_data()
        assert np.array_equal(rank, np.arange(1, 30)) and np.array_equal(shown, np.sort(values[1:])[::-1])
        assert [note.get_text() for note in ranks.texts] == list(adata.var_names[np.argsort(-values)[:2]])
        assert sum(patch.get_height() for patch in histogram.patches) == 29
    table["spatial"] = values > 0.5
    ranks, _ = pl.spatial_importance(table)
    called, others = ranks.lines
    assert called.get_ydata().min() > 0.5 >= others.get_ydata().max() and "called" in called.get_label()
    factors = pl.spatial_importance(SimpleNamespace(factors=table[1:4]), "factors")[0]
    assert len(np.concatenate([line.get_xdata() for line in factors.lines])) == 3


def test_importance_of_spots_is_a_map(fit):
    adata = fit[0]
    values = np.random.default_rng(0).uniform(size=144)
    adata.obs["other_spatial_importance"] = values
    ax = pl.spatial_importance(adata, "spots", key_added="other")
    where, shown = drawn(ax)
    assert np.array_equal(where, adata.obsm["spatial"]) and np.array_equal(shown, values)
    table = pd.DataFrame({"importance": values})
    again = pl.spatial_importance(SimpleNamespace(spots=table), "spots", coords=adata.obsm["spatial"])
    assert np.array_equal(drawn(again)[1], values) and again.collections[0].get_clim() == (0, 1)


def test_the_smoother_is_the_rule_of_the_fit():
    rng = np.random.default_rng(0)
    bounds = -100 - 50 * np.exp(-np.arange(200) / 20) + rng.normal(scale=0.05, size=200)
    table = pd.DataFrame({"start": ["a"] * 50 + ["b"] * 150, "sweep": [*range(50), *range(150)], "elbo": bounds})
    model = SimpleNamespace(factors_=pd.DataFrame(np.ones((2, 1))), history=table)
    left, right = pl.convergence(model)
    rule, mine = CubicConvergence(), bounds[50:]
    assert np.array_equal(left.lines[0].get_ydata(), mine)
    for t in (50, 60, 100):
        cubic = np.polynomial.Polynomial.fit(np.arange(50), mine[t - 50 : t], 3)
        assert np.isclose(left.lines[1].get_ydata()[t - 1], cubic(49))
        assert np.isclose(right.lines[0].get_ydata()[t - 1], rule.change(mine[:t]))
    stops = [t for t in range(150) if rule.reached(mine[: t + 1].tolist())]
    assert left.lines[2].get_xdata()[0] == right.lines[2].get_xdata()[0] == stops[0]
    assert len(pl.convergence(model, "a", tol=1e-12)[0].lines) == 2
    with pytest.raises(ConfigError, match="'a', 'b'"):
        pl.convergence(model, "c")


def test_tiles_cover_every_spot_and_leave_gaps():
    rng = np.random.default_rng(0)
    for n_dims, wanted in ((1, 300), (2, 3_000), (3, 4_000)):
        where = rng.uniform(size=(600, n_dims))
        where = where[np.abs(where[:, 0] - 0.5) > 0.3]
        cover = pl.tiles(where, wanted, reach=0.1)
        assert 0.9 < len(cover.coords) / wanted < 1.1 and cover.coords.shape[1] == n_dims
        near = np.linalg.norm(where[:, None] - cover.coords[None], axis=2)
        assert near.min(axis=0).max() <= 0.1 + 1e-9 and near.min(axis=1).max() < cover.side * n_dims**0.5
        assert (np.abs(cover.coords[:, 0] - 0.5) > 0.19).all()
        grid = cover.paint(cover.coords)
        assert np.array_equal(np.isfinite(grid[..., 0]), cover.inside)
        steps = np.diff(grid, axis=0)
        assert np.allclose(steps[..., 0][np.isfinite(steps[..., 0])], cover.side)
    assert np.array_equal(pl.tiles(np.arange(5.0), 50).coords, pl.tiles(np.arange(5.0)[:, None], 50).coords)
    with pytest.raises(ConfigError, match="n_tiles"):
        pl.tiles(where, 0)


def asked(fit):
    """A model whose predictions are the coordinates, and the places it was asked at."""
    places = []

    def predict(coords):
        places.append(coords)
        return SimpleNamespace(obsm={"X_nsf": np.column_stack([coords, coords[:, 0]]), "X_nsf_std": 0.1 + 0 * coords})

    lengths = pd.Series([1.0, 1.0], index=["F1", "F2"])
    return SimpleNamespace(**vars(fit[1]), predict=predict, length_scales_=lengths), places


def test_a_continuous_map_is_what_the_model_says_at_tiles(fit):
    model, places = asked(fit)
    axes = pl.continuous(model, n_tiles=2_500, vmax=None)
    assert [ax.get_title() for ax in axes] == ["F1", "F2"]  # the third has no length scale
    left, right, bottom, top = axes[0].images[0].get_extent()
    for k, ax in enumerate(axes):
        shown = ax.images[0].get_array()
        ticks = [
            (np.arange(shown.shape[1]) + 0.5) / shown.shape[1] * (right - left) + left,
            (np.arange(shown.shape[0]) + 0.5) / shown.shape[0] * (top - bottom) + bottom,
        ]
        expected = np.broadcast_to(np.meshgrid(*ticks)[k], shown.shape)
        assert np.allclose(shown.compressed(), expected[~np.ma.getmaskarray(shown)])
    assert abs(len(np.concatenate(places)) - 2_500) < 200
    assert pl.continuous(model, "F3", n_tiles=50).get_title() == "F3"
    assert pl.continuous(model, 0, std=True, n_tiles=50, invert_y=True).get_ylim()[0] > 0


def test_a_model_is_asked_in_blocks(fit, monkeypatch):
    from nsf_nb.reading import tiles

    monkeypatch.setattr(tiles, "_ENTRIES", 29 * 100)
    model, places = asked(fit)
    pl.continuous(model, "F1", n_tiles=1_000)
    assert max(map(len, places)) == 100
    assert np.array_equal(np.concatenate(places), pl.tiles(model.coords_, 1_000).coords)


def counted(rng, n=300, n_genes=40):
    """Spots with counts, and a model that knows their rates and notes what it was asked."""
    import anndata

    where, factors, loads = rng.uniform(size=(n, 2)), rng.gamma(2, size=(n, 2)), rng.gamma(0.5, 2, size=(n_genes, 2))
    spots, genes = [f"s{k}" for k in range(n)], [f"g{k}" for k in range(n_genes)]
    sizes = rng.uniform(0.5, 2, size=n)
    adata = anndata.AnnData(rng.poisson(sizes[:, None] * (factors @ loads.T)).astype("f4"))
    adata.obs_names, adata.var_names, adata.obsm["spatial"], adata.obs["depth"] = spots, genes, where, sizes
    asked_at = []

    def predict(coords, size_factors):
        asked_at.append(len(coords))
        return SimpleNamespace(X=np.ones((len(coords), n_genes)) * size_factors[:, None])

    state = SimpleNamespace(expected=lambda f, std, s: s[:, None] * (f @ loads.T))
    model = SimpleNamespace(
        factors_=pd.DataFrame(factors, spots), factor_std_=pd.DataFrame(0 * factors, spots), coords_=where,
        feature_names_=np.array(genes), layer_=None, spatial_key_="spatial", size_factors_=SizeFactors("depth", 1.0),
        dispersion_=None, predict=predict, state_=state,
    )
    return adata, model, asked_at, sizes[:, None] * (factors @ loads.T)


def test_goodness_of_fit_adds_up_all_entries():
    adata, model, asked_at, rate = counted(np.random.default_rng(0))
    genes, mean, variance, entries = pl.fit(model, adata)
    seen = adata.X.sum(axis=0) > 0
    expected = np.stack([rate.sum(axis=0), adata.X.sum(axis=0)], axis=1)[seen]
    assert np.allclose(genes.lines[0].get_xydata(), expected) and not asked_at
    assert entries.get_title() == f"{adata.X.size:,} entries"
    assert entries.collections[0].get_array().sum() == adata.X.size
    low, high = rate.min(), rate.max()
    x, y = mean.lines[1].get_xydata().T
    assert low < x.min() < x.max() < high and (np.abs(y / x - 1)[x > 1] < 0.2).all()
    assert (np.abs(np.log(variance.lines[1].get_ydata() / x))[x > 1] < 0.5).all()
    assert pl.fit(model, adata, "genes").get_title() == genes.get_title()


def test_goodness_of_fit_of_other_spots_asks_the_model():
    adata, model, asked_at, _ = counted(np.random.default_rng(1))
    part = adata[100:250].copy()
    assert pl.fit(model, part, "genes").lines[0].get_xdata().min() > 0 and not asked_at  # spots of the fit
    part.obs_names = [f"new{k}" for k in range(150)]
    order = np.random.default_rng(0).permutation(40)
    total = pl.fit(model, part[:, order], "genes").lines[0]
    assert sum(asked_at) == 150 and np.allclose(total.get_xdata(), part.obs["depth"].sum())
    assert np.allclose(total.get_ydata(), part.X.sum(axis=0)[part.X.sum(axis=0) > 0])
    moved = adata.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"] + 1
    pl.fit(model, moved, "mean")
    assert sum(asked_at) == 450  # the same names in other places are other spots


def test_goodness_of_fit_works_in_blocks(monkeypatch):
    adata, model, _, rate = counted(np.random.default_rng(2))
    whole = pl.fit(model, adata, "mean").lines[1].get_xydata()
    monkeypatch.setattr(goodness, "_ENTRIES", 40 * 7)
    sizes = []
    known = model.state_.expected
    model.state_.expected = lambda f, std, s: sizes.append(len(s)) or known(f, std, s)
    assert np.allclose(pl.fit(model, adata, "mean").lines[1].get_xydata(), whole) and max(sizes) == 7
    assert pl.fit(model, adata, "entries").collections[0].get_array().sum() == adata.X.size


def test_goodness_of_fit_with_dispersion_allows_more():
    adata, model, _, rate = counted(np.random.default_rng(3))
    model.dispersion_ = np.full(40, 0.5)
    lines = {line.get_label(): line.get_ydata() for line in pl.fit(model, adata, "variance").lines}
    assert (lines["the model's"] > lines["Poisson"]).all()
    poisson = SimpleNamespace(model=SimpleNamespace(likelihood=SimpleNamespace(weighted=False)))
    gaussian = SimpleNamespace(**vars(model), result_=poisson)  # its dispersion is a variance of other values
    assert {line.get_label() for line in pl.fit(gaussian, adata, "variance").lines} == {"Poisson", "observed"}


def test_goodness_of_fit_without_counts_or_predictions():
    zeros = goodness.compare_counts(iter([(np.zeros((5, 3)), np.zeros((5, 3)))]), 3)
    import matplotlib.pyplot as plt

    for draw in goodness._KINDS.values():
        draw(plt.figure().subplots(), zeros, 10)
    assert zeros.number[0] == 15 and zeros.joint[0, 0] == 15


def test_new_pictures_leave_data_alone(fit):
    adata, model = fit
    adata.var["nsf_spatial_importance"] = np.linspace(0, 1, 30)
    before = adata.copy()
    pl.uncertainty(adata), pl.composite(adata), pl.spatial_importance(adata), pl.convergence(adata)
    assert all(np.array_equal(before.obsm[key], adata.obsm[key]) for key in before.obsm)
    assert before.obs.equals(adata.obs) and before.var.equals(adata.var) and set(before.uns) == set(adata.uns)


@pytest.mark.parametrize("name", ["composite", "convergence", "spatial_importance", "uncertainty"])
def test_given_axes_files_and_figures(name, fit, canvas, tmp_path):
    adata = fit[0]
    adata.var["nsf_spatial_importance"] = np.linspace(0, 1, 30)
    draw = getattr(pl, name)
    n = 6 if name == "uncertainty" else 1 if name == "composite" else 2
    figure, axes = canvas.subplots(1, n, squeeze=False)
    assert draw(adata, ax=list(axes[0]), return_fig=True) is figure and canvas.get_fignums() == [figure.number]
    draw(adata, save=tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ConfigError, match="folder"):
        draw(adata, save=tmp_path / "absent" / "a.png")


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
