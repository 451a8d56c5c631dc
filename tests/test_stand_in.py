"""The stand-in for a GPU refuses what CuPy and the driver refuse, and notices what they miss."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pyalexnet
import stand_in
from pyalexnet.errors import BackendUnavailable, KernelError
from samples import normal
from stand_in import CUDARuntimeError, Machine
from tolerance import same_bits


@pytest.fixture
def cupy() -> Iterator[Any]:
    """CuPy for two made-up GPUs with late streams; faults are left to the test."""
    machine = Machine("lazy", 2)
    with stand_in.installed(machine):
        cupy: Any = importlib.import_module("cupy")
        cupy.machine = machine
        yield cupy
        machine.faults.clear()


def fault_of(cupy: Any, do: Callable[[], Any]) -> str:
    """The single fault that results."""
    do()
    (sentence,) = cupy.machine.faults
    return str(sentence)


def side_of(cupy: Any) -> Any:
    return cupy.cuda.Stream(non_blocking=True)


def test_nothing_is_left_of_it() -> None:
    sys.modules.pop("bench.unpooled", None)
    names = ("cupy", "cupy.cuda", "pyalexnet._cuda", "pyalexnet.backends.cuda")
    before = {name: sys.modules.get(name) for name in names}
    with stand_in.installed(Machine("eager", 1)):
        assert pyalexnet.backend("cuda").name == "cuda"
        other = importlib.import_module("bench.unpooled")
    assert {name: sys.modules.get(name) for name in before} == before
    assert sys.modules["bench.unpooled"] is other
    if before["cupy"] is None:
        with pytest.raises(BackendUnavailable):
            pyalexnet.backend("cuda")


def test_a_fault_is_an_error_in_the_end() -> None:
    with (
        pytest.raises(AssertionError, match="a stream is made that waits for the null stream"),
        stand_in.installed(Machine("eager", 1)),
    ):
        importlib.import_module("cupy").cuda.Stream()
    with pytest.raises(ValueError, match="order is 'late'; one of"):
        Machine("late", 1)


@pytest.mark.parametrize(
    ("order", "seen"),
    [
        ("eager", {"null": True, "side": True}),
        ("lazy", {"null": False, "side": False}),
        ("side", {"null": False, "side": True}),
        ("null", {"null": True, "side": False}),
        ("first", {"null": True, "side": True}),
        ("second", {"null": False, "side": False}),
    ],
)
def test_what_runs_at_once(order: str, seen: dict[str, bool]) -> None:
    with stand_in.installed(Machine(order, 2)):
        cupy = importlib.import_module("cupy")
        found = {}
        for name, stream in (("null", cupy.cuda.Stream.null), ("side", side_of(cupy))):
            event = cupy.cuda.Event()
            event.record(stream)
            found[name] = event.work.done
    assert found == seen


@pytest.mark.parametrize("order", ["lazy", "side", "null", "random"])
def test_who_does_not_wait_reads_too_early_in_some_order(order: str) -> None:
    """One stream writes, the other reads; in either direction, some time in twenty."""
    early = 0
    with stand_in.installed(Machine(order, 1)) as machine:
        cupy = importlib.import_module("cupy")
        side = side_of(cupy)
        for writer, reader in [(cupy.cuda.Stream.null, side), (side, cupy.cuda.Stream.null)] * 10:
            x, y = cupy.zeros(3), cupy.zeros(3)
            machine.wait_for_device(0)
            with writer:
                x.fill(1)
            with reader:
                y[...] = x
                early += y.get()[0] == 0
            machine.wait_for_device(0)
    assert early > 0


def test_an_event_orders_two_streams(cupy: Any) -> None:
    side, x, y = side_of(cupy), cupy.zeros(3), cupy.zeros(3)
    x.fill(1)
    side.wait_event(cupy.cuda.Stream.null.record(cupy.cuda.Event()))
    with side:
        y[...] = x
    assert y.get(side).tolist() == [1, 1, 1]


def test_times_between_events(cupy: Any) -> None:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    end.record()
    with pytest.raises(CUDARuntimeError, match="NotReady"):
        cupy.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    with pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(start, cupy.cuda.Event(disable_timing=True))
    with pytest.raises(ValueError, match="Timing must be disabled"):
        cupy.cuda.Event(interprocess=True)


# ------------------------------------------------------------------ memory


def test_new_memory_holds_garbage(cupy: Any) -> None:
    cupy.zeros(100, "float32")
    assert np.isnan(cupy.empty(100, "float32").get()).all()


def test_memory_that_another_stream_still_uses_is_not_handed_out(cupy: Any) -> None:
    x, side = cupy.zeros(3), side_of(cupy)
    side.wait_event(cupy.cuda.Stream.null.record(cupy.cuda.Event()))
    with side:
        x.fill(1)
    del x
    assert "is still to use is handed out again" in fault_of(cupy, lambda: cupy.zeros(3))


def test_memory_of_one_stream_is_handed_out_at_once(cupy: Any) -> None:
    x = cupy.zeros(3)
    place = x.data.ptr
    del x
    assert cupy.zeros(3).data.ptr == place


def test_page_locked_memory_is_not_given_back_before_it_was_read(cupy: Any) -> None:
    def send() -> None:
        pinned = cupy.cuda.alloc_pinned_memory(24)
        cupy.zeros(3).set(np.frombuffer(pinned, np.float64, 3))

    assert "page-locked memory is given back before a copy" in fault_of(cupy, send)


def test_memory_of_the_host_that_is_not_page_locked_is_not_copied_from_later(cupy: Any) -> None:
    assert "not page-locked" in fault_of(cupy, lambda: cupy.zeros(3).set(np.ones(3)))


def test_without_a_pool_the_driver_takes_memory_back(cupy: Any) -> None:
    cupy.cuda.set_allocator(None)
    pool = cupy.get_default_memory_pool()
    x = cupy.zeros(300)
    assert pool.total_bytes() == 2560
    del x
    assert pool.total_bytes() == 0


# ------------------------------------------------------------------ captures


def test_a_graph_is_what_was_captured(cupy: Any) -> None:
    x, y, stream = cupy.zeros(3), cupy.zeros(3), side_of(cupy)
    with stream:
        stream.begin_capture()
        x.fill(1)
        y[...] = x
        graph = stream.end_capture()
    assert y.get().tolist() == [0, 0, 0]
    graph.launch()
    assert y.get().tolist() == [1, 1, 1]


def test_a_graph_is_not_launched_after_its_arrays_are_gone(cupy: Any) -> None:
    x, stream = cupy.zeros(3), side_of(cupy)
    with stream:
        stream.begin_capture()
        x.fill(1)
        graph = stream.end_capture()
    del x
    assert fault_of(cupy, graph.launch) == "a graph is launched whose memory was given back"


@pytest.mark.parametrize(
    ("status", "do"),
    [
        (900, lambda cupy, x, side: x.get()),
        (900, lambda cupy, x, side: cupy.cuda.Device().synchronize()),
        (900, lambda cupy, x, side: cupy.cuda.get_current_stream().synchronize()),
        (905, lambda cupy, x, side: cupy.cuda.get_current_stream().wait_event(cupy.before)),
        (401, lambda cupy, x, side: cupy.cuda.get_current_stream().begin_capture()),
        (901, lambda cupy, x, side: side.end_capture()),
        (905, lambda cupy, x, side: cupy.cuda.Stream.null.wait_event(captured(cupy))),
        (907, lambda cupy, x, side: captured(cupy).synchronize()),
    ],
)
def test_what_a_capture_refuses(cupy: Any, status: int, do: Any) -> None:
    x, side, stream = cupy.zeros(3), side_of(cupy), side_of(cupy)
    cupy.before = side.record(cupy.cuda.Event())
    with stream:
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError) as refused:
            do(cupy, x, side)
        stream.end_capture()
    assert refused.value.status == status


def captured(cupy: Any) -> Any:
    """An event of the capture under way."""
    return cupy.cuda.get_current_stream().record(cupy.cuda.Event())


def test_a_branch_has_to_be_joined(cupy: Any) -> None:
    x, side, stream = cupy.zeros(3), side_of(cupy), side_of(cupy)
    with stream:
        stream.begin_capture()
        side.wait_event(captured(cupy))
        with side:
            x.fill(1)
        with pytest.raises(CUDARuntimeError, match="StreamCaptureUnjoined"):
            stream.end_capture()


@pytest.mark.parametrize(
    ("said", "do"),
    [
        ("the null stream is used", lambda cupy, stream: fill_on_null(cupy)),
        ("memory is taken", lambda cupy, stream: cupy.empty(1000)),
    ],
)
def test_what_a_capture_should_not_see(cupy: Any, said: str, do: Any) -> None:
    cupy.x, stream = cupy.zeros(3), side_of(cupy)
    with stream:
        stream.begin_capture()
        assert said in fault_of(cupy, lambda: do(cupy, stream))
        stream.end_capture()


def fill_on_null(cupy: Any) -> None:
    with cupy.cuda.Stream.null:
        cupy.x.fill(1)


# ------------------------------------------------------------------ handles, devices, names


def test_handles_of_what_is_gone_or_elsewhere_are_refused(cupy: Any) -> None:
    with pytest.raises(CUDARuntimeError, match="InvalidDevice"), cupy.cuda.Device(2):
        pass
    event = cupy.cuda.Event()
    with cupy.cuda.Device(1), pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
        event.record()
    side = side_of(cupy)
    with cupy.cuda.Device(1), pytest.raises(RuntimeError, match="is of device 0, not 1"), side:
        pass
    address = side.ptr
    del side
    with pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
        cupy.machine.line(address)
    assert side_of(cupy).ptr == address


def test_kernels_reach_no_other_gpu_unless_they_may(cupy: Any) -> None:
    be: Any = pyalexnet.backend("cuda")
    other = pyalexnet.backend("cuda", 1)
    x = normal(2, 3)
    there, whole = other.asarray(x), be.empty((2, 3))
    gather = sys.modules["pyalexnet._cuda"].exchange_gather
    with pytest.raises(ValueError, match="another device"):
        cupy.zeros((2, 3), "float32")[...] = there
    with pytest.raises(Exception, match="an illegal memory access") as refused:
        gather([there], whole, (0, 0, be.workspace))
    assert type(refused.value).__name__ == "KernelError"
    assert same_bits(be.to_numpy(be.exchange_gather([there])), x)
    gather([there], whole, (0, 0, be.workspace))
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    ordered = other.asarray(x)
    with pytest.raises(KernelError, match="illegal"):
        be._run("exchange_gather", [ordered], whole)


@pytest.mark.parametrize(
    "name",
    ["cupy.add", "cupy.cuda.synchronize", "pyalexnet._cuda.launch_count", "pyalexnet._cuda.empty"],
)
def test_it_has_no_more_than_what_it_stands_for(cupy: Any, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(AttributeError):
        getattr(sys.modules[module], attribute)


@pytest.mark.parametrize(
    ("error", "do"),
    [
        (TypeError, lambda cupy: np.asarray(cupy.zeros(3))),
        (TypeError, lambda cupy: np.add(cupy.zeros(3), 1)),
        (TypeError, lambda cupy: cupy.zeros(3).set([1, 2, 3])),
        (TypeError, lambda cupy: cupy.zeros(3).set(np.ones(3, np.float32))),
        (ValueError, lambda cupy: cupy.zeros(3).set(np.ones(4))),
        (RuntimeError, lambda cupy: cupy.zeros((3, 2))[:, ::2].set(np.ones((3, 1)))),
        (ValueError, lambda cupy: cupy.zeros(3).__setitem__(..., np.ones(3))),
        (ValueError, lambda cupy: cupy.zeros(3, "O")),
        (ValueError, lambda cupy: cupy.zeros(3, ">f4")),
        (TypeError, lambda cupy: cupy.zeros(3, dtype="f4", device=1)),
        (TypeError, lambda cupy: cupy.cuda.Stream(nonblocking=True)),
    ],
)
def test_what_cupy_refuses(cupy: Any, error: type[Exception], do: Any) -> None:
    with pytest.raises(error):
        do(cupy)


# ------------------------------------------------------------------ NCCL


@pytest.fixture
def nccl() -> Iterator[Any]:
    """NCCL for one of two ranks, which sends and gets nothing."""
    machine = Machine("eager", 2)
    with stand_in.installed(machine, lambda sends, receives: None):
        nccl: Any = importlib.import_module("cupy.cuda.nccl")
        cupy: Any = importlib.import_module("cupy")
        nccl.cupy, nccl.ends = cupy, nccl.NcclCommunicator(2, nccl.get_unique_id(), 0)
        cupy.machine = machine
        yield nccl
        machine.faults.clear()


def message(nccl: Any, ptr: int, *, peer: int = 1, grouped: bool = True) -> None:
    if grouped:
        nccl.groupStart()
    nccl.ends.send(ptr, 12, nccl.NCCL_UINT8, peer, 0)
    if grouped:
        nccl.groupEnd()


def test_a_group_of_messages_is_one_piece_of_work(nccl: Any) -> None:
    message(nccl, nccl.cupy.zeros(3, "float32").data.ptr)
    assert not nccl.cupy.machine.faults


def test_a_message_in_no_group_is_a_fault(nccl: Any) -> None:
    ptr = nccl.cupy.zeros(3, "float32").data.ptr
    assert "in no group" in fault_of(nccl.cupy, lambda: message(nccl, ptr, grouped=False))


def test_nccl_given_memory_of_the_host_is_a_fault(nccl: Any) -> None:
    ptr = np.zeros(3, np.float32).__array_interface__["data"][0]
    assert "not the GPU's" in fault_of(nccl.cupy, lambda: message(nccl, ptr))


def test_nccl_refuses_ranks_ids_and_streams_that_are_wrong(nccl: Any) -> None:
    ptr = nccl.cupy.zeros(3, "float32").data.ptr
    with pytest.raises(nccl.NcclError):
        message(nccl, ptr, peer=2)
    for wrong in (b"short", tuple(nccl.get_unique_id())):  # the latter before CuPy 14
        with pytest.raises(nccl.NcclError):
            nccl.NcclCommunicator(2, wrong, 0)
    nccl.groupEnd()
    with nccl.cupy.cuda.Device(1):
        ends = nccl.NcclCommunicator(2, nccl.get_unique_id(), 0)
    nccl.groupStart()
    ends.send(ptr, 12, nccl.NCCL_UINT8, 1, 0)
    with pytest.raises(nccl.NcclError):
        nccl.groupEnd()
