"""Arrays for the pictures of `pyalexnet.show`: images, and a trained network's outputs for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet.data import Dataset, Split, order, views
from pyalexnet.data.dataset import Images, Labels, Progress
from pyalexnet.data.views import Views
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.nets.layers import Conv
from pyalexnet.nets.spec import NetSpec
from pyalexnet.trained import features
from pyalexnet.trained.load import BATCH, Trained
from pyalexnet.trained.similar import Search

Floats = npt.NDArray[np.floating[Any]]


def convolutions(spec: NetSpec) -> list[str]:
    """Names of a network's convolutions."""
    return [layer.name for layer in spec.layers if isinstance(layer, Conv)]


def convolution(spec: NetSpec, name: str | None) -> str:
    """The convolution of that name, or the first; an ArgumentError if there is none."""
    names = convolutions(spec)
    if not names or (name is not None and name not in names):
        raise ArgumentError(
            f"layer is {name!r}; a convolution of {spec.name} was expected: {', '.join(names)}."
        )
    return name or names[0]


def drawn(split: Split, count: int, seed: int) -> Labels:
    """Indices of `count` images, or of all, in an order that `seed` draws."""
    return order(len(split), seed, 0)[:count]


def predicted(
    trained: Trained, split: Split, count: int, seed: int, *, only_errors: bool
) -> tuple[Images, Labels, Floats]:
    """At most `count` images of a split, their labels, and the probabilities (n, classes).

    only_errors: images whose most probable class is not theirs; a DataError if there is none.
    """
    candidates = drawn(split, len(split) if only_errors else count, seed)
    found: list[tuple[int, Floats]] = []
    for start in range(0, len(candidates), BATCH):
        these = candidates[start : start + BATCH]
        probabilities = trained.probabilities(split.take(these))
        shown = probabilities.argmax(axis=1) != split.labels[these] if only_errors else ...
        found += zip(these[shown].tolist(), probabilities[shown], strict=True)
        if len(found) >= count:
            break
    if not found:
        raise DataError(
            f"all {len(split):,} test images are classified correctly; there are no errors to show."
        )
    indices, rows = map(np.array, zip(*found[:count], strict=True))
    return split.take(indices), split.labels[indices], rows


def nearest(
    trained: Trained,
    split: Split,
    queries: Images,
    layer: str,
    count: int,
    progress: Progress | None = None,
) -> tuple[Labels, Floats]:
    """Indices (n, k) of the images most like each query by a layer's outputs, and distances."""
    search = Search(trained.activations(queries, layer).reshape(len(queries), -1), count)
    for rows, _ in features.of(trained, trained.batches(split, progress=progress), layer):
        search.add(rows)
    indices, distances = map(np.stack, zip(*search.nearest(), strict=True))
    return indices, distances


def of_first_batch(
    trained: Trained, dataset: Dataset, epoch: int, count: int
) -> tuple[Labels, Labels]:
    """Indices of `count` images of an epoch's first batch, and their places in the epoch's order.

    They are spread evenly over the batch, since neighbours in it may share a crop.
    """
    config, total = trained.meta.config, len(dataset.train)
    size = min(config.get("recipe", {}).get("batch_size", BATCH), total)
    count = min(count, size)
    positions = np.arange(count) * size // count
    return order(total, config.get("seed", 0), epoch)[positions], positions


def training_views(
    trained: Trained, dataset: Dataset, epoch: int, images: Labels, positions: Labels
) -> Views:
    """How training saw these images at the start of `epoch`, counted from 0."""
    augment, channels = trained.augment, trained.mean.shape[2]
    if augment is None:
        return views.centre(len(images), trained.stored, trained.size, channels)
    return views.training(
        augment,
        dataset.colour() if augment.jitter_at(epoch) else None,
        seed=trained.meta.config.get("seed", 0),
        epoch=epoch,
        images=images,
        positions=positions,
        stored=trained.stored,
        size=trained.size,
        channels=channels,
        progress=float(epoch),
    )


def seen(trained: Trained, stored: Images, how: Views) -> Floats:
    """The network's inputs from stored images, in grey levels: scaled back, the mean added.

    The mean is found from the inputs for black images seen in the same way.
    """
    to_numpy = trained.net.backend.to_numpy
    black = dataclasses.replace(how, shifts=np.zeros_like(how.shifts))
    lacking = to_numpy(trained.look(np.zeros_like(stored), black)).copy()
    pixels: Floats = (to_numpy(trained.look(stored, how)) - lacking) / how.scale
    return pixels


def maps_of(trained: Trained, stored: Images, layers: Sequence[str]) -> dict[str, Floats]:
    """The maps (P, Q, K) of layers for the first stored image, in the network's order.

    An ArgumentError if the network has no such layer, or its outputs are not maps.
    """
    for name in layers:
        trained.check_layer(name)
    to_numpy = trained.net.backend.to_numpy
    outputs = trained.net.activations(trained.look(stored[:1]))
    found = {name: to_numpy(output)[0].copy() for name, output in outputs if name in layers}
    for name, output in found.items():
        if output.ndim != 3:
            raise ArgumentError(
                f"layer is {name!r}, whose output has no maps; a layer like "
                f"{convolution(trained.net.spec, None)} was expected."
            )
    return found
