"""How many parameters a network has, component by component, tied weights counted once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cutaway.base.errors import UserError


def parameters_by_component(model: nn.Module) -> dict[str, int]:
    """Parameters per component: top-level parts, the trunk opened into its own.

    Blocks are counted together; a shared tensor counts where it is first met.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():  # each shared tensor appears once
        parts = name.split(".")
        component = parts[1] if parts[0] == "trunk" else parts[0]
        counts[component] = counts.get(component, 0) + parameter.numel()
    return counts


def total_parameters(model: nn.Module) -> int:
    """All parameters, tied weights once."""
    return sum(parameters_by_component(model).values())


def parameters_of(description: Mapping[str, Any]) -> dict[str, int]:
    """Parameters per component of the network a description names (no memory is taken).

    Of a deep network by those of two and three layers, which takes no longer however deep it is.
    Raises UserError where a matrix would have more cells than there are 64-bit numbers.
    """
    depth = next((name for name in ("n_layer", "n_layers") if name in description), None)
    if depth is None or description[depth] <= 3:
        return _built(description)
    two, three = (_built({**description, depth: layers}) for layers in (2, 3))
    more = description[depth] - 2
    return {name: count + more * (three[name] - count) for name, count in two.items()}


def _built(description: Mapping[str, Any]) -> dict[str, int]:
    from cutaway.nets.architectures import build

    try:
        with torch.device("meta"):
            return parameters_by_component(build(description))
    except (RuntimeError, OverflowError):
        raise UserError(
            "no machine holds a network of "
            + ", ".join(f"{name} = {value}" for name, value in description.items())
        ) from None
