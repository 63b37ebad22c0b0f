"""SQL and listing over a thousand runs of a thousand rows each, with mixed schemas.

    python benchmarks/querying.py [--runs 1000] [--rows 1000] [--rounds 5] [--root FOLDER] [--quick]

The runs are written with the real `Run` into a temporary folder (or --root, which is kept and used
again): three grokking-like ones, of which every other has a table of routings, to two
language-like ones, with a table of word senses each. Then, each in a process of its own: the first
query of a new store (with the import of DuckDB and Arrow), four more of the same process, and
`cutaway runs ls` as a user starts it. The pages of the files are in the system's cache, as they
are after training; emptying it takes root, so a first query after a restart is not measured here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from cutaway.base.display import quiet
from cutaway.runs.folder import Run
from cutaway.runs.store import RunStore

BEST = "SELECT run, max(test_acc) AS best FROM history GROUP BY run ORDER BY best DESC"
TARGETS = {"first query": 2.0, "later queries": 0.3, "runs ls": 1.0}  # seconds
COMMON = ("train_loss", "seconds", "learning_rate", "gradient_norm", "weight_norm")
GROKKING = (
    *("train_acc", "test_loss", "test_acc", "weight_norm.embedding", "weight_norm.layers"),
    *("spectral_smoothness", "spectral_concentration", "embedding_gini", "logit_scale"),
    *("jacobian_norm", "jacobian_norm_se", "hessian_trace", "hessian_trace_se"),
    *("representation_norm", "effective_lr_mean", "effective_lr_max", "adam_ratio_mean"),
    *("cost_ms.weight_norms", "cost_ms.spectrum", "cost_ms.input_sensitivity"),
)
LANGUAGE = ("weight_norm.wte", "cost_ms.weight_norms", "cost_ms.words")
RARE = ("val_loss", "val_perplexity", "val_bits_per_byte")  # in every tenth row of a language run


def write_runs(root: Path, runs: int, rows: int) -> None:
    """`runs` finished runs below `root`, in folders of a hundred as sweeps leave them."""
    random = np.random.default_rng(0)
    for index in range(runs):
        language = index % 5 >= 3
        names = COMMON + (LANGUAGE if language else GROKKING)
        numbers = random.random((rows, len(names))).tolist()
        history = [dict(zip(names, each), step=100 * n) for n, each in enumerate(numbers)]
        if language:
            for row in history[::10]:
                row |= dict.fromkeys(RARE, row["train_loss"])
        study = "language" if language else "grokking"
        config = {"seed": index, "lr": 10 ** random.uniform(-4, -2), "weight_decay": 1.0}
        config |= {"n_layer": 4, "model": "gpt2"} if language else {"p": 113, "train_frac": 0.3}
        folder = root / f"sweep-{index // 100}" / f"{study}-{index:04d}"
        with Run.create(folder, study=study, config=config, seed=index, steps_planned=rows) as run:
            run.append(history)
            if language:
                run.append_table("words", _table(random, rows, "sense"))
            elif index % 2:
                run.append_table("routing", _table(random, rows, "head"))
            run.finish({key: value for key, value in history[-1].items() if key != "step"})


def _table(random: np.random.Generator, rows: int, column: str) -> pa.Table:
    """An instrument's table: a step, a name, two numbers."""
    return pa.table(
        {
            "step": np.repeat(np.arange(-(-rows // 10)) * 1000, 10)[:rows],
            column: [f"{column} {n % 10}" for n in range(rows)],
            "weight": random.random(rows),
            "entropy": random.random(rows).astype(np.float32),
        }
    )


def ask(root: str) -> None:
    """Time the queries in this process; the last line printed is JSON."""
    store = RunStore(root)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        answer = store.sql(BEST)
        times.append(time.perf_counter() - began)
    print(json.dumps({"times": times, "rows": len(answer)}))


def process(*arguments: str) -> tuple[str, float]:
    """What a Python process prints, and the seconds it took from its start to its end."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout, time.perf_counter() - began


def measure(root: Path, rounds: int) -> None:
    """Print the table: queries and listing take turns."""
    times: dict[str, list[float]] = {name: [] for name in TARGETS}
    whole = []
    for _ in range(rounds):
        output, took = process(__file__, "--ask", str(root))
        found = json.loads(output.strip().splitlines()[-1])
        times["first query"].append(found["times"][0])
        times["later queries"] += found["times"][1:]
        whole.append(took)
        output, took = process("-m", "cutaway", "runs", "ls", "--runs", str(root))
        times["runs ls"].append(took)
        listed = sum("sweep-" in line for line in output.splitlines())
        assert listed == found["rows"], f"ls shows {listed} runs, the query {found['rows']}"
    print(f"{'':16}{'median s':>10}{'slowest s':>11}{'target s':>10}")
    for name, each in times.items():
        print(f"{name:16}{np.median(each):10.3f}{max(each):11.3f}{TARGETS[name]:10.1f}")
    print(f"a process that asks five times, start to end: {np.median(whole):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="a folder for the runs, kept and used again")
    parser.add_argument("--quick", action="store_true", help="few runs and rows: does it run")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet.set(True)
    if given.ask:
        ask(given.ask)
        return
    if given.quick:
        given.runs, given.rows, given.rounds = 20, 50, 1
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or Path(folder)
        if not root.is_dir() or not any(root.iterdir()):
            began = time.perf_counter()
            write_runs(root, given.runs, given.rows)
            print(f"written in {time.perf_counter() - began:.1f} s")
        size = sum(path.stat().st_size for path in root.rglob("*.parquet")) / 1e6
        histories = sum(1 for _ in root.rglob("history.parquet"))
        print(f"{histories} runs, {size:.0f} MB of tables; {given.rounds} rounds")
        measure(root, given.rounds)


if __name__ == "__main__":
    main()
