"""What a GGUF file says about itself: architecture, settings, and where each tensor lies.

Everything is checked against the file's size before anything slow happens, so that a truncated or
invented table is refused in one line. Nothing in the file is executed. Source of the layout: the
specification in `docs/gguf.md` of the ggml repository.
"""

from __future__ import annotations

import itertools
import math
import mmap
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.base.files import human_bytes

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_LEAST_TENSOR, _LEAST_ENTRY = 33, 13  # bytes that the shortest entry of each table takes
_DIMENSIONS, _LONGEST_KEY = 4, 65535  # what ggml takes
_STRING, _ARRAY = 8, 9
# Settings by the number of their type: unsigned and signed integers, floats, truth values.
_PLAIN = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
          10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class StoredTensor:
    """One entry of the tensor table; `shape` as torch has it, `offset` from the file's start."""

    name: str
    shape: tuple[int, ...]
    kind: str  # `F32`, `Q4_K`, ...
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Settings by their full names (of an array its length only), and the tensors in order."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[StoredTensor, ...]

    @property
    def architecture(self) -> str:
        """`llama`, `gemma3`, ..."""
        return self.metadata["general.architecture"]

    def setting(self, name: str) -> Any:
        """An architecture's own setting (`block_count`), None where the file has none."""
        return self.metadata.get(f"{self.architecture}.{name}")

    @cached_property
    def elements(self) -> int:
        """Values in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Values stored in each way, the most frequent first."""
        found: dict[str, int] = {}
        for tensor in self.tensors:
            found[tensor.kind] = found.get(tensor.kind, 0) + tensor.elements
        return dict(sorted(found.items(), key=lambda each: -each[1]))


def is_gguf(path: Path) -> bool:
    """Whether a file is one by its name or by its first four bytes."""
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with files.open_regular(path) as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def require_whole(path: Path) -> None:
    """UserError for one file of several: a split model, or a piece of a file that was cut."""
    if match := _SPLIT_NAME.search(path.name):
        part, of = map(int, match.groups())
        if of != 1:
            raise UserError(_split(path, part, of))


def read(path: Path) -> Header:
    """The header of a file, checked. Raises UserError with one line; needs the `gguf` package."""
    require_whole(path)
    try:
        with files.open_regular(path) as file:
            size = path.stat().st_size
            start = file.read(24)
            _require_start(path, start, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(path, content).header()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _split(path: Path, part: int, of: int) -> str:
    return (
        f"{path}: part {part} of {of} of a model split over several files, which are not read; "
        f"join them first: llama-gguf-split --merge FIRST_PART JOINED.gguf"
    )


def _require_start(path: Path, start: bytes, size: int) -> None:
    if start[:4] != MAGIC:
        said = "empty" if not size else f"begins with {start[:4]!r}"
        raise UserError(f"{path}: not a GGUF file ({said}; expected {MAGIC!r})")
    if len(start) < 24:
        raise UserError(f"{path}: truncated, {size} bytes, and a GGUF file's header has 24")
    version, tensors, entries = struct.unpack("<IQQ", start[4:])
    if version not in _VERSIONS:
        if int.from_bytes(start[4:8], "big") in _VERSIONS:
            raise UserError(f"{path}: a big-endian GGUF file; accepted are little-endian ones")
        raise UserError(f"{path}: GGUF version {version}; accepted are versions 2 and 3")
    for count, least, what in (
        (tensors, _LEAST_TENSOR, "tensors"),
        (entries, _LEAST_ENTRY, "settings"),
    ):
        if count * least > size:
            raise UserError(
                f"{path}: damaged, its header tells of {count:,} {what} in {human_bytes(size)}"
            )
    if not tensors:
        raise UserError(f"{path}: holds no tensors")


class _Reader:
    """Reads one header from a map of the file; every length is checked before it is used."""

    def __init__(self, path: Path, content: mmap.mmap):
        self.path, self.content, self.at = path, content, 8
        self.size = len(content)

    def header(self) -> Header:
        tensors, entries = self.number("<Q"), self.number("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.text(_LONGEST_KEY)
            if key in metadata:
                raise self.damaged(f"the setting {key!r} twice")
            metadata[key] = self.value(self.number("<I"))
        self.require_architecture(metadata)
        table = [self.entry() for _ in range(tensors)]
        found = Header(self.path, metadata, self.placed(table, self.alignment(metadata)))
        _require_sense(found)
        return found

    def require_architecture(self, metadata: dict[str, Any]) -> None:
        name = metadata.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise self.damaged("no general.architecture, so the kind of model is unknown")
        count = metadata.get("split.count", 1)
        if isinstance(count, int) and count > 1:
            raise UserError(_split(self.path, int(metadata.get("split.no", 0)) + 1, count))

    def alignment(self, metadata: dict[str, Any]) -> int:
        found = metadata.get("general.alignment", 32)
        if not isinstance(found, int) or found <= 0 or found % 8 or found > 1 << 20:
            raise self.damaged(f"general.alignment = {found!r}, expected a multiple of 8")
        return found

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text(_LONGEST_KEY)
        dimensions = self.number("<I")
        if not 1 <= dimensions <= _DIMENSIONS:
            raise self.damaged(f"tensor {name!r} has {dimensions} dimensions, expected 1 to 4")
        # ggml has the dimension that moves fastest first, torch last
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self.number("<I"), self.number("<Q")

    def placed(self, table: list[Any], alignment: int) -> tuple[StoredTensor, ...]:
        """The tensors, each inside the file and none over another."""
        start = -(-self.at // alignment) * alignment
        found, names = [], set()
        for name, shape, kind, offset in table:
            if name in names:
                raise self.damaged(f"the tensor {name!r} twice")
            names.add(name)
            label, length = self.stored(name, shape, kind)
            if offset % alignment:
                raise self.damaged(f"tensor {name!r} at byte {offset}, no multiple of {alignment}")
            if start + offset + length > self.size:
                raise UserError(
                    f"{self.path}: truncated, {human_bytes(self.size)}, and tensor {name!r} ends "
                    f"at {human_bytes(start + offset + length)}"
                )
            found.append(StoredTensor(name, shape, label, start + offset, length))
        in_order = sorted(found, key=lambda tensor: tensor.offset)
        for one, following in itertools.pairwise(in_order):
            if one.offset + one.bytes > following.offset:
                raise self.damaged(f"tensors {one.name!r} and {following.name!r} overlap")
        return tuple(found)

    def stored(self, name: str, shape: tuple[int, ...], kind: int) -> tuple[str, int]:
        """How a tensor is stored, and its bytes."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            label = GGMLQuantizationType(kind)
        except ValueError:
            raise UserError(
                f"{self.path}: tensor {name!r} is stored in a way (number {kind}) that the "
                "installed gguf package does not know; a newer one may: pip install -U gguf"
            ) from None
        values, each = GGML_QUANT_SIZES[label]
        elements = math.prod(shape)
        if not elements or shape[-1] % values:
            raise self.damaged(
                f"tensor {name!r} of shape {shape} cannot be {label.name} (rows of {values})"
            )
        return label.name, elements // values * each

    # -- values ------------------------------------------------------------------------------

    def number(self, form: str) -> Any:
        width = struct.calcsize(form)
        self.require(width)
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += width
        return value

    def text(self, longest: int | None = None) -> str:
        length = self.number("<Q")
        if longest is not None and length > longest:
            raise self.damaged(f"a name of {length:,} bytes")
        self.require(length)
        content = self.content[self.at : self.at + length]
        self.at += length
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise self.damaged("a text that is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _PLAIN:
            return self.number(_PLAIN[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.damaged(f"a setting of type {kind}, which GGUF does not have")
        element, count = self.number("<I"), self.number("<Q")
        if element in _PLAIN:
            width = count * struct.calcsize(_PLAIN[element])
            self.require(width)
            self.at += width
        elif element == _STRING:
            if count * 8 > self.size - self.at:
                raise self.damaged(f"a list of {count:,} texts")
            for _ in range(count):
                length = self.number("<Q")
                self.require(length)
                self.at += length
        else:
            raise self.damaged(f"a list of type {element}, which is not read")
        return count

    def require(self, length: int) -> None:
        if length > self.size - self.at:
            raise UserError(
                f"{self.path}: truncated or damaged, its header needs {length:,} bytes at byte "
                f"{self.at:,} of {self.size:,}"
            )

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self.path}: damaged, it has {why}")


def _require_sense(header: Header) -> None:
    """Refuse settings that no such table of tensors can have."""
    for name in ("block_count", "embedding_length"):
        value = header.setting(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            said = "is missing" if value is None else f"= {value!r}"
            raise UserError(
                f"{header.path}: {header.architecture}.{name} {said}, expected a whole number from 1"
            )
    for name, value in header.metadata.items():
        odd = isinstance(value, float) and not math.isfinite(value)
        if odd and name.startswith(f"{header.architecture}."):
            raise UserError(f"{header.path}: {name} = {value}, expected a finite number")
        if isinstance(value, int) and abs(value) > 1 << 40 and name.startswith(header.architecture):
            raise UserError(f"{header.path}: {name} = {value}, larger than any model's")
    blocks = {tensor.name.split(".")[1] for tensor in header.tensors if tensor.name[:4] == "blk."}
    count = header.setting("block_count")
    if count > len(blocks):
        raise UserError(
            f"{header.path}: damaged, {header.architecture}.block_count = {count:,}, and the file "
            f"holds tensors of {len(blocks)} blocks"
        )
    width = header.setting("embedding_length")
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and tensor.shape[-1] != width:
            raise UserError(
                f"{header.path}: {header.architecture}.embedding_length = {width}, and "
                f"token_embd.weight has {tensor.shape[-1]} columns"
            )
