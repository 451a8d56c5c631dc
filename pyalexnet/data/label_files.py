"""Files that name things for `data prepare`: the labels of a flat `val`, the classes.

Labels of `val`, one image a line:

    n01440764                         the class folder; images in the order of their sorted names
    490                               ILSVRC2012_validation_ground_truth.txt: a number, the images
                                      likewise; a second file says which class each number is
    ILSVRC2012_val_00000001.JPEG 65   a file and its class: the folder's name or, as in Caffe's
                                      val.txt, its place among the sorted names, from 0

The numbers of ILSVRC's development kit are not in the order of the folders' names; its meta.mat has
them. The second file, one class a line (`490 n01751748`), comes from it by

    from scipy.io import loadmat
    for synset in loadmat("meta.mat", squeeze_me=True)["synsets"][:1000]:
        print(synset["ILSVRC2012_ID"], synset["WNID"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pyalexnet.data import decode
from pyalexnet.data.dataset import Labels, shown
from pyalexnet.errors import DataError


def val_labels(
    path: Path, numbers: Path | None, files: Sequence[str], folders: Sequence[str]
) -> Labels:
    """The labels (N,) of `files`, which are sorted.

    Args:
        path: the file of labels.
        numbers: the file that says which class each number is; None: there is none.
        files: names of the images.
        folders: names of the class folders, in the order of the classes.

    Raises:
        DataError: a file cannot be read, names a class or an image that is not there, does not
            cover the images, or can be read in two ways.
    """
    lines = _lines(path)
    known = set(folders)
    if all(line in known or len(line.split()) < 2 for line in lines):
        if len(lines) != len(files):
            raise DataError(
                f"{shown(path)}: has {len(lines)} lines; {len(files)} were expected, one for each "
                f"image of val."
            )
        return _classes(path, numbers, lines, folders, from_zero=False)
    pairs = [_pair(path, number, line) for number, line in enumerate(lines, 1)]
    labels = _classes(path, numbers, [label for _, label in pairs], folders, from_zero=True)
    return _in_order(path, [file for file, _ in pairs], labels, files)


def box_labels(path: Path, files: Sequence[str], folders: Sequence[str]) -> Labels:
    """The labels (N,) of `files` by Tiny ImageNet's `val_annotations.txt`.

    One image a line, columns parted by tabs: the file, its class's folder, four numbers of a box.

    Raises:
        DataError: as `val_labels`.
    """
    columns = [line.split("\t") for line in _lines(path)]
    for number, line in enumerate(columns, 1):
        if len(line) < 2:
            raise DataError(
                f"{shown(path)}: line {number} is {shown(line[0])!r}; FILE, a tab and the name of "
                f"a class folder were expected."
            )
    labels = _classes(path, None, [line[1] for line in columns], folders, from_zero=True)
    return _in_order(path, [line[0] for line in columns], labels, files)


def class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the classes of `folders`, in their order.

    One class a line: `n01440764 tench, Tinca tinca`, in any order, or only the name, in the order
    of the folders.

    Raises:
        DataError: the file cannot be read, or its lines are not one a class.
    """
    lines = _lines(path)
    pairs = [(first, name.strip()) for first, _, name in (_cut(line) for line in lines)]
    named = [first for first, _ in pairs if first in set(folders)]
    if len(lines) != len(folders):
        raise DataError(
            f"{shown(path)}: has {len(lines)} lines; {len(folders)} were expected, one a class."
        )
    if not named and _order_is_open(folders):
        raise DataError(
            f"{shown(path)}: names classes without their folders, and which folder is the second "
            f"depends on whether numbers in their names are sorted as numbers; lines FOLDER NAME "
            f"were expected."
        )
    if not named:
        return tuple(lines)
    if sorted(named) != sorted(folders) or not all(name for _, name in pairs):
        raise DataError(
            f"{shown(path)}: begins {len(named)} of its {len(lines)} lines with a class folder's "
            f"name; lines FOLDER NAME, one for each folder, were expected, or names alone."
        )
    names = dict(pairs)
    return tuple(names[folder] for folder in folders)


def _classes(
    path: Path,
    numbers: Path | None,
    labels: Sequence[str],
    folders: Sequence[str],
    *,
    from_zero: bool,
) -> Labels:
    """Each label's class; numbers count from 0 where that is usual and no file says otherwise."""
    known = {folder: number for number, folder in enumerate(folders)}
    numbered = [label.isdecimal() for label in labels]
    # One label that is neither, for instance -1, does not make folders of the others.
    if not all(numbered) and not (any(numbered) and known.keys().isdisjoint(labels)):
        if numbers is not None:
            raise DataError(
                f"{shown(numbers)}: says which class a number is, and {shown(path)} has labels "
                f"that are no numbers; one of the two was expected."
            )
    elif numbers is not None:
        known = _numbered(numbers, known)
    elif any(folder.isdecimal() for folder in folders):
        raise DataError(
            f"{shown(path)}: labels images by numbers, and folders are called by numbers, too; a "
            f"file that says which class each number is was expected beside it (--val-numbers)."
        )
    elif from_zero and _order_is_open(folders):
        raise DataError(
            f"{shown(path)}: labels images by numbers, and which folder is the second depends on "
            f"whether numbers in their names are sorted as numbers; a file that says which class "
            f"each number is was expected beside it (--val-numbers)."
        )
    elif from_zero:
        known = {str(number): number for number in range(len(folders))}
    else:
        raise DataError(
            f"{shown(path)}: labels images by numbers from an order of classes of its own; a file "
            f"of lines NUMBER FOLDER was expected beside it (--val-numbers)."
        )
    for line, label in enumerate(labels, 1):
        if label not in known:
            raise DataError(
                f"{shown(path)}: line {line} has the label {shown(label)!r}; one of the "
                f"{len(known)} classes was expected, {_first_and_last(known)}."
            )
    return np.array([known[label] for label in labels], dtype=np.int64)


def _numbered(path: Path, known: Mapping[str, int]) -> dict[str, int]:
    """Of a file of lines NUMBER FOLDER: number, as it is written, to class."""
    meaning: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        first, _, folder = _cut(line)
        if not first.isdecimal() or folder not in known or first in meaning:
            raise DataError(
                f"{shown(path)}: line {number} is {shown(line)!r}; a number, once, and the name of "
                f"a class folder were expected."
            )
        meaning[first] = known[folder]
    return meaning


def _in_order(path: Path, named: Sequence[str], labels: Labels, files: Sequence[str]) -> Labels:
    places = {file: place for place, file in enumerate(files)}
    found = np.full(len(files), -1, dtype=np.int64)
    for line, (file, label) in enumerate(zip(named, labels, strict=True), 1):
        place = places.get(file)
        if place is None or found[place] >= 0:
            again = "an image that is not in val" if place is None else "an image a second time"
            raise DataError(
                f"{shown(path)}: line {line} has {again}, {shown(file)}; each image of val once "
                f"was expected."
            )
        found[place] = label
    missing = np.flatnonzero(found < 0)
    if missing.size:
        raise DataError(
            f"{shown(path)}: lacks {missing.size} of {len(files)} images, first "
            f"{shown(files[missing[0]])}; each image of val once was expected."
        )
    return found


def _lines(path: Path) -> list[str]:
    """The lines without blanks around them; names that are not UTF-8 come as file names do."""
    try:
        raw = decode.contents(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(path)}: {decode.fault(error)}; a file of lines was expected."
        ) from error
    lines = os.fsdecode(raw.removeprefix(b"\xef\xbb\xbf").rstrip()).split("\n")
    return [line.strip() for line in lines]


def _cut(line: str) -> tuple[str, str, str]:
    """A line at its first tab or, without one, its first blank."""
    return line.partition("\t" if "\t" in line else " ")


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    """A line at its last tab or, without one, its last blank: file and label."""
    file, _, label = line.rpartition("\t" if "\t" in line else " ")
    if not file.strip():
        raise DataError(
            f"{shown(path)}: line {number} is {shown(line)!r}; a class folder's name, a number or "
            f"FILE LABEL was expected, the same in all lines."
        )
    return file.strip(), label


def _order_is_open(folders: Sequence[str]) -> bool:
    """Whether others may sort these names, which are not all numbers, in another order."""
    return not all(folder.isdecimal() for folder in folders) and list(folders) != sorted(
        folders, key=os.fsencode
    )


def _first_and_last(known: Mapping[str, int]) -> str:
    names = list(known)
    return f"{shown(names[0])} to {shown(names[-1])}"
