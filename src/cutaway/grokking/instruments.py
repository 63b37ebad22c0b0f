"""Instruments of a grokking task: spectra of table and embedding, and where a gate routes the pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cutaway.grokking import spectrum
from cutaway.grokking.group import in_order, residues
from cutaway.grokking.routing import dominant, routing_measures
from cutaway.training.instruments import Moment, Stateless

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.grokking.task import GrokkingTask


class Spectrum(Stateless):
    """`spectral_smoothness`, `spectral_concentration`, `logit_scale` of the logits of all pairs,
    `embedding_gini` of the residues' embedding (see `grokking.spectrum`); exact, so no errors.

    Frequencies of multiply and divide are over discrete logarithms (`group.in_order`)."""

    name = "spectrum"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor]:
        task = cast("GrokkingTask", at.task)
        table = task.output_table()
        operation = task.config.operation
        power = spectrum.output_power(in_order(table, operation))
        order = residues(operation, task.config.p).to(table.device)
        embedding = spectrum.residue_embedding(task.model)[..., order, :]
        return {
            "spectral_smoothness": spectrum.low_share(power),
            "spectral_concentration": spectrum.gini(spectrum.without_constant(power)),
            "embedding_gini": spectrum.embedding_gini(embedding),
            "logit_scale": spectrum.logit_scale(table),
        }


class Routing(Stateless):
    """The columns of `routing_measures` over all p² pairs, of a routed network; exact."""

    name = "routing_measures"

    def __init__(self, every: int):
        self.every = every

    def read(self, at: Moment) -> dict[str, Tensor]:
        return routing_measures(_gate_weights(cast("GrokkingTask", at.task)))


class RoutingTable(Stateless):
    """The run's table `routing`: every pair's weights over the heads in every layer.

    Columns step, a, b, layer, dominant (the head with the largest weight), weight_0, weight_1, ...
    """

    name = "routing"

    def __init__(self, every: int):
        self.every = every

    def read(self, at: Moment) -> pa.Table | list[pa.Table]:
        task = cast("GrokkingTask", at.task)
        weights = _gate_weights(task).cpu()
        if task.members == 1:
            return routing_table(weights, at.step, task.config.p)
        return [routing_table(one, at.step, task.config.p) for one in weights]


def routing_table(weights: Tensor, step: int, p: int) -> pa.Table:
    """One network's gate weights over all pairs, (p², layers, heads), as rows a, b, layer."""
    import numpy as np
    import pyarrow as pa

    a, b, layer = np.indices((p, p, weights.shape[1]), dtype=np.int16).reshape(3, -1)
    columns = {
        "step": np.full(a.size, step, np.int64),
        "a": a,
        "b": b,
        "layer": layer,
        "dominant": dominant(weights).flatten().numpy().astype(np.int16),
    }
    by_head = weights.flatten(0, 1).to(torch.float32).numpy()
    columns |= {f"weight_{head}": by_head[:, head] for head in range(by_head.shape[1])}
    return pa.table(columns)


@torch.no_grad()
def _gate_weights(task: GrokkingTask) -> Tensor:
    """Gate weights over all pairs, a-major: (..., p², layers, heads), without the unembedding."""
    model = task.model
    return model.route(model.first(task.grid))[1]
