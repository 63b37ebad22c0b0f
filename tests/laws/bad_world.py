"""A folder with one good thing of every kind beside the bad ones, and a good line per command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conftest import GROK, TINY, sentences, settings_args
from laws.bad_files import write_bad_files

LANGUAGE = {**TINY, "max_iters": 4, "eval_interval": 2, "warmup_iters": 0, "data": "corpus.txt"}
GROKKING = {**GROK, "epochs": 4, "log_every": 2, "weight_curvature_interval": 4}
DICTIONARY = {
    "d_hidden": 32,
    "target_l0": 4,
    "batch_size": 64,
    "max_steps": 4,
    "precision": "float32",
    "kernels": "sparse",
    "eval_tokens": 200,
}
PROBE = {"method": "minibatch", "layers": "0", "max_steps": 4, "controls": "none"}

QUERY = "select run, status from runs"
LINES: dict[tuple[str, ...], list[Sequence[str]]] = {
    ("tour",): [["--only", "nowhere"]],
    ("train",): [
        ["docstrings-tiny", *settings_args(LANGUAGE), "--out", "new"],
        ["routed", *settings_args(GROKKING), "--out", "new"],
        ["sae", *settings_args(DICTIONARY), "--activations", "states", "--out", "new"],
        [
            *("probe-next-token", *settings_args(PROBE), "--model", "language"),
            *("--data", "examples", "--out", "new"),
        ],
        ["grokking", "--extra-steps", "2"],
    ],
    ("sweep",): [
        ["sweep.yaml", "--dry-run"],
        ["sweep.yaml", "--out", "corpus.txt"],
    ],
    ("presets",): [["routed"], []],
    ("params",): [["docstrings-tiny"], ["routed"], ["language", "--target", "50k"]],
    ("plot",): [["loss", "language", "--out", "x.png"], ["all", "grokking", "--out", "pictures"]],
    ("words",): [["language"], ["language", "--kind", "predicts", "--word", "the"]],
    ("senses",): [["language", "--word", "the"], ["language", "--word", "the", "--remove", "a"]],
    ("sample",): [["language", "--prompt", "the", "--length", "3"]],
    ("export",): [["language", "--out", "exported"]],
    ("extract",): [["language", "--data", "corpus.txt", "--tokens", "300", "--out", "new"]],
    ("corpus", "ls"): [[]],
    ("corpus", "show"): [["corpus.txt"], ["corpus.txt", "--vocab-size", "300"]],
    ("sae", "pipeline"): [
        [
            *("language", "--data", "corpus.txt", "--tokens", "300", "--out", "new"),
            *settings_args(DICTIONARY),
        ]
    ],
    ("sae", "train"): [["states", *settings_args(DICTIONARY), "--out", "new"]],
    ("sae", "eval"): [["dictionary", "--tokens", "300"]],
    ("sae", "features"): [["dictionary", "--tokens", "300", "--out", "new"]],
    ("sae", "study"): [
        ["orthogonality", "states", "--layer", "0", "--l0", "4", "--out", "new", "--dry-run"]
    ],
    ("sae", "effect"): [
        ["dictionary", "--feature", "1", "--prompt", "the cat", "--length", "3"],
    ],
    ("sae", "export"): [["dictionary", "--out", "exported"]],
    ("probe", "data"): [
        [
            *("language", "--data", "corpus.txt", "--target-token", " the"),
            *("--context-length", "8", "--max-chunks-per-class", "20", "--out", "new"),
        ],
        ["language", "--labels", "labelled.csv", "--out", "new"],
    ],
    ("probe", "inspect"): [["examples"]],
    ("probe", "train"): [
        ["language", "--data", "examples", *settings_args(PROBE), "--out", "new"],
    ],
    ("probe", "eval"): [["probe"]],
    ("probe", "view"): [["probe", "--text", "the cat sees the river", "--out", "view.html"]],
    ("runs", "ls"): [["."], ["--runs", "."]],
    ("runs", "show"): [["language"]],
    ("runs", "sql"): [[QUERY, "--runs", "."]],
    ("runs", "compare"): [["language", "grokking"]],
    ("runs", "phases"): [["grokking"], ["--runs", "."]],
    ("runs", "import"): [["log.jsonl", "--runs", "imported"]],
    ("runs", "verify"): [["language"]],
    ("runs", "rm"): [["grokking", "--runs", "."]],
}


def make_world(root: Path) -> None:
    """Small finished runs of every study, and what they were made of, under short names."""
    import json

    from cutaway.cli.main import run

    (root / "corpus.txt").write_text("\n\n".join(sentences(number, 40) for number in range(12)))
    (root / "labelled.csv").write_text(
        "text,label\n" + "".join(f"{sentences(n, 1)},{'ab'[n % 2]}\n" for n in range(40))
    )
    (root / "log.jsonl").write_text(
        "".join(
            json.dumps({"step": n, "train_acc": n / 10, "test_acc": n / 20}) + "\n"
            for n in range(10)
        )
    )
    (root / "sweep.yaml").write_text(
        json.dumps({"study": "grokking", "seeds": 2, "model_type": "routed", **GROKKING})
    )
    made = [
        ["train", "docstrings-tiny", *settings_args({**LANGUAGE, "max_iters": 20})],
        ["train", "routed", *settings_args(GROKKING)],
        ["extract", "language", "--data", "corpus.txt", "--tokens", "3000"],
        [
            *("train", "sae", *settings_args({**DICTIONARY, "max_steps": 20})),
            *("--layer", "0", "--activations", "states"),
        ],
        [
            *("probe", "data", "language", "--data", "corpus.txt", "--target-token", " the"),
            *("--context-length", "8", "--max-chunks-per-class", "100"),
        ],
        [
            *("train", "probe-next-token", "--model", "language", "--data", "examples"),
            *settings_args({**PROBE, "max_steps": 20}),
        ],
    ]
    for line, out in zip(
        made, ("language", "grokking", "states", "dictionary", "examples", "probe")
    ):
        code = run(["--quiet", *line, "--out", out])
        assert code == 0, (line, code)
    write_bad_files(root)
