"""Which pairs the orthogonality penalty selects, against a dense product of everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.orthogonality import products
from cutaway.orthogonality.pairs import Selection, random_pairs, top_pairs
from cutaway.orthogonality.penalty import Orthogonality
from cutaway.sparse.codes import DenseCodes, SparseCodes
from cutaway.sparse.pattern import Pattern
from orthogonality.cases import made_up, sparse


def by_brute_force(f: Tensor, count: int) -> dict[tuple[int, int], float]:
    """Every pair's score, sorted: largest first, equal ones by (i, j); the first `count` above 0."""
    score = (f.double()[:, :, None] * f.double()[:, None, :]).mean(0)
    features = f.shape[1]
    pairs = [(i, j) for i in range(features) for j in range(i + 1, features) if score[i, j] > 0]
    pairs.sort(key=lambda pair: (-float(score[pair]), pair))
    return {pair: float(score[pair]) for pair in pairs[:count]}


def as_dict(chosen: Selection) -> dict[tuple[int, int], float]:
    pairs = zip(chosen.first.tolist(), chosen.second.tolist(), strict=True)
    return dict(zip(pairs, chosen.scores.tolist(), strict=True))


@pytest.mark.parametrize("dense_from", [0.0, 0.125, 1.0])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 40),
    features=st.integers(2, 30),
    share=st.floats(0.02, 1.0),
    count=st.integers(1, 200),
)
def test_the_top_pairs_are_those_of_a_dense_product(
    dense_from, seed, tokens, features, share, count
) -> None:
    f = made_up(seed, tokens, features, share)
    expected = by_brute_force(f, count)
    for codes in (DenseCodes(f), sparse(f), sparse(f, near=True)):
        with pytest.MonkeyPatch.context() as patch:  # either way of working the products
            patch.setattr(products, "DENSE_FROM", dense_from)
            found = as_dict(top_pairs(codes, count))
        assert found.keys() == expected.keys()
        assert np.allclose(
            [found[pair] for pair in expected], list(expected.values()), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("cells", [8, 40, 333])
@pytest.mark.parametrize("guess", [0.0, 0.01, 0.2, 5.0])
def test_neither_guess_nor_strips_change_the_selection(
    monkeypatch, dense_from, cells, guess
) -> None:
    monkeypatch.setattr(products, "DENSE_FROM", dense_from)
    whole = [top_pairs(sparse(made_up(seed)), 30) for seed in range(20)]
    monkeypatch.setattr(products, "CELLS", cells)
    for seed, expected in enumerate(whole):
        found = top_pairs(sparse(made_up(seed)), 30, guess)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.scores, expected.scores)


def test_float_sums_are_the_same_bits_for_any_guess_strip_and_kind_of_codes(monkeypatch) -> None:
    monkeypatch.setattr(products, "DENSE_FROM", 1.0)
    f = made_up(3, 300, 90) * torch.rand(300, 90, generator=torch.Generator().manual_seed(1))
    whole = top_pairs(sparse(f), 200)
    assert as_dict(whole).keys() == by_brute_force(f, 200).keys()
    monkeypatch.setattr(products, "CELLS", 700)
    for codes in (sparse(f), DenseCodes(f), sparse(f, near=True)):
        found = top_pairs(codes, 200, 0.95 * float(whole.scores.min()))
        assert torch.equal(found.ids, whole.ids)
        assert torch.equal(found.scores, whole.scores)


def test_without_the_vendor_library_the_selection_is_the_same(monkeypatch) -> None:
    monkeypatch.setattr(products, "DENSE_FROM", 1.0)
    expected = top_pairs(sparse(made_up(5)), 25)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert torch.equal(top_pairs(sparse(made_up(5)), 25).ids, expected.ids)


def test_pairs_that_are_bound_to_score_too_little_are_never_multiplied(monkeypatch) -> None:
    f = torch.zeros(50, 400)
    f[:, :10] = 4.0
    f[torch.arange(50), 10 + torch.arange(50) * 7] = 0.01
    seen: list[int] = []
    product = products.Strips._product

    def counted(self, first, last, end, out):
        seen.append((last - first) * (end - first))
        return product(self, first, last, end, out)

    monkeypatch.setattr(products.Strips, "_product", counted)
    monkeypatch.setattr(products, "CELLS", 100)
    found = top_pairs(sparse(f), 45, guess=15.0)
    assert found.scores.tolist() == [16.0] * 45
    assert sum(seen) <= 100


def nearly_tied(seed: int, tokens: int = 60, features: int = 40) -> Tensor:
    """Features half of which are copies of another, a rounding apart or exactly equal."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.rand(tokens, features, generator=generator)
    f *= torch.rand(tokens, features, generator=generator) < 0.3
    twins = f[:, : features // 2]
    copies = torch.where(
        torch.rand(twins.shape, generator=generator) < 0.5, twins, twins * 1.0000001
    )
    return torch.cat([twins, copies], 1)[:, torch.randperm(features, generator=generator)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cells=st.sampled_from([8, 77, 400, 10**6]),
    guess=st.sampled_from([0.0, 0.5, 0.95, 1.0, 1.000001, 1.3]),
    kind=st.sampled_from(["dense", "sparse", "near"]),
    dense_from=st.sampled_from([0.0, 1.0]),
    count=st.integers(1, 60),
)
def test_a_product_that_rounds_as_it_likes_changes_nothing(
    seed, cells, guess, kind, dense_from, count
) -> None:
    """Every cell of every strip is off by as much as float sums may be, differently in each."""
    f = nearly_tied(seed)
    expected = by_brute_force(f, count)
    whole = top_pairs(sparse(f), count)
    drawn = random_pairs(sparse(f), count, 1, 2)
    codes = {"dense": DenseCodes(f), "sparse": sparse(f), "near": sparse(f, near=True)}[kind]
    product = products.Strips._product

    def rough(self, first, last, end, out):
        product(self, first, last, end, out)
        draw = torch.Generator().manual_seed(seed + 31 * first + last)
        off = 1 - 2 * torch.rand(out.shape, generator=draw, dtype=torch.float64)
        out.copy_(out.double() * (1 + 0.45 * self.slack * off))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products.Strips, "_product", rough)
        patch.setattr(products, "CELLS", cells)
        patch.setattr(products, "DENSE_FROM", dense_from)
        found = top_pairs(codes, count, guess * whole.least)
        at_random = random_pairs(codes, count, 1, 2)
    assert as_dict(whole).keys() == expected.keys()
    for one, other in ((found, whole), (at_random, drawn)):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.scores, other.scores)


def test_exact_sums_are_those_of_whole_fractions() -> None:
    """In Python's rational numbers, whose sums have no rounding."""
    from fractions import Fraction

    f = nearly_tied(5)
    chosen = top_pairs(sparse(f), 30)
    for (i, j), score in as_dict(chosen).items():
        pairs = zip(f[:, i].tolist(), f[:, j].tolist())
        true = sum(Fraction(a) * Fraction(b) for a, b in pairs) / len(f)
        assert abs(Fraction(score) - true) <= true * Fraction(1, 10**14)


def test_dense_products_also_leave_out_what_cannot_count(monkeypatch) -> None:
    f = torch.full((50, 60), 0.01)
    f[:, :10] = 4.0
    seen: list[int] = []
    product = products.Strips._product

    def counted(self, first, last, end, out):
        seen.append((last - first) * (end - first))
        return product(self, first, last, end, out)

    monkeypatch.setattr(products.Strips, "_product", counted)
    monkeypatch.setattr(products, "CELLS", 100)
    assert top_pairs(DenseCodes(f), 45, guess=15.0).scores.tolist() == [16.0] * 45
    assert sum(seen) <= 100


def test_memory_does_not_grow_with_the_number_of_all_pairs() -> None:
    features = 300_000  # whose F × F would be 360 GB
    flat = torch.arange(8 * 20) * 1_873 + torch.arange(8).repeat_interleave(20) * features
    flat = (flat % features + torch.arange(8).repeat_interleave(20) * features).sort().values
    codes = SparseCodes(torch.ones(160), Pattern(flat, (8, features)))
    assert len(top_pairs(codes, 10**6)) == 8 * 190
    assert len(random_pairs(codes, 100, 0, 0)) == 100


@pytest.mark.parametrize("kind", ["top_k", "random"])
def test_where_nothing_co_occurs_nothing_is_selected(kind) -> None:
    alone = torch.eye(6)  # each token its own feature
    one = torch.zeros(6, 6).index_fill(1, torch.tensor([2]), 1.0)  # one active feature
    for f in (alone, one, torch.zeros(6, 6), torch.zeros(0, 6)):
        for codes in (DenseCodes(f), sparse(f)):
            chosen = top_pairs(codes, 4) if kind == "top_k" else random_pairs(codes, 4, 0, 0)
            assert len(chosen) == 0


def test_random_pairs_are_uniform_among_those_that_co_occur() -> None:
    f = made_up(11, 40, 16, 0.15)
    together = by_brute_force(f, 10**6)
    count, draws = 6, 1000
    assert len(together) > 3 * count
    seen = dict.fromkeys(together, 0)
    for step in range(draws):
        chosen = as_dict(random_pairs(sparse(f), count, 4, step))
        assert len(chosen) == count
        for pair, score in chosen.items():
            assert score == pytest.approx(together[pair])
            seen[pair] += 1
    expected = draws * count / len(together)
    spread = np.sqrt(expected * (1 - count / len(together)))
    off = (np.array(list(seen.values())) - expected) / spread
    assert np.abs(off).max() < 4.5
    assert 0.5 < off.std() < 1.6


def test_random_pairs_are_a_pure_function_of_seed_and_step() -> None:
    f = made_up(12, 60, 40)
    first = random_pairs(sparse(f), 20, 1, 5)
    assert torch.equal(first.ids, random_pairs(sparse(f), 20, 1, 5).ids)
    assert torch.equal(first.ids, random_pairs(DenseCodes(f), 20, 1, 5).ids)
    assert not torch.equal(first.ids, random_pairs(sparse(f), 20, 1, 6).ids)
    assert not torch.equal(first.ids, random_pairs(sparse(f), 20, 2, 5).ids)


def test_random_takes_all_that_co_occur_where_fewer_do_than_are_wanted() -> None:
    f = made_up(13, 10, 20, 0.1)
    together = by_brute_force(f, 10**6)
    assert as_dict(random_pairs(sparse(f), 150, 0, 0)).keys() == together.keys()


def test_rare_co_occurrence_among_many_features_is_found_at_random_too() -> None:
    f = torch.zeros(300, 600)
    f[torch.arange(300), torch.arange(300)] = 1.0
    f[torch.arange(300), 300 + torch.arange(300)] = 1.0  # 300 pairs of 179,700
    chosen = random_pairs(sparse(f), 200, 0, 0)
    assert len(chosen) == 200
    assert torch.equal(chosen.second, chosen.first + 300)


def test_a_few_pairs_that_always_come_together_do_not_hide_the_others_from_chance() -> None:
    f = torch.zeros(300, 612)
    f[:, :12] = 1.0  # 66 pairs in 19,800 of the 23,400 events
    f[torch.arange(300), 12 + 2 * torch.arange(300)] = 1.0
    chosen = random_pairs(sparse(f), 60, 0, 0)
    assert len(chosen) == 60
    assert int((chosen.second < 12).sum()) < 10  # 66 of 3,666 that co-occur


def test_a_fraction_of_no_pair_is_refused_by_name() -> None:
    settings_ = OrthogonalityFields(orthogonality="top_k", topk_fraction=1e-4)
    with pytest.raises(UserError, match=r"topk_fraction = 0.0001: .*2016 pairs of 64 features"):
        Orthogonality(64, settings_)
    assert Orthogonality(256, settings_).wanted == 3
    with pytest.raises(UserError, match="orthogonality_chunks = 40: expected at most 32"):
        Orthogonality(64, OrthogonalityFields(orthogonality="all_pairs", orthogonality_chunks=40))


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"tau_min": 0.6, "tau_max": 0.5}, "tau_min = 0.6: above tau_max = 0.5"),
        ({"tau": 0.7, "tau_adaptive": True}, "tau = 0.7: expected tau_min = 0 to tau_max = 0.5"),
        ({"topk_fraction": 0.0}, "greater than 0"),
        ({"tau_memory": 1.0}, "less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given_, said) -> None:
    with pytest.raises(ValueError, match=said):
        OrthogonalityFields(orthogonality="top_k", **given_)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-25])
def test_values_that_are_no_numbers_or_vanish_when_squared_harm_nothing_else(value) -> None:
    features = torch.zeros(512, 64)
    features[:100, 3] = features[:100, 5] = 1.0
    features[7, 10:14] = value
    found = top_pairs(DenseCodes(features), 1)
    assert found.ids.tolist() == [3 * 64 + 5]
    assert found.scores.tolist() == pytest.approx([100 / 512])
