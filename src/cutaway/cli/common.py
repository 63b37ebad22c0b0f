"""What several commands share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cutaway.base.display import Format
from cutaway.base.errors import UserError

if TYPE_CHECKING:
    from cyclopts import Token

Runs = Annotated[Path, Parameter(name="--runs")]  # the folder that holds the runs
Flag = Annotated[bool, Parameter(negative=())]  # an option without a --no- form


def output_format(json: bool, csv: bool) -> Format:
    """The format two flags ask for."""
    if json and csv:
        raise UserError("--json and --csv: choose one")
    return "json" if json else "csv" if csv else "table"


def from_config(what: str, settings: Sequence[str]) -> tuple[str, list[str]]:
    """What is asked for and its settings, also where a file is given as `--config FILE`."""
    given = [what, *settings]
    for index, token in enumerate(given):
        if token == "--config" or token.startswith("--config="):
            _, equals, file = token.partition("=")
            rest = given[index + 1 :] if equals else given[index + 2 :]
            file = file if equals else " ".join(given[index + 1 : index + 2])
            if not file or (index and not what.startswith("--")):
                raise UserError(f"--config {file}: name one file, and no other preset or run")
            return file, given[:index] + rest
    if what.startswith("--"):
        raise UserError(f"{what}: name a preset, a YAML file or a folder first")
    return what, list(settings)


@contextmanager
def fresh_folder(name: str) -> Iterator[Path]:
    """`runs/<name>`, or `runs/<name>-2`, -3, ... where that is taken; made, so that it is ours.

    Left empty (what should have filled it was refused), neither it nor `runs` stays.
    """
    root = Path("runs")
    number, folder = 1, root / name
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
            folder = root / f"{name}-{number}"
    try:
        yield folder
    finally:
        for one in (folder, root):
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def in_language(spec: str, language: str | None) -> str:
    """`gutenberg` in French is `gutenberg:fr`, also where a folder stands in for the hub."""
    from cutaway.text.hub import CORPORA

    if language is None:
        return spec
    asked, at, folder = spec.partition("@")
    name, *parts = asked.split(":")
    known = [one for one, corpus in CORPORA.items() if "[:lang" in corpus.usage]
    if name not in known:
        raise UserError(f"--language {language}: {spec} has no languages; {', '.join(known)} have")
    if parts and parts[0] != language:
        raise UserError(f"--language {language}: {spec} names another; give one of them")
    return ":".join([name, language, *parts[1:]]) + at + folder


def whole(kind: type, tokens: Sequence[Token]) -> int:
    """A converter for cyclopts: a whole number, also as 1e3."""
    text = tokens[0].value
    try:
        number = float(text)
        if number.is_integer():
            return int(number)
    except ValueError:
        pass
    raise ValueError(f"{text!r}: expected a whole number")


def history_files_of(path: Path) -> list[Path]:
    """A file itself, or the history files in a folder."""
    from cutaway.tables.history_files import is_history_file

    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if is_history_file(one) and one.is_file())


def readable(token: str) -> str:
    """A token for a table: spaces at its ends and control characters made visible."""
    return repr(token) if token != token.strip() or not token.isprintable() else token
