"""Which image files a folder holds, and to which class each belongs.

    root/train/<class>/*  and  root/val/<class>/*      or
    root/train/<class>/*  and  root/val/*              with a file of labels (`label_files.py`), or
    root/train/<class>/*  or  root/<class>/*           a seeded tenth of each class is validation

Names are sorted by their bytes. Those that begin with a dot are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyalexnet.data.dataset import Labels, shown
from pyalexnet.errors import DataError

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"))


@dataclass(frozen=True)
class Listing:
    """The images of a set: part by part, in it class by class, in it by name.

    `parts` and `labels` (N,) say where each of `paths` belongs; part 0 is training, 1 is val.
    `others` are the entries that are not called like images.
    """

    part_names: tuple[str, ...]
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    parts: Labels
    labels: Labels
    others: tuple[Path, ...]

    def select(self, chosen: npt.NDArray[np.bool_]) -> Listing:
        """The listing of those images alone."""
        paths = tuple(path for path, stays in zip(self.paths, chosen, strict=True) if stays)
        return replace(self, paths=paths, parts=self.parts[chosen], labels=self.labels[chosen])


LabelFile = Callable[[Sequence[str], Sequence[str]], Labels]
"""From the names of `val`'s images and of the classes to the images' labels (N,)."""


def of_folders(root: Path, label_val: LabelFile | None = None) -> Listing:
    """The images below `root`, laid out as above.

    Args:
        root: the folder.
        label_val: labels the images of a `val` without class folders.

    Raises:
        DataError: a folder cannot be read, there are under two classes, `val` has a class that
            `train` lacks, or labels although it has class folders, or none although it has not.
    """
    folders = part_folders(root)
    class_names = tuple(folder.name for folder in class_folders(folders[0]))
    if len(class_names) < 2:
        found = f"1 folder ({shown(class_names[0])})" if class_names else "no folders"
        raise DataError(
            f"{shown(folders[0])}: holds {found}; at least 2 were expected, one for each class of "
            f"images."
        )
    _check_val(root, folders, labelled=label_val is not None)
    found_in: list[_Found] = []
    for part, folder in enumerate(folders):
        if part == 1 and label_val is not None:
            found_in.append(_labelled(folder, class_names, label_val))
        else:
            found_in.append(_by_class(folder, class_names, folders[0]))
    return Listing(
        tuple(folder.name for folder in folders),
        class_names,
        tuple(path for found in found_in for path in found.paths),
        np.repeat(np.arange(len(folders)), [len(found.paths) for found in found_in]),
        np.concatenate([found.labels for found in found_in]),
        tuple(path for found in found_in for path in found.others),
    )


@dataclass(frozen=True)
class _Found:
    """What one part's folder holds: images and their labels, and entries of other names."""

    paths: list[Path]
    labels: Labels
    others: list[Path]


def _by_class(folder: Path, class_names: Sequence[str], train: Path) -> _Found:
    numbers = {name: label for label, name in enumerate(class_names)}
    paths: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for class_folder in class_folders(folder):
        if class_folder.name not in numbers:
            raise DataError(
                f"{shown(class_folder)}: is a class that {shown(train)} does not have; the same "
                f"classes were expected in both."
            )
        images, rest = _images(class_folder)
        paths += images
        labels += [numbers[class_folder.name]] * len(images)
        others += rest
    return _Found(paths, np.array(labels, dtype=np.int64), others)


def _labelled(folder: Path, class_names: Sequence[str], label_val: LabelFile) -> _Found:
    paths, others = _images(folder)
    return _Found(paths, label_val([path.name for path in paths], class_names), others)


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The entries that are called like images, and the others."""
    images: list[Path] = []
    others: list[Path] = []
    for path in entries(folder):
        (images if path.suffix.lower() in SUFFIXES else others).append(path)
    return images, others


def _check_val(root: Path, folders: Sequence[Path], *, labelled: bool) -> None:
    if len(folders) < 2:
        if labelled:
            raise DataError(
                f"{shown(root)}: there are labels for val; folders train, with classes, and val "
                f"were expected."
            )
        return
    folder = folders[1]
    if labelled and class_folders(folder):
        raise DataError(
            f"{shown(folder)}: has folders and there is a file of labels, too; one of them was "
            f"expected."
        )
    if not labelled and not class_folders(folder) and _images(folder)[0]:
        raise DataError(
            f"{shown(folder)}: holds images and no folders; a folder for each class was expected, "
            f"or a file of labels (pyalexnet data prepare --val-labels)."
        )


def part_folders(root: Path) -> list[Path]:
    """[train, val], [train] or [root]; a `train` without folders in it is a class."""
    train, val = root / "train", root / "val"
    if not _is_folder(train) or not class_folders(train):
        return [root]
    return [train, val] if _is_folder(val) else [train]


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return [entry for entry in entries(folder) if _is_folder(entry)]


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without names that begin with a dot."""
    try:
        found = sorted(folder.iterdir(), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be read ({error.strerror}).") from error
    return [entry for entry in found if not entry.name.startswith(".")]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a folder that may be listed, and not entered
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror}).") from error


def check_counts(root: Path, listing: Listing, what: str) -> None:
    """Every class needs an image in every part, and two where one will be held out."""
    parts = len(listing.part_names)
    needed, why = (2, ", as a tenth is held out") if parts == 1 else (1, "")
    for part in range(parts):
        counts = np.bincount(
            listing.labels[listing.parts == part], minlength=len(listing.class_names)
        )
        few = np.flatnonzero(counts < needed)
        if few.size:
            where = "" if parts == 1 else f" in {listing.part_names[part]}"
            raise DataError(
                f"{shown(root)}: class {shown(listing.class_names[few[0]])} has {counts[few[0]]} "
                f"{what}{where}; {needed} or more were expected{why}."
            )
