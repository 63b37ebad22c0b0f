"""GGUF files on the Hugging Face hub: repositories whose weights are in such files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cutaway.base.errors import UserError

_ENDING = ".gguf"
_SHOWN = 5


def alone(folder: Path) -> bool:
    """Whether a snapshot's weights are in GGUF files, and none in safetensors."""
    return bool(_names(folder)) and not any(folder.glob("*.safetensors*"))


def only(folder: Path, id: str) -> Path:
    """The GGUF file of a snapshot in the hub's cache; UserError for several, naming them."""
    names = _names(folder)
    if len(names) > 1:
        raise UserError(
            f"model = {id!r}: its snapshot holds {_counted(names)}; name one of them by its path, as "
            f"{folder / names[0]}"
        )
    return folder / names[0]


def wanted(id: str, names: Sequence[str]) -> list[str] | None:
    """What is fetched of a repository that lists these files: its GGUF file, where it has one and no
    safetensors; None where it is no such repository. UserError for several.
    """
    found = sorted(name for name in names if name.lower().endswith(_ENDING))
    if not found or any(name.endswith(".safetensors") for name in names):
        return None
    if len(found) > 1:
        raise UserError(
            f"model = {id!r}: holds {_counted(found)}; fetch the one you want (`hf download {id} "
            f"{found[0]}`) and name it by its path"
        )
    return found


def _counted(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} GGUF files ({', '.join(names[:_SHOWN])}{more})"


def _names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.name.lower().endswith(_ENDING))
