"""What `capture` gives answers to every name of a site."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from activations.tiny_models import LAYERS, random_tokens
from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, Site, residual


def test_all_names_of_a_site_are_one(tiny_model) -> None:
    states = capture(tiny_model("gpt2"), random_tokens(), "0,2,embed,mlp.1,middle.1")
    expected = states[Site("residual", 2)]
    for name in ("residual.2", 2, np.int64(2), "2", "blocks.2.hook_resid_post", residual(2)):
        assert states[name] is expected
        assert name in states
    assert states["blocks.0.hook_resid_pre"] is states[EMBED] is states[-1]
    assert states["blocks.1.hook_mlp_out"] is states["mlp.1"]
    assert states["blocks.1.hook_resid_mid"] is states["middle.1"]
    assert list(states) == [residual(0), residual(2), EMBED, Site("mlp", 1), Site("middle", 1)]


def test_a_site_that_was_not_captured_is_named(tiny_model) -> None:
    states = capture(tiny_model("gpt2"), random_tokens(), "0,2")
    with pytest.raises(
        UserError, match=r"site = '1': not among those captured \(residual\.0, resid"
    ):
        states[1]
    with pytest.raises(KeyError):
        states["mlp.0"]
    with pytest.raises(UserError, match="expected a layer"):
        states["first"]
    assert 1 not in states
    assert "first" not in states
    assert None not in states
    assert states.get(1) is None
    assert states.get("2") is states[2]


def test_numpy_goes_in_and_comes_out(tiny_folder, tiny_model) -> None:
    model, tokens = tiny_model("llama"), random_tokens()
    states = capture(model, tokens, "all")
    assert all(torch.equal(states[layer], capture(model, tokens.numpy(), layer)[layer])
               for layer in range(LAYERS))  # fmt: skip
    assert torch.equal(capture(model, tokens.tolist(), 1)[1], states[1])
    arrays = states.numpy()
    assert list(arrays) == list(states)
    assert np.array_equal(arrays[residual(1)], states[1].numpy())
    short = open_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    halves = capture(short, tokens, 1)
    assert halves.numpy()[residual(1)].dtype == np.float32
    assert np.array_equal(halves.numpy()[residual(1)], halves[1].float().numpy())


def test_a_batch_size_that_is_none_is_refused(tiny_model) -> None:
    for size in (0, -1):
        with pytest.raises(UserError, match=f"batch_size = {size}: expected 1 or more"):
            capture(tiny_model("gpt2"), random_tokens(), 0, batch_size=size)
    with pytest.raises(TypeError, match="batch_size: expected a whole number"):
        capture(tiny_model("gpt2"), random_tokens(), 0, batch_size=1.5)


def test_states_survive_inference_mode(tiny_model) -> None:
    model, tokens = tiny_model("llama"), random_tokens()
    with torch.inference_mode():
        inside = capture(model, tokens, "all")
    for site, state in capture(model, tokens, "all").items():
        assert torch.equal(inside[site], state)
