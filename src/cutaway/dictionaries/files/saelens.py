"""SAELens's form (6.x): `cfg.json` and `sae_weights.safetensors`, written and read.

    theirs: f = σ((x − c)·W_enc + b),  x̂ = f·W_dec + b_dec      W_enc (d, F), W_dec (F, d)

Theirs has no input scale, so ours, s, is folded on export. Features are in raw units on both sides,
f_raw = f_scaled / s, and σ is positively homogeneous: σ(s·z; s·θ) = s·σ(z; θ). Hence

    W_enc, W_dec, r_mag    stay (W_enc transposed)
    b_enc, b_gate, b_mag   / s
    threshold              / s
    b_dec                  / s; `apply_b_dec_to_input` says whether c is b_dec, as ours is centred

so features and reconstructions are equal but for rounding (a pre-activation within rounding of its
threshold may fall on either side of it). topk is written as topk, relu as standard, batch_topk and
matryoshka as jumprelu with one threshold for all features, as SAELens itself saves them.

What is read keeps its decoder rows, of any length, and so its features are those SAELens gives:

    rescale_acts_by_decoder_norm      n·W_enc, n·b_enc, W_dec/n: theirs come times n, the rows' length
    expected_average_only_in          s·W_enc, W_dec/s, b_dec/s: as `fold_activation_norm_scaling_factor`

Reading, writing and reading again gives the same dictionary, bit for bit. What the config says of
the model, the hook and the tokens is `saelens_about`'s.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.base import files, hardware
from cutaway.base.errors import UserError
from cutaway.dictionaries.files import own, saelens_about
from cutaway.dictionaries.model.dictionary import Dictionary

CONFIG, TENSORS = "cfg.json", "sae_weights.safetensors"
SCALER = "activation_scaler.json"  # beside a checkpoint of an unfinished training
_THEIRS = {
    "relu": "standard",
    "topk": "topk",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
}
_OURS = {
    "standard": "relu",
    "topk": "topk",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "batchtopk": "batch_topk",  # checkpoints of a training; finished ones are jumprelu
    "matryoshka_batchtopk": "matryoshka",
}


def recognises(path: Path) -> bool:
    """Whether `sae_weights.safetensors` lies at `path`."""
    if path.is_file():
        return path.name == TENSORS or (path.name == CONFIG and recognises(path.parent))
    return (path / TENSORS).is_file()


# -- writing ---------------------------------------------------------------------------------------


def write(dictionary: Dictionary, folder: Path) -> None:
    """Write what `SAE.load_from_disk` reads: same features and reconstructions of raw states."""
    scale = hardware.widened(dictionary.input_scale)

    def raw(tensor: Tensor) -> Tensor:
        return hardware.widened(tensor.detach()) / scale

    theirs = _THEIRS[dictionary.architecture]
    tensors = {
        "W_enc": dictionary.encoder_weight.detach().T,
        "W_dec": dictionary.decoder_weight.detach(),
        "b_dec": raw(dictionary.decoder_bias),
        "b_gate" if theirs == "gated" else "b_enc": raw(dictionary.encoder_bias),
    }
    if theirs == "gated":
        tensors["b_mag"] = raw(dictionary.magnitude_bias)
        tensors["r_mag"] = dictionary.log_magnitude.detach()
    elif theirs == "jumprelu":
        tensors["threshold"] = raw(dictionary.threshold).expand(dictionary.shape.d_hidden)
    own.write_tensors(folder / TENSORS, tensors)
    files.write_json(folder / CONFIG, _config(dictionary, theirs))


def _config(dictionary: Dictionary, theirs: str) -> dict[str, Any]:
    shape = dictionary.shape
    source = dictionary.metadata.get("source") or {}
    before = (source.get("config") or {}) if source.get("format") == "saelens" else {}
    return {
        "d_in": shape.d_model,
        "d_sae": shape.d_hidden,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtracts_bias,
        "normalize_activations": "none",
        "reshape_activations": before.get("reshape_activations") or _reshaped(dictionary),
        "metadata": saelens_about.written(dictionary),
        "architecture": theirs,
        **({"k": shape.k, "rescale_acts_by_decoder_norm": False} if theirs == "topk" else {}),
    }


# -- reading ---------------------------------------------------------------------------------------


def read(path: Path) -> Dictionary:
    """The dictionary in a folder SAELens saved, of a finished training or one under way.

    Configs of SAELens before 6.0 (top-level `hook_name`, `activation_fn_str`) are understood.
    Raises UserError for architectures ours do not cover (transcoders, temporal, matching pursuit)
    and for states normalised token by token, which no fixed scale can stand for.
    """
    folder = path.parent if path.is_file() else path
    config, place = own.read_json(folder / CONFIG), folder / TENSORS
    _require_types(config, folder / CONFIG)
    theirs = _architecture(config, folder / CONFIG)
    tensors = {name: value.float() for name, value in own.read_tensors(place).items()}
    _drop_leftovers(tensors, place)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    _require(tensors, theirs, config, place)
    if config.get("rescale_acts_by_decoder_norm") and "topk" in theirs:
        length = tensors["W_dec"].norm(dim=1).clamp(min=1e-8)
        tensors["W_enc"] *= length
        tensors["b_enc"] *= length
        tensors["W_dec"] /= length[:, None]
    gated = theirs == "gated"
    foreign = own.Foreign(
        architecture=_OURS[theirs],
        encoder_weight=tensors["W_enc"].T,
        encoder_bias=tensors["b_gate" if gated else "b_enc"],
        decoder_weight=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        centred=bool(config.get("apply_b_dec_to_input", True)),
        k=_k(config, folder / CONFIG) if "topk" in theirs else None,
        groups=_groups(config),
        threshold=tensors.get("threshold", tensors.get("topk_threshold")),
        log_magnitude=tensors.get("r_mag"),
        magnitude_bias=tensors.get("b_mag"),
        input_scale=_input_scale(config, folder),
        bandwidth=saelens_about.bandwidth(config),
    )
    if theirs == "jumprelu":
        _coupled_again(foreign, config)
    return own.from_foreign(foreign, place, saelens_about.read(config, folder))


def _coupled_again(foreign: own.Foreign, config: dict[str, Any]) -> None:
    """Make a BatchTopK or Matryoshka dictionary of ours, which was exported as JumpReLU, one again."""
    was, threshold = saelens_about.coupled(config, *foreign.decoder_weight.shape), foreign.threshold
    if was is not None and threshold is not None and bool((threshold == threshold[0]).all()):
        foreign.architecture, foreign.threshold = was.architecture, threshold[0]
        foreign.k, foreign.groups = was.k, was.groups


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("architecture", "activation_fn", "activation_fn_str"), (str,)),
    **dict.fromkeys(("d_in", "d_sae"), (int,)),
    **dict.fromkeys(("metadata", "activation_fn_kwargs"), (dict,)),
    "normalize_activations": (str, bool),
    "matryoshka_widths": (list,),
}
_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    dict: "an object",
    bool: "true or false",
    list: "a list",
}


def _require_types(config: dict[str, Any], path: Path) -> None:
    """UserError for a setting of another type than any SAELens wrote; null is none."""
    for name, kinds in _TYPES.items():
        value = config.get(name)
        if value is not None and type(value) not in kinds:
            expected = " or ".join(_NAMES[kind] for kind in kinds)
            raise UserError(f"{path}: {name} = {value!r}: expected {expected}")
    saelens_about.require_types(config, path)
    if not all(type(width) is int for width in config.get("matryoshka_widths") or ()):
        widths = config["matryoshka_widths"]
        raise UserError(f"{path}: matryoshka_widths = {widths!r}: expected whole numbers")


def _architecture(config: dict[str, Any], path: Path) -> str:
    theirs = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if theirs == "standard" and activation == "topk":
        theirs = "topk"
    elif theirs == "standard" and activation != "relu":
        raise UserError(f"{path}: activation_fn = {activation!r}: expected relu or topk")
    if theirs not in _OURS:
        raise UserError(f"{path}: architecture = {theirs!r}: expected one of {', '.join(_OURS)}")
    return theirs


def _drop_leftovers(tensors: dict[str, Tensor], path: Path) -> None:
    """Factors that SAELens before 6.0 saved with every dictionary, used or not."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and not (tensors.pop(name) == 1).all():
            raise UserError(f"{path}: {name} is not 1 everywhere: a finetuned factor is not read")


def _require(tensors: dict[str, Tensor], theirs: str, config: dict[str, Any], path: Path) -> None:
    if (shape := tuple(tensors.get("W_dec", torch.empty(0)).shape)) and len(shape) != 2:
        raise UserError(f"{path}: W_dec is {shape}, expected (d_sae, d_in)")
    features, width = shape or (0, 0)
    features, width = config.get("d_sae") or features, config.get("d_in") or width
    expected: dict[str, tuple[int, ...]] = {
        "W_enc": (width, features),
        "W_dec": (features, width),
        "b_dec": (width,),
    }
    biases = ("b_gate", "b_mag", "r_mag") if theirs == "gated" else ("b_enc",)
    if theirs == "jumprelu":
        biases += ("threshold",)
    expected |= dict.fromkeys(biases, (features,))
    if theirs in ("batchtopk", "matryoshka_batchtopk"):
        expected["topk_threshold"] = ()
    own.require_tensors(path, tensors, expected)


def _input_scale(config: dict[str, Any], folder: Path) -> float:
    how = config.get("normalize_activations") or "none"
    if how is True:  # as SAELens wrote it before 4.0
        how = "expected_average_only_in"
    if how == "none":
        return 1.0
    if how != "expected_average_only_in":
        raise UserError(
            f"{folder / CONFIG}: normalize_activations = {how!r}: expected none or "
            "expected_average_only_in: what differs from token to token is no fixed scale"
        )
    if not (folder / SCALER).is_file():
        raise UserError(
            f"{folder / SCALER}: missing: the factor its states were scaled by is not folded into "
            "the weights (normalize_activations = 'expected_average_only_in')"
        )
    scale = own.read_json(folder / SCALER).get("scaling_factor")
    if scale is None:  # folded already
        return 1.0
    if not isinstance(scale, int | float) or not (scale > 0 and math.isfinite(scale)):
        raise UserError(
            f"{folder / SCALER}: scaling_factor = {scale!r}: expected a positive number"
        )
    return float(scale)


def _k(config: dict[str, Any], path: Path) -> int:
    """Theirs may be a fraction for batches: the nearest whole number, since inference has none."""
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if type(k) not in (int, float) or not (math.isfinite(k) and k >= 1):
        raise UserError(f"{path}: k = {k!r}: expected a number from 1")
    return round(k)


def _groups(config: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(width) for width in config.get("matryoshka_widths") or ())


def _reshaped(dictionary: Dictionary) -> str:
    """What SAELens does to what it captures: it gets the states of heads apart."""
    return "hook_z" if str(dictionary.metadata.get("site")).startswith("heads.") else "none"
