"""Small models and stores for the tests of this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cutaway.activations.capture import capture
from cutaway.activations.extraction import extract, pack
from cutaway.activations.store import ActivationStore
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import Site

BOS, EOS = 5, 0  # of `with_special`


def made(model: Path, data: Path, out: Path, **settings: Any) -> ActivationStore:
    """A store of 6,000 tokens in three shards or more."""
    given = {"tokens": 6_000, "layers": "embed,0", **settings}
    return extract({"model": str(model), "data": str(data), **given}, out)


def states(
    model: Model, data: Path, sites: list[Site], **settings: Any
) -> dict[Site, torch.Tensor]:
    """The states of all contexts, captured eight at a time as an extraction does: (n, T, d)."""
    text = pack(
        model, str(data), **{"tokens": 6_000, "context_length": None, "bos": False, **settings}
    )
    tokens = torch.from_numpy(text.contexts(0, text.n_contexts).tokens)
    parts = [capture(model, part, sites) for part in tokens.split(8)]
    return {site: torch.cat([part[site] for part in parts]) for site in sites}


def huggingface_model(run: Path, folder: Path, *, poison: int | slice | None = None) -> Path:
    """A tiny random Llama in Hugging Face's layout with the run's tokenizer.

    `poison`: the embeddings of these tokens are made NaN.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = open_model(run).reads
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=tokenizer.end_of_text,
        eos_token_id=tokenizer.end_of_text,
    )
    network = LlamaForCausalLM(config)
    if poison is not None:
        with torch.no_grad():
            network.model.embed_tokens.weight[poison] = float("nan")
    network.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def with_special(folder: Path, template: str, bos: int | None = BOS) -> Path:
    """The model in a folder, its tokenizer putting tokens around a text: `B $A`, `B $A E`, ..."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    names = {number: name for name, number in definition["model"]["vocab"].items()}
    ids = {"B": BOS, "E": EOS}
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if word == "$A"
        else {"SpecialToken": {"id": word, "type_id": 0}}
        for word in template.split()
    ]
    special = {word: {"id": word, "ids": [id], "tokens": [names[id]]} for word, id in ids.items()}
    definition["post_processor"] = {
        "type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": special,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": bos}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
