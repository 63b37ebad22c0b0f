"""The probe study: probes trained by steps, on the states of a model that is read once."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.nets.parameters import parameters_by_component
from cutaway.nets.reference import checkpoint_of
from cutaway.probes.fitting.methods import trained_prior
from cutaway.probes.states.inputs import Inputs, about_of, require_classes, require_varied
from cutaway.probes.states.probe import Probe, ProbeAbout
from cutaway.probes.train.config import ProbeConfig
from cutaway.probes.train.record import open_inputs, parents_of, resolved_of
from cutaway.probes.train.task import LabelledStates, LayerProbes, ProbeTask
from cutaway.runs.folder import Run
from cutaway.studies.settings import WEIGHTS
from cutaway.studies.study import Prepared, Study
from cutaway.training.instruments import Moment, Stateless

if TYPE_CHECKING:
    import pyarrow as pa

_FEW, _MOST, _LOW = 0.05, 0.99, 0.5  # shares of a class found that make a probe look one-sided


class ProbeStudy(Study[ProbeConfig]):
    name = "probe"
    headline = ("balanced_accuracy", "val_balanced_accuracy", "val_loss", "best_val_loss")
    remarks = MappingProxyType(dict.fromkeys(headline[:2], "at even odds"))

    def prepare(self, config: ProbeConfig) -> Prepared:
        require_trained(config)
        inputs = open_inputs(config)
        parts, examples = {}, {}
        for part in ("train", "validation"):
            states, examples[part] = inputs.states(part)
            parts[part] = LabelledStates(states.values, examples[part].label)
            if part == "train":
                require_varied(states)
        # what states that are not finite have left
        require_classes(replace(inputs.data, parts={**inputs.data.parts, **examples}))
        label = parts["train"].label
        sized = config.sized(len(label))
        loop = sized.loop(len(inputs.sites))
        wide = inputs.model.width_of(inputs.sites) if sized.method == "mlp" else 0
        hidden = len(inputs.sites) * sized.mlp_width * wide
        rows = max(min(sized.batch_size, len(label)), len(parts["validation"].label))
        asked = {"mlp_width": sized.mlp_width}
        needs = [hardware.Need(16 * hidden, WEIGHTS, asked)]
        if wide:
            states = 4 * rows * len(inputs.sites) * sized.mlp_width
            needs.append(hardware.Need(states, "what the hidden layer keeps of its rows", asked))
        hardware.require_memory(needs, hardware.device(sized.device))
        task = ProbeTask(
            _probes(sized, inputs),
            inputs.sites,
            inputs.data.classes,
            *parts.values(),
            batch_size=sized.batch_size,
            pos_weight_cap=sized.pos_weight_cap,
            end=loop.steps,
            seed=sized.seed,
            dtype=str(inputs.model.dtype).removeprefix("torch."),
        )
        prior = trained_prior(label, len(inputs.data.classes), sized.pos_weight_cap)
        about = about_of(
            inputs.data,
            inputs.model,
            inputs.sites[0],
            sized.method,
            reading=inputs.reading,
            trained_prior=prior.tolist(),
        )
        return Prepared(
            task=task,
            loop=loop,
            instruments=[ValidationConfusion(loop.eval_every)],
            parents=parents_of(inputs),
            resolved=resolved_of(inputs)
            | {
                "settings": sized.model_dump(mode="json"),
                "probe": about.to_json(),
                "examples": {part: len(one.label) for part, one in parts.items()},
            },
        )

    def parameters(self, config: ProbeConfig) -> dict[str, int]:
        require_trained(config)
        inputs = open_inputs(config)
        with torch.device("meta"):
            return parameters_by_component(_probes(config, inputs))

    def advise(self, run: Run, config: ProbeConfig) -> list[str]:
        figures, resolved = run.record.metrics, run.record.resolved
        if len(resolved["classes"]) != 2:
            return []
        lines = []
        for site in resolved["sites"]:
            found = [figures[f"val_{name}.{site}"] for name in ("specificity", "recall")]
            low, high = min(found), max(found)
            if low < _FEW or (high > _MOST and low < _LOW):
                much, little = (resolved["classes"][found.index(one)] for one in (high, low))
                lines.append(
                    f"{site}: finds {high:.1%} of {much!r} and {low:.1%} of {little!r}: it calls nearly "
                    "everything the same. Look at the balance of the data (`cutaway probe inspect`) "
                    f"and at pos_weight_cap (it is {config.pos_weight_cap:g})"
                )
        return lines


class ValidationConfusion(Stateless):
    """The table `validation_confusion`: validation examples by step, site, label and what they are
    called if classes were equally frequent."""

    name = "validation_confusion"

    def __init__(self, every: int):
        self.every = every

    def read(self, at: Moment) -> pa.Table:
        import pyarrow as pa

        task: ProbeTask = at.task
        counts = task.counts().tolist()
        rows = [
            {"step": at.step, "site": site, "label": label, "predicted": predicted, "count": count}
            for site, table in zip(task.sites, counts)
            for label, row in zip(task.classes, table)
            for predicted, count in zip(task.classes, row)
        ]
        return pa.Table.from_pylist(rows)


def require_trained(config: ProbeConfig) -> None:
    """UserError for probes that are solved, not trained by steps, and where inputs are not named."""
    if not config.trained:
        raise UserError(
            f"method = {config.method!r}: is solved, not trained by steps; `cutaway probe train` does "
            "that (method minibatch or mlp are trained)"
        )
    config.require_named()


def probes_of(run: Run) -> list[Probe]:
    """The probes of a run that was trained by steps, one per site, from its best checkpoint."""
    resolved = run.record.resolved
    if "probe" not in resolved:
        raise UserError(f"{run.path}: holds no probes that were trained by steps")
    about = ProbeAbout.from_json(resolved["probe"])
    tensors = checkpoint_of(run, "best").tensors["model"]
    return [
        Probe(replace(about, site=site), **{name: one[index] for name, one in tensors.items()})
        for index, site in enumerate(resolved["sites"])
    ]


def _probes(config: ProbeConfig, inputs: Inputs) -> LayerProbes:
    classes = len(inputs.data.classes)
    return LayerProbes(
        inputs.sites,
        inputs.model.width_of(inputs.sites),
        outputs=1 if classes == 2 else classes,
        hidden=config.mlp_width if config.method == "mlp" else None,
        seed=config.seed,
    )
