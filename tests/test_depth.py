"""A strided convolution as one of stride 1: images in blocks, and filters to match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import Exact, Sides, double
from samples import EACH_ELEMENT, generator, normal
from shapes import each
from tolerance import assert_close, convolved, inner, same_bits
from trial import run
from variants import ONE_ORDER

pytestmark = pytest.mark.every(3)


@dataclass(frozen=True)
class Filters:
    """Filters w (K, R, S, C), and the blocks that they have to match."""

    name: str
    w: tuple[int, int, int, int]
    block: int
    big: bool = False

    def __str__(self) -> str:
        return self.name


FILTERS = (
    Filters("conv1's", (5, 11, 11, 3), 4),
    Filters("blocks filled", (3, 4, 6, 2), 2),
    Filters("a row and a column left over", (4, 7, 4, 5), 3),
    Filters("smaller than a block", (3, 2, 3, 4), 5),
    Filters("blocks of one", (2, 3, 5, 4), 1),
    Filters("one pixel", (6, 1, 1, 2), 3),
    Filters("rows of more than a block of threads", (2, 3, 50, 7), 2),
    Filters("AlexNet's", (96, 11, 11, 3), 4, big=True),
)
EACH = pytest.mark.parametrize("case", each(FILTERS))


PADS: tuple[Sides, ...] = (0, 2, (0, 3, 0, 3), (1, 0, 2, 4))


@pytest.mark.parametrize("pad", PADS, ids=str)
@EACH
@EACH_ELEMENT
def test_images_to_depth(be: Any, case: Filters, pad: Sides, dtype: Any) -> None:
    x = normal(*case.w)
    (y,) = run(be, "images_to_depth", x, block=case.block, pad=pad, dtype=dtype)
    top, bottom, left, right = oracle.sides(pad)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    assert same_bits(y, oracle.in_blocks(padded, case.block).astype(np.float32).astype(dtype))


@EACH
@EACH_ELEMENT
def test_filters_to_depth(be: Any, case: Filters, dtype: Any) -> None:
    w = normal(*case.w).astype(dtype)
    (deep,) = run(be, "filters_to_depth", w, block=case.block)
    assert same_bits(deep, oracle.in_blocks(double(w), case.block).astype(dtype))


@EACH
def test_filters_from_depth(be: Any, case: Filters) -> None:
    ddeep = normal(*oracle.in_blocks(np.zeros(case.w), case.block).shape)
    (dw,) = run(be, "filters_from_depth", ddeep, w_shape=case.w, block=case.block)
    assert same_bits(dw, oracle.out_of_blocks(ddeep, case.w, case.block).astype(np.float32))


@EACH
def test_adjoint_identity(be: Any, case: Filters) -> None:
    """<to_depth(w), d> = <w, from_depth(d)>: on whole numbers, so that the sums are exact."""
    w = np.round(4 * normal(*case.w))
    (deep,) = run(be, "filters_to_depth", w, block=case.block)
    ddeep = np.round(4 * normal(*deep.shape, seed=1))
    (dw,) = run(be, "filters_from_depth", ddeep, w_shape=case.w, block=case.block)
    assert inner(deep, ddeep) == inner(w, dw)


# --------------------------------------------------------------------------- convolution in blocks


@dataclass(frozen=True)
class Strided:
    """A convolution whose stride is the block: of crops of (height, width) with filters w."""

    name: str
    size: tuple[int, int]
    w: tuple[int, int, int, int]
    stride: int
    pad: Sides = 0
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """Images, filters and biases, all of small whole numbers: their sums are exact."""
        source = generator(*self.size, *self.w)
        x = source.integers(0, 8, (2, *self.size, self.w[3]), np.uint8)
        w, b = (source.integers(-4, 5, shape).astype(np.float32) for shape in (self.w, self.w[:1]))
        return x, w, b

    @property
    def plain(self) -> dict[str, Any]:
        """The geometry of the convolution itself."""
        return {"stride": self.stride, "pad": self.pad}


IN_BLOCKS: dict[str, Any] = {"stride": 1, "pad": 0}
STRIDED = (
    Strided("conv1 cut small", (20, 16), (8, 11, 11, 3), 4, (0, 3, 0, 3)),
    Strided("nothing left over", (12, 8), (3, 4, 4, 2), 4),
    Strided("padded on all sides", (9, 13), (5, 5, 3, 4), 2, (1, 2, 3, 0)),
    Strided("one row more than the strides reach", (9, 11), (4, 4, 7, 3), 3),
    Strided("stride beyond the filter", (10, 9), (4, 2, 3, 2), 4, (1, 0, 0, 2)),
    Strided("stride 1", (5, 6), (3, 3, 2, 4), 1, 1),
)
# The three ways in which AlexNet's presets come to 55 x 55 outputs.
ALEXNET = (
    Strided("224 and three zeros", (224, 224), (96, 11, 11, 3), 4, (0, 3, 0, 3), big=True),
    Strided("227", (227, 227), (96, 11, 11, 3), 4, big=True),
    Strided("224, padded by two", (224, 224), (64, 11, 11, 3), 4, 2, big=True),
)
EACH_CONV = pytest.mark.parametrize("case", each(STRIDED))


def in_blocks(be: Any, case: Strided, dtype: Any) -> Any:
    """The images on the device, put into blocks by `augment` without cropping or other changes."""
    x = case.arrays[0]
    n, h, w, c = x.shape
    return be.augment(
        be.asarray(x),
        be.zeros((h, w, c)),
        corners=np.zeros((n, 2), np.int32),
        flips=np.zeros(n, np.uint8),
        shifts=np.zeros((n, c), np.float32),
        size=(h, w),
        block=case.stride,
        pad=case.pad,
        dtype=dtype,
    )


@EACH_CONV
def test_on_the_board(case: Strided) -> None:
    """In exact arithmetic the two convolutions are the same: equal products, and zeros."""
    x, w, b = case.arrays
    due = oracle.conv_fprop(x, w, b, **case.plain).value
    blocks = oracle.in_blocks(oracle.padded(double(x), case.pad), case.stride)
    deep = oracle.in_blocks(w, case.stride)
    y = oracle.conv_fprop(blocks, deep, b, **IN_BLOCKS).value
    np.testing.assert_array_equal(y[:, : due.shape[1], : due.shape[2]], due)


@EACH_CONV
@EACH_ELEMENT
def test_fprop(be: Any, case: Strided, dtype: Any) -> None:
    check_fprop(be, case, dtype)


def check_fprop(be: Any, case: Strided, dtype: Any) -> tuple[int, ...]:
    """Equal to the convolution itself; if its strides leave pixels over, outputs may follow."""
    x, w, b = case.arrays
    due = oracle.conv_fprop(x, w, b, **case.plain)
    deep = be.filters_to_depth(be.asarray(w.astype(dtype)), block=case.stride)
    y = be.to_numpy(
        be.conv_fprop(
            in_blocks(be, case, dtype), deep, be.asarray(b), **IN_BLOCKS, dtype=np.float32
        )
    )
    _, p, q, _ = due.value.shape
    assert_whole(be, y[:, :p, :q], due, deep.shape, y.shape)
    return tuple(y.shape)


def assert_whole(
    be: Any, actual: Any, due: Exact, deep: tuple[int, ...], tiled: tuple[int, ...]
) -> None:
    """Sums of small whole numbers are exact, except by Winograd's algorithm."""
    allowed = convolved(be, due, deep, 1, tiled)
    if allowed is due:
        np.testing.assert_array_equal(actual, due.value)
    else:
        assert_close(actual, allowed)


@EACH_CONV
@EACH_ELEMENT
def test_wgrad(be: Any, case: Strided, dtype: Any) -> None:
    """The gradient of the deep filters' zeros is dropped; the rest is the gradient of w."""
    x, w, _ = case.arrays
    blocks = in_blocks(be, case, dtype)
    deep = be.filters_to_depth(be.asarray(w), block=case.stride)
    n, p, q, k = oracle.conv_out_shape(x.shape, w.shape, case.stride, case.pad)
    dy = np.round(2 * normal(n, p, q, k))
    due, db_due = oracle.conv_wgrad(x, dy, w_shape=w.shape, **case.plain)
    # Outputs beyond those of the convolution itself are unused: they have no gradient.
    rows, columns = (blocks.shape[i] - deep.shape[i] + 1 for i in (1, 2))
    beyond = ((0, 0), (0, rows - p), (0, columns - q), (0, 0))
    on_dy = be.asarray(np.pad(dy, beyond).astype(dtype))
    ddeep, db = be.conv_wgrad(blocks, on_dy, w_shape=deep.shape, **IN_BLOCKS)
    dw = be.filters_from_depth(ddeep, w_shape=w.shape, block=case.stride)
    assert_whole(be, be.to_numpy(dw), due, deep.shape, on_dy.shape)
    np.testing.assert_array_equal(be.to_numpy(db), db_due.value)


@pytest.mark.every(9)
@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize("case", each(ALEXNET))
@EACH_ELEMENT
def test_alexnet(be: Any, case: Strided, dtype: Any) -> None:
    """All three are 57 x 57 pixels of 48 channels, and 55 x 55 outputs."""
    assert in_blocks(be, case, dtype).shape == (2, 57, 57, 48)
    assert check_fprop(be, case, dtype) == (2, 55, 55, case.w[0])
