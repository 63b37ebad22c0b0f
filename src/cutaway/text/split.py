"""Train or validation: which side a document is on, decided by document and always the same way.

With many documents a hash of the id decides, so that the order does not matter and nothing need
be read twice. With few, chance would leave a side empty or lopsided: there the sizes decide. A
single document is cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cutaway.base.errors import UserError
from cutaway.text.documents import Document, Source

FEW = 200  # documents below which sizes decide
_ENOUGH = 20  # documents that the hash should expect to put into validation
_UNITS = 20_000  # resolution of the choice by sizes: 0.005 % of the corpus


@dataclass(frozen=True)
class Split:
    """A rule that sends each document to one side, or cuts the only one.

    `chosen` are the ids of validation documents where sizes decided, None where the hash does.
    """

    fraction: float
    chosen: frozenset[str] | None = None
    cut: bool = False
    notices: list[str] = field(default_factory=list)

    def sides(self, document: Document) -> Iterator[tuple[bool, Document]]:
        """The document with whether it is validation; for a single document its two parts."""
        if self.cut:
            at = _boundary(document.text, self.fraction)
            yield False, Document(document.id, document.text[:at])
            yield True, Document(document.id, document.text[at:])
        elif self.chosen is not None:
            yield document.id in self.chosen, document
        else:
            yield share(document.id) < self.fraction, document


def plan(source: Source, fraction: float) -> Split:
    """The split for a source: reads as few documents as tell which rule applies.

    `fraction` is the part of the text that validation should hold, over 0 and at most 0.5.
    Raises UserError for another fraction and for a source without text.
    """
    require_fraction(fraction)
    few = max(FEW, round(_ENOUGH / fraction))
    sizes = [
        (document.id, len(document.text.encode())) for document in islice(source.documents(), few)
    ]
    if not sizes:
        raise UserError(f"{source.name}: empty corpus, no text in it")
    if len(sizes) == few:
        return Split(fraction)
    if len(sizes) == 1:
        message = (
            f"{source.name}: a single document; its last {fraction:.0%}, cut at a paragraph, "
            "is the validation part"
        )
        return Split(fraction, cut=True, notices=[message])
    chosen, reached = _nearest_share(sizes, fraction)
    notices = []
    if not fraction / 2 < reached < fraction * 2:
        notices.append(
            f"{source.name}: {len(sizes)} documents allow no split near "
            f"validation_fraction = {fraction:g}: validation holds {reached:.1%} of the text"
        )
    return Split(fraction, chosen=chosen, notices=notices)


def require_fraction(fraction: float) -> None:
    """Refuse a validation fraction that is not over 0 and at most 0.5."""
    if not 0 < fraction <= 0.5:
        raise UserError(
            f"validation_fraction = {fraction}: expected a number over 0 and at most 0.5"
        )


def share(id: str, purpose: str = "validation") -> float:
    """A number in [0, 1) that belongs to the id (and the purpose), as good as random."""
    digest = hashlib.blake2b(f"{purpose}\0{id}".encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def _nearest_share(
    sizes: Sequence[tuple[str, int]], fraction: float
) -> tuple[frozenset[str], float]:
    """The subset whose share of the bytes is nearest to `fraction`, and that share.

    Subset sums as bits of an integer: bit s of `sums[i]` says that some of the first i documents
    add up to s units. Neither side is empty, as each document counts at least a unit.
    """
    ordered = sorted(sizes, key=lambda item: share(item[0]))
    total = sum(size for _, size in ordered)
    units = [max(1, round(size * _UNITS / total)) for _, size in ordered]
    sums = [1]
    for unit in units:
        sums.append(sums[-1] | sums[-1] << unit)
    wanted = fraction * sum(units)
    reachable = (s for s in range(1, sum(units)) if sums[-1] >> s & 1)
    left = min(reachable, key=lambda s: abs(s - wanted))
    chosen, chosen_size = set(), 0
    for (id, size), unit, before in zip(reversed(ordered), reversed(units), reversed(sums[:-1])):
        if not before >> left & 1:  # without this document the sum cannot be reached
            chosen.add(id)
            chosen_size += size
            left -= unit
    return frozenset(chosen), chosen_size / total


def _boundary(text: str, fraction: float) -> int:
    """Where the last `fraction` of the text begins: at the nearest paragraph, line, blank, else there."""
    wanted = round(len(text) * (1 - fraction))
    reach = max(1, round(len(text) * min(fraction, 1 - fraction) / 2))
    for mark in ("\n\n", "\n", " "):
        before = text.rfind(mark, wanted - reach, wanted)
        after = text.find(mark, wanted, wanted + reach)
        places = [at + len(mark) for at in (before, after) if at >= 0]
        places = [at for at in places if text[:at].strip() and text[at:].strip()]
        if places:
            return min(places, key=lambda at: abs(at - wanted))
    return min(max(wanted, 1), len(text) - 1)
