"""The penalty on the cosines of chosen pairs of decoder rows, and what it remembers between steps.

`top_k` (DEFINITIONS: top-k orthogonality) and its control `random`, over the selected pairs S:

    L = w(t) · 1/|S| · Σ_{(i,j) ∈ S} relu(|cos(dᵢ, dⱼ)| − τ)²

`all_pairs` (OrtSAE: Korznikov et al. 2025, arXiv 2509.22033), features shuffled into K chunks C_k
anew each step, so that its cost is F²/K and not F²:

    L = w(t) · 1/K · Σ_k 1/|C_k| · Σ_{i ∈ C_k} (max_{j ∈ C_k, j ≠ i} cos(dᵢ, dⱼ))²

w(t) rises linearly over the warm-up. Rows have length 1, so a cosine is an inner product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.base.seeds import torch_generator
from cutaway.dictionaries.training.orthogonality_fields import OrthogonalityFields
from cutaway.orthogonality.pairs import Selection, random_pairs, top_pairs
from cutaway.orthogonality.stability import Stability
from cutaway.sparse import products as sparse
from cutaway.sparse.codes import Codes
from cutaway.sparse.pattern import Pattern

_UNDER = 0.9  # of the last step's least selected score: what the next is guessed to be above


class PairPenalty(torch.autograd.Function):
    """Σ weightₚ·relu(|cₚ| − τ)², cₚ = ⟨dᵢ, dⱼ⟩: (F, d) → the sum () and the cosines (P,), detached.

    Pairs are given as a pattern of (F, F). Backward is that of the cosine where rows have length 1,
    ∂c/∂dᵢ = dⱼ − c·dᵢ, at the pairs above τ only: with g = 2·weight·relu(|c| − τ)·sign(c),

        ∂dᵢ = Σⱼ gᵢⱼ·dⱼ − (Σⱼ gᵢⱼ·cᵢⱼ)·dᵢ

    over the pairs in both directions: one sum of rows, of which the last term is the diagonal.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, pairs: Pattern, tau: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        cosines = sparse.inner(rows, rows, pairs)
        over = (cosines.abs() - tau).clamp_(min=0)
        ctx.save_for_backward(rows, 2 * weight * over * cosines.sign(), cosines)
        ctx.pairs = pairs
        ctx.mark_non_differentiable(cosines)
        return (weight * over.square()).sum(), cosines

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        rows, slopes, cosines = ctx.saved_tensors
        features = len(rows)
        on = slopes.nonzero().view(-1)
        i, j = ctx.pairs.rows[on], ctx.pairs.features[on]
        across = slopes[on] * gradient
        along = -across * cosines[on]
        flat, order = torch.cat(
            [i * features + j, j * features + i, i * (features + 1), j * (features + 1)]
        ).sort()
        values = torch.cat([across, across, along, along])[order]
        both = Pattern(flat, (features, features))
        return sparse.sum_by_row(values, rows, both), None, None, None


class Orthogonality(nn.Module):
    """The penalty of one dictionary in training; all it remembers is in buffers.

    `features` F; `seed` of what is drawn (`random`, `all_pairs`), each step's a pure function of
    (seed, step). Raises UserError where the settings select no pair of so many features.
    """

    tau: Tensor

    def __init__(self, features: int, settings: OrthogonalityFields, seed: int = 0):
        super().__init__()
        self.features, self.settings, self.seed = features, settings, seed
        self.wanted = settings.pairs_wanted(features)
        self.register_buffer("tau", torch.tensor(float(settings.tau)))
        if settings.orthogonality != "all_pairs":
            self.stability = Stability(self.wanted)
        self.selection: Selection | None = None
        self.cosines: Tensor | None = None  # of the selection's pairs, in its order
        self._seen: dict[str, Tensor] = {}
        self._guess = 0.0  # only makes the selection faster, so it need not be kept

    def loss(
        self, codes: Codes, decoder_rows: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted penalty on a batch, (), and the step's figures, detached.

        `codes` say which pairs (`top_k`, `random`); no gradient reaches them. `decoder_rows`
        (F, d), of length 1, get that of the cosines, exact: at right angles to the rows. (So they
        need no `unit_rows`, which would cost two passes over them for nothing.) Without a
        co-occurring pair the penalty is 0, and so is its gradient.

        Figures: `tau` of this step; `pair_cosine_mean`, `pair_cosine_std` of the pairs' |cos|
        (NaN without a pair); `pairs_selected`; `orthogonality_weight`; and those of
        `Stability.figures`. In `all_pairs` a pair is a feature and its nearest in its chunk, there
        is no τ, and as chunks are drawn anew each step, no overlap.
        """
        if self.settings.orthogonality == "all_pairs":
            pattern, weights = self._nearest(decoder_rows, step)
            tau, figures = torch.zeros_like(self.tau), {}
        else:
            chosen = self._select(codes, step)
            pattern = Pattern(chosen.ids, (self.features, self.features))
            weights = decoder_rows.new_full((), 1 / max(1, len(chosen)))
            tau = self.tau.clone()
            figures = {"tau": tau, **self.stability.figures(chosen.ids)}
            self.selection = chosen
        scale = self._weight(step)
        penalty, cosines = PairPenalty.apply(decoder_rows, pattern, tau, weights)
        absolute = cosines.abs()
        mean = absolute.mean()
        self.cosines = cosines
        self._seen = figures | {
            "pair_cosine_mean": mean,
            "pair_cosine_std": (absolute - mean).square().mean().sqrt(),
            "pairs_selected": torch.tensor(float(len(pattern)), device=cosines.device),
            "orthogonality_weight": torch.tensor(scale, device=cosines.device),
        }
        return scale * penalty, dict(self._seen)

    @torch.no_grad()
    def after_step(self) -> None:
        """τ and the selection before move on; once after each update.

        Adaptive: τ ← clip(m·τ + (1 − m)·(mean + std of |cos|), τ_min, τ_max), with m `tau_memory`
        and the mean and standard deviation (over all selected pairs, so divided by their number)
        as the step saw them. Where nothing was selected it stays.
        """
        if "pair_overlap" not in self._seen:
            return
        self.stability.advance(self.selection.ids, self._seen["pair_reference_overlap"])
        if self.settings.tau_adaptive and len(self.selection):
            seen = self._seen["pair_cosine_mean"] + self._seen["pair_cosine_std"]
            memory, low, high = (
                getattr(self.settings, name) for name in ("tau_memory", "tau_min", "tau_max")
            )
            self.tau.mul_(memory).add_((1 - memory) * seen).clamp_(low, high)

    def _weight(self, step: int) -> float:
        warmup = self.settings.orthogonality_warmup
        risen = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return self.settings.orthogonality_weight * risen

    def _select(self, codes: Codes, step: int) -> Selection:
        if self.settings.orthogonality == "random":
            return random_pairs(codes, self.wanted, self.seed, step)
        chosen = top_pairs(codes, self.wanted, self._guess)
        full = len(chosen) == self.wanted
        self._guess = _UNDER * chosen.least if full else 0.0
        return chosen

    @torch.no_grad()
    def _nearest(self, rows: Tensor, step: int) -> tuple[Pattern, Tensor]:
        """Each feature with the one in its chunk whose cosine is largest; and 1 / (K·|C|) of each."""
        chunks = self.settings.orthogonality_chunks
        generator = torch_generator(self.seed, step, "orthogonality.chunks")
        shuffled = torch.randperm(self.features, generator=generator).to(rows.device)
        nearest = torch.empty_like(shuffled)
        weights = rows.new_empty(self.features)
        for chunk in shuffled.tensor_split(chunks):
            own = rows[chunk]
            cosines = (own @ own.T).fill_diagonal_(-torch.inf)
            nearest[chunk] = chunk[cosines.argmax(1)]
            weights[chunk] = 1 / (chunks * len(chunk))
        places = torch.arange(self.features, device=rows.device) * self.features
        return Pattern(places + nearest, (self.features, self.features)), weights
