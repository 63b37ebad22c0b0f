"""A dictionary's training step beside SAELens, dictionary_learning and sparsify, in one run.

    python benchmarks/dictionaries.py --peers PYTHON [--batch 4096] [--steps 8] [--rounds 3]
        [--architecture jumprelu|topk] [--precision float32|bfloat16] [--warm-steps 2000] [--quick]

PYTHON is an interpreter with the peers installed (`pip install torch==2.13.0 sae-lens==6.54.12
eai-sparsify==1.3.3 dictionary-learning==0.1.0`). First our dictionary is trained for --warm-steps
on synthetic states (d 768, F 4096, ‖x‖ ≈ √d) until it is near its target L0 of 64, and its weights are
put into every peer's own model: all continue from the same encodings, and the L0 and explained
variance at which each ends are printed. (Peers left to themselves start at an L0 in the thousands;
their steps are dense and take as long there. An optimiser that starts anew moves L0 in its first
steps, ours from 75 to about 64: hence --start-l0.) Then processes take turns,
each stepping its own trainer on the same batches from memory with the same threads; what counts is
the 10th percentile of the step times, which repeats on a busy machine. Nothing is logged or saved.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, FEATURES, L0, ROWS = 768, 4096, 64, 32_768
PEERS = {"jumprelu": ("saelens", "dictionary_learning"),
         "topk": ("saelens", "dictionary_learning", "sparsify")}  # fmt: skip
RATE = 3e-4


# -- what each process does ---------------------------------------------------------------------


def batches(folder: Path, size: int) -> Iterator[Any]:
    """Slices of the states, from memory, for ever."""
    import torch

    states = torch.from_numpy(np.load(folder / "states.npy"))
    place = 0
    while True:
        if place + size > len(states):
            place = 0
        yield states[place : place + size]
        place += size


def weights(folder: Path) -> dict[str, Any]:
    """Our dictionary as trained: W_enc (F, d), b_enc, W_dec (F, d), b_dec, threshold."""
    import torch

    return {
        name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()
    }


def ours(folder: Path, given: argparse.Namespace) -> tuple[Callable[[Any], None], Any]:
    from cutaway.base import hardware
    from cutaway.dictionaries.architectures.registry import build
    from cutaway.dictionaries.model.dictionary import DictionaryShape
    from cutaway.dictionaries.training.control import Settings
    from cutaway.dictionaries.training.task import DictionaryTask
    from cutaway.training.config import LoopConfig
    from cutaway.training.precision import autocast
    from cutaway.training.updaters import AdamW

    hardware.keep_freed_memory()
    shape = DictionaryShape(given.architecture, WIDTH, FEATURES, k=L0)
    dictionary = build(shape)
    w = weights(folder)
    state = dictionary.state_dict()
    for mine, theirs in (("encoder_weight", "W_enc"), ("encoder_bias", "b_enc"),
                         ("decoder_weight", "W_dec"), ("decoder_bias", "b_dec"),
                         ("threshold", "threshold")):  # fmt: skip
        if mine in state:
            state[mine].copy_(w[theirs])
    settings = Settings(target_l0=L0, kernels="sparse", dead_after=10**9)
    stream = _Given(given.batch)
    task = DictionaryTask(dictionary, settings, stream, [])
    config = LoopConfig(steps=10**6, schedule_steps=10**6, learning_rate=RATE, gradient_clip=1.0)
    updater = AdamW(task, config)
    device = hardware.device("cpu")

    def step(x: Any) -> None:
        updater.zero()
        stream.now = x
        batch = task.batch(0)
        with autocast(device, given.precision):
            loss = task.loss(batch)
        loss.total.backward()
        updater.clip()
        updater.step([RATE])
        task.after_step(0)

    def look(x: Any) -> tuple[Any, Any]:
        features = dictionary.encode(x)
        return features, dictionary.decode(features)

    return step, look


class _Given:
    """The task's stream where batches are handed to it."""

    width, rows = WIDTH, ROWS

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.now: Any = None

    def batch(self, index: int) -> Any:
        return self.now


def saelens(folder: Path, given: argparse.Namespace) -> tuple[Callable[[Any], None], Any]:
    """One step of SAETrainer.fit: its own `_train_step` on its own optimiser and coefficients."""
    from sae_lens import (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        SAETrainer,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig

    common = {"d_in": WIDTH, "d_sae": FEATURES, "device": "cpu", "dtype": "float32",
              "normalize_activations": "none"}  # fmt: skip
    w = weights(folder)
    if given.architecture == "jumprelu":
        sae = JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(
                **common, jumprelu_bandwidth=0.05, jumprelu_init_threshold=0.01,
                jumprelu_sparsity_loss_mode="step", l0_coefficient=1.0, l0_warm_up_steps=0,
            )
        )  # fmt: skip
        sae.threshold.data.copy_(w["threshold"])
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=L0, use_sparse_activations=False))
    for name, value in (("W_enc", w["W_enc"].T), ("b_enc", w["b_enc"]), ("W_dec", w["W_dec"]),
                        ("b_dec", w["b_dec"])):  # fmt: skip
        getattr(sae, name).data.copy_(value)
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=given.batch, lr=RATE,
        lr_end=RATE / 10, device="cpu", autocast=given.precision == "bfloat16", n_checkpoints=0,
        dead_feature_window=10**9, feature_sampling_window=10**9,
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    sae.train()

    def step(x: Any) -> None:
        trainer.n_training_samples += len(x)
        trainer._train_step(sae=sae, sae_in=x)
        trainer.n_training_steps += 1

    def look(x: Any) -> tuple[Any, Any]:
        features = sae.encode(x)
        return features, sae.decode(features)

    return step, look


def dictionary_learning(
    folder: Path, given: argparse.Namespace
) -> tuple[Callable[[Any], None], Any]:
    """One `trainer.update`, which is all that its trainSAE does for a step."""
    import torch
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"activation_dim": WIDTH, "dict_size": FEATURES, "steps": 10**6, "layer": 0,
              "lm_name": "none", "device": "cpu", "warmup_steps": 0}  # fmt: skip
    w = weights(folder)
    if given.architecture == "jumprelu":
        trainer = JumpReluTrainer(
            **common, lr=RATE, bandwidth=0.05, sparsity_penalty=1.0, target_l0=float(L0),
            sparsity_warmup_steps=0,
        )  # fmt: skip
        pairs = (("W_enc", w["W_enc"].T), ("b_enc", w["b_enc"]), ("W_dec", w["W_dec"]),
                 ("b_dec", w["b_dec"]), ("threshold", w["threshold"]))  # fmt: skip
        for name, value in pairs:
            getattr(trainer.ae, name).data.copy_(value)
    else:
        trainer = TopKTrainer(**common, k=L0)
        trainer.ae.encoder.weight.data.copy_(w["W_enc"])
        trainer.ae.encoder.bias.data.copy_(w["b_enc"])
        trainer.ae.decoder.weight.data.copy_(w["W_dec"].T)
        trainer.ae.b_dec.data.copy_(w["b_dec"])
    narrow = given.precision == "bfloat16"
    count = 0

    def step(x: Any) -> None:
        nonlocal count
        with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
            trainer.update(count + 1, x)
        count += 1

    def look(x: Any) -> tuple[Any, Any]:
        features = trainer.ae.encode(x)
        return features, trainer.ae.decode(features)

    return step, look


def sparsify(folder: Path, given: argparse.Namespace) -> tuple[Callable[[Any], None], Any]:
    """The calls its Trainer makes for a step, without a model in the way."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    w = weights(folder)
    coder = SparseCoder(WIDTH, SparseCoderConfig(num_latents=FEATURES, k=L0), "cpu", torch.float32)
    coder.encoder.weight.data.copy_(w["W_enc"])
    coder.encoder.bias.data.copy_(w["b_enc"])
    coder.W_dec.data.copy_(w["W_dec"])
    coder.b_dec.data.copy_(w["b_dec"])
    optimiser = torch.optim.Adam(coder.parameters(), lr=RATE)
    fired = torch.zeros(FEATURES, dtype=torch.bool)
    narrow = given.precision == "bfloat16"

    def step(x: Any) -> None:
        coder.set_decoder_norm_to_unit_norm()
        with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
            out = coder(x=x, y=x, dead_mask=None)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    def look(x: Any) -> tuple[Any, Any]:
        out = coder.encode(x)
        return (out.top_acts != 0).float(), coder.decode(out.top_acts, out.top_indices)

    return step, look


def child(name: str, folder: Path, given: argparse.Namespace) -> None:
    """Step, time, and print one JSON line."""
    import torch

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    step, look = globals()[name](folder, given)
    stream = batches(folder, given.batch)
    times = []
    for index in range(given.warm_up + given.steps):
        x = next(stream)
        began = time.perf_counter()
        step(x)
        if index >= given.warm_up:
            times.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        x = torch.from_numpy(np.load(folder / "states.npy")[:4096])
        features, guess = look(x)
        l0 = float((features != 0).float().sum(1).mean())
        explained = 1 - float((x - guess.float()).square().sum() / (x - x.mean(0)).square().sum())
    print(json.dumps({"times": times, "l0": l0, "explained": explained, "memory": memory}))


# -- the comparison ------------------------------------------------------------------------------


def prepare(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """States, and our dictionary trained on them for `warm_steps`; what it scores."""
    import torch

    from cutaway.base.display import quiet
    from cutaway.dictionaries.synthetic.stream import SyntheticStream
    from cutaway.dictionaries.synthetic.truth import Superposition

    quiet.set(True)
    torch.set_num_threads(given.threads)
    stream = SyntheticStream(Superposition(4 * WIDTH, WIDTH, 16, seed=0), 2048)
    states = torch.cat([stream.batch(index) for index in range(ROWS // 2048)])
    states += 0.02 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    states *= (WIDTH / states.square().sum(1).mean()).sqrt()  # so that no side scales them
    np.save(folder / "states.npy", states.numpy())
    return _trained(folder, states, given)


def _trained(folder: Path, states: Any, given: argparse.Namespace) -> dict[str, float]:
    from cutaway.base import hardware
    from cutaway.dictionaries.architectures.registry import build
    from cutaway.dictionaries.model.dictionary import DictionaryShape
    from cutaway.dictionaries.training.control import Settings
    from cutaway.dictionaries.training.task import DictionaryTask
    from cutaway.training.config import LoopConfig
    from cutaway.training.precision import autocast
    from cutaway.training.updaters import AdamW

    hardware.keep_freed_memory()
    dictionary = build(DictionaryShape(given.architecture, WIDTH, FEATURES, k=L0))
    dictionary.start(states[:4096], given.start_l0)
    settings = Settings(target_l0=given.start_l0, kernels="sparse", dead_after=10**6)
    handed = _Given(given.warm_batch)
    task = DictionaryTask(dictionary, settings, handed, [states[:4096]])
    config = LoopConfig(steps=1, schedule_steps=1, learning_rate=RATE, gradient_clip=1.0)
    updater = AdamW(task, config)
    stream = batches(folder, given.warm_batch)
    for _ in range(given.warm_steps):
        updater.zero()
        handed.now = next(stream)
        batch = task.batch(0)
        with autocast(hardware.device("cpu"), given.precision):
            loss = task.loss(batch)
        loss.total.backward()
        updater.clip()
        updater.step([RATE])
        task.after_step(0)
    own = {"threshold": dictionary.threshold.detach().expand(FEATURES).numpy()} if hasattr(
        dictionary, "threshold") else {}  # fmt: skip
    np.savez(
        folder / "weights.npz",
        W_enc=dictionary.encoder_weight.detach().numpy(),
        b_enc=dictionary.encoder_bias.detach().numpy(),
        W_dec=dictionary.decoder_weight.detach().numpy(),
        b_dec=dictionary.decoder_bias.detach().numpy(),
        **own,
    )
    return task.evaluate()


def process(python: str, name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    arguments = [python, __file__, "--child", name, "--folder", str(folder)]
    for field in ("batch", "steps", "threads", "architecture", "precision"):
        arguments += [f"--{field}", str(getattr(given, field))]
    quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | quiet)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(folder: Path, given: argparse.Namespace) -> None:
    names = ["ours", *(PEERS[given.architecture] if given.peers else ())]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            python = sys.executable if name == "ours" else given.peers
            found[name].append(process(python, name, folder, given))
    mine = np.percentile([t for one in found["ours"] for t in one["times"]], 10)
    print(f"{'':22}{'ms/step':>9}{'median':>9}{'ours is':>9}{'MB':>8}{'L0':>8}{'EV':>8}")
    for name, rounds in found.items():
        times = [t for one in rounds for t in one["times"]]
        low = np.percentile(times, 10)
        print(
            f"{name:22}{1e3 * low:9.1f}{1e3 * np.median(times):9.1f}{low / mine:8.2f}x"
            f"{max(one['memory'] for one in rounds):8.0f}{rounds[0]['l0']:8.1f}"
            f"{rounds[0]['explained']:8.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="an interpreter that has the peers")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", choices=list(PEERS), default="jumprelu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--warm-steps", type=int, default=2000)
    parser.add_argument("--start-l0", type=float, default=75.0, help="JumpReLU's, trained towards")
    parser.add_argument("--warm-batch", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="does it run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep states and weights there, use them again")
    given = parser.parse_args()
    given.warm_up = 3
    if given.child:
        child(given.child, given.folder, given)
        return
    if given.quick:
        given.batch, given.steps, given.rounds, given.warm_steps = 256, 2, 1, 3
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "weights.npz").is_file():
            began = time.perf_counter()
            figures = prepare(folder, given)
            print(f"trained {given.warm_steps} steps in {time.perf_counter() - began:.0f} s: "
                  f"L0 {figures['val_l0']:.1f}, EV {figures['val_explained_variance']:.4f}")  # fmt: skip
        print(
            f"{given.architecture}, {given.precision}, batch {given.batch}, {given.threads} threads"
        )
        compare(folder, given)


if __name__ == "__main__":
    main()
