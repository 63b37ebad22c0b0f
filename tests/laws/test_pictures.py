"""Laws for every picture: it renders in every format, from a run and to a file that is one."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cutaway.figures.look import save
from cutaway.runs.foreign import open_log
from cutaway.studies.registry import STUDIES, pictures_of
from cutaway.studies.train import train

FIXTURES = {
    "language": "backpack_run",
    "grokking": "grokking_run",
    "dictionary": "dictionary_run",
    "probe": "probe_run",
}
SPECIAL = {  # pictures that need another run than their study's
    ("dictionary", name): "orthogonality_run"
    for name in ("training_comparison", "pair_cosines", "pair_stability")
}
ALL = [(study, name) for study in STUDIES for name in pictures_of(study)]


@pytest.fixture(scope="module")
def orthogonality_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dictionary's folder, trained with the penalty on co-occurring features."""
    out = tmp_path_factory.mktemp("runs") / "orthogonality"
    settings = {"synthetic": "hierarchy", "d_hidden": 64, "target_l0": 3, "batch_size": 128}
    train(
        "dictionary",
        {**settings, "max_steps": 100, "orthogonality": "top_k", "topk_fraction": 0.05},
        out,
    )
    return out


@pytest.mark.parametrize(("study", "name"), ALL)
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_it_renders(study, name, ending, request, tmp_path) -> None:
    fixture = SPECIAL.get((study, name), FIXTURES[study])
    run = request.getfixturevalue(fixture)
    figure = pictures_of(study)[name](open_log(run))
    assert figure is not None, "the example run has nothing for this picture"
    path = save(figure, tmp_path / f"{name}.{ending}")
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending])
    assert len(content) > 3000
    if ending == "svg":
        ET.fromstring(content)
