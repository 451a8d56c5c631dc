"""Dropout."""

from __future__ import annotations

from pyalexnet.ops.elements import Array
from pyalexnet.ops.epilogue import Epilogue
from pyalexnet.ops.records import Mask


class DropoutOps(Epilogue):
    def dropout_fprop(
        self,
        x: Array,
        *,
        keep: float,
        seed: int,
        step: int | Array,
        layer: int,
        offset: int = 0,
        total: int | None = None,
        first: int = 0,
        out: Array | None = None,
    ) -> Array:
        """y = x where the element is kept, else 0; nothing is rescaled (paper, section 4.2).

        The mask depends on the arguments alone: element e = (first + image) * total + offset +
        feature is kept iff word e % 4 of Philox4x32-10, keyed by seed at counter (e // 4, step,
        layer), is below keep * 2^32. May run in place.

        Args:
            x: (N, ...); a feature is an index into x[image].ravel().
            keep: probability of keeping an element, 0 to 1.
            seed: 0 to 2^64 - 1.
            step: 0 to 2^32 - 1, or a 0-d uint32 array of the device.
            layer: 0 to 2^32 - 1.
            offset: index of x's first feature in the whole layer, for one tower of several.
            total: features of the whole layer; None: those of x.
            first: number of x's first image in the whole batch, for one part of several.

        Returns:
            y: of x's shape.
        """
        mask = Mask(keep, seed, step, layer, offset, total, first=first)
        return self._masked("dropout_fprop", mask, out, x=x)

    def dropout_dgrad(
        self,
        dy: Array,
        *,
        keep: float,
        seed: int,
        step: int | Array,
        layer: int,
        offset: int = 0,
        total: int | None = None,
        first: int = 0,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `dropout_fprop` with respect to x: the same mask on dy. May run in place."""
        mask = Mask(keep, seed, step, layer, offset, total, first=first)
        return self._masked("dropout_dgrad", mask, out, dy=dy)

    def _masked(self, who: str, mask: Mask, out: Array | None, **maps: Array) -> Array:
        ((name, x),) = maps.items()
        return self._mapped(who, out, self._mask(who, mask, self._shape(who, name, x)), **maps)
