"""The backend cuda itself: streams, lanes, other GPUs, and its messages if there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pyalexnet
import stand_in
from pyalexnet import nets
from pyalexnet.backends import why_unavailable
from pyalexnet.data.dataset import Labels, Split
from pyalexnet.data.loader import Loader
from pyalexnet.data.views import Views, centre
from pyalexnet.errors import ArgumentError, BackendUnavailable, KernelError
from pyalexnet.step.net import Net
from pyalexnet.step.program import StepScalars
from pyalexnet.step.sgd import SGD
from samples import classes, normal, pixels
from stand_in import CUDARuntimeError, Machine
from tolerance import same_bits
from variants import CUDA, in_every_order, on_two_gpus, parameters

ON_GPU = pytest.mark.parametrize("be", parameters(CUDA), indirect=True)
IN_EVERY_ORDER = pytest.mark.parametrize("be", in_every_order(CUDA), indirect=True)
ON_TWO_GPUS = pytest.mark.parametrize("be", on_two_gpus(), indirect=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Two made-up GPUs whose streams all run late."""
    with stand_in.installed(Machine("lazy", 2)) as machine:
        yield machine


# ---------------------------------------------------------------------------- one GPU, its streams


@ON_GPU
def test_scratch_is_one_for_each_stream_and_another_for_what_is_aside(be: Any) -> None:
    import cupy

    on_null = be.workspace(100)
    assert be.workspace(0) is None
    assert be.workspace(80) is on_null and on_null.size == 100
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        on_side = be.workspace(100)
    places = [on_null, on_side]

    def work() -> None:
        with be.aside():
            places.append(be.workspace(100))
        assert be.workspace(100) is on_null

    be.record(work)
    assert len({one.data.ptr for one in places}) == 3
    assert be.workspace(101).size == 101


@pytest.mark.every(9)
@IN_EVERY_ORDER
def test_steps_as_a_graph_are_those_without(be: Any) -> None:
    """The first step runs directly, the second is captured, the others are launched."""
    check_graph(be, "fp32")


@pytest.mark.slow
@ON_GPU
@pytest.mark.parametrize("precision", ["fp32x3", "bf16"])
def test_steps_on_tensor_cores_as_a_graph(be: Any, precision: Any) -> None:
    check_graph(be, precision)


def check_graph(be: Any, precision: Any) -> None:
    spec = nets.get("alexnet-tiny")(classes=5, input_shape=(12, 12, 3))
    x, labels = pixels(4, 12, 12, 3).astype(np.float32) - 128, classes(4, 5)
    found = []
    for graph in (False, True):
        net = Net(spec, be, precision=precision, fused=True, graph=graph)
        sgd = SGD(net)
        losses = [sgd.step(x, labels, step=step, epoch=0.0) for step in range(4)]
        params = [be.to_numpy(w).tobytes() for w in net.params.values()]
        found.append(([float(be.to_numpy(loss)) for loss in losses], params))
    assert found[0] == found[1]
    assert len(set(found[0][0])) == 4


@IN_EVERY_ORDER
def test_numbers_of_a_step_may_be_replaced_before_it_runs(be: Any) -> None:
    names = ("conv1.w", "conv1.b")
    numbers = StepScalars((be,), names, (names,))
    seen = []
    for step in range(3):
        numbers.set(step, np.array([step + 0.25, step + 0.5]))
        seen.append([be.copy(one) for one in (*numbers.steps, *numbers.rates.values())])
    host = [[be.to_numpy(one).item() for one in row] for row in seen]
    assert host == [[step, step + 0.25, step + 0.5] for step in range(3)]


@IN_EVERY_ORDER
def test_assigning_takes_any_layout(be: Any) -> None:
    """0-d, strided, of another type; from host or device; the source may change afterwards."""
    whole = be.zeros((4, 6))
    values = normal(4, 3)
    be.assign(whole[:, ::2], values)
    expected = np.zeros((4, 6), np.float32)
    expected[:, ::2] = values
    values[:] = np.nan
    assert same_bits(be.to_numpy(whole), expected)
    one = be.zeros(())
    be.assign(one, np.array(2.5))
    assert be.to_numpy(one) == np.float32(2.5)
    be.assign(one, be.asarray(np.array(3, np.int32)))
    assert be.to_numpy(one) == np.float32(3)


@ON_GPU
def test_what_a_capture_cannot_take_is_told_by_its_own_reason(be: Any) -> None:
    x = be.asarray(normal(3, 4))
    run = be.record(lambda: be.relu_fprop(x, out=x))
    run()

    def broken() -> None:
        raise KernelError("relu_fprop: too many resources requested")

    run._replay = broken
    with pytest.raises(KernelError, match="too many resources"):
        run()
    assert same_bits(be.to_numpy(x), np.maximum(normal(3, 4), 0))


# ---------------------------------------------------------------------------- batches

IMAGES = pixels(22, 8, 9, 3)
SPLIT = Split(IMAGES, np.arange(22))


def whole(images: Labels, positions: Labels) -> Views:
    return centre(len(images), (8, 9), (8, 9), 3)


def batches(be: Any, workers: int = 2) -> list[Any]:
    """Copies of the batches of two loaders in turn, without waiting for the device."""
    found = []
    for seed in range(2):
        loader = Loader(be, be.zeros((8, 9, 3)), (8, 9), False, workers)
        order = np.random.default_rng(seed).permutation(22)
        found += [be.copy(images) for images, _ in loader.batches(SPLIT, order, 4, whole)]
    return found


def expected_batches() -> list[Any]:
    orders = [np.random.default_rng(seed).permutation(22) for seed in range(2)]
    return [
        IMAGES[order[start : start + 4]].astype(np.float32)
        for order in orders
        for start in range(0, 22, 4)
    ]


@IN_EVERY_ORDER
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_whole(be: Any, workers: int) -> None:
    """Two passes in a row: the second reuses the first one's memory on host and device."""
    found = [be.to_numpy(images) for images in batches(be, workers)]
    assert all(map(same_bits, found, expected_batches()))


@IN_EVERY_ORDER
def test_a_pass_that_is_left_early_leaves_its_memory_in_peace(be: Any) -> None:
    feed = Loader(be, be.zeros((8, 9, 3)), (8, 9), False, 2).batches(SPLIT, np.arange(22), 4, whole)
    first = be.copy(next(feed)[0])
    feed.close()
    del feed
    found = [be.to_numpy(images) for images in (first, *batches(be))]
    assert all(map(same_bits, found, [IMAGES[:4].astype(np.float32), *expected_batches()]))


# ---------------------------------------------------------------------------- two GPUs


@ON_TWO_GPUS
def test_an_array_of_another_gpu_is_copied_as_it_was(be: Any) -> None:
    """Packed, if necessary, after the last write to it and before the next."""
    other = pyalexnet.backend("cuda", 1)
    x = normal(40, 30)
    there = other.asarray(x)
    copies = [be.asarray(part) for part in (there, there[::2], there[:, 3:7], there[5, 5])]
    other.assign(there, np.zeros_like(x))
    wanted = (x, x[::2], x[:, 3:7], x[5, 5])
    for copy, right in zip(copies, wanted, strict=True):
        assert copy.device.id == 0 and copy.shape == right.shape
        assert same_bits(be.to_numpy(copy), right.copy())


@pytest.mark.parametrize("order", stand_in.ORDERS_OF_TWO)
@pytest.mark.parametrize("peers", [True, False], ids=["by peer access", "by copies"])
def test_parts_are_exchanged_behind_what_wrote_them(order: str, peers: bool) -> None:
    """Parts of two arrays on the other GPU, packed one after another, and overwritten."""
    with stand_in.installed(Machine(order, 2, peers=peers)):
        be, other = (pyalexnet.backend("cuda", device) for device in (0, 1))
        parts = [normal(3, 5, 4, seed=seed) for seed in range(4)]
        there = [other.asarray(np.zeros_like(part)) for part in parts]
        found = []
        for turn in range(3):
            for place, part in zip(there, parts, strict=True):
                other.assign(place, part + turn)
            found.append(be.exchange_gather(there))
        for turn, gathered in enumerate(found):
            right = np.concatenate([part + turn for part in parts], axis=-1)
            assert same_bits(be.to_numpy(gathered), right)


def test_kernels_read_only_what_peer_access_opens(machine: Machine) -> None:
    """Memory of a stream-ordered pool, or of unknown origin, is copied."""
    import cupy

    be: Any = pyalexnet.backend("cuda")
    other = pyalexnet.backend("cuda", 1)
    x = normal(2, 3)
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    there = other.asarray(x)
    assert not be._reads(there)
    assert same_bits(be.to_numpy(be.exchange_gather([there, there])), np.tile(x, 2))
    cupy.cuda.set_allocator(None)
    assert be._reads(other.asarray(x))


def test_an_array_that_only_shows_its_memory_may_lie_on_another_gpu(machine: Machine) -> None:
    class Shown:
        def __init__(self, array: Any) -> None:
            self.array, self.__cuda_array_interface__ = array, array.__cuda_array_interface__

    be, other = (pyalexnet.backend("cuda", device) for device in (0, 1))
    x = normal(3, 4)
    with pytest.raises(ArgumentError, match=r"asarray: x of type Strange cannot be read"):
        be.asarray(type("Strange", (), {"__dlpack_device__": lambda self: (2, 0)})())
    here = be.asarray(Shown(other.asarray(x)))
    assert here.device.id == 0 and same_bits(be.to_numpy(here), x)


# ---------------------------------------------------------------------------- where there is none


def none(*_: Any) -> Any:
    raise CUDARuntimeError(999, "cudaErrorUnknown")


@pytest.mark.parametrize(
    ("status", "driver", "said"),
    [
        (100, 0, "needs an NVIDIA driver, and this machine has none"),
        (35, 12040, "driver supports CUDA up to 12.4, and CuPy was built for CUDA 13.2; update"),
        (100, 13000, "needs an NVIDIA GPU, and the driver shows none"),
        (999, 13000, "cannot use the GPU: cudaErrorUnknown"),
    ],
)
def test_it_says_why_there_is_no_gpu(
    status: int, driver: int, said: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    def fail() -> int:
        raise CUDARuntimeError(status, "cudaErrorUnknown")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fail)
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: driver)
    assert said in (why_unavailable("cuda") or "")
    assert pyalexnet.backend("auto").name == "cpu"


def test_it_says_that_cupy_is_missing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "pyalexnet.backends.cuda", raising=False)
    assert "needs CuPy, which cannot be imported" in (why_unavailable("cuda") or "")


def test_a_number_of_no_gpu_is_refused(machine: Machine) -> None:
    with pytest.raises(ArgumentError, match=r"device is 2; this machine shows 2 GPUs, so 0 to 1"):
        pyalexnet.backend("cuda", 2)


@pytest.mark.parametrize("function", ["has_hopper", "relu_fprop"])
def test_auto_goes_on_without_a_gpu_that_the_module_cannot_use(
    function: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy sees the GPU; the module, perhaps of another toolkit, does not."""
    extension = sys.modules["pyalexnet._cuda"]

    def fail(*_: Any) -> None:
        raise extension.KernelError("CUDA driver version is insufficient")

    monkeypatch.setattr(extension, function, fail, raising=False)
    assert why_unavailable("cuda") == (
        f"GPU 0 cannot run the kernels of pyalexnet._cuda ({function}: CUDA driver version is "
        "insufficient); build pyalexnet from source on a machine with nvcc: pip install . -C "
        "cmake.define.PYALEXNET_CUDA=ON -C cmake.define.PYALEXNET_CUDA_ARCHITECTURES=90a."
    )
    assert pyalexnet.backend("auto").name == "cpu"


@pytest.mark.parametrize("reason", [MemoryError("out of memory"), CUDARuntimeError(46, "busy")])
def test_auto_goes_on_without_a_gpu_that_is_full_or_busy(
    reason: Exception, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    def fail(*_: Any) -> None:
        raise reason

    monkeypatch.setattr(cupy, "zeros", fail)
    with pytest.raises(BackendUnavailable, match=r"^The backend cuda cannot be used: "):
        pyalexnet.backend("cuda")
    assert pyalexnet.backend("auto").name == "cpu"


@pytest.mark.parametrize("function", ["peer_access_possible", "enable_peers", "has_hopper"])
def test_what_the_module_cannot_do_is_an_error_of_ours(
    function: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    be: Any = pyalexnet.backend("cuda")
    there = pyalexnet.backend("cuda", 1).asarray(normal(2, 3))
    hopper: Any = vars(type(be).__mro__[1])["hopper"]
    call = hopper.fset if function == "has_hopper" else be.exchange_gather
    given: Any = (be, True) if function == "has_hopper" else ([there, there],)
    extension = sys.modules["pyalexnet._cuda"]

    def fail(*_: Any) -> None:
        raise extension.KernelError("no")

    monkeypatch.setattr(extension, function, fail, raising=False)
    with pytest.raises(KernelError, match=f"^{function}: no$"):
        call(*given)


def test_what_cuda_reports_is_an_error_of_ours(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every place where the backend calls CuPy."""
    import cupy

    be = pyalexnet.backend("cuda")
    x = be.asarray(normal(3, 4))
    run = be.record(lambda: be.relu_fprop(x, out=x))

    for owner, name, call in (
        (cupy, "empty", lambda: be.empty((2,))),
        (cupy, "asarray", lambda: be.asarray(normal(2))),
        (cupy.cuda, "get_current_stream", lambda: be.relu_fprop(x)),
        (cupy.cuda, "get_current_stream", run),
        (cupy.cuda, "alloc_pinned_memory", lambda: be.lane((2, 2))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, none)
            with pytest.raises(KernelError, match=r"^GPU 0: cudaErrorUnknown: status 999\.$"):
                call()
