"""The instrument of spectra: what table and embedding say of the circuit; routing's are in `routing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cutaway.grokking import spectrum
from cutaway.grokking.group import in_order, residues
from cutaway.training.instruments import Moment, Stateless

if TYPE_CHECKING:
    from cutaway.grokking.task import GrokkingTask


class Spectrum(Stateless):
    """`spectral_smoothness`, `spectral_concentration`, `logit_scale` of the logits of all pairs,
    `embedding_gini` of the residues' embedding (see `grokking.spectrum`); exact, so no errors.

    Frequencies of multiply and divide are over discrete logarithms (`group.in_order`)."""

    name = "spectrum"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor]:
        task = cast("GrokkingTask", at.task)
        table = task.output_table()
        operation = task.config.operation
        power = spectrum.output_power(in_order(table, operation))
        order = residues(operation, task.config.p).to(table.device)
        embedding = spectrum.residue_embedding(task.model)[..., order, :]
        return {
            "spectral_smoothness": spectrum.low_share(power),
            "spectral_concentration": spectrum.gini(spectrum.without_constant(power)),
            "embedding_gini": spectrum.embedding_gini(embedding),
            "logit_scale": spectrum.logit_scale(table),
        }
