"""Small dictionaries in a state in which every path matters: encoder and decoder apart, no bias zero."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape, TrainingHints

WIDTH, FEATURES, K, TOKENS = 12, 40, 4, 96
FORMS = [
    (name, form)
    for name in ARCHITECTURES
    for form in (("step", "target", "tanh") if name == "jumprelu" else ("step",))
]


def small(architecture: str, seed: int = 0) -> Dictionary:
    """A dictionary of 40 features in 12 dimensions, about 4 of them active on `states()`."""
    shape = DictionaryShape(architecture, WIDTH, FEATURES, k=K, bandwidth=0.4, groups=(8, 20, 40))
    dictionary = build(shape, seed)
    dictionary.start(states(), K)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            parameter.add_(noise, alpha=0.1)
    dictionary.normalise()
    return dictionary


def states(tokens: int = TOKENS, seed: int = 7) -> Tensor:
    """Made-up hidden states that are not centred, (tokens, 12)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, WIDTH, generator=generator) + 0.3


def dead_features(*places: int) -> Tensor:
    """A mask of features taken for dead."""
    mask = torch.zeros(FEATURES, dtype=torch.bool)
    mask[list(places)] = True
    return mask


def hints(form: str = "step", *, dense: bool = True, dead: Tensor | None = None) -> TrainingHints:
    """What the task would tell a step."""
    return TrainingHints(dense, dead, sparsity_weight=0.7, target_l0=K + 1.0, sparsity=form)


def losses(dictionary: Dictionary, x: Tensor, told: TrainingHints) -> dict[str, Tensor]:
    """Every part of a training step's loss by name."""
    step = dictionary.step(x, told)
    error = (x - step.reconstruction).square().sum() / len(x)
    return {"reconstruction_loss": error, **step.losses}


def gradients(dictionary: Dictionary, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter, zero where the loss does not reach it."""
    named = dict(dictionary.named_parameters())
    if not loss.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    found = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found))
