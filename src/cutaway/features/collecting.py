"""Counts, histograms and examples of features, gathered piece by piece."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.features.examples import Entries, Examples, PairCounts, Piece

_OCTAVES = 8  # the histogram reaches from 2⁻⁸ to 2⁸ scaled units, two bins to an octave
_ANY_TOKEN = 1 << 31


class Reader:
    """Counts, histograms and examples of one dictionary's features, piece by piece."""

    def __init__(
        self, dictionary: Dictionary, examples: int, context: tuple[int, int], skip_first: bool
    ):
        self.dictionary, self.skip_first = dictionary, skip_first
        features = dictionary.shape.d_hidden
        device = dictionary.decoder_weight.device
        self.examples = Examples(features, examples, *context, device)
        self.pairs = PairCounts(_ANY_TOKEN)
        self.read = self.tokens = self.contexts = self.non_finite = 0
        self.seen = torch.zeros(0, dtype=torch.int64, device=device)
        self.fires = torch.zeros(features, dtype=torch.int64, device=device)
        self.sums = torch.zeros(features, dtype=torch.float64)
        self.bins = 4 * _OCTAVES
        self.histogram = torch.zeros(features * self.bins, dtype=torch.int64, device=device)

    def edges(self) -> np.ndarray:
        """Borders of the histogram's bins, in the units of `encode`; the outer bins take what lies
        beyond."""
        return 2.0 ** np.linspace(-_OCTAVES, _OCTAVES, self.bins + 1) / self._scale

    @torch.no_grad()
    def add(self, piece: Piece) -> None:
        """Take whole contexts, with their states."""
        device = self.fires.device
        piece = Piece(*(column.to(device) for column in vars(piece).values()))
        finite = piece.states.isfinite().all(1)
        self.read += len(finite)
        if not bool(finite.all()):
            self.non_finite += int((~finite).sum())
            piece = Piece(*(column[finite] for column in vars(piece).values()))
        if not len(piece.tokens):
            return
        counted = piece.documents >= 0  # special tokens belong to none
        if self.skip_first:
            counted &= piece.positions != 0
        self.tokens += int(counted.sum())
        self.contexts += int(piece.contexts[-1]) + 1
        self.seen = _added(self.seen, torch.bincount(piece.tokens[counted]))
        entries = self._entries(piece, counted)
        features, values = entries.features, entries.values
        self.fires += torch.bincount(features, minlength=len(self.fires))
        wide = values.to(hardware.wide(device))
        self.sums += torch.bincount(features, wide, len(self.fires)).cpu()
        # which half octave: the shift of a scaled unit's logarithm
        bins = (2 * (values * self._scale).log2() + 2 * _OCTAVES).floor_().clamp_(0, self.bins - 1)
        self.histogram += torch.bincount(
            features * self.bins + bins.long(), minlength=len(self.histogram)
        )
        self.pairs.add(features, piece.tokens[entries.rows])
        self.examples.add(piece, entries)

    def _entries(self, piece: Piece, counted: Tensor) -> Entries:
        codes = self.dictionary.encode_sparse(piece.states)
        kept = ((codes.values > 0) & counted[codes.pattern.rows]).nonzero().view(-1)
        return Entries(
            codes.pattern.flat[kept],
            codes.pattern.rows[kept],
            codes.pattern.features[kept],
            codes.values[kept],
            codes.shape[1],
        )

    @cached_property
    def _scale(self) -> float:
        """Of a feature's value to scaled units, with the median row's length."""
        length = self.dictionary.row_lengths()
        median = 1.0 if length is None else float(length.median())
        return float(self.dictionary.input_scale) * median


# -- pieces of text ------------------------------------------------------------------------------


def _added(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two counts, of which one may be longer."""
    if len(a) < len(b):
        a, b = b, a
    a[: len(b)] += b
    return a
