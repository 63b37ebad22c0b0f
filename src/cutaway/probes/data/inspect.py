"""A look at probe data before anything is trained: balance, samples, and what would spoil them.

Leakage is looked for three ways: documents on two sides, equal contexts, and contexts whose last
tokens stand, in that order, in a context of the training part (a document under two names).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from cutaway.base.errors import UserError
from cutaway.base.seeds import numpy_generator
from cutaway.labelled.texts import FEWEST
from cutaway.probes.data.examples import PARTS, Examples, ProbeData
from cutaway.text.repeats import RUN, run_hashes

_SAID = 0.01  # share of contexts met in training from which that is a warning
_AROUND = 24  # tokens shown on either side of the one read


@dataclass(frozen=True)
class Problem:
    """Something wrong: an `error` makes figures of these data meaningless, a `warning` may."""

    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; rows are ready for a table.

    `balance`: part, class, examples, share, natural (the class's share in all text of the training
    documents). `contexts`: part, contexts, documents, shortest, median, longest, repeated (equal
    to an earlier one of the part), in_train (equal to one in training) and overlap (end with
    `RUN` tokens that stand in one). `samples`: part, class, document, before, read, after, and
    of token tasks next, the token that follows what is read. In token tasks `after` is empty.
    """

    name: str
    task: str
    about: dict[str, Any]
    balance: list[dict[str, Any]]
    contexts: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    problems: list[Problem]

    @property
    def footnote(self) -> str:
        """What the columns of `contexts` are that do not say it themselves, in a line."""
        said = ["repeated: equal to an earlier context of the part"]
        if any(row["in_train"] is not None for row in self.contexts):
            said.append("in_train: equal to one of train")
        if any(row["overlap"] is not None for row in self.contexts):
            said.append(f"overlap: ends with {RUN} tokens that stand in one of train")
        return "; ".join(said)

    @property
    def errors(self) -> list[str]:
        """What makes these data useless."""
        return [one.message for one in self.problems if one.severity == "error"]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def inspect(
    data: ProbeData, *, samples: int = 5, part: str | None = None, seed: int = 0
) -> Inspection:
    """Totals, random samples of each class from a part (default: train), and all that is wrong.

    Errors: ids that the tokenizer does not have, labels that are no class or say something else
    than the token, positions outside of their context, documents in two parts. Warnings: classes
    of under ten examples, an unbalanced training part that should be balanced, sections for
    documents, texts with different labels, and contexts of validation or test that training
    holds; where each is a text of its own, that is an error: the text is in two parts.
    """
    if samples < 0:
        raise UserError(f"samples = {samples}: expected 0 or more")
    if part is not None and part not in data.parts:
        raise UserError(f"part = {part!r}: expected one of {', '.join(data.parts)}")
    read = data if data.fingerprint else data.reading()  # not twice
    contexts, problems = _contexts(read)
    problems = [*_wrong(data, read), *_two_sides(data), *_thin(data), *problems, *_torn(data)]
    about = {
        "target": data.target,
        "target_id": data.target_id,
        "classes": list(data.classes),
        "context_length": data.context_length,
        "documents": len(data.documents),
        "tokenizer": data.tokenizer.name,
        "seed": data.seed,
    }
    shown = _samples(read, part or PARTS[0], samples, seed)
    return Inspection(data.name, data.task, about, _balance(data), contexts, shown, problems)


# -- inside ----------------------------------------------------------------------------------------


def _balance(data: ProbeData) -> list[dict[str, Any]]:
    return [
        {
            "part": name,
            "class": label,
            "examples": count,
            "share": count / max(1, len(data.parts[name])),
            "natural": natural,
        }
        for name in PARTS
        for label, count, natural in zip(
            data.classes, _counts(data, name), data.prevalence, strict=True
        )
    ]


def _counts(data: ProbeData, name: str) -> list[int]:
    """Examples of each class in a part, labels that are no class left out."""
    label = data.parts[name].label
    return [int((label == number).sum()) for number in range(len(data.classes))]


def _wrong(data: ProbeData, read: ProbeData) -> list[Problem]:
    """Values that cannot be."""
    found: list[str] = []
    size = data.tokenizer.vocab_size
    for name, part in data.parts.items():
        tokens = part.compact().tokens
        outside = (tokens < 0) | (tokens >= size)
        if count := int(outside.sum()):
            found.append(
                f"{name}: {count:,} token ids out of range (0 to {size - 1:,} under "
                f"{data.tokenizer.name}), the first {int(tokens[outside][0])}"
            )
        labels = part.label
        if count := int(((labels < 0) | (labels >= len(data.classes))).sum()):
            found.append(f"{name}: {count:,} labels that are none of {len(data.classes)} classes")
        here = read.parts[name]
        room = here.lengths[here.context]
        bad = (here.first < 0) | (here.last < here.first) | (here.last >= room)
        if count := int(bad.sum()):
            found.append(f"{name}: {count:,} examples read outside of their context")
        elif data.target_id is not None and len(part):
            is_target = (_asked(read, here) == data.target_id).long()
            if count := int((is_target != labels).sum()):
                found.append(
                    f"{name}: {count:,} labels do not say whether the token is {data.target!r}"
                )
    return [Problem("error", message) for message in found]


def _asked(read: ProbeData, part: Examples) -> Tensor:
    """The token each example of a token task asks about: the one after it, or the one it reads."""
    return part.token(1 if read.task == "next" else 0)


def _two_sides(data: ProbeData) -> list[Problem]:
    """Documents in two parts, and sections that stand for documents."""
    held = {
        name: {data.documents[one] for one in part.document.unique().tolist()}
        for name, part in data.parts.items()
    }
    found = []
    for index, name in enumerate(PARTS):
        for other in PARTS[index + 1 :]:
            if both := sorted(held[name] & held[other]):
                named = ", ".join(both[:3]) + (" and others" if len(both) > 3 else "")
                found.append(
                    Problem("error", f"{len(both):,} documents in {name} and in {other}: {named}")
                )
    if data.source.get("split") == "sections":
        found.append(
            Problem("warning", "split by sections: train and test share documents, no section")
        )
    return found


def _thin(data: ProbeData) -> list[Problem]:
    found = []
    for name in PARTS:
        for label, count in zip(data.classes, _counts(data, name), strict=True):
            if count < FEWEST:
                found.append(f"{name}: {count} examples of {label!r}, too few to say much")
    trained = _counts(data, PARTS[0])
    if data.balanced and max(trained) > 1.05 * min(trained):
        found.append(f"train: classes are said to be balanced and are not: {trained}")
    return [Problem("warning", message) for message in found]


def _contexts(read: ProbeData) -> tuple[list[dict[str, Any]], list[Problem]]:
    """A row for each part's contexts, and warnings of those that training holds."""
    rows, problems = [], []
    known: set[bytes] = set()
    runs = np.zeros(0, np.uint64)
    for name in PARTS:
        part = read.parts[name].compact()
        ends = part.end.numpy()
        lengths = part.lengths.numpy()
        tokens = part.tokens.numpy()
        whole = [
            tokens[begin:end].tobytes() for begin, end in zip(part.begin.tolist(), ends.tolist())
        ]
        different = set(whole)
        row: dict[str, Any] = {
            "part": name,
            "contexts": len(whole),
            "documents": len(part.document.unique()),
            "shortest": int(lengths.min()) if len(lengths) else None,
            "median": float(np.median(lengths)) if len(lengths) else None,
            "longest": int(lengths.max()) if len(lengths) else None,
            "repeated": len(whole) - len(different),
        }
        hashes, begins = run_hashes(tokens, part.begin.numpy(), ends)
        if name == PARTS[0]:
            known, runs = different, np.unique(hashes)
            rows.append(row | {"in_train": None, "overlap": None})
            continue
        equal = sum(one in known for one in whole)
        long = lengths >= RUN
        last = hashes[np.searchsorted(begins, ends[long] - RUN)]
        overlap = int(np.isin(last, runs).sum())
        rows.append(row | {"in_train": equal, "overlap": overlap if long.any() else None})
        whole_text = _of_texts(read)  # then an equal context is a document in two parts
        for count, what, text in (
            (equal, "have an equal one in train", whole_text),
            (overlap, f"end with {RUN} tokens that stand in one of train", False),
        ):
            if count > _SAID * len(whole):
                share = count / len(whole)
                message = f"{name}: {count:,} of {len(whole):,} contexts ({share:.1%}) {what}"
                if text:
                    message += "; give equal texts one group"
                problems.append(Problem("error" if text else "warning", message))
    return rows, problems


def _of_texts(data: ProbeData) -> bool:
    """Whether every example is a text of its own, with its label."""
    return data.task == "labels" and "texts" in data.source


def _torn(data: ProbeData) -> list[Problem]:
    """Equal texts that have different labels: no probe can be right about all of them."""
    if not _of_texts(data):
        return []
    labels: dict[bytes, set[int]] = defaultdict(set)
    held: Counter[bytes] = Counter()
    for part in data.parts.values():
        one = part.compact()
        ends = zip(one.begin[one.context].tolist(), one.end[one.context].tolist())
        for (begin, end), label in zip(ends, one.label.tolist()):
            text = one.tokens[begin:end].numpy().tobytes()
            labels[text].add(label)
            held[text] += 1
    torn = [text for text, found in labels.items() if len(found) > 1]
    if not torn:
        return []
    first = data.tokenizer.decode(np.frombuffer(torn[0], np.int32).tolist())[:40]
    named = ", ".join(data.classes[one] for one in sorted(labels[torn[0]])[:3])
    count = sum(held[text] for text in torn)
    message = (
        f"{count:,} examples are of {len(torn):,} {'text' if len(torn) == 1 else 'texts'} with "
        f"different labels: {first!r} is {named}"
    )
    return [Problem("warning", message)]


def _samples(data: ProbeData, part: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Random examples of each class, decoded around the token that is read."""
    examples = data.parts[part]
    asked = _asked(data, examples) if data.task == "next" else None
    draw = numpy_generator(seed, 0, f"samples of {part}")
    rows = []
    for number, label in enumerate(data.classes):
        of_class = np.flatnonzero(examples.label.numpy() == number)
        for row in draw.permutation(of_class)[:count].tolist():
            context = int(examples.context[row])
            begin, end = int(examples.begin[context]), int(examples.end[context])
            first, last = begin + int(examples.first[row]), begin + int(examples.last[row])
            tokens = examples.tokens
            one = {
                "part": part,
                "class": label,
                "document": data.documents[int(examples.document[row])],
                "before": _text(data, tokens[max(begin, first - _AROUND) : first].tolist()),
                "read": _text(data, tokens[first : last + 1].tolist()),
                "after": _text(data, tokens[last + 1 : min(end, last + 1 + _AROUND)].tolist()),
            }
            if asked is not None:
                one["next"] = _text(data, [int(asked[row])])
            rows.append(one)
    return rows


def _text(data: ProbeData, ids: Sequence[int]) -> str:
    """Decoded; a single token as itself, ids that there are not as such."""
    size = data.tokenizer.vocab_size
    if all(0 <= id < size for id in ids):
        return data.tokenizer.token(ids[0]) if len(ids) == 1 else data.tokenizer.decode(ids)
    return "".join(
        data.tokenizer.decode([id]) if 0 <= id < size else f"⟨no token {id}⟩" for id in ids
    )
