"""What the loop needs to know, in canonical names; each study translates its own into these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Settings of one run of the loop. Intervals are in steps.

    `schedule_steps` is where the learning rate ends its fall: steps beyond it (`--extra-steps`)
    run at the final rate. `parts` slices each step's batch (gradient accumulation).
    `halvings` cuts each part in two so many times more, to fit into memory. `ends`: steps before the
    last at which a training ended that was then extended; they are evaluated, recorded and saved
    like the last. `keep_checkpoints` keeps that many newest besides the best; None keeps all.
    `threads`: what a CPU step is spread over; None: as many as there are.
    """

    steps: int
    schedule_steps: int
    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    gradient_clip: float | None = None
    parts: int = 1
    halvings: int = 0
    ends: tuple[int, ...] = ()
    eval_every: int = 100
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int | None = 2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    threads: int | None = None
