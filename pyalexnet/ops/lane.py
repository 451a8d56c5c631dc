"""How batches get from the host to a device while it works on the previous one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyalexnet.ops.elements import Array, Shape


class Lane:
    """Host memory that is filled, sent to the device and filled again.

    A lane's turn: `wait`, fill `host`, `send`, enqueue what reads the device's array, `sent`.
    """

    host: np.ndarray[Any, Any]

    def __init__(self, asarray: Callable[[Any], Array], shape: Shape, dtype: Any) -> None:
        self._asarray = asarray  # which copies an array of the host to the device
        self.host = np.empty(shape, dtype)

    def wait(self) -> None:
        """Wait until `host` may be written again."""

    def send(self, count: int) -> Array:
        """The first `count` items of `host` on the device; valid until `sent` and the next turn."""
        return self._asarray(self.host[:count])

    def sent(self) -> None:
        """Call this when all that reads the array from `send` has been enqueued."""
