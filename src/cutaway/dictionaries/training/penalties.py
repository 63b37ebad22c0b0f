"""Penalties that any dictionary's loss can take, and the instruments of what is above this room.

What they are is fetched from rooms above when a run asks for it, so a new one is one line here.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from cutaway.base.named import fetch
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.sparse.codes import Codes
from cutaway.training.instruments import Instrument

ORTHOGONALITY = "cutaway.orthogonality.penalty:Orthogonality"
PAIRS = "cutaway.orthogonality.instrument:Pairs"
GROUND_TRUTH = "cutaway.evaluations.known_truth.instrument:GroundTruth"


class Penalty(Protocol):
    """A term of the loss; a module, so that its buffers are saved with the run."""

    def loss(
        self, codes: Codes, decoder_rows: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted penalty on a batch, (), and the step's figures, detached."""
        ...

    def after_step(self) -> None:
        """Whatever follows a step that was taken."""
        ...


def penalty_of(config: DictionaryConfig) -> Penalty | None:
    """The penalty that the settings name; UserError where they leave it nothing to act on."""
    if config.orthogonality is None:
        return None
    return fetch(ORTHOGONALITY)(config.d_hidden, config, seed=config.seed)


def instrument(place: str, *arguments: Any) -> Instrument:
    """An instrument named above."""
    return fetch(place)(*arguments)
