"""What SAELens's `cfg.json` says of the model, the hook and the tokens: read, and written back.

    model_name        → source.model       compared with the model that is used (a notice)
    hook_name         → site               checked against the model; hooks we do not capture are kept
    prepend_bos       → bos                whether contexts begin with the model's BOS token
    context_size      → context_length     tokens of a context
    seqpos_slice      → positions          a start from 1 on leaves position 0 out
    dataset_path      → source.dataset
    hook_name         → source.hook        as it was written

They stand in `metadata` from SAELens 6.0 on, beside the sizes before. What else is there is kept in
`source.config`, and an export writes all of it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.nets.sites import hook_name, parse_site
from cutaway.text.reading import Reading

FORM = "6.0.0"  # the first SAELens whose cfg.json has this form
# what SAELens counts as metadata where it stands beside the sizes, as before 6.0
_KEYS = (
    *("model_name", "hook_name", "model_class_name", "hook_head_index"),
    *("model_from_pretrained_kwargs", "prepend_bos", "exclude_special_tokens", "neuronpedia_id"),
    *("context_size", "seqpos_slice", "dataset_path", "hf_hook_name"),
)
_OLD_NAMES = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("model_name", "hook_name", "hook_point"), ((str,), "text")),
    "prepend_bos": ((bool,), "true or false"),
    "context_size": ((int,), "a whole number"),
    "seqpos_slice": ((list,), "a list"),
    "cutaway": ((dict,), "an object"),
}


def require_types(config: Mapping[str, Any], path: Path) -> None:
    """UserError for metadata of another type than any SAELens wrote; null is none."""
    for prefix, content in (("", config), ("metadata.", config.get("metadata") or {})):
        for name, (kinds, expected) in _TYPES.items():
            value = content.get(name)
            if value is not None and type(value) not in kinds:
                raise UserError(f"{path}: {prefix}{name} = {value!r}: expected {expected}")
        span = content.get("seqpos_slice") or []
        if len(span) > 3 or not all(one is None or type(one) is int for one in span):
            raise UserError(
                f"{path}: {prefix}seqpos_slice = {span!r}: expected [start, stop, step]"
            )


def read(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The metadata of our dictionary; what we exported ourselves comes back whole."""
    theirs = _metadata(config)
    ours = theirs.get("cutaway") or {}
    about = {name: ours.get(name) for name in ("reference", "site", "positions")}
    if ours.get("reading") is not None:
        about["reading"] = Reading.from_json(ours["reading"]).to_json()
    hook = theirs.get("hook_name")
    if about["site"] is None and hook is not None:
        try:
            about["site"] = str(parse_site(hook))
        except UserError:  # a place we do not capture, such as hook_q: its name is in the config
            about["site"] = None
    if about["positions"] is None and _begins_late(theirs):
        about["positions"] = "without 0"
    bos, size = theirs.get("prepend_bos"), theirs.get("context_size")
    if bos is None and _before_6(config) and hook is not None:
        bos = True  # what it meant there where it was not written
    if bos is not None:
        about["bos"] = bos
    if size is not None and size > 0:
        about["context_length"] = size
    source = {"format": "saelens", "path": str(folder), "model": theirs.get("model_name")}
    if hook is not None:
        source["hook"] = hook
    if theirs.get("dataset_path") is not None:
        source["dataset"] = theirs["dataset_path"]
    return {**about, "source": {**source, "config": dict(config)}}


def coupled(config: Mapping[str, Any], features: int, width: int) -> DictionaryShape | None:
    """The shape of a BatchTopK or Matryoshka dictionary of ours that was exported as JumpReLU."""
    ours = (_metadata(config).get("cutaway") or {}).get("shape")
    if not isinstance(ours, dict) or ours.get("architecture") not in ("batch_topk", "matryoshka"):
        return None
    k, groups = ours.get("k"), ours.get("groups") or ()
    whole = all(type(one) is int for one in (k, *groups))
    if not whole or (ours.get("d_hidden"), ours.get("d_model")) != (features, width):
        return None
    return DictionaryShape(ours["architecture"], width, features, k=k, groups=tuple(groups))


def bandwidth(config: Mapping[str, Any]) -> float:
    """ε of a JumpReLU dictionary we exported, else the usual one: it matters in training only."""
    found = (_metadata(config).get("cutaway") or {}).get("shape")
    value = found.get("bandwidth") if isinstance(found, dict) else None
    return value if isinstance(value, float) and value > 0 else DictionaryShape.bandwidth


def written(dictionary: Dictionary) -> dict[str, Any]:
    """The `metadata` of an export: what the file we read had, and what we know."""
    about = dictionary.metadata
    reference, site = about.get("reference") or {}, about.get("site")
    source = about.get("source") or {}
    config = source.get("config") if source.get("format") == "saelens" else None
    found = _metadata(config or {})
    found["model_name"] = reference.get("id") or found.get("model_name") or source.get("model")
    found["hook_name"] = _hook_of(site, found.get("hook_name"))
    if about.get("bos") is not None:
        found["prepend_bos"] = about["bos"]
    if about.get("context_length") is not None:
        found["context_size"] = about["context_length"]
    if about.get("positions") == "without 0" and not _begins_late(found):
        found["seqpos_slice"] = [1, None]
    known = {name: about.get(name) for name in ("reference", "site", "positions")}
    if about.get("reading") is not None:
        known["reading"] = about["reading"]
    shape = {"architecture": dictionary.architecture, "shape": dictionary.describe()}
    versions = {"sae_lens_version": FORM, "sae_lens_training_version": None}
    if config is not None and not _before_6(config):
        versions = {name: found.get(name, value) for name, value in versions.items()}
    return {**found, **versions, "cutaway": known | shape}


# -- inside ----------------------------------------------------------------------------------------


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata`, or before 6.0 its keys beside the sizes; a copy."""
    named = {_OLD_NAMES.get(name, name): value for name, value in config.items()}
    beside = {name: named[name] for name in _KEYS if named.get(name) is not None}
    inside = config.get("metadata") or {}
    return beside | {_OLD_NAMES.get(name, name): value for name, value in inside.items()}


def _before_6(config: Mapping[str, Any]) -> bool:
    version = _metadata(config).get("sae_lens_version", config.get("sae_lens_version"))
    return version is None or str(version).split(".")[0] in ("0", "1", "2", "3", "4", "5")


def _begins_late(metadata: Mapping[str, Any]) -> bool:
    start = (metadata.get("seqpos_slice") or [None])[0]
    special = metadata.get("exclude_special_tokens")
    return bool(start) or bool(special is True and metadata.get("prepend_bos"))


def _hook_of(site: str | None, hook: str | None) -> str | None:
    """The hook the file had where it means our site, or one that we have no name for."""
    if site is None:
        return hook
    try:
        if hook is not None and parse_site(hook) == parse_site(site):
            return hook
    except UserError:
        pass
    return hook_name(parse_site(site))
