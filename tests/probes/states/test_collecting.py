"""The states examples read are those of their contexts read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.nets.sites import parse_site
from cutaway.probes.data.examples import Examples, from_contexts
from cutaway.probes.states import collecting as module
from cutaway.probes.states.collecting import states_of

LAYOUTS = ["run", "llama", "bert"]


@pytest.fixture(scope="module")
def models(gpt2_run: Path, tiny_folder: Callable[[str], Path]) -> Callable[[str], Model]:
    opened: dict[str, Model] = {}

    def of(layout: str) -> Model:
        if layout not in opened:
            place = gpt2_run if layout == "run" else tiny_folder(layout)
            opened[layout] = open_model(place, device="cpu")
        return opened[layout]

    return of


def drawn(
    count: int = 40, *, longest: int = 14, per_context: int | None = None, spans: bool = False
) -> Examples:
    """Contexts of 1 to `longest` tokens in no order, each with none to three examples."""
    draw = torch.Generator().manual_seed(5)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draw))

    contexts = [
        torch.randint(2, 256, (number(1, longest + 1),), generator=draw).tolist()
        for _ in range(count)
    ]
    rows = []
    for index, one in enumerate(contexts):
        for _ in range(number(0, 4) if per_context is None else per_context):
            last = number(0, len(one))
            first = number(0, last + 1) if spans else last
            rows.append((index, first, last, number(0, 2), index))
    rows = [rows[one] for one in torch.randperm(len(rows), generator=draw).tolist()]
    return from_contexts(contexts, *(list(column) for column in zip(*rows, strict=True)))


def alone(model: Model, examples: Examples, sites: list) -> Tensor:
    """Each example's state from a pass over its context by itself, (sites, n, d)."""
    found = []
    for row in range(len(examples)):
        context = int(examples.context[row])
        tokens = examples.tokens[int(examples.begin[context]) : int(examples.end[context])]
        states = capture(model, tokens[None].long(), sites)
        span = slice(int(examples.first[row]), int(examples.last[row]) + 1)
        found.append(torch.stack([states[site][0, span].mean(0) for site in sites]))
    return torch.stack(found, 1)


def sites_of(model: Model) -> list:
    return [parse_site(one) for one in ("embed", "mlp.0", model.n_layers - 1)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spans", [False, True])
def test_states_are_those_of_each_context_read_by_itself(models, layout: str, spans: bool) -> None:
    model, examples = models(layout), drawn(spans=spans)
    assert bool((examples.first < examples.last).any()) == spans
    found = states_of(model, examples, sites_of(model), batch_tokens=60)
    torch.testing.assert_close(
        found.values, alone(model, examples, sites_of(model)), rtol=1e-4, atol=1e-5
    )
    assert found.finite.all()
    assert found.own is None
    assert found.values.abs().sum(-1).min() > 0


def test_sites_keep_the_order_asked_for(models) -> None:
    model, examples = models("llama"), drawn(6)
    sites = sites_of(model)
    found, back = states_of(model, examples, sites), states_of(model, examples, sites[::-1])
    torch.testing.assert_close(found.values, back.values.flip(0))
    assert back.sites == sites[::-1]


@pytest.mark.parametrize("layout", ["run", "llama"])
def test_the_model_s_own_log_odds_are_those_of_its_logits(models, layout: str) -> None:
    model, examples = models(layout), drawn(per_context=1)
    found = states_of(model, examples, sites_of(model), target_id=33, batch_tokens=60)
    for row in range(len(examples)):
        context = int(examples.context[row])
        tokens = examples.tokens[int(examples.begin[context]) : int(examples.end[context])]
        logits = model.logits(tokens[None].long())[0, int(examples.last[row])].double()
        p = logits.softmax(-1)[33]
        assert float(found.own[row]) == pytest.approx(float(p.log() - (1 - p).log()), abs=1e-3)
    without = states_of(model, examples, sites_of(model), batch_tokens=60)
    torch.testing.assert_close(found.values, without.values, rtol=1e-4, atol=1e-5)


def test_how_much_is_read_at_once_changes_nothing(models) -> None:
    model, examples = models("bert"), drawn()
    found = [
        states_of(model, examples, sites_of(model), batch_tokens=tokens).values
        for tokens in (1, 33, 100_000)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_no_batch_has_many_more_tokens_than_asked_for(models, monkeypatch) -> None:
    read: list[int] = []

    def noted(model: Model, tokens: Tensor, *rest: object) -> dict:
        read.append(tokens.numel())
        return capture(model, tokens, *rest)

    monkeypatch.setattr(module, "capture", noted)
    states_of(models("run"), drawn(80), sites_of(models("run")), batch_tokens=60)
    assert max(read) <= 60
    assert len(read) > 5


def test_states_in_a_file_are_those_in_memory(models, monkeypatch, tmp_path, capsys) -> None:
    model, examples = models("run"), drawn()
    expected = states_of(model, examples, sites_of(model)).values
    monkeypatch.setattr(module, "_SHARE", 0)
    folder = tmp_path / "scratch"
    folder.mkdir()
    found = states_of(model, examples, sites_of(model), folder=folder).values
    assert torch.equal(found, expected)
    assert "kept in a file in" in capsys.readouterr().err
    assert not list(folder.iterdir())  # it has no name any more, so a kill leaves nothing


def test_a_disk_without_room_is_told_before_anything_is_read(models, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "_SHARE", 0)
    monkeypatch.setattr("cutaway.base.files.free_bytes", lambda path: 10)
    with pytest.raises(UserError, match=str(tmp_path)):
        states_of(models("run"), drawn(), sites_of(models("run")), folder=tmp_path)


def failing(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let passes over more than `most` contexts run out of memory; the sizes of all others."""
    read: list[int] = []

    def short_of_memory(model: Model, tokens: Tensor, *rest: object) -> dict:
        if len(tokens) > most:
            raise torch.OutOfMemoryError("out of memory")
        read.append(len(tokens))
        return capture(model, tokens, *rest)

    monkeypatch.setattr(module, "capture", short_of_memory)
    return read


def test_a_batch_that_does_not_fit_is_halved_once_and_that_is_said(
    models, monkeypatch, capsys
) -> None:
    model, examples = models("run"), drawn(per_context=1)
    expected = states_of(model, examples, sites_of(model)).values
    read = failing(monkeypatch, 5)
    found = states_of(model, examples, sites_of(model), batch_tokens=140)
    assert max(read) == 5
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    assert capsys.readouterr().err.count("halved to 5") == 1


@pytest.mark.parametrize(("most", "tokens"), [(4, 140), (0, 14)])
def test_what_does_not_fit_halved_either_says_what_to_give(models, monkeypatch, most, tokens):
    failing(monkeypatch, most)
    model = models("run")
    with pytest.raises(
        UserError, match=r"out of memory at \d+ contexts of 14 tokens: give shorter"
    ):
        states_of(model, drawn(per_context=1), sites_of(model), batch_tokens=tokens)


def test_other_failures_pass_through(models, monkeypatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(module, "capture", broken)
    with pytest.raises(RuntimeError, match="something else"):
        states_of(models("run"), drawn(), sites_of(models("run")))


def test_contexts_longer_than_the_model_reads_are_refused(models) -> None:
    model = models("run")
    examples = from_contexts([[5] * 17], [0], [16], [16], [0], [0])
    with pytest.raises(UserError, match=r"context_length = 17: .* reads at most 16"):
        states_of(model, examples, sites_of(model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_examples_whose_state_is_not_finite_at_some_site_are_marked(
    models, monkeypatch, value: float
) -> None:
    model, examples = models("run"), drawn(per_context=1)
    sites = sites_of(model)

    def spoilt(model: Model, tokens: Tensor, *rest: object) -> dict:
        states = capture(model, tokens, *rest)
        states[sites[1]][tokens == int(examples.token()[0])] = value
        return states

    monkeypatch.setattr(module, "capture", spoilt)
    found = states_of(model, examples, sites)
    assert found.finite.tolist() == (examples.token() != examples.token()[0]).tolist()
    assert not found.finite[0]


def test_bfloat16_states_stay_in_bfloat16(gpt2_run: Path, models) -> None:
    model, examples = open_model(gpt2_run, device="cpu", dtype="bfloat16"), drawn(spans=True)
    found = states_of(model, examples, sites_of(model)).values
    assert found.dtype == torch.bfloat16
    exact = states_of(models("run"), examples, sites_of(model)).values
    assert float((found.float() - exact).norm() / exact.norm()) < 0.02
