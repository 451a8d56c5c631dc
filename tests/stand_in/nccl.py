"""cupy.cuda.nccl, with CuPy 14's names and signatures; what ranks exchange goes through MPI.

A group is one piece of work on its stream, after the communicator's work before it: as in NCCL, it
has begun and ended in no other order, and nobody waits for it when it is enqueued.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from stand_in.machine import Machine, Work
from stand_in.memory import Pools, at

Messages = Sequence[tuple[int, NDArray[Any]]]
Exchange = Callable[[Messages, Messages], None]
"""What transfers arrays of the host between ranks, as `Communicator.exchange` does."""

_ID = 128  # bytes
_INVALID_ARGUMENT, _INVALID_USAGE = 4, 5
_TYPES = {"NCCL_INT8": 0, "NCCL_UINT8": 1, "NCCL_FLOAT32": 7, "NCCL_BFLOAT16": 9}
_SIZES = {0: 1, 1: 1, 7: 4, 9: 2}


class NcclError(RuntimeError):
    """As in cupy.cuda.nccl."""

    def __init__(self, status: int) -> None:
        super().__init__(f"NCCL error {status}")
        self.status = status


class Message(NamedTuple):
    sent: bool
    peer: int
    ptr: int
    nbytes: int


class Nccl:
    """The module cupy.cuda.nccl of a process. exchange: None where NCCL is not installed."""

    def __init__(self, machine: Machine, pools: Pools, exchange: Exchange | None) -> None:
        self.machine, self.pools, self.exchange = machine, pools, exchange
        self.available, self.NcclError = exchange is not None, NcclError
        self._local = threading.local()  # a group is its thread's
        self.NcclCommunicator = partial(NcclCommunicator, self)
        vars(self).update(_TYPES)

    @property
    def group(self) -> list[tuple[NcclCommunicator, int, Message]] | None:
        return getattr(self._local, "group", None)

    def get_version(self) -> int:
        return 22803

    def get_unique_id(self) -> bytes:
        return bytes(range(_ID))

    def groupStart(self) -> None:  # noqa: N802 (CuPy's name)
        if self.group is not None:
            raise NotImplementedError("groups in groups")
        self._local.group = []

    def groupEnd(self) -> None:  # noqa: N802 (CuPy's name)
        if self.group is None:
            raise NcclError(_INVALID_USAGE)
        given, self._local.group = self.group, None
        if given:
            (ends,), (stream,) = {one for one, _, _ in given}, {stream for _, stream, _ in given}
            ends.enqueue(stream, [message for _, _, message in given])


class NcclCommunicator:
    """As in cupy.cuda.nccl; of the device that is current when it is made."""

    def __init__(self, nccl: Nccl, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if not isinstance(commId, bytes) or len(commId) != _ID or not 0 <= rank < ndev:
            raise NcclError(_INVALID_ARGUMENT)
        self._nccl, self._ranks, self._rank = nccl, ndev, rank
        self._device, self._last = nccl.machine.device, list[Work]()
        self._aborted = False

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(True, sendbuf, count, datatype, peer, stream)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(False, recvbuf, count, datatype, peer, stream)

    def abort(self) -> None:
        self._aborted = True

    def _add(self, sent: bool, ptr: int, count: int, datatype: int, peer: int, stream: int) -> None:
        if self._aborted or not 0 <= peer < self._ranks or count < 0:
            raise NcclError(_INVALID_ARGUMENT)
        message = Message(sent, peer, ptr, count * _SIZES[datatype])
        if self._nccl.group is None:  # alone, it would wait for its peer before the next begins
            self._nccl.machine.fault("a message of NCCL is in no group")
            return
        self._nccl.group.append((self, stream, message))

    def enqueue(self, stream: int, messages: Sequence[Message]) -> None:
        machine, pools = self._nccl.machine, self._nccl.pools
        line = machine.line(stream)
        if line.device != self._device:
            raise NcclError(_INVALID_USAGE)
        blocks = []
        for each in messages:
            block = pools.block_at(each.ptr)
            if block is None or not block.holds(each.ptr + each.nbytes - 1):
                machine.fault("NCCL is given memory that is not the GPU's")
                return
            blocks.append(block)
        line.waits += [work for work in self._last if not work.done]
        run = partial(self._exchange, messages)
        self._last = [machine.enqueue(line, "an exchange", run, blocks)]

    def _exchange(self, messages: Sequence[Message]) -> None:
        assert self._nccl.exchange is not None
        sends, receives = (
            [(one.peer, at(one.ptr, one.nbytes)) for one in messages if one.sent == sent]
            for sent in (True, False)
        )
        self._nccl.exchange(sends, receives)
