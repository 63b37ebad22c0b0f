"""From what a user names to a model one can look into: a run, a folder, a hub id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.nets import gguf, gguf_hub
from cutaway.nets.anatomy import Anatomy, Place
from cutaway.nets.architectures import build
from cutaway.nets.gpt2 import GPT2, LanguageModel
from cutaway.nets.model import Model, ModelReference

if TYPE_CHECKING:
    from cutaway.runs.checkpoint import Checkpoint
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer

_told: set[str] = set()  # GGUF files whose quantisation this process has announced
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its tokenizer (None where it has none), and where it came from."""

    model: nn.Module
    tokenizer: Tokenizer | None
    name: str
    step: int
    config: dict[str, Any]
    path: Path

    @property
    def reads(self) -> Tokenizer:
        """The tokenizer; UserError where the model came without one."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.path / 'tokenizer'}: missing, and words need the run's tokenizer"
            )
        return self.tokenizer


@door
def load(run: str | Path, *, step: int | str = "best", device: str = "auto") -> LoadedModel:
    """The model of a run, at its `best` checkpoint, its `last`, or a step that was kept.

    Where the best or last one is damaged the newest intact one is taken, with a notice.
    """
    from cutaway.runs.folder import Run
    from cutaway.text.tokenizers import Tokenizer

    opened = Run.open(run)
    description = opened.record.resolved.get("architecture")
    if description is None:
        raise UserError(f"{run}: {_no_model(opened)}")
    checkpoint = checkpoint_of(opened, step)
    model = build(description)
    model.load_state_dict(checkpoint.tensors["model"])
    folder = opened.path / "tokenizer"
    tokenizer = Tokenizer.load(folder) if folder.is_dir() else None
    model.to(hardware.device(device)).eval().requires_grad_(False)
    return LoadedModel(
        model, tokenizer, opened.name, checkpoint.step, dict(opened.record.config), opened.path
    )


def _no_model(run: Run) -> str:
    """Why a run holds no model, and where it says one, of which it is."""
    about = run.record.resolved.get("dictionary")
    if not isinstance(about, dict):
        return f"this run's record names no architecture to load (study {run.record.study})"
    of = (about.get("reference") or {}).get("id")
    return "is a dictionary, not a model" + (f"; it was trained on {of}" if of else "")


@door
def open_model(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    step: int | str = "best",
) -> Model:
    """The model a user names, in eval mode, ready for `logits`, `capture` and `splice`.

    `model` is a run's folder, or its name under `runs/`; a folder in Hugging Face's layout; a GGUF
    file, or a folder that holds one (converted once into the cache, see `nets.gguf`); or a hub id
    (`gpt2`, or `EleutherAI/pythia-70m@step3000` for a revision), which the local cache serves where
    there is no network, also where its weights are one GGUF file alone. `step` is for runs: `best`, `last` or one that was kept.
    `dtype` is `float32`, `bfloat16`, or `auto`: float32 unless the file holds 16 bits and the
    device has bfloat16 arithmetic. Raises UserError with one line for everything else.
    """
    _require_dtype(dtype)
    place = _place(model)
    if isinstance(place, Path):
        if (place / "run.json").is_file():
            return _from_run(place, device, dtype, step)
        if not place.is_dir():
            return _from_gguf(place, device, dtype)
        return _from_folder(place, str(place), None, device, dtype)
    from cutaway.nets import huggingface

    id, _, revision = place.partition("@")
    folder = huggingface.snapshot(id, revision or None)
    if gguf_hub.alone(folder):
        return _from_gguf(gguf_hub.only(folder, id), device, dtype, id, folder.name)
    return _from_folder(folder, id, folder.name, device, dtype)


def _require_dtype(dtype: str) -> None:
    if dtype in ("float16", "fp16", "half"):
        raise UserError(
            f"dtype = {dtype!r}: float16 ends at 65504, and hidden states beyond that turn to "
            "infinity and NaN, which some models reach; use bfloat16 or float32"
        )
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r}: expected one of {', '.join(DTYPES)}")


def _place(model: str | Path) -> Path | str:
    """The folder or GGUF file that `model` means, or the hub id that it then must be."""
    from cutaway.runs.finding import find_run

    model = as_path(model) if isinstance(model, Path) else str(model)
    for folder in (as_path(model), Path("runs") / model):
        if (folder / "run.json").is_file():
            return folder.absolute()
    folder = Path(model)
    if gguf.has_layout(folder):
        return folder.absolute()
    if (folder / "dictionary.json").is_file():
        raise UserError(f"model = '{model}': is a dictionary, not a model")
    if (file := gguf.find(folder)) is not None:
        return file
    if folder.exists():
        raise UserError(
            f"model = '{model}': neither a run (no run.json) nor a model in Hugging Face's layout "
            "(no config.json) nor a GGUF file"
        )
    name = os.fspath(model)
    if isinstance(model, Path) or name.count("/") > 1 or name.startswith((".", "/", "~", "runs/")):
        find_run(model)  # says that there is none, and which name is near
    return name


def _from_run(path: Path, device: str, dtype: str, step: int | str) -> Model:
    from cutaway.runs.folder import Run

    loaded = load(path, step=step, device=device)
    network = loaded.model
    if not isinstance(network, LanguageModel):
        raise UserError(
            f"{path}: a {type(network).__name__} reads no text, so it has no hidden states by "
            "token to look at; give a gpt2 or backpack run, or a Hugging Face model"
        )
    if dtype == "bfloat16":
        network.to(torch.bfloat16)
    recorded = Run.open(path).checkpoints.verify(loaded.step, groups=())["files"]
    shape = network.config
    reference = ModelReference(
        kind="run",
        id=str(path),
        revision=None,
        step=loaded.step,
        weights_sha256=recorded["model.safetensors"]["sha256"],
        tokenizer_sha256=_tokenizer_sha256(path / "tokenizer", loaded.tokenizer),
        n_layers=shape.n_layer,
        width=shape.n_embd,
    )
    return Model(network, _own_anatomy(network, loaded.tokenizer), reference, loaded.tokenizer)


def _own_anatomy(network: LanguageModel, tokenizer: Tokenizer | None) -> Anatomy:
    """The sites of a trunk. A Backpack's logits come from its senses: it has no decoder weight."""

    def forward(tokens: Tensor, attention_mask: Tensor | None, at: Tensor | None) -> Tensor:
        # The trunk is causal: padding after the text changes nothing before it.
        if attention_mask is not None and (attention_mask.long().diff(dim=1) > 0).any():
            raise UserError("attention_mask: a run's network reads padding on the right only")
        if at is None:
            return network(tokens)
        state = network.state(tokens)
        return F.linear(state[torch.arange(len(at), device=at.device), at], network.embedding)

    shape, blocks = network.config, list(network.trunk.blocks)
    return Anatomy(
        blocks=blocks,
        attention=[Place(block.attention) for block in blocks],
        mlp=[Place(block.mlp) for block in blocks],
        middle=[Place(block.norm2, "input", block=block) for block in blocks],
        heads=[Place(block.attention.out, "input", shape.n_embd) for block in blocks],
        neurons=[Place(block.mlp.down, "input", block.mlp.down.in_features) for block in blocks],
        words=Place(network.trunk.token_embedding),
        forward=forward,
        width=shape.n_embd,
        vocab_size=shape.vocab_size,
        max_length=shape.block_size,
        causal=True,
        decoder_weight=network.embedding if isinstance(network, GPT2) else None,
        bos_id=None if tokenizer is None else tokenizer.end_of_text,
    )


def _from_folder(
    folder: Path, id: str, revision: str | None, device: str, dtype: str, sha256: str | None = None
) -> Model:
    """`sha256` stands for weights and tokenizer that come from one file, already hashed."""
    from cutaway.nets import huggingface

    module = huggingface.load_module(folder, dtype, hardware.device(device))
    tokenizer = huggingface.tokenizer(folder)
    anatomy = huggingface.anatomy(module, folder)
    reference = ModelReference(
        kind="huggingface",
        id=id,
        revision=revision,
        step=None,
        weights_sha256=sha256 or _sha256_of(huggingface.weight_files(folder)),
        tokenizer_sha256=_tokenizer_sha256(folder, tokenizer, sha256),
        n_layers=len(anatomy.blocks),
        width=anatomy.width,
    )
    return Model(module, anatomy, reference, tokenizer)


def _from_gguf(
    path: Path, device: str, dtype: str, id: str | None = None, revision: str | None = None
) -> Model:
    """Hashes are of the .gguf file, which holds the weights and the tokenizer."""
    found = gguf.converted(path)
    model = _from_folder(found.folder, id or str(path), revision, device, dtype, found.sha256)
    model.reference = replace(model.reference, quantisation=found.quantisation)
    if model.reference.quantisation is not None and found.sha256 not in _told:
        _told.add(found.sha256)
        notice(model.reference.named)  # stands beside all figures that a command prints
    return model


def _tokenizer_sha256(
    folder: Path, tokenizer: Tokenizer | None, known: str | None = None
) -> str | None:
    if tokenizer is None or known is not None:
        return None if tokenizer is None else known
    whole = folder / "tokenizer.json"
    return _sha256_of([whole]) if whole.is_file() else tokenizer.sha256()


def _sha256_of(paths: Sequence[Path]) -> str:
    """Of one file its SHA-256; of several, that of their hexadecimal ones in order."""
    each = []
    for path in paths:
        state = path.stat()
        each.append(_sha256(path, state.st_mtime_ns, state.st_size))
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Read once in a process for each state of the file."""
    return files.sha256(path)


def checkpoint_of(run: Run, wanted: int | str) -> Checkpoint:
    """The weights a user means by `best`, `last` or a step that was kept.

    Where the best or last is damaged the newest intact one is taken, with a notice.
    """
    from cutaway.runs.checkpoint import DamagedCheckpoint

    kept = run.checkpoints.steps()
    if not kept:
        raise UserError(f"{run.path}: no checkpoint was written yet")
    if wanted not in ("best", "last"):
        if wanted not in kept:
            there = ", ".join(map(str, kept))
            raise UserError(f"step = {wanted}: {run.path} keeps checkpoints of steps {there}")
        return run.checkpoints.load(int(wanted), groups=["model"])
    best = run.checkpoints.best() if wanted == "best" else None
    for step in dict.fromkeys([*([] if best is None else [best]), *reversed(kept)]):
        try:
            return run.checkpoints.load(step, groups=["model"])
        except DamagedCheckpoint as error:
            notice(f"{error}; taking another checkpoint")
    raise UserError(f"{run.path}: no checkpoint left intact")
