"""Splicing changes exactly what it says, and leaves the model as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from activations.tiny_models import CAUSAL, LAYERS, LAYOUTS, random_tokens
from cutaway.activations.capture import capture
from cutaway.activations.splice import ablate, patch, replace, splice, steer
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, Site, residual

LAST = residual(LAYERS - 1)


def same(state: Tensor) -> Tensor:
    return state


def hooks(model: Model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.module.modules()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_identity_changes_nothing(layout: str, dtype: str, tiny_folder) -> None:
    model, tokens = open_model(tiny_folder(layout), device="cpu", dtype=dtype), random_tokens()
    plain = model.logits(tokens)
    names = [
        "embed",
        *(f"{kind}.{n}" for kind in ("attention", "mlp", "residual") for n in range(3)),
    ]
    for change in (same, torch.clone, lambda state: state.float() + 0):
        with splice(model, dict.fromkeys(names, change)):
            assert torch.equal(model.logits(tokens), plain)


@pytest.mark.parametrize("site", ["embed", "residual.0", "residual.2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_prompts_whole_state_gives_its_logits(layout: str, site: str, tiny_model) -> None:
    model, tokens, other = tiny_model(layout), random_tokens(), random_tokens(seed=1)
    states = capture(model, other, [site])[model.site(site)]
    with splice(model, {site: patch(states)}):
        assert torch.equal(model.logits(tokens), model.logits(other))
    assert not torch.equal(model.logits(tokens), model.logits(other))


def test_runs_are_spliced_too(gpt2_run, backpack_run) -> None:
    for run in (gpt2_run, backpack_run):
        model, tokens, other = open_model(run, device="cpu"), random_tokens(), random_tokens(seed=1)
        state = capture(model, other, "0")[residual(0)]
        with splice(model, {0: patch(state)}):
            patched = model.logits(tokens)
        if model.decoder_weight is not None:
            assert torch.equal(patched, model.logits(other))
        else:  # a Backpack's senses are the tokens' own: only how they are mixed is patched
            alpha = model.module.alpha(other)
            mixed = model.module.mix(alpha, model.module.sense_vectors(tokens))
            assert torch.allclose(patched, mixed @ model.module.embedding.T, atol=1e-5)
            assert not torch.allclose(patched, model.logits(tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "norm"),
    [
        ("gpt2", "transformer.ln_f"),
        ("llama", "model.norm"),
        ("pythia", "gpt_neox.final_layer_norm"),
    ],
)
def test_without_the_last_state_the_head_reads_the_norm_of_zero(
    layout: str, norm: str, tiny_model
) -> None:
    model = tiny_model(layout)
    zero = model.module.get_submodule(norm)(torch.zeros(model.width))
    with splice(model, {LAST: ablate()}):
        logits = model.logits(random_tokens())
    expected = zero @ model.decoder_weight.T
    assert torch.allclose(logits, expected.expand_as(logits), atol=1e-6)
    mean = torch.linspace(-1, 1, model.width)
    with splice(model, {LAST: ablate(mean)}):
        assert torch.equal(capture(model, random_tokens(), [LAST])[LAST][1, 3], mean)


@pytest.mark.parametrize("layout", CAUSAL)
def test_steering_adds_exactly_strength_times_direction(layout: str, tiny_model) -> None:
    model, tokens = tiny_model(layout), random_tokens()
    direction = torch.randn(model.width, generator=torch.Generator().manual_seed(0))
    for site in (EMBED, Site("attention", 1), Site("mlp", 1), residual(1)):
        plain = capture(model, tokens, [site])[site]
        with splice(model, {site: steer(direction, 3.5)}):
            assert torch.equal(capture(model, tokens, [site])[site], plain + 3.5 * direction)


def test_steering_in_bfloat16_rounds_once(tiny_folder) -> None:
    model = open_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    direction, tokens = torch.full((model.width,), 0.30001), random_tokens()
    plain = capture(model, tokens, [1])[residual(1)]
    with splice(model, {1: steer(direction, 0.1)}):
        steered = capture(model, tokens, [1])[residual(1)]
    assert steered.dtype == torch.bfloat16
    assert torch.equal(steered, (plain.float() + 0.1 * direction).bfloat16())


def test_deeper_sites_see_the_change_and_shallower_ones_do_not(tiny_model) -> None:
    model, tokens = tiny_model("llama"), random_tokens()
    plain = capture(model, tokens, "embed,0,1,2")
    with splice(model, {"mlp.1": steer(torch.ones(model.width))}):
        changed = capture(model, tokens, "embed,0,1,2")
    assert torch.equal(plain[EMBED], changed[EMBED])
    assert torch.equal(plain[residual(0)], changed[residual(0)])
    assert torch.allclose(plain[residual(1)] + 1, changed[residual(1)], atol=1e-6)
    assert (plain[residual(2)] - changed[residual(2)]).abs().max() > 0.1


def test_splices_nest_from_the_outside_in(tiny_model) -> None:
    model, tokens = tiny_model("gpt2"), random_tokens()
    plain = capture(model, tokens, [1])[residual(1)]
    with splice(model, {1: lambda state: state + 1}):
        with splice(model, {1: lambda state: 2 * state}):
            both = capture(model, tokens, [1])[residual(1)]
        one = capture(model, tokens, [1])[residual(1)]
    assert torch.equal(both, 2 * (plain + 1))
    assert torch.equal(one, plain + 1)
    assert torch.equal(capture(model, tokens, [1])[residual(1)], plain)


def test_other_threads_see_no_splice(tiny_model) -> None:
    model, tokens = tiny_model("gpt2"), random_tokens()
    plain = model.logits(tokens)
    with ThreadPoolExecutor(1) as pool, splice(model, {1: ablate()}):
        assert torch.equal(pool.submit(model.logits, tokens).result(), plain)
        assert not torch.equal(model.logits(tokens), plain)


POSITIONS = [
    (3, [3]),
    (-1, [11]),
    (slice(2, 5), [2, 3, 4]),
    ([0, 7], [0, 7]),
    ([], []),
    (torch.tensor([1, 2]), [1, 2]),
    (torch.arange(12) % 3 == 0, [0, 3, 6, 9]),
    ([False] * 11 + [True], [11]),
    (None, list(range(12))),
]


@pytest.mark.parametrize(("positions", "expected"), POSITIONS)
def test_only_the_named_positions_change(positions, expected, tiny_model) -> None:
    model, tokens = tiny_model("gpt2"), random_tokens()
    plain = capture(model, tokens, [1])[residual(1)]
    with splice(model, {1: replace(7.0, positions)}):
        changed = capture(model, tokens, [1])[residual(1)]
    where = (changed == 7.0).all(-1)
    assert where[0].nonzero().flatten().tolist() == expected
    assert torch.equal(changed[~where], plain[~where])


def test_a_mask_may_differ_from_row_to_row(tiny_model) -> None:
    model, tokens = tiny_model("gpt2"), random_tokens()
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 1] = mask[1, 5] = True
    with splice(model, {1: ablate(positions=mask)}):
        state = capture(model, tokens, [1])[residual(1)]
    assert torch.equal((state == 0).all(-1), mask)


def test_causal_patching_reaches_only_what_comes_after(tiny_model) -> None:
    model, tokens = tiny_model("llama"), random_tokens()
    other = capture(model, random_tokens(seed=1), [0])[residual(0)]
    plain = model.logits(tokens)
    with splice(model, {0: patch(other, positions=5)}):
        moved = (model.logits(tokens) - plain).abs().amax((0, 2))
    assert moved[:5].max() == 0 < moved[5:].min()


def test_gradients_reach_what_is_spliced_in(tiny_model) -> None:
    model, tokens = tiny_model("llama"), random_tokens()
    direction = torch.zeros(model.width, dtype=torch.float32, requires_grad=True)
    with splice(model, {1: steer(direction)}):
        model.logits(tokens)[:, -1, 9].sum().backward()
    step = 1e-2 * direction.grad / direction.grad.norm()
    with torch.no_grad():
        logits = []
        for sign in (1, -1):
            with splice(model, {1: steer(step, sign)}):
                logits.append(model.logits(tokens)[:, -1, 9].sum())
    slope = (logits[0] - logits[1]) / 2e-2
    assert slope.item() == pytest.approx(direction.grad.norm().item(), rel=1e-2)


def test_the_model_is_as_before_after_errors(tiny_model) -> None:
    model, tokens = tiny_model("gpt2"), random_tokens()
    before, plain = hooks(model), model.logits(tokens)
    with pytest.raises(KeyError), splice(model, {0: ablate(), "mlp.1": ablate()}):
        raise KeyError
    with pytest.raises(UserError, match="layers 0 to 2"), splice(model, {0: ablate(), 3: ablate()}):
        pass
    assert hooks(model) == before
    assert torch.equal(model.logits(tokens), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state[:, :-1], r"splice at residual\.1: expected states \(2, 12, 32\), got"),
        (lambda state: None, r"expected states \(2, 12, 32\), got NoneType"),
        (replace(torch.zeros(31)), r"a value of shape \(31,\) does not fit"),
        (patch(torch.zeros(2, 11, 32)), r"a value of shape \(2, 11, 32\) does not fit"),
        (ablate(positions=12), "positions = 12: the prompt has 12 tokens"),
        (ablate(positions=torch.ones(3, dtype=torch.bool)), r"positions: a mask of shape \(3,\)"),
        (steer(torch.ones(31)), r"a direction of shape \(31,\), the states are 32 wide"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str, tiny_model) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match=message), splice(model, {1: change}):
        model.logits(random_tokens())
