"""The embedded corpus: the English that every Python installation carries with it.

Docstrings of the standard library (modules, classes, functions; read with `ast`, nothing is
imported) and the language reference that `help()` shows. For one Python version the documents
are always the same, in the same order: 1.8 MB and 0.5 MB, 340 thousand words on Python 3.11.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path

from cutaway.base.errors import UserError
from cutaway.text.documents import Document, SourceInfo

# Tests and vendored copies hold little prose; lib-dynload holds compiled modules only.
_TESTS = {"test", "tests", "idle_test"}
_LEFT_OUT = _TESTS | {"site-packages", "dist-packages", "__pycache__", "lib-dynload", "_bundled"}
_VERSION = 1  # raise when the same Python would give other documents


class DocstringsSource:
    """`docstrings`: one document per module of the standard library and per reference topic.

    `docstrings:all` adds the modules of every installed package. Raises UserError where the
    installation carries no sources (zipped or stripped).
    """

    def __init__(self, spec: str = "docstrings"):
        name, _, which = spec.partition(":")
        if name != "docstrings" or which not in ("", "all") or spec.endswith(":"):
            raise UserError(f"data = {spec!r}: expected docstrings or docstrings:all")
        self.name = spec
        self._roots = [Path(sysconfig.get_path("stdlib"))]
        if which == "all":
            installed = {Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")}
            self._roots += sorted(folder for folder in installed if folder.is_dir())
        if not (self._roots[0] / "argparse.py").is_file():
            raise UserError(
                f"data = {spec!r}: this Python carries no library sources in {self._roots[0]} "
                "(zipped or stripped); name a text file or folder instead"
            )

    def documents(self) -> Iterator[Document]:
        """Modules in the order of their dotted names, then the topics."""
        yield from self._library
        for root in self._roots[1:]:
            yield from _modules_of(root, "installed:")
        from pydoc_data.topics import topics

        for topic in sorted(topics):
            if text := topics[topic].strip():
                yield Document(f"topics:{topic}", text)

    @cached_property
    def _library(self) -> list[Document]:
        # Parsing takes seconds and the text is small, so it is read once.
        return list(_modules_of(self._roots[0]))

    def fingerprint(self) -> str:
        """Python's version, the library's file sizes and, for `docstrings:all`, every package's version."""
        facts = [str(_VERSION), platform.python_implementation(), sys.version.split()[0]]
        library = [(_dotted(p, self._roots[0]), p.stat().st_size) for p in _modules(self._roots[0])]
        facts.append(repr(sorted(library)))
        if len(self._roots) > 1:
            facts.append(
                repr(sorted({(d.name or "", d.version) for d in metadata.distributions()}))
            )
        return "docstrings:" + hashlib.sha256("\0".join(facts).encode()).hexdigest()

    @classmethod
    def infos(cls) -> list[SourceInfo]:
        """The two that a spec can name."""
        what = "docstrings and language reference of the Python that runs this"
        packages = "the same and every installed package"
        return [
            SourceInfo("docstrings", what, "2.3 MB", "nothing"),
            SourceInfo("docstrings:all", packages, "varies", "nothing"),
        ]

    def size(self) -> int | None:
        """About 2.3 MB for the standard library; unknown with packages."""
        return 2_300_000 if len(self._roots) == 1 else None


def _modules_of(root: Path, prefix: str = "") -> Iterator[Document]:
    for path in sorted(_modules(root), key=lambda path: _dotted(path, root)):
        if text := _docstrings(path):
            yield Document(prefix + _dotted(path, root), text)


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for name in names:
            if name.endswith(".py"):
                yield Path(folder, name)


def _dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _docstrings(path: Path) -> str:
    """The file's docstrings in the order they stand there, a blank line between; repeats once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return ""  # templates and Python 2 leftovers
    found: dict[str, None] = {}
    _collect(tree, found)
    return "\n\n".join(found)


def _collect(node: ast.AST, found: dict[str, None]) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)  # cleaned by inspect.cleandoc
        if text and text.strip():
            # Lone surrogates, written as escapes in a few docstrings, have no UTF-8.
            found[text.encode("utf-8", "replace").decode("utf-8").strip()] = None
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            _collect(child, found)
