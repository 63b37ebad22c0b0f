"""What the manifest of a store must say, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.base import files

SHARDS = "shards"

_TYPES: dict[str, type] = {
    "reference": dict,
    "sites": list,
    "width": int,
    "data": dict,
    "contexts": int,
    "complete": bool,
    "shards": list,
}
_OF_DATA: dict[str, type] = {"source": str, "fingerprint": str, "context_length": int}
_OF_SHARD: dict[str, type] = {
    "file": str,
    "bytes": int,
    "sha256": str,
    "rows": int,
    "rows_left_out": int,
    "contexts": list,
    "statistics": dict,
}
_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    int: "a whole number",
    str: "text",
    bool: "true or false",
}


def wrong(content: dict[str, Any]) -> str | None:
    """The first key of a manifest that is not what it should be; None where all are."""
    found = _mistyped(content, _TYPES, "")
    found = found or _mistyped(content["data"], _OF_DATA, "data.")
    if not found and not all(isinstance(site, str) for site in content["sites"]):
        return f"sites = {content['sites']!r}: expected names"
    for number, shard in enumerate([] if found else content["shards"]):
        name = f"shards[{number}]"
        if not isinstance(shard, dict):
            return f"{name} = {shard!r}: expected an object"
        found = found or _mistyped(shard, _OF_SHARD, f"{name}.")
        if not found and not files.is_plain(shard["file"]):
            return f"{name}.file = {shard['file']!r}: expected the name of a file in {SHARDS}/"
        for site in () if found else content["sites"]:
            of_site = shard["statistics"].get(site)
            if not isinstance(of_site, dict) or not {"rest", "first"} <= of_site.keys():
                return f"{name}.statistics.{site}: missing, or without sums"
    return found


def _mistyped(content: dict[str, Any], types: Mapping[Any, type], where: str) -> str | None:
    for name, kind in types.items():
        value = content.get(name)
        if type(value) is not kind:
            shown = repr(value) if name in content else "missing"
            return f"{where}{name} = {shown[:60]}: expected {_NAMES[kind]}"
    return None
