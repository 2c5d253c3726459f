"""The command `nsf`: light help, a fit in a process of its own, one line and exit code 2 for what is not usable."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from nsf_nb import __version__
from nsf_nb.cli import app
from nsf_nb.data.files import read_h5ad, write_h5ad
from nsf_nb.data.simulate import simulate

MAIN = "from nsf_nb.cli import main; main()"
FAST = ["--n-starts", "1", "--max-iter", "5", "--n-inducing", "30"]


def changed(adata, change):
    """A copy of an AnnData, changed in place."""
    copy = adata.copy()
    change(copy)
    return copy


def set_count(value):
    """Write a value into the first entry of the counts, wherever they are read from."""
    def change(adata):
        for matrix in (adata.X, adata.layers["counts"]):
            matrix[0, 0] = value
    return change


def set_coords(rows, column, value):
    """Write a value into coordinates."""
    def change(adata):
        adata.obsm["spatial"][rows, column] = value
    return change


def empty_spot(adata):
    """Let the last spot have no counts."""
    for matrix in (adata.X, adata.layers["counts"]):
        matrix[-1] = 0


BAD_DATA = {
    "negative": set_count(-1), "fractional": set_count(0.5), "nan": set_count(np.nan),
    "nan_coords": set_coords(7, 0, np.nan), "constant_coords": set_coords(slice(None), 1, 2.0),
    "empty_spot": empty_spot,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with one good file and many that are not."""
    folder = tmp_path_factory.mktemp("library")
    good = simulate("quilt", n_side=12, n_features=20)
    write_h5ad(good, folder / "good.h5ad")
    for name, change in BAD_DATA.items():
        write_h5ad(changed(good, change), folder / f"{name}.h5ad")
    content = (folder / "good.h5ad").read_bytes()
    (folder / "truncated.h5ad").write_bytes(content[: len(content) // 2])
    (folder / "text.h5ad").write_text("spot,gene\n", encoding="utf-8")
    (folder / "zero_bytes.h5ad").touch()
    good[:0].copy().write_h5ad(folder / "no_spots.h5ad")
    import h5py

    with h5py.File(folder / "other.h5ad", "w") as file:
        file["x"] = 1
    return folder


@pytest.fixture
def here(library, tmp_path, monkeypatch):
    """A folder with links to the files; the work of a fit is forbidden."""
    from nsf_nb.inference.records import Diary

    def refuse(*args, **kwargs):
        raise AssertionError("the fit has begun")

    monkeypatch.setattr(Diary, "__init__", refuse)
    monkeypatch.chdir(tmp_path)
    for path in library.iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / "mine.html").write_text("mine", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine", encoding="utf-8")
    return tmp_path


def contents(folder):
    """Path and digest of everything in a folder."""
    files = sorted(path for path in folder.rglob("*"))
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() if p.is_file() else "" for p in files}


FIT = "fit good.h5ad -L 3 -o out.h5ad"
REFUSED = {
    "missing file": ("fit absent.h5ad -L 3 -o out.h5ad", "'absent.h5ad'", "found nothing", "Check the path"),
    "folder": ("fit . -L 3 -o out.h5ad", "an h5ad file", "a folder"),
    "text": ("fit text.h5ad -L 3 -o out.h5ad", "'text.h5ad'", "another format", "write_h5ad"),
    "zero bytes": ("fit zero_bytes.h5ad -L 3 -o out.h5ad", "an empty file"),
    "truncated": ("fit truncated.h5ad -L 3 -o out.h5ad", "'truncated.h5ad'", "cannot be read"),
    "other HDF5": ("fit other.h5ad -L 3 -o out.h5ad", "without the tables obs and var"),
    "no spots": ("fit no_spots.h5ad -L 3 -o out.h5ad", "0 spots"),
    "negative": ("fit negative.h5ad -L 3 -o out.h5ad", "layers['counts']", "1 negative value", "-1.0 at row 0"),
    "fractional": ("fit fractional.h5ad -L 3 -o out.h5ad", "layers['counts']", "fractional", "raw counts"),
    "fractional rsf": ("fit fractional.h5ad -L 3 -o out.h5ad --model rsf", "fractional", "raw counts", "inside"),
    "negative mefisto": ("fit negative.h5ad -L 3 -o out.h5ad --model mefisto", "negative", "raw counts", "inside"),
    "fractional X": ("fit fractional.h5ad -L 3 -o out.h5ad --layer X", "adata.X", "fractional"),
    "nan": ("fit nan.h5ad -L 3 -o out.h5ad", "layers['counts']", "missing or infinite"),
    "nan coords": ("fit nan_coords.h5ad -L 3 -o out.h5ad", "obsm['spatial']", "row 7"),
    "constant coords": ("fit constant_coords.h5ad -L 3 -o out.h5ad", "obsm['spatial']", "1"),
    "zero size factor": ("fit empty_spot.h5ad -L 3 -o out.h5ad --size-factors scanpy", "size_factors", "counts"),
    "layer": (f"{FIT} --layer raw", "layer 'raw'", "found 'counts'"),
    "spatial key": (f"{FIT} --spatial-key where", "obsm['where']", "'spatial'"),
    "size factors": (f"{FIT} --size-factors depth", "size_factors", "'depth'"),
    "L zero": ("fit good.h5ad -L 0 -o out.h5ad", "--n-factors", "found 0", "larger"),
    "L text": ("fit good.h5ad -L ten -o out.h5ad", "integer", "--n-factors", "--help"),
    "L too large": ("fit good.h5ad -L 5000 -o out.h5ad", "n_factors", "5000", "smaller"),
    "no L": ("fit good.h5ad -o out.h5ad", "--n-factors"),
    "M zero": (f"{FIT} -M 0", "--n-inducing", "found 0"),
    "M text": (f"{FIT} -M many", "--n-inducing", "'many'", "auto"),
    "starts": (f"{FIT} --n-starts 0", "--n-starts", "found 0"),
    "sweeps": (f"{FIT} --max-iter -5", "--max-iter", "found -5"),
    "fraction": (f"{FIT} --val-fraction 1.5", "--val-fraction", "found 1.5"),
    "fraction nan": (f"{FIT} --val-fraction nan", "--val-fraction", "found nan"),
    "fraction tiny": (f"{FIT} --val-fraction 0.0001", "1 to hold out", "0 of 144"),
    "seed": (f"{FIT} --seed -1", "--seed", "found -1"),
    "kernel": (f"{FIT} --kernel matern23", "--kernel", "'matern23'", "'matern32'"),
    "model": (f"{FIT} --model nmf", "--model", "'nmf'", "'pnmf'"),
    "T for nsf": (f"{FIT} -T 2", "options that nsf has", "--n-spatial", "use --model nsfh"),
    "T for pnmf": (f"{FIT} --model pnmf -T 2", "no factor of pnmf", "use --model nsfh"),
    "T for rsf": (f"{FIT} --model rsf -T 2", "all factors of rsf", "use --model rsfh"),
    "T for fa": (f"{FIT} --model fa -T 2", "no factor of fa", "use --model rsfh"),
    "T for mefisto": (f"{FIT} --model mefisto -T 2", "learns how spatial", "nsfh or rsfh"),
    "T is L": (f"{FIT} --model nsfh -T 3", "from 1 to 2", "found 3", "all spatial would be nsf"),
    "T above L": (f"{FIT} --model rsfh -T 4", "from 1 to 2", "found 4", "all spatial would be rsf"),
    "T zero": (f"{FIT} --model nsfh -T 0", "found 0", "none of them pnmf"),
    "T text": (f"{FIT} --model nsfh -T two", "integer", "--n-spatial", "--help"),
    "L of a hybrid": ("fit good.h5ad --model nsfh -L 1 -o out.h5ad", "at least 2", "--n-factors"),
    "L of a hybrid too large": ("fit good.h5ad --model nsfh -L 50 -o out.h5ad", "n_spatial + n_nonspatial", "20"),
    "likelihood": (f"{FIT} --likelihood normal", "--likelihood", "'normal'", "'gaussian'"),
    "likelihood of mefisto": (f"{FIT} --model mefisto --likelihood nb", "--likelihood", "use --model rsf or nsf"),
    "kernel without space": (f"{FIT} --model pnmf --kernel matern32", "--kernel", "use --model nsf or nsfh"),
    "kernel of fa": (f"{FIT} --model fa --kernel matern32", "--kernel", "use --model rsf or rsfh"),
    "kernel of mefisto": (f"{FIT} --model mefisto --kernel matern32", "--kernel", "'squared_exponential'"),
    "M without space": (f"{FIT} --model fa -M 50", "--n-inducing", "no factor of fa"),
    "M of mefisto": (f"{FIT} --model mefisto -M 50", "n_inducing", "at least 100"),
    "M of mefisto before the data": ("fit fractional.h5ad -L 3 -o out.h5ad --model mefisto -M 50", "n_inducing"),
    "engine": (f"{FIT} --inference vi", "--inference", "'cavi'", "'svi'"),
    "engine of mefisto": (f"{FIT} --model mefisto --inference svi", "--inference", "mofapy2", "--model rsf"),
    "starts of mefisto": (f"{FIT} --model mefisto --n-starts 2", "--n-starts", "one start"),
    "key": (f"{FIT} --key-added a/b", "key_added", "'a/b'"),
    "no output": ("fit good.h5ad -L 3", "--output"),
    "output exists": ("fit good.h5ad -L 3 -o text.h5ad", "'text.h5ad'", "--force"),
    "output is input": ("fit good.h5ad -L 3 -o good.h5ad", "'good.h5ad'", "--force"),
    "report exists": (f"{FIT} --report mine.html", "'mine.html'", "--force"),
    "one path for both": (f"{FIT} --report out.h5ad --force", "--report", "out.h5ad"),
    "output folder": ("fit good.h5ad -L 3 -o absent/out.h5ad", "'absent'", "create it"),
    "output below a file": ("fit good.h5ad -L 3 -o text.h5ad/out.h5ad", "'text.h5ad'"),
    "output is a folder": ("fit good.h5ad -L 3 -o . --force", "the folder '.'"),
    "model folder taken": (f"{FIT} --save-model mine", "'mine'", "'note.txt' in it", "another path"),
    "model folder taken, force": (f"{FIT} --save-model mine --force", "'mine'", "'note.txt' in it"),
    "model folder is a file": (f"{FIT} --save-model text.h5ad --force", "the file 'text.h5ad'"),
    "model folder nowhere": (f"{FIT} --save-model absent/model", "'absent'", "create it"),
    "model and output": (f"{FIT} --save-model ./out.h5ad", "--save-model", "--output"),
    "model and report": (f"{FIT} --save-model a --report a", "--save-model", "--report"),
    "predict without model": ("predict absent places.csv -o out.h5ad", "'model.json' in 'absent'", "Check the path"),
    "predict by a file": ("predict good.h5ad places.csv -o out.h5ad", "'model.json' in 'good.h5ad'"),
    "predict by a folder": ("predict mine places.csv -o out.h5ad", "'model.json' in 'mine'", "a folder without it"),
    "predict into a file": ("predict mine places.csv -o text.h5ad", "'text.h5ad'", "--force"),
    "predict interval": ("predict mine places.csv -o out.h5ad --interval 90", "--interval", "found 90"),
    "check missing": ("check absent.h5ad", "'absent.h5ad'", "Check the path"),
    "check text": ("check text.h5ad", "'text.h5ad'", "another format"),
    "check kernel": ("check good.h5ad --kernel matern23", "--kernel", "'matern32'"),
    "check T": ("check good.h5ad --model nsfh -L 3 -T 3", "from 1 to 2", "found 3"),
    "check output": ("check good.h5ad -o out.h5ad", "-o", "--help"),
    "option": (f"{FIT} --factor 3", "--factor", "--help"),
    "command": ("fti good.h5ad", "'fti'", "--help"),
    "simulate pattern": ("simulate quild -o new.h5ad", "'quild'", "did you mean 'quilt'"),
    "simulate side": ("simulate quilt -o new.h5ad --n-side 13", "n_side", "24"),
    "simulate exists": ("simulate quilt -o good.h5ad", "'good.h5ad'", "--force"),
    "simulate folder": ("simulate quilt -o absent/new.h5ad", "'absent'"),
    "dask pnmf": ("fit good.h5ad -L 3 -o out.h5ad --model pnmf --dask tcp://127.0.0.1:9", "nsf or nsfh", "pnmf"),
    "dask svi": ("fit good.h5ad -L 3 -o out.h5ad --inference svi --dask tcp://127.0.0.1:9", "by cavi", "svi"),
    "dask nobody": ("fit good.h5ad -L 3 -o out.h5ad --dask tcp://127.0.0.1", "nobody who answers", "check the address"),
    "score missing": ("score absent.h5ad", "'absent.h5ad'"),
    "score without fit": ("score good.h5ad", "uns['nsf']", "nsf fit"),
    "score negative": ("score negative.h5ad --key-added mine", "uns['mine']"),
    "dataset": ("datasets fetch S7", "the dataset", "'S7'", "'S6'"),
    "demo exists": ("demo --out .", "report.html", "--force"),
    "demo on a file": ("demo --out text.h5ad", "'text.h5ad'"),
    "demo nowhere": ("demo --out absent/demo", "'absent'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, here):
    line, *parts = REFUSED[name]
    if name == "demo exists":
        (here / "report.html").write_text("mine", encoding="utf-8")
    before = contents(here)
    done = CliRunner().invoke(app, line.split(), prog_name="nsf")
    assert done.exit_code == 2, (done.output, done.exception)
    assert contents(here) == before
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("nsf: ")
    missing = [part for part in parts if part.lower() not in done.stderr.lower()]
    assert not missing, (missing, done.stderr)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_refused_without_permission(here):
    (here / "shut").mkdir(mode=0o500)
    done = CliRunner().invoke(app, ["fit", "good.h5ad", "-L", "3", "-o", "shut/out.h5ad"], prog_name="nsf")
    assert done.exit_code == 2 and "write permission" in done.stderr


def test_a_bug_keeps_its_traceback(here):
    done = CliRunner().invoke(app, FIT.split(), prog_name="nsf")
    assert isinstance(done.exception, AssertionError) and str(done.exception) == "the fit has begun"
    assert not (here / "out.h5ad").exists()


def run_nsf(*args, cwd):
    """Run the command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MAIN, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_fit_and_score_in_a_process(library, tmp_path):
    data = library / "good.h5ad"
    before = data.read_bytes()
    args = ["fit", data, "-L", "3", "-o", "out.h5ad", "--report", "out.html", *FAST]
    done = run_nsf(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad", "out.html"]
    assert data.read_bytes() == before
    source, out = read_h5ad(data), read_h5ad(tmp_path / "out.h5ad")
    assert (out.obs_names == source.obs_names).all() and (out.var_names == source.var_names).all()
    assert (np.asarray(out.X) == np.asarray(source.X)).all()
    assert out.obsm["X_nsf"].shape == (144, 3) and np.isfinite(out.obsm["X_nsf"]).all()
    assert out.varm["nsf"].shape == (20, 3) and out.obs["nsf_held_out"].sum() == 7
    assert all(word in done.stdout for word in ("nearest spots", "gene mean", "out.h5ad", "out.html"))

    scored = run_nsf("score", "out.h5ad", "--json", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    scores = json.loads(scored.stdout)
    assert list(scores) == ["NSF", "nearest spots", "gene mean"]
    assert all(f"{row['deviance']:.4f}" in done.stdout for row in scores.values())

    again = run_nsf(*args, cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "--force" in again.stderr
    first = (tmp_path / "out.h5ad").stat().st_mtime_ns
    forced = run_nsf(*args, "--force", "--quiet", cwd=tmp_path)
    assert forced.returncode == 0 and forced.stdout == "" and (tmp_path / "out.h5ad").stat().st_mtime_ns > first


MODELS = {
    "nsf": "", "pnmf": "", "nsfh": "-T 1", "rsf": "", "fa": "", "rsfh": "", "mefisto": "", "nsf nb": "--likelihood nb",
    "nsf gaussian": "--likelihood gaussian", "nsf svi": "--inference svi -M 30 --n-starts 1",
    "fa nb": "--likelihood nb", "rsfh poisson": "-T 2 --likelihood poisson",
    "rsf kernel": "--kernel matern12 --likelihood poisson",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_fitted_scored_and_reported(name, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = name.split()[0]
    line = f"fit {library / 'good.h5ad'} --model {model} -L 3 --max-iter 4 -o out.h5ad --report out.html {MODELS[name]}"
    done = CliRunner().invoke(app, [*line.split(), "--val-fraction", "0.1"], prog_name="nsf")
    assert done.exit_code == 0, (done.output, done.exception)
    spatial = {"pnmf": 0, "fa": 0, "nsfh": 1, "rsfh": 2}.get(model, 3)
    assert f"{model.upper()}; 3 factors, {spatial} of them spatial" in done.stdout
    out = read_h5ad(tmp_path / "out.h5ad")
    assert out.uns["nsf"]["model"] == model.upper() and len(out.uns["nsf"]["length_scales"]) == spatial
    assert out.obsm["X_nsf"].shape == (144, 3) and np.isfinite(out.obsm["X_nsf"]).all()
    scored = CliRunner().invoke(app, ["score", "out.h5ad"], prog_name="nsf")
    assert scored.exit_code == 0 and list(scored.stdout.splitlines()[1].split())[0] == model.upper()
    assert scored.stdout in done.stdout  # the numbers of the fit, to the last digit
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!DOCTYPE")


def test_a_saved_model_predicts(library, tmp_path, monkeypatch):
    import nsf_nb

    monkeypatch.chdir(tmp_path)

    def run(line):
        done = CliRunner().invoke(app, line.split(), prog_name="nsf")
        assert done.exit_code in (0, 2), (done.output, done.exception)
        return done.stdout if done.exit_code == 0 else done.stderr

    fit = f"fit {library / 'good.h5ad'} --model nsfh -L 3 {' '.join(FAST)} -o out.h5ad --size-factors mean"
    assert "saved    model\nresults  out.h5ad" in run(f"{fit} --save-model model")
    out, model = read_h5ad(tmp_path / "out.h5ad"), nsf_nb.load("model")
    assert model.data_.n_obs == 137 and "nsfh" in repr(model).lower()
    before = contents(tmp_path / "model")
    assert "--force" in run(f"{fit} --save-model model".replace("out.h5ad", "other.h5ad"))
    assert contents(tmp_path / "model") == before and not (tmp_path / "other.h5ad").exists()
    assert "places   144" in run(f"predict model {library / 'good.h5ad'} -o all.h5ad --interval 0.8")
    there, held = read_h5ad(tmp_path / "all.h5ad"), out.obs["nsf_held_out"].to_numpy()
    assert (there.obs_names == out.obs_names).all() and {"lower", "upper"} <= there.layers.keys()
    assert np.array_equal(there.obsm["X_nsf"][held], out.obsm["X_nsf"][held])
    assert np.allclose(there.obsm["X_nsf"][~held][:, :2], out.obsm["X_nsf"][~held][:, :2], rtol=1e-6)
    table = "\n".join(["spot,x,y", *(f"s{n},{x!r},{y!r}" for n, (x, y) in enumerate(out.obsm["spatial"].tolist()))])
    (tmp_path / "places.csv").write_text(table, encoding="utf-8")
    run("predict model places.csv -o bare.h5ad")
    bare = read_h5ad(tmp_path / "bare.h5ad")
    assert bare.obs_names[3] == "s3" and np.array_equal(bare.obsm["X_nsf"], there.obsm["X_nsf"])
    for text, part in (("", "a table of places"), ("x,y\n1,b\n", "real numbers"), ("x\n1\n", "2 coordinates")):
        (tmp_path / "places.csv").write_text(text, encoding="utf-8")
        assert part in run("predict model places.csv -o none.h5ad")
    assert "found nothing" in run("predict model absent.csv -o none.h5ad")
    (tmp_path / "model" / "model.json").write_text("{", encoding="utf-8")
    assert "a whole file" in run("predict model places.csv -o none.h5ad") and not (tmp_path / "none.h5ad").exists()


def test_an_option_that_is_not_given_leaves_the_default_of_the_model():
    from nsf_nb.options import arguments_of

    assert arguments_of("Mefisto", 4, None, {"kernel": None}, 7) == ("MEFISTO", {"n_factors": 4, "random_state": 7})
    halves = [arguments_of("rsfh", n, None, {}, 0)[1]["n_spatial"] for n in (2, 3, 10, 11)]
    assert halves == [1, 2, 5, 6]


def test_scores_of_mefisto_have_their_floor(library):
    from nsf_nb import MEFISTO
    from nsf_nb.held_out import fit_held_out, score_results

    adata = read_h5ad(library / "good.h5ad")
    model = MEFISTO(3, log1p=False, max_iter=20)
    table = fit_held_out(adata, model, 0.2, layer="counts", size_factors="scanpy")
    assert (model.predict(adata[adata.obs["nsf_held_out"].to_numpy()]).X == 0).any()  # it would cost infinitely much
    assert np.isfinite(table.to_numpy()).all() and np.allclose(score_results(adata), table, rtol=1e-6)


def test_results_without_facts_about_genes_are_those_of_nsf(library, tmp_path):
    from nsf_nb import NSF
    from nsf_nb.core import DataError
    from nsf_nb.held_out import fit_held_out, needs_model, score_results

    adata = read_h5ad(library / "good.h5ad")
    table = fit_held_out(adata, NSF(3, n_starts=1, max_iter=3, n_inducing=30), 0.1, layer="counts")
    for name in ("model", "genes"):
        del adata.uns["nsf"][name]
    assert not needs_model(adata) and np.allclose(score_results(adata), table)
    adata.uns["nsf"] |= {"model": "Mine", "genes": {"intercept": np.zeros(20)}}
    with pytest.raises(DataError, match="Mine"):
        score_results(adata)


def test_check_says_what_a_fit_would(here):
    before = contents(here)

    def check(line):
        done = CliRunner().invoke(app, ["check", *line.split()], prog_name="nsf")
        assert done.stderr == "" and isinstance(done.exception, SystemExit | None), (done.output, done.exception)
        return done.exit_code, done.stdout

    code, text = check("good.h5ad -L 3")
    assert code == 0 and text.startswith("Diagnosis: ") and "error" not in text and "memory" in text
    code, text = check("good.h5ad -L 3 --model nsfh -T 2 --likelihood nb -M 30 --json")
    found = json.loads(text)
    assert code == 0 and found["worst"] == "note" and found["seconds"]["sweeps"] > 0
    for name in BAD_DATA:
        fit = f"fit {name}.h5ad -L 3 -o out.h5ad --size-factors scanpy"
        refusal = CliRunner().invoke(app, fit.split(), prog_name="nsf").stderr
        code, text = check(f"{name}.h5ad -L 3 --size-factors scanpy --json")
        errors = [one for one in json.loads(text)["findings"] if one["severity"] == "error"]
        assert code == 2 and [f"nsf: {one['found']} {one['do']}\n" for one in errors] == [refusal], name
    assert check("good.h5ad -L 3 --model mefisto -M 50")[0] == 2
    assert contents(here) == before


def test_demo(tmp_path):
    done = run_nsf("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "nsf-demo").iterdir()) == ["report.html", "results.h5ad"]
    assert "nearest spots" in done.stdout and done.stdout.splitlines()[-1] == "report   nsf-demo/report.html"
    again = run_nsf("demo", cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "--force" in again.stderr


def test_score_needs_no_tensorflow(tmp_path, run_tool):
    code = "import sys, nsf_nb.cli, nsf_nb.held_out; print('tensorflow' in sys.modules)"
    assert run_tool(["python", "-c", code]).stdout.strip() == "False"


def test_interrupted(library, tmp_path):
    args = ["fit", library / "good.h5ad", "-L", "3", "-o", "out.h5ad", "--n-starts", "1000000"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import tensorflow\nprint('ready', flush=True)\n{MAIN}", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    errors = ""
    with subprocess.Popen(command, cwd=tmp_path, env=env, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        for line in process.stderr:
            errors += line
            if "spots are held out" in line:
                time.sleep(1)  # the fit has begun
            if "spots are held out" in line or "press it again" in line:  # it is asked to end, then it is interrupted
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, errors
    assert errors.rstrip().splitlines()[-1] == "nsf: interrupted."
    assert not list(tmp_path.iterdir())


def test_version_and_help():
    done = CliRunner().invoke(app, ["--version"], prog_name="nsf")
    assert done.exit_code == 0 and done.output == f"nsf {__version__}\n"
    for command in ("demo", "fit", "score", "simulate", "check", "predict", "report", "datasets"):
        done = CliRunner().invoke(app, [command, "--help"], prog_name="nsf")
        assert done.exit_code == 0 and f"Usage: nsf {command}" in done.output
