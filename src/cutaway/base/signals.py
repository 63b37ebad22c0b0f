"""What asks the program to stop: Ctrl-C, SIGTERM, and SIGHUP when a terminal or connection closes.

A signal that was ignored when the program began stays ignored: that is how `nohup` works.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGHUP = getattr(signal, "SIGHUP", None)  # not on Windows


class Signalled(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; what ends at Ctrl-C ends in the same way."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


def stopping() -> list[int]:
    """The signals that ask to stop: SIGINT, SIGTERM and, unless it is ignored, SIGHUP."""
    found = [int(signal.SIGINT), int(signal.SIGTERM)]
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:
        found.append(int(SIGHUP))
    return found


def number_of(stopped: KeyboardInterrupt) -> int:
    """The signal behind an exception: SIGINT unless it says otherwise."""
    return getattr(stopped, "signal", int(signal.SIGINT))


def name_of(stopped: KeyboardInterrupt) -> str:
    """Its name: `SIGINT`, `SIGTERM`, `SIGHUP`."""
    return signal.Signals(number_of(stopped)).name


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise `Signalled`, where they would have ended the process.

    Other handlers, and those of a program that is not the main thread, are left alone.
    """
    previous: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for number in stopping():
            if signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Send what goes to a terminal that is gone to nowhere: writing to it would be an error."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError, ImportError):
            import termios

            handle = stream.fileno()
            try:
                termios.tcgetattr(handle)
            except termios.error as error:
                if error.args[0] == 5:  # EIO: it was a terminal; a file says ENOTTY
                    os.dup2(os.open(os.devnull, os.O_RDWR), handle)


def _raise(number: int, frame: FrameType | None) -> None:
    if number == SIGHUP:
        leave_closed_terminal()
        signal.signal(number, signal.SIG_IGN)  # a closing terminal sends it more than once
    raise Signalled(number)
