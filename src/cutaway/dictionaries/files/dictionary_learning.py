"""dictionary_learning's form (Marks, Karvonen): `config.json` beside `ae.pt`, read only.

`config.json` names the class (`trainer.dict_class`); raw states in and out. With b its decoder bias:

    AutoEncoder              n·relu(E(x − b) + e), n the length of the decoder's row
    AutoEncoderNew           relu(E x + e)
    GatedAutoEncoder         H(E(x − b) + g)·relu(exp(r)·E(x − b) + m)
    JumpReluAutoEncoder      z·H(z − θ), z = E x + e
    AutoEncoderTopK          the k largest of relu(E(x − b) + e)
    BatchTopKSAE, MatryoshkaBatchTopKSAE      z·H(z − θ), one θ, z = relu(E(x − b) + e)

These are the features that the library itself gives: its `load_dictionary` brings the rows of an
AutoEncoder, and of no other class, to length 1 (`normalize_decoder`).

`ae.pt` is a pickle. It is not unpickled here, by `torch.load` or otherwise: `pickletools` lists its
opcodes, which runs none of them, and the few that a state dict is made of are followed as data. A
name in it is compared with a short list and never imported; anything else is refused. An
`ae.safetensors` of the same tensors is taken where there is one.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.dictionaries.files import own
from cutaway.dictionaries.model.dictionary import Dictionary

CONFIG, TENSORS, PICKLE = "config.json", "ae.safetensors", "ae.pt"
_OURS = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
}
_WITH_K = ("topk", "batch_topk", "matryoshka")
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
_PLAIN = ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")  # matrices stored (d, F) and (F, d)
# theirs → ours, besides the two matrices
_NAMES = {
    "AutoEncoder": {"encoder.bias": "encoder_bias", "bias": "decoder_bias"},
    "AutoEncoderNew": {"encoder.bias": "encoder_bias", "decoder.bias": "decoder_bias"},
    "GatedAutoEncoder": {
        "gate_bias": "encoder_bias",
        "decoder_bias": "decoder_bias",
        "mag_bias": "magnitude_bias",
        "r_mag": "log_magnitude",
    },
    "JumpReluAutoEncoder": {
        "b_enc": "encoder_bias",
        "b_dec": "decoder_bias",
        "threshold": "threshold",
    },
    "AutoEncoderTopK": {"encoder.bias": "encoder_bias", "b_dec": "decoder_bias"},
    "BatchTopKSAE": {
        "encoder.bias": "encoder_bias",
        "b_dec": "decoder_bias",
        "threshold": "threshold",
    },
    "MatryoshkaBatchTopKSAE": {
        "b_enc": "encoder_bias",
        "b_dec": "decoder_bias",
        "threshold": "threshold",
    },
}


def recognises(path: Path) -> bool:
    """Whether `ae.pt` or `ae.safetensors` lies at `path`."""
    if path.is_file():
        return path.name in (TENSORS, PICKLE)
    return any((path / name).is_file() for name in (TENSORS, PICKLE))


def read(path: Path) -> Dictionary:
    """The dictionary in a folder that dictionary_learning saved.

    A threshold below zero, which theirs has before it was ever measured, acts as zero does. Raises
    UserError for another class, for tensors of other shapes, and for an `ae.pt` that holds anything
    but a state dict of plain tensors.
    """
    folder = path.parent if path.is_file() else path
    config = own.read_json(folder / CONFIG)
    trainer = config.get("trainer")
    theirs = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(theirs, str) or theirs not in _OURS:
        known = ", ".join(_OURS)
        raise UserError(f"{folder / CONFIG}: dict_class = {theirs!r}: expected one of {known}")
    place = folder / (TENSORS if (folder / TENSORS).is_file() else PICKLE)
    tensors = own.read_tensors(place) if place.name == TENSORS else read_state_dict(place)
    encoder, decoder = _matrices(theirs, tensors, place)
    grouped = theirs == "MatryoshkaBatchTopKSAE"
    foreign = own.Foreign(
        architecture=_OURS[theirs],
        encoder_weight=encoder,
        decoder_weight=decoder,
        centred=theirs not in _UNCENTRED,
        k=_k(tensors, trainer, folder) if _OURS[theirs] in _WITH_K else None,
        groups=tuple(tensors["group_sizes"].cumsum(0).tolist()) if grouped else (),
        **{ours: tensors[name] for name, ours in _NAMES[theirs].items()},
    )
    if theirs == "AutoEncoder":
        _normalise(foreign)
    if grouped and foreign.groups[-1:] != (len(encoder),):
        raise UserError(f"{place}: group_sizes end at {foreign.groups}, expected {len(encoder)}")
    source = {"format": "dictionary_learning", "path": str(folder), "model": trainer.get("lm_name")}
    about = {"site": _site(trainer), "source": {**source, "config": config}}
    return own.from_foreign(foreign, place, about)


def _normalise(foreign: own.Foreign) -> None:
    """Rows of length 1, as its `load_dictionary` makes them of an AutoEncoder; one of zeros stays."""
    length = torch.linalg.vector_norm(foreign.decoder_weight, dim=1)
    if torch.allclose(length, torch.ones_like(length)):  # as there
        return
    length = torch.where(length > 0, length, 1.0)
    foreign.decoder_weight = foreign.decoder_weight / length[:, None]
    foreign.encoder_weight = foreign.encoder_weight * length[:, None]
    foreign.encoder_bias = foreign.encoder_bias * length


def _matrices(theirs: str, tensors: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Encoder and decoder, (F, d) both, once every shape is checked."""
    first, second = ("W_enc", "W_dec") if theirs in _PLAIN else ("encoder.weight", "decoder.weight")
    if first not in tensors or tensors[first].ndim != 2:
        raise UserError(f"{path}: holds no matrix {first}, which a {theirs} has")
    width, features = tensors[first].shape if theirs in _PLAIN else tensors[first].shape[::-1]
    expected: dict[str, tuple[int, ...]] = {first: tuple(tensors[first].shape)}
    expected[second] = expected[first][::-1]
    for name, ours in _NAMES[theirs].items():
        expected[name] = (width,) if ours == "decoder_bias" else (features,)
    if theirs in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        expected["threshold"] = ()
    if theirs == "MatryoshkaBatchTopKSAE":  # any number of them
        sizes = tensors.get("group_sizes", tensors[first])
        expected["group_sizes"] = (sizes.numel(),)
    own.require_tensors(path, tensors, expected, ignored=("k", "threshold"))
    if theirs in _PLAIN:
        return tensors[first].T, tensors[second]
    return tensors[first], tensors[second].T


def _k(tensors: dict[str, Tensor], trainer: dict[str, Any], folder: Path) -> int:
    k = trainer.get("k")
    if "k" in tensors and tensors["k"].numel() == 1:
        k = tensors["k"].item()
        k = int(k) if isinstance(k, float) and k.is_integer() else k
    if type(k) is not int or k < 1:
        raise UserError(f"{folder / CONFIG}: k = {k!r}: expected a whole number from 1")
    return k


def _site(trainer: dict[str, Any]) -> str | None:
    """Their submodule names are free; `resid_post_layer_8` is the one their own scripts give."""
    found = re.fullmatch(r"resid_post_layer_(\d+)", str(trainer.get("submodule_name")))
    return f"residual.{found[1]}" if found else None


# -- a state dict, without unpickling --------------------------------------------------------------

_DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch BoolStorage": torch.bool,
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A name the file asks to be imported; it is not."""

    text: str


class _Refused(Exception):
    pass


# what following opcodes ends in where bytes of the file were changed or lost
_DAMAGE = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    OSError,
    struct.error,
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict written by `torch.save`, without unpickling it.

    The file is a zip: `data.pkl` says which tensor is which part of which block of numbers,
    `data/0`, `data/1` ... are the blocks. Raises UserError for anything but names and dense tensors.
    """
    try:
        files.require_regular(path)
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise _Refused("it is compressed, which torch.save never does")
            listing = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(listing) != 1:
                raise _Refused("it is no archive of torch.save")
            prefix = listing[0].removesuffix("data.pkl")
            if prefix + "byteorder" in archive.namelist() and (
                archive.read(prefix + "byteorder") != b"little"
            ):
                raise _Refused("its numbers are big-endian")
            found = _follow(archive, prefix)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except _Refused as error:
        raise UserError(f"{path}: refused: {error}; only a state dict of tensors is read") from None
    except zipfile.BadZipFile:
        raise UserError(
            f"{path}: refused: no archive of torch.save (damaged, or a bare pickle, which runs "
            "whatever code it holds when it is read)"
        ) from None
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise UserError(f"{path}: refused: not a state dict of tensors")
    return found


def _follow(archive: zipfile.ZipFile, prefix: str) -> Any:
    """What the opcodes of `data.pkl` build, with dicts, tuples and tensors as all there can be."""
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    for opcode, value, _ in pickletools.genops(archive.read(prefix + "data.pkl")):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(value)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[value])
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name in _SIZES:
            stack[-_SIZES[name] :] = [tuple(stack[-_SIZES[name] :])]
        elif name == "GLOBAL":
            if value not in (_DICT, _TENSOR, *_DTYPES):
                raise _Refused(f"it asks for {value.replace(' ', '.')}")
            stack.append(_Name(value))
        elif name == "BINPERSID":
            stack.append(_block(archive, prefix, stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made(function, arguments))
        elif name == "SETITEM":
            item, key = stack.pop(), stack.pop()
            stack[-1][key] = item
        elif name == "SETITEMS":
            items = _since_mark(stack)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BUILD":
            stack.pop()  # a state dict's versions of its modules
        elif name != "PROTO":
            raise _Refused(f"it uses {name}, which a state dict does not need")
    raise _Refused("it has no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    place = max(index for index, value in enumerate(stack) if value is _MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _block(archive: zipfile.ZipFile, prefix: str, description: Any) -> Tensor:
    """A block of numbers: ("storage", type, file, device, count)."""
    kind, storage, key, _, count = description
    if kind != "storage" or not isinstance(storage, _Name) or storage.text not in _DTYPES:
        raise _Refused("it points at something other than a block of numbers")
    dtype = _DTYPES[storage.text]
    entry = archive.getinfo(f"{prefix}data/{key}")
    if entry.file_size != count * dtype.itemsize:
        raise ValueError(f"block {key} has {entry.file_size} bytes, not {count * dtype.itemsize}")
    return (
        torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype)
        if count
        else (torch.empty(0, dtype=dtype))
    )


def _made(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function == _Name(_DICT) and arguments == ():
        return {}
    if function == _Name(_TENSOR):
        block, offset, size, stride = arguments[:4]
        # as_strided checks the range; a size made up of overlaps could still ask for any memory
        if not isinstance(block, Tensor) or math.prod(size) > block.numel():
            raise _Refused("it holds a tensor larger than its numbers")
        return block.as_strided(size, stride, offset).clone()
    raise _Refused("it calls something")
