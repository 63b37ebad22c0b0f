from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real text beside the repository; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    return DATA


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("CUTAWAY_HUB", raising=False)


@pytest.fixture(autouse=True, scope="session")
def no_warning_after_forks() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
