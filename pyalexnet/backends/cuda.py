"""The kernels on an NVIDIA GPU. The only module that imports CuPy, which owns memory and streams.

Operations go to CuPy's current stream of the device, in the calling thread, and do not wait.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from pyalexnet.backends.base import Array, Shape
from pyalexnet.backends.kernels import KernelBackend, extension
from pyalexnet.errors import ArgumentError, BackendUnavailable, KernelError
from pyalexnet.ops.checks import integer
from pyalexnet.ops.device import Lane

try:
    import cupy
except ImportError as error:
    raise BackendUnavailable(
        f"The backend cuda needs CuPy, which cannot be imported ({error}); install it for your "
        'CUDA version: pip install "pyalexnet[cuda12]" or pip install "pyalexnet[cuda13]".'
    ) from error

_BUILD = (
    "build pyalexnet from source on a machine with nvcc: pip install . "
    "-C cmake.define.PYALEXNET_CUDA=ON"
)
# Statuses of the CUDA runtime (driver_types.h).
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
# Device types of DLPack whose memory kernels can read (dlpack.h): kDLCUDA, kDLCUDAManaged.
_DLPACK_CUDA = (2, 13)


class CudaBackend(KernelBackend):
    """A GPU. Its arrays are cupy.ndarray.

    Kernels read another GPU's memory directly where the machine allows it (NVLink, or PCIe with
    peer access) and the memory came from cudaMalloc, as in CuPy's default pool; peer access covers
    neither stream-ordered pools (`cupy.cuda.MemoryAsyncPool`) nor mapped memory. Otherwise they
    read a copy, which the driver may route through the host. Either way events keep the order:
    work already on the other GPU's current stream finishes before the data are read, and later
    work there waits until they have been.
    """

    name = "cuda"
    array_type: ClassVar[type[Any]] = cupy.ndarray

    def __init__(self, device: int = 0) -> None:
        super().__init__(extension("_cuda", _BUILD))
        self.device = integer(self.name, "device", device)
        count = _gpus()
        if self.device >= count:
            raise ArgumentError(
                f"{self.name}: device is {device}; this machine shows {count} "
                f"GPU{'s' if count > 1 else ''}, so 0 to {count - 1} was expected."
            )
        self._direct: dict[int, bool] = {}
        self._try_a_kernel()

    def _try_a_kernel(self) -> None:
        """Refuse a GPU that cannot be used, or that the extension module was not built for."""
        try:
            with _current(self.device) as device:
                capability = device.compute_capability
            x = self.zeros((1,))
        except (KernelError, MemoryError) as error:
            raise BackendUnavailable(f"The backend cuda cannot be used: {error}") from error
        try:
            self._hopper = self._ask("has_hopper", self.device)
            self._run("relu_fprop", x, x)
            self.synchronize()
        except KernelError as error:
            capability += "a" if capability == "90" else ""  # sm_90a: Hopper only
            raise BackendUnavailable(
                f"GPU {self.device} cannot run the kernels of pyalexnet._cuda ({error}); {_BUILD} "
                f"-C cmake.define.PYALEXNET_CUDA_ARCHITECTURES={capability}."
            ) from error

    # Arrays

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        with _current(self.device):
            x = _imported(x)
            if not isinstance(x, cupy.ndarray):
                return cupy.asarray(np.asarray(x, dtype=dtype, order="C"))
            if x.device.id != self.device:
                x = self._copied(x)
            return cupy.asarray(x, dtype=dtype, order="C")

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        with _current(self.device):
            host: np.ndarray[Any, Any] = cupy.asnumpy(x)
        return host

    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        with _current(self.device):
            return cupy.empty(shape, dtype)

    def zeros(self, shape: Shape, dtype: Any = np.float32) -> Array:
        with _current(self.device):
            return cupy.zeros(shape, dtype)

    def copy(self, x: Array) -> Array:
        with _current(self.device):
            return cupy.array(x, order="C")

    def assign(self, x: Array, values: Any) -> None:
        with _current(self.device):
            super().assign(x, values)

    def synchronize(self) -> None:
        with _current(self.device) as device:
            device.synchronize()

    def lane(self, shape: Shape, dtype: Any = np.uint8) -> Lane:
        return PinnedLane(self, shape, dtype)

    def _address(self, x: Array) -> int:
        return int(x.data.ptr)

    # Launching

    def _stream(self) -> int:
        return int(cupy.cuda.get_current_stream(self.device).ptr)

    def _run(self, op: str, *arguments: Any) -> None:
        # The extension module has its own CUDA runtime, which may change the thread's current
        # device under CuPy's; leaving the context puts that right.
        with _current(self.device):
            super()._run(op, *arguments)

    def record(self, work: Callable[[], None], *, graph: bool = True) -> Callable[[], None]:
        replay = super().record(work)
        return _Captured(self.device, replay) if graph else replay

    def _replay(self, recording: Any) -> None:
        with _current(self.device):
            super()._replay(recording)

    def _beside(self) -> int:
        return int(self._beside_stream.ptr)

    @cached_property
    def _beside_stream(self) -> Any:
        return cupy.cuda.Stream(non_blocking=True)

    def begin(self, work: Callable[[], None]) -> Callable[[], None]:
        with _current(self.device):
            begun = cupy.cuda.get_current_stream(self.device).record(_event())
            self._beside_stream.wait_event(begun)
            with self._beside_stream:
                work()
            done = self._beside_stream.record(_event())
        return partial(self._await, done)

    def _await(self, event: Any) -> None:
        with _current(self.device):
            cupy.cuda.get_current_stream(self.device).wait_event(event)

    # Other GPUs

    @contextmanager
    def _readable(self, arrays: Sequence[Array]) -> Iterator[list[Array]]:
        with _current(self.device):
            near = [x if self._reads(x) else self._copied(x) for x in arrays]
            peers = {x.device.id for x in near} - {self.device}
            with self._after_and_before(peers):
                yield near

    def _reads(self, x: Array) -> bool:
        """Whether kernels of this GPU can read `x`; the first call for its GPU enables it."""
        device = x.device.id
        if device == self.device:
            return True
        if not _from_malloc(x):
            return False
        if device not in self._direct:
            self._direct[device] = self._ask("peer_access_possible", self.device, device)
            if self._direct[device]:
                self._ask("enable_peers", self.device, device)
        return self._direct[device]

    def _copied(self, x: Array) -> Array:
        """A copy on this GPU of an array of another, in the order of both GPUs' streams.

        Call it with this device current.
        """
        with cupy.cuda.Device(x.device.id):
            packed = cupy.ascontiguousarray(x)  # on the other's stream, which may reuse it
        own = self.empty(x.shape, x.dtype)
        with self._after_and_before({x.device.id}):
            cupy.cuda.runtime.memcpyPeerAsync(
                self._address(own),
                self.device,
                self._address(packed),
                x.device.id,
                packed.nbytes,
                self._stream(),
            )
        return own

    @contextmanager
    def _after_and_before(self, peers: Collection[int]) -> Iterator[None]:
        """Order the work enqueued inside on this GPU's stream with that on the streams of `peers`.

        It starts after the work already on theirs, and work enqueued there later waits for it.
        Enter and leave the context with this device current.
        """
        here = cupy.cuda.get_current_stream(self.device)
        for peer in peers:
            # An event belongs to the device current at its creation, the default stream to the one
            # current at its use.
            with cupy.cuda.Device(peer):
                written = cupy.cuda.get_current_stream(peer).record(_event())
            here.wait_event(written)
        yield
        if not peers:
            return
        read = here.record(_event())
        for peer in peers:
            with cupy.cuda.Device(peer):
                cupy.cuda.get_current_stream(peer).wait_event(read)


class _Captured:
    """Operations as one CUDA graph, so that the host's work for each is done only once.

    The first run is an ordinary one, since a kernel that has never run may have to be loaded, which
    is not allowed during stream capture; the second run captures.
    """

    def __init__(self, device: int, replay: Callable[[], None]) -> None:
        self._device, self._replay = device, replay
        self._warm = False
        self._graph: Any = None

    def __call__(self) -> None:
        if not self._warm:
            self._replay()
            self._warm = True
            return
        with _current(self._device):
            if self._graph is None:
                self._graph = self._capture()
            self._graph.launch()

    def _capture(self) -> Any:
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                self._replay()
            except BaseException:
                with suppress(cupy.cuda.runtime.CUDARuntimeError):  # adds nothing to the cause
                    stream.end_capture()
                raise
            return stream.end_capture()


class PinnedLane(Lane):
    """A lane through page-locked memory, copied on its own stream beside the kernels.

    A copy waits only for the operations that read the lane's array in its previous turn, not for
    the step the device is working on; the first copy waits for earlier uses of that memory.
    """

    def __init__(self, backend: CudaBackend, shape: Shape, dtype: Any) -> None:
        self._device = backend.device
        count = math.prod(shape)
        with _current(self._device):
            pinned = cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
            self._array = backend.empty(shape, dtype)
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copied, self._read = _event(), _event()
            self._read.record(cupy.cuda.get_current_stream(self._device))
        self.host = np.frombuffer(pinned, dtype, count).reshape(shape)

    def __del__(self) -> None:
        # Page-locked memory returns to its pool at once, even if copies have yet to read it.
        if hasattr(self, "host") and not sys.is_finalizing():
            with suppress(KernelError), _current(self._device):
                self._stream.synchronize()

    def wait(self) -> None:
        with _current(self._device):
            self._copied.synchronize()

    def send(self, count: int) -> Array:
        part = self._array[:count]
        with _current(self._device):
            self._stream.wait_event(self._read)
            part.set(self.host[:count], stream=self._stream)
            self._copied.record(self._stream)
            cupy.cuda.get_current_stream(self._device).wait_event(self._copied)
        return part

    def sent(self) -> None:
        with _current(self._device):
            self._read.record(cupy.cuda.get_current_stream(self._device))


def _from_malloc(x: Array) -> bool:
    """Whether cudaMalloc allocated the memory of `x`, directly or for a pool of CuPy's."""
    memory = x.data.mem
    return getattr(memory, "identity", type(memory).__name__) in ("Memory", "ManagedMemory")


@contextmanager
def _current(device: int) -> Iterator[Any]:
    """Make a GPU the current one; CUDA errors inside become a KernelError."""
    try:
        with cupy.cuda.Device(device) as current:
            yield current
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise KernelError(f"GPU {device}: {error}.") from error


def _event() -> Any:
    return cupy.cuda.Event(disable_timing=True)


def _imported(x: Any) -> Any:
    """`x` as a CuPy array, on any GPU, or as a NumPy array."""
    if isinstance(x, (cupy.ndarray, np.ndarray)):
        return x
    try:
        if hasattr(x, "__dlpack_device__"):
            kind, device = x.__dlpack_device__()
            if kind not in _DLPACK_CUDA:
                return np.from_dlpack(x)
            with cupy.cuda.Device(device):
                return cupy.from_dlpack(x)
        if hasattr(x, "__cuda_array_interface__"):
            return cupy.asarray(x)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"asarray: x of type {type(x).__name__} cannot be read ({error}); an array that "
            "DLPack or __cuda_array_interface__ describes was expected."
        ) from error
    return np.asarray(x)


def _gpus() -> int:
    """Number of GPUs, at least 1.

    Raises:
        BackendUnavailable: there is no driver, or none that is new enough, or no GPU.
    """
    runtime = cupy.cuda.runtime
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise BackendUnavailable(_why_no_gpu(error)) from error


def _why_no_gpu(error: Any) -> str:
    runtime = cupy.cuda.runtime
    supported = runtime.driverGetVersion()  # 0 without a driver, else 1000 major + 10 minor
    if supported == 0:
        return (
            "The backend cuda needs an NVIDIA driver, and this machine has none; install one and "
            "see that nvidia-smi finds the GPU."
        )
    if error.status == _INSUFFICIENT_DRIVER:
        return (
            f"The NVIDIA driver supports CUDA up to {_version(supported)}, and CuPy was built for "
            f"CUDA {_version(runtime.runtimeGetVersion())}; update the driver, or install CuPy for "
            'an older CUDA, pip install "pyalexnet[cuda12]".'
        )
    if error.status == _NO_DEVICE:
        return (
            "The backend cuda needs an NVIDIA GPU, and the driver shows none; see nvidia-smi, and "
            "whether CUDA_VISIBLE_DEVICES hides it."
        )
    return f"The backend cuda cannot use the GPU: {error}."


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
