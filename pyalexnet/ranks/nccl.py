"""Ranks with a GPU each: NCCL transfers their arrays, MPI everything else.

The order of NCCL's own sums depends on the machine's links; here `sum_parts` adds the exchanged
arrays, as on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import cupy
from cupy.cuda import nccl

from pyalexnet.backends.base import Array, Backend
from pyalexnet.errors import BackendUnavailable, KernelError, RunError
from pyalexnet.install import pip_install
from pyalexnet.ranks.communicator import Communicator, Json, Message


class Nccl(Communicator):
    """Exchanges arrays of a GPU, in the order of its current stream, and waits for none.

    host: the same ranks, for arrays of the host.
    """

    def __init__(self, host: Communicator, backend: Backend) -> None:
        version()
        super().__init__(host.rank, host.leaders)
        self.host, self._backend = host, backend
        cupy.cuda.Device(backend.device).use()  # the only one of this process
        with _refusing():
            name = host.gather(nccl.get_unique_id().hex() if self.rank == 0 else None)[0]
            self._ends = nccl.NcclCommunicator(self.world_size, bytes.fromhex(name), self.rank)

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        stream = cupy.cuda.get_current_stream().ptr
        with _refusing():
            nccl.groupStart()
            for peer, x in _filled(receives):
                self._ends.recv(x.data.ptr, x.nbytes, nccl.NCCL_UINT8, peer, stream)
            for peer, x in _filled(sends):
                self._ends.send(x.data.ptr, x.nbytes, nccl.NCCL_UINT8, peer, stream)
            nccl.groupEnd()
        self.sent += sum(x.nbytes for _, x in sends)

    def at_length(self) -> AbstractContextManager[None]:
        return self.host.at_length()

    def abort(self, code: int) -> NoReturn:
        threading.Thread(target=self._ends.abort, daemon=True).start()  # it may never return
        self.host.abort(code)

    def gather(self, value: Json) -> list[Json]:
        return self.host.gather(value)

    def most(self, value: int) -> int:
        return self.host.most(value)

    def _empty(self, size: int, dtype: Any) -> Array:
        return self._backend.empty((size,), dtype)

    def _add(self, left: Array, right: Array) -> None:
        self._backend.sum_parts((left, right), out=left)


def _filled(messages: Sequence[Message]) -> list[Message]:
    return [(peer, x) for peer, x in messages if x.size]


def gpu_of(ranks: Communicator) -> int | None:
    """The GPU of this rank among those visible to its process; None if none is.

    Raises:
        RunError: two ranks would share one.
    """
    try:
        shown = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        shown = 0
    own = ranks.local_rank % shown if shown else None
    bus = None if own is None else cupy.cuda.Device(own).pci_bus_id
    places = ranks.gather([ranks.leaders[ranks.rank], bus])
    mine = places[ranks.rank]
    if bus is not None and (sharing := places.count(mine)) > 1:
        raise RunError(
            f"{sharing} of the {ranks.local_size} ranks on this host share the GPU {bus}; a GPU "
            f"for each was expected, for instance with as many ranks (-n) as GPUs."
        )
    return own


def version() -> str:
    """The version of NCCL.

    Raises:
        BackendUnavailable: there is none.
    """
    if not nccl.available:
        remedy = pip_install("nvidia-nccl-cu13")
        raise BackendUnavailable(f"not installed; ranks with GPUs need it; {remedy}.")
    number = nccl.get_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except nccl.NcclError as error:
        raise KernelError(f"NCCL cannot exchange arrays: {error}.") from error
