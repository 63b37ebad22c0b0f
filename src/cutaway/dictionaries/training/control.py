"""What a dictionary's training remembers between steps: silent features, L0, and its price λ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

_MEMORY = 0.9  # of the running mean of L0
_NEAR = 0.05  # how far L0 may be off its target before thresholds are pushed
_PUSH = 0.02  # by what share thresholds move in a step, where L0 is off by a factor of e


@dataclass(frozen=True)
class Settings:
    """How a dictionary is trained, beyond what the loop knows.

    `sparsity`: the form of JumpReLU's penalty. `sparsity_weight` is λ, or where it starts when
    `controlled`. `gain`: how fast λ follows L0. `dead_after`: tokens of silence after which a
    feature counts as dead. `kernels`: how products are worked; `auto` measures.
    """

    target_l0: float = 64.0
    sparsity: Literal["step", "target", "tanh"] = "step"
    sparsity_weight: float = 1.0
    controlled: bool = True
    gain: float = 0.01
    dead_after: int = 1_000_000
    threshold_rate: float = 10.0
    kernels: Literal["auto", "sparse", "dense"] = "auto"


class SparsityState(nn.Module):
    """Buffers, so that a resumed run goes on as the whole would."""

    silent: Tensor
    l0_average: Tensor
    sparsity_weight: Tensor
    break_even: Tensor

    def __init__(self, features: int, settings: Settings):
        super().__init__()
        self.settings = settings
        self.register_buffer("silent", torch.zeros(features, dtype=torch.int64))
        self.register_buffer("l0_average", torch.tensor(float(settings.target_l0)))
        self.register_buffer("sparsity_weight", torch.tensor(float(settings.sparsity_weight)))
        # the share of entries from which on the dense way is the faster one: float32, bfloat16
        share = {"sparse": 2.0, "dense": -1.0, "auto": 0.05}[settings.kernels]
        self.register_buffer("break_even", torch.full((2,), share))
        # `silent` as last seen here, and what none of it exceeds
        self._known: tuple[Tensor, int, int] | None = None

    def set_break_even(self, measured: Mapping[str, float]) -> None:
        """Take what was measured for each precision."""
        for place, precision in enumerate(("float32", "bfloat16")):
            if precision in measured:
                self.break_even[place] = measured[precision]

    def settle(self, precision: str) -> dict[str, float]:
        """Keep the `break_even` of this precision only, and say what it is, where it decides."""
        if self.settings.kernels != "auto":
            return {}
        chosen = float(self.break_even[int(precision == "bfloat16")])
        self.break_even.fill_(chosen)
        return {"break_even": chosen}

    def dense(self, features: int) -> bool:
        """Whether the next step is worked densely.

        Where that is measured, the host waits here for a GPU to have ended the step before.
        """
        if self.settings.kernels != "auto":
            return self.settings.kernels == "dense"
        narrow = torch.is_autocast_enabled(self.l0_average.device.type)
        return bool(self.l0_average > self.break_even[int(narrow)] * features)

    def dead(self) -> Tensor | None:
        """Which features have been silent for too long, (F,); None where none has.

        To ask a GPU is to wait for it. As silence grows by a step's tokens and no more, an answer
        says how soon the first feature can be dead, and until then nothing is asked.
        """
        longest = self._longest()
        if longest is None or longest > self.settings.dead_after:
            longest = int(self.silent.max())
            self._know(longest)
        return self.silent_for_long() if longest > self.settings.dead_after else None

    def silent_for_long(self) -> Tensor:
        """The same without asking whether there are any, for which a GPU would have to wait."""
        return self.silent > self.settings.dead_after

    def dead_share(self) -> Tensor:
        return self.silent_for_long().float().mean()

    def update(self, fired: Tensor, l0: Tensor, tokens: int) -> None:
        """After a step: `fired` (F,) tokens each feature fired on, of so many."""
        longest = self._longest()
        self.silent.add_(tokens).masked_fill_(fired > 0, 0)
        if longest is not None:
            self._know(longest + tokens)
        self.l0_average.lerp_(l0, 1 - _MEMORY)
        if self.settings.controlled:
            # the price rises while there are too many, by at most a gain's worth a step
            self.sparsity_weight.mul_(torch.exp(self.settings.gain * self._off()))

    def push(self) -> Tensor | None:
        """By what thresholds are multiplied after a step; 1 while L0 is near its target.

        A price alone moves thresholds at the pace of their learning rate: at 4,096 features L0
        first fell to a third of its target, and took a thousand steps to come back.
        """
        if not self.settings.controlled:
            return None
        off = self._off()
        return torch.exp(_PUSH * torch.where(off.abs() > _NEAR, off, 0.0))

    def _know(self, longest: int) -> None:
        self._known = self.silent, self.silent._version, longest

    def _longest(self) -> int | None:
        """What no feature's silence exceeds; None where others wrote to it, as a checkpoint does."""
        if self._known is None:
            return None
        silent, version, longest = self._known
        return longest if silent is self.silent and silent._version == version else None

    def _off(self) -> Tensor:
        """log(L0 / L0*), at most 1 either way."""
        ratio = self.l0_average.clamp(min=1e-3) / self.settings.target_l0
        return torch.log(ratio).clamp(-1, 1)
