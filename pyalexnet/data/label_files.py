"""Files that name things for `data prepare`: the labels of a flat `val`, the classes.

All are tables (`tables.py`), whose columns are recognised by their content. Labels of `val` have
one row per image:

    n01440764                             a class for each image in the order of sorted names
    490                                   ILSVRC2012_validation_ground_truth.txt: numbers in the
                                          same order; a second file says which class each number is
    ILSVRC2012_val_00000001.JPEG 65       Caffe's val.txt, DALI's lists: an image and the place of
                                          its class, from 0
    val_0.JPEG  n03444034  0  32  44  62  Tiny ImageNet's val_annotations.txt: an image, its class
    ILSVRC2012_val_00048981,n03995372 85 1 499 272
                                          Kaggle's LOC_val_solution.csv: with boxes of one class
    path,noisy_labels_0,...,is_valid      noisy_imagenette.csv: rows of other parts are skipped

An image is identified by its file's name, with or without leading folders and suffix; a class by
its folder's name, by the name it is given, or by a number.

The numbers of ILSVRC's development kit are not in the order of the folders' names; its meta.mat has
them. The second file, one row per class (`490 n01751748`; columns in any order, as in
map_clsloc.txt and imagenet_class_index.json), is made from it by

    from scipy.io import loadmat
    for synset in loadmat("meta.mat", squeeze_me=True)["synsets"][:1000]:
        print(synset["ILSVRC2012_ID"], synset["WNID"])
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pyalexnet.data import tables
from pyalexnet.data.classes import by_name
from pyalexnet.data.dataset import Labels
from pyalexnet.data.tables import Row, Table
from pyalexnet.errors import DataError
from pyalexnet.files import shown

# Names of columns of labels; if several could be, the first of these is used.
LABELS = (
    *("label", "class", "synset", "wnid", "target", "category", "breed", "y"),
    *("class_id", "label_id", "category_id", "class_name", "label_name", "category_name"),
    "noisy_labels_0",  # of noisy_imagenette.csv: 0 % of noise
)

# Names of a column that gives the part of the set an image belongs to, and its values for images of
# `val`; the second group is used if the first does not occur.
PARTS = ("is_valid", "split", "set", "subset", "partition")
OF_VAL = (("true", "1", "val", "valid", "validation", "dev"), ("test", "testing", "eval"))

TRAINING = re.compile(r"(.*[/\\])?train(ing)?[/\\]")

LABEL_EXPECTED = "a class folder's name, a number or FILE LABEL was expected"
NUMBER_EXPECTED = "a number, once, and the name of a class folder were expected"
OPEN_ORDER = "which folder is the second depends on whether numbers in names are sorted as such"


def val_labels(
    path: Path,
    numbers: Path | None,
    files: Sequence[str],
    folders: Sequence[str],
    names: Sequence[str] = (),
) -> Labels:
    """The labels (N,) of `files`, which are sorted.

    Args:
        numbers: the file that says which class each number is, if there is one.
        folders: names of the class folders, in the order of the classes.
        names: other names of the classes, in the same order; folder names take precedence.
    """
    if not files:
        raise DataError(f"{shown(path)}: labels images of val; there are none.")
    places = by_name(files, [PurePosixPath(file).stem for file in files])
    val = _Val(path, numbers, files, folders, by_name(folders, names), places)
    ways = tables.read(path)
    way, image, found = _best(ways, lambda cell: places.get(_file(cell)), least=2)
    if not found:
        return _classes(val, *_one_column(val, ways[-1].rows), from_zero=False)
    titles, rows = _headed(val, way, image)
    rows = _of_val(titles, rows, image)
    for row in rows:
        if len(row.cells) <= max(image, 1):
            raise row.refused(f"is {row}; {LABEL_EXPECTED}, the same in all lines")
    labels = _labels(val, titles, rows, image)
    return _in_order(val, rows, image, _classes(val, rows, labels, from_zero=True))


def class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the classes of `folders`, in their order.

    One class per row: `n01440764 tench, Tinca tinca`, in any order and with or without a number, as
    in LOC_synset_mapping.txt, map_clsloc.txt and imagenet_class_index.json; or only the name, in
    the order of the folders; or only the folder, which is then the name. Rows of other classes are
    skipped if each of these has one, as in WordNet's words.txt.
    """
    ways, known = tables.read(path), by_name(folders, ())
    way, column, found = _best(ways, known.get)
    if not found or len(way.rows) < len(folders):
        return _names_alone(path, ways[-1].rows, folders)
    rows = [row for row in way.rows if row.cell(column) in known]
    texts = dict(zip((row.cell(column) for row in rows), _texts(way, rows, column), strict=True))
    if not len(rows) == found == len(folders) or any(texts.values()) != all(texts.values()):
        why = f"begins {len(rows)} of its {len(way.rows)} lines with a class folder's name"
        wanted = "lines FOLDER NAME, one for each folder, were expected, or names alone"
        raise DataError(f"{shown(path)}: {why}; {wanted}.")
    return tuple(texts[folder] or folder for folder in folders)


# ------------------------------------------------------------------ which column is what


class _Val(NamedTuple):
    """The files of labels, and the images and classes that they are about."""

    path: Path
    numbers: Path | None
    files: Sequence[str]
    folders: Sequence[str]
    known: Mapping[str, int]  # the classes by folder and by name
    places: Mapping[str, int]  # the images by name, and by the name without suffix if unique


def _best(
    ways: Sequence[Table], place: Callable[[str], object], *, least: int = 1
) -> tuple[Table, int, int]:
    """The reading and the column with the most distinct `place`s among its cells, and how many.

    least: fewest cells in a row of such a table; only files of one column have fewer.
    """
    columns = (
        (way, column, len({place(cell) for cell in way.column(column)} - {None}))
        for way in ways
        for column in range(way.width if way.width >= least else 0)
    )
    return max(columns, key=lambda each: each[2], default=(ways[-1], 0, 0))


def _file(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _headed(val: _Val, way: Table, image: int) -> tuple[list[str], Sequence[Row]]:
    """The titles of the columns, if there is a header, and the other rows."""
    first = way.rows[0]
    says = _file(first.cell(image)) in val.places or re.search(r"\d|\.\w", first.cell(image))
    if says or any(cell in val.known or cell.isdecimal() for cell in first.cells):
        return [], way.rows
    return [re.sub(r"[ -]", "_", cell.lower()) for cell in first.cells], way.rows[1:]


def _of_val(titles: Sequence[str], rows: Sequence[Row], image: int) -> Sequence[Row]:
    """The rows of `val`, if a column or the images' folders give each row's part."""
    part = next((place for place, title in enumerate(titles) if title in PARTS), None)
    if part is None:
        return [row for row in rows if not TRAINING.match(row.cell(image))] or rows
    said = {row.cell(part).lower() for row in rows}
    wanted = next((kind for kind in OF_VAL if not said.isdisjoint(kind)), tuple(said))
    return [row for row in rows if row.cell(part).lower() in wanted]


def _one_column(val: _Val, rows: Sequence[Row]) -> tuple[Sequence[Row], list[str]]:
    """The rows of a file that has only labels, and the labels."""
    first, files, known = rows[0].cell(0), val.files, val.known
    if len(rows) == len(files) + 1 and first not in known and re.fullmatch("[A-Za-z_]+", first):
        rows = rows[1:]  # below the header
    for row in rows:
        if len(row.cells) > 1 or (row.cell(0) not in known and re.search(r"[\s,;]", row.cell(0))):
            raise row.refused(f"is {row}; {LABEL_EXPECTED}, FILE as in {shown(files[0])}")
    if len(rows) != len(files):
        wanted = f"{len(files)} were expected, one for each image of val"
        raise DataError(f"{shown(val.path)}: has {len(rows)} lines; {wanted}.")
    return rows, [_label(row.cell(0)) for row in rows]


def _labels(val: _Val, titles: Sequence[str], rows: Sequence[Row], image: int) -> list[str]:
    """The cells of the column with each image's class."""
    known = val.known
    columns = {
        column: [_label(row.cell(column)) for row in rows]
        for column in range(min(len(row.cells) for row in rows))
        if column != image and (column >= len(titles) or titles[column] not in PARTS)
    }

    def those(fit: Callable[[list[str]], bool]) -> dict[int, list[str]]:
        return {column: cells for column, cells in columns.items() if fit(cells)}

    classes = those(lambda cells: known.keys() >= set(cells))
    if len({tuple(known[cell] for cell in cells) for cells in classes.values()}) == 1:
        return next(iter(classes.values()))  # also if all agree, as by id and by name
    numbers, words = those(_numeric), those(lambda cells: not _numeric(cells))
    # Probably the labels, even if one of them is misspelt.
    half = those(lambda cells: 2 * sum(cell in known for cell in cells) > len(cells))
    mostly = {column: half[column] for column in half.keys() & words.keys()}
    found = classes or mostly or numbers or (columns if len(columns) == 1 else {})
    for title in LABELS:
        if title in titles and titles.index(title) in (found or columns):
            return columns[titles.index(title)]
    if len(found) > 1 and found is numbers:
        counted = those(lambda cells: _numeric(cells) and not _counts(cells))
        found = words if len(words) == 1 < len(counted) else counted
    if len(found) == 1:
        return next(iter(found.values()))
    which = f"the columns of {', '.join(map(shown, titles))}" if titles else "the columns"
    why = f"is {rows[0]}, and {len(found) or 'none'} of {which} may be the labels"
    raise rows[0].refused(f"{why}; one was expected, or one called label")


def _label(cell: str) -> str:
    """A bare label: taken out of boxes of one class, and an integer if written as 3.0."""
    words = cell.split()
    if len(words) >= 5 and len(words) % 5 == 0 and len(set(words[::5])) == 1:
        return words[0]
    whole = re.fullmatch(r"([0-9]+)\.0+", cell)
    return whole[1] if whole else cell


def _numeric(cells: Sequence[str]) -> bool:
    return all(map(str.isdecimal, cells))


def _counts(cells: Sequence[str]) -> bool:
    """Whether a column only numbers the rows, from 0 or from 1."""
    return list(cells) in ([str(first + n) for n in range(len(cells))] for first in (0, 1))


# ------------------------------------------------------------------ what the labels mean


def _classes(val: _Val, rows: Sequence[Row], labels: Sequence[str], *, from_zero: bool) -> Labels:
    """Each label's class; numbers count from 0 if that is usual and no file says otherwise."""
    folders, numbers, meaning, called = val.folders, val.numbers, val.known, list(val.folders)
    numbered = [label.isdecimal() for label in labels]
    # A single label that is neither, for instance -1, does not turn the others into folder names.
    if not all(numbered) and not (any(numbered) and meaning.keys().isdisjoint(labels)):
        if numbers is not None:
            other = f"{shown(val.path)} has labels that are no numbers"
            raise DataError(f"{shown(numbers)}: says which class a number is, and {other}.")
    elif numbers is not None:
        meaning = _numbered(numbers, folders, labels)
        called = list(meaning)
    # Without such a file, each number may still be both a folder's name and its place.
    elif called != [str(number) for number in range(min(len(folders), 10))]:
        if why := _unclear(folders, from_zero):
            wanted = "lines NUMBER FOLDER in another file were expected (--val-numbers)"
            raise DataError(f"{shown(val.path)}: labels images by numbers, and {why}; {wanted}.")
        called = [str(number) for number in range(len(folders))]
        meaning = by_name(called, ())
    for row, label in zip(rows, labels, strict=True):
        if label not in meaning:
            span = f"{shown(called[0])} to {shown(called[-1])}"
            wanted = f"one of the {len(folders)} classes was expected, {span}"
            raise row.refused(f"has the label {shown(label)!r}; {wanted}")
    return np.array([meaning[label] for label in labels], dtype=np.int64)


def _unclear(folders: Sequence[str], from_zero: bool) -> str:
    """Why it is unclear which folder each numeric label means; "" if it is clear."""
    if any(folder.isdecimal() for folder in folders):
        return "folders are called by numbers, too"
    if not from_zero:
        return "they follow an order of classes of their source"
    return OPEN_ORDER if _order_is_open(folders) else ""


def _numbered(path: Path, folders: Sequence[str], labels: Collection[str]) -> dict[str, int]:
    """Number, as written, to class, from a file of rows NUMBER FOLDER, columns in any order."""
    known = by_name(folders, ())
    way, column, _ = _best(tables.read(path), known.get)
    if way.width == 1:
        return _by_place(way.rows, known, labels)
    others = [other for other in range(way.width) if other != column]
    number = max(others, key=lambda other: sum(map(str.isdecimal, way.column(other))))
    meaning: dict[str, int] = {}
    for place, row in enumerate(way.rows):
        first, folder = row.cell(number), row.cell(column)
        if place == 0 and folder not in known and re.fullmatch("[A-Za-z_ -]+", first):
            continue  # the header
        if not first.isdecimal() or folder not in known or first in meaning:
            raise row.refused(f"is {row}; {NUMBER_EXPECTED}")
        meaning[first] = known[folder]
    return meaning


def _by_place(
    rows: Sequence[Row], known: Mapping[str, int], labels: Collection[str]
) -> dict[str, int]:
    """Place to class, from folders alone, as in Caffe's synsets.txt; labels show the first."""
    listed = [row.cell(0) for row in rows]
    if sorted(listed) != sorted(known):
        raise rows[0].refused(f"is {rows[0]}; {NUMBER_EXPECTED}, or each folder alone")
    first, last = "0" in labels, str(len(listed)) in labels
    if first == last:
        both = f"{'both' if first else 'neither'} of 0 and {len(listed)} are labels"
        why = f"has folders without numbers, to be counted from 0 or 1, and {both}"
        raise DataError(f"{shown(rows[0].path)}: {why}; lines NUMBER FOLDER were expected.")
    return {str(place): known[folder] for place, folder in enumerate(listed, 0 if first else 1)}


def _in_order(val: _Val, rows: Sequence[Row], image: int, labels: Labels) -> Labels:
    found = np.full(len(val.files), -1, dtype=np.int64)
    for row, label in zip(rows, labels, strict=True):
        place = val.places.get(_file(row.cell(image)))
        if place is None or found[place] >= 0:
            again = "an image that is not in val" if place is None else "an image a second time"
            raise row.refused(f"has {again}, {shown(row.cell(image))}; each once was expected")
        found[place] = label
    missing = np.flatnonzero(found < 0)
    if missing.size:
        lacking = f"{missing.size} of {len(found)} images, first {shown(val.files[missing[0]])}"
        raise DataError(f"{shown(val.path)}: lacks {lacking}; each once was expected.")
    return found


# ------------------------------------------------------------------ names of classes


def _texts(way: Table, rows: Sequence[Row], column: int) -> list[str]:
    """Each row's text without its folder, and without a column that only numbers the classes."""
    others = [place for place in range(way.width) if place != column]
    for place in others if len(others) > 1 else ():
        cells = [cell for cell in way.column(place) if cell.isdecimal()]
        through = sorted(map(int, cells)) in ([*range(len(cells))], [*range(1, len(cells) + 1)])
        whole = len(cells) >= len(way.rows) - 1 and all(row.cell(place) in cells for row in rows)
        if through and whole:
            others.remove(place)
            break
    return [way.joint.join(cell for cell in map(row.cell, others) if cell) for row in rows]


def _names_alone(path: Path, rows: Sequence[Row], folders: Sequence[str]) -> tuple[str, ...]:
    """Names in the order of the folders, or by their numbers from 0 in JSON."""
    if len(rows) != len(folders):
        wanted = f"{len(folders)} were expected, one a class"
        raise DataError(f"{shown(path)}: has {len(rows)} lines; {wanted}.")
    if _order_is_open(folders):
        why = f"names classes without their folders, and {OPEN_ORDER}"
        raise DataError(f"{shown(path)}: {why}; lines FOLDER NAME were expected.")
    by_number = {row.cell(0): row.cell(1) for row in rows if len(row.cells) == 2}
    if len(by_number) == len(rows):
        names = [by_number.get(str(number), "") for number in range(len(rows))]
    else:
        names = [row.cell(0) if len(row.cells) == 1 else "" for row in rows]
    if not all(names):
        why = f"is {rows[0]}, and begins with no class folder's name"
        wanted = f"FOLDER NAME was expected, as in {shown(folders[0])}, or a name alone"
        raise rows[0].refused(f"{why}; {wanted}")
    return tuple(names)


def _order_is_open(folders: Sequence[str]) -> bool:
    """Whether these names, if not all numbers, could also be sorted in another order."""
    numbers = all(folder.isdecimal() for folder in folders)
    return not numbers and list(folders) != sorted(folders, key=os.fsencode)
