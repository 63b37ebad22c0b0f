"""Whether the places found by name hold what their sites promise, by one pass of three tokens.

    attention.ℓ   something in block ℓ is given residual.ℓ−1 + attention.ℓ, or residual.ℓ is the sum
                  of these and mlp.ℓ (attention and MLP side by side)
    mlp.ℓ         residual.ℓ, or what goes into a norm of block ℓ, is a sum of which mlp.ℓ is a term
    middle.ℓ      the first that a module after attention is given for which
                  middle.ℓ = residual.ℓ−1 + attention.ℓ and residual.ℓ = middle.ℓ + mlp.ℓ
    decoder       logits = cap · tanh(scale · (W x + bias) / cap) for what the head is given

Sums are compared entry by entry, to rounding. A place that fails is left out with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cutaway.nets.anatomy import Place
from cutaway.nets.layouts import Head, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KINDS = ("attention", "mlp", "heads", "neurons")
_NO_SUM = (
    "{name} has no module whose output is what {kind} adds to the residual stream as it is (it is "
    "scaled, gated or added to outside of any module)"
)
_NO_MIDDLE = (
    "{name} has no state between attention and MLP that is their sum so far (both read the same "
    "stream, or each sum is normalised)"
)


def checked(module: PreTrainedModel, found: Layout) -> Layout:
    """The same without the places whose states are not those that their sites promise.

    A model that does not read plain token ids is left as it is: its own error says so when it runs.
    """
    try:
        seen = _one_pass(module, found)
        head = found.head if _reproduces(seen, found.head) else Head()
    except Exception:  # whatever a library's forward pass raises
        return replace(found, head=Head())
    name, size = type(module).__name__, seen.stream[0].shape
    kept = {
        kind: [
            _fitting(place, seen.states.get((kind, layer)), size)
            for layer, place in enumerate(getattr(found, kind))
        ]
        for kind in _KINDS
    }
    kept["middle"] = [None] * len(found.blocks)
    reasons: dict[str, str] = {}
    for layer in range(len(found.blocks)):
        there = {kind: kept[kind][layer] is not None for kind in _KINDS}
        block = _Block(found.blocks[layer], seen, layer, there)
        if not block.finite:  # damaged weights tell nothing
            continue
        for kind, adds in (("attention", block.adds_attention()), ("mlp", block.adds_mlp())):
            if there[kind] and not adds:
                kept[kind][layer] = None
                reasons.setdefault(kind, _NO_SUM.format(name=name, kind=kind))
        kept["middle"][layer] = block.middle()
        if kept["middle"][layer] is None:
            reasons.setdefault("middle", _NO_MIDDLE.format(name=name))
    return replace(
        found,
        **kept,
        words=found.words if _apart(seen.words, seen.stream[0]) else None,
        head=head,
        reasons=reasons,
    )


# -- one pass ------------------------------------------------------------------------------


@dataclass
class _Seen:
    """Copies of what passed by; by block the tensors of the stream's shape inside it."""

    stream: dict[int, Tensor] = field(default_factory=dict)  # before block 0, after each
    states: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    inputs: dict[int, list[tuple[nn.Module, Tensor]]] = field(default_factory=dict)
    inputs_before: dict[int, int] = field(
        default_factory=dict
    )  # how many before attention's output
    outputs: dict[int, list[Tensor]] = field(default_factory=dict)
    words: Tensor | None = None
    body: Tensor | None = None  # what the model gives without its head
    head_input: Tensor | None = None
    logits: Tensor | None = None


def _one_pass(module: PreTrainedModel, found: Layout) -> _Seen:
    seen = _Seen()
    with ExitStack() as handles, torch.no_grad():

        def watch(place: Place, into: dict[Any, Tensor], key: Any) -> None:
            def keep(state: Tensor) -> None:
                into.setdefault(key, state.detach().clone())
                if isinstance(key, tuple) and key[0] == "attention":
                    seen.inputs_before.setdefault(key[1], len(seen.inputs[key[1]]))

            handles.callback(place.hook(keep).remove)

        watch(Place(found.blocks[0], "input"), seen.stream, 0)
        for layer, block in enumerate(found.blocks):
            _watch_inside(block, layer, seen, handles)
            watch(Place(block), seen.stream, layer + 1)
        for kind in _KINDS:
            for layer, place in enumerate(getattr(found, kind)):
                if place is not None:
                    watch(place, seen.states, (kind, layer))
        outer: dict[Any, Tensor] = {}
        if found.words is not None:
            watch(found.words, outer, "words")
        head = module.get_output_embeddings() if found.head.weight is not None else None
        if head is not None:
            watch(Place(head, "input"), outer, "head")

        def keep_body(given: Any) -> None:
            outer["body"] = given[0].detach().clone()

        if module.base_model is not module:
            handles.callback(
                module.base_model.register_forward_hook(
                    lambda _, args, given: keep_body(given)
                ).remove
            )
        given = module(input_ids=_three(module))
    seen.words, seen.head_input = outer.get("words"), outer.get("head")
    seen.body = outer.get("body")
    seen.logits = getattr(given, "logits", None)
    if len(seen.stream) != len(found.blocks) + 1:
        raise RuntimeError("its forward pass does not run all blocks")
    return seen


def _watch_inside(block: nn.Module, layer: int, seen: _Seen, handles: ExitStack) -> None:
    """Keep what the modules inside a block are given and give."""
    inputs, outputs = seen.inputs.setdefault(layer, []), seen.outputs.setdefault(layer, [])

    def before(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.extend((part, one) for one in _copies([*args[:1], kwargs.get("hidden_states")]))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        outputs.extend(_copies(output if isinstance(output, tuple | list) else [output]))

    for part in block.modules():
        if part is not block:
            handles.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
            handles.callback(part.register_forward_hook(after).remove)


def _copies(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value.detach().clone()


def _three(module: PreTrainedModel) -> Tensor:
    """Three token ids, (1, 3), away from the ends of the vocabulary, where special ones are."""
    size = module.get_input_embeddings().weight.shape[0]
    ids = [size // 3, size // 2, 2 * size // 3]
    return torch.tensor([ids], device=next(module.parameters()).device)


# -- what is compared ----------------------------------------------------------------------


def _fitting(place: Place | None, state: Tensor | None, size: torch.Size) -> Place | None:
    """The place, where the pass came by with one state of the right width for each token."""
    if place is None or state is None:
        return None
    rows, width = size[:-1], place.width or size[-1]
    if state.shape == (*rows, width):
        return place
    return replace(place, flat=True) if state.shape == (rows.numel(), width) else None


class _Block:
    """The states of one block, and which of them add up."""

    def __init__(self, block: nn.Module, seen: _Seen, layer: int, there: dict[str, bool]):
        self.block = block
        self.before, self.after = seen.stream[layer], seen.stream[layer + 1]
        same = self.before.shape == self.after.shape
        self.finite = same and bool(self.after.isfinite().all())

        def state(kind: str) -> Tensor | None:
            return seen.states[kind, layer].view_as(self.before) if there[kind] else None

        self._attention, self._mlp = (state("attention"), state("mlp")) if same else (None, None)
        self._given = [(part, x) for part, x in seen.inputs[layer] if self._like_stream(x)]
        first = seen.inputs_before.get(layer, 0)
        self._later = [(part, x) for part, x in seen.inputs[layer][first:] if self._like_stream(x)]
        self._inputs = [x.view_as(self.after) for _, x in self._given]
        outputs = filter(self._like_stream, seen.outputs[layer])
        self._outputs = [x.view_as(self.after) for x in outputs]

    def _like_stream(self, state: Tensor) -> bool:
        return state.numel() == self.after.numel() and state.shape[-1] == self.after.shape[-1]

    def adds_attention(self) -> bool:
        if self._attention is None:
            return False
        return self._side_by_side() or any(
            _is_sum(given, self.before, self._attention) for given in self._inputs
        )

    def adds_mlp(self) -> bool:
        if self._mlp is None:
            return False
        if self._side_by_side():
            return True
        terms = [self.before, *self._inputs, *self._outputs]
        return any(
            _is_sum(total, term, self._mlp)
            for total in (self.after, *self._inputs)
            for term in terms
        )

    def middle(self) -> Place | None:
        """Where residual + attention is given to a module, after attention has run."""
        if self._attention is None or self._mlp is None:
            return None
        for part, given in self._later:
            state = given.view_as(self.before)
            whole = _is_sum(state, self.before, self._attention)
            if whole and _is_sum(self.after, state, self._mlp):
                return Place(part, "input", flat=given.shape != self.before.shape, block=self.block)
        return None

    def _side_by_side(self) -> bool:
        both = self._attention is not None and self._mlp is not None
        return both and _is_sum(self.after, self.before, self._attention, self._mlp)


def _is_sum(total: Tensor, *terms: Tensor) -> bool:
    """Whether total is the sum of the terms but for rounding, entry by entry."""
    wide = [term.double() for term in terms] if total.device.type != "mps" else list(terms)
    size = torch.stack([term.abs() for term in (*wide, total.to(wide[0].dtype))]).sum(0)
    error = (total.to(wide[0].dtype) - torch.stack(wide).sum(0)).abs()
    return bool((error <= 4 * torch.finfo(total.dtype).eps * size).all())


def _apart(words: Tensor | None, embed: Tensor) -> bool:
    """Whether the embeddings of tokens are another state than what enters block 0."""
    return words is not None and words.shape == embed.shape and not torch.equal(words, embed)


def _reproduces(seen: _Seen, head: Head) -> bool:
    """Whether the logits are what the head makes of the body's last state, as wide as the stream."""
    if head.weight is None or seen.head_input is None or seen.logits is None:
        return False
    if seen.head_input.shape[-1] != seen.stream[0].shape[-1]:
        return False  # projected to another width
    if seen.body is not None and not torch.equal(seen.body, seen.head_input):
        return False  # a layer or a scale lies between
    theirs = seen.logits.float()
    ours = nn.functional.linear(seen.head_input, head.weight, head.bias).float() * head.scale
    if head.cap is not None:
        ours = head.cap * torch.tanh(ours / head.cap)
    sound = theirs.isfinite() & ours.isfinite()
    if not bool(sound.any()):  # damaged weights tell nothing
        return True
    worst = (theirs - ours)[sound].abs().max()
    near = 16 * torch.finfo(head.weight.dtype).eps
    return bool(worst <= near * theirs[sound].abs().max().clamp(min=1.0))
