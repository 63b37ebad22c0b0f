"""What stops a run: a signal, a loss that is no number, memory that is gone."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor

from cutaway.base import signals
from cutaway.base.errors import CutawayError, RunFailed


class Stop:
    """Ctrl-C, SIGTERM or SIGHUP asks; the loop answers between steps. A second one acts at once.

    A SIGHUP that is ignored (`nohup`) stays so; one after another asks no more than the first.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in signals.stopping():
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signals.SIGHUP:
            signals.leave_closed_terminal()
            if self.signal == number:
                return
        self.signal = number
        for each in self._previous:
            if each == number == signals.SIGHUP:
                continue
            signal.signal(
                each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
            )

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class FiniteGuard:
    """Remembers each member's first step whose loss or gradient was not finite.

    On a CPU the answer costs nothing, so it is asked at every step and the bad update is never
    applied; elsewhere asking would stall the device, so the flag stays there and is read when
    rows are written and always before a checkpoint is.
    """

    def __init__(self, device: torch.device, members: int):
        self.immediate = device.type == "cpu"
        # of each member the first step whose loss (row 0) or gradient (row 1) was not finite
        self.first_bad = torch.full((2, members), -1, dtype=torch.int64, device=device)

    def watch(self, step: int, total: Tensor, gradient_norm: Tensor) -> bool:
        """Note whether this step's figures are finite; True where a CPU saw that some are not."""
        seen = torch.stack([total.detach().reshape(-1), gradient_norm.reshape(-1)])
        if self.immediate and math.isfinite(seen.sum().item()):
            return False
        bad = ~torch.isfinite(seen)
        self.first_bad.copy_(torch.where(bad & (self.first_bad < 0), step, self.first_bad))
        return self.immediate and bool(bad.any())

    def failures(self) -> dict[int, RunFailed]:
        """What is wrong with which member (synchronises the device)."""
        found = {}
        for member, (loss, gradient) in enumerate(zip(*self.first_bad.tolist())):
            if met := [step for step in (loss, gradient) if step >= 0]:
                step, what = min(met), "loss" if loss == min(met) else "gradient"
                found[member] = RunFailed(f"the {what} became non-finite at step {step}", step)
        return found


def reason(error: Exception) -> str:
    """Why a run failed, in one line, from what was raised."""
    if isinstance(error, StopIteration):
        return "the data source stopped yielding"
    if isinstance(error, CutawayError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, ask torch for kernels that give the same bits every time, where it has them.

    Where it has none it warns and goes on: the gradient of fused attention may then differ in its
    last bits from one run to the next. On a CPU everything is repeatable as it is.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute with so many threads, None: as many as before. Sums are split among threads, so that
    their number decides the last bits of what is computed."""
    before = torch.get_num_threads()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
