"""The probes of all layers as one task for the loop: each trains as it would alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from cutaway.base.errors import RunFailed
from cutaway.base.seeds import torch_generator
from cutaway.nets.sites import Site
from cutaway.probes.fitting.methods import class_weights, evened, normalisation, trained_prior
from cutaway.stats.ties import best, decided
from cutaway.training.task import WHOLE, Loss, Part, Task

_FLOATS = 2**22  # numbers of a piece of validation states that are worked at once


@dataclass(frozen=True)
class LabelledStates:
    """States `values` (layers, n, d), of a model's dtype and perhaps in a file, `label` (n,)."""

    values: Tensor
    label: Tensor


class LayerProbes(nn.Module):
    """A probe for each of L layers: z = W·(x − μ)·s + b, or for an MLP z = W·GELU(V·(x − μ)·s + c) + b.

    weight (L, outputs, d or h), bias (L, outputs); outputs is 1 for two classes. `hidden` h makes it
    an MLP. The output layer begins at 0, so that every class is equally likely; V is drawn from a
    stream of its own for each site, the same whatever other layers are trained.
    """

    hidden_weight: nn.Parameter | None
    hidden_bias: nn.Parameter | None

    def __init__(
        self,
        sites: Sequence[Site],
        width: int,
        outputs: int,
        hidden: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        layers = len(sites)
        self.weight = nn.Parameter(torch.zeros(layers, outputs, hidden or width))
        self.bias = nn.Parameter(torch.zeros(layers, outputs))
        self.hidden_weight = self.hidden_bias = None
        if hidden is not None:
            drawn = [
                torch.randn(hidden, width, generator=torch_generator(seed, 0, f"probe {site}"))
                for site in sites
            ]
            self.hidden_weight = nn.Parameter(torch.stack(drawn) * width**-0.5)
            self.hidden_bias = nn.Parameter(torch.zeros(layers, hidden))
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("scale", torch.ones(layers))

    def forward(self, states: Tensor) -> Tensor:
        """(L, n, d) raw states → (L, n, outputs), float32 whatever products were computed in."""
        x = (states.float() - self.mean[:, None]) * self.scale[:, None, None]
        if self.hidden_weight is not None:
            x = gelu(x @ self.hidden_weight.mT + self.hidden_bias[:, None])
        return (x @ self.weight.mT + self.bias[:, None]).float()


class ProbeTask(Task):
    """Loss: the mean over layers of Σᵢ w(yᵢ)·(−log p(yᵢ)) / Σᵢ w̄, in nats.

    w(y) is the weight of a class (`fitting.class_weights`), w̄ its mean over the training part. The
    validation loss weighs classes such that their shares are those of training, so that the two
    can be compared. Layers share nothing but batches: with AdamW and no clipping each gets the
    weights it would get alone.

    `end` is the step of the final weights: a probe that then calls every validation example the
    same has failed, and with it the run. `dtype` is what the model computed the states in.
    """

    unit = "examples"
    monitor = ("val_loss", "min")

    def __init__(
        self,
        model: LayerProbes,
        sites: Sequence[Site],
        classes: Sequence[str],
        train: LabelledStates,
        validation: LabelledStates,
        *,
        batch_size: int,
        pos_weight_cap: float,
        end: int,
        seed: int,
        dtype: str = "float32",
    ):
        super().__init__()
        self.model, self.sites, self.classes = model, list(map(str, sites)), tuple(classes)
        self.train_part, self.validation = train, validation
        self.batch_size = self.units_per_step = batch_size
        self.end, self.seed, self.dtype = end, seed, dtype
        count = len(classes)
        weights = class_weights(train.label, count, pos_weight_cap)
        prior = trained_prior(train.label, count, pos_weight_cap)
        shares = validation.label.bincount(minlength=count) / len(validation.label)
        constants = {
            "weights": weights / weights[train.label].mean(),
            "prior": prior,
            "validation_weights": prior / shares,
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)
        for index, values in enumerate(train.values):
            model.mean[index], model.scale[index] = normalisation(values)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._orders: dict[int, Tensor] = {}
        self._counts: Tensor | None = None

    # -- training ------------------------------------------------------------------------------

    def batch(self, step: int, part: Part = WHOLE) -> LabelledStates:
        rows = self._rows(step)[part.slice(self.batch_size)]
        # a tenth of the time that values[:, rows] takes
        values, label = self.train_part.values.index_select(1, rows), self.train_part.label[rows]
        place = self.model.weight.device
        return LabelledStates(
            values.to(place, non_blocking=True), label.to(place, non_blocking=True)
        )

    def _rows(self, step: int) -> Tensor:
        """The step's rows: epochs in an order of their own each, one after another."""
        rows = len(self.train_part.label)
        at = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = range(int(at[0]) // rows, int(at[-1]) // rows + 1)
        return torch.cat([self._order(epoch)[at[at // rows == epoch] % rows] for epoch in epochs])

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            rows = len(self.train_part.label)
            order = torch.randperm(rows, generator=torch_generator(self.seed, epoch, "probe order"))
            before = {one: kept for one, kept in self._orders.items() if one == epoch - 1}
            self._orders = before | {epoch: order}
        return self._orders[epoch]

    def loss(self, batch: LabelledStates) -> Loss:
        each = self.weights[batch.label] * _nats(self.model(batch.values), batch.label)
        layers = each.mean(1)
        told = layers.detach()

        def parts() -> dict[str, Tensor]:
            return self._by_site("train_loss", told)

        return Loss(layers.mean(), parts, weight=len(batch.label) / self.batch_size)

    def after_step(self, step: int) -> None:
        self.updates.add_(1)
        self._counts = None

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return name.endswith("weight")

    # -- evaluation ----------------------------------------------------------------------------

    def settle(self, member: int, precision: str) -> dict[str, str]:
        return {"dtype": self.dtype}

    def evaluate(self) -> dict[str, Tensor | float]:
        """Loss and balanced accuracy on validation, their means and of each site (`val_loss.mlp.3`);
        of two classes also recall and specificity. Raises RunFailed as the class says."""
        loss, self._counts = self._measured()
        recalls = self.recalls()
        if int(self.updates) >= self.end:
            self._refuse_one_sided()
        balanced = recalls.mean(1)
        figures = {"val_loss": loss.mean(), "val_balanced_accuracy": balanced.mean()}
        figures |= self._by_site("val_loss", loss)
        figures |= self._by_site("val_balanced_accuracy", balanced)
        if len(self.classes) == 2:
            figures |= self._by_site("val_recall", recalls[:, 1])
            figures |= self._by_site("val_specificity", recalls[:, 0])
        return figures

    def counts(self) -> Tensor:
        """Validation examples by layer, label and what the present weights call them if classes
        were equally frequent, (L, C, C)."""
        if self._counts is None:
            self._counts = self._measured()[1]
        return self._counts

    def recalls(self) -> Tensor:
        """Of each class the share that is called so, (L, C); recall and specificity of two."""
        counts = self.counts()
        return counts.diagonal(dim1=1, dim2=2) / counts.sum(2)

    @torch.no_grad()
    def _measured(self) -> tuple[Tensor, Tensor]:
        """The loss of each layer (L,), and the counts (L, C, C)."""
        values, label = self.validation.values, self.validation.label
        layers, rows, width = values.shape
        place, classes = self.model.weight.device, len(self.classes)
        loss = torch.zeros(layers, dtype=torch.float32, device=place)
        counts = torch.zeros(layers, classes * classes, dtype=torch.int64, device=place)
        size = max(1, _FLOATS // (layers * width))
        for start in range(0, rows, size):
            some, y = (
                one.to(place)
                for one in (values[:, start : start + size], label[start : start + size])
            )
            z = self.model(some)
            loss += (self.validation_weights[y] * _nats(z, y)).sum(1)
            called = decided(evened(z, self.prior))
            counts.scatter_add_(1, y * classes + called, torch.ones_like(called))
        return loss / rows, counts.unflatten(1, (classes, classes))

    def _refuse_one_sided(self) -> None:
        called = self.counts().sum(1) > 0
        for site, some in zip(self.sites, called.tolist()):
            if sum(some) == 1:
                only = self.classes[some.index(True)]
                raise RunFailed(
                    f"{site}: the probe calls all {len(self.validation.label):,} validation examples "
                    f"{only!r}; look at the data (`cutaway probe inspect`), lower learning_rate, raise "
                    "epochs, or leave the layer out"
                )

    def _by_site(self, name: str, values: Tensor) -> dict[str, Tensor]:
        return {f"{name}.{site}": value for site, value in zip(self.sites, values.unbind())}

    def line(self, step: int, figures: Mapping[str, float]) -> str | None:
        if "val_loss" not in figures or "train_loss" not in figures:
            return None
        chosen = best(self.sites, lambda site: figures[f"val_balanced_accuracy.{site}"])
        return (
            f"step {step:6,d} | training {figures['train_loss']:.3f} | validation "
            f"{figures['val_loss']:.3f} | balanced accuracy (even odds) "
            f"{figures[f'val_balanced_accuracy.{chosen}']:.1%} ({chosen})"
        )


def _nats(z: Tensor, label: Tensor) -> Tensor:
    """−log p of each label, (L, n): z (L, n, outputs), labels (n,)."""
    if z.shape[-1] == 1:
        z = torch.cat([torch.zeros_like(z), z], -1)
    return -z.log_softmax(-1).gather(-1, label.expand(len(z), -1)[..., None])[..., 0]
