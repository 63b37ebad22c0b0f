"""The learning rate against its formula."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from toys import LOOP

from cutaway.training.schedule import learning_rate

CONFIG = replace(
    LOOP, schedule_steps=110, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (60, 0.55),
        (35, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        (110, 0.1),
        (5000, 0.1),
    ],
)
def test_warm_up_then_half_a_cosine_then_the_floor(step, rate) -> None:
    assert learning_rate(CONFIG, step) == pytest.approx(rate)


def test_it_never_rises_after_the_warm_up() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(10, 200)]
    assert all(a >= b for a, b in itertools.pairwise(rates))
