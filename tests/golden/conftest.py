"""Goldens are only read: every test has a copy, and at the end they must be as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from golden.folders import VERSIONS, listing
from golden.readings import age_owners


@pytest.fixture(scope="session", autouse=True)
def _untouched() -> Iterator[None]:
    before = {version: listing(version) for version in VERSIONS}
    yield
    after = {version: listing(version) for version in VERSIONS}
    assert after == before, "a test wrote into tests/golden"


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`copied(version)`: a copy of it for this session, for what changes no run."""
    made: dict[Path, Path] = {}

    def copy(version: Path) -> Path:
        if version not in made:
            made[version] = _copy(version, tmp_path_factory.mktemp("golden") / version.name)
        return made[version]

    return copy


@pytest.fixture(autouse=True)
def _texts_of_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gutenberg:en` is that of the goldens' folder, the working directory of every command."""
    monkeypatch.setenv("CUTAWAY_HUB", "texts/hub")


@pytest.fixture
def apart(tmp_path: Path) -> Callable[..., Path]:
    """`apart(version, "texts", "language/killed")`: some of it in a folder of this test's own."""

    def copy(version: Path, *names: str) -> Path:
        for name in names:
            _copy(version / name, tmp_path / name)
        return tmp_path

    return copy


def _copy(source: Path, place: Path) -> Path:
    shutil.copytree(source, place, copy_function=shutil.copyfile)
    for one in [place, *place.rglob("*")]:  # whatever the checkout's modes are
        one.chmod(0o755 if one.is_dir() else 0o644)
    age_owners(place)
    return place
