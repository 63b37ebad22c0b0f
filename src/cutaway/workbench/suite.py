"""The suite of evaluations over a dictionary named by its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.base import files
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.evaluations.suite.run import WORK, Rows, read_otherwise, save, stored
from cutaway.workbench.session import Session

if TYPE_CHECKING:
    from cutaway.evaluations.suite.crossed import CrossedTexts
    from cutaway.labelled.texts import LabelledTexts


def judged(
    dictionary: str | Path | Session,
    names: Sequence[str],
    *,
    model: str | None = None,
    tasks: Sequence[LabelledTexts] | None = None,
    crossed: Sequence[CrossedTexts] | None = None,
    words: str | Path | Sequence[str] | None = None,
    template: str | None = None,
    seeds: Sequence[int] = (0,),
    folder: Path | None = None,
) -> Rows:
    """Work the evaluations `names` of a dictionary, by its path or session; a row per figure.

    `tasks` default to one over the docstrings; TPP takes those of three classes or more. SCR takes
    texts with two labels, `crossed`, else every two of the tasks over the same texts, else (no tasks
    given) one over the docstrings. `words` and `template` are absorption's (`prompt_template`,
    `LARGEST`). The rows of each evaluation are in the table `suite` of `folder`, by default the
    dictionary's own, as soon as it is worked. One of several that cannot be worked (no words, no
    task it takes) is left out, and a notice says why; UserError where that is all.
    """
    session = dictionary if isinstance(dictionary, Session) else Session(dictionary, model=model)
    folder = session.folder if folder is None else folder
    files.require_writable(folder)
    stored(folder)  # a damaged table is told before anything slow
    network, loaded = session.model, session.dictionary
    for line in read_otherwise(loaded, network, names):
        notice(line)
    options = {"tasks": tasks, "crossed": crossed, "words": words, "template": template}
    rows: Rows = []
    for name in names:
        try:
            found = WORK[name](loaded, network, seeds=list(seeds), **options)
        except UserError as error:
            if len(names) == 1:
                raise
            notice(f"{name}: left out: {error}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, found)
        rows += found
    if not rows:
        raise UserError(f"{session.path}: none of {', '.join(names)} could be worked")
    return rows
