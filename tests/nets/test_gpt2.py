"""The baseline equals Hugging Face's GPT-2, and starts as GPT-2 does."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway.nets import build
from cutaway.nets.export import export_huggingface, to_huggingface
from cutaway.nets.reference import load
from cutaway.nets.trunk import set_attention

SHAPE = {
    "name": "gpt2",
    "vocab_size": 90,
    "block_size": 20,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 32,
}


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 90, (3, 20), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
def test_logits_equal_those_of_transformers(bias: bool) -> None:
    model = build({**SHAPE, "bias": bias}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
        theirs = to_huggingface(model)(tokens()).logits
        assert (model(tokens()) - theirs).abs().max() < 1e-5


def test_a_run_exports_to_the_layout_transformers_loads(gpt2_run, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = load(gpt2_run)
    out = export_huggingface(loaded.model, loaded.tokenizer, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = "The old king sees the river"
    ids = loaded.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == list(ids)
    ours = loaded.model(torch.tensor([ids])[:, :16])
    with torch.no_grad():
        assert (theirs(torch.tensor([ids])[:, :16]).logits - ours).abs().max() < 1e-5


def test_initialised_as_gpt2_is() -> None:
    model = build({**SHAPE, "n_embd": 256, "vocab_size": 2000, "n_layer": 8})
    std = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, value in std.items():
        scaled = name.endswith(("attention.out.weight", "mlp.down.weight"))
        expected = 0.02 / math.sqrt(16) if scaled else 0.02
        assert value == pytest.approx(expected, rel=0.05), name
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    norms = [p for name, p in model.named_parameters() if "norm" in name and p.ndim == 1]
    assert all(p.unique().tolist() in ([0.0], [1.0]) for p in norms)


def test_a_new_network_knows_nothing() -> None:
    loss = build(SHAPE).loss(tokens()[:, :-1], tokens()[:, 1:]).item()
    assert loss == pytest.approx(math.log(90), abs=0.05)


def test_the_same_seed_makes_the_same_network() -> None:
    one, same, other = build(SHAPE, 3), build(SHAPE, 3), build(SHAPE, 4)
    assert torch.equal(one.embedding, same.embedding)
    assert not torch.equal(one.embedding, other.embedding)


@pytest.mark.parametrize("name", ["gpt2", "backpack"])
def test_both_attention_kernels_give_the_same_logits_and_gradients(name: str) -> None:
    shape = {**SHAPE, "name": name} | ({"n_senses": 4} if name == "backpack" else {})
    model = build(shape)
    results = {}
    for kernel in ("plain", "fused"):
        set_attention(model, kernel)
        model.zero_grad()
        model.loss(tokens()[:, :-1], tokens()[:, 1:]).backward()
        results[kernel] = [model(tokens()).detach(), *(p.grad.clone() for p in model.parameters())]
    for plain, fused in zip(results["plain"], results["fused"], strict=True):
        assert torch.allclose(plain, fused, atol=1e-5)


def test_too_long_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="21 tokens, but block_size is 20"):
        build(SHAPE)(torch.zeros(1, 21, dtype=torch.int64))
