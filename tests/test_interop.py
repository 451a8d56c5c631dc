"""Arrays from and to other libraries: NumPy, DLPack, __cuda_array_interface__, PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyalexnet.errors import ArgumentError
from samples import normal
from tolerance import same_bits
from variants import CPU, CUDA, ONE_ORDER, in_every_order, parameters

ON_HOST = pytest.mark.parametrize("be", ONE_ORDER[:2], indirect=True)
ON_CPU = pytest.mark.parametrize("be", parameters(CPU), indirect=True)
ON_GPU = pytest.mark.parametrize("be", in_every_order(CUDA), indirect=True)

pytestmark = pytest.mark.orders


class ByDLPack:
    """An array of an unknown library that supports only DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **asked: Any) -> Any:
        return self.array.__dlpack__(**asked)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class OnGPU:
    """An array of another library that exposes its device memory, as CuPy and Numba do."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = interface


def assert_usable(be: Any, array: Any, expected: np.ndarray[Any, Any]) -> None:
    """Check that an op takes the array, and that its values are right."""
    assert array.flags.c_contiguous
    assert same_bits(be.to_numpy(array), expected)
    assert same_bits(be.to_numpy(be.relu_fprop(array)), np.maximum(expected, 0))


def test_numpy_in(be: Any) -> None:
    x = normal(3, 4)
    assert_usable(be, be.asarray(x), x)


def test_numpy_out_is_on_the_host(be: Any) -> None:
    y = be.to_numpy(be.tanh_fprop(be.asarray(normal(3, 4))))
    assert type(y) is np.ndarray


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(normal(3, 4)),
        normal(3, 8)[:, ::2],
        normal(4, 3).T,
        np.broadcast_to(normal(4), (3, 4)),
        normal(6, 4)[::-2],
    ],
    ids=["Fortran order", "every other", "transposed", "broadcast", "backwards"],
)
def test_strided_numpy_in(be: Any, x: Any) -> None:
    """asarray makes arrays contiguous that an op would refuse."""
    assert_usable(be, be.asarray(x), np.ascontiguousarray(x))


@pytest.mark.parametrize("x", [[[1.5, -2], [0, 4]], ((1, -2), (0, 4)), 3.0, np.float64(-2.5)])
def test_numbers_in(be: Any, x: Any) -> None:
    assert_usable(be, be.asarray(x, np.float32), np.asarray(x, np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.dtype(">f4")], ids=str)
def test_conversion(be: Any, dtype: Any) -> None:
    """From any type of number, other byte orders included."""
    x = np.arange(12).reshape(3, 4).astype(dtype)
    assert_usable(be, be.asarray(x, np.float32), x.astype(np.float32))


@ON_CPU
def test_numpy_is_not_copied(be: Any) -> None:
    x = normal(3, 4)
    assert np.shares_memory(be.asarray(x), x)
    assert not np.shares_memory(be.asarray(x, np.float64), x)


def test_dlpack_in(be: Any) -> None:
    x = normal(3, 4)
    assert_usable(be, be.asarray(ByDLPack(x)), x)
    doubles = np.arange(12.0).reshape(4, 3)
    assert_usable(be, be.asarray(ByDLPack(doubles), np.float32), doubles.astype(np.float32))


def test_strided_dlpack_in(be: Any) -> None:
    x = normal(3, 8)[:, ::2]
    assert_usable(be, be.asarray(ByDLPack(x)), x.copy())


@ON_HOST
def test_dlpack_out(be: Any) -> None:
    """The consumer reads the same memory."""
    y = be.tanh_fprop(be.asarray(normal(3, 4)))
    assert np.shares_memory(np.from_dlpack(y), y)


@ON_HOST
def test_memory_of_a_gpu_is_refused_on_the_host(be: Any) -> None:
    """NumPy itself would wrap such an array as one object."""
    x = OnGPU(
        {"shape": (2,), "typestr": "<f4", "data": (4096, False), "version": 3, "strides": None}
    )
    with pytest.raises(ArgumentError, match=r"asarray: x .*OnGPU"):
        be.asarray(x)


@ON_GPU
def test_cuda_array_interface_in(be: Any) -> None:
    x = normal(3, 4)
    here = be.asarray(x)
    assert_usable(be, be.asarray(OnGPU(here.__cuda_array_interface__)), x)
    strided = be.asarray(np.repeat(x, 2, axis=1))[:, ::2]
    assert_usable(be, be.asarray(OnGPU(strided.__cuda_array_interface__)), x)


@ON_GPU
def test_cuda_array_interface_out(be: Any) -> None:
    y = be.tanh_fprop(be.asarray(normal(3, 4)))
    shown = y.__cuda_array_interface__
    assert (shown["shape"], shown["typestr"]) == ((3, 4), "<f4")


@ON_GPU
def test_dlpack_stays_on_the_gpu(be: Any) -> None:
    x = be.asarray(normal(3, 4))
    again = be.asarray(ByDLPack(x))
    assert again.__cuda_array_interface__["data"] == x.__cuda_array_interface__["data"]


@pytest.mark.peer
def test_torch_in_and_out(be: Any, torch: Any) -> None:
    """A host tensor in, an op, a tensor out."""
    x = normal(3, 4)
    tensor = torch.from_numpy(x.copy())
    assert_usable(be, be.asarray(tensor), x)
    assert_usable(be, be.asarray(tensor.T), x.T.copy())
    y = torch.from_dlpack(be.relu_fprop(be.asarray(tensor)))
    assert torch.equal(y.cpu(), torch.relu(tensor))


@pytest.mark.peer
@ON_CPU
def test_torch_shares_the_memory(be: Any, torch: Any) -> None:
    tensor = torch.zeros(3)
    be.asarray(tensor)[1] = 5
    assert tensor.tolist() == [0, 5, 0]


@pytest.mark.peer
@pytest.mark.gpu
@pytest.mark.parametrize("be", parameters(CUDA)[:1], indirect=True)
def test_torch_on_the_gpu(be: Any, torch: Any) -> None:
    x = normal(3, 4)
    assert_usable(be, be.asarray(torch.from_numpy(x).cuda()), x)


@pytest.mark.peer
@ON_HOST
def test_torch_that_needs_a_gradient_is_refused(be: Any, torch: Any) -> None:
    """PyTorch does not export tensors that it tracks; its reason is passed on."""
    with pytest.raises(ArgumentError, match="asarray: x of type Tensor"):
        be.asarray(torch.zeros(3, requires_grad=True))
