"""How much of the truth a dictionary has found, while it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.training.instruments import dictionaries_of
from cutaway.evaluations.known_truth.measures import Comparison
from cutaway.training.instruments import Moment, Stateless

TOKENS = 4096  # held-out tokens a reading sees, the same each time


class GroundTruth(Stateless):
    """`mmcs`, `matched_f1` and, of a hierarchy, `absorption` and `parents_missing`
    (`measures.Comparison`), on the first labelled batch of a held-out stream, at most 4,096 tokens.
    """

    name = "ground_truth"

    def __init__(self, every: int, held_out: SyntheticStream):
        self.every, self.truth = every, held_out.truth
        states, amplitudes = held_out.labelled(0)
        self._states, self._amplitudes = states[:TOKENS], amplitudes[:TOKENS]

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor | float]:
        dictionaries = dictionaries_of(at.task)
        each = [self._of(one) for one in dictionaries]
        if at.task.members == 1:
            return dict(each[0])
        device = dictionaries[0].decoder_weight.device
        return {name: torch.tensor([one[name] for one in each], device=device) for name in each[0]}

    def _of(self, dictionary: Dictionary) -> dict[str, float]:
        device = dictionary.decoder_weight.device
        compared = Comparison(dictionary.decoder_weight, self.truth)
        compared.add(dictionary.encode(self._states.to(device)), self._amplitudes.to(device))
        return compared.figures()
