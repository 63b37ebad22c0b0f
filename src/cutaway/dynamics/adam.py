"""What Adam makes of the gradient: its effective rates, how sure it is, how it stands to decay."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.training.instruments import Moment, Stateless
from cutaway.training.schedule import learning_rate


class AdamDynamics(Stateless):
    """Figures of Adam's moments as they are before the step's update, with bias-corrected
    m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ) and λ the weight decay (Loshchilov & Hutter 2019):

    effective_lr_mean, effective_lr_max  lr / (√v̂ + ε) over all weights: the rate itself, so larger
                                         means larger steps
    adam_ratio_mean, adam_ratio_max      |m̂| / (√v̂ + ε): signal to noise, 1 where the gradient is
                                         steady, near 0 where it keeps changing sign
    update_decay_ratio                   ‖m̂ / (√v̂ + ε)‖ / (λ ‖w‖) over the weights that decay

    A weight that never had a gradient has v̂ = 0 and the effective rate lr / ε. All are exact and
    have no error. There are none before the first update; update_decay_ratio is absent at λ = 0
    and where nothing decays (NaN for a member of a stack in which others have one).
    """

    name = "adam_dynamics"

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def read(self, at: Moment) -> dict[str, Tensor]:
        members = at.task.members
        on = next(at.task.parameters()).device
        wide = hardware.wide(on)

        def column(values: list[float]) -> Tensor:
            """One number for each member, (members, 1)."""
            return torch.tensor(values, dtype=wide, device=on)[:, None]

        beta1 = column([config.beta1 for config in at.configs])
        beta2 = column([config.beta2 for config in at.configs])
        epsilon = column([config.epsilon for config in at.configs])
        inverse_sum = ratio_sum = update_square = weight_square = column([0.0] * members)[:, 0]
        smallest, ratio_max, count, decayed = [], [], 0, False
        for name, parameter in at.task.named_parameters():
            moments = at.updater.moments(name) if parameter.requires_grad else {}
            if not moments:
                continue
            dtype, step = parameter.dtype, moments["step"].to(on, wide)
            root = (1 - beta2**step).sqrt().to(dtype)
            below = moments["exp_avg_sq"].reshape(members, -1).sqrt() / root + epsilon.to(dtype)
            mean = moments["exp_avg"].reshape(members, -1) / (1 - beta1**step).to(dtype)
            ratio = mean.abs() / below
            count += below.shape[1]
            inverse_sum = inverse_sum + below.reciprocal().sum(1, dtype=wide)
            ratio_sum = ratio_sum + ratio.sum(1, dtype=wide)
            smallest.append(below.amin(1))
            ratio_max.append(ratio.amax(1))
            if at.task.decays(name, parameter):
                decayed = True
                weights = parameter.reshape(members, -1)
                update_square = update_square + ratio.square().sum(1, dtype=wide)
                weight_square = weight_square + weights.square().sum(1, dtype=wide)
        if not count:
            return {}
        rate = column([learning_rate(config, at.step) for config in at.configs])[:, 0]
        row = {
            "effective_lr_mean": rate * inverse_sum / count,
            "effective_lr_max": rate / torch.stack(smallest).amin(0).to(wide),
            "adam_ratio_mean": ratio_sum / count,
            "adam_ratio_max": torch.stack(ratio_max).amax(0).to(wide),
        }
        if decayed and any(config.weight_decay for config in at.configs):
            decay = column([config.weight_decay or float("nan") for config in at.configs])[:, 0]
            row["update_decay_ratio"] = update_square.sqrt() / (decay * weight_square.sqrt())
        return row if members > 1 else {name: value[0] for name, value in row.items()}
