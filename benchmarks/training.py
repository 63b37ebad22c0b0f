"""Training speed and memory beside a plain PyTorch loop, interleaved.

    python benchmarks/training.py [--shape medium|small] [--rounds 3] [--steps 12]

The peer is the loop one writes by hand: the same GPT-2 in eager float32 (fused attention kernel,
F.cross_entropy over whole logits, AdamW, clipping, cosine schedule), batches cut from the same
memory-mapped tokens, nothing logged, nothing saved. Ours is `fit` with a run on disk, its history
and its guards. Both start from the same seed and read the same number of tokens. A second peer is
the same plain loop under bfloat16 autocast. What is compared is the step time at the 10th
percentile over all rounds (the figure that repeats on a busy machine), and the medians beside it;
and the peak resident memory, of the process and of what training added to it. Each measurement runs
in a process of its own, since how the C library keeps memory is a setting of the process.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SHAPES = {
    "medium": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 12},
    "small": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12},
}
VOCABULARY = 8192


class PlainBlock(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(d, dim=2)
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, d))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class PlainGPT(nn.Module):
    def __init__(self, s: dict):
        super().__init__()
        d = s["n_embd"]
        self.wte, self.wpe = nn.Embedding(VOCABULARY, d), nn.Embedding(s["block_size"], d)
        self.blocks = nn.ModuleList(PlainBlock(d, s["n_head"]) for _ in range(s["n_layer"]))
        self.ln = nn.LayerNorm(d)
        self.head = nn.Linear(d, VOCABULARY, bias=False)
        self.head.weight = self.wte.weight
        for p in self.parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, 0.0, 0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def plain(shape: dict, tokens: np.ndarray, steps: int, autocast: bool = False) -> list[float]:
    """Step times in seconds of the hand-written loop."""
    torch.manual_seed(0)
    model = PlainGPT(shape)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
    )
    t, b = shape["block_size"], shape["batch_size"]
    times = []
    for step in range(steps):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 + 9e-4 * (1 + math.cos(math.pi * step / steps)) / 2
        ix = torch.randint(len(tokens) - t, (b,))
        x = torch.stack([torch.from_numpy(tokens[i : i + t].astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + t].astype(np.int64)) for i in ix])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return times


class Stopwatch:
    """An instrument that notes the time of every step: what the whole loop costs, seen from inside."""

    name, every = "stopwatch", 1

    def __init__(self):
        self.stamps: list[float] = []

    def read(self, at):
        self.stamps.append(time.perf_counter())
        return {}

    def state(self):
        return {}

    def load(self, state):
        pass


def ours(shape: dict, tokens: np.ndarray, steps: int, precision: str) -> list[float]:
    """Step times in seconds of `fit`, a run on disk and all."""
    from cutaway.language.config import LanguageConfig
    from cutaway.language.task import LanguageTask
    from cutaway.nets.architectures import build
    from cutaway.runs.folder import Run
    from cutaway.training.loop import fit

    config = LanguageConfig(
        model="gpt2",
        vocab_size=VOCABULARY,
        max_iters=steps,
        eval_interval=10 * steps,
        eval_iters=1,
        precision=precision,
        **shape,
    )

    class Files:
        train = validation = tokens
        validation_bytes = len(tokens) * 4

    task = LanguageTask(build(config.architecture(VOCABULARY)), config, Files)
    watch = Stopwatch()
    with (
        tempfile.TemporaryDirectory() as folder,
        Run.create(Path(folder) / "run", study="language", config={}) as run,
    ):
        fit(task, config.loop(), [run], [watch])
    return np.diff(watch.stamps).tolist()


def tokens_file(folder: str) -> np.ndarray:
    """A million tokens with words' frequencies (Zipf), on disk, memory-mapped."""
    path = Path(folder) / "tokens.npy"
    ranks = np.random.default_rng(0).zipf(1.2, 1_000_000) % VOCABULARY
    np.save(path, ranks.astype(np.uint16))
    return np.load(path, mmap_mode="r")


SIDES = ("plain float32", "plain bfloat16 autocast", "cutaway float32", "cutaway bfloat16")


def measure(name: str, rounds: int, steps: int) -> None:
    """Print the table of one shape: every side once a round, each time in a fresh process."""
    shape = SHAPES[name]
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            arguments = ["--shape", name, "--one", side, "--steps", str(steps)]
            done = subprocess.run(
                [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
            )
            found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    times = {side: [t for one in ones for t in one["times"]] for side, ones in found.items()}
    per_step = shape["batch_size"] * shape["block_size"]
    base10 = float(np.percentile(times[SIDES[0]], 10))
    base50 = float(np.median(times[SIDES[0]]))
    print(f"\n{name}: {shape}, vocabulary {VOCABULARY}, {rounds} rounds of {steps} steps")
    print(
        f"{'':24}{'ms/step p10':>12}{'median':>9}{'tokens/s':>10}{'ratio p10':>11}"
        f"{'ratio median':>14}{'peak MB':>9}{'training MB':>13}"
    )
    for side, each in times.items():
        p10, p50 = float(np.percentile(each, 10)), float(np.median(each))
        peak = max(one["peak"] for one in found[side])
        training = max(one["training"] for one in found[side])
        print(
            f"{side:24}{1e3 * p10:12.1f}{1e3 * p50:9.1f}{per_step / p10:10,.0f}{base10 / p10:11.2f}"
            f"{base50 / p50:14.2f}{peak:9.0f}{training:13.0f}"
        )


def one(side: str, shape: dict, steps: int) -> None:
    """Measure one side in this process; the last line printed is JSON."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    import cutaway.language.task
    import cutaway.runs.folder
    import cutaway.training.loop  # noqa: F401  (imports count before, not as training)

    with tempfile.TemporaryDirectory() as folder:
        data = tokens_file(folder)
        before = peak()
        if side.startswith("plain"):
            times = plain(shape, data, steps, autocast="bfloat16" in side)
        else:
            # the last interval holds the final evaluation and checkpoint, which the peer has not
            times = ours(shape, data, steps + 1, side.split()[1])[:-1]
    print(json.dumps({"times": times[2:], "peak": peak(), "training": peak() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, SHAPES[given.shape], given.steps)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in SHAPES if given.shape == "both" else [given.shape]:
        steps = given.steps if name == "medium" else 10 * given.steps
        measure(name, given.rounds, steps)


if __name__ == "__main__":
    main()
