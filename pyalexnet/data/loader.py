"""From a split's stored images to a network's inputs: read ahead, copied to the device, cropped.

Worker threads read (and, for a pack, decode) the images of the next batches while the device works;
the decoding libraries let other threads run. The content of a batch does not depend on the number
of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pyalexnet.backends import Array, Backend
from pyalexnet.data.dataset import Images, Labels, Split
from pyalexnet.data.readers import PATIENCE, Readers
from pyalexnet.data.views import Side, Views
from pyalexnet.ops.records import BlockGeometry, Pad

Pixels = npt.NDArray[np.float32]
Look = Callable[[Labels, Labels], Views]
"""From the batch's images and their positions in the epoch to how they are seen."""

AHEAD = 2
"""Batches that are read while one is worked on."""

PIECE = 16
"""Images that a worker reads at a time: a batch of 128 keeps eight workers busy."""


@dataclass(frozen=True, eq=False)
class Loader:
    """Makes batches for a device.

    Attributes:
        backend: of the device.
        mean: (H, W, C) float32, of the stored images.
        size: (height, width) of the network's input.
        mean_at_pixel: see `Backend.augment`.
        workers: threads that read; 0: the calling thread reads, and nothing is read ahead.
        patience: seconds that a read in a thread may take.
        block, pad, dtype: of the images that a network reads, see `Backend.augment`.
        into: from the images of a batch to the array to fill; None: one of the loader's.
    """

    backend: Backend
    mean: Array
    size: Side
    mean_at_pixel: bool
    workers: int
    patience: float = PATIENCE
    block: int = 1
    pad: Pad = 0
    dtype: npt.DTypeLike = np.float32
    into: Callable[[int], Array] | None = None

    def batches(
        self, split: Split, indices: Labels, batch_size: int, look: Look, *, first: int = 0
    ) -> Generator[tuple[Array, Labels]]:
        """Images (n, H, W, C) of the device, minus the mean, and labels (n,).

        With a block or padding, they have the shape given by `Backend.augment`. Images come in the
        order of `indices`; every batch has `batch_size` of them, the last one the rest.
        A batch is valid until the next one is requested.

        Args:
            split: where the images are stored.
            indices: of the images.
            batch_size: images per batch.
            look: how they are seen.
            first: position of the first of them in its epoch.

        Raises:
            DataError: an image is damaged, or nothing comes for `patience` seconds; the sentence
                says which.
        """
        bounds = list(pairwise([*range(0, len(indices), batch_size), len(indices)]))
        shape = (min(batch_size, len(indices)), *split.image_shape)
        lanes = [self.backend.lane(shape) for _ in range(min(AHEAD + 1, len(bounds)))]
        geometry = BlockGeometry.of("Loader", self.block, self.pad)
        seen = geometry.out_shape(*self.size, split.image_shape[2])
        make = self.into or (lambda count: self.backend.empty((count, *seen), self.dtype))
        out = make(shape[0])
        with Readers(self.workers, self.patience) as readers:

            def begin(number: int) -> Callable[[], None]:
                start, stop = bounds[number]
                lane = lanes[number % len(lanes)]
                lane.wait()
                wanted, host = indices[start:stop], lane.host[: stop - start]
                if not self.workers:
                    return lambda: split.read(wanted, host)
                return read_in_pieces(readers, split, wanted, host)

            reading = deque(begin(number) for number in range(min(AHEAD, len(bounds))))
            for number, (start, stop) in enumerate(bounds):
                reading.popleft()()
                chosen = indices[start:stop]
                views = look(chosen, np.arange(first + start, first + stop))
                lane = lanes[number % len(lanes)]
                images = self._seen(lane.send(stop - start), views, out[: stop - start])
                lane.sent()
                if number + AHEAD < len(bounds):
                    reading.append(begin(number + AHEAD))
                yield images, split.labels[chosen]

    def _seen(self, stored: Array, views: Views, out: Array) -> Array:
        return self.backend.augment(
            stored,
            self.mean,
            corners=views.corners,
            flips=views.flips,
            shifts=views.shifts,
            size=self.size,
            scale=views.scale,
            mean_at_pixel=self.mean_at_pixel,
            block=self.block,
            pad=self.pad,
            dtype=self.dtype,
            out=out,
        )


def read_in_pieces(
    readers: Readers, split: Split, indices: Labels, out: Images
) -> Callable[[], None]:
    """Begin to read the images `indices` into `out`; returns a function that waits for them."""
    pieces: list[tuple[Labels, Future[None]]] = []
    for start in range(0, len(indices), PIECE):
        chosen = indices[start : start + PIECE]
        pieces.append((chosen, readers.begin(split.read, chosen, out[start : start + PIECE])))

    def finish() -> None:
        for chosen, piece in pieces:
            readers.awaited(piece, partial(split.where, chosen))

    return finish
