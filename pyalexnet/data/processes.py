"""A function over many items in several processes, any of which may be killed.

Each process has its own pipe, whose far end nobody else holds: if it dies, even in the middle of a
message, the parent sees end of file at once. (`concurrent.futures` shares one pipe among all; a
process killed while writing into it leaves the parent waiting for the rest for ever.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied(Exception):
    """A process ended while it had work to do."""


def each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[tuple[int, Result]]:
    """Each item's number and result, as they come.

    The processes, at most `workers`, are fresh interpreters, which import `function` by its name.
    Closing the generator, or an interrupt, ends them at once; if this process is killed, they end
    after their current item.
    """
    waiting = iter(enumerate(items))
    team: dict[Connection, SpawnProcess] = {}
    busy: dict[Connection, int] = {}

    def begin(connection: Connection) -> None:
        for number, item in waiting:
            busy[connection] = number
            with _noticing_death():
                connection.send(item)
            return

    try:
        with _without_interrupts():
            context = multiprocessing.get_context("spawn")
            for _ in range(min(workers, len(items))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(function, theirs), daemon=True)
                process.start()
                theirs.close()
                team[ours] = process
        for connection in team:
            begin(connection)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                with _noticing_death():
                    result, error = ready.recv()
                number = busy.pop(ready)
                if error is not None:
                    raise error
                begin(ready)
                yield number, result
    finally:
        for process in team.values():
            process.terminate()
        for connection, process in team.items():
            process.join()
            connection.close()


def _work(function: Callable[[Item], Result], connection: Connection) -> None:
    """The work of a process until the other end of `connection` is closed."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            try:
                outcome: tuple[Result | None, Exception | None] = (function(item), None)
            except Exception as error:  # the parent raises it
                outcome = (None, error)
            connection.send(outcome)


@contextlib.contextmanager
def _noticing_death() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:  # the latter in the middle of a message
        raise WorkerDied from error


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes started inside; this process ends them."""
    resource_tracker.ensure_running()  # else the first start does, and unblocks signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
