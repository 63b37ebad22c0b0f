"""Labelled texts, their documents, and a split in which no document is on two sides.

Texts of one document share names, topics and phrases, so a probe that met the document in
training is tested on what it has seen. `groups` says which document a text is from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cutaway.base.columns import column, name_of, positions, require_lengths
from cutaway.base.errors import UserError
from cutaway.base.seeds import numpy_generator
from cutaway.labelled.official import PARTS, official, part_of

SHARES = (0.6, 0.2, 0.2)  # of texts for training, validation and test
FEWEST = 10  # texts of a class below which nothing is learnt or tested


@dataclass(frozen=True)
class LabelledTexts:
    """A task: texts, a label for each, and the document (or chapter) each is from.

    The columns are what `base.columns.column` takes, read by position, and become lists of texts.
    `split`: the part (train, validation, test) that came with the data for each text, or None.
    Raises UserError where there is one label only, a missing value, a class of under 10 texts, or,
    without a split, a class from fewer than three groups, which cannot be in training, validation
    and test.
    """

    name: str
    texts: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    split: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for field in ("texts", "labels", "groups", "split"):
            if getattr(self, field) is not None:
                values = self._named(getattr(self, field), field)
                object.__setattr__(self, field, values)
        sizes = Counter(self.labels)
        lengths = {name: len(getattr(self, name)) for name in ("texts", "labels", "groups")}
        if self.split is not None:
            lengths["split"] = len(self.split)
        require_lengths(self.name, lengths)
        if not self.texts:
            raise UserError(f"{self.name}: no text in it")
        if len(sizes) < 2:
            raise UserError(
                f"{self.name}: every text has the label {next(iter(sizes))!r}; a task needs two "
                "classes or more"
            )
        rare, count = min(sizes.items(), key=lambda item: item[1])
        if count < FEWEST:
            raise UserError(
                f"{self.name}: label {rare!r} has {count} {'text' if count == 1 else 'texts'}; "
                f"expected {FEWEST} or more"
            )
        if self.split is not None:
            return
        documents = Counter(label for label, _ in set(zip(self.labels, self.groups, strict=True)))
        rare, count = min(documents.items(), key=lambda item: item[1])
        if count < len(PARTS):
            raise UserError(
                f"{self.name}: label {rare!r} comes from {count} document(s); expected "
                f"{len(PARTS)} or more, so that train, validation and test share none"
            )

    def _named(self, given: Sequence[str], field: str) -> list[str]:
        """A column as a list of texts, by position."""
        values = column(given, f"{self.name}: {field}")
        if gaps := [row for row, value in enumerate(values) if value is None]:
            raise UserError(f"{self.name}: {field}: missing at {positions(gaps)}")
        if field == "split":
            return [part_of(value, f"{self.name}: split") for value in values]
        if field == "texts":
            for row, value in enumerate(values):
                if not isinstance(value, str):
                    kind = type(value).__name__
                    raise UserError(
                        f"{self.name}: texts: {kind} at position {row}, expected a text"
                    )
            return values
        return [name_of(value) for value in values]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted(set(self.labels)))

    @cached_property
    def label_ids(self) -> np.ndarray:
        """The place of each text's label in `classes`, (n,)."""
        place = {label: index for index, label in enumerate(self.classes)}
        return np.array([place[label] for label in self.labels])

    @cached_property
    def group_ids(self) -> np.ndarray:
        """A number for each text's group, (n,)."""
        place = {group: index for index, group in enumerate(dict.fromkeys(self.groups))}
        return np.array([place[group] for group in self.groups])

    def __len__(self) -> int:
        return len(self.texts)

    def chosen(self, rows: Sequence[int] | np.ndarray) -> LabelledTexts:
        """The task with these texts only."""
        return LabelledTexts(
            self.name,
            [self.texts[row] for row in rows],
            [self.labels[row] for row in rows],
            [self.groups[row] for row in rows],
            None if self.split is None else [self.split[row] for row in rows],
        )

    def parts(self, shares: Sequence[float] = SHARES, seed: int = 0) -> np.ndarray:
        """The part of each text, (n,): as it came with the data, else by document.

        See `official.official` for the first and `split_by_group` for the second.
        """

        def deal(labels: np.ndarray, groups: np.ndarray, into: Sequence[float]) -> np.ndarray:
            return split_by_group(names[labels], groups, shares=into, seed=seed)

        names, found = np.array(self.classes), None
        if self.split is not None:
            known = (self.label_ids, self.group_ids)
            found = official(self.name, self.split, *known, shares, deal)
        return deal(self.label_ids, self.group_ids, shares) if found is None else found

    def limited(self, count: int, seed: int = 0) -> LabelledTexts:
        """At most `count` texts, as equally many of each class as there are, drawn by the seed.

        Groups take turns, so that texts of a large document do not crowd out the others.
        """
        if len(self) <= count:
            return self
        generator = numpy_generator(seed, 0, "texts of a task")
        rows = turns(self.group_ids, generator.permutation(len(self)))
        return self.chosen(np.sort(turns(self.label_ids, rows)[:count]))


def split_by_group(
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> np.ndarray:
    """Which part each text is in, (n,): 0 train, 1 validation, 2 test; a group is in one only.

    Groups, large ones first, the others in the seed's order, go where the classes they hold are
    most lacking: largest Σ_c (share of class c in the group)·(share still missing there), so that
    every part has every class as nearly as groups allow. Raises UserError where one has not.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    names, groups = np.unique(groups, return_inverse=True)
    held = np.zeros((len(names), len(classes)))
    np.add.at(held, (groups, labels), 1)
    held /= held.sum(0)
    generator = numpy_generator(seed, 0, "split by group")
    order = generator.permutation(len(names))
    order = order[np.argsort(-np.floor(np.log2(held[order].sum(1))), kind="stable")]
    wanted = np.asarray(shares, dtype=float)
    missing = np.tile(wanted[:, None] / wanted.sum(), len(classes))
    part = np.zeros(len(names), dtype=np.int64)
    for group in order:
        # relative to the part's size, so that a group goes to a large part and a small one alike
        need = (missing / wanted[:, None]) @ held[group]
        part[group] = place = int(need.argmax())
        missing[place] -= held[group]
    found = part[groups]
    for index in range(len(wanted)):
        lacking = set(range(len(classes))) - set(labels[found == index].tolist())
        if lacking:
            raise UserError(
                f"split: no document left for {PARTS[index] if len(wanted) == 3 else index} with "
                f"label {str(classes[min(lacking)])!r}; give more documents"
            )
    return found


def turns(kinds: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`rows` in an order in which their kinds take turns; within a kind as they stand."""
    kind = kinds[rows]
    order = np.argsort(kind, kind="stable")
    begins = np.searchsorted(kind[order], kind[order])
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - begins
    return rows[np.argsort(turn, kind="stable")]
