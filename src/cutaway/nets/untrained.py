"""The same architecture with fresh random weights: what a probe finds that training did not put there."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.base.seeds import stream
from cutaway.nets.architectures import build, describe
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model


def untrained(model: Model, source: str | Path, seed: int = 0) -> Model:
    """A second `model`, opened again from `source`, with the weights of its architecture at the start.

    Weights are those its own initialiser makes: a run's network that of `nets.architectures` at
    `seed`; one from Hugging Face what its class makes of its configuration. They are drawn on the
    CPU in float32, then cast, so that every device and dtype has the same. Sites, tokenizer, dtype and
    device are the model's. Its reference carries the model's own id and `untrained:SEED` in place of a
    hash. The process's random streams are left as they were. Raises UserError where `source` no longer
    holds the model.
    """
    known = model.reference
    name = f"{source}@{known.revision}" if known.revision and "@" not in str(source) else source
    with torch.random.fork_rng(devices=[]):  # building a network draws weights, also to load others
        found = open_model(
            name,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            step="best" if known.step is None else known.step,
        )
        if not found.reference.same_model(known):
            raise UserError(f"model = '{source}': is not the model that was read before")
        found.module.load_state_dict(_fresh(found.module, known.kind, seed))
    found.abilities = model.abilities  # of the architecture, not of its weights
    found.reference = replace(known, weights_sha256=f"untrained:{seed}", quantisation=None)
    return found


def _fresh(module: nn.Module, kind: str, seed: int) -> dict[str, Tensor]:
    """The state of a new network of this shape; moves the CPU's random stream."""
    if kind == "run":
        return build(describe(module), seed).state_dict()
    hardware.reseed(torch.device("cpu"), stream(seed, 0, "untrained"))
    return type(module)(copy.deepcopy(module.config)).state_dict()
