"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547): nested widths that each reconstruct.

    loss = mean over widths m of ‖x̃ − f[:m]·W_dec[:m] − b_dec‖²

The first features must do alone what the rest refine, which keeps general ones from being split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.architectures.batch_topk import BatchTopK
from cutaway.dictionaries.model.dictionary import Step, TrainingHints, unit_rows
from cutaway.dictionaries.model.revival import auxiliary_loss


class Matryoshka(BatchTopK):
    architecture = "matryoshka"

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        codes, smallest = self._largest(x, dense=hints.dense)
        weight, indices = unit_rows(self.decoder_weight), codes.indices()
        written, begin, narrower = self.decoder_bias, 0, []
        for end in self.shape.groups:
            inside = (indices >= begin) & (indices < end)
            written = written + codes.kept(inside).decode(weight)
            narrower.append((x - written).square().sum() / len(x))
            begin = end
        # the whole's error is the task's own term: this makes their sum the mean over widths
        losses = {"nested_loss": torch.stack(narrower).mean() - narrower[-1]}
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead)
        return Step(codes, written, losses, {"smallest": smallest})
