"""Every architecture in `pretrained.ARCHITECTURES` has the sites it should, each with its own states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.activations.splice import splice, steer
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import EMBED, WORDS, Site, residual
from laws import pretrained
from laws.pretrained import ARCHITECTURES, CAUSAL, ENCODERS, KINDS, LAYERS, VOCABULARY, WITHOUT

ONLY_RIGHT = {"bart"}  # those that read padding on the left wrongly themselves


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """One model of each architecture, opened once."""
    folder = tmp_path_factory.mktemp("architectures")
    models: dict[str, Model] = {}

    def open_(name: str) -> Model:
        if name not in models:
            models[name] = open_model(pretrained.save(name, folder / name), device="cpu")
        return models[name]

    return open_


def sites_of(model: Model, name: str) -> list[Site]:
    """All sites that the table promises."""
    missing = WITHOUT.get(name, set())
    found = [WORDS, EMBED]
    for layer in range(LAYERS):
        found += [Site(kind, layer) for kind in KINDS if kind not in missing]  # type: ignore[arg-type]
    if name == "deepseek-v3":  # its first block alone is no mixture of experts
        found = [site for site in found if site.kind != "neurons" or site.layer == 0]
    return found


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    """None of them special, (batch, length)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(5, VOCABULARY, (batch, length), generator=generator)


def near(one: torch.Tensor, other: torch.Tensor, limit: float = 1e-5) -> bool:
    """Whether they differ by rounding alone; products of other shapes round in another way."""
    return float((one - other).norm() / other.norm()) < limit


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sites_there_are_and_no_others(opened, name: str) -> None:
    model = opened(name)
    promised = sites_of(model, name)
    for layer in range(LAYERS):
        for kind in KINDS:
            site = Site(kind, layer)
            if site in promised:
                assert model.width_at(site) > 0
                continue
            with pytest.raises(
                UserError, match=rf"layer = '{site}': {type(model.module).__name__}"
            ):
                model.place_of(site)
    assert list(capture(model, tokens(), promised)) == promised


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_site_alone_has_the_states_it_has_beside_all_others(opened, name: str) -> None:
    model = opened(name)
    sites, read = sites_of(model, name), tokens()
    for order in (sites, sites[::-1]):
        together = capture(model, read, order)
        for site in sites:
            assert torch.equal(together[site], capture(model, read, [site])[site]), site


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_the_library_gives(opened, name: str) -> None:
    model, read = opened(name), tokens()
    theirs = model.module(input_ids=read, output_hidden_states=True)
    theirs = getattr(theirs, "hidden_states", None) or theirs.decoder_hidden_states
    ours = capture(model, read, [residual(layer) for layer in range(-1, LAYERS - 1)])
    for layer in range(-1, LAYERS - 1):  # the last of theirs is behind the final norm
        assert torch.equal(ours[residual(layer)], theirs[layer + 1]), layer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_of_a_block_add_up(opened, name: str) -> None:
    model, read = opened(name), tokens()
    sites = sites_of(model, name)
    states = capture(model, read, sites)
    for layer in range(LAYERS):
        before, after = states[residual(layer - 1)], states[residual(layer)]
        attention, mlp = Site("attention", layer), Site("mlp", layer)
        if Site("middle", layer) in states:
            assert near(states[Site("middle", layer)], before + states[attention])
        normalised = model.abilities.adds_up is False
        if attention in states and mlp in states and not normalised:
            assert near(after, before + states[attention] + states[mlp])
    whole = name not in ("granite-scaled", "bloom-post-norm")
    expected = None if not whole else not (name in ENCODERS and name != "modernbert")
    expected = False if name in ("bart", "openai-gpt", "opt-post-norm") else expected
    assert model.abilities.adds_up is expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_moves_no_state(opened, name: str, side: str) -> None:
    model, read = opened(name), tokens(length=8)
    sites, padding = sites_of(model, name), torch.ones(2, 4, dtype=torch.int64)
    left = side == "left"
    padded = torch.cat([padding, read] if left else [read, padding], 1)
    mask = torch.cat([padding * 0, read * 0 + 1] if left else [read * 0 + 1, padding * 0], 1)
    alone = capture(model, read, sites)
    if left and name in ONLY_RIGHT:
        with pytest.raises(UserError, match="reads padding on the right only"):
            capture(model, padded, sites, mask)
        return
    beside = capture(model, padded, sites, mask)
    for site in sites:
        state = beside[site][:, 4:] if left else beside[site][:, :8]
        assert near(state, alone[site], 1e-4), site


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_row_has_the_states_it_has_among_many(opened, name: str) -> None:
    model, read = opened(name), tokens(batch=5)
    sites = sites_of(model, name)
    many, parts = capture(model, read, sites), capture(model, read, sites, batch_size=2)
    one = capture(model, read[3:4], sites)
    for site in sites:
        assert near(one[site], many[site][3:4], 1e-4), site
        assert near(parts[site], many[site], 1e-4), site


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_changed_state_is_what_the_model_goes_on_with(opened, name: str) -> None:
    model, read = opened(name), tokens()
    before = model.logits(read)
    for site in sites_of(model, name):
        with splice(model, {site: lambda state: state.clone()}):
            assert torch.equal(model.logits(read), before), site
        direction = torch.randn(model.width_at(site), generator=torch.Generator().manual_seed(0))
        with splice(model, {site: steer(direction, 3.0)}):
            assert not near(model.logits(read), before, 1e-4), site


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_changed_middle_goes_on_in_the_stream(opened, name: str) -> None:
    model, read = opened(name), tokens()
    middle, attention = Site("middle", 1), Site("attention", 1)
    if middle not in sites_of(model, name):
        return
    step = torch.linspace(-2, 2, model.width)
    with splice(model, {middle: lambda state: state + step}):
        logits = model.logits(read)
        states = capture(model, read, [middle, Site("mlp", 1), residual(1)])
    assert near(states[residual(1)], states[middle] + states[Site("mlp", 1)])
    with splice(model, {attention: lambda state: state + step}):
        assert near(logits, model.logits(read), 1e-4)
    with splice(model, {residual(1): torch.zeros_like, middle: torch.zeros_like}):
        assert not capture(model, read, residual(1))[1].any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sites_hold_in_bfloat16(opened, name: str, tmp_path: Path) -> None:
    folder = pretrained.save(name, tmp_path / name)
    short = open_model(folder, device="cpu", dtype="bfloat16")
    sites, read = sites_of(short, name), tokens()
    together, exact = capture(short, read, sites), capture(opened(name), read, sites)
    for site in sites:
        assert together[site].dtype == torch.bfloat16
        assert torch.equal(together[site], capture(short, read, [site])[site]), site
        if not name.endswith(("moe", "oe", "oss", "mixtral", "v3")):  # other experts may be chosen
            assert near(together[site].float(), exact[site], 0.2), site


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", CAUSAL)
def test_logits_are_what_the_decoder_weight_makes_of_the_final_norm(
    name: str, tied: bool, tmp_path: Path
) -> None:
    folder = pretrained.save(name, tmp_path / name, tie_word_embeddings=tied)
    model, read, seen = open_model(folder, device="cpu"), tokens(), {}
    head = model.module.get_output_embeddings()
    embedding = model.module.get_input_embeddings().weight
    assert (head.weight.data_ptr() == embedding.data_ptr()) is tied
    handle = head.register_forward_pre_hook(lambda _, given: seen.update(x=given[0].clone()))
    logits = model.logits(read)
    handle.remove()
    assert model.decoder_weight is not None
    expected = seen["x"] @ model.decoder_weight.T
    if model.decoder_bias is not None:
        expected = expected + model.decoder_bias
    if (cap := model.decoder_cap) is not None:
        expected = cap * torch.tanh(expected / cap)
    assert near(logits, expected)
    at = torch.tensor([3, 5])
    assert near(model.logits(read, at=at), logits[torch.arange(2), at])


def test_the_table_names_thirty_architectures_and_more() -> None:
    assert len({kind for kind, _ in ARCHITECTURES.values()}) >= 30
