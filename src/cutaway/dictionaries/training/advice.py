"""What a finished dictionary shows against its targets, and the field to change where it misses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cutaway.dictionaries.training.config import FIXED_L0, DictionaryConfig

if TYPE_CHECKING:
    import pyarrow as pa

MOST_DEAD = 0.1  # share of features that may be silent (the training guide's target)
_OFF = 0.1  # of L0 from its target
_SLOW = 3600.0  # seconds of training
_LARGE_BATCH = 4096  # from which on larger ones are hardly faster
_RISING = 0.01  # of explained variance over the last fifth: it has not converged


class Verdict(NamedTuple):
    """One target: what it is about, what was asked and seen, and whether it was met."""

    what: str
    asked: str
    seen: float
    met: bool


def judged(history: pa.Table, step: int | None = None) -> dict[str, Any] | None:
    """The row of the step whose weights are loaded: the best checkpoint's, else the last evaluated.

    None where nothing was evaluated.
    """
    rows = [row for row in history.to_pylist() if row.get("val_l0") is not None]
    return next((row for row in reversed(rows) if row["step"] == step), rows[-1] if rows else None)


def verdict(figures: dict[str, Any], config: DictionaryConfig) -> list[Verdict]:
    """The targets of a `sized` config against one step's held-out figures (`val_...`, `judged`)."""
    found = []
    if config.target_l0 is not None:  # none where only its price was given
        l0 = figures["val_l0"]
        low = config.target_sparsity_min or config.target_l0 * (1 - _OFF)
        high = config.target_sparsity_max or config.target_l0 * (1 + _OFF)
        met = low <= l0 <= high
        found.append(Verdict("features per token", f"{low:g} to {high:g}", l0, met))
    dead = figures["val_dead_share"]
    found.append(Verdict("dead features", f"under {MOST_DEAD:.0%}", dead, dead < MOST_DEAD))
    if config.target_recon_loss is not None:
        error = figures["val_normalised_mse"]
        asked = f"under {config.target_recon_loss:g}"
        met = error < config.target_recon_loss
        found.append(Verdict("normalised MSE", asked, error, met))
    return found


def advice(
    history: pa.Table,
    config: DictionaryConfig,
    *,
    held_out: int,
    length: str = "epochs",
    best: int | None = None,
) -> list[str]:
    """One line for each target missed; empty where all is well. `config` is a sized one.

    `held_out` states were evaluated on; `length` is the field that says how long to train; `best`
    the step of the checkpoint that is loaded, whose figures count (the last where it is None).
    """
    longer = f"{length} (it is {_plain(getattr(config, length))})"
    rows = [row for row in history.to_pylist() if row.get("val_l0") is not None]
    seen = judged(history, best)
    if seen is None:
        return []
    at = "" if seen["step"] == rows[-1]["step"] else f"at step {seen['step']:,}, the best one, "
    missed = {one.what for one in verdict(seen, config) if not one.met}
    begin = rows[-max(2, len(rows) // 5)]
    rise = rows[-1]["val_explained_variance"] - begin["val_explained_variance"]
    rising = len(rows) > 4 and rise > _RISING
    notes = []
    if "features per token" in missed:
        notes.append(at + _about_l0(seen["val_l0"], rows[-1]["step"], config, longer))
    if "dead features" in missed:
        notes.append(at + _about_dead(seen, held_out, config))
    if "normalised MSE" in missed:
        notes.append(at + _about_error(seen, config, longer, rising=rising))
    if rising:
        notes.append(
            f"explained variance still rose by {rise:.3f} over the last fifth of the steps: "
            f"raise {longer}"
        )
    seconds = rows[-1].get("seconds") or 0.0
    if seconds > _SLOW:
        notes.append(_about_speed(seconds, rows[-1]["step"] * config.batch_size, config))
    return notes


def _about_dead(seen: dict[str, Any], held_out: int, config: DictionaryConfig) -> str:
    """Features silent on the held-out states; if they fired in training, too few states were read."""
    line = (
        f"{seen['val_dead_share']:.0%} of the features fired on none of {held_out:,} held-out "
        "tokens: "
    )
    trained = seen.get("dead_share")
    if trained is not None and trained < MOST_DEAD and held_out < (config.dead_after or 0):
        more = f"raise eval_tokens (it is {config.eval_tokens:,})"
        if held_out < config.eval_tokens:  # there are no more of them
            more = f"give more text, or raise validation_fraction (it is {config.validation_fraction:g})"
        line += (
            f"in training {trained:.0%} were silent for dead_after ({config.dead_after:,}) tokens, "
            f"so read more of them first: {more}; or "
        )
    ways = [
        "give more varied data",
        f"a smaller d_hidden (it is {config.d_hidden})",
        f"a shorter dead_after (it is {config.dead_after:,})",
    ]
    if config.architecture == "jumprelu":
        ways.append("or a lower threshold")
    return line + ", ".join(ways)


def _about_error(
    seen: dict[str, Any], config: DictionaryConfig, longer: str, *, rising: bool
) -> str:
    """The reconstruction's error; a run that still gets better is trained on first."""
    line = (
        f"normalised MSE {seen['val_normalised_mse']:.3f} misses target_recon_loss = "
        f"{config.target_recon_loss:g}, at {seen['val_l0']:.3g} features per token: raise "
    )
    ways = [f"d_hidden (it is {config.d_hidden})"]
    if config.target_l0 is not None:
        ways.append(f"target_l0 (it is {config.target_l0:g})")
    ways.insert(0 if rising else len(ways), longer)
    line += ", ".join(ways[:-1]) + f" or {ways[-1]}"
    if config.target_l0 is None and config.lambda_sparse is not None:
        line += f", or lower lambda_sparse (it is {config.lambda_sparse:g})"
    return line


def _plain(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _about_speed(seconds: float, states: int, config: DictionaryConfig) -> str:
    seen = f"took {seconds / 3600:.1f} hours, {states / seconds:,.0f} states a second: "
    ways = ["a GPU (device)"]
    if config.streaming:
        ways.insert(0, "a store (`cutaway extract`), which runs the model once")
    if config.batch_size < _LARGE_BATCH:
        ways.insert(0, f"a larger batch_size (it is {config.batch_size})")
    return seen + ", ".join(ways[:-1]) + (" or " if len(ways) > 1 else "") + ways[-1] + " is faster"


def _about_l0(l0: float, steps: int, config: DictionaryConfig, longer: str) -> str:
    target = config.target_l0
    assert target is not None
    seen = f"{l0:.1f} features per token, {target:g} aimed at: "
    if config.architecture in FIXED_L0 and l0 < target:
        return seen + f"fewer are positive than asked for; lower target_l0 (it is {target:g})"
    if config.architecture in FIXED_L0:
        return seen + (
            f"its inference threshold, a mean over batches, had not settled in {steps:,} steps; "
            f"raise {longer}"
        )
    return seen + f"its price had not settled in {steps:,} steps; raise {longer}"
