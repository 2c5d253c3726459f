"""A module imports only from its own layer or a lower one."""

import ast

import pytest
import rules
from conftest import ROOT

LIGHT_LAYERS = (0, 1)  # foundations and data: heavy packages are imported where they are used
HEAVY = {"tensorflow", "tensorflow_probability", "tf_keras", "scanpy", "anndata", "sklearn", "pandas", "matplotlib"}


def layers(root=ROOT):
    """Layer of every module, from the first digit of the chapter that exports it."""
    found = {}
    for path in rules.notebooks(root):
        module = rules.exported_module(rules.read_notebook(path))
        if module and path.name[0].isdigit():
            found[f"nsf_nb.{module}".removesuffix(".__init__")] = int(path.name[0])
    return found


def module_path(module, root=ROOT):
    """File of a module."""
    path = root / (module.replace(".", "/") + ".py")
    return path if path.exists() else root / module.replace(".", "/") / "__init__.py"


def targets(node, module):
    """Full names that one import statement may refer to; for relative ones, seen from a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = module.split(".")[: -node.level] if node.level else []
    stem = ".".join([*base, *([node.module] if node.module else [])])
    return [f"{stem}.{alias.name}" for alias in node.names] + [stem] * (stem != "nsf_nb")


def own_imports(module, source):
    """Modules of the package that a module imports, at its top or inside functions."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [name for node in nodes for name in targets(node, module)]
    return {name for name in names if name.split(".")[0] == "nsf_nb"}


def violations(module, source, table):
    """Imports of a module that point upward, or to the package itself, which stands above all."""
    wrong, packages = [], {name.rpartition(".")[0] for name in table} - {"nsf_nb"}
    for name in sorted(own_imports(module, source)):
        top = name == "nsf_nb" or (name.count(".") == 1 and name not in table and name not in packages)
        layer = table["nsf_nb"] if top else table.get(name, 0)
        if layer > table[module]:
            wrong.append(f"{module} (layer {table[module]}) imports {name} (layer {layer})")
    return wrong


def heavy_at_top(source):
    """Heavy packages that are imported when the module is imported."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return sorted({name.split(".")[0] for node in nodes for name in targets(node, "nsf_nb.x")} & HEAVY)


@pytest.mark.parametrize("module", sorted(layers()))
def test_imports_point_downward(module):
    assert violations(module, module_path(module).read_text(encoding="utf-8"), layers()) == []


@pytest.mark.parametrize("module", sorted(name for name, layer in layers().items() if layer in LIGHT_LAYERS))
def test_low_layers_are_light(module):
    assert heavy_at_top(module_path(module).read_text(encoding="utf-8")) == []


def test_every_module_has_a_chapter():
    files = {path for path in (ROOT / "nsf_nb").rglob("*.py") if path.name != "_modidx.py"}
    owned = {module_path(module) for module in layers()}
    assert [path.name for path in files - owned if path.read_text(encoding="utf-8").strip()] == []


@pytest.mark.parametrize(
    "source",
    [
        "from nsf_nb.estimators import NSF",
        "from ..estimators import NSF",
        "from .. import estimators",
        "def f():\n    import nsf_nb.estimators",
        "def f():\n    from nsf_nb import NSF",
        "import nsf_nb",
    ],
)
def test_upward_imports_are_noticed(source):
    table = {"nsf_nb": 6, "nsf_nb.core": 0, "nsf_nb.data.counts": 1, "nsf_nb.estimators": 6}
    assert violations("nsf_nb.data.counts", source, table)
    assert not violations("nsf_nb.data.counts", "from ..core import DataError\nfrom . import counts", table)


def test_heavy_imports_are_noticed():
    assert heavy_at_top("import scanpy as sc\nfrom sklearn.cluster import KMeans") == ["scanpy", "sklearn"]
    assert heavy_at_top("import numpy\ndef f():\n    import scanpy") == []
