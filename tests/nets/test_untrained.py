"""A model's untrained twin: of the same shape and tokens, with weights that learnt nothing."""

from __future__ import annotations

import shutil

import pytest
import torch

from activations.tiny_models import CONTEXT, LAYOUTS, random_tokens
from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, residual
from cutaway.nets.untrained import untrained


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_an_untrained_twin(layout: str, tiny_folder) -> None:
    folder = str(tiny_folder(layout))
    model = open_model(folder, device="cpu")
    before = model.logits(random_tokens())
    twin = untrained(model, folder, seed=1)
    ours, theirs = model.module.state_dict(), twin.module.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    fresh = twin.logits(random_tokens())
    assert fresh.isfinite().all()
    assert (fresh - before).abs().max() > 1e-3
    assert torch.equal(model.logits(random_tokens()), before)  # the model itself is as it was
    states = capture(twin, random_tokens(), [EMBED, residual(2)])
    assert states[residual(2)].shape == (*random_tokens().shape, model.width)
    assert (twin.causal, twin.bos_id, twin.max_length) == (
        model.causal,
        model.bos_id,
        model.max_length,
    )
    assert not twin.module.training
    assert not any(parameter.requires_grad for parameter in twin.module.parameters())


def test_weights_are_those_that_training_starts_from(gpt2_run) -> None:
    """A run's own network at step 0 has the initialiser's spread, and its trained one has not."""
    model = open_model(gpt2_run, device="cpu")
    twin = untrained(model, str(gpt2_run))
    weight = twin.module.trunk.token_embedding.weight
    assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.module.trunk.token_embedding.weight.std()) > 0.022
    tokens = model.tokens("the old king sees the river")
    assert not torch.allclose(model.logits(tokens), twin.logits(tokens), atol=1e-2)
    assert twin.reads.sha256() == model.reads.sha256()


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_seed_gives_the_same_twin_and_leaves_the_random_stream(
    kind: str, backpack_run, tiny_folder
) -> None:
    source = str(backpack_run if kind == "run" else tiny_folder("llama"))
    model = open_model(source, device="cpu")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = untrained(model, source, seed=2)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(100)
    second, other = untrained(model, source, seed=2), untrained(model, source, seed=3)
    tokens = torch.arange(1, 9)[None]
    assert torch.equal(first.logits(tokens), second.logits(tokens))
    assert not torch.equal(first.logits(tokens), other.logits(tokens))


def test_the_reference_says_untrained(tiny_folder) -> None:
    model = open_model(tiny_folder("gpt2"), device="cpu")
    twin = untrained(model, model.reference.id, seed=4)
    assert twin.reference.weights_sha256 == "untrained:4"
    assert twin.reference.tokenizer_sha256 == model.reference.tokenizer_sha256
    assert not twin.reference.same_model(model.reference)


def test_bfloat16_weights_are_the_float32_ones_cast(tiny_folder) -> None:
    folder = str(tiny_folder("gemma2"))
    short = untrained(open_model(folder, device="cpu", dtype="bfloat16"), folder)
    wide = untrained(open_model(folder, device="cpu", dtype="float32"), folder)
    assert short.dtype == torch.bfloat16
    for ours, theirs in zip(short.module.parameters(), wide.module.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_another_model_at_the_same_place_is_refused(tiny_folder, tmp_path) -> None:
    place = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), place)
    model = open_model(place, device="cpu")
    shutil.rmtree(place)
    shutil.copytree(tiny_folder("qwen2"), place)
    with pytest.raises(UserError, match="not the model that was read before"):
        untrained(model, str(place))
    assert model.max_length == CONTEXT
