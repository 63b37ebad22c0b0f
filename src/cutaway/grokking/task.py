"""Modular arithmetic as a task for the loop: one run, or several stacked, always full batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cutaway.base import hardware
from cutaway.grokking import losses
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.data import Split, all_pairs
from cutaway.grokking.group import in_order
from cutaway.grokking.routing import regularizer
from cutaway.grokking.spectrum import spectral_smoothness
from cutaway.training.config import LoopConfig
from cutaway.training.gradient_filters import GradientFilter, Grokfast, OrthogonalGradient
from cutaway.training.task import WHOLE, Loss, Part, Task
from cutaway.training.updaters import adamw
from cutaway.training.updating import Updater


class PairBatch(NamedTuple):
    """Pairs (rows, 2) and classes (rows,), with a leading member axis where runs are stacked."""

    pairs: Tensor
    labels: Tensor


class GrokkingTask(Task):
    """Trains on the training pairs of a split, tests on the others.

    With one config and split `model` is one network; with several it is their stack
    (`nets.stacked.stack`), and losses, figures and updates are (members,).
    """

    unit = "epochs"
    batch_field = None  # a step sees every training pair
    monitor = None  # the last weights are the ones of interest, not those of the lowest loss

    def __init__(
        self, model: nn.Module, configs: Sequence[GrokkingConfig], splits: Sequence[Split]
    ):
        super().__init__()
        self.model = model
        self.configs, self.config, self.members = list(configs), configs[0], len(configs)
        # this penalty is about the mean of all pairs' weights, which no part knows
        consistency = self.config.routing_regularizer == "consistency"
        self.separable = not (self.config.penalises_routing and consistency)
        for name in ("train_pairs", "train_labels", "test_pairs", "test_labels"):
            parts = [getattr(one, name) for one in splits]
            data = parts[0] if self.members == 1 else torch.stack(parts)
            self.register_buffer(name, data, persistent=False)
        grid = all_pairs(self.config.p)
        if self.members > 1:
            grid = grid.expand(self.members, *grid.shape)
        self.register_buffer("grid", grid, persistent=False)
        self._table: Tensor | None = None

    # -- training ----------------------------------------------------------------------------

    def batch(self, step: int, part: Part = WHOLE) -> PairBatch:
        if part.of == 1:
            return PairBatch(self.train_pairs, self.train_labels)
        rows = part.slice(self.train_labels.shape[-1])
        return PairBatch(self.train_pairs[..., rows, :], self.train_labels[..., rows])

    def loss(self, batch: PairBatch) -> Loss:
        routing = None
        if self.config.penalises_routing:
            logits, routing = self.model.forward_with_routing(batch.pairs)
        else:
            logits = self.model(batch.pairs)
        task_loss = self._losses(logits, batch.labels).mean(-1)
        terms = self._regularizers(batch, routing)
        total = task_loss
        for term in terms.values():
            total = total + term

        def parts() -> dict[str, Tensor]:
            figures = {"train_acc": _accuracy(logits.detach(), batch.labels), **terms}
            return figures | ({"train_task_loss": task_loss} if terms else {})

        share = batch.labels.shape[-1] / self.train_labels.shape[-1]
        return Loss(total, parts, weight=share)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each row, in the precision asked for."""
        if self.config.softmax_precision == "float64":
            logits = logits.to(hardware.wide(logits.device))
        logits = _full(logits)
        return losses.EXAMPLE_LOSSES[self.config.loss_function](logits, labels)

    def _regularizers(self, batch: PairBatch, routing: Tensor | None) -> dict[str, Tensor]:
        """What is added to the loss, weighted, by the column it is recorded in."""
        config, terms = self.config, {}
        if routing is not None:
            penalty = regularizer(config.routing_regularizer, routing)
            terms["routing_penalty"] = config.lambda_routing * penalty
        if config.lambda_spectral:
            table = self._logits_of_all()
            smoothness = spectral_smoothness(in_order(table, config.operation))
            terms["spectral_penalty"] = config.lambda_spectral * (1 - smoothness)
        if config.lambda_jacobian:
            entering = self.embed(batch).requires_grad_()
            logits = self.outputs(entering)
            penalty = losses.jacobian_penalty(entering, logits, config.p)
            terms["jacobian_penalty"] = config.lambda_jacobian * penalty
        return terms

    def after_step(self, step: int) -> None:
        self._table = None

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        if self.config.decay_embeddings and name.endswith("_embedding"):
            return True
        return self.model.decays(name.removeprefix("model."), parameter)

    def updater(self, configs: Sequence[LoopConfig]) -> Updater:
        filters: list[GradientFilter] = []
        if self.config.grokfast_lambda:
            filters.append(Grokfast(self.config.grokfast_alpha, self.config.grokfast_lambda))
        if self.config.optimizer == "orthograd_adamw":
            filters.append(OrthogonalGradient(stacked=self.members > 1))
        return adamw(self, configs, filters)

    # -- what is seen ------------------------------------------------------------------------

    def output_table(self) -> Tensor:
        """Logits of all pairs, (..., p, p, classes) by a and b; once per step, without gradient."""
        if self._table is None:
            with torch.no_grad():
                self._table = self._logits_of_all()
        return self._table

    def _logits_of_all(self) -> Tensor:
        logits = self.model(self.grid).unflatten(-2, (self.config.p, self.config.p))
        return _full(logits)  # there is no Fourier transform in bfloat16

    def evaluate(self) -> dict[str, Tensor]:
        """`test_loss` (nats per pair) and `test_acc` over all test pairs."""
        flat = self.output_table().flatten(-3, -2)
        a, b = self.test_pairs.unbind(-1)
        places = (a * self.config.p + b).unsqueeze(-1).expand(*a.shape, flat.shape[-1])
        logits = flat.gather(-2, places)
        loss = self._losses(logits, self.test_labels).mean(-1)
        return {"test_loss": loss, "test_acc": _accuracy(logits, self.test_labels)}

    def example_losses(self, batch: PairBatch) -> Tensor:
        return self._losses(self.model(batch.pairs), batch.labels)

    def embed(self, batch: PairBatch) -> Tensor:
        return self.model.get_embeddings(batch.pairs).detach()

    def outputs(self, embeddings: Tensor) -> Tensor:
        return self.model.forward_from_embeddings(embeddings)

    def targets(self, batch: PairBatch) -> Tensor:
        return batch.labels

    def output_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._losses(outputs, targets)

    def representations(self, batch: PairBatch) -> Tensor:
        return self.model.get_representation(batch.pairs)

    def line(self, step: int, figures: Mapping[str, float]) -> str | None:
        """One line on how the run stands, in the form its users know."""
        if "test_acc" not in figures or "train_acc" not in figures:
            return None
        line = (
            f"Epoch {step:5d} | Train: {figures['train_acc']:6.1%} | "
            f"Test: {figures['test_acc']:6.1%} | Loss: {figures['train_loss']:.2e}"
        )
        more = [
            f"{short}={form.format(abs(figures[name]) if short == '|hess|' else figures[name])}"
            for short, name, form in _MEASURES
            if name in figures
        ]
        return ", ".join([line, *more])


_MEASURES = (
    ("rnorm", "representation_norm", "{:.1f}"),
    ("smooth", "spectral_smoothness", "{:.3f}"),
    ("jac", "jacobian_norm", "{:.2e}"),
    ("|hess|", "hessian_trace", "{:.2e}"),
)


def _full(logits: Tensor) -> Tensor:
    """What autocast left in bfloat16 as float32, for what is too fine for eight bits."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows whose largest logit is the label's: (..., rows, classes) → (...)."""
    right = logits.argmax(-1) == labels
    return right.to(torch.float32).mean(-1)
