"""Settings of a dictionary: what is filled in, and what cannot be meant."""

from __future__ import annotations

import pytest

from cutaway.base.errors import UserError
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.studies.settings import resolve


def test_defaults_are_the_guides_at_its_size() -> None:
    sized = DictionaryConfig().sized(768, 10_000_000)
    assert (sized.d_model, sized.d_hidden, sized.target_l0) == (768, 4096, 64)
    assert (sized.batch_size, sized.epochs) == (4096, 20)
    assert sized.max_steps == round(20 * 10_000_000 / 4096)
    assert sized.learning_rate == pytest.approx(4e-4)
    assert sized.dead_after == 1_000_000


def test_batches_shrink_to_256_until_there_are_2000_steps() -> None:
    sizes = [DictionaryConfig().sized(64, rows).batch_size for rows in (500_000, 120_000, 20_000)]
    assert sizes == [4096, 1024, 256]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"lambda_sparse": 0.5},
        {"target_sparsity_max": 30},
        {"architecture": "topk", "lambda_sparse": 1},
        {"max_steps": 80, "sparsity": "target", "lambda_sparse": 2},
    ],
)
def test_sizing_twice_changes_nothing(given: dict) -> None:
    once = DictionaryConfig(**given).sized(48, 5_000)
    assert once.sized(48, 5_000) == once
    assert once.controlled == DictionaryConfig(**given).controlled


def test_the_target_is_the_middle_of_what_is_accepted() -> None:
    def target(**given: float) -> float:
        return DictionaryConfig(**given).sized(768, 1_000).target_l0

    assert target(target_sparsity_min=50, target_sparsity_max=100) == 75
    assert target(target_sparsity_min=50, target_sparsity_max=100, target_l0=60) == 60
    assert target(target_sparsity_max=100) == pytest.approx(90)
    assert target(target_sparsity_min=50) == pytest.approx(55)


def test_a_price_of_nothing_cannot_follow_a_target() -> None:
    with pytest.raises(UserError, match="lambda_sparse = 0"):
        resolve(DictionaryConfig, {"lambda_sparse": 0.0, "target_l0": 5.0})
    assert not resolve(DictionaryConfig, {"lambda_sparse": 0.0}).controlled
    assert DictionaryConfig(lambda_sparse=0.0).sized(24, 100).start_l0 == 2.0


@pytest.mark.parametrize(
    ("field", "meant"),
    [("treshold", "threshold"), ("lambda_spars", "lambda_sparse"), ("targt_l0", "target_l0")],
)
def test_a_misspelt_field_is_recognised(field: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"no field '{field}'; did you mean '{meant}'"):
        resolve(DictionaryConfig, {field: 1})
