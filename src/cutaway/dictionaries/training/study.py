"""The dictionary study: from settings and hidden states to a task."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.choice import break_even
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import DictionaryShape
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.training.advice import advice
from cutaway.dictionaries.training.config import FIXED_L0, DictionaryConfig
from cutaway.dictionaries.training.control import Settings
from cutaway.dictionaries.training.instruments import Directions
from cutaway.dictionaries.training.penalties import GROUND_TRUTH, PAIRS, instrument, penalty_of
from cutaway.dictionaries.training.sources import Source, open_source
from cutaway.dictionaries.training.task import DictionaryStack, DictionaryTask
from cutaway.nets.parameters import parameters_by_component
from cutaway.runs.folder import Run
from cutaway.studies.study import Prepared, Study
from cutaway.studies.train import require_memory
from cutaway.training.instruments import Instrument


class DictionaryStudy(Study[DictionaryConfig]):
    name = "dictionary"
    headline = (
        *("val_explained_variance", "val_l0", "val_dead_share", "val_normalised_mse"),
        *("mmcs", "matched_f1", "absorption"),
    )

    def prepare(self, config: DictionaryConfig) -> Prepared:
        source = open_source([config])
        return _prepared(config, source, 0)[0]

    def parameters(self, config: DictionaryConfig) -> dict[str, int]:
        width = config.width
        if width is None:
            raise UserError("d_model: needed to count parameters (the width of the states)")
        with torch.device("meta"):
            return parameters_by_component(build(_shape(config.sized(width, 1_000_000))))

    def prepare_together(self, configs: Sequence[DictionaryConfig]) -> list[Prepared]:
        source = open_source(configs)
        each, tasks = zip(*(_prepared(one, source, index) for index, one in enumerate(configs)))
        stack = DictionaryStack(tasks, source.train, source.places)
        instruments = {one.name: one for prepared in each for one in prepared.instruments}
        for one in each:
            one.task, one.instruments = stack, list(instruments.values())
        return list(each)

    def advise(self, run: Run, config: DictionaryConfig) -> list[str]:
        history, resolved = run.read("history"), run.record.resolved
        if history is None:
            return []
        sized = DictionaryConfig(**resolved["settings"])
        length = "epochs" if config.max_steps is None else "max_steps"
        return advice(
            history,
            sized,
            held_out=resolved["validation_states"],
            length=length,
            best=run.checkpoints.best(),
        )


def _prepared(
    given: DictionaryConfig, source: Source, index: int
) -> tuple[Prepared, DictionaryTask]:
    """A dictionary of one site, set from a sample of its states, and its task."""
    site, name = source.sites[index], source.name(index)
    train = source.states(index)
    config = given.sized(train.width, train.rows)
    require_memory([config])
    shape = _shape(config)
    dictionary = build(shape, config.seed)
    held_out = source.held_out(index, config.eval_tokens)
    sample = source.sample(index)
    for states in (sample, *held_out):
        if wrong := int((~states.isfinite().all(1)).sum()):
            raise UserError(
                f"{name}: {wrong:,} of {len(states):,} states of {source.parent['id']} are not "
                "finite, which no extraction writes: damaged (`cutaway runs verify` names the shard)"
            )
    square = source.mean_squared_norm(index)
    if not square > 0 or not sample.any():
        raise UserError(f"{name}: every state is zero; nothing to learn")
    dictionary.input_scale.fill_((train.width / square) ** 0.5)
    dictionary.start(sample * dictionary.input_scale, config.start_l0)
    if config.threshold is not None and shape.architecture == "jumprelu":
        dictionary.threshold.data.fill_(config.threshold)
        if not any(
            dictionary.encode_sparse(states).fired().any() for states in (sample, *held_out)
        ):
            raise UserError(
                f"threshold = {config.threshold:g}: no feature is active on any of "
                f"{len(sample):,} states of {name}; lower it, or leave it out"
            )
    penalty = penalty_of(config)
    task = DictionaryTask(dictionary, _settings(config), train, held_out, penalty, source.found)
    task.control.l0_average.fill_(config.start_l0)
    resolved: dict[str, Any] = {
        "settings": config.model_dump(mode="json"),
        "dictionary": {
            "shape": shape.to_json(),
            "site": None if site is None else str(site),
            "dtype": "float32",
            **source.about,
        },
        "train_states": train.rows,
        "validation_states": sum(len(one) for one in held_out),
    }
    if config.kernels == "auto":
        resolved["break_even"] = _break_even(task, sample, config)
    instruments: list[Instrument] = [Directions(config.eval_every)]
    if isinstance(source.validation, SyntheticStream):
        instruments.append(instrument(GROUND_TRUTH, config.eval_every, source.validation))
    if config.orthogonality in ("top_k", "random"):
        instruments.append(instrument(PAIRS, config.eval_every))
    where = {} if site is None else {"site": str(site)}
    loop = config.loop()
    prepared = Prepared(
        task=task,
        loop=loop,
        instruments=instruments,
        parents=[{**source.parent, **where}],
        resolved=resolved,
        notices=[*source.notices, *given.ignored(), *given.without_use(), *given.without_penalty()],
    )
    return prepared, task


def _shape(config: DictionaryConfig) -> DictionaryShape:
    k = max(1, round(config.target_l0)) if config.architecture in FIXED_L0 else None
    groups: tuple[int, ...] = ()
    if config.architecture == "matryoshka":
        whole = config.d_hidden
        asked = config.groups or [max(1, whole // 16), max(1, whole // 4), whole]
        groups = tuple(sorted(set(asked)))
    bandwidth = {} if config.bandwidth is None else {"bandwidth": config.bandwidth}
    return DictionaryShape(
        config.architecture, config.d_model, config.d_hidden, k=k, groups=groups, **bandwidth
    )


def _settings(config: DictionaryConfig) -> Settings:
    chosen: dict[str, Any] = {}
    if config.sparsity is not None:
        chosen["sparsity"] = config.sparsity
    if config.lambda_sparse is not None:
        chosen["sparsity_weight"] = config.lambda_sparse
    return Settings(
        target_l0=config.target_l0 or 0.0,
        controlled=config.controlled and config.architecture not in FIXED_L0,
        dead_after=config.dead_after,
        kernels=config.kernels,
        **chosen,
    )


def _break_even(task: DictionaryTask, sample: Tensor, config: DictionaryConfig) -> dict[str, float]:
    """Set where the dense way becomes the faster one, for each precision that may be used."""
    device = hardware.device(config.device)
    possible = hardware.precisions(device)
    precisions = possible if config.precision == "auto" else (config.precision,)
    found = dict.fromkeys(precisions, config.break_even)
    if config.break_even is None:
        found = _measure(task, sample, device, precisions)
    task.control.set_break_even(found)
    return found


def _measure(
    task: DictionaryTask, sample: Tensor, device: torch.device, precisions: Sequence[str]
) -> dict[str, float]:
    x = sample[: task.train_states.batch_size] * task.model.input_scale
    if len(x) < 2 or device.type not in ("cpu", "cuda"):
        return {}
    # the loop moves the model later; what is timed is a copy, gone when this returns
    model = task.model if device.type == "cpu" else deepcopy(task.model).to(device)
    found: dict[str, float] = {}
    while not found and len(x) > 1:
        try:
            for name in precisions:
                found[name] = break_even(model, x.to(device), getattr(torch, name))
        except torch.OutOfMemoryError:  # training will cut its batches into parts as well
            found, x = {}, x[: len(x) // 2]
    return found
