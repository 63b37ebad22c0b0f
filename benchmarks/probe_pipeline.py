"""From windows to fitted probes of five layers, beside one truncated forward pass and the usual way.

    python benchmarks/probe_pipeline.py [--windows 480] [--rows 20000] [--rounds 3] [--threads 2]
        [--accuracy MODEL SOURCE ...] [--quick]

Speed. A GPT-2-small-shaped model with random weights, windows of 128 random tokens, layers `auto`
(0, 3, 6, 8, 11). In turns, on the same windows: (1) the bare truncated forward, blocks called in a loop,
nothing kept; (2) `states_of`, which keeps the five layers' states at the windows' ends; (3) an epoch of
the usual way for one layer: batches of 48 through the model with all hidden states, a linear probe and
AdamW. Then (4) the exact fit of five layers and five strengths on `--rows` windows' states. Scaled to
`--rows` windows: the whole way, (2) + (4), against (1), and the usual way as 5 layers x 10 epochs of (3).

Accuracy, for each MODEL and SOURCE: balanced accuracy on test of the exact probes and of probes trained
the usual way (10 epochs, batch 48, AdamW 1e-3, weight decay 1e-4, class weight capped at 5), on the same
windows; the model is frozen, so its states are read once for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes.data.examples import Examples
from cutaway.probes.data.request import STRENGTHS
from cutaway.probes.data.windows import token_data
from cutaway.probes.fitting.methods import class_weights, evened, fit_layer, trained_prior
from cutaway.probes.scores.evaluation import judge
from cutaway.probes.states.collecting import TOKENS, states_of
from cutaway.probes.states.inputs import inputs_of, layers_of
from cutaway.text.sources import source

LENGTH, WIDTH, LAYERS = 128, 768, 12
EPOCHS, BATCH, RATE, DECAY, CAP = 10, 48, 1e-3, 1e-4, 5.0


def make_model(folder: Path) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_layer": LAYERS, "n_head": 12, "n_embd": WIDTH, "n_positions": 1024}
    GPT2LMHeadModel(GPT2Config(**shape, vocab_size=8192)).save_pretrained(folder)
    return open_model(str(folder), dtype="float32", device="cpu")


def windows_of(count: int) -> Examples:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 8000, (count, LENGTH), generator=generator, dtype=torch.int32)
    begin = torch.arange(count) * LENGTH
    last = torch.full((count,), LENGTH - 1)
    label = (tokens[:, -3] % 2).long()
    whole = torch.arange(count)
    return Examples(tokens.flatten(), begin, begin + LENGTH, whole, last, last, label, whole // 100)


def bare(model: Model, examples: Examples) -> None:
    network = model.module.transformer
    positions = torch.arange(LENGTH)[None]
    with torch.no_grad():
        for ids in examples.tokens.view(-1, LENGTH).long().split(TOKENS // LENGTH):
            x = network.wte(ids) + network.wpe(positions)
            for block in network.h:
                found = block(x)
                x = found[0] if isinstance(found, tuple) else found


def usual_epoch(model: Model, examples: Examples, layer: int) -> None:
    """One epoch of one layer's probe: the frozen model run again for every batch."""
    network = model.module.transformer
    probe = nn.Linear(WIDTH, 1)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    for ids, label in zip(
        examples.tokens.view(-1, LENGTH).long().split(BATCH), examples.label.split(BATCH)
    ):
        with torch.no_grad():
            hidden = network(ids, output_hidden_states=True, use_cache=False).hidden_states
        loss = nn.functional.binary_cross_entropy_with_logits(
            probe(hidden[layer + 1][:, -1])[:, 0], label.float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def usual(x: Tensor, label: Tensor) -> nn.Linear:
    """A probe trained the usual way on states that the frozen model would give at every epoch."""
    torch.manual_seed(0)
    probe = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    weight = class_weights(label, 2, CAP)[1:]
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(
                probe(x[rows])[:, 0], label[rows].float(), pos_weight=weight
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return probe


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fit_all(states: Tensor, label: Tensor, documents: Tensor) -> None:
    """Five layers at five strengths, with a validation part as large as a quarter of training."""
    for x in states:
        held_out = slice(0, len(label) // 4)
        fit_layer(
            x,
            label[None],
            x[held_out],
            label[None, held_out],
            documents[held_out],
            n_classes=2,
            strengths=STRENGTHS,
        )


def speed(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
    sites = layers_of("auto", LAYERS)
    examples = windows_of(given.windows)
    few = windows_of(max(BATCH, given.windows // 5))
    works: dict[str, Callable[[], object]] = {
        "bare truncated forward": lambda: bare(model, examples),
        "states of five layers": lambda: states_of(model, examples, sites),
        "an epoch the usual way": lambda: usual_epoch(model, few, 6),
    }
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(given.rounds):
        for name, work in works.items():
            count = len(few) if "epoch" in name else len(examples)
            best[name] = min(best[name], 1000 * timed(work) / count)
    generator = torch.Generator().manual_seed(1)
    # as many rows as asked, with the spectrum of those that were read
    read = states_of(model, examples, sites).values
    mixing = torch.randn(given.rows, len(examples), generator=generator) / len(examples) ** 0.5
    states = torch.stack([mixing @ (x - x.mean(0)) + x.mean(0) for x in read])
    label = (states[2] @ torch.randn(WIDTH, generator=generator) > 0).long()
    label ^= torch.rand(given.rows, generator=generator) < 0.1
    fitting = timed(lambda: fit_all(states, label, torch.arange(given.rows) // 100))
    for name, milliseconds in best.items():
        print(f"{name:26} {milliseconds:8.2f} ms per window")
    print(f"{'fits of five layers':26} {fitting:8.2f} s for {given.rows:,} windows")
    forward, reading, epoch = (one * given.rows / 1000 for one in best.values())
    whole = reading + fitting
    print(
        f"data to fitted probes / bare truncated forward, {given.rows:,} windows: {whole / forward:.3f}"
    )
    print(f"the usual way (5 layers x {EPOCHS} epochs) / ours: {5 * EPOCHS * epoch / whole:.1f}")


def accuracy(name: str, text: str, given: argparse.Namespace) -> None:
    model = open_model(name, dtype="float32")
    count = 500 if given.quick else 10_000
    data = token_data(
        source(text),
        model.reads,
        " the",
        context_length=min(LENGTH, model.max_length or LENGTH),
        max_chunks_per_class=count,
        max_evaluation=count,
    )
    inputs = inputs_of(data.reading(), model, "auto")
    read = {part: inputs.states(part) for part in ("train", "validation", "test")}
    label = {part: examples.label for part, (_, examples) in read.items()}
    documents = {part: examples.document for part, (_, examples) in read.items()}
    print(f"{name} on {text}: balanced accuracy, {len(label['train']):,} windows to train on")
    for index, site in enumerate(inputs.sites):
        x = {part: states.values[index].float() for part, (states, _) in read.items()}
        fits = fit_layer(
            *(x["train"], label["train"][None], x["validation"], label["validation"][None]),
            documents["validation"],
            n_classes=2,
            strengths=STRENGTHS,
        )
        probe = usual(x["train"], label["train"])
        prior = trained_prior(label["train"], 2, CAP)
        with torch.no_grad():
            theirs = evened(probe(x["test"])[None], prior[None])[0]
        for who, even in (("exact", fits.even(x["test"])[0]), ("the usual way", theirs)):
            row = judge(even, even, label["test"], documents["test"]).rows()[0]
            print(
                f"  {site!s:12} {who:14} {row['balanced_accuracy']:.4f} "
                f"({row['low']:.4f} to {row['high']:.4f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=480)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--accuracy", nargs=2, action="append", default=[])
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.windows, given.rows, given.rounds = 48, 1000, 1
    torch.set_num_threads(given.threads)
    if not given.accuracy:
        speed(given)
    for name, text in given.accuracy:
        accuracy(name, text, given)


if __name__ == "__main__":
    main()
