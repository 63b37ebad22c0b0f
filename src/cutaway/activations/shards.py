"""One shard of a store: a safetensors file, written straight from memory and mapped back."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.base import files, json_text
from cutaway.base.errors import UserError

_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
_PIECE = 1 << 22  # bytes written and hashed at a time
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error)
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int8: "I8",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write CPU tensors as a safetensors file, atomically; returns its `bytes` and `sha256`.

    Straight from the tensors' memory, hashed on the way: the library's own writer makes a copy
    of all of them first. Format: 8 bytes of header length, a JSON header, the data.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, offset = {}, 0
    for name, tensor in ordered:
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with files.replacing(path) as temporary:
        with open(temporary, "wb", buffering=0) as file:
            for block in (struct.pack("<Q", len(text)), text, *(_bytes(t) for _, t in ordered)):
                for start in range(0, len(block), _PIECE):
                    piece = block[start : start + _PIECE]
                    digest.update(piece)
                    while piece:
                        piece = piece[file.write(piece) :]
        size = temporary.stat().st_size
    files.flush_to_disk(path.parent)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of its memory map: nothing is read yet.

    The map is private: writing to a tensor would not reach the file.
    """
    try:
        with files.open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json_text.loads(file.read(length))
        content = torch.from_numpy(np.memmap(path, np.uint8, mode="c", offset=8 + length))
        tensors = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                flat = content[start:end].view(_DTYPES[entry["dtype"]])
                tensors[name] = flat.view(entry["shape"])
        return tensors
    except _BROKEN as error:
        raise UserError(f"{path}: damaged shard: {error}") from None
