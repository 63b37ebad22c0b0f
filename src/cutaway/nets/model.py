"""A model one can look into: tokens to logits, and hooks at named sites on the way.

Whatever it is made of (a run's network, anything from Hugging Face), the rooms see this one face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from cutaway.base.errors import UserError
from cutaway.nets.anatomy import Anatomy, Place, Removable, reading
from cutaway.nets.check import Abilities, abilities_of
from cutaway.nets.model_reference import ModelReference
from cutaway.nets.sites import Site, parse_site, parse_sites
from cutaway.nets.tokens import Tokens, Window, batch, ids_and_mask, mask_of, token_ids

if TYPE_CHECKING:
    from cutaway.text.reading import Reading
    from cutaway.text.tokenizers import Tokenizer

_IDS = (torch.int64, torch.int32)


_SAYS = {
    "attention": "output is what attention adds to the residual stream",
    "mlp": "output is what mlp adds to the residual stream",
    "middle": "input is the residual stream between attention and MLP",
    "heads": "input is what the heads of attention give",
    "neurons": "input is what the MLP's neurons give",
}


class Model:
    """A network in eval mode without gradients on its weights, and where its states pass by.

    width d; `max_length` is the longest context T (None: no limit); `decoder_weight` (V, d) is the
    map from the final norm's output to logits, its scale included, `decoder_bias` (V,) what is added
    to them (None: nothing), and `decoder_cap` c, where there is one, makes c · tanh(logit / c) of each;
    all three are None where logits are made in another way. `bos_id` is the token a text begins with,
    None where the model has none.
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
        self.decoder_cap, self.bos_id = anatomy.decoder_cap, anatomy.bos_id

    @property
    def decoder_weight(self) -> Tensor | None:
        """(V, d), see the class. A scaled copy where the model scales its logits."""
        return _scaled(self._anatomy.decoder_weight, self._anatomy.decoder_scale)

    @property
    def decoder_bias(self) -> Tensor | None:
        """(V,), see the class."""
        return _scaled(self._anatomy.decoder_bias, self._anatomy.decoder_scale)

    def decoder_at(self, site: str | int | Site) -> Tensor | None:
        """(V, width of the site): the direct way from a state there to logits, norms left out.

        `decoder_weight` for states as wide as the stream; for heads and neurons it is preceded by their
        output projection. None where there is no decoder weight.
        """
        site, weight = self.site(site), self.decoder_weight
        if weight is None or site.kind not in ("heads", "neurons"):
            return weight
        place = self.place_of(site)
        each = torch.eye(self.width_at(site), device=self.device, dtype=self.dtype)
        with torch.no_grad():
            written = place.module(each) - place.module(
                torch.zeros_like(each[:1])
            )  # without a bias
        return weight @ written.T.to(weight.dtype)

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

    @overload
    def tokens(self, text: str, *, special: bool = True) -> Tensor: ...

    @overload
    def tokens(self, text: Iterable[str | Sequence[int]], *, special: bool = True) -> Tokens: ...

    def tokens(self, text: str | Iterable[Any], *, special: bool = True) -> Tensor | Tokens:
        """The token ids of a text on the model's device, (1, T).

        With the special tokens that the tokenizer adds by itself (`Tokenizer.special`), as the model
        was trained to read, or without any. Several texts give a batch padded on the right with its
        mask (`Tokens`); rows of token ids among them are taken as they are.
        """
        if not isinstance(text, str):
            if isinstance(text, bytes) or not isinstance(text, Iterable):
                raise UserError(f"text: {type(text).__name__}, expected a text")
            return batch(text, partial(self.tokens, special=special), self.padding_id, self.device)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError("text: holds half of a surrogate pair, which is no character") from None
        ids = self.reads.encode(text)
        if special:
            before, after = self.reads.special
            ids = [*before, *ids, *after]
        return torch.tensor([ids], dtype=torch.int64, device=self.device)

    def windows(
        self,
        text: str | Iterable[str | Sequence[int]],
        length: int | None = None,
        *,
        special: bool = True,
    ) -> Tokens:
        """Long texts (or rows of ids) cut into rows of at most `length` tokens, one after another.

        `length` is by default what the model reads. Each window is read without those before it, and
        every window of a text has the text's special tokens around it. Raises UserError for a length
        the model cannot read.
        """
        length = self.max_length if length is None else length
        if length is None:
            raise UserError(f"length: {self.reference.id} names no longest context; give one")
        before, after = self.reads.special if special and self.tokenizer else ((), ())
        least = 1 + len(before) + len(after)
        whole = isinstance(length, int) and not isinstance(length, bool)
        longest = self.max_length if self.max_length is not None else length
        if not whole or not least <= length <= longest:
            raise UserError(
                f"length = {length!r}: expected a whole number from {least} to {longest}"
            )
        texts = [text] if isinstance(text, str) else text
        encode = partial(self.tokens, special=False)
        return batch(
            texts, encode, self.padding_id, self.device, window=Window(length, before, after)
        )

    @property
    def padding_id(self) -> int:
        """The id that fills rows up; the attention mask hides it."""
        given = getattr(getattr(self.module, "config", None), "pad_token_id", None)
        return given if isinstance(given, int) and 0 <= given < self.vocab_size else 0

    def reply_to(self, text: str, reading: Reading) -> Tensor:
        """A user's message in the model's chat template, up to where its reply begins, (1, T).

        UserError where the tokenizer has another template than `reading`, or none.
        """
        from cutaway.text.conversations import replying

        ids = replying(text, self.reads, reading)
        return torch.tensor([ids], dtype=torch.int64, device=self.device)

    def logits(
        self,
        tokens: Tensor | Tokens,
        attention_mask: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Token ids (batch, T), mask (batch, T) with 0 for padding → logits (batch, T, V).

        Ids may also be lists, arrays or columns of rows of equal length (`token_ids`), or what
        `tokens([...])` gives, which brings its mask.

        With `at` (batch,) only those of one place in each row, (batch, V): the vocabulary's head is
        half of a small model's work. Positions are counted from the first token that is not padding.
        Gradients flow to what a splice puts in, not to weights. Raises UserError for ids or lengths
        the model cannot read.
        """
        tokens, attention_mask = ids_and_mask(tokens, attention_mask)
        tokens, attention_mask = token_ids(tokens), mask_of(attention_mask)
        self.require_readable(tokens, attention_mask)
        mask = None if attention_mask is None else attention_mask.to(self.device)
        at = None if at is None else self._places(at, tokens).to(self.device)
        tokens = tokens.to(self.device)
        with reading(tokens):
            return self._anatomy.forward(tokens, mask, at)

    # -- sites -----------------------------------------------------------------------------

    def site(self, site: str | int | Site) -> Site:
        """The site of a name, checked against this model's layers (see `sites.parse_site`)."""
        return parse_site(site, self.n_layers)

    def sites(self, sites: str | int | Site | Sequence[str | int | Site]) -> list[Site]:
        """The sites that `parse_sites` reads, each of them there in this model; UserError if not."""
        found = parse_sites(sites, self.n_layers)
        for site in found:
            self.place_of(site)
        return found

    def place_of(self, site: str | int | Site) -> Place:
        """Where the state at `site` passes by.

        Raises UserError, with the reason where one is known, for a site that the architecture lacks.
        """
        site = self.site(site)
        place = self._anatomy.place(site.kind, site.layer)
        if place is None:
            name = type(self.module).__name__
            why = self._anatomy.reasons.get(site.kind) or (
                f"{name} has no module whose {_SAYS[site.kind]} in layer {site.layer}"
            )
            raise UserError(f"layer = '{site}': {why}")
        return place

    def module_at(self, site: Site) -> nn.Module:
        """The module whose output (or input, see `state_of`) is the state at `site`.

        Raises UserError where the architecture has no such module in that layer.
        """
        return self.place_of(site).module

    def state_of(self, site: Site) -> Literal["output", "input"]:
        """Whether the state at `site` is what `module_at(site)` gives or what it is given."""
        return self.place_of(site).side

    def width_at(self, site: str | int | Site) -> int:
        """How wide the state at `site` is: the model's width, or that of its heads or neurons."""
        return self.place_of(site).width or self.width

    def width_of(self, sites: Sequence[Site]) -> int:
        """The one width of all these sites; UserError where they differ."""
        widths = {site: self.width_at(site) for site in sites}
        first = next(iter(widths), None)
        for site, width in widths.items():
            if first is not None and width != widths[first]:
                raise UserError(
                    f"layers: {first} is {widths[first]} wide and {site} {width}; sites of "
                    "different widths need to be read apart"
                )
        return self.width if first is None else widths[first]

    def hook(self, site: Site, function: Callable[[Tensor], Tensor | None]) -> Removable:
        """Call `function(state)` whenever a forward pass comes to `site`.

        state is (batch, T, width of the site); where the function returns one, the pass goes on with
        that in its place. Functions hooked later see what earlier ones made of it. Returns a handle
        with `remove()`.
        """
        return self.place_of(site).hook(function)

    # -- inside ----------------------------------------------------------------------------

    def _places(self, at: Any, tokens: Tensor) -> Tensor:
        """One position of each row; UserError for others. Those on a GPU are not read."""
        at = token_ids(at)
        low, high = (0, 0) if at.device.type != "cpu" or not at.numel() else map(int, at.aminmax())
        if at.shape != tokens.shape[:1] or low < 0 or high >= tokens.shape[1]:
            raise UserError(
                f"at: expected a position from 0 to {tokens.shape[1] - 1} for each of the "
                f"{tokens.shape[0]} rows, got {at.tolist() if at.numel() < 9 else tuple(at.shape)}"
            )
        return at

    def require_readable(self, tokens: Tensor, attention_mask: Tensor | None = None) -> None:
        """UserError for tokens and a mask that the model cannot read; ids on a GPU are not read."""
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
                f"{self.max_length}; cut them, or read them in windows: model.windows(text)"
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


def _scaled(weight: Tensor | None, scale: float) -> Tensor | None:
    return weight if weight is None or scale == 1.0 else weight * scale
