"""AuxK (Gao et al. 2024, arXiv 2406.04093, A.2): dead features learn what the live ones leave."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.dictionaries.model.dictionary import Dictionary, unit_rows

WEIGHT = 1 / 32


def auxiliary_loss(
    dictionary: Dictionary, x: Tensor, error: Tensor, dead: Tensor, weight: float = WEIGHT
) -> Tensor:
    """weight·mean ‖e − ê‖², with ê the residual e = x̃ − x̂ (B, d, detached) as the d/2 dead
    features of largest pre-activation would write it.

    Reaches the encoder and decoder rows of dead features only.
    """
    places = dead.nonzero().view(-1)
    k = min(dictionary.shape.d_model // 2, len(places)) or 1
    seen = x - dictionary.decoder_bias.detach() if dictionary.subtracts_bias else x
    z = seen @ dictionary.encoder_weight[places].T + dictionary.encoder_bias[places]
    top = z.topk(min(k, len(places)), dim=1, sorted=False)
    codes = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    written = codes @ unit_rows(dictionary.decoder_weight[places])
    return weight * (error.detach() - written.float()).square().sum() / len(x)
