"""The grokking study: from settings to a task with its instruments, for one run or a stack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cutaway.base.display import notice
from cutaway.dynamics.adam import AdamDynamics
from cutaway.dynamics.hessian import WeightCurvature
from cutaway.dynamics.norms import WeightNorms
from cutaway.dynamics.representation import RepresentationNorm
from cutaway.dynamics.sensitivity import InputSensitivity
from cutaway.grokking.advice import advice
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.data import split
from cutaway.grokking.instruments import Routing, RoutingTable, Spectrum
from cutaway.grokking.task import GrokkingTask
from cutaway.nets.architectures import build
from cutaway.nets.stacked import stack
from cutaway.runs.folder import Run
from cutaway.studies.study import Prepared, Study
from cutaway.training.instruments import Instrument

_FEW = 1000  # training pairs below which fewer of them are probed


class GrokkingStudy(Study[GrokkingConfig]):
    name = "grokking"
    headline = ("train_acc", "test_acc", "test_loss")

    def prepare(self, config: GrokkingConfig) -> Prepared:
        return self.prepare_together([config])[0]

    def architecture(self, config: GrokkingConfig) -> dict[str, Any]:
        return config.architecture()

    def prepare_together(self, configs: Sequence[GrokkingConfig]) -> list[Prepared]:
        first = configs[0]
        splits = [split(c.p, c.operation, c.train_frac, c.data_seed) for c in configs]
        networks = [build(c.architecture(), c.seed) for c in configs]
        model = networks[0] if len(configs) == 1 else stack(networks)
        if first.precision == "float64":
            model = model.double()
        task = GrokkingTask(model, configs, splits)
        instruments = _instruments(first)
        for line in dict.fromkeys(line for c in configs for line in c.ignored()):
            notice(line)
        return [
            Prepared(
                task=task,
                instruments=instruments,
                parents=[{"kind": "pairs", "id": _data_name(c), "sha256": _digest(s.train_pairs)}],
                resolved={
                    "architecture": c.architecture(),
                    "train_pairs": len(s.train_pairs),
                    "test_pairs": len(s.test_pairs),
                },
                notices=c.ignored(),
            )
            for c, s in zip(configs, splits)
        ]

    def advise(self, run: Run, config: GrokkingConfig) -> list[str]:
        history = run.read("history")
        return [] if history is None else advice(history, config)


def _instruments(config: GrokkingConfig) -> list[Instrument]:
    every = config.log_every
    found: list[Instrument] = [WeightNorms(every)]
    if config.compute_sensitivity:
        few = config.train_frac * config.pairs < _FEW  # a small step leaves little time to look
        sensitivity = InputSensitivity(every, 64, 1) if few else InputSensitivity(every)
        found += [Spectrum(every), sensitivity, RepresentationNorm(every)]
    if config.compute_optimizer_metrics:
        found.append(AdamDynamics(every))
    if config.compute_weight_curvature:
        found.append(WeightCurvature(config.weight_curvature_interval))
    if config.model_type == "routed":
        found += [Routing(every), RoutingTable(config.routing_every)]
    return found


def _data_name(config: GrokkingConfig) -> str:
    return (
        f"{config.operation} modulo {config.p}, {config.train_frac:.0%} of pairs, "
        f"data_seed {config.data_seed}"
    )


def _digest(pairs: Tensor) -> str:
    return hashlib.sha256(pairs.numpy().tobytes()).hexdigest()
