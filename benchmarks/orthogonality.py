"""What the orthogonality penalty adds to a dictionary's training step.

    python benchmarks/orthogonality.py [--features 4096] [--frequencies uniform|zipf|both]
        [--rounds 12] [--threads 2] [--architecture jumprelu|topk] [--quick]

One dictionary, one updater: a round takes the same batch (4,096 states, d 768) through a step
without the penalty and through one with each kind of it, in turn, so that whatever else the machine
does falls on all alike. What counts is the 10th percentile of each. Learning rate 0, so that all
see the same codes. The dictionary is the truth the states were made from (directions as rows), with
thresholds such that L0 is 64: made-up features with set frequencies. `uniform`: each as frequent as
any other, the hardest case, as no feature can be left out unseen; `zipf`: the r-th most frequent
comes with weight 1/r, as words do. The first steps, in which the selection does not know yet how
large a score to expect, are printed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.seeds import torch_generator
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape, Step, TrainingHints
from cutaway.dictionaries.training.control import Settings
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.dictionaries.training.task import DictionaryTask
from cutaway.orthogonality.penalty import Orthogonality
from cutaway.training.config import LoopConfig
from cutaway.training.updaters import AdamW

WIDTH, L0 = 768, 64
KINDS = ("top_k", "random", "all_pairs")


def directions(features: int) -> Tensor:
    """The true features, unit rows (F, d)."""
    generator = torch_generator(0, 0, "truth")
    rows = torch.empty(features, WIDTH).normal_(generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)


def states(rows: Tensor, batch: int, frequencies: str) -> Iterator[Tensor]:
    """Batches in which L0 of the features are on, without end; E‖x‖² = d."""
    features = len(rows)
    generator = torch_generator(1, 0, "states")
    weights = torch.ones(features)
    if frequencies == "zipf":
        ranks = torch.randperm(features, generator=generator) + 1
        weights = 1 / ranks.float()
    while True:
        # the L0 with the smallest waiting times: drawn without replacement, by weight
        waits = torch.empty(batch, features).exponential_(generator=generator) / weights
        on = waits.topk(L0, largest=False).indices
        sizes = 0.5 + torch.empty(batch, L0).exponential_(generator=generator)
        x = torch.zeros_like(waits).scatter_(1, on, sizes) @ rows
        yield x * (WIDTH / x.square().sum(1).mean()).sqrt()


class Given:
    """The task's stream where batches are handed to it."""

    width, rows = WIDTH, 1

    def __init__(self, batch_size: int):
        self.batch_size, self.now = batch_size, torch.empty(0)

    def batch(self, index: int) -> Tensor:
        return self.now


class Penalised:
    """A dictionary's `step` with one of several penalties added to its losses, or none."""

    def __init__(self, dictionary: Dictionary, fraction: float):
        self.dictionary, self.own = dictionary, dictionary.step
        self.penalties = {
            kind: Orthogonality(
                dictionary.shape.d_hidden,
                OrthogonalityFields(orthogonality=kind, topk_fraction=fraction),
            )
            for kind in KINDS
        }
        self.now: Orthogonality | None = None
        self.count = 0

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        made = self.own(x, hints)
        if self.now is not None:
            rows = self.dictionary.decoder_weight
            made.losses["orthogonality"], _ = self.now.loss(made.codes, rows, self.count)
        return made


def measure(given: argparse.Namespace, features: int, frequencies: str) -> None:
    rows = directions(features)
    dictionary = build(DictionaryShape(given.architecture, WIDTH, features, k=L0))
    with torch.no_grad():
        dictionary.encoder_weight.copy_(rows)
        dictionary.decoder_weight.copy_(rows)
    stream = states(rows, given.batch, frequencies)
    batches = [next(stream) for _ in range(given.batches)]
    if hasattr(dictionary, "threshold"):
        with torch.no_grad():
            z = batches[0][:1024] @ rows.T
            dictionary.threshold.fill_(z.flatten().topk(len(z) * L0).values[-1])
    handed = Given(given.batch)
    settings = Settings(target_l0=L0, kernels="sparse", dead_after=10**9)
    task = DictionaryTask(dictionary, settings, handed, [])
    config = LoopConfig(steps=1, schedule_steps=1, learning_rate=1e-4, gradient_clip=1.0)
    updater = AdamW(task, config)
    penalised = Penalised(dictionary, given.fraction)
    dictionary.step = penalised.step
    kinds = (None, *KINDS)
    times: dict[str | None, list[float]] = {kind: [] for kind in kinds}
    figures = {}
    for turn in range(2 + given.rounds):
        handed.now = batches[turn % len(batches)]
        penalised.count = turn
        for kind in kinds:
            penalised.now = penalised.penalties[kind] if kind else None
            began = time.perf_counter()
            updater.zero()
            loss = task.loss(task.batch(0))
            loss.total.backward()
            updater.clip()
            updater.step([0.0])
            task.after_step(0)
            if penalised.now is not None:
                penalised.now.after_step()
            times[kind].append(1e3 * (time.perf_counter() - began))
            figures[kind] = loss.parts()
    low = {kind: np.percentile(taken[2:], 10) for kind, taken in times.items()}
    print(f"\nF {features}, {frequencies}, L0 {float(figures[None]['l0']):.1f}")
    print(f"{'':12}{'ms/step':>9}{'median':>9}{'adds':>9}{'':>9}{'first':>9}{'pairs':>9}")
    for kind, taken in times.items():
        added = low[kind] - low[None]
        pairs = len(penalised.penalties[kind].cosines) if kind else 0
        print(
            f"{kind or 'none':12}{low[kind]:9.1f}{np.median(taken[2:]):9.1f}{added:9.1f}"
            f"{added / low[None]:9.1%}{taken[0]:9.1f}{pairs:9d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--frequencies", choices=["uniform", "zipf", "both"], default="both")
    parser.add_argument("--fraction", type=float, default=0.001, help="topk_fraction")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=4, help="different ones, taken in turn")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", choices=["jumprelu", "topk"], default="jumprelu")
    parser.add_argument("--quick", action="store_true", help="does it run")
    given = parser.parse_args()
    if given.quick:
        given.features, given.batch, given.batches, given.rounds = [1024], 256, 2, 2
    torch.set_num_threads(given.threads)
    hardware.keep_freed_memory()
    kinds = ["uniform", "zipf"] if given.frequencies == "both" else [given.frequencies]
    for features in given.features:
        for frequencies in kinds:
            measure(given, features, frequencies)


if __name__ == "__main__":
    main()
