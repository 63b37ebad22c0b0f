"""sparsify's form (EleutherAI): `cfg.json` and `sae.safetensors`, read only.

    f = the k largest of relu((x − b_dec)·encoder.weightᵀ + encoder.bias),   x̂ = f·W_dec + b_dec

encoder.weight and W_dec are (F, d); raw states in and out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError
from cutaway.dictionaries.files import own
from cutaway.dictionaries.model.dictionary import Dictionary

CONFIG, TENSORS = "cfg.json", "sae.safetensors"
_HOOKPOINT = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(mlp|attn|attention|self_attn))?")


def recognises(path: Path) -> bool:
    """Whether `sae.safetensors` lies at `path`."""
    if path.is_file():
        return path.name == TENSORS or (path.name == CONFIG and recognises(path.parent))
    return (path / TENSORS).is_file()


def read(path: Path) -> Dictionary:
    """The TopK dictionary in a folder sparsify saved, which it names by hookpoint (`layers.6.mlp`).

    Raises UserError for what ours cannot be: transcoders, skip connections and groupmax.
    """
    folder = path.parent if path.is_file() else path
    config, place = own.read_json(folder / CONFIG), folder / TENSORS
    for field, only in {"transcode": False, "skip_connection": False, "activation": "topk"}.items():
        if (found := config.get(field, only)) != only:
            raise UserError(f"{folder / CONFIG}: {field} = {found!r}: only {only!r} is read")
    width = _whole(config, "d_in", folder / CONFIG)
    features = config.get("num_latents") or width * _whole(
        config, "expansion_factor", folder / CONFIG
    )
    tensors = own.read_tensors(place)
    expected = {
        "encoder.weight": (features, width),
        "encoder.bias": (features,),
        "W_dec": (features, width),
        "b_dec": (width,),
    }
    own.require_tensors(place, tensors, expected)
    foreign = own.Foreign(
        architecture="topk",
        encoder_weight=tensors["encoder.weight"],
        encoder_bias=tensors["encoder.bias"],
        decoder_weight=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        k=_whole(config, "k", folder / CONFIG),
        centred=True,
    )
    source = {"format": "sparsify", "path": str(folder), "config": config}
    return own.from_foreign(foreign, place, {"site": _site(folder), "source": source})


def _whole(config: dict[str, Any], field: str, path: Path) -> int:
    value = config.get(field)
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: {field} = {value!r}: expected a whole number from 1")
    return value


def _site(folder: Path) -> str | None:
    """The site of a hookpoint: a block's output, or what its MLP or attention gives."""
    found = _HOOKPOINT.fullmatch(folder.absolute().name)
    if not found:
        return None
    kind = {None: "residual", "mlp": "mlp"}.get(found[2], "attention")
    return f"{kind}.{found[1]}"
