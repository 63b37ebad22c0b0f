"""A small network trained by a few lines of its own, left as a run's folder: what tests look into."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from cutaway.grokking.data import split
from cutaway.nets.architectures import build
from cutaway.runs import Run


def small_run(
    folder: Path,
    *,
    operation: str = "add",
    p: int = 23,
    steps: int = 300,
    every: int = 50,
    name: str = "modular_mlp",
    width: int = 64,
) -> Path:
    """Train full batch, each gradient made orthogonal to its weight, keeping checkpoints."""
    shape = {"name": name, "p": p, "hidden_dim": width, "n_layers": 2}
    if name != "modular_mlp":
        shape["n_heads"] = 4
    config = {"p": p, "operation": operation, "train_frac": 0.7, "data_seed": 0}
    parts = split(p, operation, 0.7, 0)
    model = build(shape, 0)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    rows = []
    with Run.create(
        folder, study="grokking", config=config, resolved={"architecture": shape}
    ) as run:
        for step in range(steps + 1):
            logits = model(parts.train_pairs).double()
            loss = F.cross_entropy(logits, parts.train_labels)
            if step % 10 == 0:
                with torch.no_grad():
                    unseen = model(parts.test_pairs).double()
                rows.append(
                    {
                        "step": step,
                        "train_loss": loss.item(),
                        "train_acc": _accuracy(logits, parts.train_labels),
                        "test_loss": F.cross_entropy(unseen, parts.test_labels).item(),
                        "test_acc": _accuracy(unseen, parts.test_labels),
                        "weight_norm": torch.cat([w.flatten() for w in parameters]).norm().item(),
                        "weight_norm.embedding": parameters[0].norm().item(),
                    }
                )
            if step % every == 0:
                run.checkpoints.save(step, {"model": model.state_dict()}, {})
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                for w in parameters:
                    w.grad -= (w * w.grad).sum() / (w * w).sum().clamp_min(1e-30) * w
            optimizer.step()
        run.append(rows)
        run.finish({})
    return folder


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(-1) == labels).double().mean().item()
