"""Ranks that are threads of one process, on hosts made up for a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from pyalexnet.ranks.communicator import Communicator, Message

T = TypeVar("T")
_PATIENCE = 60.0  # seconds, then a rank that waits for a message that never comes gives up


class ThreadRank(Communicator):
    """A thread's connection to the others. across: of the bytes it sent, those to other hosts."""

    def __init__(
        self, rank: int, leaders: Sequence[int], post: dict[tuple[int, int], SimpleQueue[Any]]
    ) -> None:
        super().__init__(rank, leaders)
        self._post, self.across = post, 0

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        for to, x in sends:
            assert to != self.rank and x.flags.c_contiguous
            self._post[self.rank, to].put(x.copy())
            self.sent += x.nbytes
            self.across += x.nbytes * (self.leaders[to] != self.leaders[self.rank])
        for source, x in receives:
            came = self._post[source, self.rank].get(timeout=_PATIENCE)
            assert (came.shape, came.dtype) == (x.shape, x.dtype)
            x[...] = came


def together(work: Callable[[ThreadRank], T], leaders: Sequence[int]) -> list[T]:
    """What `work` returns on each rank of a world with these `Communicator` leaders."""
    size = range(len(leaders))
    post = {(here, there): SimpleQueue[Any]() for here in size for there in size}
    ranks = [ThreadRank(rank, leaders, post) for rank in size]
    with ThreadPoolExecutor(len(leaders)) as pool:
        return list(pool.map(work, ranks))
