"""How work is cut into pieces: by shapes alone, so that results depend on nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

# Pieces that the work on a batch falls into at least, so that several cores find something to do.
# It is also the number of partial sums over a batch, which are added up in order.
PARTS = 8


class Block(NamedTuple):
    """Some images of a batch, or some rows of one image."""

    image: int
    images: int
    row: int
    rows: int

    def of(self, maps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The block's part of (N, P, ...)."""
        return maps[self.image : self.image + self.images, self.row : self.row + self.rows]


def blocks(images: int, rows: int, row_bytes: int, budget: int) -> list[Block]:
    """Cut maps into blocks of about `budget` bytes, where a row takes `row_bytes`."""
    if rows * row_bytes <= budget:
        together = budget // (rows * row_bytes)
        if images > together:
            together = min(together, -(-images // PARTS))
        return [Block(first, end - first, 0, rows) for first, end in spans(images, together)]
    bands = spans(rows, budget // row_bytes)
    return [Block(image, 1, first, end - first) for image in range(images) for first, end in bands]


def spans(length: int, most: int) -> list[tuple[int, int]]:
    """Cut 0..length into (first, end) of at most `most` items (but at least one), about equal."""
    count = -(-length // max(1, most))
    return list(pairwise(length * i // count for i in range(count + 1)))
