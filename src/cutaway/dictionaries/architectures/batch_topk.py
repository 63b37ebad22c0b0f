"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the k·B largest pre-activations of a batch.

A token's features then hang on its batch, so inference uses a threshold instead: the mean over
training batches of the smallest activation that was kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape, Step, TrainingHints
from cutaway.dictionaries.model.revival import auxiliary_loss
from cutaway.sparse.codes import Codes
from cutaway.sparse.pattern import above

_MEMORY = 0.99  # of the running mean of the smallest kept activation
_SURE = 0.8  # candidates are looked for above this share of it; too few, and all are


class BatchTopK(Dictionary):
    architecture = "batch_topk"
    couples = True

    def __init__(self, shape: DictionaryShape, seed: int = 0):
        super().__init__(shape, seed)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches_seen", torch.zeros(()))

    def activate(self, x: Tensor) -> Codes:
        # below zero, as other libraries' files may have it, a threshold is as good as zero
        return self.pre_activations(x, above(self.threshold.clamp(min=0.0)), dense=False)

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        codes, smallest = self._largest(x, dense=hints.dense)
        written = self.reconstruct(codes)
        losses = {}
        if hints.dead is not None:
            losses["auxiliary_loss"] = auxiliary_loss(self, x, x - written, hints.dead)
        return Step(codes, written, losses, {"smallest": smallest})

    @torch.no_grad()
    def learn(self, notes: dict[str, Tensor]) -> None:
        smallest = notes["smallest"].to(self.threshold.dtype)
        kept = smallest > 0  # a batch in which nothing was positive says nothing
        self.batches_seen += kept
        share = torch.clamp(1 / self.batches_seen.clamp(min=1), min=1 - _MEMORY)
        self.threshold.lerp_(smallest, share * kept)

    def start(self, x: Tensor, target_l0: float) -> None:
        super().start(x, target_l0)
        with torch.no_grad():
            z = self.centred(x) @ self.encoder_weight.T
            place = max(1, round(z.numel() * (1 - self.shape.k / self.shape.d_hidden)))
            self.threshold.copy_(z.flatten().kthvalue(place).values.clamp(min=0))

    def _largest(self, x: Tensor, *, dense: bool) -> tuple[Codes, Tensor]:
        """The batch's k·B largest positive pre-activations, and the smallest of them."""
        wanted = self.shape.k * len(x)
        candidates = self.pre_activations(x, above(_SURE * self.threshold), dense=dense)
        if self._too_few(candidates, wanted):
            candidates = self.pre_activations(x, above(0.0), dense=dense)
        values = candidates.values.detach().flatten()
        if values.numel() > wanted:
            top = values.topk(wanted, sorted=False)
            keep = torch.zeros_like(values, dtype=torch.bool)
            keep[top.indices] = True
            candidates, values = candidates.kept(keep.view(candidates.values.shape)), top.values
        positive = values[values > 0]  # fewer than wanted may be, or none
        return candidates, positive.min() if positive.numel() else values.new_zeros(())

    @staticmethod
    def _too_few(candidates: Codes, wanted: int) -> bool:
        return bool((candidates.values.detach() > 0).sum() < wanted)
