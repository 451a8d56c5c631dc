"""Exchange between devices."""

from __future__ import annotations

from collections.abc import Sequence

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array, Shape


class ExchangeOps(Device):
    """Exchange between devices."""

    def exchange_gather(self, parts: Sequence[Array], *, out: Array | None = None) -> Array:
        """Towers' channels side by side: conv3 and the linear layers read both (section 3.5).

        Args:
            parts: arrays (..., C_i) of one shape but for C_i, each on any device of this kind.

        Returns:
            whole: (..., sum of C_i), on this device.
        """
        who = "exchange_gather"
        lead = self._exchanged(who, "parts", parts)
        for index, part in enumerate(parts):
            if part.shape[:-1] != lead[:-1]:
                raise ArgumentError(
                    f"{who}: parts[{index}] has shape {part.shape}; {lead[:-1]} and any number of "
                    "channels was expected, as in parts[0]."
                )
        shape = (*lead[:-1], sum(part.shape[-1] for part in parts))
        whole = self._result(who, "out", out, shape, *parts)
        with self._readable(parts) as near:
            self._run(who, near, whole)
        return whole

    def exchange_scatter_add(
        self, dwholes: Sequence[Array], *, start: int, channels: int, out: Array | None = None
    ) -> Array:
        """Gradient of `exchange_gather`: every reader's, for one tower's channels, summed.

        Args:
            dwholes: arrays (..., C) of one shape, each on any device of this kind.
            start: first channel of the tower.
            channels: number of its channels.

        Returns:
            dpart: (..., channels), the sum of dwholes[t][..., start : start + channels] in the
                order of t, on this device.
        """
        who = "exchange_scatter_add"
        lead = self._exchanged(who, "dwholes", dwholes)
        for index, dwhole in enumerate(dwholes):
            if dwhole.shape != lead:
                raise ArgumentError(
                    f"{who}: dwholes[{index}] has shape {dwhole.shape}; {lead} was expected, as in "
                    "dwholes[0]."
                )
        start = integer(who, "start", start)
        channels = integer(who, "channels", channels, low=1)
        if start + channels > lead[-1]:
            raise ArgumentError(
                f"{who}: start {start} plus {channels} channels is {start + channels}; at most the "
                f"{lead[-1]} channels of dwholes were expected."
            )
        dpart = self._result(who, "out", out, (*lead[:-1], channels), *dwholes)
        with self._readable(dwholes) as near:
            self._run(who, near, dpart, start)
        return dpart

    def _exchanged(self, who: str, name: str, arrays: Sequence[Array]) -> Shape:
        """Shape of the first of `arrays`, which may lie on other devices, all checked."""
        if not isinstance(arrays, Sequence) or not arrays:
            came = "empty" if isinstance(arrays, Sequence) else f"of type {type(arrays).__name__}"
            raise ArgumentError(f"{who}: {name} is {came}; a list of arrays was expected.")
        for index, array in enumerate(arrays):
            shape = self._shape(who, f"{name}[{index}]", array, anywhere=True)
            if not shape:
                raise ArgumentError(
                    f"{who}: {name}[{index}] has no dimensions; (..., channels) was expected."
                )
        return tuple(arrays[0].shape)
