"""Curvature in the weights: the trace of the loss's Hessian, and the instrument that reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.dynamics import estimation
from cutaway.dynamics.fisher import fisher_trace
from cutaway.training.instruments import Moment, Stateless
from cutaway.training.task import Part, Task

_CHUNK = 64  # examples below which a part's passes cost more than their probes are worth


class WeightCurvature(Stateless):
    """`weight_hessian_trace` = tr ∇²_θ L and `fisher_trace` = mean over examples of ‖∇_θ ℓᵢ‖², each
    with its standard error `_se`; L is the loss of the whole step's batch, dropout off.

    The batch is worked through in up to `chunks` parts of 64 examples or more (in one where the
    task cannot be cut), which bounds memory and, since every part has probes of its own, the
    variance too. Probes are added until the standard error is `relative_error` of the value, as
    long as there are no more than `most`; the error recorded says how far that got (a trace near
    zero, where positive and negative curvature cancel, can have no small relative error).
    """

    name = "weight_curvature"

    def __init__(self, every: int, *, relative_error: float = 0.1, most: int = 4, chunks: int = 8):
        self.every = every
        self.relative_error, self.most, self.chunks = relative_error, most, chunks
        self._fitting: int | None = None  # chunks, once the batch has been seen

    def read(self, at: Moment) -> dict[str, Tensor]:
        if self._fitting is None:
            count = estimation.count_examples(at.task, at.step) if at.task.separable else 1
            self._fitting = max(1, min(self.chunks, count // _CHUNK))
        row = {}
        for name, measure in _MEASURES.items():
            row[name], row[f"{name}_se"] = measure(
                *(at.task, at.step, at.generators),
                chunks=self._fitting,
                relative_error=self.relative_error,
                most=self.most,
            )
        return row


def weight_hessian_trace(
    task: Task,
    step: int,
    generators: Sequence[torch.Generator],
    *,
    chunks: int = 1,
    relative_error: float = 0.1,
    most: int = 4,
) -> tuple[Tensor, Tensor]:
    """tr H of the loss of a step's batch and its standard error: () or (members,) each.

    Hutchinson's estimate, tr H = E[vᵀHv] with v of independent signs; Hv is the gradient of g·v,
    g the gradient, kept differentiable, so a further probe of a chunk costs one backward pass.
    For a loss that is a sum of functions of single weights one probe is exact.
    `exact.weight_hessian` is the whole matrix.
    """
    parameters, members = estimation.trained(task), task.members
    size = sum(parameter.numel() for parameter in parameters) // members

    def sweep(count: int, wanted: Sequence[bool]) -> Tensor:
        terms = []
        for index in range(chunks):
            loss = task.loss(task.batch(step, Part(index, chunks)))
            weight = 1 / chunks if loss.weight is None else loss.weight
            total = (loss.total * weight).sum()
            slopes = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
            # where the loss is linear in a parameter, or does not know it, its rows of H are zero
            curved = [i for i, g in enumerate(slopes) if g is not None and g.requires_grad]
            for probe in range(count):
                flat = estimation.per_member(
                    lambda g: estimation.signs(size, g), generators, wanted
                )
                v = estimation.like(flat, parameters, members)
                if not curved:
                    terms.append(estimation.dot(v, [torch.zeros_like(one) for one in v], members))
                    continue
                product = torch.autograd.grad(
                    [slopes[i] for i in curved],
                    parameters,
                    grad_outputs=[v[i] for i in curved],
                    retain_graph=probe + 1 < count,
                    allow_unused=True,
                )
                met = [i for i, one in enumerate(product) if one is not None]
                terms.append(
                    estimation.dot([v[i] for i in met], [product[i] for i in met], members)
                )
        return torch.stack(terms).view(chunks, count, members).transpose(0, 1)

    with estimation.measuring(task):
        return estimation.estimate(sweep, chunks, members, relative_error=relative_error, most=most)


_MEASURES = {"weight_hessian_trace": weight_hessian_trace, "fisher_trace": fisher_trace}
