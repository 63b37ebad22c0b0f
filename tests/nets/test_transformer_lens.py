"""The names of TransformerLens read what the real TransformerLens reads, site by site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from laws import pretrained

pytest.importorskip("transformer_lens", reason="needs transformer-lens, which cutaway does not use")

PER_BLOCK = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post",
             "hook_mlp_out", "hook_resid_post")  # fmt: skip
NAMES = ["hook_embed", *(f"blocks.{layer}.{name}" for layer in (0, 2) for name in PER_BLOCK)]
# Version 4.3 does not know these.
UNKNOWN = {"bart", "biogpt", "helium", "persimmon", "camembert", "deberta-v2", "distilbert", "electra",
           "modernbert", "mpnet"}  # fmt: skip
# It computes other states for these than the model's own library.
OTHERS = {"falcon-alibi", "falcon-new", "opt-post-norm"}
BEHIND_A_NORM = {"bert": {"hook_attn_out"}, "roberta": {"hook_attn_out"}}


def theirs(folder: Path, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The states that TransformerLens gives under its names."""
    import transformers
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge

    words = models.WordLevel({f"w{index}": index for index in range(120)}, unk_token="w0")
    ends: dict[str, Any] = {"bos_token": "w0", "eos_token": "w0", "pad_token": "w1"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **ends).save_pretrained(
        folder
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", tokenizer=tokenizer)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    return {name: cache[name] for name in NAMES if name in cache}


@pytest.mark.parametrize("name", [n for n in pretrained.ARCHITECTURES if n not in UNKNOWN | OTHERS])
def test_every_name_reads_the_same_states(name: str, tmp_path: Path) -> None:
    folder = pretrained.save(name, tmp_path / name)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, pretrained.VOCABULARY, (2, 9), generator=generator)
    model, given, compared = open_model(folder, device="cpu"), theirs(folder, tokens), 0
    for hook, state in given.items():
        if hook.split(".", 2)[-1] in BEHIND_A_NORM.get(name, ()):
            continue
        try:
            ours = capture(model, tokens, hook)[hook]
        except UserError:  # the site does not exist by its definition
            continue
        torch.testing.assert_close(ours, state.reshape(ours.shape), rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared >= 5
