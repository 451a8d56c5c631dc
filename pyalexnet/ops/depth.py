"""Images and filters in blocks: squares of pixels that become one pixel of many channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyalexnet.ops.device import Device, with_sizes
from pyalexnet.ops.elements import Array, Shape, element_of
from pyalexnet.ops.records import BlockGeometry, Pad


class DepthOps(Device):
    def images_to_depth(
        self,
        x: Array,
        *,
        block: int = 1,
        pad: Pad = 0,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Images x (N, H, W, C) in blocks, as `augment` makes them, from images already cropped.

        Args:
            block, pad, dtype: as in `augment`.

        Returns:
            y: (N, rows, columns, block^2 C), as in `augment`; with block 1, pad 0, x in dtype.
        """
        who = "images_to_depth"
        geometry = BlockGeometry.of(who, block, pad)
        element = element_of(who, "dtype", dtype)
        n, h, w, c = self._shape(who, "x", x, "NHWC")
        y = self._result(who, out, (n, *geometry.out_shape(h, w, c)), element)
        self._run(who, x, y, geometry)
        return y

    def filters_to_depth(self, w: Array, *, block: int, out: Array | None = None) -> Array:
        """Filters for the images in blocks that `augment` makes.

        A convolution with w whose stride is the block is one of stride 1 with these: the same
        products, plus zeros where a filter does not fill its last blocks.

        Args:
            w: (K, R, S, C), float32 or bfloat16.
            block: pixels on a side of a block.

        Returns:
            deep: (K, R / block, S / block, block^2 C), both rounded up, of w's type;
                deep[k,i,j,(a block + b) C + c] = w[k, block i + a, block j + b, c], 0 outside.
        """
        who = "filters_to_depth"
        k, r, s, c = self._shape(who, "w", w, "KRSC")
        geometry = BlockGeometry.of(who, block, 0)
        deep = self._result(who, out, (k, *geometry.out_shape(r, s, c)), w.dtype)
        self._run(who, w, deep, geometry.block)
        return deep

    def filters_from_depth(
        self, ddeep: Array, *, w_shape: Shape, block: int, out: Array | None = None
    ) -> Array:
        """Gradient of `filters_to_depth` with respect to w; that of its zeros is dropped.

        Args:
            ddeep: (K, R / block, S / block, block^2 C), both rounded up.
            w_shape: (K, R, S, C), which ddeep's shape alone does not determine.
            block: as in `filters_to_depth`.

        Returns:
            dw: (K, R, S, C).
        """
        who = "filters_from_depth"
        dw = self._result(who, out, with_sizes(who, "w_shape", w_shape, "KRSC"))
        self._run(who, ddeep, dw, BlockGeometry.of(who, block, 0).block)
        return dw
