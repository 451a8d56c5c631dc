"""The tests of the backend cuda would notice a missing wait: each is left out once.

A line of the source, found by its text, is left out; it is noticed by a wrong answer, or by a fault
that the stand-in for the GPU reports, in one of its orders.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pyalexnet
import stand_in
from pyalexnet.backends import Array, Backend
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.step.shards import Shards
from samples import normal
from stand_in import CUDARuntimeError, Machine
from test_cuda import batches, expected_batches
from test_plan import FUSIBLE
from test_towers import EVERY_LAYER, SEED, batch, divisible
from tolerance import same_bits


def lanes(_: Machine) -> bool:
    """Whether two loaders in a row deliver the right batches."""
    be = pyalexnet.backend("cuda")
    return all(map(same_bits, map(be.to_numpy, batches(be)), expected_batches()))


def copies(_: Machine) -> bool:
    """Whether data that another GPU packs and then overwrites arrive as they were."""
    be, other = (pyalexnet.backend("cuda", device) for device in (0, 1))
    x = normal(6, 8)
    there = other.asarray(x)
    parts = [be.asarray(there[:, start::2]) for start in (0, 1)]
    other.assign(there, np.zeros_like(x))
    return all(same_bits(be.to_numpy(parts[i]), x[:, i::2].copy()) for i in (0, 1))


def gathers(_: Machine) -> bool:
    """Whether kernels read another GPU's memory before it is overwritten."""
    be, other = (pyalexnet.backend("cuda", device) for device in (0, 1))
    there, found = other.zeros((6, 8)), []
    for turn in range(3):
        other.assign(there, np.full((6, 8), turn, np.float32))
        found.append(be.exchange_gather([there, there]))
    return [set(be.to_numpy(one).ravel()) for one in found] == [{0}, {1}, {2}]


def towers(_: Machine) -> bool:
    """Whether three steps of towers on two GPUs learn the same as on one."""
    learned = []
    for devices in ((0, 0), (0, 1)):
        net = Net(divisible(EVERY_LAYER), "cuda", SEED, devices)
        sgd = SGD(net)
        for step in range(3):
            sgd.step(*batch(net.spec, 3, step), step=step, epoch=1)
        learned.append(net.params)
    return all(same_bits(learned[1][name], w) for name, w in learned[0].items())


def steps(_: Machine) -> bool:
    """Whether steps of a plan, with part of it run aside, learn the same as in the emulation."""
    learned = []
    for name in ("sim", "cuda"):
        net = Net(FUSIBLE, name, SEED, fused=True)
        sgd = SGD(net)
        x, labels = 60 * normal(4, *FUSIBLE.input_shape), np.arange(4)
        for step in range(3):
            sgd.step(x, labels, step=step, epoch=0.0)
        learned.append({key: net.backend.to_numpy(w) for key, w in net.params.items()})
    return all(same_bits(learned[1][key], w) for key, w in learned[0].items())


class Alike(Communicator):
    """One of two ranks that compute the same."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(0, [0, 0])
        self._backend = backend

    def all_reduce(self, x: Array) -> None:
        self._backend.sum_parts([x, x], out=x)


def sums(_: Machine) -> bool:
    """Whether steps with sums over ranks, which run aside, learn the same as in the emulation."""
    learned = []
    for backend in (pyalexnet.backend("sim"), pyalexnet.backend("cuda")):
        shards = Shards(1, 2)
        net = Net(FUSIBLE, backend, SEED, communicator=Alike(backend), shards=shards)
        sgd = SGD(net)
        x, labels = 60 * normal(4, *FUSIBLE.input_shape), np.arange(4)
        for step in range(3):
            sgd.step(x, labels, step=step, epoch=0.0)
        learned.append({key: backend.to_numpy(w) for key, w in net.params.items()})
    return all(same_bits(learned[1][key], w) for key, w in learned[0].items())


@dataclass(frozen=True)
class Wait:
    """A line that waits, or records what others wait for; `holds` is the check that needs it."""

    module: str
    function: str
    line: str
    holds: Callable[[Machine], bool]

    def __str__(self) -> str:
        return f"{self.function}: {self.line}"

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """The function, without that line."""
        owner = importlib.import_module(self.module)
        *path, name = self.function.split(".")
        for part in path:
            owner = getattr(owner, part)
        usual = vars(owner)[name]
        source = textwrap.dedent(inspect.getsource(usual))
        if source.count(f" {self.line}\n") != 1:  # an AssertionError would count as noticed
            raise LookupError(f"{self.function} has no line {self.line!r}, or several")
        made: dict[str, Any] = {}
        code = source.replace(f" {self.line}\n", " pass\n")
        exec("from __future__ import annotations\n" + code, inspect.unwrap(usual).__globals__, made)
        setattr(owner, name, made[name])
        try:
            yield
        finally:
            setattr(owner, name, usual)


CUDA = "pyalexnet.backends.cuda"
LOADER = "pyalexnet.data.loader"
CURRENT = "cupy.cuda.get_current_stream"
WAITS = (
    Wait(CUDA, "PinnedLane.__init__", f"self._read.record({CURRENT}(self._device))", lanes),
    Wait(CUDA, "PinnedLane.__del__", "self._stream.synchronize()", lanes),
    Wait(CUDA, "PinnedLane.wait", "self._copied.synchronize()", lanes),
    Wait(CUDA, "PinnedLane.send", "self._stream.wait_event(self._read)", lanes),
    Wait(CUDA, "PinnedLane.send", "self._copied.record(self._stream)", lanes),
    Wait(CUDA, "PinnedLane.send", f"{CURRENT}(self._device).wait_event(self._copied)", lanes),
    Wait(CUDA, "PinnedLane.sent", f"self._read.record({CURRENT}(self._device))", lanes),
    Wait(LOADER, "Loader.batches", "lane.wait()", lanes),
    Wait(LOADER, "Loader.batches", "lane.sent()", lanes),
    Wait(CUDA, "CudaBackend._after_and_before", "here.wait_event(written)", copies),
    Wait(CUDA, "CudaBackend._after_and_before", f"{CURRENT}(peer).wait_event(read)", copies),
    Wait(CUDA, "CudaBackend._after_and_before", "here.wait_event(written)", towers),
    Wait(CUDA, "CudaBackend._after_and_before", f"{CURRENT}(peer).wait_event(read)", gathers),
    Wait(CUDA, "CudaBackend.begin", "self._beside_stream.wait_event(begun)", sums),
    Wait(CUDA, "CudaBackend._await", f"{CURRENT}(self.device).wait_event(event)", sums),
    Wait(
        "stand_in.kernels", "Recording.run", "self._extension.order(device, stream, beside)", steps
    ),
    Wait(
        "stand_in.kernels",
        "Recording.run",
        "self._extension.order(self._calls[0][0], beside, stream)",
        steps,
    ),
)


def notices(order: str, holds: Callable[[Machine], bool], wait: Wait | None = None) -> bool:
    """Whether something goes visibly wrong in this order, without the wait."""
    try:
        with stand_in.installed(Machine(order, 2)) as machine:
            if wait is None:
                return not holds(machine)
            with wait.left_out():
                return not holds(machine)
    except (AssertionError, CUDARuntimeError, pyalexnet.errors.KernelError):
        return True


@pytest.mark.every(3)
@pytest.mark.parametrize("order", stand_in.ORDERS_OF_TWO)
@pytest.mark.parametrize(
    "holds", [lanes, copies, gathers, towers, steps, sums], ids=lambda one: str(one.__name__)
)
def test_nothing_is_wrong_with_all_waits(order: str, holds: Callable[[Machine], bool]) -> None:
    assert not notices(order, holds)


def test_a_wait_that_is_not_there_cannot_be_left_out() -> None:
    gone = Wait(CUDA, "PinnedLane.wait", "self._copied.wait_for_it()", lanes)
    with pytest.raises(LookupError, match=r"PinnedLane\.wait has no line"):
        notices("eager", lanes, gone)


@pytest.mark.parametrize("wait", WAITS, ids=str)
def test_a_missing_wait_is_noticed(wait: Wait) -> None:
    assert any(notices(order, wait.holds, wait) for order in stand_in.ORDERS_OF_TWO)
