"""What a feature does to its model: switched off, set, scaled or added to, while the model runs.

with feature_effect(model, dictionary, None, {12: 0.0}):
    model.logits(tokens)          # as if feature 12 had never fired

Only the feature's own contribution changes, (new − old)·d_f; what the dictionary does not explain
stays in the state, so that with unchanged values the model is unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.activations.splice import Change, Positions, replace, splice
from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.dictionaries import origin
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model_at, skips_first
from cutaway.nets.model import Model
from cutaway.nets.sampling import continued
from cutaway.nets.sites import Site
from cutaway.nets.tokens import token_ids
from cutaway.stats.ties import largest
from cutaway.text.reading import Reading

Mode = Literal["set", "scale", "add"]


def feature_effect(
    model: Model,
    dictionary: Dictionary,
    site: str | int | Site | None,
    features: Mapping[int, float],
    *,
    mode: Mode = "set",
    positions: Positions | Literal["trained"] = "trained",
) -> AbstractContextManager[Model]:
    """Within it the model runs with some features' activations changed at the dictionary's site.

        state + Σ (new − old)·decoder_row,   new = value | value · old | old + value

    by `mode` `set`, `scale` or `add`; values are in the units of `encode`. `{i: 0.0}`
    ablates feature i, `{i: 5.0}` with `add` steers along its row. `positions` are the changed ones;
    `trained`: those it was trained on, all but position 0 as a rule. `site` None: where it was
    trained. Raises UserError
    for a feature the dictionary lacks, another mode, or another model's dictionary.
    """
    place = require_model_at(dictionary, model, site)
    return splice(model, {place: changed(dictionary, features, mode=mode, positions=positions)})


def changed(
    dictionary: Dictionary,
    features: Mapping[int, float],
    *,
    mode: Mode = "set",
    positions: Positions | Literal["trained"] = "trained",
) -> Change:
    """The change of `feature_effect` as a function of states (batch, T, d), for `splice`."""
    if mode not in get_args(Mode):
        raise UserError(f"mode = {mode!r}: expected one of {', '.join(get_args(Mode))}")
    if not features:
        raise UserError("features: none given; expected {index: value}")
    count = dictionary.shape.d_hidden
    for index in features:
        if not 0 <= index < count:
            raise UserError(f"feature = {index}: the dictionary has features 0 to {count - 1}")
    if isinstance(positions, str):
        first = origin.first_position(dictionary)
        positions = slice(first, None) if first else None
    device = dictionary.decoder_weight.device
    chosen = torch.tensor(list(features), device=device)
    values = torch.tensor(list(features.values()), dtype=torch.float32, device=device)

    def change(state: Tensor) -> Tensor:
        flat = state.reshape(-1, state.shape[-1]).to(device, torch.float32)
        old = activations(dictionary, flat, chosen)
        new = {"set": values.expand_as(old), "scale": values * old, "add": old + values}[mode]
        step = (new - old) @ dictionary.decoder_weight.detach()[chosen]
        written = (flat + step).view(state.shape).to(state.device, state.dtype)
        return replace(written, positions)(state)

    return change


@torch.no_grad()
def activations(dictionary: Dictionary, states: Tensor, features: Tensor) -> Tensor:
    """Some features (k,) of raw states (n, d), as `encode` gives them: (n, k)."""
    codes = dictionary.encode_sparse(states)
    column = torch.full((codes.shape[1],), -1, dtype=torch.int64, device=states.device)
    column[features] = torch.arange(len(features), device=states.device)
    owner = column[codes.pattern.features]
    found = owner >= 0
    out = states.new_zeros(len(states), len(features))
    out[codes.pattern.rows[found], owner[found]] = codes.values[found]
    return out


@dataclass(frozen=True)
class LogitChange:
    """What a change does to the next token: tokens by how much their logit moved.

    `raised` and `lowered` hold rows `token_id`, `token`, `before`, `after` (probabilities) and
    `change` (of the logit less its mean over the vocabulary, nats), the largest first, none of 0;
    `divergence` is KL(before ‖ after) in nats.
    """

    raised: list[dict[str, Any]]
    lowered: list[dict[str, Any]]
    divergence: float


@torch.no_grad()
def compare_logits(
    model: Model,
    tokens: Tensor | str,
    change: AbstractContextManager[Any],
    *,
    position: int = -1,
    top: int = 10,
    reading: Reading | None = None,
) -> LogitChange:
    """The next token after `position` of a prompt, without and within `change` (any splice).

    `tokens` (1, T), or a text. Logits are compared less their mean over the vocabulary, which the
    softmax does not see. Raises UserError for a position the prompt lacks and for logits that are not
    finite.
    """
    if not model.abilities.predicts:
        raise UserError(f"the next token's odds: {model.abilities.why_not}")
    ids = prompt_ids(model, tokens, reading)
    if not -ids.shape[1] <= position < ids.shape[1]:
        raise UserError(f"position = {position}: the prompt has {ids.shape[1]} tokens")
    before = hardware.widened(model.logits(ids)[0, position])
    with change:
        after = hardware.widened(model.logits(ids)[0, position])
    for logits, when in ((before, ""), (after, " with the change")):
        if not bool(logits.amax().isfinite()):
            raise UserError(
                f"{model.reference.id}: its logits at position {position}{when} are not finite"
            )
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    moved = (after - after.mean()) - (before - before.mean())
    top = min(top, len(moved))

    def rows(signed: Tensor) -> list[dict[str, Any]]:
        values, which = largest(signed, top)
        return [
            {
                "token_id": id,
                "token": _name(model, id),
                "before": float(p[id].exp()),
                "after": float(q[id].exp()),
                "change": float(moved[id]),
            }
            for id in which[values > 0].tolist()
        ]

    return LogitChange(rows(moved), rows(-moved), float((p.exp() * (p - q)).sum()))


@torch.no_grad()
def firing(
    model: Model,
    dictionary: Dictionary,
    prompt: Tensor | str,
    site: str | int | Site | None = None,
    *,
    reading: Reading | None = None,
) -> list[dict[str, Any]]:
    """Every feature that fires on a prompt (1, T), the strongest first; text is read as in training,
    or as `reading` says.

    States that are not finite are left out, with a notice. Rows `feature`, `activation` (its largest), `token` and `position` (where that is),
    `tokens` (on how many it fires). Position 0 is left out where it was in training. Raises
    UserError as `feature_effect` does.
    """
    place = require_model_at(dictionary, model, site)
    reading = reading or origin.reading(dictionary, model)
    ids = prompt_ids(model, prompt, reading)
    (states,) = capture(model, ids, [place]).values()
    first = max(int(skips_first(dictionary)), len(reading.prefix) * isinstance(prompt, str))
    device = dictionary.decoder_weight.device
    seen = states[0, first:].to(device, torch.float32)
    sound = seen.isfinite().all(1)
    if broken := int((~sound).sum()):
        of = f"{broken} of {len(seen)} states of the prompt at {place} are not finite"
        if broken == len(seen):
            raise UserError(f"{of}; nothing to read")
        notice(f"{of}: left out")
    values = dictionary.encode(seen).masked_fill(~sound[:, None], 0.0)
    if not len(values):
        return []
    largest, where = values.max(0)
    order = largest.argsort(descending=True, stable=True)[: int((largest > 0).sum())].tolist()
    return [
        {
            "feature": index,
            "activation": float(largest[index]),
            "token": _name(model, int(ids[0, first + int(where[index])])),
            "position": first + int(where[index]),
            "tokens": int((values[:, index] > 0).sum()),
        }
        for index in order
    ]


def sample_both(
    model: Model,
    prompt: Tensor | str,
    change: AbstractContextManager[Any],
    *,
    length: int = 50,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    reading: Reading | None = None,
) -> tuple[str, str]:
    """The prompt continued without and within `change`, as texts, with the same random numbers.

    A text is read as `prompt_ids` says; special tokens before it are not in the texts.
    """
    ids = prompt_ids(model, prompt, reading)
    first = len(_before(model, reading)) if isinstance(prompt, str) else 0
    settings = {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed}
    before = sample(model, ids, **settings)
    with change:
        after = sample(model, ids, **settings)
    before, after = (model.reads.decode(one[0, first:].tolist()) for one in (before, after))
    return before, after


def sample(
    model: Model,
    tokens: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Continue tokens (batch, T) by `length`, drawn from softmax(logits / temperature).

    Temperature 0 takes the likeliest; `top_k` draws among that many. A draw inverts the cumulative
    distribution with one uniform number a token, so that under the same seed two models that agree
    draw the same. The context is the model's last `max_length` tokens. Raises UserError for an
    encoder.
    """
    if not model.abilities.predicts:
        raise UserError(f"a sample: {model.abilities.why_not}")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature = {temperature}: expected a finite number, 0 or more")
    tokens = token_ids(tokens)
    generator = torch_generator(seed, 0, "sample")

    def draw(logits: Tensor, temperature: float) -> Tensor:
        chances = (hardware.widened(logits) / temperature).softmax(-1).cumsum(-1)
        uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
        uniform = uniform.to(chances.device) * chances[:, -1:]
        drawn = torch.searchsorted(chances, uniform, right=True)
        return drawn.clamp_(max=logits.shape[-1] - 1).to(logits.device)

    return continued(
        lambda context: model.logits(context)[:, -1],
        tokens.to(model.device),
        length,
        draw,
        context=model.max_length,
        temperature=temperature,
        top_k=top_k,
    )


# -- which model, which site ---------------------------------------------------------------------


def prompt_ids(model: Model, prompt: Tensor | str, reading: Reading | None = None) -> Tensor:
    """One prompt's ids (1, T): tokens as they are; a text with the special tokens before it that
    `reading` has, or without one those the tokenizer adds, and nothing after it. Where that reads
    conversations the text is what a user says, and the model is about to reply."""
    if isinstance(prompt, str) and reading is not None and reading.chat is not None:
        tokens = model.reply_to(prompt, reading)
    elif isinstance(prompt, str):
        ids = model.tokens(prompt, special=False)
        front = torch.tensor([_before(model, reading)], dtype=torch.int64, device=ids.device)
        tokens = torch.cat([front, ids], 1)
    else:
        tokens = token_ids(prompt)
    if tokens.shape[0] != 1 or not tokens.numel():
        raise UserError(f"tokens: shape {tuple(tokens.shape)}, expected one prompt (1, T)")
    return tokens


def _before(model: Model, reading: Reading | None) -> tuple[int, ...]:
    return model.reads.special[0] if reading is None else reading.prefix


def _name(model: Model, id: int) -> str:
    try:
        return f"#{id}" if model.tokenizer is None else model.tokenizer.token(id)
    except IndexError:  # ids beyond the tokenizer's, where the embedding was padded
        return f"#{id}"
