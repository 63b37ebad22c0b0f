"""Files and folders as sources: plain text, JSON lines, Parquet, each also gzipped; Europarl's format.

A folder is read recursively in the order of its paths; hidden files and files of other kinds
are left out, said so. A plain file is one document; beyond a few megabytes it is cut at
paragraphs into documents of about one, so that no file has to fit into memory. A file of
Europarl's release is known by its tags and gives one document per chapter.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.files import as_path, require_regular, sha256
from cutaway.base.json_text import loads
from cutaway.text import decoding, europarl, rows
from cutaway.text.documents import Document, SourceInfo

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".json", ".parquet")
PIECE = 1_000_000  # characters of one document of a large plain file
_WHOLE = 4_000_000  # characters up to which a plain file is one document
_HASHED = 64_000_000  # bytes up to which a file's content is hashed for the fingerprint
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    id: str
    kind: str  # 'text', 'europarl', 'json' or 'parquet'
    encoding: str = ""


class FilesSource:
    """The documents in a file or folder. `column` names the text column of records.

    Paths are checked at once; contents (encodings, headers) on the first `documents()`, all of
    them before the first document. Raises UserError naming the file and, in JSON, the line.
    """

    def __init__(self, path: str | os.PathLike[str], *, column: str | None = None, name: str = ""):
        self.path = as_path(path)
        self.name = name or str(path)
        self._column = column
        self._listed = _listed(self.path)
        self._files: dict[str, _File] = {}
        self._told: set[str] = set()

    @classmethod
    def infos(cls) -> list[SourceInfo]:
        """What a path may name."""
        what = "a file or folder of " + ", ".join(SUFFIXES) + ", also .gz"
        return [SourceInfo("PATH", what, "any", "nothing")]

    def documents(self) -> Iterator[Document]:
        """Documents file by file; ids are paths relative to the folder, with a line or part."""
        files = [self._file(path, id) for path, id in self._listed]
        some, without = False, 0
        for file in files:
            found = False
            for document in self._read(file):
                some = found = True
                yield document
            without += not found
        if not some:
            raise UserError(f"{self.path}: no text in it")
        if without:
            self._tell(f"{self.path}: {without:,} of {len(files):,} files hold no text")

    def fingerprint(self) -> str:
        """Of names, sizes and contents; of large files the time of change instead of the content."""
        content = fingerprint(self._listed)
        facts = f"{content} {PIECE} {_WHOLE} {rows.BLOCK} {self._column}"
        # Files with broken places were once read in another encoding: what was kept of them is old.
        small = [(path, id) for path, id in self._listed if path.stat().st_size <= _HASHED]
        broken = [id for path, id in small if self._file(path, id).encoding.endswith(":replace")]
        if broken:
            facts += f" replaced {broken}"
        return "files:" + hashlib.sha256(facts.encode()).hexdigest()

    def size(self) -> int | None:
        """Bytes of the files, gzip and Parquet taken to unpack to three times theirs."""
        return sum(
            path.stat().st_size * (3 if path.suffix.lower() in (".gz", ".parquet") else 1)
            for path, _ in self._listed
        )

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every row of JSON lines, JSON and Parquet files, with where it stands. UserError for others
        and where there is none."""
        some = False
        for path, id in self._listed:
            file = self._file(path, id)
            if file.kind not in ("json", "parquet"):
                raise UserError(f"{path}: expected rows (.jsonl, .json or .parquet), not text")
            for one in _json_rows(file) if file.kind == "json" else _parquet_rows(file, None):
                some = True
                yield one
        if not some:
            raise UserError(f"{self.path}: no row in it")

    def _file(self, path: Path, id: str) -> _File:
        """A file's kind and encoding, found out once."""
        if id not in self._files:
            self._files[id] = _examined(path, id)
        return self._files[id]

    def _tell(self, message: str) -> None:
        """A notice, once however often the documents are read."""
        if message not in self._told:
            self._told.add(message)
            notice(message)

    def _read(self, file: _File) -> Iterator[Document]:
        if file.kind in ("json", "parquet"):
            yield from self._records(file)
            return
        if file.kind == "text":
            text = decoding.small_text(file.path, file.encoding, _WHOLE - 1)
            if text is not None:
                yield from _numbered(file.id, [text], alone=True)
                return
        with decoding.opened(file.path, file.encoding) as stream:
            if file.kind == "europarl":
                parts = europarl.chapters(stream)
            else:
                parts = decoding.pieces(stream, PIECE, whole=_WHOLE)
            yield from _numbered(file.id, parts, alone=file.kind == "text")

    def _records(self, file: _File) -> Iterator[Document]:
        if file.kind == "parquet":
            found = _parquet(file.path)
            records = _parquet_rows(file, rows.shape(found, str(file.path), self._column).columns)
        else:
            found = rows.kinds((row for _, row in _json_rows(file)), self._column)
            if not found:
                return
            records = _json_rows(file)
        shape = rows.shape(found, str(file.path), self._column)
        guessed = self._column is None and shape.columns[0] not in ("text", "passage")
        if guessed and (hint := rows.hint_of_chat(found)):
            columns = ", ".join(shape.columns)
            self._tell(f"{file.path}: text is taken from the column {columns}{hint}")
        counts = rows.Counts()
        yield from rows.documents(records, shape, file.id, counts)
        if counts.blank:
            self._tell(
                f"{file.path}: {counts.blank:,} of {counts.rows:,} rows have no text and are left out"
            )


def split_column(spec: str) -> tuple[Path, str | None]:
    """`'records.jsonl::body'` → the path and the column; a path that exists as written wins."""
    path, mark, column = spec.rpartition("::")
    if not mark or os.path.exists(spec):
        return Path(spec), None
    return Path(path), column


def fingerprint(files: Iterable[tuple[Path, str]]) -> str:
    """SHA-256 over (name, size, content) of files; beyond 64 MB over the time of change instead."""
    digest = hashlib.sha256()
    for path, name in files:
        try:
            status = path.stat()
            content = sha256(path) if status.st_size <= _HASHED else str(status.st_mtime_ns)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        digest.update(f"{name}\0{status.st_size}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _listed(path: Path) -> list[tuple[Path, str]]:
    """The files to read under `path` with their ids, sorted by these."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        if _suffix(path.name) in _TABLES:
            raise UserError(f"{path}: tables are read as JSON lines or Parquet; convert it first")
        return [(path, path.name)]
    found: list[str] = []
    others: Counter[str] = Counter()
    for folder, folders, names in os.walk(path, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, path).replace(os.sep, "/")
        for name in names:
            if name.startswith("."):
                continue
            if _suffix(name) in SUFFIXES:
                found.append(name if inside == "." else f"{inside}/{name}")
            else:
                others[os.path.splitext(name)[1] or name] += 1
    if any(_suffix(id) == ".parquet" for id in found):
        # A folder of Parquet files is a data set: its card is not part of its text.
        found = [id for id in found if id.rpartition("/")[2].lower() != "readme.md"]
    if not found:
        raise UserError(f"{path}: no {', '.join(SUFFIXES)} file (or .gz of one) in this folder")
    if others:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in others.most_common(5))
        notice(f"{path}: left out files of other kinds: {kinds}")
    return [(path / id, id) for id in sorted(found)]


def _examined(path: Path, id: str) -> _File:
    """The file's kind and encoding, from reading it."""
    kind = _suffix(path.name)
    if kind == ".parquet":
        _parquet(path)
        return _File(path, id, "parquet")
    encoding, beginning = decoding.examined(path)
    if kind in (".jsonl", ".json"):
        return _File(path, id, "json", encoding)
    form = "europarl" if europarl.is_europarl(beginning) else "text"
    return _File(path, id, form, encoding)


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _suffix(name: str) -> str:
    name = name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def _numbered(id: str, parts: Iterable[str], *, alone: bool) -> Iterator[Document]:
    """Parts as documents `id#0001`, ...; a single part of a plain file is `id` itself."""
    parts = iter(parts)
    beginning = list(islice(parts, 2))
    if alone and len(beginning) < 2:
        if beginning and beginning[0].strip():
            yield Document(id, beginning[0])
        return
    for number, part in enumerate(chain(beginning, parts), start=1):
        if part.strip():
            yield Document(f"{id}#{number:04d}", part)


def _json_rows(file: _File) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Objects of a JSON lines file, or of one array, which is read whole."""
    with decoding.opened(file.path, file.encoding) as stream:
        if _suffix(file.path.name) == ".json" and stream.read(4096).lstrip().startswith("["):
            stream.seek(0)
            entries: Iterable[tuple[int, Any]] = enumerate(
                _parsed(decoding.whole(stream, file.path), file.path), 1
            )
            unit = "entry"
        else:
            stream.seek(0)
            entries = (
                (number, _parsed(line, file.path, number))
                for number, line in enumerate(decoding.lines(stream, file.path), 1)
                if line.strip()
            )
            unit = "line"
        for number, entry in entries:
            if not isinstance(entry, dict):
                raise UserError(f"{file.path}: {unit} {number}: expected a JSON object")
            yield f"{file.id}:{number}", entry


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return loads(text)
    except ValueError as error:
        at = line if line is not None else getattr(error, "lineno", 1)
        raise UserError(f"{path}: line {at}: not JSON: {error}") from None


def _parquet(path: Path) -> dict[str, Any]:
    """The file's columns in the form `rows.shape` takes."""
    import pyarrow as pa

    def is_text(type: pa.DataType) -> bool:
        if pa.types.is_dictionary(type):
            type = type.value_type
        return pa.types.is_string(type) or pa.types.is_large_string(type)

    with opened_parquet(path) as parquet:
        schema = parquet.schema_arrow
    kinds: dict[str, Any] = {}
    for field in schema:
        if pa.types.is_struct(field.type):
            kinds[field.name] = [part.name for part in field.type if is_text(part.type)]
        else:
            kinds[field.name] = "text" if is_text(field.type) else None
    return kinds


def _parquet_rows(
    file: _File, columns: Sequence[str] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    with opened_parquet(file.path) as parquet:
        for batch in parquet.iter_batches(batch_size=64, columns=columns and list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.id}:{number}", row


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, read in small buffers; a gzipped one is unpacked into memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".gz":
            with decoding.opened_bytes(path) as stream:
                yield pq.ParquetFile(pa.BufferReader(decoding.whole(stream, path)))
        else:
            require_regular(path)
            with (  # opened here: Arrow takes no names that are not UTF-8
                open(path, "rb") as stream,
                pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False) as parquet,
            ):
                yield parquet
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a text in it is not UTF-8: {error.reason}") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: broken Parquet file: {reason}") from None
