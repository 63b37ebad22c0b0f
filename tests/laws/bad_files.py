"""Files and folders of every wrong kind, for commands that expect good ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

DEEP = 100_000  # levels of nesting

# Names that hold no file, or no usable one.
NAMES = (
    "gone.txt",
    "gone/away.jsonl",
    "n" * 300,
    "two\nlines",
    "",
    " ",
    ".",
    "\udcff.txt",
    "ünïcode-\u202e.yaml",
    "a\x1b[31mb",
    "[abc]*?.txt",
    "x" * 5000,
    "corpus.txt/inside",
    "gone.txt::text",
    "::",
)


def _bomb() -> str:
    """Nine levels of ten references each: a thousand million items, in YAML's anchors."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        parts = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{parts}]")
    return "\n".join(lines) + "\n"


def _parquet(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if kind == "not-utf8":
            raw = pa.array([b"caf\xe9 \xff\xfe", b"plain"], pa.binary())
            column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
        elif kind == "exotic":
            column = pa.array([[{"a": b"\x00"}], None], pa.list_(pa.struct([("a", pa.binary())])))
        elif kind == "decimal":
            import decimal

            column = pa.array([decimal.Decimal("1e30"), None], pa.decimal256(60, 2))
        else:
            column = pa.array([], pa.string())
        label = pa.array(["a", "b"][: len(column)])
        pq.write_table(pa.table({"text": column, "label": label}), path)

    return write


def _gzipped(content: bytes, keep: float = 1.0) -> bytes:
    whole = gzip.compress(content)
    return whole[: int(len(whole) * keep)]


CONTENTS: dict[str, bytes | str | Callable[[Path], None]] = {
    "empty.txt": b"",
    "empty.yaml": b"",
    "empty.jsonl": b"",
    "empty.csv": b"",
    "empty.json": b"",
    "empty.parquet": b"",
    "blanks.txt": b" \n\t\n \n",
    "binary.bin": bytes(range(256)) * 40,
    "binary.txt": b"\x7fELF\x00\x01\x02\x03" * 500,
    "binary.yaml": b"\x00\xff\xfe\x80" * 100,
    "binary.json": b"\x80\x81\x82" * 100,
    "binary.parquet": b"PAR1" + b"\x00" * 100 + b"PAR1",
    "binary.safetensors": b"\xff" * 64,
    "garbage.yaml": b"a: [1, {b: 2\n c: - x\n\t&&& ***",
    "list.yaml": b"- a\n- b\n",
    "scalar.yaml": b"just words\n",
    "null.yaml": b"null\n",
    "tagged.yaml": b"seed: !!python/object/apply:os.system ['true']\n",
    "aliases.yaml": b"seed: *nowhere\n",
    "recursive.yaml": b"seed: &a [*a]\n",
    "keys.yaml": b"? [1, 2]\n: 3\n1: 2\nnull: 4\n",
    "dates.yaml": b"study: grokking\nseed: 2020-01-01\np: 0x10\nepochs: .nan\nlr: .inf\n",
    "twice.yaml": b"study: language\nseed: 1\nseed: 2\n",
    "control.yaml": b"seed: \x07\n",
    "bomb.yaml": _bomb(),
    "seeds.yaml": b"study: grokking\np: 11\nseeds: 1000000000\n",
    "negative-seeds.yaml": b"study: grokking\nseeds: -3\n",
    "huge-grid.yaml": "study: grokking\nsweep:\n"
    + "".join(
        f"  {field}: [{', '.join(str(n + 1) for n in range(100))}]\n"
        for field in ("p", "hidden_dim", "n_heads", "gate_dim", "epochs", "log_every")
    ),
    "sweep-list.yaml": b"study: grokking\nsweep: [1, 2]\n",
    "sweep-deep.yaml": b"study: grokking\nsweep:\n  p: [[11], {a: 1}]\n",
    "runs-odd.yaml": b"study: grokking\nruns: [3, {name: [1]}, {name: ../x}]\n",
    "nested.yaml": "[" * DEEP,
    "nested-map.yaml": "a: " + "{a: " * DEEP + "1" + "}" * DEEP + "\n",
    "nested-block.yaml": "".join(" " * n + "a:\n" for n in range(1500)),
    "nested.json": "[" * DEEP + "]" * DEEP,
    "nested.jsonl": '{"text": ' + "[" * DEEP + "]" * DEEP + "}\n",
    "nested-map.jsonl": '{"a": ' * DEEP + "1" + "}" * DEEP + "\n",
    "number.jsonl": '{"text": ' + "9" * 100_000 + "}\n",
    "surrogate.jsonl": b'{"text": "\\ud800 half"}\n' * 5,
    "numbers.jsonl": b'{"text": 3, "label": 4}\n' * 5,
    "constants.jsonl": b'{"step": 0, "train_loss": NaN, "loss": Infinity}\n' * 5,
    "huge-ints.jsonl": b'{"step": 100000000000000000000000000000, "train_acc": 1e999}\n' * 5,
    "mixed.jsonl": b'{"text": "a"}\n[1]\n{"text": "b"}\n',
    "broken.jsonl": b'{"text": "a"}\n{"text": \n',
    "latin.csv": "text,label\ncafé,a\n".encode("latin-1"),
    "ragged.csv": b'text,label\na,b,c,d\n"open quote\n',
    "nul.csv": b"text,label\na\x00b,c\n",
    "header.csv": b"text,label\n",
    "truncated.txt.gz": _gzipped(b"some words of text\n" * 5000, 0.5),
    "broken.txt.gz": b"\x1f\x8b\x08\x00broken",
    "not.jsonl.gz": b"not gzipped at all\n",
    "bomb.txt.gz": _gzipped(b"\0" * 30_000_000),
    "bomb.jsonl.gz": _gzipped(b'{"text": "' + b"a" * 30_000_000),
    "not-utf8.parquet": _parquet("not-utf8"),
    "exotic.parquet": _parquet("exotic"),
    "decimal.parquet": _parquet("decimal"),
    "rowless.parquet": _parquet("rowless"),
    "training_log.json": b'{"iterations": [0], "train_loss": "x"}',
    "folder/run.json": b"[1, 2]",
    "run-nested/run.json": "[" * DEEP + "]" * DEEP,
    "run-binary/run.json": b"\xff\xfe\x00",
    "model/config.json": b'{"model_type": "gpt2", "n_layer": 1e999}',
    "model-nested/config.json": "[" * DEEP + "]" * DEEP,
    "model-binary/config.json": b"\x80\x81",
    "tokenizer-nested/tokenizer.json": "[" * DEEP + "]" * DEEP,
    "tokenizer-binary/tokenizer.json": b"\x80\x81",
    "store/manifest.json": b'{"format": 1}',
    "store-nested/manifest.json": "[" * DEEP + "]" * DEEP,
    "probes-nested/probe.json": "[" * DEEP + "]" * DEEP,
    "probes-nested/metadata.json": "[" * DEEP + "]" * DEEP,
    "probes-binary/probe.json": b"\x80\x81",
    "probes-binary/metadata.json": b"\x80\x81",
    "sae-nested/cfg.json": "[" * DEEP + "]" * DEEP,
    "sae-nested/config.json": "[" * DEEP + "]" * DEEP,
    "sae-nested/dictionary.json": "[" * DEEP + "]" * DEEP,
    "sae-binary/cfg.json": b"\x80\x81",
    "sae-binary/sae_weights.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00[[[[[[[[",
    "sweep-nested/sweep.yaml": "a: " + "[" * DEEP,
}

FOLDERS = ("void", "void.txt", "void.yaml", "void.jsonl", "void.parquet")


def write_bad_files(root: Path) -> list[str]:
    """Write them under `root`; the names of files and folders there, relative to it."""
    for name, content in CONTENTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name in FOLDERS:
        (root / name).mkdir()
    places = {name.partition("/")[0] for name in CONTENTS if "/" in name}
    return [*CONTENTS, *FOLDERS, *sorted(places)]


def lines_of_sweep(study: str, **fields: object) -> str:
    """A small sweep file."""
    return json.dumps({"study": study, "seeds": 2, **fields})
