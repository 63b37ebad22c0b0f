"""Measurements of a dictionary while it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.training.instruments import Moment, Stateless
from cutaway.training.task import Task

_ROWS = 2048  # rows whose cosines with all others are taken: F²·d would be a step's time at 4,096


class Directions(Stateless):
    """How a dictionary's two sides stand to each other, and where its thresholds are.

    `encoder_decoder_cosine`: mean over features of the cosine between encoder and decoder row (1
    at the start). `encoder_norm`: mean length of encoder rows. `decoder_max_cosine`: mean over
    features of the largest cosine of their decoder row with another's, of at most 2,048 features
    spread evenly over all. `threshold_low`, `threshold_high`: the 5th and 95th percentile of
    JumpReLU's thresholds, scaled units.
    """

    name = "directions"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor]:
        each = [self._of(one) for one in dictionaries_of(at.task)]
        if at.task.members == 1:
            return each[0]
        names = dict.fromkeys(name for one in each for name in one)
        lacking = torch.full_like(each[0]["encoder_norm"], torch.nan)  # another architecture's
        return {name: torch.stack([one.get(name, lacking) for one in each]) for name in names}

    @staticmethod
    def _of(dictionary: Dictionary) -> dict[str, Tensor]:
        encoder, decoder = dictionary.encoder_weight, dictionary.decoder_weight
        norms = torch.linalg.vector_norm(encoder, dim=1)
        cosine = torch.linalg.vecdot(encoder, decoder) / norms.clamp(min=1e-12)
        found = {
            "encoder_decoder_cosine": cosine.mean(),
            "encoder_norm": norms.mean(),
            "decoder_max_cosine": max_cosine(decoder),
        }
        threshold = getattr(dictionary, "threshold", None)
        if threshold is not None and threshold.ndim:
            ends = torch.tensor([0.05, 0.95], device=threshold.device)
            found["threshold_low"], found["threshold_high"] = threshold.quantile(ends)
        return found


def max_cosine(rows: Tensor) -> Tensor:
    """Mean of maxⱼ cos(dᵢ, dⱼ), j ≠ i, over rows (F, d) of length 1, or 2,048 of them; ()."""
    count = len(rows)
    step = -(-count // _ROWS)
    chosen = torch.arange(0, count, step, device=rows.device)
    cosines = rows[chosen] @ rows.T
    cosines[torch.arange(len(chosen), device=rows.device), chosen] = -torch.inf
    return cosines.amax(1).mean()


def dictionaries_of(task: Task) -> list[Dictionary]:
    """The dictionaries a task trains: one, or one per member of a stack."""
    tasks = getattr(task, "tasks", None)
    return [task.model] if tasks is None else [one.model for one in tasks]
