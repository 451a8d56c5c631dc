"""Threads that read files, any of which may hang: of a network without its server, a failing disk.

Nothing ends a thread that hangs. So these are daemons, and the process ends without them, where
`concurrent.futures` would wait for its own for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from pyalexnet.errors import DataError

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds after which what is read is taken to hang: longer than a disk takes to wake up."""

PARTS = 10
"""Of which patience is made: a process that is stopped (Ctrl-Z) in one of them loses that alone."""

GRACE = 1.0
"""Seconds that work which has begun is given to end when nobody waits for it any more."""


class Readers:
    """At most `most` threads, started as work comes; a context manager.

    On leaving, work that has not begun is dropped, and no thread is left behind but one that hangs.
    """

    def __init__(self, most: int, patience: float = PATIENCE) -> None:
        self._most = most
        self._patience = patience
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        deadline = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def begin(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Have `function(*arguments)` called by a thread, after all that was begun before."""
        future: Future[Result] = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # the caller's to raise
                future.set_exception(error)

        self._waiting.put(work)
        if len(self._threads) < self._most:
            name = f"reader {len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._waiting,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def awaited(self, future: Future[Result], what: Callable[[], str]) -> Result:
        """What a function returned or raised; to be asked for in the order of `begin`.

        Raises:
            DataError: patience is at an end; the sentence says `what` is being read.
        """
        for _ in range(PARTS):
            if wait((future,), self._patience / PARTS).done:
                return future.result()
        raise DataError(
            f"{what()}: not read after {self._patience:g} seconds; a disk or network that answers "
            f"was expected."
        )


def _work(waiting: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := waiting.get()) is not None:
        work()
