"""Progress measures: how far the circuit of rotations has grown before test accuracy shows it.

Nanda et al. 2023 (arXiv 2301.05217, §5.1): on the circle of the operation (`group.circle`, i + j)
the learned circuit lives in cos w_k(i + j), sin w_k(i + j), w_k = 2πk/n, of few key frequencies k.
Restricted loss keeps only those components, excluded loss takes only them away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.grokking.data import Split, all_pairs, split
from cutaway.grokking.group import Circle, circle, residues
from cutaway.grokking.losses import cross_entropy
from cutaway.grokking.spectrum import embedding_gini, logit_scale, residue_embedding

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.nets.reference import LoadedModel

SHARE = 0.9  # of the power that the key frequencies hold
_ROUNDING = 1e-24  # share of Σ logits² below which power is rounding, in float64


def sum_power(table: Tensor, operation: str = "add") -> Tensor:
    """Power of the logits in cos w_k(i + j) and sin w_k(i + j), by k, summed over classes.

    table (..., p, p, p) of logits by a, b and class → (..., n//2 + 1) float64; k = 0, the constant,
    is 0. In units of Σ logits². Raises UserError where the operation has no circle.
    """
    on_circle = circle(operation, table.shape[-1])
    spectrum = torch.fft.rfft(_by_sum(_arranged(table, on_circle)), dim=-2, norm="ortho")
    power = torch.view_as_real(spectrum).square().sum((-1, -2)) * 2 * on_circle.n
    power[..., 0] = 0
    if on_circle.n % 2 == 0:
        power[..., -1] /= 2
    return power


def key_frequencies(table: Tensor, operation: str = "add", share: float = SHARE) -> list[int]:
    """The smallest set of k that holds `share` of `sum_power`, ascending.

    table (p, p, p): a network's *final* logits by a, b and class. Empty where nothing depends on
    i + j. Raises UserError where the operation has no circle.
    """
    if not 0 < share <= 1:
        raise UserError(f"share = {share}: expected more than 0 and at most 1")
    power = sum_power(table, operation)
    total = power.sum()
    if not total > _ROUNDING * table.to(power.dtype).square().sum():
        return []
    largest = power.argsort(descending=True, stable=True)
    held = power[largest].cumsum(0)
    needed = int((held < share * total * (1 - 1e-12)).sum()) + 1
    return sorted(largest[:needed].tolist())


def restricted_loss(table: Tensor, frequencies: Sequence[int], operation: str = "add") -> Tensor:
    """Cross-entropy over all pairs of the logits projected on the key frequencies, in nats.

    restricted = Σ_{k key} projection on cos and sin w_k(i + j) + mean of the logits over all pairs
    (the bias correction), class by class. (..., p, p, p) → (...), float64. Multiplication and
    division: without zero as an input or a class.
    """
    on_circle = circle(operation, table.shape[-1])
    logits = _arranged(table, on_circle)
    # pairs of one sum have one projection and one result: n rows stand for n²
    kept = _components(logits, frequencies) + logits.mean((-3, -2)).unsqueeze(-2)
    labels = torch.arange(on_circle.n, device=table.device).expand(kept.shape[:-1])
    return cross_entropy(kept, labels).mean(-1)


def excluded_loss(
    table: Tensor, frequencies: Sequence[int], pairs: Tensor, operation: str = "add"
) -> Tensor:
    """Cross-entropy over the training `pairs` (rows, 2) without the key frequencies, in nats.

    excluded = logits - Σ_{k key} projection on cos and sin w_k(i + j), class by class. (..., p, p,
    p) → (...), float64. It rises as memorising gives way to the circuit. NaN without any pair.
    """
    p = table.shape[-1]
    on_circle = circle(operation, p)
    logits = _arranged(table, on_circle)
    trained = torch.zeros(p, p, dtype=torch.bool)
    trained[tuple(pairs.cpu().unbind(-1))] = True
    i, j = trained[on_circle.first][:, on_circle.second].nonzero().to(table.device).unbind(-1)
    labels = (i + j) % on_circle.n
    left = logits[..., i, j, :] - _components(logits, frequencies)[..., labels, :]
    return cross_entropy(left, labels.expand(left.shape[:-1])).mean(-1)


def progress_measures(run: str | os.PathLike[str]) -> pa.Table:
    """Progress measures of a run over the checkpoints it keeps, one row for each.

    Columns: step; restricted_loss and excluded_loss, with the key frequencies of the last
    checkpoint; train_loss and test_loss, the cross-entropies over the run's pairs of the split (in
    nats, float64, whatever loss it trained on); embedding_gini; weight_norm (L2, all parameters);
    logit_scale; key_frequencies (the same list in each row). Damaged checkpoints are left out with
    a notice. Raises UserError for a run that keeps none, and where the operation has no circle.
    """
    import pyarrow as pa

    from cutaway.nets.reference import load
    from cutaway.runs import Run
    from cutaway.runs.checkpoint import DamagedCheckpoint

    path = Path(run)
    frequencies: list[int] | None = None
    rows = []
    # from the last backwards: it says what the key frequencies are
    for step in reversed(Run.open(path).checkpoints.steps()):
        try:
            loaded = load(path, step=step)
        except DamagedCheckpoint as error:
            notice(f"{error}; left out")
            continue
        config = loaded.config
        operation = config["operation"]
        table = logits_table(loaded)
        if frequencies is None:
            frequencies = key_frequencies(table, operation)
            parts = split(config["p"], operation, config["train_frac"], config["data_seed"])
        rows.append({"step": step, **_measures(loaded, table, frequencies, parts)})
    if not rows:
        raise UserError(f"{path}: keeps no intact checkpoint to compute progress measures of")
    columns = {name: [row[name] for row in reversed(rows)] for name in rows[0]}
    columns["key_frequencies"] = pa.array([frequencies] * len(rows), pa.list_(pa.int64()))
    return pa.table(columns)


@torch.no_grad()
def logits_table(loaded: LoadedModel) -> Tensor:
    """The logits of all pairs, (p, p, classes), of a loaded modular network."""
    p = loaded.model.config.p
    device = next(loaded.model.parameters()).device
    return loaded.model(all_pairs(p).to(device)).unflatten(0, (p, p))


def _measures(
    loaded: LoadedModel, table: Tensor, frequencies: Sequence[int], parts: Split
) -> dict[str, Any]:
    operation, model = loaded.config["operation"], loaded.model
    order = residues(operation, table.shape[-1]).to(table.device)
    wide = hardware.wide(table.device)
    norms = torch._foreach_norm([parameter.to(wide) for parameter in model.parameters()])
    measures = {
        "restricted_loss": restricted_loss(table, frequencies, operation),
        "excluded_loss": excluded_loss(table, frequencies, parts.train_pairs, operation),
        "train_loss": _loss(table, parts.train_pairs, parts.train_labels),
        "test_loss": _loss(table, parts.test_pairs, parts.test_labels),
        "embedding_gini": embedding_gini(residue_embedding(model)[order]),
        "weight_norm": torch.stack(norms).norm(),
        "logit_scale": logit_scale(table),
    }
    return {name: float(value) for name, value in measures.items()}


def _loss(table: Tensor, pairs: Tensor, labels: Tensor) -> Tensor:
    a, b = pairs.to(table.device).unbind(-1)
    return cross_entropy(
        table[a, b].to(hardware.wide(table.device)), labels.to(table.device)
    ).mean()


def _arranged(table: Tensor, on_circle: Circle) -> Tensor:
    """Logits by a, b, class → by their places i, j, class on the circle, in float64."""
    first, second, classes = (
        one.to(table.device) for one in (on_circle.first, on_circle.second, on_circle.classes)
    )
    arranged = table[..., first[:, None], second, :][..., classes]
    return arranged.to(hardware.wide(table.device))


def _by_sum(logits: Tensor) -> Tensor:
    """Mean of (..., n, n, classes) over the pairs of each sum (i + j) mod n: (..., n, classes)."""
    n = logits.shape[-2]
    i = torch.arange(n, device=logits.device)
    return logits[..., i, (i[:, None] - i) % n, :].mean(-2)


def _components(logits: Tensor, frequencies: Sequence[int]) -> Tensor:
    """Projection of (..., n, n, classes) on cos and sin w_k(i + j), by sum: (..., n, classes)."""
    n = logits.shape[-2]
    spectrum = torch.fft.rfft(_by_sum(logits), dim=-2)
    wanted = torch.zeros(n // 2 + 1, 1, dtype=spectrum.dtype, device=spectrum.device)
    wanted[list(frequencies)] = 1
    return torch.fft.irfft(spectrum * wanted, n, dim=-2)
