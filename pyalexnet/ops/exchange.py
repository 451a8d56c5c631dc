"""Exchange between devices, and sums over parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array, Shape, element_of


class ExchangeOps(Device):
    def exchange_gather(self, parts: Sequence[Array], *, out: Array | None = None) -> Array:
        """Towers' channels side by side: conv3 and the linear layers read both (section 3.5).

        Args:
            parts: arrays (..., C_i) of one shape but for C_i, each on any device of this kind.

        Returns:
            whole: (..., sum of C_i), on this device.
        """
        who = "exchange_gather"
        shapes = self._map_shapes(who, "parts", parts)
        whole = self._result(who, out, (*shapes[0][:-1], sum(shape[-1] for shape in shapes)))
        with self._readable(parts) as near:
            self._run(who, near, whole)
        return whole

    def exchange_scatter_add(
        self, dwholes: Sequence[Array], *, start: int, channels: int, out: Array | None = None
    ) -> Array:
        """Gradient of `exchange_gather` for one tower's channels, summed over all readers.

        Args:
            dwholes: arrays (..., C) of one shape, each on any device of this kind.
            start: first channel of the tower.
            channels: number of its channels.

        Returns:
            dpart: (..., channels), the sum of dwholes[t][..., start : start + channels] in the
                order of t, on this device.
        """
        who = "exchange_scatter_add"
        lead = self._map_shapes(who, "dwholes", dwholes)[0][:-1]
        start = integer(who, "start", start)
        dpart = self._result(who, out, (*lead, integer(who, "channels", channels, low=1)))
        with self._readable(dwholes) as near:
            self._run(who, near, dpart, start)
        return dpart

    def sum_parts(
        self, parts: Sequence[Array], *, dtype: Any = None, out: Array | None = None
    ) -> Array:
        """The sum of arrays, as of the gradients of several parts of a batch.

        Neighbours are added, then neighbouring sums, (0 + 1) + (2 + 3) and so on, in float32; one
        without a neighbour goes to the next level. May run in place, into one of the parts.

        Args:
            parts: 1 to 64 arrays of one shape and type, float32 or bfloat16, each on any device of
                this kind.
            dtype: of the result, float32 or bfloat16; that of the parts where None.

        Returns:
            total: of the parts' shape, on this device; rounded once if it is bfloat16.
        """
        who = "sum_parts"
        shape = self._shapes(who, "parts", parts)[0]
        element = parts[0].dtype if dtype is None else element_of(who, "dtype", dtype)
        total = self._result(who, out, shape, element)
        with self._readable(parts) as near:
            self._run(who, near, total)
        return total

    def _shapes(self, who: str, name: str, arrays: Sequence[Array]) -> list[Shape]:
        """Shapes of arrays, which may be on other devices."""
        if not isinstance(arrays, Sequence) or not arrays:
            came = "empty" if isinstance(arrays, Sequence) else f"of type {type(arrays).__name__}"
            raise ArgumentError(f"{who}: {name} is {came}; a list of arrays was expected.")
        return [self._shape(who, f"{name}[{at}]", each) for at, each in enumerate(arrays)]

    def _map_shapes(self, who: str, name: str, arrays: Sequence[Array]) -> list[Shape]:
        """Shapes of arrays (..., channels)."""
        shapes = self._shapes(who, name, arrays)
        if () in shapes:
            raise ArgumentError(
                f"{who}: {name}[{shapes.index(())}] has no dimensions; (..., channels) was "
                "expected."
            )
        return shapes
