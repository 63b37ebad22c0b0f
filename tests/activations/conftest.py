from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cutaway.nets.model import Model


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Callable[[str], Path]) -> Callable[[str], Model]:
    """`tiny_model("llama")`: that model, opened on the CPU in float32, once."""
    from cutaway.nets.reference import open_model

    opened: dict[str, Model] = {}

    def model(layout: str) -> Model:
        if layout not in opened:
            opened[layout] = open_model(tiny_folder(layout), device="cpu")
        return opened[layout]

    return model
