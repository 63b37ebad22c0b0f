"""The language station: a Backpack and its GPT-2 twin on the embedded corpus, and what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.display import notice
from cutaway.figures.html import Picture, Section, Table
from cutaway.figures.look import save
from cutaway.figures.text import visible

if TYPE_CHECKING:
    from cutaway.nets.reference import LoadedModel
    from cutaway.runs.folder import Run

PRESETS = ("docstrings-tiny", "docstrings-tiny-gpt2")
PROMPT = "Return the"
_WORDS = ("file", "string", "list", "class", "value", "module", "object", "number")


def visit(out: Path, fast: bool) -> list[Section]:
    """Train both, draw their curves and words, read and change senses, sample."""
    runs = {name: _train(name, out / name, fast) for name in PRESETS}
    backpack, twin = runs.values()
    return [_curves(backpack, twin, out), _words(backpack, out), *_senses(backpack), _samples(runs)]


def _typed(run: Run) -> str:
    """The run's folder as one would type it here."""
    return os.path.relpath(run.path)


def _train(preset: str, out: Path, fast: bool) -> Run:
    from cutaway.studies.presets import find_preset
    from cutaway.studies.train import train

    found = find_preset(preset)
    values = dict(found.values)
    if fast:
        values |= {"max_iters": values["max_iters"] // 10, "warmup_iters": 10, "eval_interval": 10}
    notice(f"training {preset}: {values['max_iters']} steps into {out}")
    return train(found.study, values, out)


def _curves(backpack: Run, twin: Run, out: Path) -> Section:
    from cutaway.language.pictures import loss_curves
    from cutaway.runs.foreign import open_log

    labels = ["Backpack", "GPT-2"]
    figure = loss_curves([open_log(backpack.path), open_log(twin.path)], labels)
    save(figure, out / "figures" / "loss.png")
    rows = [_figures(label, run) for label, run in zip(labels, (backpack, twin), strict=True)]
    ratio = rows[0]["parameters"] / rows[1]["parameters"]
    return Section(
        "Two language models learn",
        f"A Backpack and its GPT-2 twin (same trunk, data and steps; the senses make it {ratio:.2f} "
        "times as large) read the docstrings and the language reference of this Python. The loss is "
        "in nats per token on held-out documents; bits per byte compare across tokenizers.",
        pictures=[Picture(figure, "Training (light) and validation (strong) loss over the steps.")],
        table=Table(rows),
        commands="cutaway train docstrings-tiny --out out/docs\n"
        f"cutaway plot loss {_typed(backpack)} {_typed(twin)} --labels Backpack GPT-2 --out loss.pdf",
    )


def _figures(label: str, run: Run) -> dict[str, Any]:
    from cutaway.nets.architectures import build
    from cutaway.nets.parameters import total_parameters

    metrics = run.record.metrics
    return {
        "model": label,
        "parameters": total_parameters(build(run.record.resolved["architecture"])),
        "validation loss": metrics["val_loss"],
        "bits per byte": metrics["val_bits_per_byte"],
        "best at step": int(metrics["best_step"]),
        "seconds": round(run.record.seconds, 1),
        "precision": run.record.resolved["precision"],
    }


def _words(backpack: Run, out: Path) -> Section:
    from cutaway.language.pictures import last_reading, words_evolution

    words = backpack.read("words")
    figure = words_evolution(words)
    save(figure, out / "figures" / "words.png")
    columns = ("word", "sense", "activation", "count")
    rows = [
        {c: row[c] for c in columns} | {"word": visible(row["word"])} for row in last_reading(words)
    ]
    return Section(
        "Which words it attends to",
        "How much attention a word's strongest sense receives over held-out text, against uniform "
        "attention (1 is chance), for words seen at least five times.",
        pictures=[Picture(figure, "The words most used at the end, over training.")],
        table=Table(rows[:20]),
        commands=f"cutaway words {_typed(backpack)} --top 20 --plot words.pdf",
    )


def _senses(backpack: Run) -> list[Section]:
    import torch

    from cutaway.language.attribution import attribute
    from cutaway.language.senses import SenseEdit, sense_effect
    from cutaway.language.words import predicts
    from cutaway.nets.reference import load

    loaded = load(backpack.path)
    model, tokenizer = loaded.model, loaded.reads
    word, token = _a_word(loaded)
    spoken = predicts(model, token, top=8)
    read = [
        {
            "sense": sense,
            "raises": "  ".join(_shown(loaded, r) for r in spoken if r["sense"] == sense),
        }
        for sense in range(model.config.n_senses)
    ]
    tokens = torch.tensor(tokenizer.encode(f"{PROMPT} {word}"), device=model.embedding.device)
    logits = model(tokens[None])[0, -1]
    likeliest = int(logits.argmax())
    error = abs(float(attribute(model, tokens, likeliest).sum() - logits[likeliest]))
    strongest = max(range(model.config.n_senses), key=lambda s: _strength(spoken, s))
    edit = SenseEdit(token, strongest, scale=0.0)
    changed = [
        {"next token": _shown(loaded, row), **{k: v for k, v in row.items() if k != "token_id"}}
        for row in sense_effect(model, tokens, [edit], top=10)
    ]
    return [
        Section(
            f"The senses of “{word}”",
            [
                "Each sense of a word depends on the word alone and raises some next tokens. The "
                "logit of any token is exactly the sum of what each earlier word's senses add: for "
                f"`{PROMPT} {word}` and its likeliest next token the sum misses the model's logit by "
                f"{error:.1e}."
            ],
            table=Table(read),
            commands=f"cutaway senses {_typed(backpack)} --word {word}",
        ),
        Section(
            "Changing a sense",
            f"Sense {strongest} of “{word}” is switched off: the next tokens after `{PROMPT} {word}` whose "
            "probability moves the most.",
            table=Table(changed),
            commands=f"cutaway senses {_typed(backpack)} --word {word} --scale {strongest}=0 "
            f'--prompt "{PROMPT} {word}"',
        ),
    ]


def _a_word(loaded: LoadedModel) -> tuple[str, int]:
    """A noun of the corpus that is one token, as it stands in running text."""
    for word in _WORDS:
        ids = loaded.tokenizer.encode(f" {word}")
        if len(ids) == 1:
            return word, ids[0]
    return "the", loaded.tokenizer.encode(" the")[0]


def _strength(rows: list[dict[str, Any]], sense: int) -> float:
    return max(row["logit"] for row in rows if row["sense"] == sense)


def _shown(loaded: LoadedModel, row: dict[str, Any]) -> str:
    return visible(loaded.tokenizer.token(row["token_id"]))


def _samples(runs: dict[str, Run]) -> Section:
    import torch

    from cutaway.language.sampling import sample
    from cutaway.nets.reference import load

    rows = []
    for name, run in runs.items():
        loaded = load(run.path)
        start = torch.tensor(
            [loaded.tokenizer.encode(PROMPT)], device=loaded.model.embedding.device
        )
        drawn = sample(loaded.model, start, 60, temperature=0.7, top_k=50)[0].tolist()
        rows.append({"model": name, "text": loaded.tokenizer.decode(drawn)})
    path = _typed(next(iter(runs.values())))
    return Section(
        "What they write",
        f"Sampled after `{PROMPT}`. Models this small learn the look of the text, not its sense.",
        table=Table(rows),
        commands=f'cutaway sample {path} --prompt "{PROMPT}"',
    )
