"""A split's images as the batches that a network takes."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pyalexnet.data.dataset import Labels, Split

Pixels = npt.NDArray[np.float32]


def batches(
    split: Split, mean: Pixels, indices: Labels, size: int
) -> Generator[tuple[Pixels, Labels]]:
    """Images (n, H, W, C), 0 to 255 minus `mean`, and labels (n,), in the order of `indices`.

    Every batch has `size` images, the last one what is left. A thread prepares each batch while
    the caller works on the one before, so a batch is valid until the next one is asked for.
    """
    buffers = [np.empty((min(size, len(indices)), *mean.shape), np.float32) for _ in range(2)]

    def prepare(number: int, start: int, stop: int) -> tuple[Pixels, Labels]:
        chosen = indices[start:stop]
        images = buffers[number % 2][: len(chosen)]
        np.subtract(split.images[chosen], mean, out=images)
        return images, split.labels[chosen]

    bounds = list(pairwise([*range(0, len(indices), size), len(indices)]))
    with ThreadPoolExecutor(1, "batches") as thread:
        ahead = None
        for number, (start, stop) in enumerate(bounds):
            ready = ahead or thread.submit(prepare, number, start, stop)
            if number + 1 < len(bounds):
                ahead = thread.submit(prepare, number + 1, *bounds[number + 1])
            yield ready.result()
