"""Goldens are whole, as they were made, and none is without a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from cutaway.runs.folder import Run
from cutaway.studies.registry import STUDIES, config_of
from golden.folders import HERE, SUMS, VERSIONS, having, runs, sums
from golden.readings import ask

RUNS = [
    pytest.param(version, name, id=f"{version.name}: {name}")
    for version in VERSIONS
    for name in runs(version)
]
MOST = 6_000_000  # bytes of a version


@pytest.mark.parametrize("version", VERSIONS, ids=lambda one: one.name)
def test_every_file_is_the_one_that_was_made(version: Path) -> None:
    assert sums(version) == (version / SUMS).read_text()
    assert sum(one.stat().st_size for one in version.rglob("*") if one.is_file()) < MOST


@pytest.mark.parametrize("version", VERSIONS, ids=lambda one: one.name)
def test_goldens_say_who_made_them_and_nothing_of_the_machine(version: Path) -> None:
    said = (version / "README.md").read_text()
    assert "commit" in said
    assert "torch" in said
    for name in runs(version):
        record = Run.open(version / name).record
        assert record.host == "golden"
        for text in (version / name / "run.json", version / name / "config.yaml"):
            assert "/home/" not in text.read_text()
            assert str(HERE) not in text.read_text()


@pytest.mark.parametrize(("version", "name"), RUNS)
def test_a_run_verifies_and_its_config_is_read(
    version: Path, name: str, copied: Callable[[Path], Path]
) -> None:
    from cutaway.studies.settings import resolve
    from cutaway.studies.yaml_file import read_yaml

    folder = copied(version)
    assert ask(f"runs verify {name}", folder) == []
    run = Run.open(folder / name)
    assert run.status != "running"
    for table in run.tables():
        assert run.read(table) is not None
    if run.record.study in STUDIES and not name.startswith("imports/"):
        values = read_yaml(folder / name / "config.yaml")
        assert values.pop("study") == run.record.study
        config = resolve(config_of(run.record.study), values)
        again = resolve(config_of(run.record.study), run.record.config)
        assert config == again


@pytest.mark.parametrize("version", having("stores"), ids=lambda one: one.name)
def test_a_store_verifies(version: Path, copied: Callable[[Path], Path]) -> None:
    from cutaway.activations.store import ActivationStore

    places = [one.parent for one in copied(version).rglob("manifest.json")]
    assert len(places) > 3
    for place in places:
        assert ActivationStore(place).verify() == []


@pytest.mark.parametrize("version", VERSIONS, ids=lambda one: one.name)
def test_no_golden_is_without_a_test(version: Path) -> None:
    """Runs are verified one by one; anything else must be named by a figure or an answer."""
    asked = ""
    for file in (version / "expected").glob("*.json"):
        asked += " ".join(one["command"] for one in json.loads(file.read_text())) + " "
    for file in (version / "expected").glob("*.safetensors"):
        with safe_open(file, "pt") as kept:
            asked += " ".join(kept.keys()) + " "
    named = set(asked.replace(".", " ").split())
    names = {one.removesuffix("/") for one in named} | set(runs(version))
    names |= {"suites/scr", "imports/backpack"}  # opened by test_answers and a figure of language
    kinds = [one for one in version.iterdir() if one.is_dir() and one.name != "expected"]
    for kind in kinds:
        if kind.name in ("texts", "pipeline"):
            continue
        for place in kind.iterdir():
            below = f"{kind.name}/{place.name}"
            assert any(one == below or one.startswith(below + "/") for one in names), below


def test_every_study_and_architecture_has_a_golden() -> None:
    from cutaway.dictionaries.architectures.registry import ARCHITECTURES
    from cutaway.nets.architectures import ARCHITECTURES as NETWORKS

    records = [Run.open(one / name).record for one in VERSIONS for name in runs(one)]
    assert {record.study for record in records} >= set(STUDIES)
    configs = [record.config for record in records if record.study == "dictionary"]
    assert {config["architecture"] for config in configs} >= set(ARCHITECTURES)
    built = {(record.resolved.get("architecture") or {}).get("name") for record in records}
    assert built >= set(NETWORKS)
