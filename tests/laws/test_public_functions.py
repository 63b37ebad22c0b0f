"""Public functions refuse what is wrong with a CutawayError, or a TypeError for another kind of value."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cutaway.base.errors import CutawayError
from cutaway.studies.registry import STUDIES, config_of
from cutaway.studies.settings import resolve
from laws.bad_files import write_bad_files

# Everything that takes a name, a path, settings or numbers a user writes.
DOORS = {
    "cutaway": ["Dictionary.load", "Probe.load", "RunStore", "open_model", "train"],
    "cutaway.activations": ["ActivationStore", "extract"],
    "cutaway.evaluations.evaluate": ["Evaluation.load"],
    "cutaway.features.table": ["Features.load"],
    "cutaway.figures": ["format_of"],
    "cutaway.grokking": ["all_pairs", "phases", "split"],
    "cutaway.grokking.histories": ["history_of"],
    "cutaway.nets": ["build", "load", "open_model", "parse_site", "parse_sites"],
    "cutaway.probes": ["ProbeData.load", "Probe.load"],
    "cutaway.runs": ["Run.open", "Run.resume", "find_run", "open_log"],
    "cutaway.runs.training_log": ["read_training_log"],
    "cutaway.runs.importing": ["import_history"],
    "cutaway.studies": [
        *("config_of", "find_preset", "overrides", "presets", "read_yaml", "study_of"),
        "train",
    ],
    "cutaway.sweeps": ["expand", "read_sweep"],
    "cutaway.text": ["Tokenizer.load", "pretrained", "source"],
}
CONFIGS = {study: config_of(study) for study in STUDIES}
NAMES = [
    *(
        "",
        " ",
        "gone",
        "a/b/c",
        "a\0b",
        "\udcff",
        "n" * 300,
        "x" * 5000,
        "two\nlines",
        "docstrings:",
    ),
    *("residual.99999999999", "mlp.-1", "0,,1", "language", "grokking", "::", "@best", "9" * 5000),
]
NUMBERS = [0, -1, 2**70, -(2**70), 1.5, float("nan"), float("inf"), 10**30]
MAPPINGS = [
    {},
    {"seed": 10**30},
    {"seed": "x"},
    {"p": -5},
    {"n_embd": float("nan")},
    {3: 4},
    {"name": "gpt2", "vocab_size": -3},
    {"name": ["gpt2"]},
    {"name": "modular_mlp", "p": 10**12},
    {"sweep": {"p": [[]]}},
    {"runs": 3},
    {"seeds": 10**9},
    {"model": "gone", "data": "gone"},
]
OTHERS = [None, b"bytes", object(), [], [None], (), {1}, True]
TRIES = 25


def _resolve(module: str, name: str) -> Callable[..., Any]:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("bad")
    return [str(root / name) for name in write_bad_files(root)]


def _draw(parameter: inspect.Parameter, draw: random.Random, bad: list[str]) -> Any:
    said = str(parameter.annotation)
    pools: list[list[Any]] = []
    if re.search(r"str|Path|Any|PathLike", said):
        pools += [NAMES, bad, [Path(one) for one in bad]]
    if re.search(r"int|float|Any", said):
        pools.append(NUMBERS)
    if re.search(r"Mapping|Config|dict|Any", said):
        pools.append(MAPPINGS)
    if re.search(r"Sequence|Iterable|list", said):
        pools.append([[one] for one in NAMES] + [[]])
    pools.append(OTHERS)
    weights = [5] * (len(pools) - 1) + [1]
    return draw.choice(draw.choices(pools, weights)[0])


CASES = [(module, name) for module, names in DOORS.items() for name in names]


@pytest.mark.parametrize(("module", "name"), CASES, ids=[f"{m}.{n}" for m, n in CASES])
def test_junk_is_refused_in_words(module, name, bad, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    function = _resolve(module, name)
    draw = random.Random(f"{module}.{name}")
    escaped = []
    for _ in range(TRIES):
        given: list[Any] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                continue
            if parameter.default is not parameter.empty:
                break
            given.append(_draw(parameter, draw, bad))
        try:
            function(*given)
        except (CutawayError, TypeError):
            continue
        except Exception as error:
            shown = ", ".join(repr(one)[:80] for one in given)
            escaped.append(f"{name}({shown}): {type(error).__name__}: {str(error)[:200]}")
    assert not escaped, "\n".join(escaped)


@pytest.mark.parametrize("study", STUDIES)
def test_no_value_of_any_field_escapes_the_config(study: str) -> None:
    config, escaped = CONFIGS[study], []
    values = [*NAMES, *NUMBERS, *OTHERS, *MAPPINGS, [[[]]], 10**5000, "1e400", "1" * 5000]
    for field in config.model_fields:
        for value in values:
            for given in (({field: value}, {}), ({}, {field: value})):
                try:
                    resolve(config, *given)
                except (CutawayError, TypeError):
                    continue
                except Exception as error:
                    escaped.append(f"{field} = {type(value).__name__}: {error!r}"[:200])
    assert not escaped, "\n".join(escaped[:20])
