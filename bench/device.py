"""Where the bench runs: the backend, its stopwatch, and how a call is made ready for timing.

The only module of the bench that imports CuPy, besides `unpooled`.
"""

from __future__ import annotations

import gc
import importlib
import time
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any

import pyalexnet
from pyalexnet.backends import Backend

from . import environment
from .timing import Elsewhere, HostStopwatch, Run, Stopwatch, finish

# Four times the largest L2 cache of any card (60 MB on an H200).
_FLUSH_BYTES = 256 * 2**20
_CAPTURE_WARMUPS = 3
_STEPS_A_SAMPLE = 4
_LEAST_OF_STEPS = 0.06  # seconds of steps in a row, as in training, that a CPU is timed for


class Device(ABC):
    """A place to time on.

    Attributes:
        name: of the processor or GPU, for the record.
        torch: PyTorch's name for it.
        versions: of the libraries that our side uses.
        backend: our side.
        stopwatch: takes the time of an operation.
        step_stopwatch: takes the time of a training step.
        threads: how many both sides may use; None on a GPU.
        layouts: of PyTorch's maps, in which its steps are tried.
    """

    name: str
    torch: str
    versions: dict[str, str]
    backend: Backend
    stopwatch: Stopwatch
    step_stopwatch: Stopwatch
    threads: int | None = None
    layouts: tuple[str, ...] = ("channels_last",)

    @abstractmethod
    def ready(self, run: Run) -> Run:
        """`run` as it is timed: without the host's part, if the device allows it."""

    @abstractmethod
    def memory(self) -> int | None:
        """Bytes in our arrays' pool, less unused blocks, which it releases; None without one."""

    @abstractmethod
    def peak_memory(self, run: Run) -> int | None:
        """The same after a `run`, with nothing released; None where there is no pool."""

    def enqueue_seconds(self, run: Run, calls: int) -> float:
        """The host's time to enqueue one of `calls` calls, without waiting for them."""
        finish(run())
        self.backend.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        seconds = (time.perf_counter() - start) / calls
        finish(result)
        self.backend.synchronize()
        return seconds


class Host(Device):
    """The CPU, by the backend cpu; also used in place of a GPU by a dry run of the GPU's suite.

    Each side uses as many threads as the process may use cores: `taskset -c 0` makes it one.
    """

    layouts = ("channels_last", "NCHW")

    def __init__(self, name: str) -> None:
        self.name = name
        self.torch, self.versions = "cpu", {}
        self.threads = environment.cores()
        self.backend = pyalexnet.backend("cpu")
        self.stopwatch, self.step_stopwatch = HostStopwatch(), HostStopwatch(_LEAST_OF_STEPS)

    def ready(self, run: Run) -> Run:
        """The call as a training step makes it: checked once, then replayed."""

        def call() -> None:
            run()

        return self.backend.record(call)

    def memory(self) -> int | None:
        return None

    def peak_memory(self, run: Run) -> int | None:
        return None


class Gpu(Device):
    """An NVIDIA GPU. Operations are timed between CUDA events, after flushing the caches; steps,
    which find nothing of the last batch in a cache, by wall-clock time.
    """

    def __init__(self, number: int = 0) -> None:
        """Open GPU `number`.

        Raises:
            BackendUnavailable: the cuda backend cannot run here.
        """
        self.backend = pyalexnet.backend("cuda", number)
        self._cupy = importlib.import_module("cupy")
        properties = self._cupy.cuda.runtime.getDeviceProperties(number)
        self.name = properties["name"].decode()
        self.torch = f"cuda:{number}"
        # CuPy has several package names, one for each CUDA version.
        names = metadata.packages_distributions().get("cupy", [])
        self.versions = {name: metadata.version(name) for name in names}
        self.stopwatch = _Events(self._cupy, number)
        self.step_stopwatch = _Wall(self._cupy, number)

    def ready(self, run: Run) -> Run:
        """A CUDA graph of the call, so that the host's time cannot be mistaken for the kernels'."""
        self.backend.synchronize()
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with stream:
            for _ in range(_CAPTURE_WARMUPS):
                run()
            stream.synchronize()
            stream.begin_capture()
            run()
            graph = stream.end_capture()
        return _Replay(graph, run, stream)

    def memory(self) -> int | None:
        pool = self._cupy.get_default_memory_pool()
        gc.collect()
        pool.free_all_blocks()
        return int(pool.total_bytes())

    def peak_memory(self, run: Run) -> int | None:
        self.memory()
        run()
        self.backend.synchronize()
        return int(self._cupy.get_default_memory_pool().total_bytes())


class _Events(Stopwatch):
    """Overwrites the caches, then takes the time between two events around the call."""

    def __init__(self, cupy: Any, number: int) -> None:
        self._cupy = cupy
        self._device = cupy.cuda.Device(number)
        with self._device:
            self._flushed = cupy.zeros(_FLUSH_BYTES, "uint8")
            self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    def seconds(self, run: Run) -> float:
        with self._device:
            # Also keeps the GPU busy while the host enqueues what follows on the same stream.
            self._flushed.fill(1)
            if isinstance(run, Elsewhere):
                self._device.synchronize()
            self._start.record()
            run()
            self._end.record()
            self._end.synchronize()
            return float(self._cupy.cuda.get_elapsed_time(self._start, self._end)) / 1e3


class _Wall(Stopwatch):
    """Several steps in a row, as in training, where the host runs ahead; on any streams."""

    def __init__(self, cupy: Any, number: int) -> None:
        self._device = cupy.cuda.Device(number)

    def seconds(self, run: Run) -> float:
        self._device.synchronize()
        start = time.perf_counter()
        for _ in range(_STEPS_A_SAMPLE):
            result = run()
        finish(result)
        self._device.synchronize()
        return (time.perf_counter() - start) / _STEPS_A_SAMPLE


class _Replay:
    """A captured call.

    Keeps alive what its graph reads and writes: the arrays that the call holds, and the stream,
    because the backend would give its scratch memory to a new stream at the same address.
    """

    def __init__(self, graph: Any, run: Run, stream: Any) -> None:
        self._graph, self._kept = graph, (run, stream)

    def __call__(self) -> None:
        self._graph.launch()


def graph_of_torch(torch: Any, run: Run, stream: Any = None) -> Run:
    """A CUDA graph of a call of PyTorch's, warmed up first as its manual asks.

    stream: where the call has run before, if it has; a backward pass runs on the stream of its
    forward pass, and can only be captured there.
    """
    side = torch.cuda.Stream() if stream is None else stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_CAPTURE_WARMUPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        run()

    def replay() -> None:
        graph.replay()

    return replay
