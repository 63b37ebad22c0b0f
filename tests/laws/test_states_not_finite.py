"""A state that is not finite never gives a finite figure, and leaves the other rows as they are.

Over every architecture of dictionaries, own and foreign, every coder and every kind of probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutaway.activations.splice import splice
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.evaluations.baselines import PCA, RandomDictionary
from cutaway.evaluations.evaluate import Evaluation, evaluate, table
from cutaway.features.effects import activations, changed, compare_logits, firing
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes.fitting.methods import LayerFits
from cutaway.probes.states.probe import Probe
from cutaway.probes.view.reading import _folded
from cutaway.sparse.codes import DenseCodes
from dictionaries.files.test_native_units import FOREIGN, loaded
from dictionaries.small_dictionaries import WIDTH, hints, losses, small, states
from evaluations.test_evaluate import SITE, dictionary_for
from probes.states.test_probe import about

ROWS = 20
BROKEN = (0, 7, 8, 19)  # the first, two neighbours, the last
SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "one NaN": lambda row: row.index_fill(0, torch.tensor([3]), math.nan),
    "all NaN": lambda row: torch.full_like(row, math.nan),
    "one infinity": lambda row: row.index_fill(0, torch.tensor([0]), math.inf),
    "one negative infinity": lambda row: row.index_fill(0, torch.tensor([5]), -math.inf),
    "both infinities": lambda row: row.index_fill(0, torch.tensor([1]), math.inf).index_fill(
        0, torch.tensor([2]), -math.inf
    ),
    "too large to add up": lambda row: torch.full_like(row, 3e38),
}
FINITE = "too large to add up"  # finite itself, but no sum of it is


def broken(x: Tensor, kind: str) -> Tensor:
    x = x.clone()
    for row in BROKEN:
        x[row] = SPOILT[kind](x[row])
    return x


def own_and_foreign(name: str, folder: Path) -> Dictionary:
    return small(name) if name in ARCHITECTURES else loaded(name, folder / "a")


def holds(function: Callable[[Tensor], Tensor], x: Tensor, kind: str, name: str) -> None:
    clean, found = function(x), function(broken(x, kind))
    there = torch.ones(len(x), dtype=torch.bool)
    there[list(BROKEN)] = False
    assert not found[~there].isfinite().any(), name
    assert torch.equal(found[there], clean[there]), name
    assert clean.isfinite().all(), name


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("name", [*ARCHITECTURES, *FOREIGN])
def test_dictionaries(name: str, kind: str, tmp_path: Path) -> None:
    made = own_and_foreign(name, tmp_path)
    chosen = torch.tensor([0, 5, 11])
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "encode": made.encode,
        "encode_sparse": lambda x: made.encode_sparse(x).dense(),
        "contributions": lambda x: made.contributions(x).dense(),
        "forward": made.forward,
        "decode": lambda x: made.decode(made.encode(x)),
        "decode_sparse": lambda x: made.decode_sparse(made.encode_sparse(x)),
        "activations": lambda x: activations(made, x, chosen),
        "effect": lambda x: changed(made, {5: 2.0}, positions=None)(x[None])[0],
    }
    x = states(ROWS)
    with torch.no_grad():
        for function, apply in functions.items():
            if (function, kind) != ("effect", FINITE):  # which changes what is finite, and so stays
                holds(apply, x, kind, function)
        half = made.forward(broken(x, kind).to(torch.bfloat16))
    assert not half[list(BROKEN)].isfinite().any()
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dense", [True, False])
def test_a_training_step_on_one_has_no_finite_loss(name: str, dense: bool) -> None:
    made = small(name)
    for kind in SPOILT:
        parts = losses(made, broken(states(ROWS), kind), hints(dense=dense))
        assert not torch.stack(list(parts.values())).sum().isfinite(), kind


def test_codes_dense_and_sparse_are_spoilt_and_counted_alike() -> None:
    made, tokens = small("topk"), torch.tensor([0, 4])
    sparse = made.encode_sparse(states(ROWS))
    dense = DenseCodes(sparse.dense())
    for one in (sparse, dense):
        spoilt = one.spoilt(tokens).dense()
        assert spoilt[tokens].isnan().all()
        assert torch.equal(spoilt[1:4], dense.values[1:4])
    keep = torch.arange(ROWS) % 3 != 0
    fired = (dense.values[keep] != 0).sum(0)
    assert torch.equal(sparse.fired(keep[:, None]).long(), fired)
    assert torch.equal(dense.fired(keep[:, None]), fired)


@pytest.mark.parametrize("kind", [kind for kind in SPOILT if kind != FINITE])
def test_baselines_and_scores(kind: str) -> None:
    x, made = states(200), small("topk")
    for coder in (PCA(x, 4), RandomDictionary(x, 40, 4, scaled=True)):
        holds(lambda rows, coder=coder: coder(rows)[0], x, kind, type(coder).__name__)
    spoilt = broken(x, kind)
    there = spoilt.isfinite().all(1)
    all_rows, clean = (Reconstruction(WIDTH, made.shape.d_hidden) for _ in range(2))
    all_rows.add(spoilt, made(spoilt), made.encode_sparse(spoilt))
    clean.add(x[there], made(x[there]), made.encode_sparse(x[there]))
    assert all_rows.figures() == pytest.approx(clean.figures(), rel=1e-6)
    assert (all_rows.non_finite, all_rows.tokens) == (len(BROKEN), len(x) - len(BROKEN))


@pytest.mark.parametrize("kind", [kind for kind in SPOILT if kind != FINITE])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("inner", [None, 5])
def test_probes(kind: str, outputs: int, inner: int | None) -> None:
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    classes = ("a", "b") if outputs == 1 else ("a", "b", "c")
    shares = tuple(1 / len(classes) for _ in classes)
    probe = Probe(
        about(classes=classes, prior=shares, trained_prior=shares),
        weight=draw(outputs, inner or WIDTH),
        bias=draw(outputs),
        mean=draw(WIDTH),
        scale=torch.tensor(0.5),
        hidden_weight=None if inner is None else draw(inner, WIDTH),
        hidden_bias=None if inner is None else draw(inner),
    )
    x = states(ROWS)
    for name in ("logits", "even", "natural", "__call__"):
        holds(getattr(probe, name), x, kind, name)
    holds(_folded(probe), x, kind, "the page's")
    prior = torch.tensor([shares])
    one = torch.ones(1)
    fits = LayerFits(
        *(probe.mean, probe.scale, draw(1, outputs, WIDTH), draw(1, outputs), prior, one, one, one)
    )
    holds(lambda rows: fits.even(rows)[0], x, kind, "fits")


# -- a model some of whose states are not finite -------------------------------------------------


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def tokens(model: Model) -> Tensor:
    return model.tokens("The old king sees the river at night. " * 4)[:, :12]


def spoiling(places: list[int], value: float = math.nan) -> Callable[[Tensor], Tensor]:
    def change(state: Tensor) -> Tensor:
        state = state.clone()
        state[0, places, 2] = value
        return state

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_evaluation_counts_them_and_says_so(
    value: float, model: Model, tokens: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dictionary_for(model, 64, 8)
    text = [(torch.cat([tokens, tokens.flip(1)]), None, None)]
    training = [torch.randn(64, model.width)]
    clean = evaluate(made, model, text, training=training)
    assert clean.non_finite == 0
    with splice(model, {SITE: spoiling([6, 9], value)}):
        found = evaluate(made, model, text, training=training, states=[spoilt_rows(model.width)])
    told = capsys.readouterr().err
    assert "2 of 22 held-out states at residual.0 are not finite: left out of every figure" in told
    assert "tokens have logits that are not finite" in told
    assert (found.non_finite, found.tokens) == (2, 20)
    assert found.l0 <= 8
    for name in ("explained_variance", "normalised_mse", "cosine", "ce_clean", "ce_spliced", "kl"):
        assert math.isfinite(getattr(found, name)), name
    for one in found.baselines.values():
        assert all(map(math.isfinite, one.values()))
    assert Evaluation.from_json(found.to_json()).non_finite == 2
    assert table([found])


def spoilt_rows(width: int) -> Tensor:
    x = torch.randn(30, width)
    x[4, 1] = math.nan
    return x


def test_an_evaluation_with_none_that_is_finite_fails(model: Model, tokens: Tensor) -> None:
    made = dictionary_for(model, 64, 8)
    with (
        splice(model, {SITE: spoiling(list(range(12)))}),
        pytest.raises(UserError, match=r"11 of 11 held-out states at .* are not finite"),
    ):
        evaluate(made, model, [(tokens, None, None)])


def test_features_of_a_prompt_leave_them_out_and_odds_are_refused(
    model: Model, tokens: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dictionary_for(model, 64, 8)
    with splice(model, {SITE: spoiling([5])}):
        rows = firing(model, made, tokens)
        assert rows
        assert all(math.isfinite(row["activation"]) and row["position"] != 5 for row in rows)
        assert (
            "1 of 11 states of the prompt at residual.0 are not finite" in capsys.readouterr().err
        )
        with pytest.raises(UserError, match="its logits at position 5 are not finite"):
            compare_logits(model, tokens, splice(model, {}), position=5)
    none = splice(model, {SITE: spoiling(list(range(12)))})
    with none, pytest.raises(UserError, match=r"11 of 11 states of the prompt"):
        firing(model, made, tokens)
    with pytest.raises(UserError, match="with the change are not finite"):
        compare_logits(model, tokens, splice(model, {SITE: spoiling([5])}), position=5)
