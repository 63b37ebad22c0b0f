"""An evaluation's rows, of which there are hundreds, as what a person reads: a line per task and k,
the dictionary beside its baselines, seeds taken together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
PROBED = ("dictionary", "neurons", "pca", "random", "states")
ABLATED = ("dictionary", "random_features")
SHOWN = (5, 20, 100)  # features taken out, of the seven numbers there are rows of


class Score(NamedTuple):
    """A value and the ends of its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        """`0.948 ±0.018`, with the larger side of the interval."""
        if not math.isfinite(self.value):
            return "-"
        sides = [abs(end - self.value) for end in (self.low, self.high) if math.isfinite(end)]
        text = f"{self.value:.3f}"
        return f"{text} ±{max(sides):.3f}" if sides else text


class Scores(dict[tuple[str, str, int | None, str], Score]):
    """Scores of one evaluation by (task, measure, k, subject)."""

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for task, *_ in self))

    def ks(self, measure: str) -> list[int]:
        """The numbers of features a measure was taken with, ascending."""
        return sorted({k for _, name, k, _ in self if name == measure and k is not None})

    def at(self, task: str, measure: str, k: int | None, subject: str) -> Score:
        """NaN for what is not there."""
        return self.get((task, measure, k, subject), Score(math.nan))


def of_tasks(rows: Sequence[Row]) -> list[Row]:
    """Rows of whole tasks: not those of one class, direction or letter of a task.

    A part is called `task: part` (`task.part` of letters), and there are rows of `task`, too.
    """
    whole = {(row["evaluation"], row["task"]) for row in rows}

    def is_part(row: Row) -> bool:
        for mark in (": ", "."):
            pieces = row["task"].split(mark)
            for count in range(1, len(pieces)):
                if (row["evaluation"], mark.join(pieces[:count])) in whole:
                    return True
        return False

    return [row for row in rows if not is_part(row)]


def scores(rows: Sequence[Row], evaluation: str) -> Scores:
    """An evaluation's scores: one seed's with its interval; of several the mean over seeds that
    have one, with Student's 95 % interval over them."""
    from cutaway.stats.bootstrap import seed_interval

    found: dict[tuple[str, str, int | None, str], list[Row]] = {}
    for row in rows:
        if row["evaluation"] == evaluation:
            key = (row["task"], row["measure"], row["k"], row["subject"])
            found.setdefault(key, []).append(row)
    result = Scores()
    for key, several in found.items():
        ends = [[_number(row[name]) for name in ("value", "low", "high")] for row in several]
        defined = [value for value, *_ in ends if math.isfinite(value)]
        if len(several) == 1 or not defined:
            result[key] = Score(*ends[0])
        else:
            result[key] = Score(*seed_interval(defined))
    return result


def tables(rows: Sequence[Row]) -> list[tuple[str, list[dict[str, Any]]]]:
    """What to show of one dictionary's rows: for each evaluation a title and lines of text."""
    seeds = len({row["seed"] for row in rows})
    over = f"{seeds} seeds" if seeds > 1 else "test documents"
    made = {"sparse_probing": _probing, "absorption": _absorption, "tpp": _tpp, "scr": _scr}
    found = []
    for name, table in made.items():
        if lines := table(scores(rows, name), scores(of_tasks(rows), name)):
            found.append((f"{_TITLES[name]}; ±: 95 % over {_OVER.get(name, over)}", lines))
    return found


# -- inside ----------------------------------------------------------------------------------------


_TITLES = {
    "sparse_probing": "sparse probing: test accuracy with k features (chance 0.5; states: all of "
    "the hidden state)",
    "absorption": "first-letter absorption",
    "tpp": "targeted probe perturbation, k features of a class taken out (tpp = own_drop − "
    "other_drop; random: as many of those that fire)",
    "scr": "spurious correlation removal, k features of the cue taken out (1: all that could be "
    "gained; random: as many of those that fire)",
}
_OVER = {"absorption": "letters"}


def _probing(_: Scores, whole: Scores) -> list[dict[str, Any]]:
    return [
        {"task": task, "k": k}
        | {
            subject: str(whole.at(task, "accuracy", None if subject == "states" else k, subject))
            for subject in PROBED
            if any(subject == key[3] for key in whole)
        }
        for task in whole.tasks()
        for k in whole.ks("accuracy")
    ]


def _absorption(_: Scores, whole: Scores) -> list[dict[str, Any]]:
    measures = ("absorption_fraction", "absorption_full", "split_features")
    return [
        {
            "task": task,
            "letters_readable": f"{whole.at(task, 'letters_readable', None, 'states').value:g}",
            **{name: str(whole.at(task, name, None, "dictionary")) for name in measures},
        }
        for task in whole.tasks()
    ]


def _tpp(_: Scores, whole: Scores) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "probe_accuracy": str(whole.at(task, "probe_accuracy", None, "states")),
            "k": k,
            "tpp": str(whole.at(task, "tpp", k, "dictionary")),
            "random": str(whole.at(task, "tpp", k, "random_features")),
            "own_drop": str(whole.at(task, "own_drop", k, "dictionary")),
            "other_drop": str(whole.at(task, "other_drop", k, "dictionary")),
        }
        for task in whole.tasks()
        for k in shown(whole.ks("tpp"))
    ]


def _scr(every: Scores, whole: Scores) -> list[dict[str, Any]]:
    lines = []
    for task in whole.tasks():
        ways = [one for one in every.tasks() if one.startswith(f"{task}: ")]
        # The direction that counts is the one in which the biased probe starts lower.
        ways.sort(key=lambda way: every.at(way, "base_accuracy", None, "states").value)
        for k in shown(whole.ks("scr")):
            lines.append(
                {
                    "task": task,
                    "biased": str(every.at(ways[0], "base_accuracy", None, "states")),
                    "unbiased": str(every.at(ways[0], "oracle_accuracy", None, "states")),
                    "k": k,
                    "scr": str(whole.at(task, "scr", k, "dictionary")),
                    "random": str(whole.at(task, "scr", k, "random_features")),
                }
            )
    return lines


def shown(ks: Sequence[int]) -> list[int]:
    """Those of `SHOWN`, or all where none is there."""
    return [k for k in ks if k in SHOWN] or list(ks)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
