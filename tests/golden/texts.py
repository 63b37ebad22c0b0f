"""The texts, tables and settings that goldens are made from: the same whenever they are written."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

from conftest import sentences

SWEEP = """\
# one network, two rates, two seeds
study: grokking
sweep:
  lr: [0.003, 0.01]
seeds: 2
p: 7
train_frac: 0.6
model_type: baseline
activation: relu
hidden_dim: 8
epochs: {epochs}
log_every: 10
checkpoint_every: {every}
keep_checkpoints: 1
compute_weight_curvature: false
"""
CHOSEN = """\
# fields that vary together, runs chosen by hand, a list of seeds, a preset to begin with
preset: docstrings-tiny
sweep:
  n_embd: [16, 32]
  n_layer, n_head: [[1, 2], [2, 4]]
seeds: [3, 5]
runs:
  - {name: plain}
  - {name: heavy, weight_decay: 1.0}
max_iters: 20
warmup_iters: 5
"""
DICTIONARY = """\
study: dictionary
sae:
  architecture: jumprelu
sae_training:
  learning_rate: 0.003
  log_every: 20
  keep_checkpoints: 1
"""
_TOPICS = {
    "sea": ["the sailor", "the ship", "the wave", "the river", "the fish"],
    "farm": ["the dog", "the horse", "the field", "the cow", "the house"],
    "court": ["the judge", "the king", "the law", "the vote", "the president"],
}
_VERBS = ["sees", "likes", "follows", "remembers", "paints"]
_PERSONS, _PLACES = ["Anna", "Peter", "Maria", "John"], ["Paris", "Rome", "Oslo", "Lima"]


def write_texts(folder: Path) -> None:
    """Everything of `texts/` into `folder`."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number in range(16):
        (corpus / f"text-{number:02d}.txt").write_text(sentences(100 + number, 40))
    _write_hub(folder / "hub", [one.read_text() for one in sorted(corpus.iterdir())])
    (folder / "sweep.yaml").write_text(SWEEP.format(epochs=60, every=30))
    (folder / "sweep-slow.yaml").write_text(SWEEP.format(epochs=300, every=40))
    (folder / "sweep-chosen.yaml").write_text(CHOSEN)
    (folder / "dictionary.yaml").write_text(DICTIONARY)
    _write_topics(folder / "topics.csv")
    _write_crossed(folder / "crossed.csv")
    _write_names(folder / "names.conll")
    _write_histories(folder)


def _write_hub(folder: Path, texts: list[str]) -> None:
    """A local copy of a corpus of the hub, in its layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / "manu/project_gutenberg/data"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), place / "en-00000-of-00001.parquet")


def _write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _sentence(draw: random.Random, topic: str, end: str = "in the morning") -> str:
    one, other = draw.sample(_TOPICS[topic], 2)
    return f"{one.capitalize()} {draw.choice(_VERBS)} {other} {end}."


def _write_topics(path: Path) -> None:
    draw = random.Random(1)
    rows = [
        {"text": _sentence(draw, topic, f"for {number} days"), "label": topic}
        | {"group": f"{topic} {number // 3}"}
        for topic in _TOPICS
        for number in range(36)
    ]
    _write_table(path, rows)


def _write_crossed(path: Path) -> None:
    draw = random.Random(2)
    rows = [
        {"text": _sentence(draw, topic, f"{when} for {number} days"), "label": topic}
        | {"second_label": when, "group": f"document {number % 12}"}
        for topic in ("sea", "farm")
        for when in ("at night", "in the morning")
        for number in range(30)
    ]
    _write_table(path, rows)


def _write_names(path: Path) -> None:
    draw = random.Random(3)
    lines = []
    for _ in range(80):
        person, place = draw.choice(_PERSONS), draw.choice(_PLACES)
        words = [(person, "B-PER"), (draw.choice(_VERBS), "O"), ("the", "O"), ("river", "O")]
        words += [("in", "O"), (place, "B-LOC"), (".", "O")]
        lines += [f"{word}\t{tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines))


def _write_histories(folder: Path) -> None:
    """A network that memorised at step 300 and grokked at 1200, recorded by other programs."""
    rows = [
        {
            "step": step,
            "train_loss": round(4.0 * math.exp(-step / 100) + 0.001, 6),
            "test_loss": round(4.0 / (1 + math.exp((step - 1100) / 40)) + 0.002, 6),
            "train_acc": round(1 / (1 + math.exp((150 - step) / 30)), 6),
            "test_acc": round(1 / (1 + math.exp((1050 - step) / 40)), 6),
        }
        for step in range(0, 2001, 20)
    ]
    head = {"_meta": {"p": 97, "lr": 0.001, "weight_decay": 1.0}}
    lines = [json.dumps(one) for one in (head, *rows)]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    _write_table(folder / "history.csv", rows)
    _write_table(folder / "history.tsv", rows, "\t")

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "history.parquet")
