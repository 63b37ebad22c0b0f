"""Tiny models with a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from activations.tiny_models import save_model, small_tokenizer

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for m in messages -%}{%- if m['role'] not in ['user', 'assistant'] -%}"
    "{{ raise_exception('no such role: ' + m['role']) }}{%- endif -%}"
    "<turn>{{ m['role'] }}\n{{ m['content'] | trim }}</turn>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<turn>assistant\n{%- endif -%}"
)
TOKENS = ["<s>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>"]
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the cat sees the river"},
    {"role": "assistant", "content": "  the king sees the sea "},
    {"role": "user", "content": "the king"},
    {"role": "assistant", "content": "the king"},
]


def chat_model(folder: Path, template: str | None = CHATML, *, bos: bool = False) -> Path:
    """A tiny Llama whose tokenizer has special tokens and a chat template."""
    save_model("llama", folder, tokenizer=small_tokenizer())
    definition = json.loads((folder / "tokenizer.json").read_text())
    first = max(definition["model"]["vocab"].values()) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    definition["added_tokens"] += [
        {"id": first + place, "content": token, "special": True, **flags}
        for place, token in enumerate(TOKENS)
    ]
    if bos:
        definition["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [first], "tokens": ["<s>"]}},
        }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    shape = json.loads((folder / "config.json").read_text())
    wide = first + len(TOKENS)
    shape |= {"vocab_size": wide, "bos_token_id": first, "max_position_embeddings": 128}
    _widened(folder, shape, wide)
    return folder


def _widened(folder: Path, shape: dict[str, Any], wide: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(2)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            more = 0.1 * torch.randn(wide - len(weight), weight.shape[1], generator=generator)
            weights[name] = torch.cat([weight, more])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape))
