"""Reading features: what each one fires on, how often, how strongly, and what it promotes.

One pass over a text, or over a store of its hidden states; what is held does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.activations.store import ActivationStore
from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.dictionaries import origin
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model, require_model_at, site_of, skips_first
from cutaway.features.collecting import Reader
from cutaway.features.examples import Piece
from cutaway.features.report import Report
from cutaway.features.table import FORMAT, PRIOR, Features
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.text.packing import PackedText
from cutaway.text.reading import Reading

if TYPE_CHECKING:
    from cutaway.text.tokenizers import Tokenizer

Batch: TypeAlias = "tuple[Tensor, Tensor | None, Tensor | None]"
"""tokens (B, T) int64, mask (B, T) with 0 for padding or None, documents (B, T) or (B,) or None."""
Text: TypeAlias = "PackedText | Iterable[Batch]"


def read_features(
    dictionary: Dictionary,
    model: Model | None,
    contexts: Text | ActivationStore,
    *,
    examples: int = 20,
    context: tuple[int, int] = (20, 8),
    top_tokens: int = 10,
    minimum: int = 3,
    tokens: int | None = None,
    batch_size: int = 8192,
    site: str | int | Site | None = None,
    skip_first: bool | None = None,
    tokenizer: Tokenizer | None = None,
) -> Features:
    """Every feature's density, histogram, strongest examples, tokens by lift, promoted tokens.

    `contexts` is packed text, batches (tokens, mask, documents), or a store that holds the
    dictionary's site: then the model runs no pass, and is only asked what features promote.
    `examples` per feature, at most one of a context, with `context` tokens before and after.
    Tokens are ranked by

        lift = (n_ft / p_f + m) / (n_t + m)

    n_ft of the n_t occurrences of token t on which feature f fires, p_f its density: P(fires | t) /
    P(fires) with m = 10 occurrences at the overall rate added, so that a token seen once does not
    win; only tokens with n_ft ≥ `minimum` count. Promoted are the largest of W_U·d_f less their
    mean over the vocabulary, d_f the decoder row, without the final norm; null where the model has
    no decoder weight (a Backpack). Position 0 is left out, but stands in windows (`skip_first`; by
    default as in training). `tokens`: about how many to read, default all; `batch_size`: tokens worked at a time, in whole
    contexts. States that are not finite are left out and counted. Raises UserError where nothing
    is left to read, or model or store do not belong to the dictionary.
    """
    for name, value in (("examples", examples), ("top_tokens", top_tokens), ("tokens", tokens)):
        if value is not None and value < 1:
            raise UserError(f"{name} = {value}: expected 1 or more")
    place = (
        site_of(dictionary, site) if model is None else require_model_at(dictionary, model, site)
    )
    if skip_first is None:
        skip_first = skips_first(dictionary)
    if isinstance(contexts, ActivationStore):
        require_model(dictionary, contexts.reference, contexts.width)
        pieces = _of_store(contexts, contexts.site(place), batch_size, tokens)
        total = min(contexts.rows, tokens or contexts.rows)
    elif model is None:
        raise UserError("model: needed to read features from text; only a store goes without")
    else:
        pieces = _of_text(model, contexts, model.site(place), batch_size)
        total = tokens
    _require_memory(dictionary, examples, context)
    reader = Reader(dictionary, examples, context, skip_first)
    with progress("reading features", total, "tokens") as bar:
        for piece in pieces:
            reader.add(piece)
            bar.update(reader.read)
            if tokens is not None and reader.read >= tokens:
                break
    if not reader.tokens:
        raise UserError("features: no token to read (position 0 is left out)")
    if tokenizer is None and model is not None:
        tokenizer = model.tokenizer
    facts = {
        "format": FORMAT,
        "site": str(place),
        "dictionary": dictionary.describe(),
        "reference": dictionary.metadata.get("reference"),
        "skip_first": skip_first,
        **_reading(dictionary, contexts, tokenizer),
        "left_out": _left_out(model),
        "examples": examples,
        "context": list(context),
        "minimum": minimum,
        "smoothing": PRIOR,
        "units": origin.units(dictionary),
    }
    weight = None if model is None else model.decoder_at(place)
    return Report(reader, tokenizer, top_tokens, minimum, facts).features(weight)


def _reading(
    dictionary: Dictionary, contexts: Text | ActivationStore, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """How the text that is read becomes tokens, as data and in words, where that is known."""
    recorded = dictionary.metadata.get("reading")
    if isinstance(contexts, PackedText | ActivationStore):
        found = contexts.reading
    elif recorded is not None:
        found = Reading.from_json(recorded)
    else:
        return {"reading": None, "read_with": None}
    return {"reading": found.to_json(), "read_with": found.described(tokenizer)}


def _left_out(model: Model | None) -> dict[str, str]:
    """What cannot be told of features of this model, each with the reason."""
    if model is None:
        return {"promoted": "they were read from stored states, without their model"}
    if model.decoder_weight is not None:
        return {}
    why = model.abilities.why_not
    return {
        "promoted": why or f"{model.reference.id} makes logits in another way than by one matrix"
    }


def _require_memory(dictionary: Dictionary, examples: int, context: tuple[int, int]) -> None:
    """Refuse more examples than fit: each has its place, and a window of tokens and activations."""
    each = 16 + 8 * (sum(context) + 1)
    need = hardware.Need(
        dictionary.shape.d_hidden * examples * each,
        f"the examples of {dictionary.shape.d_hidden:,} features",
        {"examples": examples},
    )
    hardware.require_memory([need], dictionary.decoder_weight.device)


def batches(text: Text, batch_size: int) -> Iterator[Batch]:
    """A text's contexts as batches of about `batch_size` tokens; batches come through as they are."""
    if not isinstance(text, PackedText):
        yield from text
        return
    step = max(1, batch_size // text.context_length)
    for start in range(0, text.n_contexts, step):
        found = text.contexts(start, min(start + step, text.n_contexts))
        yield torch.from_numpy(found.tokens), None, torch.from_numpy(found.documents)


def _of_text(model: Model, text: Text, site: Site, batch_size: int) -> Iterator[Piece]:
    first = 0
    for tokens, mask, documents in batches(text, batch_size):
        # several passes where a batch is larger than what is worked at a time
        step = max(1, batch_size // tokens.shape[1])
        for start in range(0, len(tokens), step):
            part = slice(start, start + step)
            chosen = None if mask is None else mask[part]
            owners = None if documents is None else documents[part]
            yield _piece(model, tokens[part], chosen, owners, site, first)
            first += len(tokens[part])


def _piece(
    model: Model,
    tokens: Tensor,
    mask: Tensor | None,
    documents: Tensor | None,
    site: Site,
    first: int,
) -> Piece:
    """One forward pass. Without `documents` each context is one, counted from `first`."""
    states = capture(model, tokens, [site], mask)[site].float()
    device = states.device
    real = torch.ones_like(tokens) if mask is None else mask
    real = real.to(device, torch.bool)
    positions = real.cumsum(1) - 1
    rows = torch.arange(len(tokens), device=device)[:, None].expand(tokens.shape)
    if documents is None:
        documents = rows + first
    else:
        documents = documents.to(device)
        documents = documents[:, None] if documents.ndim == 1 else documents
    whole = (tokens.to(device), positions, documents.expand(tokens.shape), rows)
    return Piece(states[real], *(column[real].long() for column in whole))


def _of_store(
    store: ActivationStore, site: Site, batch_size: int, tokens: int | None
) -> Iterator[Piece]:
    """Rows of the store in pieces that end where a context does."""
    end = min(store.rows, tokens or store.rows)
    step = max(batch_size, 2 * store.context_length)
    start = 0
    while start < end:
        stop = min(start + step, end)
        positions = store.positions(start, min(stop + 1, store.rows)).long()
        begins = (positions[1:] <= positions[:-1]).nonzero().view(-1) + 1
        if stop < end:
            stop = start + int(begins[-1])
        positions = positions[: stop - start]
        contexts = torch.zeros_like(positions)
        contexts[1:] = (positions[1:] <= positions[:-1]).cumsum(0)
        yield Piece(
            store.read(site, start, stop),
            store.tokens(start, stop).long(),
            positions,
            store.documents(start, stop).long(),
            contexts,
        )
        start = stop


# -- inside ----------------------------------------------------------------------------------------
