"""Small random models of every layout, saved as Hugging Face saves them, with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LAYERS, WIDTH, HEADS, CONTEXT = 3, 32, 4, 24

_SHARED: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GROUPED = {**_SHARED, "num_key_value_heads": 2, "head_dim": 8}
_GEMMA = {**_GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8}
_PADDED = {**_SHARED, "pad_token_id": 1}

# layout → class with its head, settings of its configuration
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT,
         "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "gemma2": ("Gemma2ForCausalLM", _GEMMA),
    "gemma3": ("Gemma3ForCausalLM", _GEMMA),
    "qwen2": ("Qwen2ForCausalLM", {**_SHARED, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3ForCausalLM", _GROUPED),
    "pythia": ("GPTNeoXForCausalLM", _SHARED),
    "gptneox-sequential": ("GPTNeoXForCausalLM", {**_SHARED, "use_parallel_residual": False}),
    "bloom": ("BloomForCausalLM", {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS}),
    "bert": ("BertForMaskedLM", _PADDED),
    "roberta": ("RobertaForMaskedLM", {**_PADDED, "max_position_embeddings": CONTEXT + 2}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 48,
         "max_position_embeddings": CONTEXT, "pad_token_id": 1},
    ),
    "modernbert": ("ModernBertForMaskedLM", _PADDED),
}  # fmt: skip
CAUSAL = [name for name in LAYOUTS if "MaskedLM" not in LAYOUTS[name][0]]
ENCODERS = [name for name in LAYOUTS if name not in CAUSAL]


def small_tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens; id 0 ends a text."""
    from cutaway.text.tokenizers import train

    return train(["the cat sees the river and the old king paints the quiet sea " * 20], 300)


def save_model(layout: str, folder: Path, *, tokenizer: Any = None, seed: int = 0) -> Path:
    """Save a random model of a layout in `folder`, with weights large enough to matter."""
    import transformers

    name, settings = LAYOUTS[layout]
    network = getattr(transformers, name)
    vocabulary = 300 if tokenizer is None else tokenizer.vocab_size
    config = network.config_class(vocab_size=vocabulary, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # what its class draws is the same every time, too
        torch.manual_seed(seed)
        module = network(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    module.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(folder)
    return folder


def random_tokens(batch: int = 2, length: int = 12, seed: int = 0, low: int = 2) -> torch.Tensor:
    """Token ids (batch, length), none of them padding or an end of text."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 256, (batch, length), generator=generator)
