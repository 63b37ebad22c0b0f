"""Which examples probes have met in training: their figures say nothing about new text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cutaway.base.errors import UserError
from cutaway.probes.data.examples import Examples, ProbeData
from cutaway.probes.other_data.held_out import data_folder
from cutaway.probes.states.probe import ProbeAbout
from cutaway.text.repeats import RUN, run_hashes

_SHORT = 16  # tokens in a row that unrelated texts may share by chance


def share_in_training(probes: str | Path, about: ProbeAbout, examples: Examples) -> float | None:
    """The share of examples whose text training had too.

    An example was met where its whole context is one of the training part's, or where the last 32
    tokens up to the place that is read stand in one (of windows under 62 tokens: half of theirs).
    None where the training data are not where they were, or are others by now, and where windows
    are so short that unrelated texts share as much by chance.
    """
    folder = data_folder(probes)
    if folder is None:
        return None
    try:
        data = ProbeData.load(folder).reading(about.task)
    except UserError:
        return None
    if about.data.get("sha256") not in (None, data.fingerprint):
        return None
    length = RUN
    if about.task != "labels" and data.context_length:
        length = min(RUN, data.context_length // 2 + 1)  # what every place of a text has before it
    trained = data.parts["train"].compact()
    whole = _whole(trained)
    met = np.array([one in whole for one in _whole_of_each(examples)])
    if length >= _SHORT:
        met |= _met_runs(trained, examples, length)
    share = float(met.mean()) if len(met) else 0.0
    # so short windows are equal by chance: a share says something only where most of them are
    return share if length >= _SHORT or share > 0.5 else None


def familiar_line(share: float | None) -> str | None:
    """What to say beside the figures; None where training had nothing of this text."""
    if share is None:
        return (
            "in_training: not known (the data of the probes' training are not where they were, or their "
            "windows are too short to tell); figures on text of training say nothing about new text"
        )
    if not share:
        return None
    return (
        f"in_training: {share:.1%} of the examples are of text the probes were trained on; these "
        "figures say nothing about new text" + ("" if share > 0.5 else " as far as they rest on it")
    )


def _whole(examples: Examples) -> set[bytes]:
    """Every context as bytes."""
    tokens = examples.tokens.numpy()
    return {
        tokens[begin:end].tobytes()
        for begin, end in zip(examples.begin.tolist(), examples.end.tolist())
    }


def _whole_of_each(examples: Examples) -> list[bytes]:
    """The context of each example as bytes."""
    tokens = examples.tokens.numpy()
    contexts = [
        tokens[begin:end].tobytes()
        for begin, end in zip(examples.begin.tolist(), examples.end.tolist())
    ]
    return [contexts[one] for one in examples.context.tolist()]


def _met_runs(trained: Examples, examples: Examples, length: int) -> np.ndarray:
    """Whether the `length` tokens up to each example's place stand in a context of training."""
    known = np.unique(_runs(trained, length)[0])
    compact = examples.compact()
    hashes, begins = _runs(compact, length)
    last = (compact.begin[compact.context] + compact.last).numpy()
    first = last - length + 1
    inside = first >= compact.begin[compact.context].numpy()
    found = np.zeros(len(last), dtype=bool)
    if len(hashes) and len(known):
        place = np.searchsorted(begins, first[inside])
        found[inside] = np.isin(hashes[place], known)
    return found


def _runs(examples: Examples, length: int) -> tuple[np.ndarray, np.ndarray]:
    return run_hashes(examples.tokens.numpy(), examples.begin.numpy(), examples.end.numpy(), length)
