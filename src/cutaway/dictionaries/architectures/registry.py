"""The dictionary architectures there are."""

from __future__ import annotations

from cutaway.base.errors import UserError, nearest
from cutaway.dictionaries.architectures.batch_topk import BatchTopK
from cutaway.dictionaries.architectures.gated import Gated
from cutaway.dictionaries.architectures.jumprelu import JumpReLU
from cutaway.dictionaries.architectures.matryoshka import Matryoshka
from cutaway.dictionaries.architectures.relu import ReLU
from cutaway.dictionaries.architectures.topk import TopK
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape

ARCHITECTURES: dict[str, type[Dictionary]] = {
    kind.architecture: kind for kind in (JumpReLU, TopK, BatchTopK, Gated, ReLU, Matryoshka)
}


def build(shape: DictionaryShape, seed: int = 0) -> Dictionary:
    """A dictionary of this shape with random unit rows, encoder and decoder alike."""
    if shape.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        hint = nearest(str(shape.architecture), ARCHITECTURES)
        raise UserError(f"architecture = {shape.architecture!r}: expected one of {known}{hint}")
    return ARCHITECTURES[shape.architecture](shape, seed)
