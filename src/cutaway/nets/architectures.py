"""The registry of architectures: a name and plain numbers in, a network out, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from cutaway.base.doors import door
from cutaway.base.errors import UserError, nearest
from cutaway.nets.backpack import Backpack, BackpackConfig
from cutaway.nets.gpt2 import GPT2
from cutaway.nets.modular import MLPConfig, ModularMLP, RoutedConfig, RoutedMLP
from cutaway.nets.modular_transformer import ModularTransformer, ModularTransformerConfig
from cutaway.nets.trunk import TrunkConfig

ARCHITECTURES: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "gpt2": (GPT2, TrunkConfig),
    "backpack": (Backpack, BackpackConfig),
    "modular_mlp": (ModularMLP, MLPConfig),
    "modular_routed": (RoutedMLP, RoutedConfig),
    "modular_transformer": (ModularTransformer, ModularTransformerConfig),
}


@door
def build(description: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network a description names, e.g. `{"name": "gpt2", "vocab_size": 8000, ...}`."""
    if not isinstance(description, Mapping):
        raise TypeError(f"description: expected a mapping, got {type(description).__name__}")
    description = dict(description)
    name = description.pop("name", None)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(
            f"architecture = {name!r}: expected one of {known}{nearest(str(name), ARCHITECTURES)}"
        )
    network, config = ARCHITECTURES[name]
    wrong = set(description) - {field.name for field in fields(config)}
    if wrong:
        raise UserError(f"architecture {name!r} has no field {sorted(wrong)[0]!r}")
    return network(config(**description), seed)


def describe(model: nn.Module) -> dict[str, Any]:
    """What `build` needs to make a network of this shape again: plain data, for a run's record."""
    for name, (network, _) in ARCHITECTURES.items():
        if type(model) is network:
            return {"name": name, **asdict(model.config)}
    raise UserError(f"{type(model).__name__} is not a registered architecture")
