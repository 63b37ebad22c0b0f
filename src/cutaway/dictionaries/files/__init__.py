"""Dictionaries on disk: our own form, and those of other libraries.

    cutaway               dictionary.json + dictionary.safetensors, or a training run     read, write
    saelens               cfg.json + sae_weights.safetensors                              read, write
    gemma_scope           params.npz                                                      read
    sparsify              cfg.json + sae.safetensors                                      read
    dictionary_learning   config.json + ae.pt or ae.safetensors                           read

Each form is one module with `recognises(path)` and `read(path)`, and `write(dictionary, folder)`
where it can be written. Nothing is unpickled: see `dictionary_learning` for what that means for
its `ae.pt`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cutaway.base.errors import UserError, nearest
from cutaway.runs import checksums

if TYPE_CHECKING:
    from cutaway.dictionaries.model.dictionary import Dictionary

FORMATS = {
    "cutaway": "cutaway.dictionaries.files.own",
    "saelens": "cutaway.dictionaries.files.saelens",
    "gemma_scope": "cutaway.dictionaries.files.gemma_scope",
    "sparsify": "cutaway.dictionaries.files.sparsify",
    "dictionary_learning": "cutaway.dictionaries.files.dictionary_learning",
}
WRITTEN = ("cutaway", "saelens")
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_WHY = "a pickle runs whatever code it holds when it is read; give safetensors"


def module_of(format: str) -> ModuleType:
    """The module that reads a format."""
    return import_module(FORMATS[format])


def formats_of(path: str | Path) -> str:
    """Which of `FORMATS` lies at `path`, a folder or one of its files.

    Raises UserError where there is nothing, nothing known, or a pickle only.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    for name in FORMATS:
        if module_of(name).recognises(path):
            return name
    if path.is_file():
        if path.suffix in PICKLES:
            raise UserError(f"{path}: refused: {_WHY}")
        raise UserError(f"{path}: not a dictionary's file; give the folder it lies in")
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(f"{path / pickles[0]}: refused: {_WHY}")
    if inside := _inside(path):
        raise UserError(
            f"{path}: holds no dictionary itself, and in it {', '.join(map(str, inside))}; name one"
        )
    raise UserError(
        f"{path}: holds no dictionary; looked for dictionary.json, run.json, "
        "sae_weights.safetensors, sae.safetensors, params.npz, ae.safetensors, ae.pt"
    )


def _inside(path: Path) -> list[Path]:
    """Folders of dictionaries in a folder, as `cutaway sae pipeline` leaves them."""
    from cutaway.runs import record

    found = []
    for folder in sorted(path.iterdir()):
        if (folder / record.FILE).is_file():
            try:
                study = record.read(folder).study
            except UserError:
                continue
            if study == module_of("cutaway").STUDY:
                found.append(folder)
        elif (folder / module_of("cutaway").DESCRIPTION).is_file():
            found.append(folder)
    return found


def export(dictionary: Dictionary, folder: str | Path, format: str) -> Path:
    """Write a dictionary into a folder in one of the forms of `WRITTEN`; the folder.

    Raises UserError for another format and for a folder that cannot be written or is not empty.
    """
    if format not in WRITTEN:
        raise UserError(
            f"format = {format!r}: expected one of {', '.join(WRITTEN)}{nearest(format, WRITTEN)}"
        )
    folder = Path(folder)
    if folder.is_dir() and (held := sorted(entry.name for entry in folder.iterdir())):
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise UserError(f"{folder}: is not empty (holds {held[0]}{more}); choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        module_of(format).write(dictionary, folder)
        checksums.finish(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot write: {error.strerror or error}") from None
    return folder
