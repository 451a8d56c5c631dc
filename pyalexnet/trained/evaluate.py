"""How well a network does on images it was not trained on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

import numpy as np

from pyalexnet.data import Split, views
from pyalexnet.data.dataset import Labels
from pyalexnet.data.loader import Loader
from pyalexnet.data.views import Views
from pyalexnet.runs.run import Scores
from pyalexnet.step.net import Net
from pyalexnet.trained import ensemble
from pyalexnet.trained.ensemble import Probabilities


@dataclass
class Sums:
    """Loss and errors added up, each image counted once."""

    images: int = 0
    loss: float = 0.0
    top1_error: float = 0.0
    top5_error: float = 0.0

    def add(self, images: int, loss: float, top1_error: float, top5_error: float) -> None:
        """Count a batch of `images` with these means."""
        self.images += images
        self.loss += images * loss
        self.top1_error += images * top1_error
        self.top5_error += images * top5_error

    def mean(self) -> Scores:
        n = self.images
        return Scores(self.loss / n, self.top1_error / n, self.top5_error / n)


def scored(
    batches: Iterable[tuple[Probabilities, Labels]], whole: Probabilities | None = None
) -> Scores:
    """Scores on batches of probabilities (n, classes), which go into `whole`, and labels (n,)."""
    sums = Sums()
    for probabilities, labels in batches:
        if whole is not None:
            whole[sums.images : sums.images + len(labels)] = probabilities
        sums.add(len(labels), *astuple(ensemble.scores(probabilities, labels)))
    return sums.mean()


def evaluate(
    net: Net,
    split: Split,
    loader: Loader,
    batch_size: int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Scores of `net` on all of `split`, dropout off; None if `stop` became true on the way.

    Stored images larger than the network's input are cropped to the centre. A smaller last batch
    counts for its images only. Batches are distributed over the ranks that divide a training batch;
    all of them call `stop` equally often.
    """
    height, width, channels = split.image_shape
    ranks, rank = net.shards.ranks, net.communicator.rank

    def look(images: Labels, positions: Labels) -> Views:
        return views.centre(len(images), (height, width), loader.size, channels)

    batch = np.arange(len(split)) // batch_size  # of each image
    own = np.flatnonzero(batch % ranks == rank % ranks)
    results = []
    with contextlib.closing(loader.batches(split, own, batch_size, look)) as feed:
        for _ in range(batch[-1] // ranks + 1):
            if stop():
                return None
            for images, labels in itertools.islice(feed, 1):
                loss, _, *errors = net.backend.softmax_cross_entropy(net.forward(images), labels)
                results.append((len(labels), loss, *errors))  # left on the device: no wait yet
    read = [(n, *(float(net.backend.to_numpy(x)) for x in each)) for n, *each in results]
    told = net.communicator.gather(read)[:ranks]
    sums = Sums()
    for turn in itertools.zip_longest(*told):  # in the order of the batches
        for one in filter(None, turn):
            sums.add(*one)
    return sums.mean()
