"""What is read from goldens by `cutaway ... --json`, and how what is read now is compared.

`READINGS` is for the next goldens. Those that are there bring their own list: each file
`expected/NAME.json` holds the commands that were asked and the answers they got, and tests ask the
same again in a copy of the folder. An answer must hold all that was saved; keys may be added.

Kinds: `recorded` is what stands in files, and must come back the same; `computed` is worked out
anew from weights and states, and may differ in its last digits between processors and versions.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from golden.recipes import ARCHITECTURES

RECORDED, COMPUTED = "recorded", "computed"
# relative, absolute: sums of float64 in another order; float32 states through a network
TOLERANCES = {RECORDED: (1e-9, 1e-12), COMPUTED: (2e-3, 2e-3)}
PROBES = ("exact", "mass-mean", "minibatch", "mlp")

_STATES = "--model language/gpt2 --activations stores/float32"
_PIPELINE = "--model language/gpt2 --activations pipeline/activations"


def _sql(runs: str, query: str) -> str:
    return f'runs sql "{query}" --runs {runs}'


READINGS: dict[str, list[tuple[str, str]]] = {
    "language": [
        (RECORDED, "runs ls --runs language"),
        (RECORDED, "runs show language/backpack"),
        (RECORDED, "runs show language/killed"),
        (RECORDED, "runs show language/extended"),
        (RECORDED, "runs show language/failed"),
        (RECORDED, "runs compare language/gpt2 language/killed language/backpack"),
        (RECORDED, _sql("language", "SELECT run, step, train_loss, val_loss, learning_rate FROM "
                        "history WHERE step % 20 = 0 ORDER BY run, step")),
        (RECORDED, _sql("language", "SELECT run, count(*) AS rows, sum(train_loss) AS loss, "
                        "max(step) AS last FROM history GROUP BY run ORDER BY run")),
        (RECORDED, _sql("language", "SELECT run, status, steps_done, config.n_embd AS width, "
                        "metrics.val_loss AS val_loss FROM runs ORDER BY run")),
        (RECORDED, _sql("language", "SELECT run, step, sense, word, activation FROM words WHERE "
                        "run = 'backpack' AND step = 180 ORDER BY ALL")),
        (RECORDED, "words language/backpack --top 5"),
        (COMPUTED, "words language/backpack --kind predicts --word ' the' --top 5"),
        (COMPUTED, "words language/backpack --kind evoked-by --word ' the' --top 5"),
        (COMPUTED, "senses language/backpack --word ' the' --top 5"),
        (COMPUTED, "senses language/backpack --word ' the' --step last --top 5"),
        (COMPUTED, "senses language/backpack --word ' the' "
                   "--scale 1=0 --prompt 'Every dog sees the sea' --top 5"),
        (COMPUTED, "senses language/backpack --word ' the' --similar-to ' a'"),
        (RECORDED, "params language/backpack"),
        (RECORDED, "params language/gpt2"),
        (RECORDED, "corpus show texts/corpus --tokenizer language/gpt2/tokenizer"),
    ],
    "grokking": [
        (RECORDED, "runs ls --runs grokking"),
        (RECORDED, "runs show grokking/routed"),
        (RECORDED, "runs show grokking/stacked/lr3e-3_s1"),
        (RECORDED, "runs show grokking/extended"),
        (RECORDED, "runs show grokking/failed"),
        (RECORDED, "runs compare grokking/routed grokking/transformer"),
        (RECORDED, "runs phases grokking/grokked grokking/routed grokking/transformer"),
        (RECORDED, _sql("grokking", "SELECT run, count(*) AS rows, sum(train_loss) AS loss, "
                        "max(step) AS last, sum(test_acc) AS accuracy FROM history GROUP BY run "
                        "ORDER BY run")),
        (RECORDED, _sql("grokking", "SELECT * FROM history WHERE run = 'routed' AND step = 100")),
        (RECORDED, _sql("grokking", "SELECT run, step, count(*) AS rows FROM routing "
                        "GROUP BY run, step ORDER BY run, step")),
        (RECORDED, _sql("grokking", "SELECT run, config.lr AS lr, seed, metrics.test_acc AS acc "
                        "FROM runs ORDER BY run")),
        (RECORDED, "params grokking/routed"),
        (RECORDED, "sweep texts/sweep.yaml --dry-run"),
        (RECORDED, "sweep texts/sweep-chosen.yaml --dry-run"),
        (RECORDED, "sweep grokking/sweep --resume"),
        (RECORDED, "sweep grokking/stacked --resume"),
    ],
    "stores": [
        (RECORDED, "runs ls --runs stores"),
        (RECORDED, "runs show stores/float32"),
        (RECORDED, "runs show stores/killed"),
    ],
    "dictionaries": [
        (RECORDED, "runs ls --runs dictionaries"),
        (RECORDED, "runs show dictionaries/measured"),
        (RECORDED, "runs show dictionaries/orthogonality"),
        (RECORDED, "runs show dictionaries/killed"),
        (RECORDED, _sql("dictionaries", "SELECT run, count(*) AS rows, sum(train_loss) AS loss, "
                        "max(step) AS last FROM history GROUP BY run ORDER BY run")),
        (RECORDED, _sql("dictionaries", "SELECT * FROM history WHERE run = 'orthogonality' "
                        "AND step = 100")),
        (RECORDED, _sql("dictionaries", "SELECT * FROM pairs ORDER BY ALL LIMIT 40")),
        *((COMPUTED, f"sae eval dictionaries/{name} {_STATES}")
          for name in (*ARCHITECTURES, "measured", "extended", "orthogonality")),
        (COMPUTED, "sae eval dictionaries/streaming --model language/gpt2"),
        (COMPUTED, "sae eval dictionaries/topk --model language/gpt2 --data texts/corpus "
                   "--tokens 1000"),
        (COMPUTED, "sae eval dictionaries/synthetic"),
        (COMPUTED, "sae eval dictionaries/superposition"),
        *((COMPUTED, f"sae eval exports/{name} {_STATES}")
          for name in ("own", "saelens", "saelens-gated", "saelens-topk")),
    ],
    "pipeline": [
        (RECORDED, "runs ls --runs pipeline"),
        (RECORDED, "runs show pipeline/residual.1"),
        (RECORDED, _sql("pipeline", "SELECT * FROM suite ORDER BY ALL")),
        (COMPUTED, f"sae eval pipeline/residual.0 pipeline/residual.1 {_PIPELINE}"),
        (COMPUTED, f"sae features pipeline/residual.1 {_PIPELINE} --top 32"),
        (COMPUTED, f"sae features pipeline/residual.1 {_PIPELINE} --feature 3 --examples 3"),
        (COMPUTED, "sae effect pipeline/residual.1 --model language/gpt2 --prompt Every"),
        (COMPUTED, "sae effect pipeline/residual.1 --model language/gpt2 --prompt Every "
                   "--feature 3 --value 5 --mode add --length 4 --temperature 0"),
    ],
    "probes": [
        (RECORDED, "runs ls --runs probes"),
        (RECORDED, "runs show probes/exact"),
        (RECORDED, "runs show probes/killed"),
        *((RECORDED, _sql("probes", f"SELECT * FROM {table} ORDER BY ALL"))
          for table in ("layers", "controls", "confusion")),
        (RECORDED, _sql("probes", "SELECT run, count(*) AS rows FROM reliability GROUP BY run "
                        "ORDER BY run")),
        *((RECORDED, f"probe inspect probes/{name}") for name in ("the", "topics", "persons")),
        *((COMPUTED, f"probe eval probes/{name} --model language/gpt2 --data probes/the")
          for name in PROBES),
        (COMPUTED, "probe eval probes/classes --model language/gpt2 --data probes/topics"),
        (COMPUTED, "probe eval probes/words --model language/gpt2 --data probes/persons"),
        (COMPUTED, "probe eval probes/exact --model language/gpt2 --data texts/corpus "
                   "--tokens 2000"),
    ],
    "imports": [
        (RECORDED, "runs ls --runs imports"),
        (RECORDED, "words imports/backpack/training_log.json --top 5"),
        *((RECORDED, f"runs show imports/{kind}") for kind in ("jsonl", "csv", "tsv", "parquet")),
        (RECORDED, "runs phases --runs imports"),
        *((RECORDED, f"runs phases texts/history.{kind}")
          for kind in ("jsonl", "csv", "tsv", "parquet")),
        (RECORDED, _sql("imports", "SELECT run, count(*) AS rows, sum(test_loss) AS loss, "
                        "max(step) AS last FROM history GROUP BY run ORDER BY run")),
    ],
}  # fmt: skip


# Commands that meanwhile find fault: exit code and `problems` are others, figures are the same.
FINDS = {
    "probe inspect probes/topics": 1,  # texts that stand in two parts of the split are a finding
}


def ask(command: str, folder: Path) -> Any:
    """The answer of `cutaway <command> --json` in `folder`, as Python data.

    Where the command fails its exit code and message are the answer; the folder's own path in it is
    replaced by `.`, the cache's by `CACHE`.
    """
    import shlex

    from cutaway.cli.main import run

    shown, said = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(said),
    ):
        code = run([*shlex.split(command), "--json"])
    text = shown.getvalue().replace(str(folder), ".")
    text = text.replace(os.environ.get("CUTAWAY_CACHE") or "~", "CACHE")
    if code != FINDS.get(command, 0):
        raise AssertionError(f"cutaway {command}: exit code {code}: {said.getvalue()}")
    return json.loads(text)


def save_readings(folder: Path, recipes: Iterable[str]) -> None:
    """Ask what is read of these recipes in `folder` and keep the answers in its `expected/`."""
    (folder / "expected").mkdir(exist_ok=True)
    for name in recipes:
        readings = READINGS[name]
        asked = [
            {"command": command, "kind": kind, "answer": ask(command, folder)}
            for kind, command in readings
        ]
        (folder / "expected" / f"{name}.json").write_text(json.dumps(asked, indent=1) + "\n")


def age_owners(folder: Path) -> None:
    """Let the processes that were killed here be gone for an hour, whoever copied the folder.

    On another machine than theirs that is told from the time their file was last touched, which git
    does not keep.
    """
    then = time.time() - 3600
    for owner in folder.rglob(".owner.json"):
        os.utime(owner, (then, then))


def differences(saved: Any, now: Any, kind: str, place: str = "") -> Iterator[str]:
    """A line for each thing of `saved` that is not in `now`, or is not the same there."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key, value in saved.items():
            if key not in now:
                yield f"{place}.{key}: gone (was {value!r})"
            else:
                yield from differences(value, now[key], kind, f"{place}.{key}")
    elif isinstance(saved, list) and isinstance(now, list):
        if len(saved) != len(now):
            yield f"{place}: {len(now)} entries, were {len(saved)}"
        for index, (one, other) in enumerate(zip(_ordered(saved), _ordered(now), strict=False)):
            yield from differences(one, other, kind, f"{place}[{index}]")
    elif _number(saved) and _number(now):
        relative, absolute = TOLERANCES[kind]
        if not math.isclose(saved, now, rel_tol=relative, abs_tol=absolute):
            yield f"{place}: {now!r}, was {saved!r}"
    elif saved != now:
        yield f"{place}: {now!r}, was {saved!r}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(rows: list[Any]) -> list[Any]:
    """Rows about features in their order: sorted by density two may change places."""
    if rows and all(isinstance(row, dict) and "feature" in row for row in rows):
        return sorted(rows, key=lambda row: (row["feature"], json.dumps(row)))
    return rows
