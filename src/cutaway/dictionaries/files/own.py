"""A dictionary's own files, and the one door through which any form is read.

    dictionary.safetensors   `state_dict()`: float32, scaled units, `input_scale` among them
    dictionary.json          format 1: architecture, shape, reference, site, positions, dtype, and
                             the SHA-256 of the tensors

A training run's folder is read too: its record holds what `dictionary.json` says, its checkpoints
the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.base import files, hardware
from cutaway.base.display import notice
from cutaway.base.errors import UserError, whole_in
from cutaway.base.files import as_path
from cutaway.dictionaries import origin
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.files import formats_of, module_of
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.runs import checksums

if TYPE_CHECKING:
    from cutaway.nets.sites import Site

FORMAT = 1
_LARGEST = 2**31  # features or dimensions, which nothing has
TENSORS, DESCRIPTION, RUN = "dictionary.safetensors", "dictionary.json", "run.json"
STUDY = "dictionary"
_ABOUT = ("reference", "site", "positions", "dtype")


def save(dictionary: Dictionary, folder: str | Path) -> None:
    """Write `dictionary.safetensors` and `dictionary.json`, each replaced in one step.

    What `dictionary.metadata` says besides the shape is written as it is; what it does not say
    about the model, the site, the positions and the dtype is null. UserError where the folder
    cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = {one.name for one in folder.iterdir()} - {TENSORS, DESCRIPTION}
        write(dictionary, folder)
        if not others or checksums.FILE in others:
            checksums.finish(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot write: {error.strerror or error}") from None


def write(dictionary: Dictionary, folder: Path) -> None:
    """`save` into a folder that is there."""
    write_tensors(folder / TENSORS, dictionary.state_dict())
    content = describe(dictionary, dictionary.metadata)
    content["tensors_sha256"] = files.sha256(folder / TENSORS)
    files.write_json(folder / DESCRIPTION, content)


def load(
    path: str | Path,
    *,
    step: int | str = "best",
    device: str = "auto",
    site: str | int | Site | None = None,
) -> Dictionary:
    """The dictionary at `path`, in eval mode, without gradients on its weights.

    `path` is a saved folder, a training run's folder (or its name under `runs/`), or what another
    library saved (`formats`). `step` is for runs: `best`, `last` or one that was kept. What is
    known of its origin is in `metadata`, where `site` is put if it does not say. Raises UserError
    with one line: nothing there, a newer format, an unknown architecture, tensors of other shapes,
    damage, a pickle, a `site` that is not the one it says.
    """
    path = as_path(path)
    if not path.exists() and (named := Path("runs") / path).is_dir():
        path = named
    format = formats_of(path)
    if format != "cutaway":
        found = module_of(format).read(path)
    elif path.is_dir() and not {TENSORS, DESCRIPTION} & {file.name for file in path.iterdir()}:
        found = _of_run(path, step)
    else:
        found = read(path)
    if site is not None:
        _place(found, site, path)
    return found.to(hardware.device(device)).eval().requires_grad_(False)


def _place(dictionary: Dictionary, site: str | int | Site, path: Path) -> None:
    """Put the site into the metadata; UserError where these say another, or none is."""
    from cutaway.nets.sites import parse_site

    asked, known = parse_site(site), dictionary.metadata.get("site")
    if dictionary.metadata.get("synthetic") is not None:
        raise UserError(f"site = {str(site)!r}: {path} was trained on synthetic states, of no site")
    if known is not None and parse_site(known) != asked:
        raise UserError(f"site = {str(site)!r}: {path} says it was trained at {known}")
    if (hook := origin.hook(dictionary)) is not None:
        notice(
            f"site = {str(site)!r}: {path} says it was trained at {hook}, which is no site we read; "
            "unless they are the same place, what follows means nothing"
        )
    dictionary.metadata["site"] = str(asked)


def recognises(path: Path) -> bool:
    """Whether a saved dictionary or a run lies at `path`."""
    if path.is_file():
        return path.name in (TENSORS, DESCRIPTION)
    return any((path / name).is_file() for name in (TENSORS, DESCRIPTION, RUN))


def read(path: Path) -> Dictionary:
    """The dictionary saved in a folder; `load` without device and without runs."""
    folder = path.parent if path.is_file() else path
    content = read_json(folder / DESCRIPTION)
    form = content.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise UserError(
            f"{folder / DESCRIPTION}: format {form} is newer than this cutaway reads ({FORMAT}); "
            "update it"
        )
    if form != FORMAT:
        raise UserError(f"{folder / DESCRIPTION}: format = {form!r}: expected {FORMAT}")
    shape = _shape(content.get("shape"), folder / DESCRIPTION)
    dictionary = _filled(shape, read_tensors(folder / TENSORS), folder / TENSORS)
    recorded = content.pop("tensors_sha256", None)
    if recorded is not None and recorded != files.sha256(folder / TENSORS):
        raise UserError(f"{folder / TENSORS}: damaged, its content differs from its checksum")
    dictionary.metadata = content
    return dictionary


def describe(dictionary: Dictionary, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `dictionary.json` holds: format, architecture and shape, and what is known besides."""
    known = {name: about.get(name) for name in _ABOUT}
    shape = {"architecture": dictionary.architecture, "shape": dictionary.describe()}
    return {**about, "format": FORMAT, **shape, **known}


# -- from tensors to a dictionary ------------------------------------------------------------------


@dataclass
class Foreign:
    """A dictionary's tensors as another library means them, each turned to our orientation.

        f = σ(W_enc·(s·x − c) + b_enc),   x̂ = (f·W_dec + b_dec) / s

    `centred`: c is b_dec, otherwise zero. `threshold` is (F,) or (), `input_scale` s. Rows of
    W_dec (F, d) may have any length.
    """

    architecture: str
    encoder_weight: Tensor  # (F, d)
    encoder_bias: Tensor
    decoder_weight: Tensor  # (F, d)
    decoder_bias: Tensor
    centred: bool
    k: int | None = None
    groups: tuple[int, ...] = ()
    threshold: Tensor | None = None
    log_magnitude: Tensor | None = None
    magnitude_bias: Tensor | None = None
    input_scale: float = 1.0
    bandwidth: float = DictionaryShape.bandwidth

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), Tensor):
                setattr(self, field.name, value.float())


def from_foreign(foreign: Foreign, path: Path, about: Mapping[str, Any]) -> Dictionary:
    """The same features, number for number, and the same reconstructions.

    Tensors stay as they are: decoder rows keep their lengths, so that features are in the units of
    the library they come from, and what is written again is what was read. A scale of the states
    is folded into the weights, s·W_enc, W_dec / s, b_dec / s, which leaves features as they are.
    Whether the encoder subtracts b_dec is kept where our architecture does otherwise.
    `metadata["units"]` names the library.
    """
    scale, architecture = foreign.input_scale, foreign.architecture
    tensors = {
        "encoder_weight": foreign.encoder_weight * scale,
        "encoder_bias": foreign.encoder_bias,
        "decoder_weight": foreign.decoder_weight / scale,
        "decoder_bias": foreign.decoder_bias / scale,
        "input_scale": torch.ones(()),
    }
    if architecture in ("batch_topk", "matryoshka"):
        tensors["batches_seen"] = torch.ones(())
    for name in ("threshold", "log_magnitude", "magnitude_bias"):
        if (tensor := getattr(foreign, name)) is not None:
            tensors[name] = tensor
    features, width = foreign.encoder_weight.shape
    usual = ARCHITECTURES[architecture].subtracts_bias
    shape = DictionaryShape(
        architecture,
        width,
        features,
        k=foreign.k,
        bandwidth=foreign.bandwidth,
        groups=foreign.groups,
        centred=None if foreign.centred == usual else foreign.centred,
    )
    dictionary = _filled(shape, tensors, path)
    units = {"units": about["source"]["format"]} if about.get("source") else {}
    dictionary.metadata = describe(dictionary, {**about, **units})
    return dictionary


def _filled(shape: DictionaryShape, tensors: Mapping[str, Tensor], path: Path) -> Dictionary:
    """A dictionary of this shape with these tensors, whose names and shapes are checked first."""
    if shape.k is not None and shape.k > shape.d_hidden:
        raise UserError(f"{path}: k = {shape.k}: expected at most {shape.d_hidden}, its features")
    with torch.device("meta"):  # random weights would be thrown away at once
        dictionary = build(shape)
    expected = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
    require_tensors(path, tensors, expected)
    state = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    dictionary.load_state_dict(state, assign=True)
    return dictionary


def _shape(content: Any, path: Path) -> DictionaryShape:
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: shape = {content!r}: expected an object")
    known = {field.name for field in fields(DictionaryShape)}
    given = {name: value for name, value in content.items() if name in known}
    architecture = given.get("architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise UserError(
            f"{path}: architecture = {architecture!r}: expected one of {', '.join(ARCHITECTURES)}"
        )
    for name in ("d_model", "d_hidden", *(["k"] if given.get("k") is not None else [])):
        if type(value := given.get(name)) is not int or not 1 <= value < _LARGEST:
            raise UserError(f"{path}: damaged: {name} = {value!r}: expected a whole number from 1")
    bandwidth = given.get("bandwidth", 1.0)
    if type(bandwidth) not in (int, float) or not 0 < bandwidth < math.inf:
        raise UserError(f"{path}: damaged: bandwidth = {bandwidth!r}: expected a number above 0")
    if architecture == "topk" and given.get("k") is None:
        raise UserError(f"{path}: damaged: k = None: a topk dictionary needs it")
    groups = given.get("groups") or ()
    if not isinstance(groups, list | tuple) or any(type(one) is not int for one in groups):
        raise UserError(f"{path}: damaged: groups = {groups!r}: expected whole numbers")
    if given.get("centred") not in (None, True, False):
        raise UserError(f"{path}: damaged: centred = {given['centred']!r}: expected true or false")
    given["groups"] = tuple(groups)
    return DictionaryShape(**given)


# -- from a run ------------------------------------------------------------------------------------


def _of_run(path: Path, step: int | str) -> Dictionary:
    from cutaway.nets.reference import checkpoint_of
    from cutaway.runs.folder import Run

    run = Run.open(path)
    about = run.record.resolved.get("dictionary")
    if run.record.study != STUDY:
        raise UserError(f"{path}: a run of study {run.record.study!r}, which trains no dictionary")
    if not isinstance(about, dict):
        raise UserError(f"{path / RUN}: names no dictionary (resolved.dictionary = {about!r})")
    shape = _shape(about.get("shape"), path / RUN)
    number = whole_in(str(step))
    checkpoint = checkpoint_of(run, step if number is None else number)
    place = checkpoint.path / "model.safetensors"
    dictionary = _filled(shape, checkpoint.tensors["model"], place)
    origin = {"run": str(run.path), "step": checkpoint.step}
    dictionary.metadata = describe(dictionary, {**about, **origin})
    return dictionary


# -- files -----------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where it is missing or damaged."""
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged, not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: expected a JSON object, got {type(content).__name__}")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; UserError where it is missing or damaged."""
    from safetensors import SafetensorError

    try:
        return files.load_tensors(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged, not safetensors: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a safetensors file in one step, float32."""
    plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    with files.replacing(path) as temporary:
        files.save_tensors(plain, temporary)


def require_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    ignored: Collection[str] = (),
) -> None:
    """UserError unless the tensors are those expected, of these shapes, and finite."""
    if missing := [name for name in expected if name not in tensors]:
        raise UserError(f"{path}: holds no tensor {missing[0]}; expected {', '.join(expected)}")
    if extra := sorted(set(tensors) - set(expected) - set(ignored)):
        raise UserError(f"{path}: unknown tensor {extra[0]}; expected {', '.join(expected)}")
    for name, shape in expected.items():
        if (found := tuple(tensors[name].shape)) != shape:
            raise UserError(f"{path}: {name} is {found}, expected {shape}")
        if not tensors[name].isfinite().all():
            raise UserError(f"{path}: {name} holds values that are not finite")
