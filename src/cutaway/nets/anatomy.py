"""Where a network's states pass by: what each kind of network says about its insides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from torch import Tensor, nn

_rows: ContextVar[tuple[int, ...]] = ContextVar("rows")


@contextmanager
def reading(tokens: Tensor) -> Iterator[None]:
    """Around a forward pass of `tokens` (batch, T), so that states without a batch can get one."""
    before = _rows.set(tuple(tokens.shape))
    try:
        yield
    finally:
        _rows.reset(before)


@dataclass(frozen=True)
class Place:
    """Where a state passes by: the output of a module, or its first input.

    `width` is that of the state, None where it is the model's. `flat`: the module sees the rows of a
    batch in one, (batch · T, width), as OPT's MLP does; hooks get (batch, T, width) all the same.
    `block`: of a state that goes on in the residual stream beside this module; what a hook changes is
    added to that block's output too.
    """

    module: nn.Module
    side: Literal["output", "input"] = "output"
    width: int | None = None
    flat: bool = False
    block: nn.Module | None = None

    def hook(self, function: Callable[[Tensor], Tensor | None]) -> Removable:
        """Call `function(state)` whenever a pass comes by; what it returns goes on in its place."""
        if self.block is not None:
            return _carried(replace(self, block=None), self.block, function)
        called = _unflattened(function) if self.flat else function
        if self.side == "input":
            return self.module.register_forward_pre_hook(_on_input(called), with_kwargs=True)
        return self.module.register_forward_hook(_on_output(called))


@dataclass(frozen=True)
class Anatomy:
    """What a kind of network says about its insides; `Model` does the rest.

    `attention`, `mlp`, `middle`, `heads` and `neurons` hold, for each block, where that site's state
    passes by (a module means its output), or None where there is no such site; `reasons` may say why,
    by kind. `words` is where the embeddings of tokens pass by, None where that is what enters block 0.

    `forward(tokens, attention_mask, at)` gives logits, of all positions (batch, T, V) or, with `at`
    (batch,), of one of each row (batch, V). They are
    cap · tanh(scale · (decoder_weight · x + decoder_bias) / cap) of the final norm's output x, without
    the tanh where `decoder_cap` is None; `decoder_weight` is None where they are made in another way.
    """

    blocks: Sequence[nn.Module]
    attention: Sequence[Place | nn.Module | None]
    mlp: Sequence[Place | nn.Module | None]
    forward: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    width: int
    vocab_size: int
    max_length: int | None
    causal: bool
    decoder_weight: Tensor | None
    bos_id: int | None
    decoder_bias: Tensor | None = None
    decoder_scale: float = 1.0
    decoder_cap: float | None = None
    middle: Sequence[Place | None] = ()
    heads: Sequence[Place | None] = ()
    neurons: Sequence[Place | None] = ()
    words: Place | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def place(self, kind: str, layer: int) -> Place | None:
        """Where the state of a site passes by; None where there is no such site."""
        if kind == "words" and self.words is not None:
            return self.words
        if kind in ("embed", "words"):
            return Place(self.blocks[0], "input")
        if kind == "residual":
            return Place(self.blocks[layer])
        places: Sequence[Place | nn.Module | None] = getattr(self, kind)
        found = places[layer] if layer < len(places) else None
        return Place(found) if isinstance(found, nn.Module) else found


class Removable(Protocol):
    """What undoes a hook."""

    def remove(self) -> None: ...


@dataclass(frozen=True)
class _Both:
    one: Removable
    other: Removable

    def remove(self) -> None:
        self.one.remove()
        self.other.remove()


def _carried(
    place: Place, block: nn.Module, function: Callable[[Tensor], Tensor | None]
) -> Removable:
    """Hook a place whose state goes on beside its module: the change reaches the block's output."""
    passing = threading.local()

    def change(state: Tensor) -> Tensor | None:
        passing.by = None
        changed = function(state)
        if changed is not None and changed is not state:
            passing.by = changed - state
        return changed

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        by, passing.by = getattr(passing, "by", None), None
        return None if by is None else _on_output(lambda state: state + by)(module, args, output)

    # before other hooks of the block, which see what it made of the stream
    return _Both(place.hook(change), block.register_forward_hook(add, prepend=True))


def _unflattened(function: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    def called(state: Tensor) -> Tensor | None:
        changed = function(state.unflatten(0, _rows.get()))
        return None if changed is None else changed.flatten(0, 1)

    return called


def _on_output(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, tuple | list):
            return function(output)
        changed = function(output[0])
        return None if changed is None else type(output)((changed, *output[1:]))

    return hook


def _on_input(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = function(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        name = "hidden_states" if "hidden_states" in kwargs else name
        changed = function(kwargs[name])
        return None if changed is None else (args, {**kwargs, name: changed})

    return hook
