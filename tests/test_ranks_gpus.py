"""Which GPU a rank takes, and what it says where there is none for it, or no NCCL."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import pyalexnet
import stand_in
from pyalexnet.errors import BackendUnavailable, KernelError, RunError
from pyalexnet.ranks import launch
from stand_in import Machine
from thread_ranks import together


def taken(gpus: int, leaders: list[int]) -> list[Any]:
    """The GPU of each rank, or its refusal, if each process is shown so many."""

    def gpu(comm: Any) -> Any:
        try:
            return importlib.import_module("pyalexnet.ranks.nccl").gpu_of(comm)
        except RunError as error:
            return str(error)

    with stand_in.installed(Machine("eager", gpus)):
        importlib.import_module("pyalexnet.ranks.nccl")
        return together(gpu, leaders)


def test_ranks_of_a_host_take_its_gpus_in_turn() -> None:
    assert taken(2, [0, 0, 2, 2]) == [0, 1, 0, 1]
    assert taken(2, [0]) == [0]


def test_two_ranks_on_one_gpu_are_refused() -> None:
    first, second = taken(1, [0, 0])
    assert first == second
    assert first.startswith("2 of the 2 ranks on this host share the GPU 0000:01:00.0; a GPU for")


def test_without_nccl_ranks_with_gpus_are_refused() -> None:
    with stand_in.installed(Machine("eager", 1)):
        gpu = pyalexnet.backend("cuda")
        for sentence in together(lambda comm: refusal(comm, gpu), [0, 0]):
            assert "ranks with GPUs need it; " in sentence and "nvidia-nccl" in sentence


def refusal(ranks: Any, backend: Any) -> str:
    with pytest.raises(BackendUnavailable) as refused:
        launch.connected(ranks, backend)
    return str(refused.value)


def test_what_nccl_refuses_is_a_sentence() -> None:
    with stand_in.installed(Machine("eager", 1), lambda sends, receives: None):
        gpu = pyalexnet.backend("cuda")

        def sends_to_nobody(comm: Any) -> None:
            ranks = launch.connected(comm, gpu)
            with pytest.raises(KernelError, match="NCCL cannot exchange arrays: NCCL error 4"):
                ranks.exchange([(5, gpu.zeros((3,)))], [])

        together(sends_to_nobody, [0, 1])


def test_ranks_without_gpus_go_on_as_they_are() -> None:
    cpu = pyalexnet.backend("cpu")
    assert all(together(lambda comm: launch.connected(comm, cpu) is comm, [0, 0]))
    assert together(lambda comm: launch.device_of(comm, "cpu", 1), [0, 0]) == [1, 1]
