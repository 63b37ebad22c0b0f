"""A dictionary as a task for the loop: batches of hidden states in, squared error and penalties out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cutaway.base.errors import RunFailed
from cutaway.dictionaries.model.dictionary import Dictionary, TrainingHints
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.dictionaries.training.control import Settings, SparsityState
from cutaway.dictionaries.training.penalties import Penalty
from cutaway.training.config import LoopConfig
from cutaway.training.task import WHOLE, Evaluated, Loss, Part, Task
from cutaway.training.updaters import AdamW, Updater


class States(Protocol):
    """Where batches of raw hidden states come from: a store, a model, a synthetic truth."""

    batch_size: int
    width: int
    rows: int

    def batch(self, index: int) -> Tensor:
        """(batch_size, d), a pure function of the index."""
        ...


@dataclass(frozen=True)
class _Seen:
    """What is kept of a part of a batch until the step is done: its codes would be megabytes.

    `fired` (F,): tokens each feature fired on, of `count`; `l0` (): features per token; `notes` for
    the architecture's `learn`.
    """

    fired: Tensor
    l0: Tensor
    notes: dict[str, Tensor]
    count: int


class DictionaryTask(Task):
    """One dictionary on one stream. Loss, in scaled units, mean over tokens:

        ‖x̃ − x̂‖² + the architecture's penalties + that of `orthogonality`, if there is one

    `val_score`, by which the best checkpoint is chosen, is the normalised MSE of held-out tokens
    plus how far, beyond a tenth, their L0 is from its target: a dictionary that was denser early
    on does not win by that. `found` are further settings that were decided before the training, for
    the run's record.
    """

    unit = "tokens"
    monitor = ("val_score", "min")

    def __init__(
        self,
        dictionary: Dictionary,
        settings: Settings,
        train: States,
        validation: Sequence[Tensor],
        orthogonality: Penalty | None = None,
        found: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.model, self.found = dictionary, dict(found or {})
        self.settings, self.train_states, self.held_out = settings, train, validation
        self.orthogonality = orthogonality
        coupled = dictionary.couples or settings.sparsity == "target" or orthogonality is not None
        self.separable = not coupled
        self.units_per_step = train.batch_size
        self.control = SparsityState(dictionary.shape.d_hidden, settings)
        self._seen: list[_Seen] = []
        self._step = 0

    def begin(self, step: int, part: Part) -> None:
        """A batch's part is about to be worked."""
        self._step = step
        if part.index == 0:
            self._seen.clear()

    def batch(self, step: int, part: Part = WHOLE) -> Tensor:
        self.begin(step, part)
        whole = self.train_states.batch(step)
        place = self.model.decoder_weight
        return whole[part.slice(len(whole))].to(place.device, non_blocking=True)

    def loss(self, batch: Tensor) -> Loss:
        x = batch.float() * self.model.input_scale
        dead = self.control.dead()
        hints = TrainingHints(
            dense=self.control.dense(self.model.shape.d_hidden),
            dead=dead,
            sparsity_weight=self.control.sparsity_weight,
            target_l0=self.settings.target_l0,
            sparsity=self.settings.sparsity,
        )
        step = self.model.step(x, hints)
        error = (x - step.reconstruction).square().sum() / len(x)
        seen = _Seen(step.codes.fired(), step.codes.per_token(), step.notes, len(x))
        self._seen.append(seen)
        penalties, pairs = dict(step.losses), {}
        if self.orthogonality is not None:
            rows = self.model.decoder_weight
            penalties["orthogonality_loss"], pairs = self.orthogonality.loss(
                step.codes, rows, self._step
            )
        losses = {"reconstruction_loss": error, **penalties}
        told = {name: value.detach() for name, value in losses.items()}

        def parts() -> Mapping[str, Tensor]:
            figures = told | pairs
            figures["l0"] = seen.l0.float()
            figures["normalised_mse"] = told["reconstruction_loss"] / (x.square().sum() / len(x))
            figures["dead_share"] = self.control.dead_share()
            figures["sparsity_weight"] = self.control.sparsity_weight.clone()
            if hasattr(self.model, "threshold"):
                figures["threshold"] = self.model.threshold.detach().mean()
            return figures

        weight = len(x) / self.train_states.batch_size
        return Loss(error + sum(penalties.values()), parts, weight=weight)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.model.normalise()
        tokens = sum(one.count for one in self._seen)
        fired = sum(one.fired for one in self._seen)
        l0 = sum(one.l0 * one.count for one in self._seen) / tokens
        self.control.update(fired, l0.float(), tokens)
        for one in self._seen:
            self.model.learn(one.notes)
        self.model.wake(self.control.silent_for_long())
        push = self.control.push()
        if push is not None:
            self.model.push(push)
        if self.orthogonality is not None:
            self.orthogonality.after_step()
        self._seen.clear()

    def evaluate(self) -> dict[str, Tensor | float]:
        """Figures of the held-out states; a dictionary none of whose features fires has failed."""
        measured = Reconstruction(self.model.shape.d_model, self.model.shape.d_hidden)
        for states in self.held_out:
            x = states.to(self.model.decoder_weight.device).float()
            codes = self.model.encode_sparse(x)
            measured.add(x, self.model.decode_sparse(codes), codes)
        figures = measured.figures()
        if figures["l0"] == 0:
            raise RunFailed(
                "no feature is active on any held-out token: lower threshold or lambda_sparse"
            )
        off = abs(figures["l0"] / self.settings.target_l0 - 1) if self.settings.target_l0 else 0.0
        score = figures["normalised_mse"] + max(0.0, off - 0.1)
        return {"val_score": score} | {f"val_{name}": value for name, value in figures.items()}

    def settle(self, member: int, precision: str) -> Mapping[str, Any]:
        return {**self.found, **self.control.settle(precision)}

    def rate(self, name: str) -> float:
        return self.settings.threshold_rate if name == "model.threshold" else 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return name == "model.encoder_weight"  # decoder rows have length 1 anyway


class DictionaryStack(Task):
    """Several dictionaries trained side by side on one stream: each its own task and updater.

    The stream gives all the same states, (B, d), or those of several sites, (sites, B, d), of
    which member m takes `places[m]`.
    """

    unit = "tokens"
    monitor = DictionaryTask.monitor

    def __init__(self, tasks: Sequence[DictionaryTask], train: States, places: Sequence[int]):
        super().__init__()
        self.tasks = nn.ModuleList(tasks)
        self.members, self.train_states, self.places = len(tasks), train, places
        self.separable = all(task.separable for task in tasks)
        self.units_per_step = train.batch_size * len(tasks)

    def batch(self, step: int, part: Part = WHOLE) -> Tensor:
        for task in self.tasks:
            task.begin(step, part)
        whole = self.train_states.batch(step)
        chosen = part.slice(whole.shape[-2])
        place = self.tasks[0].model.decoder_weight
        return whole[..., chosen, :].to(place.device, non_blocking=True)

    def loss(self, batch: Tensor) -> Loss:
        several = batch.ndim == 3
        losses = [
            task.loss(batch[place] if several else batch)
            for task, place in zip(self.tasks, self.places, strict=True)
        ]

        def parts() -> Mapping[str, Tensor]:
            return _stacked([loss.parts() for loss in losses])

        total = torch.stack([loss.total for loss in losses])
        return Loss(total, parts, weight=losses[0].weight)

    def after_step(self, step: int) -> None:
        for task in self.tasks:
            task.after_step(step)

    def evaluate(self) -> dict[str, Tensor | float]:
        found: list[Mapping[str, Tensor | float]] = []
        failures: dict[int, RunFailed] = {}
        for member, task in enumerate(self.tasks):
            try:
                found.append(task.evaluate())
            except RunFailed as failure:  # the others go on
                failures[member] = failure
                found.append({})
        return Evaluated(_stacked(found), failures)

    def updater(self, configs: Sequence[LoopConfig]) -> Updater:
        return PerMember([AdamW(task, one) for task, one in zip(self.tasks, configs)])

    def settle(self, member: int, precision: str) -> Mapping[str, Any]:
        return self.tasks[member].settle(0, precision)

    def member_state(self, member: int) -> dict[str, Tensor]:
        return self.tasks[member].state_dict()

    def load_members(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        for task, state in zip(self.tasks, states):
            task.load_members([state])


class PerMember:
    """An updater of its own for each member."""

    def __init__(self, updaters: Sequence[AdamW]):
        self.updaters = updaters

    def zero(self) -> None:
        for one in self.updaters:
            one.zero()

    def clip(self) -> Tensor:
        return torch.stack([one.clip() for one in self.updaters])

    def step(self, rates: Sequence[float]) -> None:
        for one, rate in zip(self.updaters, rates):
            one.step([rate])

    def moments(self, name: str) -> Mapping[str, Tensor]:
        _, _, rest = name.partition(".")  # tasks.<member>.<its own name>
        member, _, own = rest.partition(".")
        return self.updaters[int(member)].moments(own)

    def state(self, member: int = 0) -> dict[str, Tensor]:
        return self.updaters[member].state()

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        for one, state in zip(self.updaters, states):
            one.load([state])


def _stacked(figures: Sequence[Mapping[str, Tensor | float]]) -> dict[str, Tensor]:
    """One value per member of every figure any has; NaN where one lacks it."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {
        name: torch.stack(
            [torch.as_tensor(one.get(name, math.nan), dtype=torch.float64).cpu() for one in figures]
        )
        for name in names
    }
