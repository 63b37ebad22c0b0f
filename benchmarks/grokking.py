"""Speed of the grokking room on a CPU, beside PyTorch written by hand, interleaved.

    python benchmarks/grokking.py [--rounds 5] [--quick]

Step: one full-batch step of the transformer of the preset `transformer` (p = 113, 30 % of pairs,
2 layers of width 128, 4 heads) as the loop takes it, beside the same network as one writes it
down: tokens [a, op, b, =], every position in every layer, fused attention kernel, float64
softmax, PyTorch's AdamW and clipping as they come. Before anything is timed both start from the
same weights, and their losses and gradient norms must agree over five steps. The third side is
the plain one in a process that keeps freed memory, as cutaway does: what is then left of the gain
is the network's and the update's. Figures are of single steps over all rounds.

Loop: a whole `fit` (history, evaluation and line every 100 steps, checkpoint at both ends, no
instruments) beside a bare PyTorch loop over the same network with the same fused update, clipping
and evaluation, which writes nothing. Figures are ms per step, one a round. Every measurement runs
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base import hardware
from cutaway.base.display import quiet
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.study import GrokkingStudy
from cutaway.grokking.task import GrokkingTask
from cutaway.runs.folder import Run
from cutaway.training.loop import fit
from plain_transformer import PlainTransformer

TRANSFORMER = GrokkingConfig(device="cpu")  # the defaults are the preset's
STEP_SIDES = ("plain PyTorch", "plain, memory kept", "cutaway")
LOOP_SIDES = ("bare loop", "cutaway fit")
MLP = {"model_type": "baseline", "hidden_dim": 128, "train_frac": 0.5, "device": "cpu"}

Step = Callable[[], tuple[Tensor, Tensor]]  # takes one step; → its loss and gradient norm
Decays = Callable[[str, Tensor], bool]  # whether weight decay falls on a parameter


def adamw(c: GrokkingConfig, model: nn.Module, decays: Decays, **how: bool) -> torch.optim.AdamW:
    groups = {c.weight_decay: [], 0.0: []}
    for name, parameter in model.named_parameters():
        groups[c.weight_decay if decays(name, parameter) else 0.0].append(parameter)
    each = [{"params": those, "weight_decay": decay} for decay, those in groups.items()]
    return torch.optim.AdamW(each, lr=c.lr, betas=(c.beta1, c.beta2), eps=c.eps, **how)


def plain_step(task: GrokkingTask) -> Step:
    """The hand-written step, from the weights of the task's own network."""
    c = task.config
    model = PlainTransformer(c.p, c.hidden_dim, c.n_layers, c.n_heads)
    model.take(task.model.state_dict())
    linear = {id(one.weight) for one in model.modules() if isinstance(one, nn.Linear)}
    optimizer = adamw(c, model, lambda name, parameter: id(parameter) in linear)

    def step() -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(task.train_pairs).double(), task.train_labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        optimizer.step()
        return loss.detach(), norm

    return step


def our_step(task: GrokkingTask) -> Step:
    """The step as the loop takes it."""
    config = task.config.loop()
    updater = task.updater([config])

    def step() -> tuple[Tensor, Tensor]:
        updater.zero()
        loss = task.loss(task.batch(0))
        loss.total.backward()
        norm = updater.clip()
        updater.step([config.learning_rate])
        task.after_step(0)
        return loss.total.detach(), norm

    return step


def require_agreement() -> None:
    """Both sides compute the same: losses to 1e-5, gradient norms to 1e-4 of their size."""
    task = GrokkingStudy().prepare(TRANSFORMER).task
    plain, ours = plain_step(task), our_step(task)
    apart = 0.0
    for number in range(5):
        (loss, norm), (our_loss, our_norm) = plain(), ours()
        apart = max(apart, abs(float(loss - our_loss)))
        assert apart <= 1e-5, f"step {number}: loss {float(loss)} by hand, {float(our_loss)} ours"
        assert abs(float(norm / our_norm) - 1) <= 1e-4, f"step {number}: norms {norm}, {our_norm}"
    print(f"five steps from the same weights: losses agree to {apart:.0e}")


def step_times(side: str, steps: int) -> list[float]:
    """Milliseconds of each step in this process, three to warm up left out."""
    if side != STEP_SIDES[0]:
        hardware.keep_freed_memory()
    task = GrokkingStudy().prepare(TRANSFORMER).task
    step = our_step(task) if side == "cutaway" else plain_step(task)
    times = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - began))
    return times[3:]


def bare_loop(task: GrokkingTask, steps: int) -> None:
    """What one writes by hand around the same network, nothing kept."""
    c, model = task.config, task.model
    optimizer = adamw(c, model, model.decays, fused=True)
    for number in range(steps):
        if number % c.log_every == 0:
            with torch.no_grad():
                logits = model(task.test_pairs).double()
                F.cross_entropy(logits, task.test_labels).item()
                (logits.argmax(-1) == task.test_labels).float().mean().item()
        optimizer.zero_grad()
        F.cross_entropy(model(task.train_pairs).double(), task.train_labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        optimizer.step()


def loop_time(side: str, p: int, steps: int) -> list[float]:
    """Milliseconds per step of a whole training, after a short one to warm up."""
    hardware.keep_freed_memory()  # on both sides: here only the loop is compared
    took = 0.0
    for count in (min(50, steps), steps):
        config = GrokkingConfig(p=p, epochs=count, checkpoint_every=count, **MLP)
        task = GrokkingStudy().prepare(config).task
        with (
            tempfile.TemporaryDirectory() as folder,
            Run.create(Path(folder) / "run", study="grokking", config={}) as run,
        ):
            began = time.perf_counter()
            if side == "bare loop":
                bare_loop(task, count)
            else:
                fit(task, config.loop(), [run])
            took = time.perf_counter() - began
    return [1e3 * took / steps]


def measure(title: str, what: str, sides: tuple[str, ...], rounds: int, steps: int) -> None:
    """Print one table: each side once a round, in a process of its own."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            command = [sys.executable, __file__, "--one", what, side, str(steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            times[side] += json.loads(done.stdout.strip().splitlines()[-1])
    print(f"\n{title}; {rounds} rounds of {steps} steps")
    print(f"{'':20}{'p10 ms':>9}{'median ms':>11}{'ratio p10':>11}{'ratio median':>14}")
    base = np.percentile(times[sides[0]], [10, 50])
    for side, each in times.items():
        p10, p50 = np.percentile(each, [10, 50])
        print(f"{side:20}{p10:9.3f}{p50:11.3f}{base[0] / p10:11.2f}{base[1] / p50:14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few steps: does it run")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, side, steps = given.one[0], given.one[1], int(given.one[2])
        quiet.set(True)
        times = step_times(side, steps) if what == "step" else loop_time(side, int(what), steps)
        print(json.dumps(times))
        return
    rounds = 1 if given.quick else given.rounds
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    require_agreement()
    measure("Transformer step, p = 113", "step", STEP_SIDES, rounds, 2 if given.quick else 10)
    for p, steps in ((17, 10_000), (113, 200)):
        title = f"Loop, MLP of width 128, p = {p}, half of the pairs"
        measure(title, str(p), LOOP_SIDES, rounds, steps // 20 if given.quick else steps)


if __name__ == "__main__":
    main()
