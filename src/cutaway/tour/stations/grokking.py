"""The grokking station: a network that memorises and then understands, what it has built inside,
and a small sweep of two optimisers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.display import notice
from cutaway.base.errors import Interrupted, RunFailed
from cutaway.base.files import write_text
from cutaway.base.hardware import threads
from cutaway.figures.html import Picture, Section, Table
from cutaway.figures.look import save

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.grokking.phases import Phases
    from cutaway.runs.folder import Run
    from cutaway.runs.foreign import Log

PRESET = "grok-in-seconds"
OPTIMIZERS = {"adamw": "AdamW", "orthograd_adamw": "⊥AdamW"}
_NOT_REACHED = "not reached"
_SWEEP = """\
# The same network and data, three seeds, two optimisers, no weight decay
study: grokking
sweep:
  optimizer: [{optimizers}]
seeds: 3
p: 31
train_frac: 0.6
model_type: baseline
activation: relu
hidden_dim: 128
epochs: {epochs}
lr: 0.01
weight_decay: 0.0
beta2: 0.999
grad_clip: null
log_every: {log_every}
checkpoint_every: {epochs}
compute_weight_curvature: false
compute_sensitivity: false
compute_optimizer_metrics: false
"""


def visit(out: Path, fast: bool) -> list[Section]:
    """Train the preset; its curves, its phases, its circuit; then a sweep of two optimisers."""
    from cutaway.runs.foreign import open_log

    run = _train(out / PRESET, fast)
    log = open_log(run.path)
    return [_curves(run, log, out), *_circuit(run, log, out), _sweep(out, fast)]


def _train(out: Path, fast: bool) -> Run:
    from cutaway.studies.presets import find_preset
    from cutaway.studies.train import train

    found = find_preset(PRESET)
    values = dict(found.values)
    if fast:
        values |= {"epochs": values["epochs"] // 10, "log_every": 5, "checkpoint_every": 10}
    notice(f"training {PRESET}: {values['epochs']} steps into {out}")
    return train(found.study, values, out)


# -- curves and phases -------------------------------------------------------------------------


def _curves(run: Run, log: Log, out: Path) -> Section:
    from cutaway.grokking.phases import phases
    from cutaway.grokking.pictures import training_curves

    figure = training_curves(log.history)
    save(figure, out / "figures" / "grokking.png")
    found, config, folder = phases(log.history), run.record.config, os.path.relpath(run.path)
    p, resolved, lost = config["p"], run.record.resolved, found.lost is not None
    rows = [
        {"phase": name, "step": _NOT_REACHED if step is None else step, "what it means": words}
        for name, step, words in (
            ("memorised", found.memorised, f"training accuracy {found.train_threshold:.0%} or more"),
            ("grokked", found.grokked, _sustained(found)),
            ("plateau", found.plateau, "test accuracy near the level it keeps"),
            *([("lost", found.lost, "test accuracy below that again, to the end")] * lost),
            ("delay", found.delay, "steps from memorised to grokked"),
        )
    ]  # fmt: skip
    return Section(
        "A network learns to add on a circle",
        [
            f"The task is (a + b) mod {p}: addition on a clock of {p} hours. The network sees the "
            f"answers of {resolved['train_pairs']:,} of the {p * p:,} pairs again and again, and is "
            f"tested on the {resolved['test_pairs']:,} it is never shown. It can learn its pairs by "
            "heart, which says nothing about the others, or find the rule, which answers all. That "
            "networks first do the one and later, at a stroke, the other is called **grokking**.",
            _story(found, log.history) + f" Training took {run.record.seconds:.0f} seconds.",
        ],
        pictures=[
            Picture(figure, "Accuracy and loss on training and test pairs, the phases shaded.")
        ],
        table=Table(rows),
        commands=f"cutaway train {PRESET} --out out/seconds\n"
        f"cutaway runs phases {folder}\n"
        f"cutaway plot all {folder} --out figures/",
    )


def _sustained(found: Phases) -> str:
    from cutaway.grokking.phases import window

    return f"test accuracy {found.test_threshold:.0%} or more, and so for {window(found)}"


def _story(found: Phases, history: pa.Table) -> str:
    """What the run did, in words that claim no phase it did not reach."""
    train, test = (history[name].drop_null()[-1].as_py() for name in ("train_acc", "test_acc"))
    last = history["step"][-1].as_py()
    stands = (
        f"At step {last} it has {train:.1%} of its own pairs right and {test:.1%} of the others"
    )
    if found.memorised is None:
        return f"{stands}: it has not learnt its pairs yet. Longer training shows what comes then."
    known = f"At step {found.memorised} it knew {found.train_threshold:.0%} of its own pairs"
    before = _at(history, "test_acc", found.memorised)
    if before is not None:
        known += f" and had {before:.1%} of the others right"
    if found.lost is not None:
        return (
            f"{known}; from step {found.grokked} on it answered {found.test_threshold:.0%} and more "
            f"of what it was never shown, and from step {found.lost} on no longer: it has lost the "
            f"rule again. {stands}."
        )
    if found.grokked is not None:
        return (
            f"{known}; from step {found.grokked} on it answers {found.test_threshold:.0%} and more "
            f"of what it was never shown: it has found the rule. {stands}."
        )
    if found.unconfirmed is not None:
        return (
            f"{known}. From step {found.unconfirmed} it is above {found.test_threshold:.0%} on the "
            f"others, too close to the end of this run to say whether that lasts. {stands}."
        )
    return f"{known}. It has not grokked. {stands}."


def _at(history: pa.Table, column: str, step: int) -> float | None:
    """The column's value at a step, where it was recorded."""
    values = dict(zip(history["step"].to_pylist(), history[column].to_pylist(), strict=True))
    return values.get(step)


# -- the circuit -------------------------------------------------------------------------------


def _circuit(run: Run, log: Log, out: Path) -> list[Section]:
    from cutaway.grokking import inside
    from cutaway.grokking.progress import progress_measures

    measures = progress_measures(run.path)
    drawn = {
        "embedding": inside.embedding_spectrum(log),
        "output": inside.output_spectrum(log),
        "progress": inside.progress_curves(measures),
    }
    for name, figure in drawn.items():
        save(figure, out / "figures" / f"grokking-{name}.png")
    keys = measures["key_frequencies"][0].as_py()
    p, folder = run.record.config["p"], os.path.relpath(run.path)
    first, last = measures.slice(0, 1).to_pylist()[0], measures.to_pylist()[-1]
    columns = ("step", "restricted_loss", "excluded_loss", "train_loss", "test_loss")
    rows = [
        {c: row[c] for c in (*columns, "embedding_gini", "weight_norm")}
        for row in measures.to_pylist()
    ]
    return [
        Section(
            "What it has built",
            [
                "The known way for a network to add on a circle is to turn: it gives each number "
                "an angle for a few speeds k, adds angles, and reads the sum off "
                "(Nanda et al. 2023). So look at the embedding, what the network knows "
                "of each number, as a sum of waves: each bar is the strength of the "
                "wave that goes round k times.",
                f"Of what the logits say about a + b, {_needed(keys, p // 2)} hold 90 % of the "
                "power; these are the **key frequencies**. The Gini coefficient of "
                "the bars (0: all alike, near 1: one has everything) went from "
                f"{first['embedding_gini']:.2f} to {last['embedding_gini']:.2f}. "
                "In the second picture the same is seen from outside: the table of all answers as "
                "waves over a and over b. A rule about a + b alone lives on the diagonal, where "
                "both turn equally fast.",
            ],
            pictures=[
                Picture(drawn["embedding"], "Strength of each frequency in the embedding."),
                Picture(drawn["output"], "Power of the output table by its two frequencies."),
            ],
            commands=f"cutaway plot all {folder} --out figures/",
        ),
        Section(
            "How the rule grew",
            [
                "Keep only the key frequencies of the logits and score all pairs: the **restricted "
                "loss** says how good the rule alone is. Take them away and score the "
                "training pairs: the **excluded loss** says how much is known without the rule. Both "
                "use the frequencies of the last checkpoint, at every checkpoint. Guessing costs "
                f"ln {p} = {math.log(p):.2f} nats.",
                _growth(measures, log.history, p),
            ],
            pictures=[Picture(drawn["progress"], "Progress measures at the kept checkpoints.")],
            table=Table(rows),
            commands="python -c 'from cutaway.grokking.progress import progress_measures; "
            f'print(progress_measures("{folder}"))\'',
        ),
    ]


def _needed(keys: list[int], most: int) -> str:
    if not keys:
        return "no frequencies"
    if len(keys) > 12:  # a network that has no rule yet uses most of them: no list to read
        return f"{len(keys)} of {most} frequencies"
    return f"{len(keys)} of {most} frequencies (k = {', '.join(map(str, keys))})"


def _growth(measures: pa.Table, history: pa.Table, p: int) -> str:
    """What the measures were, and, where they show it, from when on the rule grew."""
    rows, guessing = measures.to_pylist(), math.log(p)
    last = rows[-1]
    restricted, excluded = last["restricted_loss"], last["excluded_loss"]
    said = (
        f"At the end, step {last['step']}, the restricted loss is {restricted:.2f} nats and the "
        f"excluded loss {excluded:.2f}"
    )
    if not (restricted < guessing / 2 < excluded):
        return f"{said}: no rule carries the answers yet."
    said += ": the rule carries the answers, and little is known without it."
    lowest = min(rows, key=lambda row: row["excluded_loss"])
    seen = _at(history, "test_acc", lowest["step"])
    if 0 < lowest["step"] < last["step"] and seen is not None:
        said += (
            f" The excluded loss is lowest at step {lowest['step']}, with {seen:.1%} of "
            "the test pairs right; from there on the network moves from knowing by heart to the rule."
        )
    return said


# -- a sweep -----------------------------------------------------------------------------------


def _sweep(out: Path, fast: bool) -> Section:
    from cutaway.grokking.analysis import sweep_summary
    from cutaway.grokking.sweep_pictures import sweep_curves
    from cutaway.runs.folder import Run
    from cutaway.runs.foreign import open_log
    from cutaway.sweeps import read_sweep, run_sweep

    file, folder = out / "two-optimizers.yaml", out / "two-optimizers"
    epochs, log_every = (40, 5) if fast else (400, 20)
    text = _SWEEP.format(epochs=epochs, log_every=log_every, optimizers=", ".join(OPTIMIZERS))
    write_text(file, text)
    sweep = read_sweep(file)
    notice(f"sweep of {len(sweep.runs)} runs into {folder}")
    swept = run_sweep(sweep, folder, jobs=threads())  # steps this small want one core each
    if swept.signal is not None:
        raise Interrupted(f"{folder}: stopped", swept.signal)
    if swept.unfinished:
        row = swept.unfinished[0]
        raise RunFailed(f"{row['run']}: {row['status']}: {row['reason']}")
    runs = [Run.open(folder / row["run"]) for row in swept.rows]
    names = [OPTIMIZERS[row["optimizer"]] for row in swept.rows]
    figure = sweep_curves([open_log(run.path) for run in runs], "test_acc", names)
    save(figure, out / "figures" / "grokking-sweep.png")
    rows = _by_optimizer(sweep_summary(runs, ["optimizer"]))
    return Section(
        "Two optimisers, three seeds each",
        f"Six networks learn addition modulo 31 for {epochs} steps, without weight decay, "
        "side by side. ⊥AdamW takes away the part "
        "of each gradient along the weights, which only makes the network louder once its pairs are "
        "memorised (Prieto et al. 2025). " + " ".join(_outcome(row) for row in rows),
        pictures=[Picture(figure, "Test accuracy of each run, and the median of each optimiser.")],
        table=Table(rows),
        commands=f"cutaway sweep {os.path.relpath(file)} --dry-run\n"
        f"cutaway sweep {os.path.relpath(file)} --out out/two-optimizers --jobs 2\n"
        f"cutaway runs phases --runs {os.path.relpath(folder)}",
    )


def _by_optimizer(summary: pa.Table) -> list[dict[str, Any]]:
    return [
        {
            "optimiser": OPTIMIZERS[row["optimizer"]],
            "runs": row["runs"],
            "grokked": row["grokked"],
            **({"lost it again": row["grokked_lost"]} if row["grokked_lost"] else {}),
            "not reached": row["not_reached"],
            "grokked at step, median": row["grokked_step_median"],
            "final test accuracy, mean": row["test_acc_mean"],
        }
        for row in summary.to_pylist()
    ]


def _outcome(row: dict[str, Any]) -> str:
    return (
        f"With {row['optimiser']} {row['grokked']} of {row['runs']} grokked (test accuracy at the "
        f"end {row['final test accuracy, mean']:.1%} in the mean)."
    )
