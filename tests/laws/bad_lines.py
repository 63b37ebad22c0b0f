"""Command lines that are wrong in some way, drawn from the command tree and the studies' fields."""

from __future__ import annotations

import importlib
import inspect
import random
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from cutaway.cli.main import COMMANDS, GROUPS
from cutaway.studies.registry import STUDIES, config_of
from laws.bad_files import CONTENTS, FOLDERS, NAMES

NUMBERS = (
    *("-1", "0", "-0", "1.5", "nan", "inf", "-inf", "1e400", "1e30", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" * 400, "1e-400"),
    *("abc", "", " ", "٣", "0x10", "1_000", "1,2", "[1]", "{}", "true", "none", "1e9", "10 ", "--"),
    *("½", "1e", "+", "1/2", "10000000000", "100000000"),
)
WORDS = (
    *("", " ", "abc", "ä" * 200, "two\nlines", "\udcff", "a\x00b", "\u202e", "[red]x[/red]", "%s"),
    *("{0}", "'; DROP TABLE runs; --", "-", "--", "9" * 500, "../../x", "none", "nan", "a,b,,c"),
    *("0,999", "-1", "1e30", "mlp.999", "\x1b[31m", "💥" * 100, "residual.0.0", "::", "@", "a@b:c"),
)
SIZES = ("1e9", "100000000", "10000000000", "1e15", "4611686018427387904", "100000")
# what may be as large as one likes: steps, and amounts of text that end where the text does
LASTING = (
    *("max_iters", "epochs", "max_steps", "extra_steps", "length", "warmup_iters", "tokens"),
    *("warmup_epochs", "lr_decay_iters", "decay_steps", "eval_iters", "num_tokens"),
    *("eval_tokens", "gradient_accumulation_steps"),
)
CHOICES = ("online", "auto", "residual")  # nothing that would ask a network
NONSENSE = (
    *("--no-such-option", "--nonsense=1", "--", "-", "-x", "--=", "--ünïcode", "--out", "--json=3"),
    *("--help=yes", "-j", "--quiet=0", "---out", "--\x00", "--no-json", "--json --csv", "\udcff"),
    *("--seed", "--data", "stray", "", "--no-no", "--" + "x" * 300),
)


PRESETS = {
    "docstrings-tiny": "language",
    "routed": "grokking",
    "sae": "dictionary",
    "probe-next-token": "probe",
}


@dataclass(frozen=True)
class Option:
    """A parameter of a command, or a field of a study: its names and what it takes."""

    names: tuple[str, ...]
    kind: str  # whole, number, text, path, flag or choice
    field: str
    study: str = ""  # of which it is a field

    def suits(self, line: Sequence[str]) -> bool:
        """Whether a line trains a study that has this field, or no study of several."""
        return not self.study or PRESETS.get((*line, "")[0], self.study) == self.study


@dataclass(frozen=True)
class Command:
    """A command: its words, a line that would do, and what it can be given."""

    path: tuple[str, ...]
    good: tuple[tuple[str, ...], ...]
    options: tuple[Option, ...]
    places: tuple[int, ...]  # of the good line, where a file, folder or name stands
    slow: bool = False  # a good line takes too long: only lines that are surely wrong


def commands(good: Callable[[tuple[str, ...]], Sequence[Sequence[str]]]) -> list[Command]:
    """Every command there is; `good` gives lines of arguments that would do for one."""
    paths = [((name,), place) for name, place, _ in COMMANDS]
    paths += [((group, name), place) for group, _, some in GROUPS for name, place, _ in some]
    made = []
    for path, place in paths:
        module, _, name = place.partition(":")
        function = getattr(importlib.import_module(module), name)
        function = getattr(function, "default_command", function)
        options = [*_options(function), *_fields(path)]
        lines = tuple(tuple(line) for line in good(path))
        made.append(Command(path, lines, tuple(options), (), path == ("tour",)))
    return made


def _options(function: Callable[..., Any]) -> list[Option]:
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        annotation, names = hints[name], [f"--{name.replace('_', '-')}"]
        if get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            for one in extra:
                given = getattr(one, "name", None)
                names = list(given) if given else names
        found.append(Option(tuple(names), _kind(annotation), name))
    return found


def _fields(path: tuple[str, ...]) -> list[Option]:
    studies = {
        ("train",): list(STUDIES),
        ("sweep",): ["grokking"],
        ("params",): ["language", "grokking"],
        ("sae", "train"): ["dictionary"],
        ("sae", "pipeline"): ["dictionary"],
        ("sae", "study"): ["dictionary"],
        ("probe", "train"): ["probe"],
    }.get(path, [])
    return [
        Option((f"--{name.replace('_', '-')}",), _kind(field.annotation), name, study)
        for study in studies
        for name, field in config_of(study).model_fields.items()
    ]


def _kind(annotation: Any) -> str:
    kinds = {annotation, *get_args(annotation)}
    kinds |= {part for one in list(kinds) for part in get_args(one)}
    if any(get_origin(one) is Literal for one in kinds):
        return "choice"
    for kind, word in ((int, "whole"), (float, "number"), (Path, "path"), (str, "text")):
        if kind in kinds:
            return word
    return "flag"


def bad_lines(
    known: Sequence[Command], seed: int, count: int, *, only: Sequence[str] = ()
) -> list[list[str]]:
    """So many wrong lines, the same for the same seed, spread over all commands."""
    draw = random.Random(seed)
    chosen = [one for one in known if not only or one.path[0] in only]
    lines = []
    for number in range(count):
        command = chosen[number % len(chosen)]
        lines.append(_line(command, draw))
    return lines


def each_option(known: Sequence[Command], values: Sequence[str]) -> list[list[str]]:
    """Every option of every command with each of these values, where it takes whole numbers."""
    return [
        [*command.path, *good, option.names[0], value]
        for command in known
        for good in command.good[: 4 if command.path == ("train",) else 1]
        for option in command.options
        if option.kind == "whole" and option.suits(good)
        if option.field not in LASTING and not command.slow
        for value in values
    ]


def each_file(known: Sequence[Command]) -> list[list[str]]:
    """Every file and folder of a good line in turn replaced by every bad one."""
    folders = {name.partition("/")[0] for name in CONTENTS if "/" in name}
    bad = [name for name in CONTENTS if "/" not in name] + [*FOLDERS, *sorted(folders)]
    lines = []
    for command in known:
        for good in command.good:
            for place, word in enumerate(good):
                if word in GOOD and not (place and good[place - 1] == "--out"):
                    line = [*command.path, *good]
                    place_in_line = place + len(command.path)
                    lines += [
                        [*line[:place_in_line], one, *line[place_in_line + 1 :]] for one in bad
                    ]
    return lines


def _line(command: Command, draw: random.Random) -> list[str]:
    ways: list[Callable[[Command, random.Random], list[str]]] = [
        *(_bad_option,) * 6,
        *(_bad_place,) * 4,
        *(_two_bad,) * 2,
        *(_nonsense, _missing, _stray, _misspelt),
    ]
    if command.slow:
        ways = [_nonsense, _misspelt]
    return draw.choice(ways)(command, draw)


def _base(command: Command, draw: random.Random) -> list[str]:
    return [*command.path, *draw.choice(command.good)] if command.good else [*command.path]


def _value(option: Option, draw: random.Random) -> str:
    lasting = option.field in LASTING
    files = [*NAMES, *CONTENTS, *FOLDERS]
    if option.kind == "whole":
        pool = NUMBERS if lasting else (*NUMBERS, *SIZES)
        chosen = draw.choice(pool)
        if lasting and chosen in ("1e9", "10000000000", "100000000", "9223372036854775807"):
            return "-3"
        return chosen
    if option.kind == "number":
        chosen = draw.choice(NUMBERS)
        return "-1e9" if lasting and chosen.strip("1e0") == "" else chosen
    if option.kind == "path":
        return draw.choice(files)
    if option.kind == "choice":
        return draw.choice([word for word in WORDS if word not in CHOICES])
    if option.kind == "flag":
        return draw.choice(["maybe", "2", "--", ""])
    return draw.choice([*WORDS, *files, *(() if lasting else NUMBERS)])


def _bad_option(command: Command, draw: random.Random) -> list[str]:
    if not command.options:
        return _nonsense(command, draw)
    line = _base(command, draw)
    option = draw.choice([one for one in command.options if one.suits(line[len(command.path) :])])
    name, value = draw.choice(option.names), _value(option, draw)
    given = [f"{name}={value}"] if draw.random() < 0.2 else [name, value]
    return line + given


def _two_bad(command: Command, draw: random.Random) -> list[str]:
    line = _bad_option(command, draw)
    for _ in range(draw.randint(1, 3)):
        extra = _bad_option(command, draw)
        line += extra[-2:] if not extra[-1].startswith("--") else extra[-1:]
    return line


def _bad_place(command: Command, draw: random.Random) -> list[str]:
    """A word that names a file, run or folder, in the place of a good one."""
    line = _base(command, draw)
    places = [n for n in range(len(command.path), len(line)) if not line[n].startswith("--")]
    if not places:
        return _nonsense(command, draw)
    place = draw.choice(places[:1] * 3 + places)
    line[place] = draw.choice([*NAMES, *CONTENTS, *FOLDERS, *KINDS, *WORDS])
    return line


# what stands for files and runs in good lines
GOOD = (
    *("corpus.txt", "labelled.csv", "log.jsonl", "sweep.yaml", "routed", "docstrings-tiny"),
    *("language", "grokking", "dictionary", "probe", "states", "examples"),
)
# good things, of whatever kind: a run of the wrong study, a store for a dictionary, ...
KINDS = (
    *("language", "grokking", "dictionary", "probe", "states", "examples", "sweep", "corpus.txt"),
    *("language/run.json", "language/checkpoints", "language/tokenizer", "grokking/config.yaml"),
    *("states/manifest.json", "dictionary/checkpoints", "examples/metadata.json", "language@best"),
    *("language/history.parquet", "probe/probes", "states/residual.0"),
)


def _nonsense(command: Command, draw: random.Random) -> list[str]:
    line = _base(command, draw)
    line.insert(draw.randint(len(command.path), len(line)), draw.choice(NONSENSE))
    return [*line, "--no-such-option"] if command.slow else line


def _missing(command: Command, draw: random.Random) -> list[str]:
    """Cut off right after an option, which lacks its value then, or without any argument."""
    line = _base(command, draw)
    ends = [n + 1 for n in range(len(command.path), len(line)) if line[n].startswith("--")]
    return line[: draw.choice([*ends, len(command.path)])]


def _stray(command: Command, draw: random.Random) -> list[str]:
    return [*_base(command, draw), draw.choice(WORDS), *draw.choices(WORDS, k=draw.randint(0, 2))]


def _misspelt(command: Command, draw: random.Random) -> list[str]:
    line = _base(command, draw)
    word = list(line[len(command.path) - 1])
    word[draw.randrange(len(word))] = draw.choice("xäß-_ .\u200b\udc80")
    line[len(command.path) - 1] = "".join(word)
    return line
