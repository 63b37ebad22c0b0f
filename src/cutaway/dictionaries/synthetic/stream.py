"""Batches of synthetic states, each a pure function of (seed, part, index); nothing is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import embedding_bag

from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.dictionaries.synthetic.truth import Truth

Part = Literal["train", "validation", "test"]
_MEASURED = 16_384  # tokens the mean squared norm is taken over


class SyntheticStream:
    """An endless row of tokens, `rows` of them to an epoch; the parts share none.

    `train` is learned from, `validation` chooses the best checkpoint, `test` judges what came out.
    The same in every part is the truth. Raises UserError for an unknown part or no rows.
    """

    def __init__(
        self,
        truth: Truth,
        batch_size: int,
        *,
        seed: int = 0,
        rows: int = 1_000_000,
        part: Part = "train",
    ):
        if part not in get_args(Part):
            raise UserError(f"part = {part!r}: expected one of {', '.join(get_args(Part))}")
        for name, value in (("batch_size", batch_size), ("tokens", rows)):
            if value < 1:
                raise UserError(f"{name} = {value}: expected 1 or more")
        self.truth, self.batch_size, self.seed, self.rows = truth, batch_size, seed, rows
        self.part = part
        self.width = truth.width
        self._directions = truth.directions()

    def batch(self, index: int) -> Tensor:
        """(batch_size, d) float32, on the CPU."""
        return self._made(index)[0]

    def labelled(self, index: int) -> tuple[Tensor, Tensor]:
        """The same states (batch_size, d) and the amplitudes behind them (batch_size, n)."""
        states, drawn = self._made(index)
        return states, self.truth.spread(drawn)

    def blocks(self) -> Iterator[Tensor]:
        """An epoch's rows, at most `batch_size` at a time."""
        for index in range(-(-self.rows // self.batch_size)):
            yield self.batch(index)[: self.rows - index * self.batch_size]

    def mean_squared_norm(self) -> float:
        """E‖x‖², over tokens of this part."""
        own = SyntheticStream(self.truth, _MEASURED, seed=self.seed, part=self.part)
        return float(own.batch(0).double().square().sum(1).mean())

    def close(self) -> None:
        """Nothing to end; streams of a store or a model have threads."""

    def _made(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        generator = torch_generator(self.seed, index, f"synthetic.{self.part}")
        drawn = self.truth.draw(self.batch_size, generator)
        states = embedding_bag(
            drawn.features, self._directions, mode="sum", per_sample_weights=drawn.values
        )
        return states, drawn
