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
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from pyalexnet.data import tables
from pyalexnet.data.dataset import Labels
from pyalexnet.data.tables import Row, Table
from pyalexnet.errors import DataError
from pyalexnet.files import shown

LABELS = (
    *("label", "class", "synset", "wnid", "target", "category", "breed", "y"),
    *("class_id", "label_id", "category_id", "class_name", "label_name", "category_name"),
    "noisy_labels_0",  # of noisy_imagenette.csv: 0 % of noise
)
"""Names of columns of labels; if several could be, the first of these is used."""

PARTS = ("is_valid", "split", "set", "subset", "partition")
"""Names of a column that gives the part of the set an image belongs to."""

OF_VAL = (("true", "1", "val", "valid", "validation", "dev"), ("test", "testing", "eval"))
"""Its values for images of `val`; the second group is used if the first does not occur."""

TRAINING = re.compile(r"(.*[/\\])?train(ing)?[/\\]")


def val_labels(
    path: Path,
    numbers: Path | None,
    files: Sequence[str],
    folders: Sequence[str],
    names: Sequence[str] = (),
) -> Labels:
    """The labels (N,) of `files`, which are sorted.

    Args:
        path: the file of labels.
        numbers: the file that says which class each number is; None: there is none.
        files: names of the images.
        folders: names of the class folders, in the order of the classes.
        names: other names of the classes, in the same order; folder names take precedence.

    Raises:
        DataError: a file cannot be read, names an unknown class or image, does not cover the
            images, or is ambiguous.
    """
    if not files:
        raise DataError(
            f"{shown(path)}: labels images of val; there are none, and some were expected."
        )
    known = _called(folders, names)
    places = _places(files)
    ways = tables.read(path)
    way, column, found = _best(ways, lambda row, number: places.get(_file(row, number)), least=2)
    if not found:
        alone, labels = _one_column(path, ways[-1].rows, known, files)
        return _classes(path, numbers, alone, labels, folders, known, from_zero=False)
    header, rows = _headed(way, column, known, places)
    rows = _of_val(header, rows, column)
    for row in rows:
        if len(row.cells) <= max(column, 1):
            raise _no_label(path, row, "the same in all lines")
    labels = _labels(path, header, rows, column, known)
    classes = _classes(path, numbers, rows, labels, folders, known, from_zero=True)
    return _in_order(path, rows, column, classes, files, places)


def class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the classes of `folders`, in their order.

    One class per row: `n01440764 tench, Tinca tinca`, in any order and with or without a number, as
    in LOC_synset_mapping.txt, map_clsloc.txt and imagenet_class_index.json; or only the name, in
    the order of the folders; or only the folder, which is then the name. Rows of other classes are
    skipped if each of these has one, as in WordNet's words.txt.

    Raises:
        DataError: the file cannot be read, does not name each class once, or is ambiguous.
    """
    known = {folder: folder for folder in folders}
    ways = tables.read(path)
    way, column, found = _best(ways, lambda row, number: known.get(row.cell(number)))
    if not found or len(way.rows) < len(folders):
        return _names_alone(path, ways, folders)
    rows = [row for row in way.rows if row.cell(column) in known]
    texts = dict(zip((row.cell(column) for row in rows), _texts(way, rows, column), strict=True))
    if not len(rows) == found == len(folders) or any(texts.values()) != all(texts.values()):
        raise DataError(
            f"{shown(path)}: begins {len(rows)} of its {len(way.rows)} lines with a class folder's "
            f"name; lines FOLDER NAME, one for each folder, were expected, or names alone."
        )
    return tuple(texts[folder] or folder for folder in folders)


# ------------------------------------------------------------------ which column is what


def _best(
    ways: Sequence[Table], place: Callable[[Row, int], object], *, least: int = 1
) -> tuple[Table, int, int]:
    """The reading and the column with the most distinct `place`s among its cells, and how many.

    least: fewest cells in a row of such a table; only files of one column have fewer.
    """
    return max(
        (
            (way, column, len({place(row, column) for row in way.rows} - {None}))
            for way in ways
            for column in range(way.width if way.width >= least else 0)
        ),
        key=lambda each: each[2],
        default=(ways[-1], 0, 0),
    )


def _called(folders: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The classes by folder and by name; folders take precedence, and shared names are left out."""
    times = Counter(names)
    alone = {name: place for place, name in enumerate(names) if times[name] == 1}
    return alone | {folder: place for place, folder in enumerate(folders)}


def _places(files: Sequence[str]) -> dict[str, int]:
    """The images by name, and by the name without suffix if that is unique."""
    stems = [PurePosixPath(file).stem for file in files]
    times = Counter(stems)
    alone = {stem: place for place, stem in enumerate(stems) if times[stem] == 1}
    return alone | {file: place for place, file in enumerate(files)}


def _file(row: Row, column: int) -> str:
    """The file's name in a path."""
    return re.split(r"[/\\]", row.cell(column))[-1]


def _headed(
    way: Table, column: int, known: Collection[str], places: Collection[str]
) -> tuple[Row | None, list[Row]]:
    """The header row, if there is one, and the other rows."""
    first, *rest = way.rows
    says = _file(first, column) in places or any(
        cell in known or cell.isdecimal() for cell in first.cells
    )
    if says or re.search(r"\d|\.\w", first.cell(column)):
        return None, list(way.rows)
    return first, rest


def _titles(header: Row | None) -> list[str]:
    return [re.sub(r"[ -]", "_", cell.lower()) for cell in header.cells] if header else []


def _of_val(header: Row | None, rows: list[Row], column: int) -> list[Row]:
    """The rows of `val`, if a column or the images' folders give each row's part."""
    part = next((place for place, title in enumerate(_titles(header)) if title in PARTS), None)
    if part is None:
        return [row for row in rows if not TRAINING.match(row.cell(column))] or rows
    said = {row.cell(part).lower() for row in rows}
    wanted = next((kind for kind in OF_VAL if not said.isdisjoint(kind)), tuple(said))
    return [row for row in rows if row.cell(part).lower() in wanted]


def _one_column(
    path: Path, rows: Sequence[Row], known: Collection[str], files: Sequence[str]
) -> tuple[Sequence[Row], list[str]]:
    """The rows of a file that has only labels, and the labels."""
    first = rows[0].cell(0)
    if len(rows) == len(files) + 1 and first not in known and re.fullmatch("[A-Za-z_]+", first):
        rows = rows[1:]  # below the header
    for row in rows:
        if len(row.cells) > 1 or (row.cell(0) not in known and re.search(r"[\s,;]", row.cell(0))):
            raise _no_label(path, row, f"FILE as in {shown(files[0])}")
    if len(rows) != len(files):
        raise DataError(
            f"{shown(path)}: has {len(rows)} lines; {len(files)} were expected, one for each image "
            f"of val."
        )
    return rows, [_label(row.cell(0)) for row in rows]


def _no_label(path: Path, row: Row, how: str) -> DataError:
    return DataError(
        f"{shown(path)}: {row.where} is {row}; a class folder's name, a number or FILE LABEL was "
        f"expected, {how}."
    )


def _labels(
    path: Path, header: Row | None, rows: Sequence[Row], image: int, known: Mapping[str, int]
) -> list[str]:
    """The cells of the column with each image's class."""
    titles = _titles(header)
    columns = {
        column: [_label(row.cell(column)) for row in rows]
        for column in range(min(len(row.cells) for row in rows))
        if column != image and (column >= len(titles) or titles[column] not in PARTS)
    }
    classes = {column: cells for column, cells in columns.items() if known.keys() >= set(cells)}
    if len({tuple(known[cell] for cell in cells) for cells in classes.values()}) == 1:
        return next(iter(classes.values()))  # also if all agree, as by id and by name
    numbers = {column: cells for column, cells in columns.items() if all(map(str.isdecimal, cells))}
    mostly = {  # probably the labels, even if one of them is misspelt
        column: cells
        for column, cells in columns.items()
        if column not in numbers and 2 * sum(cell in known for cell in cells) > len(cells)
    }
    found = classes or mostly or numbers or (columns if len(columns) == 1 else {})
    for title in LABELS:
        if title in titles and titles.index(title) in (found or columns):
            return columns[titles.index(title)]
    if len(found) > 1 and found is numbers:
        words = {column: cells for column, cells in columns.items() if column not in numbers}
        counted = {column: cells for column, cells in found.items() if not _counts(cells)}
        found = words if len(words) == 1 < len(counted) else counted
    if len(found) == 1:
        return next(iter(found.values()))
    called = f" of {', '.join(map(shown, header.cells))}" if header else ""
    raise DataError(
        f"{shown(path)}: {rows[0].where} is {rows[0]}, and {len(found) or 'none'} of the columns"
        f"{called} may be the labels; one was expected, or one called label."
    )


def _label(cell: str) -> str:
    """A bare label: taken out of boxes of one class, and an integer if written as 3.0."""
    words = cell.split()
    if len(words) >= 5 and len(words) % 5 == 0 and len(set(words[::5])) == 1:
        return words[0]
    whole = re.fullmatch(r"([0-9]+)\.0+", cell)
    return whole[1] if whole else cell


def _counts(cells: Sequence[str]) -> bool:
    """Whether a column only numbers the rows."""
    return any(
        all(cell == str(number) for number, cell in enumerate(cells, first)) for first in (0, 1)
    )


# ------------------------------------------------------------------ what the labels mean


def _classes(
    path: Path,
    numbers: Path | None,
    rows: Sequence[Row],
    labels: Sequence[str],
    folders: Sequence[str],
    known: Mapping[str, int],
    *,
    from_zero: bool,
) -> Labels:
    """Each label's class; numbers count from 0 if that is usual and no file says otherwise."""
    meaning = known
    numbered = [label.isdecimal() for label in labels]
    # A single label that is neither, for instance -1, does not turn the others into folder names.
    if not all(numbered) and not (any(numbered) and known.keys().isdisjoint(labels)):
        if numbers is not None:
            raise DataError(
                f"{shown(numbers)}: says which class a number is, and {shown(path)} has labels "
                f"that are no numbers; one of the two was expected."
            )
    elif numbers is not None:
        meaning = _numbered(numbers, folders, labels)
    elif list(folders) == [str(number) for number in range(min(len(folders), 10))]:
        pass  # each number is both a folder's name and its place, in any sorting
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
        meaning = {str(number): number for number in range(len(folders))}
    else:
        raise DataError(
            f"{shown(path)}: labels images by numbers from an order of classes of its own; a file "
            f"of lines NUMBER FOLDER was expected beside it (--val-numbers)."
        )
    called = list(folders if meaning is known else meaning)
    for row, label in zip(rows, labels, strict=True):
        if label not in meaning:
            raise DataError(
                f"{shown(path)}: {row.where} has the label {shown(label)!r}; one of the "
                f"{len(folders)} classes was expected, {shown(called[0])} to {shown(called[-1])}."
            )
    return np.array([meaning[label] for label in labels], dtype=np.int64)


def _numbered(path: Path, folders: Sequence[str], labels: Collection[str]) -> dict[str, int]:
    """Number, as written, to class, from a file of rows NUMBER FOLDER, columns in any order."""
    known = {folder: place for place, folder in enumerate(folders)}
    way, column, _ = _best(tables.read(path), lambda row, number: known.get(row.cell(number)))
    if way.width == 1:
        return _by_place(path, way, known, labels)
    columns = [other for other in range(way.width) if other != column]
    number = max(columns, key=lambda other: sum(map(str.isdecimal, way.column(other))))
    meaning: dict[str, int] = {}
    for place, row in enumerate(way.rows):
        first, folder = row.cell(number), row.cell(column)
        if place == 0 and folder not in known and re.fullmatch("[A-Za-z_ -]+", first):
            continue  # the header
        if not first.isdecimal() or folder not in known or first in meaning:
            raise DataError(
                f"{shown(path)}: {row.where} is {row}; a number, once, and the name of a class "
                f"folder were expected."
            )
        meaning[first] = known[folder]
    return meaning


def _by_place(
    path: Path, way: Table, known: Mapping[str, int], labels: Collection[str]
) -> dict[str, int]:
    """Place to class, from a file of class folders alone, such as Caffe's synsets.txt.

    The labels show whether places count from 0 or from 1.
    """
    listed = way.column(0)
    if sorted(listed) != sorted(known):
        raise DataError(
            f"{shown(path)}: {way.rows[0].where} is {way.rows[0]}; a number, once, and the name of "
            f"a class folder were expected, or each of the {len(known)} folders alone."
        )
    first, last = "0" in labels, str(len(listed)) in labels
    if first == last:
        raise DataError(
            f"{shown(path)}: has folders without numbers, and {'both' if first else 'neither'} of "
            f"0 and {len(listed)} are labels, which tells where to count from; lines NUMBER FOLDER "
            f"were expected."
        )
    return {str(place): known[folder] for place, folder in enumerate(listed, 0 if first else 1)}


def _in_order(
    path: Path,
    rows: Sequence[Row],
    column: int,
    labels: Labels,
    files: Sequence[str],
    places: Mapping[str, int],
) -> Labels:
    found = np.full(len(files), -1, dtype=np.int64)
    for row, label in zip(rows, labels, strict=True):
        place = places.get(_file(row, column))
        if place is None or found[place] >= 0:
            again = "an image that is not in val" if place is None else "an image a second time"
            raise DataError(
                f"{shown(path)}: {row.where} has {again}, {shown(row.cell(column))}; each image of "
                f"val once was expected."
            )
        found[place] = label
    missing = np.flatnonzero(found < 0)
    if missing.size:
        raise DataError(
            f"{shown(path)}: lacks {missing.size} of {len(files)} images, first "
            f"{shown(files[missing[0]])}; each image of val once was expected."
        )
    return found


# ------------------------------------------------------------------ names of classes


def _texts(way: Table, rows: Sequence[Row], column: int) -> list[str]:
    """Each row's text without its folder, and without a column that only numbers the classes."""
    others = [place for place in range(way.width) if place != column]
    for place in others if len(others) > 1 else ():
        cells = [cell for cell in way.column(place) if cell.isdecimal()]
        through = sorted(map(int, cells)) in ([*range(len(cells))], [*range(1, len(cells) + 1)])
        if (
            through
            and len(cells) >= len(way.rows) - 1
            and all(row.cell(place) in cells for row in rows)
        ):
            others.remove(place)
            break
    return [way.joint.join(cell for cell in map(row.cell, others) if cell) for row in rows]


def _names_alone(path: Path, ways: Sequence[Table], folders: Sequence[str]) -> tuple[str, ...]:
    """Names in the order of the folders, or by their numbers from 0 in JSON."""
    rows = ways[-1].rows
    if len(rows) != len(folders):
        raise DataError(
            f"{shown(path)}: has {len(rows)} lines; {len(folders)} were expected, one a class."
        )
    if _order_is_open(folders):
        raise DataError(
            f"{shown(path)}: names classes without their folders, and which folder is the second "
            f"depends on whether numbers in their names are sorted as numbers; lines FOLDER NAME "
            f"were expected."
        )
    by_number = {row.cell(0): row.cell(1) for row in rows if len(row.cells) == 2}
    if len(by_number) == len(rows):
        names = [by_number.get(str(number), "") for number in range(len(rows))]
    else:
        names = [row.cell(0) if len(row.cells) == 1 else "" for row in rows]
    if not all(names):
        raise DataError(
            f"{shown(path)}: {rows[0].where} is {rows[0]}, and begins with no class folder's name; "
            f"FOLDER NAME was expected, as in {shown(folders[0])}, or a name alone."
        )
    return tuple(names)


def _order_is_open(folders: Sequence[str]) -> bool:
    """Whether these names, if not all numbers, could also be sorted in another order."""
    return not all(folder.isdecimal() for folder in folders) and list(folders) != sorted(
        folders, key=os.fsencode
    )
