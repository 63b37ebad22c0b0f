"""Captured states are the model's own, and nothing beyond the deepest of them is computed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from activations.tiny_models import CAUSAL, ENCODERS, LAYERS, LAYOUTS, random_tokens
from conftest import PATIENCE
from cutaway.activations.capture import capture
from cutaway.activations.splice import splice
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, WORDS, Site, residual

EVERYWHERE = [EMBED, *(Site(k, n) for k in ("attention", "mlp", "residual") for n in range(LAYERS))]


@contextmanager
def counted(model: Model) -> Iterator[Counter[nn.Module]]:
    """How often each module of the model runs (is entered)."""
    ran: Counter[nn.Module] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda module, _: ran.update([module]))
        for module in model.module.modules()
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def hooks(model: Model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.module.modules()
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_equal_those_of_output_hidden_states(layout: str, tiny_model) -> None:
    model, tokens = tiny_model(layout), random_tokens()
    before_norm: list[Tensor] = []
    last = model.module_at(residual(LAYERS - 1))
    handle = last.register_forward_hook(
        lambda module, args, out: before_norm.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        theirs = model.module(tokens, output_hidden_states=True).hidden_states
    handle.remove()
    states = capture(model, tokens, EVERYWHERE)
    assert list(states) == EVERYWHERE
    for layer in range(-1, LAYERS - 1):
        assert torch.equal(states[residual(layer)], theirs[layer + 1])
    assert torch.equal(states[residual(LAYERS - 1)], before_norm[0])
    assert all(state.shape == (2, 12, model.width) for state in states.values())
    # a final norm is what Hugging Face gives as the last hidden state
    normalised = layout in CAUSAL or layout == "modernbert"
    assert torch.equal(states[residual(LAYERS - 1)], theirs[-1]) != normalised


@pytest.mark.parametrize("layout", [*CAUSAL, "modernbert"])
def test_the_stream_is_the_sum_of_what_was_added_to_it(layout: str, tiny_model) -> None:
    states = capture(tiny_model(layout), random_tokens(), EVERYWHERE)
    for layer in range(LAYERS):
        added = states[Site("attention", layer)] + states[Site("mlp", layer)]
        total = states[residual(layer - 1)] + added
        assert (states[residual(layer)] - total).abs().max() < 1e-5
        assert added.abs().max() > 0.1


@pytest.mark.parametrize("layout", [name for name in ENCODERS if name != "modernbert"])
def test_encoders_normalise_each_sum(layout: str, tiny_model) -> None:
    model = tiny_model(layout)
    states = capture(model, random_tokens(), EVERYWHERE)
    for layer in range(LAYERS):
        block = model.module_at(residual(layer))
        norms = (
            (block.sa_layer_norm, block.output_layer_norm)
            if layout == "distilbert"
            else (block.attention.output.LayerNorm, block.output.LayerNorm)
        )
        middle = norms[0](states[residual(layer - 1)] + states[Site("attention", layer)])
        after = norms[1](middle + states[Site("mlp", layer)])
        assert torch.allclose(states[residual(layer)], after, atol=1e-6)


def test_a_runs_states_are_the_trunks(gpt2_run, backpack_run) -> None:
    for run in (gpt2_run, backpack_run):
        model = open_model(run, device="cpu")
        trunk, tokens = model.module.trunk, random_tokens()
        states = capture(model, tokens, "embed,attention.0,mlp.0,residual.0")
        positions = trunk.position_embedding.weight[: tokens.shape[1]]
        assert torch.equal(states[EMBED], trunk.token_embedding(tokens) + positions)
        total = states[EMBED] + states[Site("attention", 0)] + states[Site("mlp", 0)]
        assert torch.allclose(total, states[residual(0)], atol=1e-6)
        assert torch.equal(trunk.norm(states[residual(0)]), trunk(tokens))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("site", ["embed", "attention.1", "mlp.1", "residual.1", "residual.2"])
def test_nothing_deeper_runs(layout: str, site: str, tiny_model) -> None:
    model = tiny_model(layout)
    wanted = model.site(site)
    with counted(model) as ran:
        capture(model, random_tokens(), [site])
    expected = [int(layer <= wanted.layer) for layer in range(LAYERS)]
    if wanted == EMBED:
        expected[0] = 1  # entered, and stopped before its first part
        assert not any(ran[part] for part in model.module_at(EMBED).children())
    assert [ran[model.module_at(residual(layer))] for layer in range(LAYERS)] == expected
    head = model.module.get_output_embeddings()
    assert head is not None
    assert not ran[head]
    if wanted.kind == "attention" and layout == "llama":
        assert not ran[model.module_at(Site("mlp", 1))]
    with counted(model) as ran:  # and all of it again afterwards
        model.logits(random_tokens())
    assert ran[head] == 1


def test_the_final_norm_does_not_run(tiny_model) -> None:
    model = tiny_model("gpt2")
    with counted(model) as ran:
        capture(model, random_tokens(), "all")
    assert not ran[model.module.transformer.ln_f]


def test_states_are_detached_and_usable_in_autograd(tiny_model) -> None:
    state = capture(tiny_model("llama"), random_tokens(), [1])[residual(1)]
    assert not state.requires_grad
    weight = torch.ones(state.shape[-1], requires_grad=True)
    (state * weight).sum().backward()  # inference tensors would refuse
    assert torch.allclose(weight.grad, state.sum((0, 1)))


def test_hooks_are_gone_afterwards_also_after_errors(tiny_model) -> None:
    model = tiny_model("llama")
    before = hooks(model)
    capture(model, random_tokens(), "all")
    with pytest.raises(UserError, match="layers 0 to 2"):
        capture(model, random_tokens(), [0, 3])
    with pytest.raises(UserError, match="ids 0 to"):
        capture(model, random_tokens() + 10_000, [0])
    assert hooks(model) == before


def test_an_error_of_the_users_own_passes_through(tiny_model) -> None:
    model = tiny_model("llama")
    before = hooks(model)

    def refuse(state: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"), splice(model, {0: refuse}):
        capture(model, random_tokens(), [1])
    assert hooks(model) == before


def test_a_capture_inside_a_capture(tiny_model) -> None:
    model = tiny_model("llama")
    inner: list[Tensor] = []

    def look(state: Tensor) -> Tensor:
        if not inner:  # the inner pass comes by here too
            inner.append(state)
            inner[0] = capture(model, random_tokens(seed=1), [2])[residual(2)]
        return state

    plain = capture(model, random_tokens(), [0, 2])
    with splice(model, {1: look}):
        outer = capture(model, random_tokens(), [0, 2])
    for site, state in plain.items():
        assert torch.equal(outer[site], state)
    assert torch.equal(inner[0], capture(model, random_tokens(seed=1), [2])[residual(2)])


def test_threads_may_share_a_model(tiny_model) -> None:
    """Each pass waits for the other in the middle, so that both are under way at once."""
    model = tiny_model("llama")
    plain = [capture(model, random_tokens(seed=s), "1,2") for s in (0, 1)]
    together = threading.Barrier(2, timeout=PATIENCE)

    def one(seed: int) -> dict[Site, Tensor]:
        def meet(state: Tensor) -> Tensor:
            together.wait()
            return state + seed * 0.0

        with splice(model, {0: meet}):
            return capture(model, random_tokens(seed=seed), "1,2")

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, (0, 1)))
    for states, expected in zip(found, plain, strict=True):
        assert all(torch.equal(states[site], state) for site, state in expected.items())


def test_padding_on_the_left_moves_no_state(tiny_model) -> None:
    for layout in LAYOUTS:
        model, tokens = tiny_model(layout), random_tokens(length=8)
        padded = torch.cat([torch.ones(2, 4, dtype=torch.int64), tokens], 1)
        mask = torch.tensor([[0] * 4 + [1] * 8] * 2)
        alone, beside = capture(model, tokens, EVERYWHERE), capture(model, padded, EVERYWHERE, mask)
        for site, state in alone.items():
            assert torch.allclose(beside[site][:, 4:], state, atol=2e-5), (layout, site)


def test_states_are_in_the_models_dtype(tiny_folder, tiny_model) -> None:
    for layout in CAUSAL:
        short = open_model(tiny_folder(layout), device="cpu", dtype="bfloat16")
        states = capture(short, random_tokens(), "embed,0,2")
        whole = capture(tiny_model(layout), random_tokens(), list(states))
        for site, state in states.items():
            assert state.dtype == torch.bfloat16
            error = (state.float() - whole[site]).norm() / whole[site].norm()
            assert error < 0.03, (layout, site)


def test_sites_have_transformer_lens_names_too(tiny_model) -> None:
    states = capture(tiny_model("gpt2"), random_tokens(), "blocks.1.hook_resid_pre,hook_embed")
    assert list(states) == [residual(0), WORDS]


def test_a_layer_without_such_a_part_is_named(tmp_path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM, MixtralConfig, MixtralForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    MixtralForCausalLM(
        MixtralConfig(**shape, intermediate_size=16, num_key_value_heads=2, num_local_experts=2)
    ).save_pretrained(tmp_path / "mixtral")
    model = open_model(tmp_path / "mixtral", device="cpu")
    assert capture(model, random_tokens(), "all").keys() == {residual(0), residual(1)}
    with pytest.raises(
        UserError, match=r"'neurons\.1': MixtralForCausalLM has no module whose input"
    ):
        capture(model, random_tokens(), "neurons.1")
    GraniteForCausalLM(
        GraniteConfig(**shape, intermediate_size=16, residual_multiplier=0.5)
    ).save_pretrained(tmp_path / "granite")
    with pytest.raises(UserError, match=r"'attention\.0': GraniteForCausalLM has no module"):
        capture(open_model(tmp_path / "granite", device="cpu"), random_tokens(), "attention.0")
