"""What a training step asks of its control: the right answers, and few questions a GPU must answer."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.dictionaries.training.control import Settings, SparsityState

FEATURES, TOKENS, LIMIT = 6, 10, 30


class Waits(TorchDispatchMode):
    """Counts how often the host asks for a tensor's value, for which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def state(**settings: object) -> SparsityState:
    return SparsityState(FEATURES, Settings(dead_after=LIMIT, **settings))


def update(control: SparsityState, *active: int) -> None:
    """A step after which these features have just fired."""
    fired = torch.zeros(FEATURES)
    fired[list(active)] = 3.0
    control.update(fired, torch.tensor(2.0), TOKENS)


def test_dead_are_those_silent_for_longer_than_the_limit_at_every_step():
    control, generator = state(), torch.Generator().manual_seed(0)
    silent, seen = torch.zeros(FEATURES, dtype=torch.int64), set()
    for step in range(200):
        found, expected = control.dead(), silent > LIMIT
        seen.add(bool(expected.any()))
        assert torch.equal(expected, torch.zeros_like(expected) if found is None else found), step
        assert (found is None) == (not expected.any())
        active = (torch.rand(FEATURES, generator=generator) < 0.35).nonzero().view(-1).tolist()
        update(control, *active)
        silent += TOKENS
        silent[active] = 0
    assert seen == {False, True}


def test_a_state_that_was_loaded_is_looked_at_anew():
    control, other = state(), state()
    assert control.dead() is None
    update(control, *range(FEATURES))
    other.silent[2] = LIMIT + 1
    control.load_state_dict(other.state_dict())
    assert control.dead().tolist() == [False, False, True, False, False, False]
    control.silent[2] = 0
    assert control.dead() is None


def test_nothing_is_asked_while_no_feature_can_be_dead():
    control = state()
    with Waits() as waits:
        for _ in range(LIMIT // TOKENS + 1):  # the limit is not passed before
            assert control.dead() is None
            update(control)
    assert waits.count == 1
    assert control.dead().all()


@pytest.mark.parametrize("kernels", ["sparse", "dense"])
def test_nothing_is_asked_where_the_way_is_given(kernels: str):
    control = state(kernels=kernels)
    with Waits() as waits:
        assert control.dense(FEATURES) == (kernels == "dense")
    assert waits.count == 0


def test_a_measured_break_even_decides_by_the_mean_number_active():
    control = state(target_l0=3.0)
    control.set_break_even({"float32": 0.4})
    with Waits() as waits:
        assert control.dense(FEATURES)  # 3 of 6
    assert waits.count == 1  # else the tests above show nothing
    control.set_break_even({"float32": 0.6})
    assert not control.dense(FEATURES)
