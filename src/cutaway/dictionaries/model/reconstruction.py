"""How well states are reconstructed: sums over tokens, in float64, and the figures they give."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base.hardware import widened
from cutaway.sparse.codes import Codes


class Reconstruction:
    """Adds up batches of raw states, their reconstructions and features.

    explained variance = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean over the same tokens: predicting
    the mean scores 0. normalised MSE = mean over tokens of ‖x − x̂‖² / ‖x‖². cosine = mean of
    that between x and x̂. l0 = features that are not zero per token; dead_share = features silent
    on every token. States that are not finite are left out of all of them; `non_finite` counts them.
    """

    def __init__(self, width: int, features: int):
        self._counts = torch.zeros(2, dtype=torch.int64)  # finite states, and others
        self._sums = torch.zeros(
            5, dtype=torch.float64
        )  # error, ‖x − shift‖², nmse, cosine, active
        self._shift: Tensor | None = None  # about the mean, so that Σ(x − x̄)² loses no digits
        self._total = torch.zeros(width, dtype=torch.float64)  # of x less the shift
        self.fired = torch.zeros(features, dtype=torch.float64)

    @torch.no_grad()
    def add(self, x: Tensor, reconstruction: Tensor, codes: Codes) -> None:
        """(B, d) twice, and the features of the same tokens."""
        if not len(x):
            return
        sound = x.isfinite().all(1, keepdim=True)
        count, broken = sound.sum(), sound.logical_not()
        x = x.float().masked_fill(broken, 0.0)
        reconstruction = reconstruction.float().masked_fill(broken, 0.0)
        if self._shift is None:
            mean = widened(x).sum(0) / widened(count).clamp(min=1)
            self._shift = mean.float().to(x.device)
        moved = (x - self._shift).masked_fill(broken, 0.0)
        error = (x - reconstruction).square().sum(1)
        square = x.square().sum(1)
        product = torch.linalg.vecdot(x, reconstruction)
        length = (square * reconstruction.square().sum(1)).sqrt().clamp_(min=1e-30)
        fired = codes.fired(sound)
        sums = torch.stack(
            [
                widened(error).sum(),
                widened(moved).square().sum(),
                widened(error / square.clamp(min=1e-30)).sum(),
                widened(product / length).sum(),
                widened(fired).sum(),
            ]
        )
        self._counts += torch.stack([count, broken.sum()]).cpu()
        self._sums += sums.cpu()
        self._total += widened(moved).sum(0).cpu()
        self.fired += fired.cpu()

    @property
    def tokens(self) -> int:
        """How many states the figures are of."""
        return int(self._counts[0])

    @property
    def non_finite(self) -> int:
        """How many were left out."""
        return int(self._counts[1])

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        n = self.tokens
        error, moved, normalised, cosine, active = (float(value) for value in self._sums)
        spread = moved - float(self._total.square().sum()) / n
        return {
            "loss": error / n,
            "explained_variance": 1 - error / spread if spread > 0 else float("nan"),
            "normalised_mse": normalised / n,
            "cosine": cosine / n,
            "l0": active / n,
            "dead_share": float((self.fired == 0).double().mean()),
        }

    def density(self) -> Tensor:
        """On what share of tokens each feature fires, (F,)."""
        return self.fired / max(1, self.tokens)
