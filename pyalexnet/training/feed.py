"""The images of an epoch, in its order and as training sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from pyalexnet.backends import Array
from pyalexnet.data import Dataset, order, views
from pyalexnet.data.dataset import Labels
from pyalexnet.data.loader import Loader
from pyalexnet.data.views import Views
from pyalexnet.nets.recipe import Augment


class Feed:
    """Training images; what is random is drawn from `seed`, the epoch and the image's position."""

    def __init__(
        self, dataset: Dataset, augment: Augment | None, seed: int, loader: Loader
    ) -> None:
        self._train = dataset.train
        self._augment = augment
        self._colour = dataset.colour() if augment and augment.jitter else None
        self._seed = seed
        self._loader = loader

    def batches(
        self, epoch: int, first: int, size: int, count: int
    ) -> Generator[tuple[Array, Labels]]:
        """`count` batches of `size` images of an epoch, from its image number `first` on."""
        indices = order(len(self._train), self._seed, epoch)[first : first + count * size]

        def look(images: Labels, positions: Labels) -> Views:
            return self._look(epoch, images, positions)

        return self._loader.batches(self._train, indices, size, look, first=first)

    def some(self, epoch: int, count: int) -> tuple[Array, Labels]:
        """The first images of an epoch."""
        with contextlib.closing(self.batches(epoch, 0, count, 1)) as feed:
            return next(feed)

    def _look(self, epoch: int, images: Labels, positions: Labels) -> Views:
        """How training sees images: see `views.training`."""
        height, width, channels = self._train.image_shape
        stored, size = (height, width), self._loader.size
        if self._augment is None:
            return views.centre(len(images), stored, size, channels)
        return views.training(
            self._augment,
            self._colour,
            seed=self._seed,
            epoch=epoch,
            images=images,
            positions=positions,
            stored=stored,
            size=size,
            channels=channels,
            progress=epoch + int(positions[0]) / len(self._train),
        )
