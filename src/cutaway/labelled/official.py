"""Splits that come with the data: a column that names each text's part, or a file per part.

They are kept as they are, so that scores compare with those published. What a split by document
would have prevented is looked for and told: documents and equal texts on two sides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError

PARTS = ("train", "validation", "test")
ALIASES = {
    **dict.fromkeys(("train", "training", "tr", "fit"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "heldout"), "test"),
}
Split = Callable[[np.ndarray, np.ndarray, Sequence[float]], np.ndarray]


def part_of(value: object, where: str) -> str:
    """The part that `train`, `val`, `Dev`, `held-out`, ... means; UserError for anything else."""
    name = re.sub(r"[\s_-]+", "", str(value)).casefold()
    if name not in ALIASES:
        raise UserError(
            f"{where}: {value!r}; expected train, validation or test (or "
            f"{', '.join(sorted(set(ALIASES) - set(PARTS)))})"
        )
    return ALIASES[name]


def is_part(value: object) -> bool:
    """Whether a value names a part."""
    try:
        return bool(part_of(value, "split"))
    except UserError:
        return False


def part_of_file(stem: str) -> str | None:
    """The part a file name begins with (`train`, `test-00000-of-00001`); None for others."""
    first = re.split(r"[-_. ]+\d|\.", stem, maxsplit=1)[0]
    return ALIASES.get(re.sub(r"[\s_-]+", "", first).casefold())


def official(
    name: str,
    split: Sequence[str],
    labels: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    deal: Split,
) -> np.ndarray | None:
    """The part of each text, (n,), 0 to len(shares) − 1, by the split that came with the data.

    `labels` and `groups` (n,) are numbers. Three shares: where there is no validation part it is
    dealt out of the training documents, and where there is no test part the validation part is
    judged on in its place; both are announced. Two shares: training and validation texts together,
    and test. `deal(labels, groups, shares)` is the split by document. None, with a notice, where
    all texts are of one part. UserError without a training part.
    """
    there = set(split)
    if len(there) == 1:
        notice(
            f"{name}: every text is of one part ({next(iter(there))!r}), so it is split by document"
        )
        return None
    if "train" not in there:
        raise UserError(f"{name}: split: no text is of train; there are {', '.join(sorted(there))}")
    number = {"train": 0, "validation": 1, "test": 2}
    if "test" not in there:
        notice(f"{name}: no test part came with the data: judged on its validation part")
        number["validation"] = 2
    part = np.array([number[one] for one in split])
    if len(shares) == 2:
        return (part == 2).astype(np.int64)
    if not (part == 1).any():
        training = np.flatnonzero(part == 0)
        try:
            two = deal(labels[training], groups[training], shares[:2])
        except UserError:
            raise UserError(
                f"{name}: split: the training texts are of too few documents to take validation from "
                "them with every label on both sides; give a validation part, or more documents"
            ) from None
        part[training] = two
        notice(
            f"{name}: {int(two.sum()):,} of the {len(training):,} training texts are taken for "
            "validation, by document"
        )
    for place, title in enumerate(PARTS):
        lacking = set(labels.tolist()) - set(labels[part == place].tolist())
        if lacking:
            raise UserError(
                f"{name}: {title} has no text of {len(lacking)} of the "
                f"{len(set(labels.tolist()))} labels; expected every label in each part of a split "
                "that comes with the data"
            )
    return part


def shared(values: Sequence[str], part: np.ndarray, what: str) -> list[str]:
    """A line for each two parts that have values (texts, documents) in common; `what` they are."""
    held = [{values[row] for row in np.flatnonzero(part == place)} for place in range(len(PARTS))]
    lines = []
    for place, name in ((1, "validation"), (2, "test")):
        if both := held[0] & held[place]:
            lines.append(
                f"{len(both):,} of {len(held[place]):,} {what} of {name} are in train too: figures "
                "will be too good"
            )
    if both := held[1] & held[2]:
        lines.append(f"{len(both):,} {what} of validation are in test too")
    return lines


def repeats(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Lines about texts that come more than once, and of these that have different labels."""
    counts = Counter(texts)
    again = sum(count - 1 for count in counts.values())
    if not again:
        return []
    lines = [f"{again:,} of {len(texts):,} texts repeat an earlier one"]
    labels_of: dict[str, set[str]] = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        if counts[text] > 1:
            labels_of[text].add(label)
    if torn := [text for text, found in labels_of.items() if len(found) > 1]:
        named = ", ".join(sorted(labels_of[torn[0]])[:3])
        lines.append(
            f"{_counted(len(torn), 'text has', 'texts have')} different labels, "
            f"{torn[0][:40]!r} for one ({named})"
        )
    return lines


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def tell(name: str, lines: Iterable[str]) -> None:
    """Each line as a notice about the data of that name."""
    for line in lines:
        notice(f"{name}: {line}")
