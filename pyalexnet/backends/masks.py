"""A dropout mask, as the numbers it is drawn from, for operations that apply it as they store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Mask:
    """Which elements of an output are kept; stored nowhere, drawn again wherever it is needed.

    Attributes:
        keep, seed, step, layer, offset, total: as in `Backend.dropout_fprop`; total None means the
            features of the output.
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
