"""Small GGUF files written with the `gguf` library, and the dense model that each one stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

BLOCKS, WIDTH, HEADS, GROUPS, INNER, CONTEXT = 2, 64, 4, 2, 96, 32
BOS, EOS = "<|bos|>", "<|end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass
class Written:
    """A GGUF file, and the model in float32 that transformers makes of its dequantised values."""

    path: Path
    truth: Any


def alphabet() -> list[str]:
    """GPT-2's letters for the bytes, a few merged words, and two special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "th", "the", "Ġthe", BOS, EOS]


def llama(seed: int = 0, **changes: Any) -> Any:
    """A tiny random Llama in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "head_dim": WIDTH // HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "vocab_size": len(alphabet()),
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()
    with torch.no_grad():
        for name, part in model.named_parameters():
            part.copy_(1 + torch.randn_like(part) / 8 if "norm" in name else torch.randn_like(part))
            part.mul_(0.2 if part.ndim > 1 else 1)
    return model


def named(hf_name: str) -> str:
    """GGUF's name of one of Llama's weights."""
    stem, _, end = hf_name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{end}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_IN_BLOCK[part]}.{end}"


def write(
    path: Path,
    kind: str | Callable[[str], str] = "F32",
    *,
    model: Any = None,
    file_type: int | None = None,
    settings: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    more: Mapping[str, np.ndarray] | None = None,
    vocabulary: Callable[[Any], None] | None = None,
    architecture: str = "llama",
) -> Written:
    """Write a Llama with every matrix stored as `kind` says, the norms as F32.

    `settings` are added to the architecture's own or, with None, take them away; `more` are further
    tensors; `without` names tensors that are left out.
    """
    import gguf
    from gguf import GGMLQuantizationType as Kind

    model = llama() if model is None else model
    writer = gguf.GGUFWriter(path, architecture)
    own = _settings(model.config) | dict(settings or {})
    for name, value in own.items():
        if isinstance(value, str):
            writer.add_string(f"{architecture}.{name}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{name}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{name}", value)
    if file_type is not None:
        writer.add_file_type(file_type)
    (vocabulary or byte_level)(writer)
    truth = model.state_dict()
    for hf_name, tensor in model.state_dict().items():
        name = named(hf_name)
        if name in without or (name == "output.weight" and model.config.tie_word_embeddings):
            continue
        stored = Kind[(kind if isinstance(kind, str) else kind(name)) if tensor.ndim > 1 else "F32"]
        values = _permuted(name, tensor.numpy(), model.config)
        raw = gguf.quants.quantize(values, stored)
        dense = gguf.quants.dequantize(raw, stored).reshape(values.shape).astype(np.float32)
        truth[hf_name] = torch.from_numpy(_restored(name, dense, model.config).copy())
        writer.add_tensor(name, raw, raw_dtype=stored)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(truth)
    return Written(path, model.requires_grad_(False))


def byte_level(writer: Any, *, add_bos: bool = True) -> None:
    """A byte-level tokenizer with BOS, end of text and a chat template."""
    tokens = alphabet()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in (BOS, EOS) else 1 for token in tokens])
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(TEMPLATE)


def _settings(config: Any) -> dict[str, Any]:
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }


def _heads(name: str, config: Any) -> int | None:
    if ".attn_q." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".attn_k." in name else None


def _permuted(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """llama.cpp has the two halves of each head's rows interleaved."""
    heads = _heads(name, config)
    if heads is None:
        return values
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _restored(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    heads = _heads(name, config)
    if heads is None:
        return values
    pairs = values.reshape(heads, -1, 2, values.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
