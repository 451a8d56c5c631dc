"""The arguments of operations besides arrays, as records: checked, then passed to the kernels.

The bindings read each as a tuple (`bindings/records.hpp`), so the order of the fields counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, positive, real

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
        """Check and spell out the short forms; `who` is the operation or layer, for refusals.

        stride: one number, or (vertical, horizontal). pad: one number, or (top, bottom, left,
        right). groups: number of equal parts that input channels and filters are divided into.
        """
        strides = _several(who, "stride", stride, ("vertical", "horizontal"), low=1)
        pads = _several(who, "pad", pad, _SIDES, low=0)
        return cls._make((*strides, *pads, integer(who, "groups", groups, low=1)))

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
        """Check the values; `prefix` comes before the names of size and stride in a refusal."""
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


def lrn_maxpool_fits(channels: int, dtype: np.dtype[Any], settings: Mapping[str, Any]) -> bool:
    """Whether `lrn_maxpool_fprop` takes these settings, on maps of so many channels and this type.

    Its kernels are made for the networks' norm, and read whole vectors of 16 bytes (`kernels/ops.h`
    says the same). Any other norm and pool run one after the other.
    """
    return (
        settings["size"] == 5
        and settings["beta"] == 0.75
        and settings["k"] >= 2.0**-126  # in float32, a normal number
        and channels // settings["groups"] % (16 // dtype.itemsize) == 0
        and channels <= 1024
        and settings["pool_size"] <= 8
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
        return cls(side, *_several(who, "pad", pad, _SIDES, low=0))

    def out_shape(self, h: int, w: int, c: int) -> tuple[int, int, int]:
        """Height, width and channels of an h x w image of c channels in blocks, the last ones
        padded with zeros."""
        rows = h + self.pad_top + self.pad_bottom
        columns = w + self.pad_left + self.pad_right
        return -(-rows // self.block), -(-columns // self.block), self.block**2 * c


class Norm(NamedTuple):
    """A response normalisation: window, weight of the squares, exponent, constant, groups."""

    size: int
    alpha: float
    beta: float
    k: float
    groups: int

    @classmethod
    def of(cls, who: str, size: int, alpha: float, beta: float, k: float, groups: int = 1) -> Norm:
        """Check the values; the base k + alpha sum x^2 is above 0."""
        return cls(
            integer(who, "size", size, low=1),
            real(who, "alpha", alpha, low=0.0),
            real(who, "beta", beta),
            positive(who, "k", k),
            integer(who, "groups", groups, low=1),
        )


class Mask(NamedTuple):
    """Which elements of an output are kept; never stored, but drawn again whenever needed.

    Attributes:
        keep, seed, step, layer, offset, total, first: as in `Backend.dropout_fprop`; total None
            means the features of the output.
        factor: kept elements are multiplied by it: 1 by the 2012 rule, 1 / keep to make up for
            the elements that are dropped.
    """

    keep: float
    seed: int
    step: Any
    layer: int
    offset: int = 0
    total: int | None = None
    factor: float = 1.0
    first: int = 0


class Learned(NamedTuple):
    """Parameters with their momentum and the constants of `Backend.sgd_update`.

    Attributes:
        w: the parameters, float32, or the bfloat16 halves of `Backend.split_weights`; updated in
            place.
        v: their momentum, float32 of w's shape; updated in place.
        lr: the learning rate, or a 0-d float32 array of the device; 0 freezes both.
        momentum, weight_decay: of the update.
        low: the other halves, uint16 of w's shape, where w is bfloat16; updated in place.
    """

    w: Any
    v: Any
    lr: Any
    momentum: float
    weight_decay: float
    low: Any = None

    @property
    def rule(self) -> tuple[Any, float, float]:
        """The constants of their update."""
        return self.lr, self.momentum, self.weight_decay


_SIDES = ("top", "bottom", "left", "right")


def _several(
    who: str, name: str, value: int | tuple[int, ...], parts: tuple[str, ...], *, low: int
) -> tuple[int, ...]:
    """Expand one number to as many equal ones as there are parts; check each of a tuple."""
    if not isinstance(value, (tuple, list)):
        return (integer(who, name, value, low=low),) * len(parts)
    if len(value) != len(parts):
        form = ", ".join(parts)
        raise ArgumentError(f"{who}: {name} is {value!r}; a number or ({form}) was expected.")
    return tuple(integer(who, name, part, low=low) for part in value)
