"""TopK (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of each token, if positive."""

from __future__ import annotations

from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary, Step, TrainingHints
from cutaway.dictionaries.model.revival import auxiliary_loss
from cutaway.sparse.codes import Codes
from cutaway.sparse.pattern import largest


class TopK(Dictionary):
    architecture = "topk"

    def activate(self, x: Tensor) -> Codes:
        return self.pre_activations(x, largest(self.shape.k), dense=False)

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        codes = self.pre_activations(x, largest(self.shape.k), dense=hints.dense)
        written = self.reconstruct(codes)
        losses = {}
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead)
        return Step(codes, written, losses)
