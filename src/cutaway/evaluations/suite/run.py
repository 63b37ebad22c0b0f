"""A dictionary's evaluations by name: worked, and kept as its run's table `suite`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import files
from cutaway.base.display import notice
from cutaway.base.errors import UserError, nearest
from cutaway.evaluations.suite.summary import of_tasks

if TYPE_CHECKING:
    from cutaway.dictionaries.model.dictionary import Dictionary
    from cutaway.evaluations.suite.crossed import CrossedTexts
    from cutaway.labelled.texts import LabelledTexts
    from cutaway.nets.model import Model

EVALUATIONS = ("sparse_probing", "absorption", "tpp", "scr")
FILE = "suite.parquet"
LARGEST = (
    5000  # words in prompts with examples, where none are named: each prompt is some 90 tokens
)
IN_CONTEXT_WIDTH = 512  # dimensions below which no model is taken to do a task in context
IN_CONTEXT = 256  # tokens that ten examples and the word have room in, whatever the vocabulary
Rows = list[dict[str, Any]]


def chosen(names: str | Sequence[str]) -> list[str]:
    """The evaluations named (`all`, or some with commas between); UserError for an unknown one."""
    asked = names.split(",") if isinstance(names, str) else list(names)
    asked = [name.strip().replace("-", "_") for name in asked if name.strip()]
    if asked == ["all"]:
        return list(EVALUATIONS)
    for name in asked:
        if name not in EVALUATIONS:
            known = ", ".join(EVALUATIONS)
            raise UserError(
                f"suite = {name!r}: expected all, or some of {known}{nearest(name, EVALUATIONS)}"
            )
    if not asked:
        raise UserError(f"suite: none named; expected all, or some of {', '.join(EVALUATIONS)}")
    return asked


def read_otherwise(dictionary: Dictionary, model: Model, names: Sequence[str]) -> list[str]:
    """How the evaluations `names` read text otherwise than the dictionary's training did; a line each.

    Texts stand alone, between the special tokens of the training's contexts. Conversations they are
    not; and absorption's prompts begin with the token that begins a text of the model.
    """
    from cutaway.dictionaries import origin
    from cutaway.evaluations.suite.letters import first_token

    reading, tokenizer, found = origin.reading(dictionary, model), model.reads, []
    if reading.chat is not None:
        only = ", and learned from the states of replies only" * reading.reply_only
        found.append(
            "suite: its texts are read as plain text; the dictionary was trained on conversations in "
            f"the model's chat template{only}, so that figures are of states unlike those it learned"
        )
    start = first_token(model)
    known = start in (*reading.prefix[-1:], *reading.before, *reading.after)
    if "absorption" in names and (not known or reading.suffix):
        after = "" if not reading.suffix else " and end without special tokens"
        found.append(
            f"absorption: its prompts begin with {tokenizer.token(start)}{after}; the dictionary was "
            f"trained on text read with {reading.described(tokenizer)}"
        )
    return found


def prompt_template(asked: str | None, model: Model) -> str | None:
    """What absorption's words are put into: a text with {word} in it, or None for the word alone.

    `none` is the word alone. Not asked (None), the published prompt is for models that may do a
    task in context: 512 dimensions or more, and 256 tokens in which ten examples have room.
    """
    from cutaway.evaluations.suite.letters import TEMPLATE

    if asked is not None:
        return None if asked == "none" else asked
    if model.width >= IN_CONTEXT_WIDTH and (model.max_length or IN_CONTEXT) >= IN_CONTEXT:
        return TEMPLATE
    notice(
        f"absorption: words stand alone, right after the start of a text: {model.reference.id} has "
        f"{model.width:,} dimensions and reads {model.max_length or 'any number of'} tokens, and "
        f"prompts with examples are for {IN_CONTEXT_WIDTH} and {IN_CONTEXT} or more (--template)"
    )
    return None


def stored(folder: Path) -> Rows:
    """The rows of the folder's table `suite`, none where there is no table; UserError where it
    cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    if not path.exists():
        return []
    try:
        with files.open_regular(path) as opened:  # a path may mean something to Arrow
            return pq.read_table(opened, schema=_schema()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read ({reason}); move it away") from None


def save(folder: Path, rows: Rows) -> Path:
    """Put rows into the folder's table `suite`, instead of those of the same evaluations of the same
    tasks; the file is replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    now = {_subject(row) for row in rows}
    kept = [row for row in stored(folder) if _subject(row) not in now]
    with files.replacing(path) as part, open(part, "wb") as file:
        pq.write_table(pa.Table.from_pylist([*kept, *rows], schema=_schema()), file)
    return path


def _subject(row: dict[str, Any]) -> tuple[str, str]:
    """Evaluation and task, of the rows of a task's classes, directions and letters too."""
    return row["evaluation"], (row["task"] or "").partition(": ")[0].partition(".")[0]


def mean_of(rows: Sequence[dict[str, Any]], k: int, subject: str = "dictionary") -> float:
    """Mean accuracy over the tasks and seeds of sparse probing with k features; NaN for none."""
    values = [
        row["value"]
        for row in of_tasks(rows)  # a class's own row is in its task's mean
        if row["evaluation"] == "sparse_probing"
        and (row["measure"], row["k"], row["subject"]) == ("accuracy", k, subject)
    ]
    return sum(values) / len(values) if values else float("nan")


# -- inside ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _docstrings() -> tuple[LabelledTexts, ...]:
    from cutaway.labelled.files import docstrings_task

    return (docstrings_task(),)


@lru_cache(maxsize=1)
def _crossed_docstrings() -> tuple[CrossedTexts, ...]:
    from cutaway.evaluations.suite.crossed import crossed_docstrings

    return (crossed_docstrings(),)


def _probing(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, **_: Any
) -> Rows:
    from cutaway.evaluations.suite.sparse_probing import sparse_probing

    tasks = _docstrings() if tasks is None else tasks
    return sparse_probing(dictionary, model, None, tasks, seed=seeds)


def _absorption(
    dictionary: Dictionary, model: Model, *, seeds: list[int], words: Any, template: Any, **_: Any
) -> Rows:
    from cutaway.evaluations.suite.absorption import first_letter_absorption
    from cutaway.evaluations.suite.letters import vocabulary_words

    template = prompt_template(template, model)
    limit = None
    if words is None and template is not None:
        count = len(vocabulary_words(model.reads))
        if count > LARGEST:
            limit = LARGEST
            notice(
                f"absorption: {LARGEST:,} of the vocabulary's {count:,} words, drawn by the seed; "
                "--words all takes every one"
            )
    rows: Rows = []
    for seed in seeds:
        rows += first_letter_absorption(
            *(dictionary, model, None),
            words=None if words == "all" else words,
            template=template,
            limit=limit,
            seed=seed,
        )
    return rows


def _perturbation(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, **_: Any
) -> Rows:
    from cutaway.evaluations.suite.tpp import targeted_probe_perturbation

    tasks = _docstrings() if tasks is None else tasks
    several = [task for task in tasks if len(task.classes) > 2]
    if not several:
        raise UserError("tasks: tpp needs labelled texts of three classes or more")
    return targeted_probe_perturbation(dictionary, model, None, several, seed=seeds)


def _removal(
    dictionary: Dictionary, model: Model, *, seeds: list[int], tasks: Any, crossed: Any, **_: Any
) -> Rows:
    from cutaway.evaluations.suite.crossed import crossings
    from cutaway.evaluations.suite.scr import spurious_correlation_removal

    if crossed is None:
        crossed = _crossed_docstrings() if tasks is None else crossings(tasks)
    if not crossed:
        raise UserError("crossed: scr needs texts with two labels each (--crossed FILE)")
    return spurious_correlation_removal(dictionary, model, None, crossed, seed=seeds)


WORK: dict[str, Callable[..., Rows]] = {
    "sparse_probing": _probing,
    "absorption": _absorption,
    "tpp": _perturbation,
    "scr": _removal,
}


def _schema() -> Any:
    import pyarrow as pa

    words = ("evaluation", "task", "measure", "subject")
    return pa.schema(
        [
            *((name, pa.string()) for name in words),
            ("k", pa.int64()),
            *((name, pa.float64()) for name in ("value", "low", "high")),
            ("seed", pa.int64()),
        ]
    )
