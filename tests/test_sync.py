"""The modules are what the chapters export, byte by byte."""

from conftest import ROOT


def modules(root):
    """Relative path and content of every file of the package."""
    files = sorted((root / "nsf_nb").rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def export_anew(house, run_tool):
    """Delete all modules of a copy, export the chapters, and return the new modules."""
    for path in (house / "nsf_nb").rglob("*.py"):
        path.unlink()
    done = run_tool(["nbdev_export"], cwd=house)
    assert done.returncode == 0, done.stderr
    return modules(house)


def compare(stored, fresh):
    """Names of modules that are missing, left over or different."""
    return sorted(name for name in {*stored, *fresh} if stored.get(name) != fresh.get(name))


def test_modules_are_the_export_of_the_chapters(house_copy, run_tool):
    stored = modules(house_copy)
    fresh = export_anew(house_copy, run_tool)
    assert {"nsf_nb/__init__.py", "nsf_nb/_modidx.py", "nsf_nb/core.py"} <= set(fresh)
    assert not compare(stored, fresh), "run nbdev_export and commit the modules with the chapters"


def test_an_edited_a_missing_and_a_foreign_module_are_noticed():
    stored = modules(ROOT)
    changed = {**stored, "nsf_nb/core.py": stored["nsf_nb/core.py"] + b"\n", "nsf_nb/utils.py": b""}
    del changed["nsf_nb/notation.py"]
    assert compare(changed, stored) == ["nsf_nb/core.py", "nsf_nb/notation.py", "nsf_nb/utils.py"]
