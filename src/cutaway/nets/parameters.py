"""How many parameters a network has, component by component, tied weights counted once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


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
    """Parameters per component of the network a description names (no memory is taken)."""
    from cutaway.nets.architectures import build

    with torch.device("meta"):
        return parameters_by_component(build(description))
