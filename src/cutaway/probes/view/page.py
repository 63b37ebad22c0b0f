"""Probes shown over text: one HTML file in which every token is coloured by its probability.

Everything is in the file; the browser fetches nothing and may not. Log-odds are kept in 16 bits,
in steps of 1/2048: a probability is right to 0.03 % of itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.base import files
from cutaway.base.display import finite
from cutaway.figures.html import Section, page, part
from cutaway.nets.quantised import named
from cutaway.probes.states.probe import ProbeAbout
from cutaway.probes.view.reading import TextReading
from cutaway.text.reading import Reading
from cutaway.text.tokenizers import Tokenizer

_STEPS = 2048  # of a unit of log-odds
_MISSING = -(2**15)
_BYTES = re.compile(r"\\x[0-9a-f]{2}|^<0x[0-9A-F]{2}>$")
_LONGEST = 8  # tokens that one character may be cut into
# U+2400 on: what control characters look like; line ends and tabs are left as they are
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


@dataclass(frozen=True)
class ViewSummary:
    """What a page holds: `path`, `bytes`, tokens, layers, and how many readings were no numbers."""

    path: Path
    bytes: int
    tokens: int
    layers: int
    missing: int


def write_view(
    reading: TextReading,
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    text: str = "",
) -> ViewSummary:
    """Write the page of a reading, for any browser without a network; `text` names what was read."""
    data = view_data(reading, tokenizer)
    missing = data["missing"]
    first = reading.abouts[0]
    model = Path(first.reference.id).name if first.reference.kind == "run" else first.reference.id
    layers = len(reading.abouts)
    methods = ", ".join(dict.fromkeys(about.method for about in reading.abouts))
    subtitle = f"{len(reading.tokens):,} tokens{f' of {text}' if text else ''}, read by "
    subtitle += f"{layers} probe{'s'[: layers > 1]} ({methods}) of "
    subtitle += named(model, first.reference.quantisation)
    sections = [
        Section("The text", body=part("probabilities", data)),
        Section("How to read it", _explained(reading, missing, text)),
    ]
    html = page(
        _headline(first), sections, subtitle=subtitle, parts=("probability_line", "probabilities")
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, html)
    return ViewSummary(path, len(html.encode()), len(reading.tokens), layers, missing)


def view_data(reading: TextReading, tokenizer: Tokenizer) -> dict[str, Any]:
    """What the page's script reads (`figures/html/probabilities.js`): plain data, no NaN in it.

    `values` holds int16 log-odds of layer by class by token, little-endian, base64; of two classes
    only the second is there. -32768 stands for a probability that is not finite.
    """
    about = reading.abouts[0]
    p = reading.probabilities.double().cpu()
    p = p[:, None] if p.ndim == 2 else p.movedim(-1, 1)
    values = _packed(p)
    two = len(about.classes) == 2
    ids = reading.tokens.tolist()
    numbers: dict[tuple[str, str], int] = {}
    tokens = [
        numbers.setdefault((piece, tokenizer.token(id)), len(numbers))
        for piece, id in zip(pieces(tokenizer, ids), ids, strict=True)
    ]
    shares = [
        {"name": _class_name(about, place), "prior": about.prior[place], "label": place}
        for place in (range(1, 2) if two else range(len(about.classes)))
    ]
    return {
        # where a token reads as something else alone, that is given too
        "words": [shown if shown == exact else [shown, exact] for shown, exact in numbers],
        "tokens": tokens,
        "starts": list(reading.starts),
        "layers": [_layer(one) for one in reading.abouts],
        "classes": shares,
        "values": base64.b64encode(values.tobytes()).decode(),
        "steps": _STEPS,
        "missing": int((values == _MISSING).any(axis=(0, 1)).sum()),
        "own": None
        if reading.own is None
        else base64.b64encode(_packed(reading.own.double().cpu()).tobytes()).decode(),
        "labels": None if reading.labels is None else reading.labels.tolist(),
        "yes": _statement(about, True),
        "no": _statement(about, False),
    }


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text.

    A character cut over several tokens stands at the one that completes it, and the others are
    empty; bytes that never become one are U+FFFD. Control characters become their pictures.
    """
    found: list[str] = []
    waiting: list[int] = []
    for id in ids:
        word = tokenizer.token(id)
        if not waiting and not (_BYTES.search(word) and _is_cut(tokenizer, id, word)):
            found.append(word.translate(_CONTROLS))
            continue
        waiting.append(id)
        text = tokenizer.decode(waiting)
        if text.endswith("\ufffd") and len(waiting) < _LONGEST:
            found.append("")
        else:
            found.append(text.translate(_CONTROLS))
            waiting.clear()
    if waiting:
        found[-1] = tokenizer.decode(waiting)
    return found


# -- inside --------------------------------------------------------------------------------------


def _is_cut(tokenizer: Tokenizer, id: int, word: str) -> bool:
    """Whether a token holds bytes that are no text, rather than a text that looks like them."""
    return word.startswith("<0x") or "\ufffd" in tokenizer.decode([id])


def _packed(p: Tensor) -> np.ndarray:
    """Probabilities to int16 log-odds."""
    odds = p.logit().numpy()
    steps = np.clip(np.nan_to_num(odds * _STEPS, nan=0, posinf=2**15, neginf=-(2**15)),
                    1 - 2**15, 2**15 - 1)  # fmt: skip
    return np.where(np.isnan(odds), _MISSING, steps.round()).astype("<i2")


def _layer(about: ProbeAbout) -> dict[str, Any]:
    names = ("balanced_accuracy", "low", "high", "validation_balanced_accuracy")
    scores = {name: about.scores.get(name) for name in names}
    return finite({"name": about.site, **scores})


def _headline(about: ProbeAbout) -> str:
    if about.task == "next":
        return f"Is the next token “{about.target}”?"
    if about.task == "current":
        return f"Is this token “{about.target}”?"
    if len(about.classes) == 2:
        return f"{about.classes[1]}, or {about.classes[0]}?"
    return "Which of " + ", ".join(about.classes[:4]) + ("?" if len(about.classes) < 5 else ", …?")


def _class_name(about: ProbeAbout, place: int) -> str:
    if about.task in ("next", "current"):
        return f"“{about.target}”"
    return about.classes[place]


def _statement(about: ProbeAbout, true: bool) -> str:
    """What a label means, in words; `{class}` is the class shown."""
    is_ = "is" if true else "is not"
    if about.task == "next":
        return f"the next token {is_} {{class}}"
    if about.task == "current":
        return f"this token {is_} {{class}}"
    return "labelled {class}" if true else "labelled something else"


def _read_with(reading: Reading) -> str:
    count = {"before": len(reading.prefix), "after": len(reading.suffix)}
    special = " and ".join(f"{n} {where}" for where, n in count.items() if n)
    said = [f"the model sees special tokens around every window ({special})"] if special else []
    if reading.chat is not None:
        said.append("conversations are written with the model's chat template")
    only = (
        " The probes were trained on the states of replies; on other tokens they are asked about "
        "states they have not seen."
    )
    return f"As in the probes' training: {', '.join(said)}." + only * reading.reply_only


def encoder_note(reading: TextReading) -> str | None:
    """One line on what probes of an encoder read; None of a causal model."""
    if reading.causal:
        return None
    about = reading.abouts[0]
    said = (
        f"{about.reference.id} is an encoder: its states have seen the tokens that follow, in the "
        "whole window"
    )
    if about.task != "next":
        return said
    return (
        f"{said}, so that what is shown of the next token is no prediction (in training the window "
        "ended before that token)"
    )


def _explained(reading: TextReading, missing: int, text: str) -> list[str]:
    about = reading.abouts[0]
    paragraphs = []
    if text:
        paragraphs.append(f"**Text.** {text}.")
        if trained := about.data.get("name"):
            paragraphs[0] += (
                f" The probes were trained on {trained}; where this text was among it, figures "
                "on this page flatter them."
            )
    if about.reading.overhead or about.reading.chat is not None:
        paragraphs.append(f"**Reading.** {_read_with(about.reading)}")
    if (note := encoder_note(reading)) is not None:
        paragraphs.append(f"**Encoder.** {note}.")
    balanced = max(abs(a - b) for a, b in zip(about.prior, about.trained_prior)) > 1e-6
    paragraphs.append(
        "**Colour.** The probe's evidence: how far the log-odds of its probability are from those "
        "of the class's natural share, where a token has no colour. Orange is more likely than "
        "that, blue less; the scale is fixed and symmetric and ends at odds of 148 to 1 either "
        "way. Its middle can be set to 50 % instead."
    )
    paragraphs.append(
        "**Probability.** At the classes' natural shares"
        + (", not those of the balanced training" if balanced else "")
        + ". The threshold begins at the natural share. "
        + (
            "That is where a probe decides between classes taken as equally frequent; balanced "
            "accuracy is of that decision, on the test part of the probe's own data. "
            if len(about.classes) == 2
            else "It decides on the class shown against all others; balanced accuracy is of the "
            "likeliest of all classes, taken as equally frequent. "
        )
        + "Log-odds are kept in steps of 1/2048 up to 16 either way: three digits of a probability "
        "are to be trusted."
    )
    window = f"**Context.** The model read windows of {reading.window:,} tokens"
    if len(reading.starts) > 1:
        window += ", each document by itself"
    begins = torch.tensor(reading.starts)
    place = torch.arange(len(reading.tokens))
    inside = place - begins[torch.searchsorted(begins, place, right=True) - 1]
    if (later := inside >= reading.window).any():
        window += (
            ". In longer documents windows overlap by half; past the first one, every token has "
            f"at least {int(reading.context[later].min()):,} tokens before it in its own"
        )
    paragraphs.append(window + ".")
    if about.task in ("next", "current") and about.context_length:
        paragraphs[-1] += (
            f" The probes were trained on the last token of {about.context_length:,}; where less "
            "is before a token they are asked about states they have not seen."
        )
    if about.read == "mean":
        paragraphs.append(
            "**Pooling.** These probes were trained on the mean of a text's states. Here they read "
            "each token's alone: where in a text their evidence is, not a verdict on a token."
        )
    if missing:
        some = "1 token has" if missing == 1 else f"{missing:,} tokens have"
        paragraphs.append(
            f"**Missing.** {some} a state that is not finite at some site: hatched there, and "
            "counted nowhere."
        )
    return paragraphs
