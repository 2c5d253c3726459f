"""The package as its source says it: public names, signatures, docstrings; nothing is imported."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "nsf_nb"
SHORT = {short: f"{PACKAGE}.{short}" for short in ("pp", "tl", "pl")} | {
    "datasets": f"{PACKAGE}.data.datasets", "metrics": f"{PACKAGE}.reading.metrics"}


@dataclass(frozen=True)
class Definition:
    """A name and where it is defined; `kind` is function, class, method, property or data."""

    module: str
    name: str
    node: ast.AST
    kind: str
    doc: str = ""

    @property
    def path(self) -> str:
        """Dotted name."""
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """First paragraph of the docstring."""
        return " ".join(self.doc.partition("\n\n")[0].split())


@cache
def read_module(root: Path, module: str) -> ast.Module | None:
    """Syntax tree of a module, or None if it is not of the package."""
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return ast.parse(path.read_text(encoding="utf-8"))
    return None


def absolute(module: str, node: ast.ImportFrom) -> str:
    """Dotted name of the module that an import is from."""
    parts = module.split(".")[: -node.level] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def literal(tree: ast.Module, name: str) -> object:
    """Value of a constant of a module."""
    made = [node for node in tree.body if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)]
    plain = [node.value for node in made if not isinstance(node.value, ast.Call) and ast.unparse(node.value) != "[]"]
    return ast.literal_eval(plain[0])


def find(root: Path, module: str, name: str) -> Definition | None:
    """Where a name of a module is defined; imports are followed."""
    tree = read_module(root, module)
    for node in tree.body if tree else []:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            return Definition(module, name, node, kind, ast.get_docstring(node) or "")
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(root, absolute(module, node), alias.name)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                return Definition(module, name, node, "data")
    return None


def pairs(node: ast.Assign) -> Iterator[tuple[str, ast.AST]]:
    """Names and values of an assignment, tuples taken apart."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from ((ast.unparse(a), b) for a, b in zip(target.elts, node.value.elts, strict=True))
        elif isinstance(target, ast.Name):
            yield target.id, node.value


def member(root: Path, owner: Definition, name: str, value: ast.AST) -> Definition | None:
    """What an assignment in a class makes: a method from a function, or a property."""
    text = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    if text in ("classmethod", "staticmethod"):
        value = value.args[0]
    if text in ("property", "cached_property"):
        docs = [k.value.value for k in value.keywords if k.arg == "doc" and isinstance(k.value, ast.Constant)]
        return Definition(owner.module, f"{owner.name}.{name}", value, "property", "".join(docs))
    found = find(root, owner.module, value.id) if isinstance(value, ast.Name) else None
    if found is None or found.kind != "function":
        return None
    return Definition(owner.module, f"{owner.name}.{name}", found.node, "method", found.doc)


def own_members(root: Path, owner: Definition) -> dict[str, Definition]:
    """Public methods and properties that a class defines itself."""
    found = {}
    for node in owner.node.body:
        if isinstance(node, ast.FunctionDef):
            kind = "property" if any("property" in ast.unparse(d) for d in node.decorator_list) else "method"
            found[node.name] = Definition(
                owner.module, f"{owner.name}.{node.name}", node, kind, ast.get_docstring(node) or ""
            )
        if isinstance(node, ast.Assign):
            found |= {name: made for name, value in pairs(node) if (made := member(root, owner, name, value))}
    return {name: item for name, item in found.items() if not name.startswith("_")}


def members(root: Path, owner: Definition) -> dict[str, Definition]:
    """Public methods and properties of a class and of its bases in the package; the nearest wins."""
    found = dict(own_members(root, owner))
    for base in owner.node.bases:
        inherited = find(root, owner.module, ast.unparse(base))
        if inherited is not None and inherited.kind == "class":
            found = members(root, inherited) | found
    return found


def maker(root: Path, owner: Definition) -> ast.FunctionDef | None:
    """The `__init__` of a class, its own or inherited."""
    for node in owner.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node
    bases = [find(root, owner.module, ast.unparse(base)) for base in owner.node.bases]
    return next((made for b in bases if b and b.kind == "class" and (made := maker(root, b))), None)


def parameters(root: Path, item: Definition) -> list[tuple[str, str, str]]:
    """Name (with its stars), annotation and default of each argument; "*" and "/" stand for themselves."""
    node = item.node
    if item.kind == "class":
        made = maker(root, item)
        if made is None:
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            return [(f.target.id, ast.unparse(f.annotation), ast.unparse(f.value) if f.value else "") for f in fields]
        node = made
    if not isinstance(node, ast.FunctionDef):
        return []
    args, text = node.args, lambda part: ast.unparse(part) if part else ""
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    found = [(a.arg, text(a.annotation), text(d)) for a, d in zip(plain, defaults, strict=True)]
    if args.posonlyargs:
        found.insert(len(args.posonlyargs), ("/", "", ""))
    if args.vararg:
        found.append(("*" + args.vararg.arg, text(args.vararg.annotation), ""))
    elif args.kwonlyargs:
        found.append(("*", "", ""))
    found += [(a.arg, text(a.annotation), text(d)) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [one for one in found if one[0] not in ("self", "cls")]


def sections(doc: str) -> tuple[str, dict[str, str]]:
    """Text before the first section of a numpy docstring, and its sections by title."""
    first, *rest = re.split(r"^(\w[\w ]*)\n-{3,}\n", doc, flags=re.MULTILINE)
    return first.strip(), dict(zip(rest[::2], (text.rstrip() for text in rest[1::2]), strict=True))


def items(text: str) -> list[tuple[str, str]]:
    """Heads and explanations of a section: lines at the margin, and what is indented below them."""
    found = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            found.append((line, []))
        elif found:
            found[-1][1].append(line.strip())
    return [(head, "\n".join(lines).strip()) for head, lines in found]


def public_names(root: Path) -> dict[str, Definition]:
    """Every public name as users write it, `nsf_nb.NSF` or `nsf_nb.tl.fit`, and its definition."""
    found = {}
    for name, place in literal(read_module(root, PACKAGE), "_PUBLIC").items():
        module, _, attribute = place.partition(":")
        if attribute:
            found[f"{PACKAGE}.{name}"] = find(root, module, attribute)
    for short, module in SHORT.items():
        for name in literal(read_module(root, module), "__all__"):
            found[f"{PACKAGE}.{short}.{name}"] = find(root, module, name)
    return found
