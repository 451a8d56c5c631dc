"""Ranks that MPI starts, for arrays of the host. The only module that imports mpi4py.

The library makes only point-to-point transfers: its sums would have an order of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from pyalexnet.ops.elements import Array
from pyalexnet.ranks.communicator import Communicator, Message
from pyalexnet.ranks.watchdog import Watchdog

# Between two polls for messages: MPI's own waiting would occupy a core that computes.
_PAUSE = 5e-5  # seconds


class Mpi(Communicator):
    """The processes of one mpirun, mpiexec or srun."""

    def __init__(self, patience: float) -> None:
        """patience: seconds without a message after which all ranks are ended."""
        self._world = MPI.COMM_WORLD
        host = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        leaders = self._world.allgather(host.bcast(self._world.rank))
        super().__init__(self._world.rank, leaders)
        self._watchdog = Watchdog(named(), patience, abort)
        self._watchdog.start()

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        requests = [self._world.Irecv(_bytes(x), rank) for rank, x in receives if x.size]
        requests += [self._world.Isend(_bytes(x), rank) for rank, x in sends if x.size]
        left = dict(enumerate(rank for rank, x in (*receives, *sends) if x.size))
        self._watchdog.beat(set(left.values()))
        while left:
            if done := MPI.Request.Testsome(requests):
                for each in done:
                    del left[each]
                self._watchdog.beat(set(left.values()))
            else:
                time.sleep(_PAUSE)
        self._watchdog.beat()
        self.sent += sum(x.nbytes for _, x in sends)

    def at_length(self) -> AbstractContextManager[None]:
        return self._watchdog.at_length()

    def abort(self, code: int) -> NoReturn:
        abort(code)
        raise SystemExit(code)


def _bytes(x: Array) -> Array:
    """The memory of a C-contiguous array, also of a type that MPI does not know."""
    return x.reshape(-1).view(np.uint8)


def rank() -> int:
    return int(MPI.COMM_WORLD.rank)


def size() -> int:
    """The number of processes that the library knows of."""
    return int(MPI.COMM_WORLD.size)


def named() -> str:
    """This process's name in a message."""
    return f"rank {rank()} of {size()}"


def library() -> str:
    """The library's name and version."""
    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def abort(code: int) -> None:
    """End all processes with this exit code."""
    MPI.COMM_WORLD.Abort(code)
