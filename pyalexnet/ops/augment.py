"""Network inputs from stored images."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import real
from pyalexnet.ops.device import Device, with_sizes
from pyalexnet.ops.elements import Array, element_of
from pyalexnet.ops.records import BlockGeometry, Pad


class AugmentOps(Device):
    def augment(
        self,
        x: Array,
        mean: Array,
        *,
        corners: Array,
        flips: Array,
        shifts: Array,
        size: tuple[int, int],
        scale: float = 1.0,
        mean_at_pixel: bool = False,
        block: int = 1,
        pad: Pad = 0,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Network inputs from stored images: y = ((x - mean) + shift) * scale (section 4.1).

        Each image is cut at its own corner, mirrored or not, and shifted in colour; each of the
        three steps is rounded to float32, so that all backends give the same bits. To see whole
        images: size as stored; corners, flips and shifts 0.

        In blocks, y[n,i,j,(a block + b) C + c] is pixel (block i + a, block j + b) of the padded
        crop: a convolution of the crop whose stride is the block is one of stride 1 over y, with
        the filters of `filters_to_depth`. (The inverse of Shi et al.'s sub-pixel shuffle, 2016.)

        Args:
            x: (N, Hs, Ws, C) uint8, the stored images.
            mean: (Hs, Ws, C), their mean.
            corners: (N, 2) int32, top and left pixel of each crop, of the host or the device. A
                crop that does not lie inside the image is refused if the corners are on the host,
                and moved inside if they are on a GPU.
            flips: (N,) uint8, not 0 where the crop is mirrored, of the host or the device.
            shifts: (N, C), grey levels, of the host or the device.
            size: (H, W) of a crop.
            scale: the final factor.
            mean_at_pixel: subtract the mean of the crop's own pixels; otherwise that of the centre
                of the images, wherever the crop is, as the paper's program does.
            block: pixels on a side of the squares that become one pixel of y.
            pad: zeros around the crop; one number, or (top, bottom, left, right).
            dtype: of y, float32 or bfloat16, to which the result is rounded.

        Returns:
            y: (N, rows, columns, block^2 C) with rows = (H + top + bottom) / block, rounded up, the
                last ones padded with zeros; columns likewise. (N, H, W, C) with block 1, pad 0.
        """
        who = "augment"
        geometry = BlockGeometry.of(who, block, pad)
        element = element_of(who, "dtype", dtype)
        n, h, w, c = self._shape(who, "x", x, ("N", "Hs", "Ws", "C"), (np.uint8,))
        height, width = with_sizes(who, "size", size, "HW")
        if height > h or width > w:
            raise ArgumentError(
                f"{who}: size is {height} x {width}; at most the {h} x {w} pixels of x were "
                "expected."
            )
        beside = {"corners": corners, "flips": flips, "shifts": shifts}
        self._check_beside(who, beside, n, h - height, w - width)
        y = self._result(who, out, (n, *geometry.out_shape(height, width, c)), element)
        how = ((height, width), geometry, real(who, "scale", scale), bool(mean_at_pixel))
        self._run(who, x, mean, *map(self.asarray, beside.values()), y, *how)
        return y

    def _check_beside(
        self, who: str, arrays: dict[str, Array], n: int, down: int, right: int
    ) -> None:
        """Refuse non-arrays, and corners on the host that are beyond `down`, `right`."""
        for name, array in arrays.items():
            if not isinstance(array, (self.array_type, np.ndarray)):
                raise ArgumentError(
                    f"{who}: {name} is of type {type(array).__name__}; an array was expected."
                )
        corners = arrays["corners"]
        if not isinstance(corners, np.ndarray) or corners.shape != (n, 2):
            return
        bad = ((corners < 0) | (corners > (down, right))).any(axis=1)
        if bad.any():
            top, left = corners[bad][0].tolist()
            raise ArgumentError(
                f"{who}: corners has ({top}, {left}); (0, 0) to ({down}, {right}) was expected, "
                "for crops that lie inside the images."
            )
