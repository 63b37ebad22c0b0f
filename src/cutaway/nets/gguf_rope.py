"""How a GGUF file's model scales its rotary positions, which transformers does not take from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError
from cutaway.nets.gguf_header import Header

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OWN = ("gpt-oss", "gpt_oss", "qwen35", "qwen35moe", "lfm2")  # the library reads theirs
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}  # fmt: skip


def set_rope(config: PretrainedConfig, header: Header) -> None:
    """Set the configuration's scaling of positions to the file's.

    Linear and YaRN scaling stand in the settings; Llama 3's is a table of divisors, from which its
    factor is found. Raises UserError for another kind: its positions would be read wrongly.
    """
    if header.architecture in _OWN:
        return
    kind = header.setting("rope.scaling.type")
    factor = header.setting("rope.scaling.factor") or 1.0
    if any("rope_factors_" in tensor.name for tensor in header.tensors) or kind == "longrope":
        raise UserError(
            f"{header.path}: scales its positions by the longrope method, which is not read from "
            "GGUF files"
        )
    if kind not in (None, "none", "linear", "yarn"):
        raise UserError(
            f"{header.path}: {header.architecture}.rope.scaling.type = {kind!r}; read are none, "
            "linear and yarn"
        )
    divisors = next(
        (tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None
    )
    if kind in ("linear", "yarn") and factor != 1.0:
        found: dict[str, Any] = {"rope_type": kind, "factor": float(factor)}
        length = header.setting("rope.scaling.original_context_length")
        if kind == "yarn" and length:
            found["original_max_position_embeddings"] = length
        _set(config, header, found)
    elif divisors is not None:
        _set_llama3(config, header, divisors)


def _set_llama3(config: PretrainedConfig, header: Header, divisors: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if divisors.kind != "F32":
        raise UserError(f"{header.path}: rope_freqs.weight is {divisors.kind}, expected F32")
    given = np.fromfile(header.path, "<f4", divisors.elements, offset=divisors.offset)
    if not np.isfinite(given).all() or (given <= 0).any():
        raise UserError(f"{header.path}: damaged, rope_freqs.weight is not positive and finite")
    if (given == 1).all():
        return
    _set(config, header, {"rope_type": "llama3", "factor": float(given.max()), **_LLAMA3})
    plain, dimensions = config.rope_parameters["rope_theta"], 2 * len(given)
    frequencies = 1.0 / plain ** (np.arange(0, dimensions, 2) / dimensions)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    if len(scaled) != len(given) or not np.allclose(frequencies / given, scaled, rtol=1e-3):
        raise UserError(
            f"{header.path}: rope_freqs.weight scales positions in a way that is not Llama 3's, "
            "which alone is read"
        )


def _set(config: PretrainedConfig, header: Header, found: dict[str, Any]) -> None:
    """Merge into the only table of settings, or into that of the layers with full attention."""
    settings = getattr(config, "rope_parameters", None)
    if isinstance(settings, dict) and "full_attention" in settings:
        settings["full_attention"].update(found)
    elif isinstance(settings, dict) and "rope_theta" in settings:
        settings.update(found)
    else:
        raise UserError(
            f"{header.path}: {header.architecture} with scaled positions is not read from GGUF files"
        )
