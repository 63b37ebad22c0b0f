"""Means over a text's tokens of its hidden states and features, each text once.

    x̄ = 1/|T| Σ_{t∈T} x_t,    f̄ = 1/|T| Σ_{t∈T} f(x_t)

T are the text's own tokens: no BOS, no padding and, as in the dictionary's training, no position
0, whose state is an attention sink. What is held at once is a batch of tokens' states and codes
and (texts of the batch × F) sums; what is kept is d numbers and the features that fired, per text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.capture import capture
from cutaway.base.columns import column
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.base.progress import progress
from cutaway.dictionaries import origin
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model_at, skips_first
from cutaway.labelled.texts import LabelledTexts
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.sparse.codes import Codes, SparseCodes

BATCH_TOKENS = 4096  # with padding, of one forward pass
SAMPLE = 16_384  # tokens whose states baselines are fitted on
_LONGEST = 1024  # tokens of a text that are read where neither model nor dictionary sets a limit
_ENTRIES = 2**24  # of a slice of sparse rows that is made dense
Encoder = Callable[[Tensor], Codes]


class SparseRows:
    """A matrix (n, F) of which few entries are not zero, row by row.

    Row i's are `features[ends[i-1]:ends[i]]`, ascending, with their `values`.
    """

    def __init__(self, ends: Tensor, features: Tensor, values: Tensor, width: int):
        self.ends, self.features, self.values, self.width = ends, features, values, width

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: Tensor) -> SparseRows:
        """These rows, in their order."""
        begins, counts = self.ends[rows] - self._counts[rows], self._counts[rows]
        ends = counts.cumsum(0)
        inside = torch.arange(int(counts.sum()), device=counts.device)
        inside -= torch.repeat_interleave(ends - counts, counts)
        places = torch.repeat_interleave(begins, counts) + inside
        return SparseRows(ends, self.features[places], self.values[places], self.width)

    @property
    def _counts(self) -> Tensor:
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def _owners(self) -> Tensor:
        rows = torch.arange(len(self), device=self.ends.device)
        return torch.repeat_interleave(rows, self._counts)

    def dense(self) -> Tensor:
        """(n, F)."""
        out = self.values.new_zeros(len(self) * self.width)
        out[self._owners() * self.width + self.features] = self.values
        return out.view(len(self), self.width)

    def columns(self, features: Tensor) -> Tensor:
        """The columns `features` (K,), each a different one, dense: (n, K)."""
        place = torch.full((self.width,), -1, dtype=torch.int64, device=features.device)
        place[features] = torch.arange(len(features), device=features.device)
        at = place[self.features.long()]
        kept = at >= 0
        out = self.values.new_zeros(len(self), len(features))
        out[self._owners()[kept], at[kept]] = self.values[kept]
        return out

    def scaled(self, factor: float) -> SparseRows:
        """The matrix times a number."""
        return SparseRows(self.ends, self.features, self.values * factor, self.width)

    def weighted(self, weights: Tensor) -> Tensor:
        """weights (C, n) times the matrix: (C, F). A slice of its rows at a time is made dense."""
        out = weights.new_zeros(len(weights), self.width)
        size = max(1, _ENTRIES // self.width)
        for rows in torch.arange(len(self), device=weights.device).split(size):
            out += weights[:, rows] @ self[rows].dense().to(weights.dtype)
        return out


@dataclass(frozen=True)
class EncodedTexts:
    """Means of n texts: `states` (n, d), float32, raw; `features` by encoder, (n, F) each;
    `tokens` (n,) that were averaged over (0 of texts that have no token but the first)."""

    states: Tensor
    features: Mapping[str, SparseRows]
    tokens: Tensor

    def readable(self, task: LabelledTexts, index: Tensor) -> tuple[LabelledTexts, Tensor]:
        """A task without its texts that have no token to read, which a notice counts; `index` (n,)
        says where each of its texts stands here, and what is left of it is returned too."""
        there = self.tokens[index] > 0
        if bool(there.all()):
            return task, index
        notice(f"{task.name}: {int((~there).sum())} texts have no token to read and were left out")
        return task.chosen(there.nonzero().view(-1).tolist()), index[there]


def encode_texts(
    dictionary: Dictionary,
    model: Model,
    texts: Sequence[str],
    *,
    site: str | int | Site | None = None,
    context_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    encoders: Mapping[str, Encoder] | None = None,
) -> EncodedTexts:
    """Mean states and features of texts, in their order: one forward pass up to `site` for each.

    `site`: by default where the dictionary was trained. A text is read up to `context_length`
    tokens, by default as in the dictionary's training, at most what the model reads. `encoders`
    are more functions of raw states (tokens, d) beside `dictionary`'s own. States that are not
    finite are left out and counted in a notice. Raises UserError where model and dictionary do not
    go together, for no texts, or where not a single text has a token to read.
    """
    texts = column(texts, "texts")
    reader = TextReader(dictionary, model, site, context_length, batch_tokens)
    functions = {"dictionary": dictionary.contributions, **(encoders or {})}
    ids = reader.tokenised(texts)
    kept = {name: _Rows() for name in functions}
    states = torch.zeros(len(texts), dictionary.shape.d_model)
    tokens = torch.zeros(len(texts), dtype=torch.int64)
    order: list[Tensor] = []
    with progress("encoding texts", len(texts), "texts") as bar:
        for rows, x, owners in reader.batches(ids):
            count = torch.bincount(owners, minlength=len(rows))
            share = 1 / count.clamp(min=1).float()
            total = x.new_zeros(len(rows), x.shape[1]).index_add_(0, owners, x)
            states[rows] = (total * share[:, None]).cpu()
            tokens[rows] = count.cpu()
            order.append(rows)
            for name, function in functions.items():
                kept[name].add(function(x), owners, share)
            bar.advance(len(rows))
    if not bool(tokens.any()):
        raise UserError("texts: none has a token to read (position 0 is left out)")
    back = torch.argsort(torch.cat(order))
    return EncodedTexts(states, {name: one.rows()[back] for name, one in kept.items()}, tokens)


def sample_states(
    dictionary: Dictionary,
    model: Model,
    texts: Sequence[str],
    *,
    site: str | int | Site | None = None,
    context_length: int | None = None,
    count: int = SAMPLE,
    seed: int = 0,
) -> Tensor:
    """Raw states (about `count`, d) of tokens from all over the texts, as `encode_texts` reads
    them: whole texts drawn by the seed. UserError where they hold fewer than two."""
    reader = TextReader(dictionary, model, site, context_length, BATCH_TOKENS)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    taken: list[list[int]] = []
    missing = count
    for start in range(0, len(order), 256):
        for ids in reader.tokenised([texts[i] for i in order[start : start + 256]]):
            if missing > 0:
                taken.append(ids)
                missing -= max(0, len(ids) - reader.skipped)
        if missing <= 0:
            break
    found = [x for _, x, _ in reader.batches(taken)]
    if sum(map(len, found)) < 2:
        raise UserError("texts: fewer than two tokens to read (position 0 is left out)")
    return torch.cat(found)[:count]


def unit_decoder(dictionary: Dictionary) -> Tensor:
    """The decoder's rows (F, d), float32, of length 1: what `contributions` are written with."""
    rows, length = dictionary.decoder_weight.detach().float(), dictionary.row_lengths()
    return rows if length is None else rows / length[:, None]


class TextReader:
    """Texts to batches of the states of their own tokens, longest texts first."""

    def __init__(
        self,
        dictionary: Dictionary,
        model: Model,
        site: str | int | Site | None,
        context_length: int | None,
        batch_tokens: int,
    ):
        self.model, self.site = model, require_model_at(dictionary, model, site)
        self.device = dictionary.decoder_weight.device
        about = dictionary.metadata
        self.reading = origin.reading(dictionary, model)
        self.skipped = max(int(skips_first(dictionary)), len(self.reading.prefix))
        usual = about.get("context_length") or _LONGEST
        limits = [context_length or usual, model.max_length]
        self.length = min(limit for limit in limits if limit is not None)
        if context_length is not None and not self.skipped < context_length <= self.length:
            raise UserError(
                f"context_length = {context_length}: expected {self.skipped + 1} to "
                f"{model.max_length or 'any'} tokens"
            )
        self.batch_tokens = max(batch_tokens, self.length)

    def tokenised(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, cut to the context, with the special tokens training had."""
        if not texts:
            raise UserError("texts: there are none")
        kept = self.length - self.reading.overhead
        return [self.reading.around(ids[:kept]) for ids in self.model.reads.encode_batch(texts)]

    def batches(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(rows, x, owners): which texts, the states (tokens, d) of their tokens that count, in
        float32, and each one's place in `rows`. Texts too short to have one come with none."""
        lengths = np.array([len(one) for one in ids])
        order = np.argsort(-lengths, kind="stable")
        spoilt = start = 0
        while start < len(order):
            longest = max(1, int(lengths[order[start]]))
            rows = order[start : start + max(1, self.batch_tokens // longest)]
            start += len(rows)
            x, owners, mask = self._states([ids[row] for row in rows], longest)
            spoilt += int(mask.sum()) - len(x)
            yield torch.from_numpy(rows), x, owners
        if spoilt:
            notice(f"{spoilt:,} states at {self.site} are not finite and were left out")

    def _states(self, ids: Sequence[Sequence[int]], longest: int) -> tuple[Tensor, Tensor, Tensor]:
        tokens = torch.zeros(len(ids), longest, dtype=torch.int64)
        mask = torch.zeros(len(ids), longest, dtype=torch.int64)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
            mask[row, : len(one)] = 1
        device = self.model.device
        # Behind the text padding changes nothing where a position sees only those before it.
        seen = None if self.model.causal or bool(mask.all()) else mask.to(device)
        state = capture(self.model, tokens.to(device), [self.site], seen)[self.site]
        mask[:, : self.skipped] = 0
        owners, places = mask.nonzero(as_tuple=True)
        x = state[owners.to(device), places.to(device)].to(self.device, torch.float32)
        sound = torch.linalg.vector_norm(x, dim=1).isfinite()
        owners = owners.to(self.device)
        if not bool(sound.all()):
            x, owners = x[sound], owners[sound]
        return x, owners, mask


class _Rows:
    """Collects means of features, texts batch by batch."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []
        self._features: list[Tensor] = []
        self._values: list[Tensor] = []
        self._width = 0

    def add(self, codes: Codes, owners: Tensor, share: Tensor) -> None:
        """Codes of tokens, the text of each, and 1 / tokens of each text."""
        self._width = width = codes.shape[1]
        sums = codes.values.new_zeros(len(share) * width)
        if isinstance(codes, SparseCodes):
            pattern = codes.pattern
            sums.index_add_(0, owners[pattern.rows] * width + pattern.features, codes.values)
        else:
            sums.view(-1, width).index_add_(0, owners, codes.values)
        places = sums.nonzero().view(-1)
        rows = places.div(width, rounding_mode="floor")
        self._counts.append(torch.bincount(rows, minlength=len(share)).cpu())
        self._features.append((places - rows * width).int().cpu())
        self._values.append((sums[places] * share[rows]).float().cpu())

    def rows(self) -> SparseRows:
        """All rows, in the order in which they came."""
        ends = torch.cat(self._counts).cumsum(0)
        return SparseRows(ends, torch.cat(self._features), torch.cat(self._values), self._width)
