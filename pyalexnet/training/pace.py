"""How fast a run trains."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Pace:
    """Training speed; only the time between `start` and the last `count` is counted."""

    images: int = 0
    seconds: float = 0.0
    _last: float = 0.0

    def start(self) -> None:
        """Begin, or continue after a pause."""
        self._last = time.perf_counter()

    def count(self, images: int) -> None:
        """Add images that were trained on until now."""
        now = time.perf_counter()
        self.images += images
        self.seconds += now - self._last
        self._last = now

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0
