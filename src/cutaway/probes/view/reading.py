"""Probes over text: every token's probability at every layer, from one pass over the text.

Each probe's product with the states is taken while the model computes them, in a hook, so that
states are never kept: text goes by at nearly the speed of the bare model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model, ModelReference
from cutaway.nets.reference import open_model
from cutaway.probes.data.first_tokens import first_tokens
from cutaway.probes.states.collecting import TOKENS
from cutaway.probes.states.probe import FILE, Probe, ProbeAbout, sound
from cutaway.text.packing import PackedText
from cutaway.text.tokenizers import Tokenizer

_WINDOW = 1024  # tokens of context, for models that set no limit and probes that name none
_LETTERS = 64  # of text that make one token at least, with room to spare
_LOGITS = 2**26  # of the vocabulary's head at once: 256 MB


@dataclass(frozen=True)
class TextReading:
    """What probes say of every token of a text of T tokens.

    `probabilities` (layers, T) of the second class of two, else (layers, T, classes), at the
    classes' natural shares, layers as in `abouts`; NaN where a state was not finite. `own` (T,)
    is the model's probability that the next token is the target, None where nobody asked. `labels`
    (T,) are places in the probes' classes, -1 where the text gives none; None where it gives none
    at all. `starts` says where documents begin, each read by itself in windows of `window` tokens;
    `context` (T,) counts the tokens before each one that the model saw; `causal`: whether it saw
    those alone, and not the tokens after it as well (an encoder).
    """

    tokens: Tensor
    probabilities: Tensor
    own: Tensor | None
    labels: Tensor | None
    starts: tuple[int, ...]
    context: Tensor
    window: int
    abouts: tuple[ProbeAbout, ...]
    model: ModelReference
    causal: bool = True


def open_probes(path: str | Path) -> list[Probe]:
    """The probes in a folder, ordered by site as a forward pass meets them.

    A folder of one probe, one whose `probes/` holds a folder for each site (a run of `cutaway probe
    train`, also by its name under `runs/`), or one of such folders. UserError where there is none,
    where two read the same site, and where they are not of one model, task, classes and target.
    """
    folder = Path(path)
    if not folder.exists() and (named := Path("runs") / folder).is_dir():
        folder = named
    if folder.name == FILE:
        folder = folder.parent
    patterns = ("", "*/", "probes/*/", "*/probes/*/")
    found = next((hits for one in patterns if (hits := sorted(folder.glob(one + FILE)))), [])
    if not found:
        raise UserError(
            f"{path}: no probes there ({FILE} is missing, here and in probes/); "
            "`cutaway probe train` makes some"
        )
    probes = sorted((Probe.load(one) for one in found), key=lambda probe: probe.site)
    first = probes[0].about
    for probe in probes[1:]:
        about = probe.about
        if not about.reference.same_model(first.reference):
            raise UserError(
                f"{path}: probes of two models, {first.reference.id} and {about.reference.id}; "
                "name a folder of one"
            )
        for name in ("task", "target_id", "classes", "read", "reading"):
            if getattr(about, name) != getattr(first, name):
                raise UserError(
                    f"{path}: probes of unlike {name}: {getattr(first, name)!r} and "
                    f"{getattr(about, name)!r}; name a folder of one"
                )
    sites = [str(probe.site) for probe in probes]
    if twice := sorted({site for site in sites if sites.count(site) > 1}):
        raise UserError(f"{path}: several probes of {', '.join(twice)}; name a folder of one run")
    return probes


def model_of(
    probes: Sequence[Probe],
    model: str | Path | None = None,
    *,
    device: str = "auto",
) -> Model:
    """The model the probes are of, where it was or where `model` says, in the dtype it was read in.

    Of a run the checkpoint they were trained on. UserError for another model and for other weights
    of it.
    """
    about = probes[0].about
    reference = about.reference
    name = reference.id if reference.revision is None else f"{reference.id}@{reference.revision}"
    step = "best" if reference.step is None else reference.step
    opened = open_model(model or name, device=device, dtype=about.dtype, step=step)
    if not reference.same_model(opened.reference):
        at = "" if reference.step is None else f", step {reference.step}"
        raise UserError(
            f"model = '{model or name}': not the one the probes were trained on ({reference.id}"
            f"{at}): its weights or its tokenizer differ"
        )
    return opened


def tokens_of(
    texts: Iterable[str], tokenizer: Tokenizer, tokens: int
) -> tuple[Tensor, tuple[int, ...]]:
    """The first `tokens` tokens of some documents, and where each document begins among them.

    UserError where the documents hold none.
    """
    # of a long book no more is encoded than is sure to be enough
    return first_tokens((tokenizer.encode(text[: _LETTERS * tokens]) for text in texts), tokens)


def read_tokens(
    model: Model,
    probes: Sequence[Probe],
    tokens: Tensor,
    *,
    starts: Sequence[int] = (0,),
    labels: Tensor | None = None,
    own: bool = True,
    window: int | None = None,
) -> TextReading:
    """Every probe's probability for every one of the tokens (T,), and what the text says is true.

    Documents begin at `starts` and see nothing of each other. One longer than `window` (default:
    the context the probes were trained with, else 1024, and no more than the model reads) is read
    in windows that overlap by half; each token is taken from the one in which the model saw most
    before it (of a model that looks both ways: in which it is nearest the middle), so at least
    half a window. `own` asks for the model's own P(target) too, for next-token probes. `labels`
    (T,) are for tasks where the text does not tell them. UserError for what the model cannot read.
    """
    about = probes[0].about
    if tokens.ndim != 1 or not len(tokens):
        raise UserError(f"tokens: shape {tuple(tokens.shape)}, expected some tokens (T,)")
    if not starts or starts[0] != 0 or sorted(set(starts)) != list(starts):
        raise UserError(f"starts = {list(starts)}: expected rising places that begin with 0")
    window = _window(model, about, window)
    front = about.reading.prefix
    tokens = tokens.to("cpu", torch.int64)
    own = own and about.task == "next" and model.abilities.predicts
    target = about.target_id if own else None
    classes = len(about.classes)
    shape = (len(probes), len(tokens)) + (() if classes == 2 else (classes,))
    probabilities = torch.full(shape, torch.nan)
    seen = torch.full((len(tokens),), torch.nan) if target is not None else None
    context = torch.zeros(len(tokens), dtype=torch.int64)
    ends = [*starts[1:], len(tokens)]
    pieces = [
        piece
        for begin, end in zip(starts, ends, strict=True)
        for piece in _pieces(begin, end, window, causal=model.causal)
    ]
    pieces.sort(key=lambda piece: piece.end - piece.begin, reverse=True)
    reader = _Reader(model, probes)
    limit = TOKENS if target is None else min(TOKENS, _LOGITS // model.vocab_size)
    size = max(1, limit // window)
    for place in range(0, len(pieces), size):
        some = pieces[place : place + size]
        longest = some[0].end - some[0].begin + about.reading.overhead
        batch = torch.zeros(len(some), longest, dtype=torch.int64)
        mask = torch.zeros(len(some), longest, dtype=torch.int64)
        for row, piece in enumerate(some):
            ids = about.reading.around(tokens[piece.begin : piece.end].tolist())
            batch[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        found, likely = reader(batch, None if bool(mask.all()) else mask, target)
        found, likely = found.cpu(), None if likely is None else likely.cpu()
        for row, piece in enumerate(some):
            kept = slice(piece.first, piece.last)
            moved = len(front) - piece.begin
            inside = slice(piece.first + moved, piece.last + moved)
            probabilities[:, kept] = found[:, row, inside]
            context[kept] = torch.arange(piece.first - piece.begin, piece.last - piece.begin)
            if seen is not None and likely is not None:
                seen[kept] = likely[row, inside]
    return TextReading(
        tokens,
        probabilities,
        seen,
        _labels(about, tokens, starts) if labels is None else labels.to("cpu", torch.int64),
        tuple(starts),
        context,
        window,
        tuple(probe.about for probe in probes),
        model.reference,
        model.abilities.causal,
    )


def stream(
    model: Model,
    probes: Sequence[Probe],
    source: PackedText | Iterable[Tensor | tuple[Tensor, Tensor | None]],
    *,
    batch_tokens: int = TOKENS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Probes over a stream of text: (tokens (n, T), probabilities (layers, n, T[, classes])) a batch.

    `source` is packed text, read `batch_tokens` at a time, or batches of tokens (n, T), with an
    attention mask where they are padded. Probabilities are natural ones, on the model's device, as
    `Probe` gives them; the pass ends after the deepest probe's site.
    """
    reader = _Reader(model, probes)
    for batch in _batches(source, batch_tokens):
        tokens, mask = batch if isinstance(batch, tuple) else (batch, None)
        yield tokens, reader(tokens, mask)[0]


# -- inside --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """Tokens [begin, end) are read, of which [first, last) is taken."""

    begin: int
    end: int
    first: int
    last: int


def _pieces(begin: int, end: int, window: int, *, causal: bool) -> Iterator[_Piece]:
    """Windows over a document so that each token is taken once, from the best of them."""
    stride = max(1, window // 2)
    at, taken = begin, begin
    while taken < end:
        stop = min(at + window, end)
        # a causal model knows most at a window's end, another in its middle
        last = stop if causal or stop == end else at + (window - stride) // 2 + stride
        yield _Piece(at, stop, taken, last)
        taken, at = last, at + stride


def _window(model: Model, about: ProbeAbout, asked: int | None) -> int:
    longest = model.max_length and model.max_length - about.reading.overhead
    if asked is not None:
        if asked < 1 or (longest is not None and asked > longest):
            most = "" if longest is None else f" and at most {longest}, what the model reads"
            raise UserError(f"window = {asked}: expected 1 or more{most}")
        return asked
    return min(about.context_length or _WINDOW, longest or _WINDOW)


def _labels(about: ProbeAbout, tokens: Tensor, starts: Sequence[int]) -> Tensor | None:
    """Whether the next token is the target, or this one; unknown of the next after the last."""
    if about.task not in ("next", "current") or about.target_id is None:
        return None
    here = (tokens == about.target_id).long()
    if about.task == "current":
        return here
    after = torch.cat([here[1:], here.new_full((1,), -1)])
    after[[start - 1 for start in starts[1:]]] = -1
    return after


def _batches(
    source: PackedText | Iterable[Tensor | tuple[Tensor, Tensor | None]], batch_tokens: int
) -> Iterator[Tensor | tuple[Tensor, Tensor | None]]:
    if not isinstance(source, PackedText):
        yield from source
        return
    size = max(1, batch_tokens // source.context_length)
    for start in range(0, source.n_contexts, size):
        found = source.contexts(start, min(start + size, source.n_contexts))
        yield torch.from_numpy(found.tokens)


class _Reader:
    """Passes of a model with probes at their sites."""

    def __init__(self, model: Model, probes: Sequence[Probe]):
        self.model = model
        self.sites = [model.site(probe.site) for probe in probes]
        for probe in probes:
            if probe.width != model.width_at(probe.site):
                raise UserError(
                    f"{probe.about.site}: the probe reads states {probe.width} wide, and those of "
                    f"{model.reference.id} have {model.width_at(probe.site)}"
                )
        self.scores = [_folded(probe.to(model.device)) for probe in probes]

    @torch.no_grad()
    def __call__(
        self, tokens: Tensor, mask: Tensor | None, target: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities (layers, n, T[, classes]), and the model's own of the target (n, T)."""
        found: dict[int, Tensor] = {}

        def keeper(index: int) -> Callable[[Tensor], None]:
            return lambda state: found.__setitem__(index, self.scores[index](state))

        handles = [self.model.hook(site, keeper(index)) for index, site in enumerate(self.sites)]
        own = None
        try:
            if target is None:
                # hooks run in the order they were put in: the pass ends after the probes have read
                capture(self.model, tokens, [max(self.sites)], mask)
            else:
                logits = self.model.logits(tokens, mask).float()
                own = (logits[..., target] - logits.logsumexp(-1)).exp()
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([found[index] for index in range(len(self.sites))]), own


def _folded(probe: Probe) -> Callable[[Tensor], Tensor]:
    """The probe as one product with raw states, its normalisation and prior shift folded in.

        W·(x − μ)·s + b = (W s)·x + (b − W s·μ)

    A state is read once instead of four times, which tells in narrow models.
    """
    about = probe.about
    first = probe.weight if probe.hidden_weight is None else probe.hidden_weight
    bias = probe.bias if probe.hidden_bias is None else probe.hidden_bias
    scaled = first * probe.scale
    shift = torch.tensor(about.prior, device=bias.device).log()
    shift = shift - torch.tensor(about.trained_prior, device=bias.device).log()
    if len(about.classes) == 2:
        shift = shift[1:] - shift[:1]
    moved = bias - torch.mv(scaled.cpu().double(), probe.mean.cpu().double()).to(bias)
    if probe.hidden_weight is None:
        return partial(_linear, scaled, moved + shift)
    return partial(_mlp, scaled, moved, probe.weight, probe.bias + shift)


def _linear(weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    return _probabilities(linear(state.to(weight.dtype), weight, bias), state)


def _mlp(inner: Tensor, moved: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    z = linear(gelu(linear(state.to(inner.dtype), inner, moved)), weight, bias)
    return _probabilities(z, state)


def _probabilities(logits: Tensor, state: Tensor) -> Tensor:
    logits = logits.where(sound(state), torch.nan)
    return logits[..., 0].sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
