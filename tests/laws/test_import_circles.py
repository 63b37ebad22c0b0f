"""No module imports itself through others, and what is named by text is there."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import cutaway
from cutaway.base.named import fetch

SOURCE = Path(cutaway.__file__).parent
NAMED = re.compile(r"cutaway(?:\.\w+)+:\w+")


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("cutaway", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file imports anywhere in it: at its top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & known.keys() or {node.module}
    return found & known.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach themselves: what is left when those without imports are taken away, and
    then those that nothing imports, again and again."""
    left = {name: set(to) for name, to in graph.items()}
    while True:
        ends = {name for name, to in left.items() if not to & left.keys() - {name}}
        aimed = set().union(*(to - {name} for name, to in left.items())) if left else set()
        gone = ends | (left.keys() - aimed)
        if not gone:
            return [sorted(left)] if left else []
        left = {name: to - gone for name, to in left.items() if name not in gone}


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    assert circles({name: imports(path, known) for name, path in known.items()}) == []


def test_what_is_named_by_text_is_there() -> None:
    places = {place for path in SOURCE.rglob("*.py") for place in NAMED.findall(path.read_text())}
    assert len(places) > 10
    for place in places:
        assert fetch(place) is not None
    for name in modules():
        assert name.endswith("triton_sums") or find_spec(name) is not None
