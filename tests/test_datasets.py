"""Datasets: files of the real formats, made here and served on 127.0.0.1, on good and on bad days."""

import gzip
import hashlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ROOT
from typer.testing import CliRunner

from nsf_nb import datasets
from nsf_nb.cli import app
from nsf_nb.core import ConfigError, DataError, settings
from nsf_nb.data import cache, download
from nsf_nb.data.anndata import from_anndata
from nsf_nb.data.logged_counts import counts_of_logs
from nsf_nb.data.registry import ENTRIES, Entry, RemoteFile

HDF5 = b"\x89HDF\r\n\x1a\n"
CONTENT = HDF5 + np.random.default_rng(0).bytes(999_992)
OTHER = HDF5 + CONTENT[:7:-1]
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "counts.h5"


# A server with good and bad days


class Handler(BaseHTTPRequestHandler):
    """Sends the files of `server.shelf`, as `server.days` want it."""

    def do_GET(self):
        shelf = self.server.shelf
        content, wanted = shelf.files.get(self.path.strip("/")), self.headers.get("Range")
        if shelf.statuses or content is None:
            return self.send_error(shelf.statuses.pop(0) if shelf.statuses else 404)
        known = self.headers.get("If-Range")
        same = known is None or (known == shelf.tag and known.startswith('"'))  # a weak tag proves nothing
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and shelf.ranges and same else 0
        if first >= len(content):
            shelf.log.append((wanted, 416, 0))
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if first else 200)
        body = content[first:]
        if first:
            place = max(first + shelf.shift, 0)
            self.send_header("Content-Range", f"bytes {place}-{len(content) - 1}/{len(content)}")
        if shelf.tag:
            self.send_header("ETag", shelf.tag)
        if shelf.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: shelf.cuts.pop(0)] if shelf.cuts else body
        shelf.log.append((wanted, 206 if first else 200, len(body)))
        for start in range(0, len(body), 2**15):
            self.wfile.write(body[start : start + 2**15])
            time.sleep(shelf.delay)
        time.sleep(shelf.silence)

    def log_message(self, *args):
        pass


class Shelf:
    """Files on a server, how it behaves, and what it was asked: range, status, bytes sent."""

    def __init__(self):
        self.files, self.log, self.cuts, self.statuses = {NAME: CONTENT}, [], [], []
        self.ranges, self.tag, self.length, self.shift, self.delay = True, '"one"', True, 0, 0.0
        self.silence = 0.0

    def sent(self):
        return sum(sent for _, _, sent in self.log)


@pytest.fixture
def shelf():
    """A server that runs; `url` is its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # clients that hang up
    server.shelf = Shelf()
    server.shelf.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.shelf
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache, no data folder, no pauses; the settings come back."""
    monkeypatch.delenv("NSF_NB_DATA", raising=False)
    monkeypatch.setattr(cache, "_PAUSE", 0.0)
    before = settings.cache_dir, settings.offline, settings.progress, settings.verbosity
    settings.cache_dir, settings.offline, settings.progress = tmp_path / "cache", False, False
    yield tmp_path / "cache"
    settings.cache_dir, settings.offline, settings.progress, settings.verbosity = before


@pytest.fixture
def toy(shelf, monkeypatch):
    """A dataset of one file with known size and checksum."""
    file = RemoteFile(NAME, f"{shelf.url}/{NAME}", len(CONTENT), DIGEST)
    entry = Entry("toy", "bytes", 1, 1, (file,), "none", "nobody", "nsf_nb.data.files:read_h5ad")
    monkeypatch.setitem(ENTRIES, "toy", entry)
    return entry


def known_as(monkeypatch, entry, **changes):
    """Register a dataset with other facts about its file."""
    monkeypatch.setitem(ENTRIES, entry.name, replace(entry, files=(replace(entry.files[0], **changes),)))


def names(folder):
    """What lies in a folder, but for locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def said(function, *args, error=DataError, **options):
    """The text of a refusal."""
    with pytest.raises(error) as caught:
        function(*args, **options)
    return str(caught.value)


# Downloads


def test_whole_and_only_once(shelf, toy, own_cache):
    assert datasets.fetch("toy") == own_cache / "toy" / NAME
    assert (own_cache / "toy" / NAME).read_bytes() == CONTENT and names(own_cache / "toy") == [NAME]
    assert datasets.fetch("toy") == datasets.path("toy")
    assert shelf.log == [(None, 200, len(CONTENT))]


def test_into_a_folder_and_from_another_address(shelf, toy, tmp_path, monkeypatch):
    known_as(monkeypatch, toy, url="http://127.0.0.1:9/nowhere")
    assert datasets.fetch("toy", tmp_path / "here", shelf.url + "/") == tmp_path / "here" / NAME
    assert datasets.path("toy", str(tmp_path / "here")) == tmp_path / "here" / NAME
    assert "found nothing" in said(datasets.path, "toy")


def test_a_cut_connection_goes_on_with_the_missing_bytes(shelf, toy):
    shelf.cuts = [300_000, 250_000]
    assert datasets.fetch("toy").read_bytes() == CONTENT
    assert shelf.log == [
        (None, 200, 300_000), ("bytes=300000-", 206, 250_000), ("bytes=550000-", 206, 450_000),
    ]


def test_the_next_call_goes_on(shelf, toy, own_cache):
    shelf.cuts = [100_000] * 4
    message = said(datasets.fetch, "toy")
    assert "Call again to go on after the 400,000 bytes" in message and NAME in message
    assert names(own_cache / "toy") == [f"{NAME}.part", f"{NAME}.part.json"]
    assert datasets.fetch("toy").read_bytes() == CONTENT
    assert shelf.log[4] == ("bytes=400000-", 206, 600_000) and shelf.sent() == len(CONTENT)


def test_goes_on_without_a_name_of_the_version(shelf, toy):
    shelf.tag, shelf.cuts = None, [300_000]
    assert datasets.fetch("toy").read_bytes() == CONTENT and shelf.sent() == len(CONTENT)


def test_a_weak_tag_is_none(shelf, toy):
    shelf.tag, shelf.cuts = 'W/"one"', [300_000]  # this server would not accept it as If-Range
    assert datasets.fetch("toy").read_bytes() == CONTENT and shelf.sent() == len(CONTENT)


def test_a_server_without_ranges_begins_anew(shelf, toy):
    shelf.ranges, shelf.cuts = False, [300_000]
    assert datasets.fetch("toy").read_bytes() == CONTENT
    assert shelf.log == [(None, 200, 300_000), ("bytes=300000-", 200, len(CONTENT))]


def test_a_server_that_sends_another_range_is_not_believed(shelf, toy):
    shelf.shift, shelf.cuts = -1, [300_000]
    assert datasets.fetch("toy").read_bytes() == CONTENT
    assert [wanted for wanted, _, _ in shelf.log] == [None, "bytes=300000-", None]


def test_a_server_that_states_no_length(shelf, toy):
    shelf.length = False
    assert datasets.fetch("toy").read_bytes() == CONTENT


def test_another_version_is_not_glued_to_the_old_beginning(shelf, toy, own_cache, monkeypatch):
    known_as(monkeypatch, toy, size=None, sha256=None)
    shelf.cuts = [100_000] * 4
    said(datasets.fetch, "toy")
    shelf.files[NAME], shelf.tag = OTHER, '"two"'
    assert datasets.fetch("toy").read_bytes() == OTHER
    assert shelf.log[-1] == ("bytes=400000-", 200, len(CONTENT))


def test_a_shorter_version_has_nothing_of_the_old_one_behind_it(shelf, toy, monkeypatch):
    known_as(monkeypatch, toy, size=None, sha256=None)
    shelf.cuts = [100_000] * 4
    said(datasets.fetch, "toy")
    shelf.files[NAME], shelf.tag, shelf.length = OTHER[:300_000], '"two"', False
    assert datasets.fetch("toy").read_bytes() == OTHER[:300_000]


def test_a_server_that_falls_silent(shelf, tmp_path):
    shelf.cuts, shelf.silence = [300_000], 1.5
    downloader = download.Resuming(tmp_path / "a.part", attempts=1, timeout=0.5)
    assert "after the 300,000 bytes" in said(downloader, f"{shelf.url}/{NAME}", tmp_path / "a", None)
    shelf.silence = 0.0
    downloader(f"{shelf.url}/{NAME}", tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == CONTENT and shelf.sent() == len(CONTENT)


def test_a_part_from_another_address_is_not_used(shelf, toy):
    shelf.cuts = [100_000] * 4
    said(datasets.fetch, "toy")
    shelf.files[f"mirror/{NAME}"] = CONTENT
    assert datasets.fetch("toy", url=f"{shelf.url}/mirror").read_bytes() == CONTENT
    assert shelf.log[-1] == (None, 200, len(CONTENT))


def test_a_part_without_its_note_is_not_used(shelf, toy, own_cache):
    (own_cache / "toy").mkdir(parents=True)
    (own_cache / "toy" / f"{NAME}.part").write_bytes(b"something else")
    assert datasets.fetch("toy").read_bytes() == CONTENT and shelf.log == [(None, 200, len(CONTENT))]


def test_a_whole_part_is_only_handed_over(shelf, toy, own_cache):
    shelf.cuts = [100_000] * 4
    said(datasets.fetch, "toy")
    (own_cache / "toy" / f"{NAME}.part").write_bytes(CONTENT)  # killed after the last byte
    assert datasets.fetch("toy").read_bytes() == CONTENT
    assert shelf.log[-1] == (f"bytes={len(CONTENT)}-", 416, 0) and names(own_cache / "toy") == [NAME]


def test_a_part_that_is_too_long_is_not_used(shelf, toy, own_cache):
    shelf.cuts = [100_000] * 4
    said(datasets.fetch, "toy")
    (own_cache / "toy" / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert datasets.fetch("toy").read_bytes() == CONTENT


def test_wrong_checksum(shelf, toy, own_cache):
    shelf.files[NAME] = bytes(len(CONTENT))
    message = said(datasets.fetch, "toy")
    assert DIGEST in message and hashlib.sha256(bytes(len(CONTENT))).hexdigest() in message and "deleted" in message
    assert names(own_cache / "toy") == []
    shelf.files[NAME] = CONTENT
    assert datasets.fetch("toy").read_bytes() == CONTENT


def test_wrong_size(shelf, toy, own_cache):
    shelf.files[NAME] = CONTENT + b"more"
    assert "found one of 1,000,004 bytes" in said(datasets.fetch, "toy")
    shelf.length = False
    assert "found one of 1,000,004 bytes" in said(datasets.fetch, "toy")
    assert names(own_cache / "toy") == []


def test_wrong_size_is_noticed_before_the_transfer(shelf, toy, monkeypatch):
    monkeypatch.setattr(download, "_receive", lambda *args: pytest.fail("the transfer has begun"))
    shelf.files[NAME] = CONTENT + b"more"
    assert "found one of 1,000,004 bytes" in said(datasets.fetch, "toy")


def test_another_kind_of_file_without_a_checksum(shelf, toy, own_cache, monkeypatch):
    known_as(monkeypatch, toy, size=None, sha256=None)
    shelf.files[NAME] = b"<html>Please log in"
    assert "begins with b'<html>" in said(datasets.fetch, "toy") and names(own_cache / "toy") == []
    shelf.files[NAME] = CONTENT
    assert datasets.fetch("toy").read_bytes() == CONTENT


def test_not_found_and_refused_are_final(shelf, toy, own_cache):
    del shelf.files[NAME]
    message = said(datasets.fetch, "toy")
    assert "HTTP 404" in message and f"{shelf.url}/{NAME}" in message and "NSF_NB_DATA" in message
    shelf.statuses = [403, 500]
    assert "HTTP 403" in said(datasets.fetch, "toy") and shelf.statuses == [500]
    assert names(own_cache / "toy") == []


def test_a_server_in_trouble_is_asked_again(shelf, toy):
    shelf.statuses = [503, 429, 500]
    assert datasets.fetch("toy").read_bytes() == CONTENT
    shelf.statuses = [503] * 4
    assert "HTTP 503" in said(download.Resuming(Path("none.part"), pause=0), f"{shelf.url}/{NAME}", "none", None)


def test_progress_is_drawn_as_the_settings_want(shelf, toy, own_cache, capsys):
    settings.progress = True
    datasets.fetch("toy")
    assert NAME in capsys.readouterr().err
    (own_cache / "toy" / NAME).unlink()
    settings.progress = False
    settings.verbosity = "warning"
    datasets.fetch("toy")
    assert capsys.readouterr().err == ""


# No room


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk(shelf, toy, own_cache):
    (own_cache / "toy").mkdir(parents=True)
    part = own_cache / "toy" / f"{NAME}.part"
    part.symlink_to("/dev/full")
    message = said(datasets.fetch, "toy", error=ConfigError)
    assert "No space left on device" in message and str(part) in message and len(shelf.log) == 1
    part.unlink()
    assert datasets.fetch("toy").read_bytes() == CONTENT


LIMITED = """
import resource, sys
from nsf_nb.core import ConfigError
from nsf_nb.data.download import Resuming
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    Resuming(Path(sys.argv[1]), pause=0)(sys.argv[2], sys.argv[3], None)
except ConfigError as err:
    print(err)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Resuming(Path(sys.argv[1]), pause=0)(sys.argv[2], sys.argv[3], None)
"""


def python(code, *args, **options):
    """Start Python with the modules of this process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_what_was_written_before_the_disk_was_full_is_kept(shelf, tmp_path):
    pytest.importorskip("resource")
    process = python(LIMITED, tmp_path / "a.part", f"{shelf.url}/{NAME}", tmp_path / "a")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Expected room to write" in out and "File too large" in out
    assert (tmp_path / "a").read_bytes() == CONTENT and shelf.log[1] == ("bytes=400000-", 206, 600_000)


def test_room_is_checked_before_the_first_byte(shelf, toy, own_cache, monkeypatch):
    free = type("Usage", (), {"free": 999_999})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: free)
    message = said(datasets.fetch, "toy", error=ConfigError)
    assert "1,000,000 bytes of room" in message and "999,999" in message and names(own_cache / "toy") == []
    free.free = 1_000_000
    assert datasets.fetch("toy").read_bytes() == CONTENT


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(toy, own_cache):
    own_cache.mkdir(mode=0o500)
    assert "for downloads" in said(datasets.fetch, "toy", error=ConfigError)


def test_a_cache_that_is_a_file(toy, own_cache):
    own_cache.write_text("mine")
    assert "NSF_NB_CACHE" in said(datasets.fetch, "toy", error=ConfigError) and own_cache.read_text() == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere pooch follows other customs")
@pytest.mark.parametrize("user", ["/somewhere/cache", None])
def test_the_cache_is_where_pooch_would_have_it(user, monkeypatch):
    import pooch

    from nsf_nb.core import _default_cache

    monkeypatch.delenv("NSF_NB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", user) if user else monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _default_cache() == pooch.os_cache("nsf_nb")
    monkeypatch.setenv("NSF_NB_CACHE", "/elsewhere")
    assert _default_cache() == Path("/elsewhere")


# Several processes

FETCH = """
import sys
from nsf_nb.core import settings
from nsf_nb.data.cache import get
from nsf_nb.data.registry import Entry, RemoteFile
url, folder, digest = sys.argv[1:]
entry = Entry("toy", "", 1, 1, (RemoteFile("counts.h5", url, None, digest),), "", "", "a:b")
settings.verbosity = "info"
print("ready", flush=True)
print(get(entry, folder)[0])
"""


def test_two_processes_at_once(shelf, tmp_path):
    shelf.delay = 0.05
    args = FETCH, f"{shelf.url}/{NAME}", tmp_path, DIGEST
    processes = [python(*args) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(out == f"ready\n{tmp_path / NAME}\n" for out, _ in outputs)
    assert shelf.log == [(None, 200, len(CONTENT))] and (tmp_path / NAME).read_bytes() == CONTENT
    assert sum("another process downloads" in err for _, err in outputs) <= 1


def test_a_killed_process_leaves_a_part_and_no_lock(shelf, tmp_path, toy):
    shelf.delay = 0.05
    process = python(FETCH, f"{shelf.url}/{NAME}", tmp_path, DIGEST)
    part = tmp_path / f"{NAME}.part"
    while not (part.exists() and part.stat().st_size > 200_000):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept, shelf.delay = part.stat().st_size, 0.0
    assert datasets.fetch("toy", tmp_path).read_bytes() == CONTENT
    assert shelf.log[-1] == (f"bytes={kept}-", 206, len(CONTENT) - kept)


# The same file as before


def test_a_checksum_is_recorded_and_compared_later(shelf, toy, own_cache, monkeypatch):
    known_as(monkeypatch, toy, size=None, sha256=None)
    path = datasets.fetch("toy")
    record = path.with_name(f"{NAME}.sha256")
    assert record.read_text() == f"{DIGEST}  {NAME}\n"
    assert datasets.fetch("toy") == path  # unchanged
    path.write_bytes(OTHER)
    for function in (datasets.fetch, datasets.path, datasets.load):
        message = said(function, "toy")
        assert DIGEST in message and str(record) in message and "first used" in message
    path.unlink()
    shelf.files[NAME] = OTHER  # another file on the server is not taken either
    assert DIGEST in said(datasets.fetch, "toy") and not path.exists()
    record.unlink()
    assert datasets.fetch("toy").read_bytes() == OTHER


def test_a_file_put_by_hand_is_checked(toy, own_cache, monkeypatch):
    (own_cache / "toy").mkdir(parents=True)
    (own_cache / "toy" / NAME).write_bytes(CONTENT[:-1])
    assert "999,999 bytes" in said(datasets.path, "toy") and DIGEST in said(datasets.path, "toy")
    (own_cache / "toy" / NAME).write_bytes(CONTENT)
    assert datasets.path("toy") == own_cache / "toy" / NAME
    known_as(monkeypatch, toy, size=None, sha256=None)
    datasets.path("toy")
    assert (own_cache / "toy" / f"{NAME}.sha256").read_text().startswith(DIGEST)


def test_the_own_folder_goes_first(shelf, toy, tmp_path, own_cache, monkeypatch):
    datasets.fetch("toy")
    for place in (tmp_path / "mine", tmp_path / "mine" / "toy"):
        place.mkdir()
        (place / NAME).write_bytes(CONTENT)
        monkeypatch.setenv("NSF_NB_DATA", str(tmp_path / "mine"))
        assert datasets.fetch("toy") == datasets.path("toy") == place / NAME
    (place / NAME).write_bytes(b"cut")
    assert "3 bytes" in said(datasets.path, "toy")  # not passed over in silence
    assert len(shelf.log) == 1


def test_a_folder_with_some_of_the_files_is_not_enough(shelf, tmp_path, monkeypatch):
    shelf.files["more.csv"] = b"more"
    files = tuple(RemoteFile(name, f"{shelf.url}/{name}") for name in (NAME, "more.csv"))
    monkeypatch.setitem(ENTRIES, "two", Entry("two", "", 1, 1, files, "", "", "a:b"))
    (tmp_path / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("NSF_NB_DATA", str(tmp_path))
    assert datasets.fetch("two") == settings.cache_dir / "two" and len(shelf.log) == 2
    (tmp_path / "more.csv").write_bytes(b"more")
    assert datasets.fetch("two") == tmp_path


def test_a_local_set_of_another_version_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NSF_NB_DATA", str(tmp_path))
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "S1.h5ad")
    with caplog.at_level(logging.WARNING, "nsf_nb"):
        assert datasets.load("S1").shape == (3, 2)
    assert "not the version of S1.h5ad" in caplog.text


# Without a network


def test_without_a_network_the_error_says_which_file_to_put_where(toy, shelf, own_cache, monkeypatch):
    known_as(monkeypatch, toy, url="http://127.0.0.1:9/counts.h5")
    message = said(datasets.fetch, "toy")
    assert "no connection" in message
    facts = NAME, "http://127.0.0.1:9/counts.h5", "1,000,000 bytes", DIGEST
    assert all(part in message for part in (*facts, str(own_cache / "toy"), "NSF_NB_DATA"))
    (own_cache / "toy").mkdir(parents=True, exist_ok=True)
    (own_cache / "toy" / NAME).write_bytes(CONTENT)  # as it says
    assert datasets.fetch("toy") == own_cache / "toy" / NAME


def test_offline_asks_nobody(toy, shelf, own_cache):
    settings.offline = True
    for function in (datasets.fetch, datasets.load, datasets.path):
        message = said(function, "toy")
        assert str(own_cache / "toy") in message and DIGEST in message and f"{shelf.url}/{NAME}" in message
    assert "NSF_NB_OFFLINE" in said(datasets.fetch, "toy", url=shelf.url) and shelf.log == []


@pytest.mark.parametrize("text, offline", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_offline_by_the_environment(text, offline, run_tool, monkeypatch):
    monkeypatch.setenv("NSF_NB_OFFLINE", text)
    done = run_tool(["python", "-c", "import nsf_nb; print(nsf_nb.settings.offline)"])
    assert done.stdout == f"{offline}\n"


def test_advice_names_what_is_missing_only(shelf, tmp_path, monkeypatch):
    files = (RemoteFile(NAME, f"{shelf.url}/{NAME}"), RemoteFile("gone.csv", f"{shelf.url}/gone.csv"))
    monkeypatch.setitem(ENTRIES, "two", Entry("two", "", 1, 1, files, "", "", "a:b"))
    said(datasets.fetch, "two", tmp_path)
    do = said(datasets.fetch, "two", tmp_path).partition("Not Found. ")[2]
    assert do == f"Download {shelf.url}/gone.csv elsewhere and put gone.csv into '{tmp_path}'."
    assert shelf.log == [(None, 200, len(CONTENT))]


# The registry


def test_the_registry_is_whole(own_cache):
    table = datasets.list_datasets()
    assert list(table.index) == list(ENTRIES) and (table["place"] == "").all()
    assert table.loc["visium_brain_sagittal", "size"] == 29_788_270
    assert set(table.index[table["download"]]) == {"visium_brain_sagittal", "slideseqv2_hippocampus", "xyzeq_liver"}
    assert (table[["title", "licence", "citation", "loader"]] != "").all(axis=None)
    every = [file for entry in ENTRIES.values() for file in entry.files]
    assert len({file.name for file in every}) == len(every)
    assert [file.name for file in every if file.sha256 is None] == ["GSM5009531_L20C1.h5ad.gz"]
    assert all(file.url is None or file.url.endswith("/" + file.name) for file in every)


@pytest.mark.data
def test_the_six_small_sets(data_dir, monkeypatch, caplog):
    monkeypatch.setenv("NSF_NB_DATA", str(data_dir))
    local = [entry for entry in ENTRIES.values() if entry.files[0].url is None]
    assert len(local) == 6
    for entry in local:
        adata = datasets.load(entry.name)
        assert adata.shape == (entry.n_obs, entry.n_vars)
        assert datasets.path(entry.name).stat().st_size == entry.files[0].size
        data, _ = from_anndata(adata, layer="counts")
        assert data.n_obs == entry.n_obs and adata.uns["dataset"] == entry.name
    assert caplog.text == ""
    assert (datasets.list_datasets().loc[[entry.name for entry in local], "place"] == str(data_dir)).all()


def test_nothing_heavy_is_imported(run_tool):
    heavy = ["pooch", "requests", "filelock", "pandas", "anndata", "h5py", "tensorflow", "scanpy"]
    code = f"import sys, nsf_nb; nsf_nb.datasets.fetch; print([name for name in {heavy} if name in sys.modules])"
    assert run_tool(["python", "-c", code]).stdout == "[]\n"


# Visium

PREFIX = "V1_Mouse_Brain_Sagittal_Anterior_"
COLUMNS = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"


def matrix_file(counts, names=None, leave_out=()):
    """The bytes of a filtered_feature_bc_matrix.h5, as Space Ranger writes it."""
    columns, target = sp.csc_matrix(counts.T.astype(np.int32)), io.BytesIO()
    n_genes, n_spots = columns.shape
    parts = {
        "barcodes": np.array([f"AAAC{n:04}-1" for n in range(n_spots)], dtype="S18"), "data": columns.data,
        "indices": columns.indices.astype(np.int64), "indptr": columns.indptr.astype(np.int64),
        "shape": np.array(columns.shape, dtype=np.int32),
        "features/id": np.array([f"ENSMUSG{j:011}" for j in range(n_genes)], dtype="S18"),
        "features/name": np.array(names or [f"Gene{j}" for j in range(n_genes)], dtype="S18"),
        "features/feature_type": np.array(["Gene Expression"] * n_genes, dtype="S15"),
        "features/genome": np.array(["mm10"] * n_genes, dtype="S4"),
        "features/_all_tag_keys": np.array(["genome"], dtype="S6"),
    }
    with h5py.File(target, "w") as file:
        file.attrs["filetype"], file.attrs["version"] = "matrix", 2
        for name, values in parts.items():
            if name not in leave_out:
                file.create_dataset(f"matrix/{name}", data=values, chunks=True, compression="gzip")
    return target.getvalue()


def archive(files, links=()):
    """The bytes of a tar.gz."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, goal in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, goal
            tar.addfile(member)
    return target.getvalue()


def positions(n_spots):
    """Lines of tissue_positions_list.csv: all spots of the slide, in its own order, most of them without tissue."""
    rng = np.random.default_rng(1)
    places = [f"{n},{n % 7},{100 + 3 * n},{5000 - 2 * n}" for n in range(n_spots + 30)]
    order = rng.permutation(len(places))
    return [f"AAAC{n:04}-1,{int(n < n_spots)},{places[n]}" for n in order]


def visium_files(n_spots=60, n_genes=25):
    """Counts, and the two files."""
    counts = np.random.default_rng(0).poisson(1.0, size=(n_spots, n_genes))
    table = "\n".join(positions(n_spots)) + "\n"
    scales = '{"spot_diameter_fullres": 89.44, "tissue_hires_scalef": 0.17}'
    picture = {"spatial/tissue_lowres_image.png": "png"}
    spatial = archive({**picture, "spatial/tissue_positions_list.csv": table, "spatial/scalefactors_json.json": scales})
    return counts, {f"{PREFIX}filtered_feature_bc_matrix.h5": matrix_file(counts), f"{PREFIX}spatial.tar.gz": spatial}


@pytest.fixture
def visium(shelf, monkeypatch):
    """The Visium entry, with files of this test in the place of the real ones."""
    counts, files = visium_files()
    shelf.files.update(files)
    entry = ENTRIES["visium_brain_sagittal"]
    assert [file.name for file in entry.files] == list(files)
    unknown = tuple(replace(file, url=f"{shelf.url}/{file.name}", size=None, sha256=None) for file in entry.files)
    monkeypatch.setitem(ENTRIES, entry.name, replace(entry, files=unknown))
    return counts


def test_visium_from_download_to_fit(visium, own_cache, shelf):
    import nsf_nb as nsf

    adata = nsf.datasets.visium_brain_sagittal()
    assert (adata.layers["counts"].toarray() == visium).all() and (adata.layers["counts"] != adata.X).nnz == 0
    assert list(adata.obs_names[:2]) == ["AAAC0000-1", "AAAC0001-1"] and (adata.obs["in_tissue"] == 1).all()
    assert (adata.obsm["spatial"] == [[5000 - 2 * n, 100 + 3 * n] for n in range(60)]).all()
    assert adata.uns["source"]["spot_diameter"] == 89.44 and adata.uns["dataset"] == "visium_brain_sagittal"
    assert adata.var["gene_ids"].iloc[3] == "ENSMUSG00000000003"
    nsf.pp.deviance(adata, layer="counts", n_top=10)
    nsf.tl.fit(adata, nsf.NSF(2, n_starts=1, max_iter=3, n_inducing=20), layer="counts")
    assert adata.obsm["X_nsf"].shape == (60, 2)
    adata.write_h5ad(own_cache / "kept.h5ad")
    assert len(shelf.log) == 2 and nsf.datasets.path("visium_brain_sagittal") == own_cache / "visium_brain_sagittal"


def test_a_layer_is_not_the_main_matrix(visium):
    adata = datasets.visium_brain_sagittal()
    adata.X.data[:] = 0  # what scanpy does in place stays there
    assert adata.layers["counts"].sum() == visium.sum()


def test_both_forms_of_the_positions_and_a_folder(tmp_path):
    counts, files = visium_files()
    matrix, spatial = (tmp_path / name for name in files)
    for path, content in zip((matrix, spatial), files.values(), strict=True):
        path.write_bytes(content)
    first = datasets.read_visium(matrix, spatial)
    lines = positions(60)
    (tmp_path / "new.tar.gz").write_bytes(archive({"spatial/tissue_positions.csv": "\n".join([COLUMNS, *lines])}))
    (tmp_path / "outs" / "spatial").mkdir(parents=True)
    (tmp_path / "outs" / "spatial" / "tissue_positions.csv").write_text("\n".join([COLUMNS, *lines]))
    for place in ("new.tar.gz", "outs", "outs/spatial"):
        again = datasets.read_visium(matrix, tmp_path / place)
        assert (again.obsm["spatial"] == first.obsm["spatial"]).all() and again.obs.equals(first.obs)


def test_names_of_genes_become_unique(tmp_path):
    counts, files = visium_files(n_genes=4)
    (tmp_path / "m.h5").write_bytes(matrix_file(counts, ["A", "B", "A", "C"]))
    (tmp_path / "s.tar.gz").write_bytes(files[f"{PREFIX}spatial.tar.gz"])
    assert list(datasets.read_visium(tmp_path / "m.h5", tmp_path / "s.tar.gz").var_names) == ["A", "B", "A-1", "C"]


LAYOUTS = {
    "no group": (lambda: matrix_file(np.ones((60, 3)), leave_out=("features/name",)), None, "no matrix/features/name"),
    "cut h5": (lambda: matrix_file(np.ones((60, 3)))[:3000], None, "cannot be read"),
    "no h5": (lambda: b"<html>", None, "begins with b'<html>'"),
    "other columns": (None, {"spatial/tissue_positions_list.csv": "AAAC0000-1,1,2,3\n"}, "4 columns"),
    "renamed column": (None, {"spatial/tissue_positions.csv": COLUMNS.replace("pxl_col", "x") + "\na,1,2,3,4,5\n"},
                       "x_in_fullres"),
    "no table": (None, {"spatial/aligned_fiducials.jpg": ""}, "neither"),
    "other section": (None, {"spatial/tissue_positions_list.csv": "TTTT-1,1,2,3,4,5\n"}, "none for 60 of 60"),
    "empty table": (None, {"spatial/tissue_positions_list.csv": ""}, "tissue_positions_list.csv"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_of_visium(name, visium, shelf):
    matrix, spatial, part = LAYOUTS[name]
    if matrix is not None:
        shelf.files[f"{PREFIX}filtered_feature_bc_matrix.h5"] = matrix()
    if spatial is not None:
        shelf.files[f"{PREFIX}spatial.tar.gz"] = archive(spatial)
    message = said(datasets.visium_brain_sagittal)
    assert part in message and PREFIX in message and message.startswith("Expected ")


@pytest.mark.parametrize("name", ["../tissue_positions_list.csv", "{}/tissue_positions_list.csv", "link"])
def test_an_archive_writes_nothing_anywhere(name, tmp_path):
    counts, files = visium_files()
    (tmp_path / "a" / "b").mkdir(parents=True)
    matrix, spatial = tmp_path / "a" / "b" / "m.h5", tmp_path / "a" / "b" / "s.tar.gz"
    matrix.write_bytes(matrix_file(counts))
    (tmp_path / "secret.csv").write_text("\n".join(positions(60)))
    table = "\n".join(positions(60))
    if name == "link":
        spatial.write_bytes(archive({}, [("spatial/tissue_positions_list.csv", str(tmp_path / "secret.csv"))]))
    else:
        spatial.write_bytes(archive({name.format(tmp_path): table}))
    before = sorted(tmp_path.rglob("*"))
    assert "neither" in said(datasets.read_visium, matrix, spatial)
    assert sorted(tmp_path.rglob("*")) == before


# Slide-seq


def slideseq(kind, n_beads=50, n_genes=30):
    """Counts, and an AnnData as others offer it."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(rng.gamma(0.4, 3.0, size=n_genes), size=(n_beads, n_genes)).astype(np.float32)
    counts[:, 0] += 1
    logged = np.log1p(counts * (np.median(counts.sum(axis=1)) / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    names = [f"b{n}" for n in range(n_beads)]
    obs = pd.DataFrame({"cluster": pd.Categorical(["CA1", "DG"] * (n_beads // 2))}, index=names)
    var = pd.DataFrame(index=[f"Gene{j}" for j in range(n_genes)])
    places = rng.uniform(0, 5000, size=(n_beads, 2))
    if kind == "seurat":
        adata = anndata.AnnData(logged - logged.mean(axis=0), obs.assign(x=places[:, 0], y=places[:, 1]), var)
        adata.raw = anndata.AnnData(sp.csr_matrix(counts), obs, var)
        return counts, places, adata
    values = np.expm1(logged) if kind == "scaled" else logged
    adata = anndata.AnnData(sp.csr_matrix(values), obs, var, obsm={"spatial": places})
    adata.raw = adata.copy()
    adata = adata[:, :10].copy()
    if kind == "layer":
        adata.raw = None
        adata.layers["counts"] = sp.csr_matrix(counts[:, :10])
    return counts, places, adata


def as_bytes(adata, tmp_path):
    """The bytes of an h5ad file."""
    adata.write_h5ad(tmp_path / "made.h5ad")
    return (tmp_path / "made.h5ad").read_bytes()


@pytest.mark.parametrize("kind, where", [
    ("squidpy", "raw.X, from logarithms"), ("scaled", "raw.X, from scaled counts"), ("seurat", "raw.X"),
    ("layer", "layers['counts']"),
])
def test_slideseq_has_counts_wherever_they_were(kind, where, shelf, tmp_path, monkeypatch, caplog):
    counts, places, adata = slideseq(kind)
    shelf.files["slideseqv2.h5ad"] = as_bytes(adata, tmp_path)
    known_as(monkeypatch, ENTRIES["slideseqv2_hippocampus"], sha256=None, url=f"{shelf.url}/slideseqv2.h5ad")
    with caplog.at_level(logging.WARNING, "nsf_nb"):
        found = datasets.slideseqv2_hippocampus()
    counts = counts[:, :10] if kind == "layer" else counts
    assert (found.layers["counts"].toarray() == counts).all() and np.allclose(found.obsm["spatial"], places)
    assert found.uns["source"]["counts"] == where and ("no raw counts" in caplog.text) == (", from" in where)
    assert list(found.obs["cluster"][:2]) == ["CA1", "DG"] and found.n_vars == counts.shape[1]
    from_anndata(found, layer="counts")


def test_another_layout_of_slideseq(tmp_path):
    _, places, adata = slideseq("squidpy")
    path = tmp_path / "slideseqv2.h5ad"
    without = adata.copy()
    del without.obsm["spatial"]
    without.obsm["where"] = places
    without.write_h5ad(path)
    assert "obsm: where; obs: cluster" in said(datasets.read_slideseq, path)
    noisy = adata.raw.to_adata()
    noisy.obsm["spatial"] = places
    noisy.X.data *= 1.01
    noisy.write_h5ad(path)
    message = said(datasets.read_slideseq, path)
    assert "raw counts, or what they can be computed from" in message and "fractional" in message


@pytest.mark.parametrize("seed", range(20))
def test_logarithms_of_counts_come_back(seed):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(rng.uniform(0.1, 1.0), rng.uniform(0.5, 20.0), size=200)
    counts = rng.poisson(rates, size=(60, 200)) * (rng.random((60, 1)) < 0.95)  # some spots are empty
    counts[:, 0] += counts.any(axis=1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logged = np.log1p((counts * rng.choice([1e4, np.median(totals)]) / totals).astype(np.float32))
    smallest = np.where(counts > 0, counts, np.iinfo(np.int64).max).min(axis=1)
    certain = (smallest <= 3) | ~counts.any(axis=1)
    assert (counts_of_logs(sp.csc_matrix(logged[certain])).toarray() == counts[certain]).all()
    scaled = np.log1p(counts[certain] * rng.uniform(0.9, 1.1, size=200))  # each gene by another number
    with pytest.raises(DataError):
        counts_of_logs(scaled)


# XYZeq


@pytest.fixture
def xyzeq(shelf, tmp_path, monkeypatch):
    """The XYZeq entry with a slice of this test; its counts, and the two tables of the user."""
    rng = np.random.default_rng(4)
    wells = ["".join("ACGT"[int(k)] for k in np.base_repr(n, 4).zfill(4)) for n in range(9)]
    cells = [f"L20C1.{wells[n % 9]}.{n}" for n in range(40)]
    genes = [*(f"mm10_Gene{j}" for j in range(6)), *(f"hg19_GENE{j}" for j in range(3))]
    counts = rng.poisson(1.5, size=(40, 9)).astype(np.float32)
    counts[:, 5] = 0
    adata = anndata.AnnData(sp.csr_matrix(counts), pd.DataFrame(index=cells), pd.DataFrame(index=genes))
    shelf.files["GSM5009531_L20C1.h5ad.gz"] = gzip.compress(as_bytes(adata, tmp_path))
    known_as(monkeypatch, ENTRIES["xyzeq_liver"], url=f"{shelf.url}/GSM5009531_L20C1.h5ad.gz")
    plate, labels = tmp_path / "plate23_map.csv", tmp_path / "L20C1.csv"
    plate.write_text("index,X,Y\n" + "".join(f"{well},{n // 3},{n % 3 + 0.5}\n" for n, well in enumerate(wells)))
    kinds = ["M" if n % 4 else "H" for n in range(38)]
    rows = [f"{cells[n]},{kinds[n]},{'Hepatocyte' if n % 2 else 'Kupffer'}\n" for n in rng.permutation(38)]
    labels.write_text("index,cell_call,celltype\n" + "".join(rows))
    return counts, cells, plate, labels


def test_xyzeq_with_the_tables_of_the_user(xyzeq, own_cache):
    counts, cells, plate, labels = xyzeq
    adata = datasets.xyzeq_liver(plate, labels)
    rows = [cells.index(name) for name in adata.obs_names]
    assert sorted(rows) == [n for n in range(38) if n % 4] and list(adata.var_names) == [f"Gene{j}" for j in range(5)]
    assert (adata.layers["counts"].toarray() == counts[rows][:, :5]).all()
    assert (adata.obsm["spatial"] == [[n % 9 // 3, n % 9 % 3 + 0.5] for n in rows]).all()
    assert adata.uns["source"]["wells"] == 9 and set(adata.obs["celltype"]) == {"Hepatocyte", "Kupffer"}
    from_anndata(adata, layer="counts")  # many cells in a well are legal
    adata.write_h5ad(own_cache / "kept.h5ad")
    bare = plate.with_name("bare.csv")
    bare.write_text(plate.read_text().partition("\n")[2])
    assert (datasets.xyzeq_liver(bare, labels).obsm["spatial"] == adata.obsm["spatial"]).all()


def test_xyzeq_without_the_tables_says_where_they_are(xyzeq, shelf):
    _, _, plate, labels = xyzeq
    for given, missing in (
        ({}, "plate_map and cell_labels"), ({"plate_map": plate}, "cell_labels"), ({"cell_labels": labels}, "plate_map")
    ):
        message = said(datasets.xyzeq_liver, error=ConfigError, **given)
        assert "not public" in message and "authors of XYZeq" in message and f"found no {missing}." in message
    assert shelf.log == []  # before any download
    assert "xyzeq_liver(plate_map=…, cell_labels=…)" in said(datasets.load, "xyzeq_liver", error=ConfigError)


def test_another_layout_of_xyzeq(xyzeq, shelf, own_cache, tmp_path):
    counts, cells, plate, labels = xyzeq
    other = tmp_path / "other.csv"
    other.write_text(labels.read_text().replace("celltype", "type"))
    assert "no celltype, but index, cell_call, type" in said(datasets.xyzeq_liver, plate, other)
    other.write_text(plate.read_text().replace("index,X,Y", "index,row,column"))
    assert "no X, Y, but barcode, row, column" in said(datasets.xyzeq_liver, other, labels)
    other.write_text(plate.read_text() + "AAAA,7,7\n")
    assert "one place for each barcode" in said(datasets.xyzeq_liver, other, labels)
    other.write_text(labels.read_text().replace(",M,", ",mouse,"))
    assert "none of them called M" in said(datasets.xyzeq_liver, plate, other)
    other.write_text("barcode,X,Y\nTTTT,1,2\n")
    assert "found none (counts: L20C1.AAAA.0; labels: L20C1." in said(datasets.xyzeq_liver, other, labels)
    (own_cache / "xyzeq_liver" / "GSM5009531_L20C1.h5ad.gz.sha256").unlink()
    anndata.AnnData(counts, pd.DataFrame(index=cells)).write_h5ad(tmp_path / "plain.h5ad")
    (own_cache / "xyzeq_liver" / "GSM5009531_L20C1.h5ad.gz").write_bytes((tmp_path / "plain.h5ad").read_bytes())
    assert "begin with mm10_, found none" in said(datasets.xyzeq_liver, plate, labels)


# The command


def nsf(line, code=0):
    """Run the command; what it prints, or the one line of its error."""
    done = CliRunner().invoke(app, line.split(), prog_name="nsf")
    assert done.exit_code == code, (done.output, done.exception)
    assert code == 0 or (done.stdout == "" and done.stderr.splitlines()[-1].startswith("nsf: "))
    return done.stdout if code == 0 else done.stderr


def test_command_fetch_path_and_list(toy, shelf, own_cache):
    assert "found nothing" in nsf("datasets path toy", 2) and shelf.log == []
    out = nsf("datasets fetch toy")
    assert out == f"files    {own_cache / 'toy' / NAME}\nlicence  none\ncite     nobody\n"
    assert nsf("datasets path toy") == f"{own_cache / 'toy' / NAME}\n" and len(shelf.log) == 1
    assert nsf("datasets fetch toy --quiet") == ""
    listed = nsf("datasets list")
    assert re.search(r"^toy +1\.0 MB +here +bytes$", listed, re.M)
    needs = r"^xyzeq_liver +\? +to download +XYZeq.*\n +needs files of yours: plate_map, cell_labels$"
    assert re.search(needs, listed, re.M)
    assert re.search(r"^S1 +0\.5 MB +not here ", listed, re.M)
    facts = json.loads(nsf("datasets list --json"))
    assert list(facts) == list(ENTRIES) and facts["toy"]["place"] == str(own_cache / "toy")
    assert facts["xyzeq_liver"]["size"] is None and facts["S1"]["n_obs"] == 1296


def test_command_with_folder_and_address(toy, shelf, tmp_path):
    line = f"datasets fetch toy --folder {tmp_path / 'here'} --url {shelf.url}"
    assert f"files    {tmp_path / 'here' / NAME}" in nsf(line)
    assert nsf(f"datasets path toy --folder {tmp_path / 'here'}") == f"{tmp_path / 'here' / NAME}\n"


REFUSED = {
    "name": ("fetch S7", "'S6'"), "near": ("path visium_brain_saggital", "Did you mean 'visium_brain_sagittal'"),
    "local": ("fetch S1", "nobody offers it for download"), "no name": ("fetch", "Missing argument"),
    "command": ("get toy", "'get'"), "option": ("list --all", "--all"),
    "offline": ("fetch visium_brain_sagittal", "NSF_NB_OFFLINE"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_command_refuses_in_one_line(name, own_cache):
    settings.offline = True
    line, part = REFUSED[name]
    error = nsf(f"datasets {line}", 2)
    assert part in error and error.count("\n") == 1 and not own_cache.exists()


def test_command_fails_with_the_download(toy, shelf, own_cache):
    shelf.statuses = [404]
    assert "HTTP 404" in nsf("datasets fetch toy --quiet", 2)
    shelf.cuts = [1000] * 4
    assert "Call again to go on after the 4,000 bytes" in nsf("datasets fetch toy --quiet", 2)


def test_command_help():
    assert all(name in nsf("datasets") for name in ("list", "fetch", "path"))
    for name in ("list", "fetch", "path"):
        assert f"Usage: nsf datasets {name}" in nsf(f"datasets {name} --help")
