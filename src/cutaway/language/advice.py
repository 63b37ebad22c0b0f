"""What a finished run shows that its owner should know, each with the field to change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cutaway.language.config import LanguageConfig

if TYPE_CHECKING:
    import pyarrow as pa

_FLAT = 0.01  # a fall of the validation loss below this share of its start is no learning
_COARSE = 5  # evaluations below which a curve is a guess
_OVERFIT = 0.02  # rise above the best validation loss, as a share of it
_HEAVY = 1.0  # weight decay that keeps a transformer's weights from growing
_FAST = 0.01  # learning rate from which AdamW breaks a transformer rather than trains it
_ALIKE = 0.02  # spread of activations below which a ranking means nothing


def advice(history: pa.Table, words: pa.Table | None, config: LanguageConfig) -> list[str]:
    """One line for each thing worth knowing; empty where all is well.

    history: the run's rows (step, val_loss); words: its table `words`, if it has one.
    """
    return [
        *_about_the_curve(history, config),
        *_about_words(words, config),
    ]


def _about_the_curve(history: pa.Table, config: LanguageConfig) -> list[str]:
    if "val_loss" not in history.column_names:
        return []
    pairs = zip(history["step"].to_pylist(), history["val_loss"].to_pylist(), strict=True)
    evaluations = [(step, loss) for step, loss in pairs if loss is not None and math.isfinite(loss)]
    if not evaluations:
        return []
    notes = []
    steps = history["step"].to_pylist()[-1]
    losses = [loss for _, loss in evaluations]
    if len(evaluations) < _COARSE:
        notes.append(
            f"only {len(evaluations)} evaluations in {steps} steps: too coarse for a curve; "
            f"set eval_interval to {max(1, steps // 20)} (it is {config.eval_interval})"
        )
    if losses[-1] > losses[0] * (1 + _OVERFIT):
        notes.append(
            f"the validation loss rose from {losses[0]:.3f} to {losses[-1]:.3f}: training diverged; "
            f"lower learning_rate (it is {config.learning_rate:g}) or raise warmup_iters"
        )
        return notes
    if len(losses) > 1 and losses[0] - min(losses) < _FLAT * losses[0]:
        notes.append(
            f"the validation loss is flat ({losses[0]:.3f} to {losses[-1]:.3f}): "
            + _out_of_flat(steps, config)
        )
    best = min(losses)
    if losses[-1] > best * (1 + _OVERFIT):
        at = evaluations[losses.index(best)][0]
        notes.append(
            f"the validation loss rose from {best:.3f} at step {at} to {losses[-1]:.3f}: the model "
            f"overfits; lower max_iters to about {at}, or raise dropout (it is {config.dropout:g})"
        )
    elif len(losses) >= _COARSE and losses[-2] - losses[-1] > 0.01 * losses[-1]:
        notes.append(
            f"the validation loss was still falling at the end ({losses[-2]:.3f} to "
            f"{losses[-1]:.3f}): train on with --extra-steps, or raise max_iters"
        )
    return notes


def _out_of_flat(steps: int, config: LanguageConfig) -> str:
    """What moves a loss that does not fall, the likeliest first by the settings that hold it."""
    if config.warmup_iters >= steps:
        return (
            f"the warm-up never ended; lower warmup_iters (it is {config.warmup_iters}) or raise "
            f"max_iters (it is {config.max_iters})"
        )
    ways = []
    if config.weight_decay >= _HEAVY:
        ways.append(f"lower weight_decay (it is {config.weight_decay:g})")
    if config.learning_rate >= _FAST:
        ways.append(f"lower learning_rate (it is {config.learning_rate:g})")
    else:
        ways.append(f"raise learning_rate (it is {config.learning_rate:g})")
        ways.append(f"raise max_iters (it is {config.max_iters})")
    return " or ".join(ways)


def _about_words(words: pa.Table | None, config: LanguageConfig) -> list[str]:
    if config.model != "backpack":
        return []
    if words is None or not words.num_rows:
        return [why_no_words(config)]
    last = words["step"].to_pylist()[-1]
    if 0 < last < config.words_every:
        return [
            f"words were read at the first and the last step only: the run of {last} steps ended "
            f"before words_interval ({config.words_every}; half of eval_interval unless set)"
        ]
    activations = [
        a
        for step, a in zip(words["step"].to_pylist(), words["activation"].to_pylist(), strict=True)
        if step == last
    ]
    spread = (max(activations) - min(activations)) / max(activations)
    if len(activations) > 1 and spread < _ALIKE:
        return [
            f"the most used words all lie within {spread:.1%} of each other: their ranking means "
            f"nothing yet; train longer (max_iters is {config.max_iters})"
        ]
    return []


def why_no_words(config: LanguageConfig) -> str:
    """Why a run has no readings of words, and the field to change."""
    if config.model != "backpack":
        return (
            f"no words: model is {config.model}, and only a backpack has senses (model: backpack)"
        )
    return (
        "no words: none was seen five times in the held-out windows; raise eval_iters or "
        "validation_fraction, or lower vocab_size"
    )
