"""Deciding how text is read for a model: its special tokens, and what stands between documents.

Special tokens are those the tokenizer adds by itself. What stood between the documents a model was
trained on is written down nowhere: where the tokenizer and the kind of model do not decide it, the
model reads a few thousand tokens in each way, and the way it expects most is taken.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.text.conversations import conversations, leading, template_of
from cutaway.text.documents import Source
from cutaway.text.packing import PackedText, packed
from cutaway.text.reading import SEPARATORS, Reading
from cutaway.text.sources import source

LONGEST = 1024  # default context length of models that read more
_MEASURED = 4096  # tokens of text that are read in each way
_OF_DOCUMENT = 256  # tokens of one document among them, so that several come to be read
_CLOSE = 0.005  # nats a token: what is no nearer than this to another way is not told from it


def context_length_of(model: Model, asked: int | None) -> int:
    """Tokens of a context: as asked, else what the model reads, at most 1024. UserError beyond it."""
    length = asked or min(model.max_length or LONGEST, LONGEST)
    if model.max_length is not None and length > model.max_length:
        raise UserError(
            f"context_length = {length}: {model.reference.id} reads at most {model.max_length}"
        )
    return length


def special_tokens(
    model: Model, bos: bool | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after a text: the tokenizer's own (None), with BOS (True), none (False).

    UserError where BOS is asked for and the model names none.
    """
    if bos is False:
        return (), ()
    before, after = model.tokenizer.special if model.tokenizer is not None else ((), ())
    if bos and not before:
        if model.bos_id is None:
            raise UserError(f"bos: {model.reference.id} names no BOS token")
        before = (model.bos_id,)
    return before, after


def decided(
    model: Model,
    data: str,
    *,
    context_length: int,
    bos: bool | None = None,
    separator: str = "auto",
    skip_first: bool = True,
    chat: bool = False,
    reply_only: bool = False,
) -> Reading:
    """How a source's text is read for a model: see `Reading`.

    `bos` as in `special_tokens`; `separator` is `bos`, `eos`, `both`, `none` or `auto`. Tells with a
    notice what `auto` measured. With `chat` the data are conversations: the model's template says
    what stands in and between them, and with `reply_only` only the states of replies count. UserError
    for a separator the model has no token for, and for a model without a template.
    """
    if reply_only and not chat:
        raise UserError("reply_only: goes with chat, which says what a reply is")
    if separator not in SEPARATORS:
        raise UserError(f"separator = {separator!r}: expected one of {', '.join(SEPARATORS)}")
    prefix, suffix = special_tokens(model, bos)
    plain = Reading(prefix, suffix, context_length=context_length, skip_first=skip_first)
    if chat:
        if separator != "auto":
            raise UserError(
                f"separator = {separator!r}: the chat template says what stands between "
                "conversations; leave it out"
            )
        return of_chat(model, bos, plain, reply_only=reply_only)
    if separator != "auto":
        return with_separator(plain, model, separator)
    if (known := _known(model)) is not None:
        return with_separator(plain, model, known)
    return _measured(plain, model, data)


def of_chat(model: Model, bos: bool | None, plain: Reading, *, reply_only: bool) -> Reading:
    """The reading of conversations in the model's chat template, with the length and positions of
    `plain`.

    Contexts and conversations begin with BOS where the template begins a conversation with it
    (`bos` None); contexts in any case (True), neither (False). UserError where there is no template.
    """
    template = template_of(model.reads)
    front = leading(model.reads)
    return replace(
        plain,
        prefix=special_tokens(model, True)[0] if bos else () if bos is False else front,
        suffix=(),
        before=() if bos is False else front,
        after=(),
        chat=template.sha256,
        chat_date=template.today,
        reply_only=reply_only,
    )


def with_separator(reading: Reading, model: Model, separator: str) -> Reading:
    """The reading with `bos`, `eos`, `both` or `none` between documents."""
    before: tuple[int, ...] = ()
    if separator in ("bos", "both"):
        if (id := _bos(model)) is None:
            raise UserError(f"separator = {separator!r}: {model.reference.id} names no BOS token")
        before = (id,)
    after = (model.reads.end_of_text,) if separator in ("eos", "both") else ()
    return replace(reading, before=before, after=after)


def pack(
    model: Model,
    data: str,
    tokens: int,
    context_length: int | None,
    *,
    bos: bool | None = None,
    reading: Reading | None = None,
) -> PackedText:
    """A source's text in contexts that `model` reads, as `reading` says, or `reading.decided` with
    `bos`. UserError for what does not fit the model."""
    length = context_length_of(model, context_length)
    if reading is None:
        reading = decided(model, data, context_length=length, bos=bos)
    if reading.chat is not None:
        texts: Source = conversations(data, model.reads, reading)
    else:
        texts = source(data)
    text = packed(texts, model.reads, length, tokens=tokens, reading=reading)
    if text.largest_id >= model.vocab_size:
        raise UserError(
            f"{model.reference.id}: its tokenizer gave id {text.largest_id}, and the model has ids "
            f"0 to {model.vocab_size - 1}; the tokenizer belongs to another model"
        )
    return text


# -- inside ----------------------------------------------------------------------------------------


def _bos(model: Model) -> int | None:
    prefix = model.tokenizer.special[0] if model.tokenizer is not None else ()
    return prefix[0] if prefix else model.bos_id


def _known(model: Model) -> str | None:
    """What stands between documents where the tokenizer and the kind of model decide it."""
    if model.reference.kind == "run" or not model.causal:
        return "eos"  # as `training` packs; [SEP] of encoders
    prefix, suffix = model.reads.special
    bos = _bos(model)
    if bos is None or bos == model.reads.end_of_text:
        return "eos"
    if prefix and suffix:
        return "both"
    if suffix:
        return "eos"
    if not model.abilities.head:
        return "bos" if prefix else "eos"
    return None


def _measured(plain: Reading, model: Model, data: str) -> Reading:
    """The separator under which the model expects the text most."""
    documents = _sample(model, data)
    usual = "bos" if plain.prefix else "eos"
    if len(documents) < 2:
        return with_separator(plain, model, usual)  # one document: there is nothing between
    found = {}
    for name in ("bos", "eos", "both", "none"):
        found[name] = _surprise(with_separator(plain, model, name), model, documents)
    shared = torch.stack(list(found.values())).isfinite().all(0)
    nats = {name: float(each[shared].mean()) for name, each in found.items()}
    if not shared.any() or not all(map(math.isfinite, nats.values())):
        return with_separator(plain, model, usual)
    best = min(nats.values())
    order = [usual, *(name for name in nats if name != usual)]
    chosen = next(name for name in order if nats[name] <= best + _CLOSE)
    told = ", ".join(
        f"{name} {value:.3f}" for name, value in sorted(nats.items(), key=lambda x: x[1])
    )
    notice(
        f"separator: {chosen} between documents, as {model.reference.id} expects "
        f"{int(shared.sum()):,} tokens of {data} best so ({told} nats per token); --separator sets it"
    )
    measured = {name: round(value, 6) for name, value in nats.items()}
    return replace(with_separator(plain, model, chosen), measured=measured)


def _sample(model: Model, data: str) -> list[list[int]]:
    """The beginnings of a source's first documents, about `_MEASURED` tokens."""
    documents, count = [], 0
    for document in itertools.islice(source(data).documents(), _MEASURED):
        ids = model.reads.encode(document.text[: 16 * _OF_DOCUMENT])[:_OF_DOCUMENT]
        if ids:
            documents.append(ids)
            count += len(ids)
        if count >= _MEASURED:
            break
    return documents


@torch.no_grad()
def _surprise(reading: Reading, model: Model, documents: list[list[int]]) -> Tensor:
    """−log p of each token of the documents in their order, NaN where it begins a context."""
    ids, number = [], []
    count = 0
    for document in documents:
        ids += [*reading.before, *document, *reading.after]
        number += [
            *(-1,) * len(reading.before),
            *range(count, count + len(document)),
            *(-1,) * len(reading.after),
        ]
        count += len(document)
    payload = (reading.context_length or LONGEST) - reading.overhead
    found = torch.full((count,), torch.nan)
    for start in range(0, len(ids), payload):
        some = ids[start : start + payload]
        tokens = torch.tensor([[*reading.prefix, *some]], device=model.device)
        if tokens.shape[1] < 2:
            continue
        logits = model.logits(tokens)[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").cpu()
        places = np.array([*(-1,) * len(reading.prefix), *number[start : start + payload]])[1:]
        kept = torch.from_numpy(places >= 0)
        found[torch.from_numpy(places[places >= 0])] = loss[kept]
    return found
