"""Datasets, and every random order drawn from one."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pyalexnet.data import colour
from pyalexnet.data.classes import Classes
from pyalexnet.data.colour import Colour
from pyalexnet.errors import DataError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # called with (done, total); the unit is the caller's

HELD_OUT_STREAM = 2**64 - 1  # the Philox stream of `hold_out`: no epoch has this number


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: `images` (N, H, W, C) uint8, C-contiguous; `labels` (N,) int64.

    Large sets are accessed through `read`: the images of a pack (`pack.PackSplit`) are on disk.
    """

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a stored image."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def read(self, indices: Labels, out: Images) -> None:
        """Read the images `indices` (n,) into `out` (n, H, W, C). Thread-safe."""
        np.take(self.images, indices, axis=0, out=out)

    def take(self, indices: Labels | Sequence[int]) -> Images:
        """The images `indices` (n,) as a new array (n, H, W, C)."""
        out = np.empty((len(indices), *self.image_shape), np.uint8)
        self.read(np.asarray(indices, np.int64), out)
        return out

    def renumbered(self, places: Sequence[int]) -> Self:
        """The same images in the same order; class c becomes class `places[c]`."""
        new = copy.copy(self)
        object.__setattr__(new, "labels", np.array(places, np.int64)[self.labels])
        return new

    def where(self, indices: Labels) -> str:
        """Where the images `indices` are, for a message."""
        return f"images {', '.join(map(str, indices))} of a set in memory"

    def mean(self) -> Pixels:
        """Mean of each pixel, (H, W, C); in any order, as sums are exact: below 2^53 in float64."""
        mean: npt.NDArray[np.float64] = self.images.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32)


class Statistics(NamedTuple):
    """A pack's stored statistics of its training images: see `Dataset`."""

    mean: Pixels
    colour: Colour


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split over the same classes; `note` says where they came from."""

    name: str
    train: Split
    test: Split
    classes: Classes
    note: str
    statistics: Statistics | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    def numbered_as(self, classes: Classes) -> Dataset | None:
        """The set with its classes numbered as in `classes`; None if the classes differ."""
        places = classes.places(self.classes)
        if places is None:
            return None
        train, test = self.train.renumbered(places), self.test.renumbered(places)
        old = np.argsort(places)
        ids, names = (tuple(own[c] for c in old) for own in (self.classes.ids, self.class_names))
        return replace(self, train=train, test=test, classes=Classes(ids, names))

    def checked(self, source: str) -> Dataset:
        """The set, if it can be learned from; its note mentions classes without a test image.

        Its images are known to be uint8 (N, H, W, C). A refusal begins with `source`.
        """
        count, names = len(self.classes), self.class_names
        if count < 2:
            found = f"there is 1 class ({names[0]})" if count else "there are no classes"
            raise DataError(f"{source}: {found}; at least 2 are needed to learn anything.")
        for which, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise DataError(f"{source}: there are 0 {which} images; at least 1 was expected.")
            outside = np.flatnonzero((split.labels < 0) | (split.labels >= count))
            if outside.size:
                found = f"{which} image {outside[0]} has label {split.labels[outside[0]]}"
                raise DataError(f"{source}: {found}; 0 to {count - 1} were expected.")
        both = self.train, self.test
        wanted, found = ("x".join(map(str, split.image_shape)) for split in both)
        if found != wanted:
            raise DataError(f"{source}: test images are {found}; {wanted} was expected.")
        absent, untested = (
            np.flatnonzero(np.bincount(split.labels, minlength=count) == 0) for split in both
        )
        if absent.size:
            which = f"class {absent[0]} ({names[absent[0]]}) has no training image"
            raise DataError(f"{source}: {which}; each of the {count} classes needs one.")
        if not untested.size:
            return self
        lacking = f"{untested.size} of {count} classes have no test image"
        return replace(self, note=f"{self.note}; {lacking}, first {names[untested[0]]}")

    def mean(self) -> Pixels:
        """Mean of each pixel over the training images, (H, W, C)."""
        return self.statistics.mean if self.statistics else self.train.mean()

    def colour(self) -> Colour | None:
        """Principal axes of the training pixels (`colour.of_set`); None if they are not RGB."""
        if self.statistics:
            return self.statistics.colour
        if self.train.image_shape[2] != 3:
            return None
        return colour.of_set(colour.Moments.of(self.train.images))


def by_channel(mean: Pixels) -> Pixels:
    """A mean image (H, W, C) with the mean of each channel in all its pixels."""
    channels = mean.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(channels, mean.shape))


def room_for(source: str, count: int, shape: tuple[int, int, int]) -> Images:
    """An array for `count` images (H, W, C), if the machine has as much memory."""
    needed = count * math.prod(shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        need = f"{count} images of {shape[0]}x{shape[1]} need {needed / 1e9:.1f} GB"
        raise DataError(f"{source}: {need}; this machine has {memory / 1e9:.1f} GB.")
    return np.empty((count, *shape), np.uint8)


def order(n: int, seed: int, epoch: int) -> Labels:
    """The order in which `epoch` visits `n` images: a permutation of 0 to n - 1.

    Each image draws 64 bits of Philox keyed by (seed, epoch), and the draws are sorted. NumPy
    guarantees the bits of a bit generator, but not how `Generator.permutation` uses them, and a
    resumed run must see the same order under a later NumPy.
    """
    return np.argsort(_draws(n, seed, epoch), kind="stable")


def hold_out(labels: Labels, seed: int) -> tuple[Labels, Labels]:
    """Ascending indices (kept, held out): of each class a seeded tenth, but one at least of two."""
    draws = _draws(len(labels), seed, HELD_OUT_STREAM)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        tenth = max(1, len(members) // 10) if len(members) > 1 else 0
        held[members[np.argsort(draws[members], kind="stable")[:tenth]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _draws(n: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(n)
