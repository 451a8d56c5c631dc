"""Where windows lie on a map: strides, padding and output sizes of convolution and pooling."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pyalexnet.backends.checks import integer
from pyalexnet.errors import ArgumentError

Stride: TypeAlias = int | tuple[int, int]
Pad: TypeAlias = int | tuple[int, int, int, int]


class ConvGeometry(NamedTuple):
    """Strides, zero padding (pixels on each side) and groups of a convolution."""

    stride_h: int
    stride_w: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    groups: int

    @classmethod
    def of(cls, who: str, stride: Stride, pad: Pad, groups: int) -> ConvGeometry:
        """Check and spell out the short forms.

        Args:
            who: the operation or layer, for the error's text.
            stride: one number, or (vertical, horizontal).
            pad: one number, or (top, bottom, left, right).
            groups: number of equal parts that input channels and filters are divided into.
        """
        vertical, horizontal = _several(who, "stride", stride, "(vertical, horizontal)", 2, low=1)
        top, bottom, left, right = _several(who, "pad", pad, "(top, bottom, left, right)", 4, low=0)
        parts = integer(who, "groups", groups, low=1)
        return cls(vertical, horizontal, top, bottom, left, right, parts)

    def out_size(self, who: str, h: int, w: int, r: int, s: int) -> tuple[int, int]:
        """Height and width of the output of r x s filters on an h x w image (rounded down)."""
        rows = h + self.pad_top + self.pad_bottom
        columns = w + self.pad_left + self.pad_right
        if rows < r or columns < s:
            raise ArgumentError(
                f"{who}: the filter is {r} x {s}; the padded image is only {rows} x {columns}."
            )
        return (rows - r) // self.stride_h + 1, (columns - s) // self.stride_w + 1


class PoolGeometry(NamedTuple):
    """Size and stride of square pooling windows; `ceil` keeps windows that the border clips."""

    size: int
    stride: int
    ceil: bool

    @classmethod
    def of(cls, who: str, size: int, stride: int, ceil: bool, *, prefix: str = "") -> PoolGeometry:
        """Check the three values.

        Args:
            who: the operation or layer, for the error's text.
            prefix: of the names of size and stride in that text.
        """
        # A position within a window has to fit the 16 bits of `where`.
        window = integer(who, f"{prefix}size", size, low=1, high=256)
        return cls(window, integer(who, f"{prefix}stride", stride, low=1), bool(ceil))

    def out_size(self, who: str, h: int, w: int) -> tuple[int, int]:
        """Height and width of the pooled h x w map.

        Rounded up with `ceil` (cuda-convnet's rule), but a window that would start outside the
        image is dropped (Caffe's clip); rounded down without.
        """
        rows, columns = self._windows(h), self._windows(w)
        if rows < 1 or columns < 1:
            raise ArgumentError(
                f"{who}: no window of size {self.size} and stride {self.stride} fits the "
                f"{h} x {w} image with ceil={self.ceil}."
            )
        return rows, columns

    def _windows(self, length: int) -> int:
        if not self.ceil:
            return (length - self.size) // self.stride + 1
        count = -(-(length - self.size) // self.stride) + 1
        starts_inside = -(-length // self.stride)
        return min(count, starts_inside)

    @property
    def where_dtype(self) -> type[np.uint8 | np.uint16]:
        """Type that holds a position r * size + s within a window."""
        return np.uint8 if self.size * self.size <= 256 else np.uint16


def lrn_maxpool_fits(
    channels: int,
    dtype: np.dtype[Any],
    *,
    size: int,
    beta: float,
    k: float,
    groups: int,
    pool_size: int,
    **_: Any,
) -> bool:
    """Whether `lrn_maxpool_fprop` takes these settings, on maps of so many channels and this type.

    Its kernels are made for the networks' norm, and read whole vectors of 16 bytes (`kernels/ops.h`
    says the same). Any other norm and pool run one after the other.
    """
    return (
        size == 5
        and beta == 0.75
        and k >= 2.0**-126  # in float32, a normal number
        and channels // groups % (16 // dtype.itemsize) == 0
        and channels <= 1024
        and pool_size <= 8
    )


class BlockGeometry(NamedTuple):
    """Squares of pixels that become one pixel of many channels, after zero padding (pixels)."""

    block: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int

    @classmethod
    def of(cls, who: str, block: int, pad: Pad) -> BlockGeometry:
        """Check and spell out the short forms; `who` is the operation, for the error's text."""
        side = integer(who, "block", block, low=1)
        return cls(side, *_several(who, "pad", pad, "(top, bottom, left, right)", 4, low=0))

    def out_shape(self, h: int, w: int, c: int) -> tuple[int, int, int]:
        """Height, width and channels of an h x w image of c channels in blocks, the last ones
        padded with zeros."""
        rows = h + self.pad_top + self.pad_bottom
        columns = w + self.pad_left + self.pad_right
        return -(-rows // self.block), -(-columns // self.block), self.block**2 * c


def _several(
    who: str, name: str, value: int | tuple[int, ...], form: str, count: int, *, low: int
) -> tuple[int, ...]:
    """Expand one number to `count` equal ones; check each of a tuple."""
    if not isinstance(value, (tuple, list)):
        return (integer(who, name, value, low=low),) * count
    if len(value) != count:
        raise ArgumentError(f"{who}: {name} is {value!r}; a number or {form} was expected.")
    return tuple(integer(who, name, part, low=low) for part in value)
