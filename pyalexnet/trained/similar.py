"""The images that a network finds most similar to others (paper, section 6.1, figure 4, right).

Two images are similar if their features are close in Euclidean distance; the features are those of
the last hidden layer, 4096 numbers in AlexNet, as in the original program's `findsimilar.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet.data import CACHED, Split, cifar, pack
from pyalexnet.data.dataset import Images, Labels, Progress
from pyalexnet.data.images import named, none_of
from pyalexnet.errors import DataError
from pyalexnet.files import shown
from pyalexnet.runs import tensors
from pyalexnet.trained import features
from pyalexnet.trained.features import Features
from pyalexnet.trained.load import BATCH, Say, Trained

Distances = npt.NDArray[np.float64]

# Rows of an index that are compared at a time.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Match:
    """A query, as a file and as the network stores it, (Hs, Ws, C), and its nearest images."""

    query: Path
    image: Images
    indices: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Index:
    """Features to be searched, and their images.

    blocks: all features in order, (n, numbers) at a time; they can be read once. name: an image's
    name for messages, by its number; its path if it is a file. images: images (n, Hs, Ws, C) as the
    network stores them, by their numbers.
    """

    blocks: Iterator[Features]
    name: Callable[[int], str]
    images: Callable[[Sequence[int]], Images]


def of_files(
    run: Trained, files: Sequence[Path], layer: str, bad: Say | None, progress: Progress | None
) -> Index:
    """Image files, whose features are computed during the search, and never all held."""
    known: list[Path] = []

    def blocks() -> Iterator[Features]:
        batches = run.image_batches(files, bad=bad, progress=progress)
        for rows, read in features.of(run, batches, layer):
            known.extend(read)
            yield rows

    return _of_paths(run, known, blocks())


def _of_paths(run: Trained, paths: Sequence[Path], blocks: Iterator[Features]) -> Index:
    def images(numbers: Sequence[int]) -> Images:
        return run.images([paths[number] for number in numbers])[0]

    return Index(blocks, lambda number: str(paths[number]), images)


def of_dataset(run: Trained, path: Path, layer: str, progress: Progress | None = None) -> Index:
    """A dataset's test images, then its training images; features are computed in the search."""
    dataset = run.dataset(path, progress)
    first = len(dataset.test)

    def blocks() -> Iterator[Features]:
        for split in (dataset.test, dataset.train):
            for rows, _ in features.of(run, run.batches(split, progress=progress), layer):
                yield rows

    def name(number: int) -> str:
        return f"test {number}" if number < first else f"train {number - first}"

    def image(number: int) -> Images:
        test, train = dataset.test, dataset.train
        return test.take([number]) if number < first else train.take([number - first])

    return Index(blocks(), name, lambda numbers: np.concatenate([*map(image, numbers)]))


def of_features(run: Trained, path: Path, layer: str) -> Index:
    """A file that `features` wrote; a DataError if it is none, or of another network or layer."""
    with tensors.reading(path) as file:
        about = file.metadata() or {}
        shape: Any = file.get_slice("features").get_shape() if "features" in file.keys() else ()  # noqa: SIM118
    expected = features.origin(run, layer)
    if len(shape) != 2 or expected.keys() - about.keys():
        raise DataError(f"{shown(path)}: was not written by pyalexnet features.")
    if about["layer"] != layer:
        own = about["layer"]
        raise DataError(f"{shown(path)}: holds the features of {own}; {layer} was expected.")
    if about["parameters"] != expected["parameters"]:
        raise DataError(
            f"{shown(path)}: holds the features of other parameters, those of "
            f"{about['checkpoint']}; {expected['checkpoint']} was expected."
        )

    def blocks() -> Iterator[Features]:
        with tensors.reading(path) as file:
            rows = file.get_slice("features")
            for start in range(0, shape[0], _BLOCK):
                yield rows[start : min(start + _BLOCK, shape[0])]

    if names := json.loads(about.get("names", "[]")):
        return _of_paths(run, [Path(name) for name in names], blocks())
    data, part = about.get("data"), about.get("split", "")

    @cache
    def split() -> Split:
        dataset = run.dataset(data)
        return dataset.train if part == "train" else dataset.test

    return Index(
        blocks(),
        lambda number: f"{part} image {number} of {data or 'the built-in set'}",
        lambda numbers: split().take(numbers),
    )


class Search:
    """Finds the nearest rows of an index that comes in blocks.

    The distances are float64 sums of squared differences. A matrix product, which is fast but less
    accurate, only selects the rows worth that: all that could be among the nearest, given its
    largest possible error. Rows at the same distance are ordered by their index.
    """

    def __init__(self, queries: Features, k: int) -> None:
        """Begin the search for the k rows nearest to each of `queries` (q, numbers)."""
        self._queries, self._k, self._seen = np.asarray(queries, np.float64), k, 0
        self._norms = (self._queries**2).sum(axis=1)
        self._nearest: list[tuple[Distances, Labels]] = [
            (np.empty(0), np.empty(0, np.int64)) for _ in queries
        ]

    def add(self, rows: Features) -> None:
        """Compare with the next rows (n, numbers) of the index."""
        wide = np.asarray(rows, np.float64)
        norms = (wide**2).sum(axis=1)
        rough = self._norms[:, None] + norms - 2 * self._queries @ wide.T
        # A sum of `numbers` terms is off by at most that many roundings of the sum of their sizes,
        # which is at most (|q| + |x|)^2; so is the exact distance that it is compared with.
        slack = (rows.shape[1] + 3) * np.finfo(np.float64).eps
        margin = slack * (np.sqrt(self._norms)[:, None] + np.sqrt(norms)) ** 2
        for number, (low, high) in enumerate(zip(rough - margin, rough + margin, strict=True)):
            squares, indices = self._nearest[number]
            together = np.concatenate((squares, high))
            last = min(self._k, len(together)) - 1
            worthy = np.flatnonzero(low <= np.partition(together, last)[last])
            exact = ((wide[worthy] - self._queries[number]) ** 2).sum(axis=1)
            squares = np.concatenate((squares, exact))
            indices = np.concatenate((indices, self._seen + worthy))
            best = np.lexsort((indices, squares))[: self._k]
            self._nearest[number] = squares[best], indices[best]
        self._seen += len(rows)

    def nearest(self) -> list[tuple[Labels, Distances]]:
        """For each query the indices and distances of its k nearest rows, or of all if fewer."""
        return [(indices, np.sqrt(squares)) for squares, indices in self._nearest]


def similar(
    run: Trained, queries: Sequence[Path], index: Index, layer: str, *, k: int, bad: Say | None
) -> list[Match]:
    """The k images of an index, or all if fewer, most like each query by a layer's features.

    A query that is itself in the index, as a file of the same path, is not its own neighbour. bad:
    called for each query that cannot be read, which is then skipped.
    """
    images, read = run.images(queries, bad)
    if not read:
        raise DataError(none_of(queries))
    parts = np.split(images, range(BATCH, len(images), BATCH))
    asked = np.concatenate([run.activations(part, layer) for part in parts])
    search = Search(asked.reshape(len(asked), -1), k + 1)  # one more, as a query may find itself
    for rows in index.blocks:
        search.add(rows)
    matches = []
    for query, image, (indices, distances) in zip(read, images, search.nearest(), strict=True):
        own = [Path(index.name(int(i))).absolute() == query.absolute() for i in indices]
        others = np.flatnonzero(np.logical_not(own))[:k]
        if not len(others):
            raise DataError(
                f"the index has no image except {shown(query)}; at least one more was expected."
            )
        near, far = indices[others].tolist(), distances[others].tolist()
        matches.append(Match(query, image, tuple(near), tuple(far)))
    return matches


def open_index(
    run: Trained,
    path: Path,
    layer: str,
    *,
    bad: Say | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Index:
    """The index at `path`: a dataset, a folder of images, or a file that `features` wrote.

    A dataset is a pack, CIFAR-10, or an .npz file; in other folders all images are treated alike,
    and `say` is called with a sentence on what else is in them.
    """
    if path.is_dir() and not (pack.is_pack(path) or cifar.is_folder_of(path)):
        return of_files(run, named([path], say), layer, bad, progress)
    is_set = path.is_dir() or path.name.lower().endswith((".npz", *cifar.SUFFIXES))
    if is_set or (str(path) == CACHED and not path.exists()):
        return of_dataset(run, path, layer, progress)
    return of_features(run, path, layer)
