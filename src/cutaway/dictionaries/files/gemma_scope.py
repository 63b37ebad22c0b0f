"""Gemma Scope's form (Lieberum et al. 2024, arXiv 2408.05147): one `params.npz`, read only.

    f = H(z − θ)·relu(z),  z = x·W_enc + b_enc;   x̂ = f·W_dec + b_dec      W_enc (d, F), W_dec (F, d)

Raw states in and out. Arrays only: `np.load` with pickles off.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.dictionaries.files import own
from cutaway.dictionaries.model.dictionary import Dictionary

FILE = "params.npz"
_RELEASE = re.compile(r"gemma-scope-[\w.-]*?-(res|mlp|att|transcoders)")
_SITES = {"res": "residual", "mlp": "mlp"}  # theirs of attention lies before its output map


def recognises(path: Path) -> bool:
    """Whether a `.npz`, or a folder with `params.npz`, lies at `path`."""
    return path.suffix == ".npz" if path.is_file() else (path / FILE).is_file()


def read(path: Path) -> Dictionary:
    """The JumpReLU dictionary in a `params.npz`.

    Site and release are read off the path where it still has the names of the repository
    (`gemma-scope-2b-pt-res/layer_20/...`). Transcoders, whose two sides lie in different places of
    the model, are refused.
    """
    path = path if path.is_file() else path / FILE
    release = _RELEASE.search(str(path.absolute()))
    if release and release[1] == "transcoders":
        raise UserError(f"{path}: a transcoder, which does not reconstruct what it reads")
    tensors = _arrays(path)
    width, features = _size(tensors, path)
    expected = {
        "W_enc": (width, features),
        "b_enc": (features,),
        "W_dec": (features, width),
        "b_dec": (width,),
        "threshold": (features,),
    }
    own.require_tensors(path, tensors, expected)
    foreign = own.Foreign(
        architecture="jumprelu",
        encoder_weight=tensors["W_enc"].T,
        encoder_bias=tensors["b_enc"],
        decoder_weight=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        threshold=tensors["threshold"],
        centred=False,
    )
    return own.from_foreign(foreign, path, _about(path, release))


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        files.require_regular(path)
        with np.load(path, allow_pickle=False) as file:
            # theirs also come with w_enc and w_dec
            named = {re.sub("^w_", "W_", name): file[name] for name in file.files}
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in named.items()}
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise UserError(f"{path}: refused: holds Python objects, as a pickle") from None
        raise UserError(f"{path}: damaged, not arrays: {error}") from None
    except (zipfile.BadZipFile, OSError, EOFError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, not arrays: {error}") from None


def _size(tensors: dict[str, Tensor], path: Path) -> tuple[int, int]:
    if "W_dec" not in tensors:
        raise UserError(f"{path}: holds no array W_dec; has {', '.join(tensors) or 'none'}")
    if tensors["W_dec"].ndim != 2:
        raise UserError(f"{path}: W_dec is {tuple(tensors['W_dec'].shape)}, expected (F, d)")
    features, width = tensors["W_dec"].shape
    return width, features


def _about(path: Path, release: re.Match[str] | None) -> dict[str, Any]:
    layer = re.search(r"layer_(\d+)", str(path.absolute()))
    site = None
    if release and layer and release[1] in _SITES:
        site = f"{_SITES[release[1]]}.{layer[1]}"
    model = release[0] if release else None
    return {"site": site, "source": {"format": "gemma_scope", "path": str(path), "model": model}}
