"""Ends all ranks if one makes no progress: it hangs, was stopped, or its host is unreachable.

The death of a process, which only the launcher sees, is the launcher's to handle.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

STUCK = 75
"""The exit code: EX_TEMPFAIL of sysexits.h."""

_AT_LENGTH = 10.0  # times the patience
_GRACE = 0.7  # seconds longer to wait for others: a rank that can report its own hang goes first
_LAST = 1.0  # seconds for the library to end all ranks; then this one exits


class Watchdog(threading.Thread):
    """A thread that counts the time since the last `beat`, except while the process is stopped."""

    def __init__(self, who: str, patience: float, abort: Callable[[int], object]) -> None:
        """who: the rank in words. patience: in seconds. abort: ends all ranks with a code."""
        super().__init__(name="watchdog", daemon=True)
        self._who, self._patience, self._abort = who, patience, abort
        self._beats, self._factor = 0, 1.0
        self._missing: Collection[int] = ()
        self._main = threading.get_ident()

    def beat(self, missing: Collection[int] = ()) -> None:
        """The rank makes progress, or waits for messages of the ranks `missing`."""
        self._missing = missing
        self._beats += 1

    @contextlib.contextmanager
    def at_length(self) -> Iterator[None]:
        """A context for work that may take ten times the patience."""
        self._factor = _AT_LENGTH
        try:
            yield
        finally:
            self.beat()
            self._factor = 1.0

    def run(self) -> None:
        tick = min(self._patience / 32, 1.0)
        beats, idle = self._beats, 0.0
        while idle < self._patience * self._factor + _GRACE * bool(self._missing):
            time.sleep(tick)
            idle = idle + tick if beats == self._beats else 0.0
            beats = self._beats
        self._end(idle)

    def _end(self, idle: float) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.stderr.fileno(), f"error: {self._sentence(idle)}\n".encode())
        threading.Thread(target=self._abort, args=(STUCK,), daemon=True).start()
        time.sleep(_LAST)
        os._exit(STUCK)

    def _sentence(self, idle: float) -> str:
        waited = f"for {idle:.0f} s, more than --patience {self._patience:g}"
        if missing := ", ".join(map(str, sorted(self._missing))):
            return f"{self._who} has waited {waited}, for rank {missing}, which has not come."
        frame = sys._current_frames()[self._main]
        where = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
        return f"{self._who} has told the others nothing {waited}; it is in {where}."
