"""Windows of text before a token: is the next token (or the last one read) the target?

Every position of a document with `context_length` tokens before it is a place where the target may
stand. Documents are dealt out to training, validation and test; training draws equally many places
with the target and without it, the others draw places as the text has them.
"""

from __future__ import annotations

import numpy as np

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.seeds import numpy_generator
from cutaway.labelled.texts import FEWEST
from cutaway.probes.data.examples import PARTS, Examples, ProbeData, Task
from cutaway.probes.data.places import Texts, drawn, read, require_ratio, shares, split_texts
from cutaway.text.documents import Source
from cutaway.text.tokenizers import Tokenizer

OTHER = "other"  # the class of every token that is not the target
_UNKNOWN = ("[UNK]", "<unk>")


def token_data(
    source: Source,
    tokenizer: Tokenizer,
    target: str,
    *,
    task: Task = "next",
    context_length: int = 256,
    max_texts: int = 1000,
    max_chunks_per_class: int = 10_000,
    max_evaluation: int = 10_000,
    train_ratio: float = 0.8,
    seed: int = 0,
) -> ProbeData:
    """Windows of `context_length` tokens that end just before a place, and whether `target` is there.

    Contexts hold one token more, that of the place itself, so that `ProbeData.reading` serves the
    tasks `next` and `current` alike. The end-of-text token is in no window and is never asked for;
    no window crosses a document. `train_ratio` 0.8 deals the places of the first `max_texts`
    documents out 80/10/10, by document; texts that repeat another are left out, and those that
    share text (`repeats.related`) go to one part. Training takes at most `max_chunks_per_class`
    places of either class, equally many, at random; validation and test at most `max_evaluation`
    places, uniformly without replacement. `prevalence` is the share over all places of the training
    documents. Where no split by document leaves either class ten places in every part, documents
    are cut into sections of consecutive text, with a notice. A pure function of the source's
    content, the tokenizer and the settings.

    Raises UserError for a target that is not one token, is not in the corpus, or is in a part
    under ten times, for an empty corpus, for one whose documents are all shorter than a window and
    its place, and for settings out of range.
    """
    if task not in ("next", "current"):
        raise UserError(f"task = {task!r}: expected next or current")
    require_ratio(train_ratio)
    counts = {
        "context_length": context_length,
        "max_texts": max_texts,
        "max_chunks_per_class": max_chunks_per_class,
        "max_evaluation": max_evaluation,
    }
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} = {value}: expected 1 or more")
    target_id = single_token(tokenizer, target)
    text = read(source, tokenizer, max_texts)
    texts = Texts.of(text, context_length, target_id)
    _require_places(source, texts, target)
    texts, split = _dealt_out(source, texts, target, train_ratio, seed)
    parts: dict[str, Examples] = {}
    held: dict[str, Texts] = {}
    for index, name in enumerate(PARTS):
        held[name] = part = texts.chosen(split == index)
        draw = numpy_generator(seed, 0, f"probe {name}")
        if name == "train":
            count = min(max_chunks_per_class, len(part.hits), len(part) - len(part.hits))
            numbers = np.concatenate(
                [part.hits[drawn(draw, len(part.hits), count)], part.others(draw, count)]
            )
        else:
            numbers = drawn(draw, len(part), max_evaluation)
        parts[name] = part.examples(np.sort(numbers))
    _require_enough(parts, target, max_evaluation)
    share = len(held["train"].hits) / len(held["train"])
    return ProbeData(
        name=f"{source.name}: {target!r}",
        task=task,
        classes=(OTHER, target),
        prevalence=(1 - share, share),
        documents=texts.names,
        parts=parts,
        tokenizer=tokenizer,
        target=target,
        target_id=target_id,
        context_length=context_length,
        balanced=True,
        seed=seed,
        source={
            "data": source.name,
            "content": source.fingerprint(),
            "documents": len(text.names),
            "split": "sections" if texts.sections else "documents",
            "places": {name: len(part) for name, part in held.items()},
            "max_texts": max_texts,
            "max_chunks_per_class": max_chunks_per_class,
            "max_evaluation": max_evaluation,
            "train_ratio": train_ratio,
        },
    )


def single_token(tokenizer: Tokenizer, target: str) -> int:
    """The id of a text that is one token. UserError for any other, saying which tokens it is."""
    if not target:
        raise UserError("target = '': expected the text of one token, such as ' the'")
    ids = tokenizer.encode(target)
    if len(ids) == 1 and tokenizer.token(ids[0]) not in _UNKNOWN:
        return ids[0]
    bare = target.strip(" ")
    close = [
        repr(one)
        for one in (f" {bare}", bare)
        if one != target and bare and len(tokenizer.encode(one)) == 1
    ]
    are = ", ".join(repr(tokenizer.token(id)) for id in ids) or "none"
    hint = f"; {' and '.join(close)} would be one" if close else ""
    raise UserError(
        f"target = {target!r}: {len(ids)} tokens under {tokenizer.name} ({are}), expected one"
        f"{' that it knows' if len(ids) == 1 else ''}{hint}"
    )


# -- inside ----------------------------------------------------------------------------------------


def _require_places(source: Source, texts: Texts, target: str) -> None:
    """Refuse a corpus that has no place, or the target (or anything else) not or hardly once."""
    length = texts.context_length
    if not len(texts):
        raise UserError(
            f"context_length = {length}: every document of {source.name} is shorter than such a "
            "window and the token after it; give a smaller context_length or longer texts"
        )
    short = len(texts.names) - len(texts.first)
    if short:
        notice(
            f"{source.name}: {short:,} of {len(texts.names):,} texts have at most {length} tokens "
            "and hold no window"
        )
    others, hits = texts.counts().sum(0).tolist()
    if not hits:
        raise UserError(
            f"target = {target!r}: never seen at the {others:,} places of {source.name}; choose "
            "another target or give more text"
        )
    if min(hits, others) < len(PARTS) * FEWEST:
        raise UserError(
            f"target = {target!r}: at {hits:,} of {hits + others:,} places of {source.name}; "
            f"expected {FEWEST} with it and {FEWEST} without in each of {', '.join(PARTS)}; choose "
            "another target or give more text"
        )


def _dealt_out(
    source: Source, texts: Texts, target: str, train_ratio: float, seed: int
) -> tuple[Texts, np.ndarray]:
    """The texts, whole or in sections, and the part each goes to."""
    split = split_texts(texts, train_ratio, seed)
    if split is None:
        whole, texts = texts, texts.divided()
        split = split_texts(texts, train_ratio, seed)
        if split is None:
            raise UserError(
                f"target = {target!r}: the {len(whole.first)} texts of {source.name} cannot be "
                f"divided so that it is at {FEWEST} places or more in each of {', '.join(PARTS)}; "
                "give more text, a shorter context_length or a more frequent target"
            )
        notice(
            f"{source.name}: {len(whole.first)} texts with windows are too few to be split by "
            f"document; cut into {len(texts.first)} sections of consecutive text: train and test "
            "share documents, though no section"
        )
    reached = np.bincount(split, texts.count, len(PARTS)) / len(texts)
    wanted = np.array(shares(train_ratio))
    if (reached > 2 * wanted).any() or (reached < wanted / 2).any():
        said = ", ".join(f"{name} {share:.0%}" for name, share in zip(PARTS, reached, strict=True))
        notice(f"{source.name}: {len(texts.first)} texts allow no nearer split than {said}")
    return texts, split


def _require_enough(parts: dict[str, Examples], target: str, max_evaluation: int) -> None:
    for name, part in parts.items():
        hits = int(part.label.sum())
        if min(hits, len(part) - hits) < FEWEST:
            field = "max_chunks_per_class" if name == "train" else "max_evaluation"
            raise UserError(
                f"target = {target!r}: at {hits} of the {len(part):,} places drawn for {name}, "
                f"expected {FEWEST} or more with it and without; raise {field} or choose another "
                "target"
            )
