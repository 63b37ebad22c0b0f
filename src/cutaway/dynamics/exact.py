"""The same measures by dense means, for networks small enough: what the estimates estimate.

All take a task of one member and a batch of it; dropout is off while they look. They hold whole
matrices: n weights cost n² numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.utils import _pytree as pytree

from cutaway.base import hardware
from cutaway.dynamics.estimation import measuring, trained
from cutaway.training.task import Task


def weight_hessian(task: Task, batch: Any) -> Tensor:
    """∇²_θ of the loss of a batch, (n, n), parameters in the task's order."""
    parameters = trained(task)
    with measuring(task):
        total = task.loss(batch).total
        slopes = torch.autograd.grad(
            total, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        slope = torch.cat([one.flatten() for one in slopes])
        if not slope.requires_grad:  # a loss linear in every weight
            return slope.new_zeros(len(slope), len(slope))
        rows = torch.autograd.grad(
            slope,
            parameters,
            grad_outputs=torch.eye(len(slope), dtype=slope.dtype, device=slope.device),
            is_grads_batched=True,
            allow_unused=True,
        )
    blocks = [
        slope.new_zeros(len(slope), p.numel()) if one is None else one.flatten(1)
        for one, p in zip(rows, parameters)
    ]
    return torch.cat(blocks, 1)


def weight_hessian_trace(task: Task, batch: Any) -> Tensor:
    """tr ∇²_θ L from the whole matrix."""
    return weight_hessian(task, batch).trace()


def fisher_trace(task: Task, batch: Any, chunk: int = 64) -> Tensor:
    """Mean over examples of ‖∇_θ ℓᵢ‖², a gradient for every example, `chunk` at a time.

    The batch's tensors must all have examples as their first axis.
    """
    parameters = {n: p.detach() for n, p in task.named_parameters() if p.requires_grad}
    losses = _ExampleLosses(task)

    def one_loss(weights: dict[str, Tensor], example: Any) -> Tensor:
        alone = pytree.tree_map(lambda tensor: tensor.unsqueeze(0), example)
        named = {f"task.{name}": value for name, value in weights.items()}
        return functional_call(losses, named, (alone,))[0]

    with measuring(task):
        gradients = vmap(grad(one_loss), in_dims=(None, 0), chunk_size=chunk)(parameters, batch)
    wide = hardware.wide(next(iter(parameters.values())).device)
    squares = [one.flatten(1).square().sum(1, dtype=wide) for one in gradients.values()]
    return torch.stack(squares).sum(0).mean()


def jacobian_norm(task: Task, batch: Any) -> Tensor:
    """√(mean over examples of ‖∂ logits / ∂ embeddings‖²_F) from whole Jacobians (`jacrev`)."""
    with measuring(task):
        jacobians = vmap(jacrev(lambda one: task.outputs(one[None])[0]))(task.embed(batch))
    return jacobians.detach().flatten(1).square().sum(1).mean().sqrt()


def input_hessian_trace(task: Task, batch: Any) -> Tensor:
    """Mean over examples of tr ∂²ℓ / ∂ embeddings², ℓ the task's loss, from whole Hessians."""
    entering, targets = task.embed(batch), task.targets(batch)

    def loss(flat: Tensor, target: Tensor) -> Tensor:
        logits = task.outputs(flat.view(1, *entering.shape[1:]))[0]
        return task.output_losses(logits, target)

    with measuring(task):
        hessians = vmap(jacrev(jacrev(loss)))(entering.flatten(1), targets)
    return hessians.detach().diagonal(dim1=-2, dim2=-1).sum(-1).mean()


class _ExampleLosses(nn.Module):
    """`example_losses` as a forward, which is what `functional_call` calls."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        return self.task.example_losses(batch)
