"""Ranks that MPI has started, for arrays of the host. The only module that imports mpi4py.

Nothing but point-to-point transfers is left to the library: its sums have an order of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from pyalexnet.ops.elements import Array
from pyalexnet.ranks.communicator import Communicator, Message


class Mpi(Communicator):
    """The processes of one mpirun, mpiexec or srun."""

    def __init__(self) -> None:
        self._world = MPI.COMM_WORLD
        host = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        leaders = self._world.allgather(host.bcast(self._world.rank))
        super().__init__(self._world.rank, leaders)

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        requests = [self._world.Irecv(_bytes(x), rank) for rank, x in receives if x.size]
        requests += [self._world.Isend(_bytes(x), rank) for rank, x in sends if x.size]
        MPI.Request.Waitall(requests)
        self.sent += sum(x.nbytes for _, x in sends)

    def abort(self, code: int) -> NoReturn:
        self._world.Abort(code)
        raise SystemExit(code)


def _bytes(x: Array) -> Array:
    """The memory of a C-contiguous array, for types that MPI does not know, too."""
    return x.reshape(-1).view(np.uint8)
