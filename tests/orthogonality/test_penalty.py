"""The orthogonality penalty: its value and gradient, τ, warm-up, what it remembers and records."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.model.dictionary import unit_rows
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.orthogonality import stability
from cutaway.orthogonality.instrument import SIZE, Pairs
from cutaway.orthogonality.pairs import top_pairs
from cutaway.orthogonality.penalty import Orthogonality
from cutaway.sparse.codes import DenseCodes
from dictionaries.small_dictionaries import FEATURES, hints, small, states
from orthogonality.cases import made_up, sparse

WIDTH = 5


def rows(features: int = 24, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Unit rows in few dimensions, so that many cosines are large."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(features, WIDTH, dtype=dtype).normal_(generator=generator)
    return F.normalize(drawn, dim=1)


def penalty(features: int = 24, **changes: object) -> Orthogonality:
    given = {"orthogonality": "top_k", "topk_fraction": 0.1, "orthogonality_weight": 0.7}
    return Orthogonality(features, OrthogonalityFields(**given | changes), seed=3)


def plainly(weight: Tensor, f: Tensor, count: int, tau: float) -> Tensor:
    """The same by the definition, dense, for autograd: cosines of rows of any length."""
    score = (f.T @ f).triu(1)
    chosen = score.flatten().topk(count).indices
    chosen = chosen[score.flatten()[chosen] > 0]
    unit = F.normalize(weight, dim=1)
    cosines = (unit @ unit.T).flatten()[chosen]
    return (cosines.abs() - tau).clamp(min=0).square().mean()


@pytest.mark.parametrize("codes", [DenseCodes, sparse])
@pytest.mark.parametrize("tau", [0.0, 0.125, 0.5])  # exact in float32
def test_value_and_gradient_are_those_of_the_plain_dense_formula(codes, tau) -> None:
    f = made_up(1) + 1e-3 * made_up(2) * (made_up(1) > 0)
    one, other = (rows().requires_grad_() for _ in range(2))
    found, figures = penalty(tau=tau).loss(codes(f), one, 0)
    expected = 0.7 * plainly(other, f, int(figures["pairs_selected"]), tau)
    assert float(expected.detach()) > 0
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    (mine,) = torch.autograd.grad(found, one)
    (right,) = torch.autograd.grad(expected, other)
    assert float(right.abs().max()) > 1e-3
    assert torch.allclose(mine, right, rtol=1e-10, atol=1e-14)
    again, _ = penalty(tau=tau).loss(codes(f), unit_rows(one), 0)  # projecting twice is once
    assert torch.allclose(torch.autograd.grad(again, one)[0], right, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", ["top_k", "random", "all_pairs"])
def test_gradients_are_finite_differences(kind) -> None:
    f = sparse(made_up(4))

    def value(weight: Tensor) -> Tensor:
        own = penalty(orthogonality=kind, orthogonality_chunks=3, tau=0.05)
        return own.loss(f, F.normalize(weight, dim=1), 2)[0]

    assert torch.autograd.gradcheck(value, (rows(seed=1).requires_grad_(),), eps=1e-7, atol=1e-5)


def test_float32_agrees_with_float64() -> None:
    f = sparse(made_up(5))
    wide, narrow = rows().requires_grad_(), rows().float().requires_grad_()
    for weight in (wide, narrow):
        penalty().loss(f, weight, 0)[0].backward()
    assert torch.allclose(narrow.grad.double(), wide.grad, atol=1e-6)


@pytest.mark.parametrize("chunks", [1, 3, 5, 12])
def test_all_pairs_is_the_mean_of_each_chunks_squared_largest_cosines(chunks) -> None:
    own = penalty(orthogonality="all_pairs", orthogonality_chunks=chunks)
    one, other = (rows().requires_grad_() for _ in range(2))
    f = sparse(torch.zeros(3, 24))  # what fires together has no say
    found, figures = own.loss(f, one, 9)
    pattern, _ = own._nearest(one, 9)
    chunk_of = _chunks(24, chunks, seed=3, step=9)
    expected, total = [], 0.0
    for members in chunk_of:
        unit = F.normalize(other[members], dim=1)
        cosines = unit @ unit.T - 9 * torch.eye(len(members))
        best = cosines.max(1).values
        expected += best.detach().abs().tolist()
        total = total + best.square().mean() / chunks
    assert float(found.detach()) == pytest.approx(0.7 * float(total.detach()), rel=1e-10)
    (mine,), (right,) = torch.autograd.grad(found, one), torch.autograd.grad(0.7 * total, other)
    assert torch.allclose(mine, right, rtol=1e-9, atol=1e-13)
    assert float(figures["pair_cosine_mean"]) == pytest.approx(sum(expected) / 24)
    assert "pair_overlap" not in figures
    assert "tau" not in figures
    assert len(pattern) == 24


def _chunks(features: int, chunks: int, seed: int, step: int) -> list[Tensor]:
    from cutaway.base.seeds import torch_generator

    generator = torch_generator(seed, step, "orthogonality.chunks")
    return list(torch.randperm(features, generator=generator).tensor_split(chunks))


def test_no_gradient_reaches_the_features() -> None:
    f = made_up(1).requires_grad_()
    weight = rows().requires_grad_()
    loss, figures = penalty().loss(DenseCodes(f), weight, 0)
    loss.backward()
    assert f.grad is None
    assert weight.grad.abs().sum() > 0
    assert not any(value.requires_grad for value in figures.values())


@pytest.mark.parametrize("kind", ["top_k", "random"])
def test_without_a_pair_the_penalty_and_its_gradient_are_zero(kind) -> None:
    own = penalty(orthogonality=kind, tau_adaptive=True)
    for f in (
        torch.eye(24),
        torch.zeros(4, 24),
        torch.eye(24)[:, :1].expand(24, 24) * torch.eye(24),
    ):
        weight = rows().requires_grad_()
        loss, figures = own.loss(sparse(f), weight, 0)
        loss.backward()
        own.after_step()
        assert float(loss.detach()) == 0
        assert torch.equal(weight.grad, torch.zeros_like(weight))
        assert float(figures["pairs_selected"]) == 0
        assert math.isnan(figures["pair_cosine_mean"])
    assert float(own.tau) == pytest.approx(0.1)


def test_the_weight_rises_over_the_warm_up_and_stays() -> None:
    own, f, weight = penalty(orthogonality_warmup=4), sparse(made_up(1)), rows()
    taken = [float(own.loss(f, weight, step)[0]) for step in range(7)]
    assert taken == pytest.approx([taken[-1] * share for share in (0.25, 0.5, 0.75, 1, 1, 1, 1)])
    assert taken[-1] == pytest.approx(float(penalty().loss(f, weight, 0)[0]))


def test_an_adaptive_tau_follows_its_formula_on_a_recorded_sequence() -> None:
    own = penalty(tau_adaptive=True, tau=0.2, tau_memory=0.6, tau_min=0.15, tau_max=0.55)
    recorded, ratios = [], []
    for step in range(8):
        weight = rows(seed=step)
        if step == 5:
            weight[:] = weight[0]  # every cosine 1: over the bound
        _, figures = own.loss(sparse(made_up(step)), weight, step)
        chosen = top_pairs(sparse(made_up(step)), own.wanted)
        cosines = (weight[chosen.first] * weight[chosen.second]).sum(1).abs()
        assert float(figures["pair_cosine_mean"]) == pytest.approx(float(cosines.mean()))
        assert float(figures["pair_cosine_std"]) == pytest.approx(
            float(cosines.var(correction=0).sqrt()), abs=1e-7
        )
        recorded.append({name: float(value) for name, value in figures.items()})
        own.after_step()
    tau = 0.2
    for row in recorded:
        assert row["tau"] == pytest.approx(tau, rel=1e-5)
        seen = row["pair_cosine_mean"] + row["pair_cosine_std"]
        free = 0.6 * tau + 0.4 * seen
        tau = min(0.55, max(0.15, free))
        ratios.append(free > 0.55)
    assert any(ratios)
    assert not all(ratios)
    assert float(own.tau) == pytest.approx(tau, rel=1e-5)


def test_a_fixed_tau_stays() -> None:
    own = penalty(tau=0.3)
    for step in range(3):
        own.loss(sparse(made_up(step)), rows(), step)
        own.after_step()
    assert float(own.tau) == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["top_k", "random", "all_pairs"])
def test_what_it_remembers_is_in_its_state(kind) -> None:
    def go(own: Orthogonality, steps: range) -> list[dict[str, float]]:
        seen = []
        for step in steps:
            loss, figures = own.loss(sparse(made_up(step % 3)), rows(seed=step), step)
            own.after_step()
            seen.append({"loss": float(loss)} | {k: float(v) for k, v in figures.items()})
        return seen

    whole = go(penalty(orthogonality=kind, tau_adaptive=True), range(12))
    own = penalty(orthogonality=kind, tau_adaptive=True)
    first = go(own, range(5))
    later = penalty(orthogonality=kind, tau_adaptive=True)
    later.load_state_dict(own.state_dict())
    again = first + go(later, range(5, 12))
    for one, other in zip(whole, again, strict=True):
        assert one == pytest.approx(other, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_it_is_a_part_of_any_architectures_loss(architecture) -> None:
    dictionary, found = small(architecture), []
    for dense in (True, False):
        step = dictionary.step(states(), hints(dense=dense))
        own = penalty(FEATURES, topk_fraction=0.05, tau=0.0)
        loss, figures = own.loss(step.codes, dictionary.decoder_weight, 0)
        (gradient,) = torch.autograd.grad(loss, dictionary.decoder_weight)
        assert float(figures["pairs_selected"]) == 39
        along = torch.linalg.vecdot(gradient, dictionary.decoder_weight.detach())
        assert float(along.abs().max()) < 1e-6  # tangent: lengths stay 1
        found.append((float(loss.detach()), gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_under_autocast_the_penalty_stays_in_float32() -> None:
    f, weight = sparse(made_up(1)), rows().float().requires_grad_()
    plain, _ = penalty().loss(f, weight, 0)
    (expected,) = torch.autograd.grad(plain, weight)
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("top_k", "all_pairs"):
            narrow, _ = penalty(orthogonality=kind).loss(f, weight, 0)
            assert narrow.dtype == torch.float32
        narrow, _ = penalty().loss(f, weight, 0)
    (found,) = torch.autograd.grad(narrow, weight)
    assert float(narrow.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    assert torch.allclose(found, expected, atol=1e-7)


def test_descending_turns_the_rows_of_what_fires_together_apart_and_no_others() -> None:
    f = torch.zeros(10, 24)
    f[:, [2, 5]] = 1.0
    f[0, 7] = f[1, 8] = 1.0
    weight = rows(dtype=torch.float32)
    weight[5] = F.normalize(weight[2] + 0.3 * weight[5], dim=0)
    before = weight.clone()
    own = penalty(topk_fraction=1 / 276, tau=0.2, orthogonality_weight=1.0)
    for step in range(200):
        weight.requires_grad_()
        loss, _ = own.loss(sparse(f), weight, step)
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = F.normalize(weight.detach() - 0.1 * gradient, dim=1)
    assert float(before[2] @ before[5]) > 0.8
    assert 0.19 < float(weight[2] @ weight[5]) < 0.25
    others = [i for i in range(24) if i not in (2, 5)]
    assert torch.allclose(weight[others], before[others], atol=1e-5)


# -- stability ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 4, 9], [1, 4, 9], 1.0), ([1, 4, 9], [4, 9, 12], 0.5), ([1, 2], [3], 0.0), ([5], [], 0.0)],
)
def test_overlap_is_intersection_over_union(one, other, expected) -> None:
    a, b = torch.tensor(one).long(), torch.tensor(other).long()
    assert float(stability.jaccard(a, b)) == pytest.approx(expected)
    assert float(stability.jaccard(b, a)) == pytest.approx(expected)


def test_the_overlap_of_nothing_with_nothing_is_no_number() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert math.isnan(stability.jaccard(empty, empty))


def test_sketches_tell_the_overlap_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    pool = torch.randperm(10**7, generator=generator)[:15_000]
    a, b = pool[:10_000].sort().values, pool[5_000:].sort().values
    small_a, small_b = (ids[stability.sketch(ids, 512)] for ids in (a, b))
    assert len(small_a) == 512
    exact = float(stability.jaccard(a, b))
    assert exact == pytest.approx(1 / 3)
    assert stability.sketch_overlap(small_a, small_b, 512) == pytest.approx(exact, abs=0.06)
    assert stability.sketch_overlap(a[:40], a[20:60], 512) == pytest.approx(1 / 3)


def test_a_sketch_is_a_fair_sample_of_pairs_in_a_row() -> None:
    kept = torch.arange(10_000)[stability.sketch(torch.arange(10_000), 512)].double()
    assert float(kept.mean()) == pytest.approx(5_000, abs=4 * 10_000 / (12 * 512) ** 0.5)
    assert torch.equal(kept, kept.sort().values)


def test_a_steps_overlap_is_with_the_step_before() -> None:
    own, chosen = penalty(), []
    for step, batch in enumerate((1, 1, 2, 3)):
        _, figures = own.loss(sparse(made_up(batch)), rows(), step)
        chosen.append(own.selection.ids)
        if step:
            expected = stability.jaccard(chosen[step], chosen[step - 1])
            assert float(figures["pair_overlap"]) == float(expected)
        assert math.isnan(figures["pair_overlap"]) == (step == 0)
        own.after_step()
    assert torch.equal(chosen[0], chosen[1])
    assert 0 < float(expected) < 1


def test_a_half_life_is_counted_from_the_first_look() -> None:
    steps = list(range(1, 200))
    decay = [0.4 * 2 ** (-(s - 1) / 30) for s in steps]
    assert stability.half_life(steps, decay) == pytest.approx(31, abs=1e-6)
    assert stability.half_life([10, 20], [0.8, 0.2]) == pytest.approx(10 + 10 * 0.4 / 0.6)
    assert stability.half_life([1, 2, 3], [0.5, 0.5, 0.4]) == math.inf
    assert math.isnan(stability.half_life([1], [0.0]))


def test_the_half_life_of_selections_that_drift_is_found_while_training() -> None:
    own = stability.Stability(8)
    found = []
    for step in range(40):  # one of eight pairs is replaced every step
        ids = torch.arange(step, step + 8)
        figures = own.figures(ids)
        found.append({name: float(value) for name, value in figures.items()})
        own.advance(ids, figures["pair_reference_overlap"])
    assert math.isnan(found[0]["pair_overlap"])
    assert found[5]["pair_overlap"] == pytest.approx(7 / 9)
    # 7/9 after one step; (8 − n)/(8 + n) is at most half of that from n = 4 on
    assert [math.isnan(row["pair_half_life"]) for row in found[:6]] == [True] * 5 + [False]
    assert found[5]["pair_half_life"] == found[39]["pair_half_life"] == 4
    assert found[4]["pair_reference_overlap"] == pytest.approx(4 / 12)
    assert found[5]["pair_reference_overlap"] == pytest.approx(7 / 9)  # of the next reference


def test_a_selection_that_is_never_the_same_takes_a_new_reference_each_step() -> None:
    own = stability.Stability(4)
    for step in range(6):
        ids = torch.arange(4) + 10 * step
        figures = own.figures(ids)
        own.advance(ids, figures["pair_reference_overlap"])
        assert math.isnan(figures["pair_half_life"])
    assert torch.equal(own.reference, ids)


# -- the table ------------------------------------------------------------------------------------


def test_the_table_holds_the_selected_pairs_with_score_and_cosine() -> None:
    own, weight, f = penalty(), rows(), made_up(1)
    own.loss(sparse(f), weight, 7)
    moment = SimpleNamespace(step=7, task=SimpleNamespace(orthogonality=own))
    table = Pairs(5).read(moment)
    assert table.column_names == ["step", "i", "j", "score", "cosine"]
    assert table.num_rows == own.wanted
    for row in table.to_pylist():
        assert row["step"] == 7
        assert row["i"] < row["j"]
        i, j = row["i"], row["j"]
        assert row["score"] == pytest.approx(float((f[:, i] * f[:, j]).mean()))
        assert row["cosine"] == pytest.approx(float(weight[i] @ weight[j]))
    assert min(table["cosine"].to_pylist()) < 0


def test_the_table_stays_small_and_its_cosines_are_a_fair_sample() -> None:
    f = torch.rand(50, 120, generator=torch.Generator().manual_seed(0))
    own = penalty(120, topk_fraction=0.6)
    own.loss(DenseCodes(f), rows(120), 0)
    table = Pairs(1).read(SimpleNamespace(step=0, task=SimpleNamespace(orthogonality=own)))
    assert table.num_rows == SIZE < own.wanted
    cosines = torch.tensor(table["cosine"].to_pylist())
    spread = float(own.cosines.std()) / SIZE**0.5
    assert float(cosines.mean()) == pytest.approx(float(own.cosines.mean()), abs=4 * spread)


def test_a_stack_gets_a_table_for_each_member() -> None:
    with_, without = penalty(), penalty(orthogonality="all_pairs")
    for own in (with_, without):
        own.loss(sparse(made_up(1)), rows(), 3)
    tasks = [SimpleNamespace(orthogonality=one) for one in (with_, without, None)]
    tables = Pairs(1).read(SimpleNamespace(step=3, task=SimpleNamespace(tasks=tasks)))
    assert [table.num_rows for table in tables] == [with_.wanted, 0, 0]
    assert len({tuple(table.schema.types) for table in tables}) == 1
