"""What a run of probes is made from, and what its record says of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cutaway.base import hardware
from cutaway.base.errors import whole_in
from cutaway.nets.reference import open_model
from cutaway.probes.data.examples import ProbeData
from cutaway.probes.states.collecting import TOKENS
from cutaway.probes.states.inputs import Inputs, inputs_of
from cutaway.probes.train.config import ProbeConfig


def open_inputs(config: ProbeConfig) -> Inputs:
    """Everything a probe's settings name, opened and checked; UserError where it does not fit."""
    config.require_named()
    data = ProbeData.load(config.data).reading(config.task)
    number = whole_in(config.step)
    step = config.step if number is None else number
    model = open_model(config.model, device=config.device, dtype=config.dtype, step=step)
    found = inputs_of(data, model, config.layers, bos=config.bos)
    return replace(found, forward_tokens=config.forward_tokens or TOKENS)


def parents_of(inputs: Inputs) -> list[dict[str, Any]]:
    """What a run of probes is made from, with hashes."""
    reference, data = inputs.model.reference, inputs.data
    return [
        {**reference.to_json(), "sha256": reference.weights_sha256},
        {"kind": "probe data", "id": data.name, "sha256": data.fingerprint or data.sha256()},
    ]


def settled(config: ProbeConfig, inputs: Inputs) -> ProbeConfig:
    """The settings with what they became on this machine, so that they repeat the run elsewhere."""
    import torch

    found = {
        "device": str(inputs.model.device),
        "dtype": str(inputs.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return config.model_copy(update=found)


def resolved_of(inputs: Inputs) -> dict[str, Any]:
    """What a reader of the run's record should know of them."""
    data = inputs.data
    return {
        "device": hardware.describe(inputs.model.device),
        "dtype": str(inputs.model.dtype).removeprefix("torch."),
        "sites": [str(site) for site in inputs.sites],
        "reading": inputs.reading.to_json(),
        "task": data.task,
        "target": data.target,
        "classes": list(data.classes),
        "prior": list(data.prevalence),
        "counts": data.counts,
    }
