"""Settings of any type in a dictionary's JSON: it is read, or refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.base.errors import UserError
from cutaway.dictionaries.files import export
from cutaway.dictionaries.model.dictionary import Dictionary
from dictionaries.files.cases import trained
from dictionaries.files.test_native_units import FOREIGN

ODD = [None, True, -1, 1.5, float("nan"), float("inf"), 10**30, "x", "", [], {}, [None], {"a": 1}]
FORMS = [*FOREIGN, "own jumprelu", "own topk", "own matryoshka"]


def settings(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The places of all settings, those within others too."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield (*path, key)
        yield from settings(value, (*path, key))


def changed(content: dict[str, Any], path: tuple, value: Any) -> str:
    made = copy.deepcopy(content)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(made)


@pytest.mark.parametrize("form", FORMS)
def test_odd_settings_end_in_a_dictionary_or_in_one_line(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    if form in FOREIGN:
        FOREIGN[form](folder)
    else:
        export(trained(form.removeprefix("own ")), folder, "cutaway")
        (folder / "checksums.json").unlink(missing_ok=True)
    for file in sorted(folder.rglob("*.json")):
        written = file.read_text()
        content = json.loads(written)
        for place in settings(content):
            for value in ODD:
                file.write_text(changed(content, place, value))
                said = ""
                try:
                    Dictionary.load(folder, device="cpu")
                except UserError as refused:
                    said = str(refused)
                assert "\n" not in said, (file.name, place, value)
        file.write_text(written)
