from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cutaway.nets.model import Model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_folder("llama")`: the folder of a small random model with a tokenizer, made once."""
    from activations.tiny_models import save_model, small_tokenizer

    made: dict[str, Path] = {}

    def folder(layout: str) -> Path:
        if layout not in made:
            place = tmp_path_factory.mktemp("models") / layout
            made[layout] = save_model(layout, place, tokenizer=small_tokenizer())
        return made[layout]

    return folder


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
