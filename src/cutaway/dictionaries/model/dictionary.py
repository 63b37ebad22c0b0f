"""A sparse dictionary: what all architectures share.

    x̃ = s·x,   f = σ(W_enc (x̃ − c) + b_enc),   x̂ = (f·W_dec + b_dec) / s

s is `input_scale`, chosen so that E‖x̃‖² = d (DEFINITIONS: inputs); c is b_dec where the
architecture subtracts it. Inside, everything is in scaled units; `encode` and `decode` take and
give raw ones, so that features are as long as what they add to a raw state: decoder rows have
length 1. Dictionaries of other libraries keep their rows, s = 1, and thereby their own units.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from cutaway.base.columns import Column, tensor
from cutaway.base.doors import door
from cutaway.base.errors import UserError
from cutaway.base.named import fetch
from cutaway.base.seeds import torch_generator
from cutaway.sparse.codes import Codes, encode
from cutaway.sparse.pattern import Choose

if TYPE_CHECKING:
    from cutaway.nets.sites import Site

_UNIT = 1e-3  # rows whose lengths differ from 1 by less have length 1 but for rounding

_FILES = (
    "cutaway.dictionaries.files.own"  # which knows every architecture, and this the base of them
)


@dataclass(frozen=True)
class DictionaryShape:
    """What is needed to make a dictionary of the same form again.

    `k`: features per token (TopK family); `bandwidth`: ε of JumpReLU, in scaled units; `groups`:
    the nested widths of a Matryoshka dictionary; `centred`: whether the encoder subtracts the
    decoder's bias, where another library decided that (None: as the architecture does).
    """

    architecture: str
    d_model: int
    d_hidden: int
    k: int | None = None
    bandwidth: float = 0.05
    groups: tuple[int, ...] = ()
    centred: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record; `centred` only where it is set."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name != "centred" or value is not None
        }


@dataclass
class Step:
    """What an architecture makes of a training batch, in scaled units.

    `codes` holds the features, `reconstruction` x̂ (B, d); `losses` what is added to the squared
    error, by name; `notes` what `learn` wants to see once the weights are updated, detached.
    """

    codes: Codes
    reconstruction: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)


class Dictionary(nn.Module):
    """Encoder and decoder; subclasses say which pre-activations count and what becomes of them."""

    architecture: ClassVar[str]
    subtracts_bias: bool = True  # whether the encoder sees x̃ − b_dec
    couples: ClassVar[bool] = False  # whether a token's features hang on the rest of its batch

    def __init__(self, shape: DictionaryShape, seed: int = 0):
        super().__init__()
        self.shape = shape
        if shape.centred is not None:
            self.subtracts_bias = shape.centred
        self.metadata: dict[str, Any] = {}
        generator = torch_generator(seed, 0, "weights")
        rows = torch.empty(shape.d_hidden, shape.d_model).normal_(generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        self.encoder_weight = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(shape.d_hidden))
        self.decoder_weight = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(shape.d_model))
        self.register_buffer("input_scale", torch.ones(()))

    # -- what an architecture says ---------------------------------------------------------------

    def activate(self, x: Tensor) -> Codes:
        """Features of centred, scaled tokens as used after training, scaled units."""
        raise TypeError(f"{type(self).__name__} does not say what it activates")

    def step(self, x: Tensor, hints: TrainingHints) -> Step:
        """Features and losses of a training batch x̃ (B, d); by default those of `activate`."""
        raise TypeError(f"{type(self).__name__} does not say how it is trained")

    def start(self, x: Tensor, target_l0: float) -> None:
        """Set what depends on data from a sample x̃ (n, d): by default the decoder's bias."""
        self.decoder_bias.data.copy_(x.mean(0))

    def learn(self, notes: dict[str, Tensor]) -> None:
        """Update averages (buffers) after a step, from its `notes`."""

    def wake(self, dead: Tensor) -> None:
        """After a step, once: what is done, beside a loss, for features silent too long, (F,)."""

    def push(self, factor: Tensor) -> None:
        """After a step: raise (above 1) or lower what decides how many features are active."""

    # -- inside, in scaled units -----------------------------------------------------------------

    def centred(self, x: Tensor) -> Tensor:
        """What the encoder sees of x̃."""
        return x - self.decoder_bias if self.subtracts_bias else x

    def pre_activations(self, x: Tensor, choose: Choose, *, dense: bool) -> Codes:
        """Pre-activations of x̃ where `choose` picks them."""
        centre = self.decoder_bias if self.subtracts_bias else None
        return encode(x, centre, self.encoder_weight, self.encoder_bias, choose, dense=dense)

    def reconstruct(self, codes: Codes) -> Tensor:
        """f·W_dec + b_dec, (B, d), with the decoder's gradient kept at right angles to its rows."""
        return codes.decode(unit_rows(self.decoder_weight)) + self.decoder_bias

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every decoder row length 1 again."""
        norm = torch.linalg.vector_norm(self.decoder_weight, dim=1, keepdim=True)
        self.decoder_weight.div_(norm.clamp_(min=1e-12))

    # -- raw in, raw out -------------------------------------------------------------------------

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> Codes:
        """Raw states (B, d) → features at the active entries only, in the units of `encode`.

        A state that is not finite has no features that could be known: all of its entries are NaN,
        and so is its reconstruction. Raises UserError for states of another width.
        """
        x = self._taken(x, "states", self.shape.d_model)
        scaled = x.float() * self.input_scale
        # the sum, not only each entry: where it overflows, so may the encoder's products
        broken = ~torch.linalg.vector_norm(scaled, ord=1, dim=1).isfinite()
        spoilt = bool(broken.any())
        codes = self.activate(scaled.masked_fill(broken[:, None], 0.0) if spoilt else scaled)
        codes = codes.of(codes.values / self.input_scale)
        return codes.spoilt(broken.nonzero().view(-1)) if spoilt else codes

    def encode(self, x: Tensor) -> Tensor:
        """Raw states (..., d) → features (..., F).

        Decoder rows have length 1, so that a feature is as long as what it adds to a raw state. A
        dictionary of another library keeps the rows it came with, and its features are the numbers
        that library gives (`row_lengths`, `contributions`). A state that is not finite gives NaN.
        """
        x = self._taken(x, "states", self.shape.d_model)
        flat = x.reshape(-1, x.shape[-1])
        return self.encode_sparse(flat).dense().view(*x.shape[:-1], self.shape.d_hidden)

    def decode(self, features: Tensor) -> Tensor:
        """Features (..., F) in raw units → raw states (..., d)."""
        features = self._taken(features, "features", self.shape.d_hidden)
        return features @ self.decoder_weight + self.decoder_bias / self.input_scale

    def forward(self, x: Tensor) -> Tensor:
        """Raw states → their reconstruction, through the active entries only."""
        x = self._taken(x, "states", self.shape.d_model)
        flat = x.reshape(-1, x.shape[-1])
        return self.decode_sparse(self.encode_sparse(flat)).view(x.shape).to(x.dtype)

    def decode_sparse(self, codes: Codes) -> Tensor:
        """`decode` of codes in raw units: (B, d)."""
        return codes.decode(self.decoder_weight) + self.decoder_bias / self.input_scale

    def _taken(self, given: Column, name: str, width: int) -> Tensor:
        """States or features as a tensor: one itself, or arrays, lists and tables of numbers.

        UserError for what holds no real numbers, and for another width.
        """
        x = tensor(given, name)
        if x.is_complex() or x.ndim == 0:
            found = "complex numbers" if x.is_complex() else "a single number"
            raise UserError(f"{name}: {found}, expected rows of {width} numbers")
        if x.shape[-1] != width:
            raise UserError(
                f"{name}: of width {x.shape[-1]}, and the dictionary is made for {name} of width {width}"
            )
        if x is given and x.layout == torch.strided and x.is_floating_point():
            return x
        x = x.to_dense().to(self.decoder_weight.device)
        return x if x.is_floating_point() and x.dtype != torch.float64 else x.float()

    # -- rows of other lengths -------------------------------------------------------------------

    @torch.no_grad()
    def row_lengths(self) -> Tensor | None:
        """Lengths of the decoder's rows, (F,), 1 for a row of zeros; None where all are 1.

        Within a thousandth, which is rounding of the file that it was read from.
        """
        length = torch.linalg.vector_norm(self.decoder_weight.float(), dim=1)
        length = torch.where(length > 0, length, 1.0)
        return None if bool(((length - 1).abs() <= _UNIT).all()) else length

    @torch.no_grad()
    def contributions(self, x: Tensor) -> Codes:
        """`encode_sparse` with each feature times the length of its decoder row: how far it moves
        a raw state, in the same units for every dictionary. Measures that compare one feature's
        activations with another's use it; equal to `encode_sparse` where rows have length 1.
        """
        codes, length = self.encode_sparse(x), self.row_lengths()
        return codes if length is None else codes.of(codes.values * codes.per_feature(length))

    # -- files -----------------------------------------------------------------------------------

    @door
    def save(self, folder: str | Path) -> None:
        """Write `dictionary.safetensors` and `dictionary.json` into a folder."""
        fetch(f"{_FILES}:save")(self, Path(folder))

    @staticmethod
    @door
    def load(
        path: str | Path,
        *,
        step: int | str = "best",
        device: str = "auto",
        site: str | int | Site | None = None,
    ) -> Dictionary:
        """A dictionary from a run's folder or a saved one; `UserError` says what is wrong.

        `site` says where it was trained, for files that do not say so themselves.
        """
        return fetch(f"{_FILES}:load")(Path(path), step=step, device=device, site=site)

    def describe(self) -> dict[str, Any]:
        """The shape as plain data, for a record."""
        return self.shape.to_json()


@dataclass
class TrainingHints:
    """What a training step tells the architecture.

    `dense`: which way to compute. `dead` (F,) bool: the features silent for too long, None where
    there are none. `sparsity_weight` λ; `target_l0` L0*; `sparsity` the form of the penalty.
    """

    dense: bool
    dead: Tensor | None = None
    sparsity_weight: Tensor | float = 0.0
    target_l0: float = 64.0
    sparsity: str = "target"


class _UnitRows(torch.autograd.Function):
    """Rows that already have length 1; backward is that of dividing them by their length."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, weight).unsqueeze(1)
        return torch.addcmul(gradient, along, weight, value=-1)


def unit_rows(weight: Tensor) -> Tensor:
    """The decoder's rows, whose gradient is projected onto their tangent: ∂(w/‖w‖) at ‖w‖ = 1."""
    return _UnitRows.apply(weight)
