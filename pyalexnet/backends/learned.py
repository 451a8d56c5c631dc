"""Parameters and what their update needs, for operations that apply a gradient once computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Learned:
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
