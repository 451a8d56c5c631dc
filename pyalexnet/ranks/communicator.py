"""Communication between ranks, the processes that train together.

One method transfers arrays, `exchange`; the collectives are written with it and add in a fixed
order, a binary tree over the ranks. So their bits depend on no library, network or number of hosts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, cycle
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.elements import Array

Json: TypeAlias = Any
Message: TypeAlias = tuple[int, Array]
"""Another rank, and a C-contiguous array that goes to it or comes from it."""

_MULTIPLE = 16
"""The slices of an array, except the last, have a multiple of this many elements."""


class Communicator:
    """A rank's connection to all others; this base class is that of a single process.

    All ranks call the same methods in the same order, with arrays of the same shape and type.
    rank, world_size: this process, and how many there are. local_rank, local_size: the same on its
    host. leaders: for each rank, the lowest on its host. sent: bytes of arrays that it has sent.
    host: the same ranks, for arrays of the host.
    """

    def __init__(self, rank: int = 0, leaders: Sequence[int] = (0,)) -> None:
        self.rank, self.world_size, self.leaders = rank, len(leaders), leaders
        near = [each for each, leader in enumerate(leaders) if leader == leaders[rank]]
        self.local_rank, self.local_size = near.index(rank), len(near)
        self.sent = 0
        self.host: Communicator = self
        self._others = [each for each in range(self.world_size) if each != rank]
        self._levels = _levels(rank, leaders)
        self._rooms: dict[tuple[int, int, Any], Array] = {}

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Transfer arrays between ranks, all at once; those from one rank arrive in order."""

    def at_length(self) -> AbstractContextManager[None]:
        """A context for work that keeps one rank busy while the others wait, such as a save."""
        return nullcontext()

    def abort(self, code: int) -> NoReturn:
        """End all ranks, with this exit code."""
        raise SystemExit(code)

    # Arrays

    def all_reduce(self, x: Array) -> None:
        """Replace `x` on every rank by the sum over all; each addition is rounded to its type."""
        slices = self.slices(x)
        own = self._summed(slices)
        if own is not slices[self.rank]:
            slices[self.rank][...] = own
        self._gathered(slices)

    def reduce_scatter(self, x: Array, out: Array) -> None:
        """Write into `out` this rank's slice of the sum of all `x`, which it overwrites."""
        out.reshape(-1)[...] = self._summed(self.slices(x))

    def all_gather(self, x: Array, out: Array) -> None:
        """Write into `out` the slices `x` of all ranks, one after another."""
        slices = self.slices(out)
        slices[self.rank][...] = x.reshape(-1)
        self._gathered(slices)

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Replace `x` on every rank by that of rank `root`."""
        slices = self.slices(x)
        if self.rank == root:
            self.exchange([(other, slices[other]) for other in self._others], [])
        else:
            self.exchange([], [(root, slices[self.rank])])
        self._gathered(slices)

    def slices(self, x: Array) -> list[Array]:
        """The elements of `x` in a row, cut into a slice for each rank."""
        if not x.flags.c_contiguous:
            found = f"an array of shape {x.shape} has gaps"
            raise ArgumentError(f"exchange: {found}; a C-contiguous one was expected.")
        row = x.reshape(-1)
        share = -(-row.size // (self.world_size * _MULTIPLE)) * _MULTIPLE
        return [row[rank * share : (rank + 1) * share] for rank in range(self.world_size)]

    def _summed(self, slices: Sequence[Array]) -> Array:
        """This rank's slice of the sum over all ranks."""
        sums = dict(enumerate(slices))  # by the rank that they are for
        for group, stride in self._levels:
            sums = self._summed_within(group, stride, sums)
        return sums[self.rank]

    def _summed_within(
        self, group: Sequence[int], stride: int, sums: Mapping[int, Array]
    ) -> dict[int, Array]:
        """Each member's sums for every `stride`-th rank, itself among them, over the group."""
        shares = {peer: [to for to in sums if to % stride == peer % stride] for peer in group}
        own = shares.pop(self.rank)
        sizes = [sums[to].size for to in own]
        room = self._room(stride, len(shares) * sum(sizes), sums[self.rank].dtype)
        ends = list(accumulate(sizes * len(shares)))
        came = (room[end - size : end] for end, size in zip(ends, cycle(sizes), strict=False))
        parts = {peer: {to: next(came) for to in own} for peer in shares}
        self.exchange(
            [(peer, sums[to]) for peer, share in shares.items() for to in share],
            [(peer, part[to]) for peer, part in parts.items() for to in own],
        )
        parts[self.rank] = {to: sums[to] for to in own}
        return {to: self._sum([parts[peer][to] for peer in group]) for to in own}

    def _gathered(self, slices: Sequence[Array]) -> None:
        """Fetch every other rank's slice, by the steps of the sums in reverse."""
        for group, stride in reversed(self._levels):
            shares = {peer: slices[peer % stride :: stride] for peer in group}
            own = shares.pop(self.rank)
            self.exchange(
                [(peer, each) for peer in shares for each in own],
                [(peer, each) for peer, share in shares.items() for each in share],
            )

    def _room(self, stride: int, size: int, dtype: Any) -> Array:
        """A buffer to receive into, the same one each time."""
        key = stride, size, dtype
        if key not in self._rooms:
            self._rooms[key] = self._empty(size, dtype)
        return self._rooms[key]

    def _empty(self, size: int, dtype: Any) -> Array:
        return np.empty(size, dtype)

    def _sum(self, parts: list[Array]) -> Array:
        """The sum of the parts by a binary tree, in the first of them; overwrites others."""
        while len(parts) > 1 and parts[0].size:
            for left, right in zip(parts[::2], parts[1::2], strict=False):
                self._add(left, right)
            parts = parts[::2]
        return parts[0]

    def _add(self, left: Array, right: Array) -> None:
        left += right

    # Values of the host

    def gather(self, value: Json) -> list[Json]:
        """The value that each rank passes, in order of rank."""
        own = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self._shown(np.array([own.size]), [1] * self.world_size)
        texts = self._shown(own, [int(size[0]) for size in sizes])
        return [json.loads(text.tobytes()) for text in texts]

    def most(self, value: int) -> int:
        """The largest value that any rank passes."""
        shown = self._shown(np.array([value]), [1] * self.world_size)
        return max(int(each[0]) for each in shown)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.most(0)

    def _shown(self, own: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
        """The small arrays, of these sizes, that all ranks pass."""
        found = [np.empty(size, own.dtype) for size in sizes]
        found[self.rank] = own
        self.exchange(
            [(other, own) for other in self._others],
            [(other, found[other]) for other in self._others],
        )
        return found


def _levels(rank: int, leaders: Sequence[int]) -> list[tuple[range, int]]:
    """The groups of ranks that a sum passes through, with what `_summed_within` calls stride.

    Usually one group of all ranks. If each host has the same power of two of consecutive ranks,
    whose sum is a branch of the tree: first this host's ranks, then one rank of each host.
    """
    size, local = len(leaders), leaders.count(leaders[0])
    regular = all(leader == each // local * local for each, leader in enumerate(leaders))
    if regular and size % local == 0 and 1 < local < size and local.bit_count() == 1:
        first = rank - rank % local
        return [(range(first, first + local), local), (range(rank % local, size, local), size)]
    return [(range(size), size)] if size > 1 else []
