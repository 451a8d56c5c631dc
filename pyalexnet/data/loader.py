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

# From the batch's images and their positions in the epoch to how they are seen.
Look = Callable[[Labels, Labels], Views]

AHEAD = 2  # batches that are read while one is worked on
PIECE = 16  # images that a worker reads at a time: a batch of 128 keeps eight workers busy


@dataclass(frozen=True, eq=False)
class Loader:
    """Makes batches for a device, of the form that `Backend.augment` describes."""

    backend: Backend
    mean: Array  # (H, W, C) float32, of the stored images
    size: Side  # of the network's input
    mean_at_pixel: bool
    workers: int  # threads that read; 0: the calling thread reads, and nothing is read ahead
    patience: float = PATIENCE  # seconds that a read in a thread may take
    block: int = 1
    pad: Pad = 0
    dtype: npt.DTypeLike = np.float32
    into: Callable[[int], Array] | None = None  # the array to fill with so many images

    def batches(
        self,
        split: Split,
        indices: Labels,
        batch_size: int,
        look: Look,
        *,
        positions: Labels | None = None,
    ) -> Generator[tuple[Array, Labels]]:
        """Images (n, H, W, C) of the device, minus the mean, and labels (n,).

        Images come in the order of `indices`; `positions` are their numbers in the epoch, 0 to n
        if None. Every batch has `batch_size` of them, the last one the rest, and is valid until the
        next is requested. A refusal says which image is damaged, or not read within `patience`
        seconds.
        """
        positions = np.arange(len(indices)) if positions is None else positions
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
                views = look(chosen, positions[start:stop])
                lane = lanes[number % len(lanes)]
                images = self.backend.augment(
                    lane.send(stop - start),
                    self.mean,
                    **vars(views),
                    size=self.size,
                    mean_at_pixel=self.mean_at_pixel,
                    block=self.block,
                    pad=self.pad,
                    dtype=self.dtype,
                    out=out[: stop - start],
                )
                lane.sent()
                if number + AHEAD < len(bounds):
                    reading.append(begin(number + AHEAD))
                yield images, split.labels[chosen]


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
