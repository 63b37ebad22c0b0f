"""Parameters of a configuration, and the nearest configurations that have a wanted number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from cutaway.base.errors import UserError
from cutaway.language.config import LanguageConfig, divisors
from cutaway.nets.parameters import parameters_of

_LARGEST_WIDTH = 2048
_LARGEST_VOCABULARY = 262_144


def sized(config: LanguageConfig) -> LanguageConfig:
    """The config with its vocabulary's size in it, asked of its pretrained tokenizer if it has one."""
    if config.vocab_size is not None:
        return config
    from cutaway.text.tokenizers import pretrained

    try:
        return config.model_copy(update={"vocab_size": pretrained(config.tokenizer).vocab_size})
    except UserError as error:
        raise UserError(f"{error}; or say its size with --vocab-size") from None


def components(config: LanguageConfig) -> dict[str, int]:
    """Parameters per component of the network this config makes."""
    return parameters_of(config.architecture(config.vocab_size))


def total(config: LanguageConfig) -> int:
    """All parameters, tied weights once."""
    return sum(components(config).values())


def nearest_configurations(config: LanguageConfig, target: int) -> list[dict[str, Any]]:
    """The values of vocab_size, n_embd and n_senses, one changed at a time, nearest to `target`.

    Rows of field, value, parameters, off (parameters less target). Widths keep the heads and
    senses dividing them; a field that cannot come within 10 % is left out.
    """
    step = config.n_head if config.model == "gpt2" else math.lcm(config.n_head, config.n_senses)
    ways: dict[str, Iterable[int]] = {
        "vocab_size": range(257, _LARGEST_VOCABULARY),
        "n_embd": range(step, _LARGEST_WIDTH + 1, step),
    }
    if config.model == "backpack":
        ways["n_senses"] = divisors(config.n_embd)
    rows = []
    for field, values in ways.items():
        value, count = _nearest(list(values), target, lambda v, f=field: total(_with(config, f, v)))
        if abs(count - target) <= 0.1 * target:
            rows.append(
                {"field": field, "value": value, "parameters": count, "off": count - target}
            )
    return sorted(rows, key=lambda row: abs(row["off"]))


def _with(config: LanguageConfig, field: str, value: int) -> LanguageConfig:
    return config.model_copy(update={field: value})


def _nearest(values: list[int], target: int, count: Callable[[int], int]) -> tuple[int, int]:
    """Bisection: the count grows with the value."""
    low, high = 0, len(values) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(values[middle]) <= target else (low, middle)
    candidates = [(values[i], count(values[i])) for i in {low, high}]
    return min(candidates, key=lambda pair: abs(pair[1] - target))
