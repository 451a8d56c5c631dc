"""Threads that read files and may hang: on a lost network server or a failing disk.

Nothing can end a hanging thread. So these are daemons, which do not keep the process from ending;
`concurrent.futures` would wait for its threads forever.
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

PATIENCE = 60.0  # seconds after which a read hangs: longer than a disk takes to wake up
PARTS = 10  # of the patience: a process stopped (Ctrl-Z) during one of them loses only that one
GRACE = 1.0  # seconds that work already begun gets to end once its result is no longer awaited


class Readers:
    """At most `most` threads, started as work comes; work not begun by the exit is dropped."""

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
        """Have a thread call `function(*arguments)`, after all work begun before."""
        future: Future[Result] = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # the caller raises it
                future.set_exception(error)

        self._waiting.put(work)
        if len(self._threads) < self._most:
            name = f"reader {len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._waiting,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def awaited(self, future: Future[Result], what: Callable[[], str]) -> Result:
        """A function's result, in the order of `begin`; if it hangs, a refusal says `what` does."""
        for _ in range(PARTS):
            if wait((future,), self._patience / PARTS).done:
                return future.result()
        wanted = "a disk or network that answers was expected"
        raise DataError(f"{what()}: not read after {self._patience:g} seconds; {wanted}.")


def _work(waiting: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := waiting.get()) is not None:
        work()
