"""Collectives on ranks that are threads: their sums, slices and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ranks.communicator import Communicator
from thread_ranks import ThreadRank, together

SIZES = (1, 3, 16, 100, 1003)
ONE_HOST = [[0] * size for size in (1, 2, 3, 4, 5, 7, 8)]
TWO_HOSTS = [0, 0, 2, 2]
HOSTS = [
    *(TWO_HOSTS, [0, 0, 2, 2, 4, 4], [0, 0, 0, 0, 4, 4, 4, 4]),
    *([0, 0, 0, 3, 3, 3], [0, 1, 0, 1], [0, 0, 2], [0, 1, 2]),  # which are one level
]


def data_of(rank: int, size: int, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng([rank, size]).normal(size=size).astype(dtype)


def tree(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The sum of a branch is that of its halves, the left of which is the next power of two."""
    if len(parts) == 1:
        return parts[0]
    left = 2 ** ((len(parts) - 1).bit_length() - 1)
    both: NDArray[Any] = tree(parts[:left]) + tree(parts[left:])
    return both


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int64])
@pytest.mark.parametrize("leaders", [*ONE_HOST, *HOSTS], ids=str)
def test_sums_are_a_binary_tree_s_on_any_number_of_ranks_and_hosts(
    leaders: list[int], dtype: Any
) -> None:
    def summed(comm: ThreadRank) -> list[NDArray[Any]]:
        found = []
        for size in SIZES:
            x = data_of(comm.rank, size, dtype)
            comm.all_reduce(x)
            found.append(x)
        return found

    want = [tree([data_of(rank, size, dtype) for rank in range(len(leaders))]) for size in SIZES]
    for found in together(summed, leaders):
        for x, exact in zip(found, want, strict=True):
            assert x.tobytes() == exact.tobytes()


@pytest.mark.parametrize("leaders", [*ONE_HOST, *HOSTS], ids=str)
def test_scattered_sums_gathered_are_the_all_reduced(leaders: list[int]) -> None:
    def both(comm: ThreadRank) -> bool:
        x, y = data_of(comm.rank, 1003), data_of(comm.rank, 1003)
        own = np.zeros_like(comm.slices(x)[comm.rank])
        comm.reduce_scatter(x, own)
        whole = np.zeros((1, 1003, 1), np.float32)
        comm.all_gather(own, whole)
        comm.all_reduce(y)
        return whole.tobytes() == y.tobytes()

    assert all(together(both, leaders))


@pytest.mark.parametrize("leaders", [[0, 0, 0], TWO_HOSTS], ids=str)
def test_everyone_gets_the_array_of_the_root(leaders: list[int]) -> None:
    for root in range(len(leaders)):

        def received(comm: ThreadRank, root: int = root) -> bool:
            x = data_of(comm.rank, 100).reshape(4, 25)
            comm.broadcast(x, root)
            return x.tobytes() == data_of(root, 100).tobytes()

        assert all(together(received, leaders))


def test_values_of_the_host() -> None:
    def told(comm: ThreadRank) -> tuple[list[Any], int]:
        found = comm.gather({"rank": comm.rank, "text": "ß" * comm.rank})
        comm.barrier()
        return found, comm.most(10 - comm.rank)

    want = [{"rank": rank, "text": "ß" * rank} for rank in range(3)]
    assert together(told, [0, 0, 0]) == [(want, 10)] * 3


@pytest.mark.parametrize("size", [2, 4])
def test_an_all_reduce_sends_what_the_formula_says(size: int) -> None:
    def sent(comm: ThreadRank) -> int:
        comm.all_reduce(np.ones(1 << 10, np.float32))
        return comm.sent

    assert together(sent, [0] * size) == [2 * 4 * (size - 1) * (1 << 10) // size] * size


def test_two_levels_send_less_between_hosts() -> None:
    """Of four ranks on two hosts, each half as much as without levels, but not less in all."""

    def across(comm: ThreadRank) -> tuple[int, int]:
        comm.all_reduce(np.ones(1 << 10, np.float32))
        return comm.across, comm.sent

    assert together(across, TWO_HOSTS) == [(2 << 10, 6 << 10)] * 4
    assert together(across, [0, 1, 0, 1]) == [(4 << 10, 6 << 10)] * 4


def test_ranks_know_their_host() -> None:
    where = together(lambda comm: (comm.local_rank, comm.local_size), [0, 1, 0, 3])
    assert where == [(0, 2), (0, 1), (1, 2), (0, 1)]


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"shape \(2, 2\) has gaps; a C-contiguous one"):
        Communicator().all_reduce(np.zeros((4, 4))[::2, ::2])


def test_a_single_process_is_a_world_of_one() -> None:
    comm, x = Communicator(), data_of(0, 5)
    for call in (comm.all_reduce, comm.broadcast):
        call(x)
    assert x.tobytes() == data_of(0, 5).tobytes()
    assert comm.gather([1, None]) == [[1, None]] and comm.most(-3) == -3
    assert (comm.world_size, comm.local_size, comm.sent) == (1, 1, 0)
    comm.barrier()
    with pytest.raises(SystemExit) as ended:
        comm.abort(3)
    assert ended.value.code == 3
