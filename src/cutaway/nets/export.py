"""Handing a network on in Hugging Face's layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.nets.gpt2 import GPT2
from cutaway.runs import checksums

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from cutaway.text.tokenizers import Tokenizer

# ours → Hugging Face's GPT-2; its linear maps are stored (in, out), ours (out, in)
_LINEAR = {
    "attention.query_key_value": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_NORM = {"norm1": "ln_1", "norm2": "ln_2"}


def export_huggingface(
    model: torch.nn.Module, tokenizer: Tokenizer | None, out: str | Path
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads to the same logits."""
    if not isinstance(model, GPT2):
        raise UserError(
            f"{type(model).__name__.lower()}: Hugging Face has no such architecture; only gpt2 runs "
            "export to hf (train the Backpack's twin with model: gpt2)"
        )
    from safetensors import SafetensorError

    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty; give a new folder")
    twin = to_huggingface(model, None if tokenizer is None else tokenizer.end_of_text)
    made = files.temporary_beside(out.absolute())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        twin.save_pretrained(made)
        if tokenizer is not None:
            tokenizer.save(made)
        os.replace(made, out)  # an empty folder there gives way
        checksums.finish(out)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{out}: cannot write: {getattr(error, 'strerror', None) or error}"
        ) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def to_huggingface(model: GPT2, end_of_text: int | None = None) -> GPT2LMHeadModel:
    """The same network as a `transformers` GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = model.config
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.block_size,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function="gelu",
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    twin = GPT2LMHeadModel(config)
    twin.load_state_dict(_renamed(model.state_dict(), shape.n_layer), strict=False)
    return twin.eval()


def _renamed(state: Mapping[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    renamed = {
        "transformer.wte.weight": state["trunk.token_embedding.weight"],
        "lm_head.weight": state["trunk.token_embedding.weight"],
        "transformer.wpe.weight": state["trunk.position_embedding.weight"],
    }
    for layer in range(n_layer):
        ours, theirs = f"trunk.blocks.{layer}", f"transformer.h.{layer}"
        for name, other in _LINEAR.items():
            weight = state[f"{ours}.{name}.weight"]
            renamed[f"{theirs}.{other}.weight"] = weight.t()
            renamed[f"{theirs}.{other}.bias"] = _bias(state, f"{ours}.{name}", weight.shape[0])
        for name, other in _NORM.items():
            renamed |= _norm(state, f"{ours}.{name}", f"{theirs}.{other}")
    return renamed | _norm(state, "trunk.norm", "transformer.ln_f")


def _norm(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    weight = state[f"{ours}.weight"]
    return {f"{theirs}.weight": weight, f"{theirs}.bias": _bias(state, ours, len(weight))}


def _bias(state: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    """The bias, or zeros: Hugging Face's GPT-2 always has one."""
    return state.get(f"{name}.bias", torch.zeros(width))
