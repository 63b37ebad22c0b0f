"""What documents and benchmarks import is there, by its present name; files and rooms stay small."""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import cutaway

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(cutaway.__file__).parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def require_imports(source: str) -> int:
    """Import what is imported from cutaway anywhere in a program; how much that was."""
    found = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cutaway"):
            module = import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name)
                assert known or import_module(f"{node.module}.{alias.name}"), alias.name
                found += 1
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "cutaway":
                    import_module(alias.name)
                    found += 1
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_in_documents_imports_what_is_there(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # an old name
        for block in PYTHON.findall(path.read_text()):
            require_imports(block)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmarks_import_what_is_there(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        require_imports(path.read_text())


def test_files_and_rooms_are_small_enough_to_know() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > 400} == {}
    rooms: Counter[str] = Counter()
    for path, count in lines.items():
        rooms[str(path.parent.relative_to(SOURCE))] += count
    assert {room: count for room, count in rooms.items() if count > 4600} == {}


def test_the_house_names_every_room() -> None:
    house = (ROOT / "docs" / "house.md").read_text()
    for folder in sorted(SOURCE.rglob("__init__.py")):
        room = folder.parent.relative_to(SOURCE).as_posix()
        inner = room.count("/") and room.rpartition("/")[2] in ("presets", "stations")
        if room != "." and not inner:
            assert f"`{room}/" in house, room
