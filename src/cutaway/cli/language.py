"""Commands of the language room: words, senses, sample."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cutaway.base import display, hardware
from cutaway.base.errors import UserError, shortened, whole_in
from cutaway.cli.common import output_format, readable
from cutaway.runs.finding import find_run

if TYPE_CHECKING:
    from cutaway.nets.reference import LoadedModel
    from cutaway.runs.foreign import Log
    from cutaway.text.tokenizers import Tokenizer


def words(
    run: str,
    *,
    kind: Literal["used", "predicts", "evoked-by"] = "used",
    word: str | None = None,
    top: int = 20,
    plot: Path | None = None,
    step: str = "best",
    json: bool = False,
    csv: bool = False,
) -> None:
    """Words by sense, of a run or of a training_log.json.

    Args:
        run: A run, or a training_log.json written by anyone.
        kind: used: which words are attended to, against chance (1), as logged in training;
            predicts: which tokens a word's senses raise; evoked-by: which words raise a word.
        word: The word that `predicts` and `evoked-by` ask about: the token of exactly these
            letters, else with a space before it, with a notice. Quote " as" for the one with it.
        top: How many.
        plot: Also draw how the words evolved over training, into this PDF, PNG or SVG file.
        step: Checkpoint: best, last, or a step.
        json: Print JSON.
        csv: Print CSV.
    """
    if top < 1:
        raise UserError(f"top = {top}: expected 1 or more")
    form = output_format(json, csv)
    if kind == "used":
        if word is not None or step != "best":
            raise UserError("--word and --step are for --kind predicts and evoked-by")
        _used(run, top, plot, form)
        return
    if plot is not None:
        raise UserError(f"--plot draws the evolution of --kind used; {kind} has none")
    if word is None:
        raise UserError(f"--kind {kind} needs --word")
    from cutaway.language import words as asked

    loaded = backpack(run, step)
    tokenizer = loaded.reads
    token = asked.token_of(tokenizer, word)
    # for programs every row says whose it is
    whose = {} if form == "table" else {"asked": tokenizer.token(token)}
    if kind == "predicts":
        rows = [
            {
                **whose,
                "sense": row["sense"],
                "token": shown(tokenizer, row["token_id"], form),
                "logit": row["logit"],
            }
            for row in asked.predicts(loaded.model, token, top)
        ]
    else:
        rows = [
            {
                **whose,
                "word": shown(tokenizer, row["token_id"], form),
                "sense": row["sense"],
                "logit": row["logit"],
            }
            for row in asked.evoked_by(loaded.model, token, top)
        ]
    display.show(rows, form)


def _used(run: str, top: int, plot: Path | None, form: display.Format) -> None:
    from cutaway.runs.foreign import open_log

    log = open_log(run)
    if log.words is None or not log.words.num_rows:
        raise UserError(_no_words(log))
    steps = log.words["step"].to_pylist()
    last = [row for row in log.words.to_pylist() if row["step"] == steps[-1]]
    last.sort(key=lambda row: -row["activation"])
    columns = [c for c in ("word", "sense", "activation", "count", "token_id") if c in last[0]]
    rows = [
        {
            **{c: row[c] for c in columns},
            "word": row["word"] if form != "table" else readable(row["word"]),
        }
        for row in last[:top]
    ]
    display.show(rows, form, columns=columns)
    ours = log.path.is_dir()
    display.notice(
        f"step {steps[-1]}" + ("; activation 1 = attended to as by chance" if ours else "")
    )
    if plot is not None:
        from cutaway.figures.look import save
        from cutaway.language.pictures import words_evolution

        # what 1 means in a log written by others is not known
        figure = words_evolution(log.words, top=min(top, 20), chance=ours)
        display.notice(f"wrote {save(figure, plot)}")


def _no_words(log: Log) -> str:
    path = log.path
    if (path / "run.json").is_file():
        from cutaway.language.advice import why_no_words
        from cutaway.language.config import LanguageConfig
        from cutaway.runs.folder import Run

        record = Run.open(path).record
        if record.study == "language":
            return f"{path}: {why_no_words(LanguageConfig(**record.config))}"
    return f"{path}: holds no top_activating_words (only a Backpack's log does)"


def shown(tokenizer: Tokenizer, token: int, form: display.Format) -> str:
    """A token's text: as it is for programs, with its blanks visible for people."""
    text = tokenizer.token(token)
    return readable(text) if form == "table" else text


def backpack(run: str, step: str = "best") -> LoadedModel:
    """The Backpack of a run; refuses other models by name."""
    from cutaway.nets.backpack import Backpack
    from cutaway.nets.reference import load

    loaded = load(find_run(run), step=_step(step))
    if not isinstance(loaded.model, Backpack):
        raise UserError(
            f"{run}: its model is {loaded.config.get('model')}; only a backpack has senses"
        )
    return loaded


def _step(step: str) -> int | str:
    if step in ("best", "last"):
        return step
    if (number := whole_in(step)) is None:
        raise UserError(f"step = {shortened(repr(step))}: expected best, last or a step number")
    return number


def senses(
    run: str,
    *,
    word: str,
    scale: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006 (cyclopts reads it)
    remove: str | None = None,
    add: str | None = None,
    sense: int | None = None,
    prompt: str | None = None,
    similar_to: str | None = None,
    top: int = 10,
    step: str = "best",
    json: bool = False,
    csv: bool = False,
) -> None:
    """A word's senses: what each predicts; or, changed, what that does to the next word.

    Args:
        run: A Backpack's run.
        word: The word whose senses are read or changed: the token of exactly these letters, else
            with a space before it (of a --prompt the one that is in it), with a notice.
        scale: Multiply a sense: L=2.0 (senses count from 0; several may be given).
        remove: Project another word's direction out of the senses.
        add: Add another word's direction to the senses: WORD or WORD=2.0.
        sense: The only sense that --remove and --add change.
        prompt: Text before the next word, for a change; default the word itself.
        similar_to: Another word: cosine sense by sense, and the smallest of them.
        top: How many tokens, of each sense or of the change.
        step: Checkpoint: best, last, or a step.
        json: Print JSON.
        csv: Print CSV.
    """
    if top < 1:
        raise UserError(f"top = {top}: expected 1 or more")
    import torch

    from cutaway.language import senses as room
    from cutaway.language.words import predicts, token_of

    loaded = backpack(run, step)
    model, tokenizer = loaded.model, loaded.reads
    form = output_format(json, csv)
    prompted = None if prompt is None else list(tokenizer.encode(prompt))
    token = token_of(tokenizer, word, prompted)
    count = model.config.n_senses
    if sense is not None:
        _check_sense(sense, count)
    if similar_to is not None:
        if scale or remove is not None or add is not None:
            raise UserError("--similar-to: not with a change (--scale, --remove, --add)")
        cosines, least = room.similarity(model, token, token_of(tokenizer, similar_to))
        rows = [{"sense": str(i), "cosine": value} for i, value in enumerate(cosines)]
        display.show([*rows, {"sense": "minimum", "cosine": least}], form)
        return
    edits = [
        room.SenseEdit(token, sense=which, scale=by)
        for which, by in (_scaling(x, count) for x in scale)
    ]
    if remove is not None:
        direction = model.embedding[token_of(tokenizer, remove)]
        edits.append(room.SenseEdit(token, sense, direction=direction, remove=True))
    if add is not None:
        other, _, amount = add.partition("=")
        direction = model.embedding[token_of(tokenizer, other)]
        edits.append(
            room.SenseEdit(token, sense, direction=direction, add=_float("add", amount or "1"))
        )
    if not edits:
        whose = {} if form == "table" else {"asked": tokenizer.token(token)}
        rows = [
            {
                **whose,
                "sense": row["sense"],
                "token": shown(tokenizer, row["token_id"], form),
                "logit": row["logit"],
            }
            for row in predicts(model, token, top)
        ]
        display.show(rows, form)
        return
    ids = [token] if prompted is None else prompted
    if token not in ids:
        raise UserError(f"prompt = {prompt!r}: does not hold the word {tokenizer.token(token)!r}")
    ids = list(ids)[-model.config.block_size :]
    if token not in ids:
        raise UserError(
            f"prompt: the model reads its last {model.config.block_size} tokens, which do not hold the "
            f"word {tokenizer.token(token)!r}; give a shorter one"
        )
    effect = room.sense_effect(model, torch.tensor(ids, device=model.embedding.device), edits, top)
    rows = [{"token": shown(tokenizer, row.pop("token_id"), form), **row} for row in effect]
    display.show(rows, form)


def _scaling(text: str, count: int) -> tuple[int, float]:
    which, equals, factor = text.partition("=")
    if not equals or (sense := whole_in(which.strip())) is None:
        raise UserError(f"scale = {shortened(repr(text))}: expected SENSE=FACTOR, like 2=0.5")
    _check_sense(sense, count)
    return sense, _float("scale", factor)


def _check_sense(sense: int, count: int) -> None:
    if not 0 <= sense < count:
        raise UserError(f"sense = {sense}: this model has senses 0 to {count - 1}")


def _float(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} = {text!r}: expected a number")
    return number


def sample(
    run: str,
    *,
    prompt: str = "",
    length: int = 100,
    count: int = 1,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    step: str = "best",
) -> None:
    """Sample text from a run's model.

    Args:
        run: A language run.
        prompt: How the text begins; without it, the start of a document.
        length: Tokens to draw.
        count: How many texts.
        temperature: 0 takes the likeliest token; 1 draws from the model's own probabilities.
        top_k: Draw among this many likeliest tokens.
        seed: The same seed draws the same text.
        step: Checkpoint: best, last, or a step.
    """
    if length < 1 or count < 1:
        raise UserError(f"length = {length}, count = {count}: expected 1 or more")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature = {temperature}: expected 0 or more")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k = {top_k}: expected 1 or more")
    import torch

    from cutaway.language.sampling import sample as draw
    from cutaway.nets.reference import load

    loaded = load(find_run(run), step=_step(step))
    tokenizer = loaded.reads
    ids = list(tokenizer.encode(prompt)) or [tokenizer.end_of_text]
    context = min(loaded.model.config.block_size, len(ids) + length)
    # of a text: its logits, tokens and states
    each = 4 * (
        tokenizer.vocab_size + 2 * (len(ids) + length) + 4 * context * loaded.model.config.n_embd
    )
    asked = {"count": count, "length": length} if length > count else {"count": count}
    hardware.require_memory([hardware.Need(count * each, "texts drawn side by side", asked)])
    start = torch.tensor([ids] * count, device=loaded.model.embedding.device)
    for drawn in draw(loaded.model, start, length, temperature=temperature, top_k=top_k, seed=seed):
        text = tokenizer.decode(drawn.tolist()[len(ids) if not prompt else 0 :])
        print(text if count == 1 else f"--- {text}")
