"""Signals to a run, kept until the current step is done.

SIGINT (Ctrl-C), SIGTERM, SIGUSR1   save and stop; a second SIGINT stops at once
SIGHUP, SIGUSR2                     save and continue, as Caffe does when a terminal is closed
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SAVING = (signal.SIGHUP, signal.SIGUSR2)

# The answer to a first Ctrl-C: a step of a large network takes its time.
ANSWER = "stopping after this step; Ctrl-C again stops at once"


def tell(sentence: str) -> None:
    """Write a line to standard error, bypassing any stream that a signal may have interrupted."""
    # Standard error may be closed, or not a file: the run is stopped all the same.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"{sentence}\n".encode("ascii"))


NOTHING, SAVE = 0, 1
"""What signals request, as a number: for a signal to stop, its number plus one."""


class Interrupt(contextlib.ExitStack):
    """While entered, notes the signals above; outside the main thread Python handles none.

    received: the first signal to stop; heeded: the one that all ranks stop for. save: whether a
    signal to save came; the caller resets it before saving, so that one that comes meanwhile is not
    lost. tell: called from the handler with the answer to a first Ctrl-C; it must not wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: signal.Signals | None = None
        self.heeded: signal.Signals | None = None
        self.save = False
        self.tell: Callable[[str], None] = tell
        self._impatient = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPPING, *SAVING):
                self.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    @property
    def asked(self) -> int:
        """What the signals so far request."""
        return SAVE + self.received if self.received else SAVE if self.save else NOTHING

    def heed(self, asked: int) -> bool:
        """Apply a request made to any rank to this one; returns whether to save."""
        if asked > SAVE:
            self.heeded = signal.Signals(asked - SAVE)
        return asked == SAVE

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in SAVING:
            self.save = True
            return
        if number == signal.SIGINT and self._impatient:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if number == signal.SIGINT:
            self._impatient = True
            self.tell(ANSWER)
