"""A model one can look into: tokens to logits, and hooks at named sites on the way.

Whatever it is made of (a run's network, anything from Hugging Face), the rooms see this one face.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from cutaway.base import json_text
from cutaway.base.columns import tensor
from cutaway.base.errors import UserError
from cutaway.nets.quantised import dequantised, named
from cutaway.nets.sites import Kind, Site, parse_site

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from cutaway.nets.check import Abilities
    from cutaway.text.reading import Reading
    from cutaway.text.tokenizers import Tokenizer

FORMAT = 1
_IDS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class ModelReference:
    """Which weights something was made from; stores, dictionaries and probes carry it.

    `id` is a hub id, or the path a folder had; the hashes say whether it is still the same model.
    """

    kind: Literal["run", "huggingface"]
    id: str
    revision: str | None  # a hub model's commit
    step: int | None  # a run's checkpoint
    weights_sha256: str
    tokenizer_sha256: str | None
    n_layers: int
    width: int
    quantisation: str | None = None  # how a GGUF file stored it: `4 bits (Q4_K_M)`

    @property
    def dequantised(self) -> str:
        """`dequantised from 4 bits (Q4_K_M)`, to stand beside figures; empty for other models."""
        return dequantised(self.quantisation)

    @property
    def named(self) -> str:
        """The model's id and, where it is so, that its weights were dequantised."""
        return named(self.id, self.quantisation)

    def same_model(self, other: ModelReference) -> bool:
        """Whether both mean the same weights and the same tokens, wherever they lie."""
        return (self.weights_sha256, self.tokenizer_sha256) == (
            other.weights_sha256,
            other.tokenizer_sha256,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        content = {"format": FORMAT, **asdict(self)}
        if self.quantisation is None:  # as files from before this field have it
            del content["quantisation"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | str) -> ModelReference:
        """What `to_json` gave, or its text. UserError for anything else and for a newer format."""
        try:
            content = json_text.loads(content) if isinstance(content, str) else dict(content)
            form = content.pop("format")
            if isinstance(form, int) and form > FORMAT:
                raise UserError(
                    f"model reference: format {form} is newer than this cutaway reads ({FORMAT})"
                )
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"model reference: not one ({error})") from None


@dataclass(frozen=True)
class Anatomy:
    """What a kind of network says about its insides; `Model` does the rest.

    `attention` and `mlp` hold, for each block, the module whose output is added to the residual
    stream, or None where there is no such module. `forward(tokens, attention_mask, at)` gives logits,
    of all positions (batch, T, V) or, with `at` (batch,), of one of each row (batch, V).
    """

    blocks: Sequence[nn.Module]
    attention: Sequence[nn.Module | None]
    mlp: Sequence[nn.Module | None]
    forward: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    width: int
    vocab_size: int
    max_length: int | None
    causal: bool
    decoder_weight: Tensor | None
    bos_id: int | None


class Model:
    """A network in eval mode without gradients on its weights, and where its states pass by.

    width d; `max_length` is the longest context T (None: no limit); `decoder_weight` (V, d) is the
    map from the final norm's output to logits, None where logits are made in another way;
    `bos_id` is the token a text begins
    with, None where the model has none.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy,
        reference: ModelReference,
        tokenizer: Tokenizer | None,
    ):
        self.module, self.reference, self.tokenizer = module, reference, tokenizer
        self._anatomy = anatomy
        self.n_layers = len(anatomy.blocks)
        self.width, self.vocab_size = anatomy.width, anatomy.vocab_size
        self.max_length = anatomy.max_length
        self.decoder_weight, self.bos_id = anatomy.decoder_weight, anatomy.bos_id

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What its states are made of."""
        return next(self.module.parameters()).dtype

    @cached_property
    def abilities(self) -> Abilities:
        """What it can be asked, found by two short passes when that is first wanted (`nets.check`)."""
        from cutaway.nets.check import abilities_of

        return abilities_of(self)

    @property
    def causal(self) -> bool:
        """Whether a position sees only those before it."""
        return self.abilities.causal

    @property
    def reads(self) -> Tokenizer:
        """The tokenizer; UserError where the model came without one."""
        if self.tokenizer is None:
            raise UserError(f"{self.reference.id}: came without a tokenizer, and words need one")
        return self.tokenizer

    def tokens(self, text: str, *, special: bool = True) -> Tensor:
        """The token ids of a text on the model's device, (1, T).

        With the special tokens that the tokenizer adds by itself (`Tokenizer.special`), as the model
        was trained to read, or without any.
        """
        if not isinstance(text, str):
            raise UserError(f"text: {type(text).__name__}, expected a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError("text: holds half of a surrogate pair, which is no character") from None
        ids = self.reads.encode(text)
        if special:
            before, after = self.reads.special
            ids = [*before, *ids, *after]
        return torch.tensor([ids], dtype=torch.int64, device=self.device)

    def reply_to(self, text: str, reading: Reading) -> Tensor:
        """A user's message in the model's chat template, up to where its reply begins, (1, T).

        UserError where the tokenizer has another template than `reading`, or none.
        """
        from cutaway.text.conversations import replying

        ids = replying(text, self.reads, reading)
        return torch.tensor([ids], dtype=torch.int64, device=self.device)

    def logits(
        self, tokens: Tensor, attention_mask: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Token ids (batch, T), mask (batch, T) with 0 for padding → logits (batch, T, V).

        Ids may also be lists, arrays or columns of rows of equal length (`token_ids`).

        With `at` (batch,) only those of one place in each row, (batch, V): the vocabulary's head is
        half of a small model's work. Positions are counted from the first token that is not padding. Gradients flow to what a
        splice puts in, not to weights. Raises UserError for ids or lengths the model cannot read.
        """
        tokens, attention_mask = token_ids(tokens), mask_of(attention_mask)
        self._check(tokens, attention_mask)
        mask = None if attention_mask is None else attention_mask.to(self.device)
        at = None if at is None else at.to(self.device)
        return self._anatomy.forward(tokens.to(self.device), mask, at)

    # -- sites -----------------------------------------------------------------------------

    def site(self, site: str | int | Site) -> Site:
        """The site of a name, checked against this model's layers (see `sites.parse_site`)."""
        return parse_site(site, self.n_layers)

    def module_at(self, site: Site) -> nn.Module:
        """The module whose output is the state at `site`; for `embed` the one it goes into.

        Raises UserError where the architecture has no such module in that layer.
        """
        site = self.site(site)
        if site.kind == "embed":
            return self._anatomy.blocks[0]
        places: dict[Kind, Sequence[nn.Module | None]] = {
            "residual": self._anatomy.blocks,
            "attention": self._anatomy.attention,
            "mlp": self._anatomy.mlp,
        }
        module = places[site.kind][site.layer]
        if module is None:
            raise UserError(
                f"layer = '{site}': {type(self.module).__name__} has no module whose output is what "
                f"{site.kind} adds to the residual stream in layer {site.layer}"
            )
        return module

    def state_of(self, site: Site) -> Literal["output", "input"]:
        """Whether the state at `site` is what `module_at(site)` gives or what it is given."""
        return "input" if site.kind == "embed" else "output"

    def hook(self, site: Site, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `function(state)` whenever a forward pass comes to `site`.

        state is (batch, T, d); where the function returns one, the pass goes on with that in its
        place. Functions hooked later see what earlier ones made of it. Returns a handle with
        `remove()`.
        """
        module = self.module_at(site)
        if self.state_of(site) == "input":
            return module.register_forward_pre_hook(_on_input(function), with_kwargs=True)
        return module.register_forward_hook(_on_output(function))

    # -- inside ----------------------------------------------------------------------------

    def _check(self, tokens: Tensor, attention_mask: Tensor | None) -> None:
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype not in _IDS:
            said = (
                f"{tokens.dtype} of shape {tuple(tokens.shape)}"
                if isinstance(tokens, Tensor)
                else type(tokens)
            )
            raise UserError(f"tokens: expected an integer tensor (batch, T), got {said}")
        if not tokens.numel():
            raise UserError(f"tokens: shape {tuple(tokens.shape)} holds none")
        if self.max_length is not None and tokens.shape[1] > self.max_length:
            raise UserError(
                f"tokens: {tokens.shape[1]} in a row, and {self.reference.id} reads at most "
                f"{self.max_length}"
            )
        # On a GPU the look at the ids would wait for all work before it.
        if tokens.device.type == "cpu":
            low, high = map(int, tokens.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise UserError(
                    f"tokens: id {low if low < 0 else high}, and {self.reference.id} has ids "
                    f"0 to {self.vocab_size - 1}"
                )
        if attention_mask is not None and attention_mask.shape != tokens.shape:
            raise UserError(
                f"attention_mask: shape {tuple(attention_mask.shape)}, expected that of the tokens, "
                f"{tuple(tokens.shape)}"
            )

    def __repr__(self) -> str:
        return (
            f"Model({self.reference.id!r}, {self.n_layers} layers, width {self.width}, "
            f"{self.dtype}, {self.device})"
        )


def token_ids(tokens: Any) -> Tensor:
    """Token ids as a tensor: a tensor as it is; lists, arrays, Series, Arrow arrays by position.

    Raises UserError for rows of different lengths and for what holds no whole numbers.
    """
    found = tensor(tokens, "tokens")
    whole = found.dtype != torch.bool and not (found.is_floating_point() or found.is_complex())
    return found.long() if whole and found.dtype != torch.int32 else found


def require_ids(
    name: str, tokens: Tensor, dimensions: int, vocab_size: int, longest: int | None = None
) -> None:
    """Refuse what are no token ids of so many dimensions; UserError. Ids on a GPU are not read."""
    expected = "(T,)" if dimensions == 1 else "(batch, T)"
    if tokens.ndim != dimensions or not tokens.numel() or not _whole(tokens):
        raise UserError(
            f"{name}: expected token ids of shape {expected}, got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}"
        )
    if longest is not None and tokens.shape[-1] > longest:
        raise UserError(f"{name}: {tokens.shape[-1]} in a row, and the model reads {longest}")
    if tokens.device.type == "cpu":
        low, high = map(int, tokens.aminmax())
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise UserError(f"{name}: id {wrong}, and the model has ids 0 to {vocab_size - 1}")


def _whole(tokens: Tensor) -> bool:
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)


def mask_of(attention_mask: Any) -> Tensor | None:
    """An attention mask as a tensor, like `token_ids`."""
    if attention_mask is None or isinstance(attention_mask, Tensor):
        return attention_mask
    return tensor(attention_mask, "attention_mask")


def _on_output(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return function(output)
        changed = function(output[0])
        return None if changed is None else (changed, *output[1:])

    return hook


def _on_input(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = function(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        changed = function(kwargs["hidden_states"])
        return None if changed is None else (args, {**kwargs, "hidden_states": changed})

    return hook
