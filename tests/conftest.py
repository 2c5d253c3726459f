"""What several tests need: the root of the repository, a copy of it, its tools, and the data folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tools"))
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache", ".ipynb_checkpoints", "_book", "_docs", "build", "*.h5ad"
)


def find_data() -> Path | None:
    """The data folder that NSF_NB_DATA names, as an absolute path."""
    named = os.environ.get("NSF_NB_DATA")
    return Path(named).resolve() if named and Path(named).is_dir() else None


@pytest.fixture(scope="session")
def data_dir():
    """Folder of real data; the test is skipped without it."""
    folder = find_data()
    if folder is None:
        pytest.skip("NSF_NB_DATA does not name a folder: set it to the folder of the h5ad files")
    return folder


@pytest.fixture
def house_copy(tmp_path):
    """A copy of the repository that a test may change."""
    return shutil.copytree(ROOT, tmp_path / "house", ignore=LEFT_OUT)


@pytest.fixture(scope="session")
def run_tool(tmp_path_factory):
    """Run a command of the test environment in a folder: the package found there, no configuration of the user."""
    config = tmp_path_factory.mktemp("config")

    def run(command: list[str], cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess:
        tools = Path(sys.executable).parent
        command = [str(tools / command[0]), *map(str, command[1:])]
        data = find_data()
        env = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(cwd),
            "XDG_CONFIG_HOME": str(config),
            "MPLBACKEND": "Agg",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **({"NSF_NB_DATA": str(data)} if data else {}),
        }
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.hookimpl(tryfirst=True)  # before the marks are read
def pytest_collection_modifyitems(items):
    """Workers take a chapter, or all tests of one file, which share what they have fitted."""
    for item in items:
        if item.get_closest_marker("notebook") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
