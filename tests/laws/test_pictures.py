"""Laws for every picture: it renders in every format, from a run and to a file that is one."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from cutaway.figures.look import save
from cutaway.runs.foreign import open_log
from cutaway.studies.registry import STUDIES, pictures_of

FIXTURES = {
    "language": "backpack_run",
    "grokking": "grokking_run",
    "dictionary": "dictionary_run",
}
ALL = [(study, name) for study in STUDIES for name in pictures_of(study)]


@pytest.mark.parametrize(("study", "name"), ALL)
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_it_renders(study, name, ending, request, tmp_path) -> None:
    fixture = FIXTURES[study]
    run = request.getfixturevalue(fixture)
    figure = pictures_of(study)[name](open_log(run))
    assert figure is not None, "the example run has nothing for this picture"
    path = save(figure, tmp_path / f"{name}.{ending}")
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending])
    assert len(content) > 3000
    if ending == "svg":
        ET.fromstring(content)
