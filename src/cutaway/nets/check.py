"""What a model can be asked, found by reading a few tokens twice rather than by what it says of itself.

Flags of a configuration lie: encoders are saved under classes that count as causal, language models
without their head. Two short forward passes tell whether later tokens change earlier states, whether
there are logits, and whether the parts of a block add up to the next residual state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.nets.model_reference import ModelReference
from cutaway.nets.sites import EMBED, Site, residual

_TOKENS, _CHANGED = 12, 4  # of a pass, and how many of its last tokens are others the second time
# Share of a state's norm that may move. Products of equal shapes give equal rows, so that nothing moves
# at all in a causal model, unless other tokens are routed to other experts: then shapes differ, and
# rounding with them. Encoders move by a hundredth and more, those of fresh weights included.
_NOTHING = 1e-6
_OF_EXPERTS = {torch.float32: 1e-5, torch.float64: 1e-9}
_OF_EXPERTS_IN_16_BITS = 2e-2
_SUM = {torch.float32: 1e-3, torch.float64: 1e-6}
_SUM_OF_16_BITS = 3e-2

NEXT_TOKEN = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_recovered")
OF_LOGITS = ("kl", "kl_zero", "kl_recovered")


@dataclass(frozen=True)
class Abilities:
    """What a model can be asked.

    `causal`: whether a position sees only those before it. `head`: whether it gives logits.
    `adds_up`: whether residual + attention + MLP is the next residual in every block that has both
    (False of post-norm encoders, for instance; None where no block has both). `name`: the model's,
    for messages.
    """

    causal: bool
    head: bool
    adds_up: bool | None
    name: str

    @property
    def predicts(self) -> bool:
        """Whether it says which token comes next."""
        return self.causal and self.head

    @property
    def why_not(self) -> str | None:
        """Why it predicts no next token; None where it does."""
        if not self.head:
            return f"{self.name} was saved without a vocabulary head"
        if not self.causal:
            return f"{self.name} is an encoder, which predicts no next token"
        return None

    def left_out(self) -> dict[str, str]:
        """Figures of a dictionary's evaluation that this model cannot give, each with the reason."""
        if self.predicts:
            return {}
        why = str(self.why_not)
        return dict.fromkeys(NEXT_TOKEN if self.head else (*NEXT_TOKEN, *OF_LOGITS), why)

    def told(self) -> str | None:
        """One line on what dictionaries of this model go without; None where it is nothing."""
        if self.predicts:
            return None
        figures = "CE recovered" if self.head else "CE recovered, KL"
        return (
            f"{self.why_not}: {figures}, promoted tokens and effects on the next token are left out; "
            "the rest is done"
        )

    def told_of_sums(self) -> str | None:
        """One line where attention and MLP do not add up to the next residual state, else None."""
        if self.adds_up is not False:
            return None
        return (
            f"{self.name} normalises its sums: attention and mlp are what is added before that, and "
            "residual + attention + mlp is not the next residual"
        )


class Network(Protocol):
    """What is asked of a model here (`nets.model.Model` has it)."""

    module: nn.Module
    reference: ModelReference
    n_layers: int
    vocab_size: int
    max_length: int | None

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def abilities(self) -> Abilities: ...
    def module_at(self, site: Site) -> nn.Module: ...
    def hook(self, site: Site, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle: ...
    def logits(self, tokens: Tensor) -> Tensor: ...


def abilities_of(model: Network) -> Abilities:
    """Read a few tokens twice and compare; of networks trained here it is known.

    Raises UserError where the model cannot read them at all.
    """
    name = model.reference.id
    if model.reference.kind == "run":
        return Abilities(causal=True, head=True, adds_up=True, name=name)
    tokens = _tokens(model)
    other = tokens.clone()
    other[:, -_CHANGED:] = _others(tokens[:, -_CHANGED:], model.vocab_size)
    first, head = _states(model, tokens)
    second, _ = _states(model, other)
    earlier = slice(0, tokens.shape[1] - _CHANGED)
    moved = max(_share(first[site][:, earlier], second[site][:, earlier]) for site in first)
    return Abilities(
        causal=moved <= _allowed(model),
        head=head,
        adds_up=_adds_up(model, first),
        name=name,
    )


def tell(model: Network, sites: Sequence[Site] = ()) -> None:
    """Say once of a model what dictionaries of it go without, and of `sites` what does not add up."""
    lines = [model.abilities.told()]
    if any(site.kind in ("attention", "mlp") for site in sites):
        lines.append(model.abilities.told_of_sums())
    said = model.__dict__.setdefault("_limits_told", set())
    for line in lines:
        if line is not None and line not in said:
            said.add(line)
            notice(line)


# -- inside ----------------------------------------------------------------------------------------


def _tokens(model: Network) -> Tensor:
    """Tokens (1, T) spread over the vocabulary; none of the first few ids, where padding is."""
    count = min(_TOKENS, model.max_length or _TOKENS)
    count = max(count, _CHANGED + 1)
    first = min(model.vocab_size // 2, 8)
    spread = torch.arange(count) * 7919 % max(1, model.vocab_size - first)
    return (first + spread)[None]


def _others(tokens: Tensor, vocab_size: int) -> Tensor:
    """Other ids of the same range, none of which is the one in its place."""
    first = min(vocab_size // 2, 8)
    room = max(1, vocab_size - first)
    return first + (tokens - first + 1 + room // 3) % room


def _states(model: Network, tokens: Tensor) -> tuple[dict[Site, Tensor], bool]:
    """Every site's states, and whether the pass ended in logits."""
    states: dict[Site, Tensor] = {}
    handles = []

    def keeper(site: Site) -> Callable[[Tensor], None]:
        # a copy, since some architectures add into the tensor they gave; on the CPU, as float64 is
        # not to be had on every device
        return lambda state: states.__setitem__(site, state.detach().to("cpu", copy=True))

    try:
        for site in _sites(model):
            handles.append(model.hook(site, keeper(site)))
        with torch.no_grad():
            try:
                model.logits(tokens)
                head = True
            except UserError:
                if residual(model.n_layers - 1) not in states:
                    raise
                head = False
        if residual(model.n_layers - 1) not in states:
            raise UserError(f"{model.reference.id}: its forward pass does not run its last block")
    except UserError:
        raise
    except Exception as error:  # whatever a library's forward pass raises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{model.reference.id}: cannot read {tokens.shape[1]} tokens: {reason}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    return states, head


def _sites(model: Network) -> list[Site]:
    found = [EMBED]
    for layer in range(model.n_layers):
        for kind in ("attention", "mlp", "residual"):
            try:
                model.module_at(Site(kind, layer))
            except UserError:
                continue
            found.append(Site(kind, layer))
    return found


def _allowed(model: Network) -> float:
    """How far earlier states of a causal model may move."""
    experts = any("expert" in name for name, _ in model.module.named_modules())
    return _OF_EXPERTS.get(model.dtype, _OF_EXPERTS_IN_16_BITS) if experts else _NOTHING


def _share(one: Tensor, other: Tensor) -> float:
    """The largest ‖one − other‖ / ‖one‖ of any position, so that none with a large norm (an attention
    sink) hides the others; states that are not finite are left out."""
    one, other = one.double(), other.double()
    sound = one.isfinite() & other.isfinite()
    one, other = one.where(sound, 0.0), other.where(sound, 0.0)
    return float(((one - other).norm(dim=-1) / one.norm(dim=-1).clamp(min=1e-30)).max())


def _adds_up(model: Network, states: Mapping[Site, Tensor]) -> bool | None:
    limit = _SUM.get(model.dtype, _SUM_OF_16_BITS)
    before, found = states.get(EMBED), None
    for layer in range(model.n_layers):
        after = states[residual(layer)]
        parts = [states.get(Site(kind, layer)) for kind in ("attention", "mlp")]
        whole = all(one is not None and one.shape == after.shape for one in (before, *parts))
        if whole:
            total = sum(one.double() for one in (before, *parts))
            if _share(after, total) > limit:
                return False
            found = True
        before = after
    return found
