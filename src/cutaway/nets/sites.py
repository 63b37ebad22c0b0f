"""Names for the places in a transformer where a state of (batch, T, d) can be read and changed.

    words          the embeddings of the tokens, before positions are added (layer -1)
    embed          what enters block 0: embeddings with positions added (layer -1)
    heads.ℓ        what block ℓ's heads give, side by side, before their output projection
    attention.ℓ    what block ℓ's attention adds to the stream
    middle.ℓ       the stream between attention and MLP: residual.ℓ−1 + attention.ℓ
    neurons.ℓ      the MLP's neurons after the activation, before their output projection
    mlp.ℓ          what its MLP adds: residual.ℓ = residual.ℓ−1 + attention.ℓ + mlp.ℓ
    residual.ℓ     the residual stream after block ℓ, counted from 0

The sums hold where norms stand before attention and MLP. A model like BERT normalises each sum:
there `attention` and `mlp` are what is added before that. A model that scales what it adds outside of
any module (Granite) has no such sites. `heads` and `neurons` have widths of their own; the others are
as wide as the model.

TransformerLens's names mean: hook_embed words, hook_resid_pre the residual one block before,
attn.hook_z heads, hook_attn_out attention, hook_resid_mid middle, mlp.hook_post neurons,
hook_mlp_out mlp, hook_resid_post residual.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import total_ordering
from numbers import Integral
from typing import Literal, TypeAlias, get_args

from cutaway.base.doors import door
from cutaway.base.errors import UserError, shortened, whole_in

Kind: TypeAlias = Literal[
    "words", "embed", "heads", "attention", "middle", "neurons", "mlp", "residual"
]
_KINDS: tuple[str, ...] = get_args(Kind)  # in the order in which a forward pass meets them
_ACCEPTED = (
    "a layer (6; -1 is embed), embed, residual.6, attention.6, mlp.6, middle.6, heads.6, "
    "neurons.6, words, or TransformerLens's blocks.6.hook_resid_post, hook_resid_pre, "
    "hook_resid_mid, hook_attn_out, hook_mlp_out, attn.hook_z, mlp.hook_post, hook_embed"
)
_FIRST = ("words", "embed")  # the kinds before any layer
_OWN = re.compile(r"(residual|attention|mlp|middle|heads|neurons)\.([0-9]{1,18})")
_THEIRS: dict[str, Kind] = {
    "attn.hook_z": "heads",
    "hook_attn_out": "attention",
    "hook_resid_mid": "middle",
    "mlp.hook_post": "neurons",
    "hook_mlp_out": "mlp",
    "hook_resid_post": "residual",
}
_HOOKS = {kind: name for name, kind in _THEIRS.items()}
_TRANSFORMER_LENS = re.compile(
    rf"blocks\.([0-9]{{1,18}})\.({'|'.join(map(re.escape, [*_THEIRS, 'hook_resid_pre']))})"
)


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place; `str(site)` is its name on disk. Sites order as a forward pass meets them."""

    kind: Kind
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or (self.layer < 0) != (self.kind in _FIRST):
            raise UserError(f"site = {self.kind!r}, layer {self.layer}: expected {_ACCEPTED}")

    def __str__(self) -> str:
        return self.kind if self.kind in _FIRST else f"{self.kind}.{self.layer}"

    def __lt__(self, other: Site) -> bool:
        return self.order < other.order

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites as a forward pass meets them."""
        return (self.layer, _KINDS.index(self.kind))


EMBED = Site("embed", -1)
WORDS = Site("words", -1)


def residual(layer: int) -> Site:
    """The residual stream after block `layer`; -1 is what enters block 0."""
    return EMBED if layer == -1 else Site("residual", layer)


def hook_name(site: Site) -> str:
    """TransformerLens's name of a site; `blocks.0.hook_resid_pre` for `embed`."""
    if site.kind in _FIRST:
        return "hook_embed" if site.kind == "words" else "blocks.0.hook_resid_pre"
    return f"blocks.{site.layer}.{_HOOKS[site.kind]}"


@door
def parse_site(site: str | int | Site, n_layers: int | None = None) -> Site:
    """The site of a name or a layer's number, checked against the number of layers where given.

    `blocks.6.hook_resid_pre` is `residual.5`, and `hook_embed` is `words`. Raises UserError for any
    other name and for a layer the model lacks.
    """
    found = site if isinstance(site, Site) else _read(site)
    if n_layers is not None and found.layer >= n_layers:
        raise UserError(
            f"layer = {str(site)!r}: the model has layers 0 to {n_layers - 1} (and -1, embed)"
        )
    return found


def parse_sites(sites: str | int | Site | Sequence[str | int | Site], n_layers: int) -> list[Site]:
    """The sites of `all` (the residual stream after every block), `0,6,11`, `mlp.0,embed` or a list.

    In the order given, each once. Raises UserError as `parse_site` does, and where none is named.
    """
    if isinstance(sites, str) and sites == "all":
        return [Site("residual", layer) for layer in range(n_layers)]
    if isinstance(sites, str):
        named: Sequence[str | int | Site] = [part for part in sites.split(",") if part.strip()]
    else:
        named = [sites] if isinstance(sites, Integral | Site) else list(sites)
    if not named:
        raise UserError(f"layers = {sites!r}: names no site; expected all, or {_ACCEPTED}")
    return list(dict.fromkeys(parse_site(site, n_layers) for site in named))


def _read(text: str | int) -> Site:
    name = str(text).strip()
    if name in ("embed", "-1"):
        return EMBED
    if name in ("words", "hook_embed"):
        return WORDS
    if (number := whole_in(name)) is not None:
        return Site("residual", number)
    if match := _OWN.fullmatch(name):
        return Site(match[1], int(match[2]))  # type: ignore[arg-type]
    if match := _TRANSFORMER_LENS.fullmatch(name):
        layer = int(match[1])
        if match[2] == "hook_resid_pre":
            return residual(layer - 1)
        return Site(_THEIRS[match[2]], layer)
    raise UserError(f"layer = {shortened(repr(str(text)))}: expected {_ACCEPTED}")
