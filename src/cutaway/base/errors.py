"""What can go wrong, and the exit code each kind of wrong ends with.

0 done; 1 the run failed after its first step began; 2 the request was wrong or nothing could
start; 130, 143 and 129 interrupted by Ctrl-C, SIGTERM or SIGHUP (a closed terminal).
"""

from __future__ import annotations

import difflib
import math
import operator
import signal as signals
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

LARGEST_WHOLE = 2**63 - 1  # of settings, options and arguments

# Whether a run's first step has begun: what goes wrong from then on is a failure, no wrong request.
begun: ContextVar[bool] = ContextVar("begun", default=False)


class CutawayError(Exception):
    """Base of every error a user may see; its message is one line, printed without a traceback."""

    exit_code = 1


class UserError(CutawayError):
    """The request was wrong, or nothing could start: names the field, its value, what is accepted."""

    exit_code = 2


class RunFailed(CutawayError):
    """A run failed after its first step began. `step` is the step that failed, where one did."""

    exit_code = 1

    def __init__(self, reason: str, step: int | None = None):
        super().__init__(reason)
        self.reason = reason
        self.step = step


class Interrupted(CutawayError):
    """A signal asked the work to stop; what was recorded so far is safe and can be resumed."""

    def __init__(self, message: str, signal: int = signals.SIGINT):
        super().__init__(message)
        self.signal = signal
        self.name = "Ctrl-C" if signal == signals.SIGINT else signals.Signals(signal).name
        self.exit_code = 128 + signal


def nearest(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.5) -> str:
    """`"; did you mean 'x'?"` for the known names closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), count, cutoff)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(word) for word in close) + "?"


def shortened(text: str, most: int = 80) -> str:
    """A text, or its two ends where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...{text[-most // 4 :]}"


def require_whole(name: str, value: Any, least: int, most: int = LARGEST_WHOLE) -> int:
    """A whole number from `least` to `most`. UserError beyond them, TypeError for no whole number."""
    number = operator.index(value)
    if not least <= number <= most:
        beyond = f" to {most}" if most < LARGEST_WHOLE else " or more, below 2^63"
        raise UserError(f"{name} = {_written(number)}: expected {least}{beyond}")
    return number


def whole_in(text: str) -> int | None:
    """The whole number below 2^63 that a text writes in the digits 0 to 9; None for any other text."""
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > len(str(LARGEST_WHOLE)):
        return None
    number = int(text.lstrip("0") or "0")
    return number if number <= LARGEST_WHOLE else None


def require_finite(name: str, value: Any, least: float = -math.inf) -> float:
    """A finite number of at least `least`. UserError for others, TypeError for what is no number."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} = {value!r}: expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number >= least):
        bound = "" if least == -math.inf else f" of {least:g} or more"
        raise UserError(f"{name} = {_written(value)}: expected a finite number{bound}")
    return number


def _written(number: Any) -> str:
    try:
        return shortened(str(number))
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return "a number of thousands of digits"
