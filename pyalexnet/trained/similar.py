"""The images that a network finds most similar to others (paper, section 6.1, figure 4, right).

Two images are similar if their features are close in Euclidean distance; the features are those of
the last hidden layer, 4096 numbers in AlexNet, as in the original program's `findsimilar.py`.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyalexnet.data import CACHED, Split, cifar, pack
from pyalexnet.data.dataset import Images, Labels, Progress
from pyalexnet.data.images import named, none_of
from pyalexnet.errors import DataError
from pyalexnet.files import shown
from pyalexnet.ops.checks import integer
from pyalexnet.runs import tensors
from pyalexnet.trained import features
from pyalexnet.trained.features import Features
from pyalexnet.trained.load import Bad, Trained

Distances = npt.NDArray[np.float64]

_BLOCK = 4096
"""Rows of an index that are compared at a time."""


@dataclass(frozen=True, eq=False)
class Match:
    """A query and its nearest images, the nearest first."""

    query: Path
    image: Images
    """The query as the network stores it, (Hs, Ws, C)."""
    indices: tuple[int, ...]
    """Indices of the neighbours."""
    distances: tuple[float, ...]


class Index(ABC):
    """Features to be searched, and their images."""

    @abstractmethod
    def blocks(self) -> Iterator[Features]:
        """All features in order, (n, numbers) at a time."""

    @abstractmethod
    def name(self, number: int) -> str:
        """An image's name for messages; its path if it is a file."""

    @abstractmethod
    def images(self, numbers: Sequence[int]) -> Images:
        """Images (n, Hs, Ws, C) as the network stores them."""


class FileIndex(Index):
    """Image files, whose features are computed during the search, once, and never all held."""

    def __init__(
        self,
        run: Trained,
        files: Sequence[Path],
        layer: str,
        *,
        bad: Bad | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._run, self._files, self._layer = run, files, layer
        self._bad, self._progress = bad, progress
        self._read: list[Path] = []

    def blocks(self) -> Iterator[Features]:
        self._read.clear()
        batches = self._run.image_batches(self._files, bad=self._bad, progress=self._progress)
        for rows, read in features.of(self._run, batches, self._layer):
            self._read += read
            yield rows

    def name(self, number: int) -> str:
        return str(self._read[number])

    def images(self, numbers: Sequence[int]) -> Images:
        return self._run.images([self._read[number] for number in numbers])[0]


class StoredIndex(Index):
    """A file that `features` wrote."""

    def __init__(self, run: Trained, path: Path, layer: str) -> None:
        """Open the file.

        Raises:
            DataError: it is not such a file, or is of another network or layer.
        """
        self._run, self._path = run, path
        with tensors.reading(path) as file:
            metadata = file.metadata() or {}
            shape = file.get_slice("features").get_shape() if "features" in file.keys() else None  # noqa: SIM118
        self._names: list[str] = json.loads(metadata.get("names", "[]"))
        self._data, self._part = metadata.get("data"), metadata.get("split", "")
        expected = features.origin(run, layer)
        if shape is None or len(shape) != 2 or expected.keys() - metadata.keys():
            raise DataError(f"{shown(path)}: was not written by pyalexnet features.")
        if metadata["layer"] != layer:
            raise DataError(
                f"{shown(path)}: holds the features of {metadata['layer']}; {layer} was expected."
            )
        if metadata["parameters"] != expected["parameters"]:
            raise DataError(
                f"{shown(path)}: holds the features of other parameters, those of "
                f"{metadata['checkpoint']}; {expected['checkpoint']} was expected."
            )

    def blocks(self) -> Iterator[Features]:
        with tensors.reading(self._path) as file:
            rows = file.get_slice("features")
            count = rows.get_shape()[0]
            for start in range(0, count, _BLOCK):
                yield rows[start : min(start + _BLOCK, count)]

    def name(self, number: int) -> str:
        if self._names:
            return self._names[number]
        return f"{self._part} image {number} of {self._data or 'the built-in set'}"

    def images(self, numbers: Sequence[int]) -> Images:
        if self._names:
            return self._run.images([Path(self._names[number]) for number in numbers])[0]
        return self._split.take(numbers)

    @cached_property
    def _split(self) -> Split:
        dataset = self._run.dataset(self._data)
        return dataset.train if self._part == "train" else dataset.test


class DataIndex(Index):
    """A dataset's test images, then its training images; features are computed in the search."""

    def __init__(
        self, run: Trained, path: Path, layer: str, *, progress: Progress | None = None
    ) -> None:
        self._run, self._layer, self._progress = run, layer, progress
        dataset = run.dataset(path, progress)
        self._test, self._train = dataset.test, dataset.train

    def blocks(self) -> Iterator[Features]:
        for split in (self._test, self._train):
            batches = self._run.batches(split, progress=self._progress)
            for rows, _ in features.of(self._run, batches, self._layer):
                yield rows

    def name(self, number: int) -> str:
        part, _, within = self._place(number)
        return f"{part} {within}"

    def images(self, numbers: Sequence[int]) -> Images:
        places = [self._place(number) for number in numbers]
        return np.concatenate([split.take([within]) for _, split, within in places])

    def _place(self, number: int) -> tuple[str, Split, int]:
        """The split of an image, and its number there."""
        within = number - len(self._test)
        return ("test", self._test, number) if within < 0 else ("train", self._train, within)


class Search:
    """Finds the nearest rows of an index that comes in blocks.

    The distances are float64 sums of squared differences. A matrix product, which is fast but less
    accurate, only selects the rows worth that: all that could be among the nearest, given its
    largest possible error. Rows at the same distance are ordered by their index.
    """

    def __init__(self, queries: Features, k: int) -> None:
        """Begin to look for the k rows nearest to each of `queries` (q, numbers)."""
        self._queries = np.asarray(queries, np.float64)
        self._norms = (self._queries**2).sum(axis=1)
        self._k = k
        self._seen = 0
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
            worthy = np.flatnonzero(low <= self._bound(squares, high))
            exact = ((wide[worthy] - self._queries[number]) ** 2).sum(axis=1)
            squares = np.concatenate((squares, exact))
            indices = np.concatenate((indices, self._seen + worthy))
            best = np.lexsort((indices, squares))[: self._k]
            self._nearest[number] = squares[best], indices[best]
        self._seen += len(rows)

    def _bound(self, squares: Distances, high: Distances) -> float:
        """An upper bound of the k-th smallest square among the known ones and the next rows."""
        together = np.concatenate((squares, high))
        if len(together) <= self._k:
            return math.inf
        return float(np.partition(together, self._k - 1)[self._k - 1])

    def nearest(self) -> list[tuple[Labels, Distances]]:
        """For each query the indices and distances of its k nearest rows, or of all if fewer."""
        return [(indices, np.sqrt(squares)) for squares, indices in self._nearest]


def similar(
    run: Trained,
    queries: Sequence[Path],
    index: Index,
    layer: str,
    *,
    k: int = 6,
    bad: Bad | None = None,
) -> list[Match]:
    """The k images of an index, or all if fewer, most like each query by a layer's features.

    A query that is itself in the index, as a file of the same path, is not its own neighbour.

    Args:
        queries: image files.
        bad: called for each query that cannot be read, which is then skipped.

    Raises:
        ArgumentError: k is below 1.
        DataError: no query can be read, or the index has no image other than a query.
    """
    integer("similar", "k", k, low=1)
    images, read = run.images(queries, bad)
    if not read:
        raise DataError(none_of(queries))
    asked = [rows for rows, _ in features.of(run, run.image_batches(read), layer)]
    search = Search(np.concatenate(asked), k + 1)  # one more, as a query may find itself
    for rows in index.blocks():
        search.add(rows)
    matches = []
    for query, image, (indices, distances) in zip(read, images, search.nearest(), strict=True):
        own = [Path(index.name(int(i))).absolute() == query.absolute() for i in indices]
        others = np.flatnonzero(np.logical_not(own))[:k]
        if not len(others):
            raise DataError(
                f"the index has no image except {shown(query)}; at least one more was expected."
            )
        matches.append(
            Match(query, image, tuple(indices[others].tolist()), tuple(distances[others].tolist()))
        )
    return matches


def open_index(
    run: Trained,
    path: Path,
    layer: str,
    *,
    bad: Bad | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Index:
    """The index at `path`: a dataset, a folder of images, or a file that `features` wrote.

    A dataset is a pack, CIFAR-10, or an .npz file; in other folders all images are treated alike,
    and `say` is called with a sentence on what else is in them.

    Raises:
        DataError: it is none of these, or of another network or layer.
    """
    if path.is_dir():
        labelled = pack.is_pack(path) or cifar.is_folder_of(path)
    else:
        fetched = str(path) == CACHED and not path.exists()
        labelled = fetched or path.name.lower().endswith((".npz", *cifar.SUFFIXES))
    if labelled:
        return DataIndex(run, path, layer, progress=progress)
    if path.is_dir():
        return FileIndex(run, named([path], say), layer, bad=bad, progress=progress)
    return StoredIndex(run, path, layer)
