"""The image files of a folder, and the class of each.

    root/train/<class>/*  and  root/val/<class>/*      or
    root/train/<class>/*  and  root/val/*              with a file of labels (`label_files.py`), or
    root/train/<class>/*  or  root/<class>/*           a seeded tenth of each class is validation

`train` and `val` have other names, too: `TRAIN`, `VAL` and, if there is no `val`, `TEST`. A folder
that holds one folder and no image stands for that folder, as with unpacked zip files, and with Tiny
ImageNet's `train/<class>/images`, whose `val/val_annotations.txt` is a file of labels.

Images are ordered by the bytes of their folders' and their own names. Classes are numbered in that
order, too, except that numbers in names are compared as numbers: class 10 comes after class 9.
Names that begin with a dot are ignored; anything else that is not used is reported (`not_used`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyalexnet.data import label_files
from pyalexnet.data.dataset import Labels, hold_out
from pyalexnet.errors import DataError
from pyalexnet.files import refusing, shown

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"))

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev")
TEST = ("test", "testing", "eval", "evaluation")
"""Names of the parts' folders, in either case."""

ANNOTATIONS = "val_annotations.txt"
"""Tiny ImageNet's file of labels, in `val`."""

LEFT_BY_ZIP = "__MACOSX"
"""A folder that macOS adds to archives, without images."""

_IMAGE = "image"
"""Stands for all of `SUFFIXES` where files are counted by their endings."""

_NAMED = 3
"""Most unused folders that are reported by name; of more only the number is."""


@dataclass(frozen=True)
class Listing:
    """The images of a set, sorted by part, then class, then name.

    `parts` and `labels` (N,) say where each of `paths` belongs; part 0 is training, 1 is val.
    `folders` are those of the parts, `class_ids` the names of the classes' folders in them.
    `others` are the entries of class folders without an image's suffix, `unused` is everything else
    that was found.
    """

    folders: tuple[Path, ...]
    class_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    parts: Labels
    labels: Labels
    others: tuple[Path, ...]
    unused: tuple[Path, ...]

    def select(self, chosen: npt.NDArray[np.bool_]) -> Listing:
        """The listing of those images alone."""
        paths = tuple(path for path, stays in zip(self.paths, chosen, strict=True) if stays)
        return replace(self, paths=paths, parts=self.parts[chosen], labels=self.labels[chosen])

    @property
    def rest(self) -> tuple[Path, ...]:
        """Everything found that is not an image of the set."""
        return (*self.unused, *self.others)

    def split(self, seed: int) -> tuple[Labels, Labels]:
        """The places of the training images, and of `val` or a tenth drawn by `seed`."""
        if len(self.folders) == 1:
            return hold_out(self.labels, seed)
        return np.flatnonzero(self.parts == 0), np.flatnonzero(self.parts == 1)

    def validation(self, root: Path, seed: int) -> str:
        """Where the images of `val` come from."""
        own = len(self.folders) > 1
        return _below(root, self.folders[1]) if own else f"a tenth drawn with seed {seed}"


LabelFile = Callable[[Sequence[str], Sequence[str]], Labels]
"""From the names of `val`'s images and of the classes to the images' labels (N,)."""


def of_folders(root: Path, label_val: LabelFile | None = None) -> Listing:
    """The images below `root`, laid out as above.

    Args:
        root: the folder.
        label_val: labels the images of a `val` without class folders.

    Raises:
        DataError: a folder cannot be read, there are fewer than two classes, `val` has a class that
            `train` lacks, or has both labels and class folders, or neither; or two folders have
            a name of the same part.
    """
    layout = _layout(root, labelled=label_val is not None)
    class_ids = tuple(sorted((folder.name for folder in class_folders(layout.train)), key=natural))
    if len(class_ids) < 2:
        found = f"1 folder ({shown(class_ids[0])})" if class_ids else "no folders"
        raise DataError(
            f"{shown(layout.train)}: holds {found}; at least 2 were expected, one for each class "
            f"of images."
        )
    parts = [_by_class(layout.train, class_ids, layout.train)]
    if layout.val is not None:
        parts.append(_held_out(layout.val, class_ids, layout.train, label_val))
    elif label_val is not None:
        raise DataError(
            f"{shown(root)}: there are labels for val; folders train, with classes, and val were "
            f"expected."
        )
    return Listing(
        tuple(found.folder for found in parts),
        class_ids,
        tuple(path for found in parts for path in found.paths),
        np.repeat(np.arange(len(parts)), [len(found.paths) for found in parts]),
        np.concatenate([found.labels for found in parts]),
        tuple(path for found in parts for path in found.others),
        (*layout.unused, *(path for found in parts for path in found.unused)),
    )


def natural(name: str) -> tuple[list[int | bytes], bytes]:
    """A key that sorts names by their bytes, but numbers in them as numbers."""
    raw = os.fsencode(name)
    pieces = re.split(rb"(\d+)", raw)
    return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)], raw


def not_used(root: Path, paths: Iterable[Path]) -> str:
    """A line on the files in `root` that are not used; "" if all are.

    Folders with the images in them, then images that belong to no class, then other files by their
    endings; the first of each kind is named.
    """
    folders: list[Path] = []
    files: dict[str, list[Path]] = {}
    for path in paths:
        if _is_folder(path):
            folders.append(path)
        else:
            suffix = path.suffix.lower()
            files.setdefault(_IMAGE if suffix in SUFFIXES else suffix, []).append(path)
    told = [f"{_below(root, path)}/ ({_images_in(path)})" for path in folders]
    if told[_NAMED:]:
        told[_NAMED:] = [f"{len(told) - _NAMED} more folders"]
    for kind, found in files.items():
        told.append(f"{_kind(kind, len(found))}, first {_below(root, found[0])}")
    return ", ".join(told)


# ------------------------------------------------------------------ which folder is what


@dataclass(frozen=True)
class _Layout:
    """The folders of training and validation, and what else was found beside them."""

    train: Path
    val: Path | None
    unused: tuple[Path, ...]


def _layout(root: Path, *, labelled: bool) -> _Layout:
    """Find the parts in `root` or, if it holds a single folder, in that; else it has no parts."""
    found = _parts_in(root, labelled=labelled)
    if found is not None:
        return found
    top = _only(root)
    if top == root or not class_folders(top):
        return _one_part(root)
    inside = _parts_in(top, labelled=labelled) or _one_part(top)
    return replace(inside, unused=(*_beside(root, top), *inside.unused))


def _parts_in(top: Path, *, labelled: bool) -> _Layout | None:
    """The parts in a folder; None if there is no `train` with folders in it."""
    folders = class_folders(top)
    train = _called(top, [one for one in _of_names(folders, TRAIN) if class_folders(one)])
    if train is None:
        return None
    val = _called(top, _of_names(folders, VAL))
    if val is None:
        test = _called(top, _of_names(folders, TEST))
        # Often a contest's unlabelled images: without labels it cannot be validation.
        val = test if test and (labelled or _has_labels(test)) else None
    unused = _beside(top, train, val)
    inner = _only(train)
    if inner != train and class_folders(inner):
        return _Layout(inner, val, (*unused, *_beside(train, inner)))
    return _Layout(train, val, tuple(unused))


def _one_part(top: Path) -> _Layout:
    """A folder of class folders; `train` is a class there, unless all have names of parts."""
    folders = class_folders(top)
    if folders and folders == _of_names(folders, (*TRAIN, *VAL, *TEST)):
        raise DataError(
            f"{shown(top)}: holds {' and '.join(shown(folder.name) for folder in folders)}, and no "
            f"folder for each class in train; folders train/<class> or <class> were expected."
        )
    return _Layout(top, None, ())


def _of_names(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    return [folder for folder in folders if folder.name.lower() in names]


def _called(top: Path, found: Sequence[Path]) -> Path | None:
    """The one folder that has a name of the part, if there is one."""
    if len(found) > 1:
        raise DataError(
            f"{shown(top)}: holds {' and '.join(shown(folder.name) for folder in found)}; one of "
            f"them was expected, as they are names of the same part."
        )
    return found[0] if found else None


def _has_labels(folder: Path) -> bool:
    return bool(class_folders(_only(folder))) or (folder / ANNOTATIONS).is_file()


def _only(folder: Path) -> Path:
    """The only folder in a folder without images; else the folder itself."""
    images, others = _images(folder)
    return folder if images else _one_of(others) or folder


def _one_of(found: Sequence[Path]) -> Path | None:
    """The folder among entries of a folder, if there is only one."""
    folders = [one for one in found if _is_folder(one) and one.name != LEFT_BY_ZIP]
    return folders[0] if len(folders) == 1 else None


def _beside(top: Path, *used: Path | None) -> list[Path]:
    return [entry for entry in entries(top) if entry not in used]


# ------------------------------------------------------------------ contents of folders


@dataclass(frozen=True)
class _Found:
    """The contents of one part's folder: images, their labels, and the rest."""

    folder: Path
    paths: list[Path]
    labels: Labels
    others: list[Path]
    unused: list[Path]


def _by_class(folder: Path, class_ids: Sequence[str], train: Path) -> _Found:
    numbers = {name: label for label, name in enumerate(class_ids)}
    paths: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    folders = class_folders(folder)
    for class_folder in folders:
        if class_folder.name not in numbers:
            raise DataError(
                f"{shown(class_folder)}: is a class that {shown(train)} does not have; the same "
                f"classes were expected in both."
            )
        images, rest = _of_class(class_folder)
        paths += images
        labels += [numbers[class_folder.name]] * len(images)
        others += rest
    unused = _beside(folder, *folders)
    return _Found(folder, paths, np.array(labels, dtype=np.int64), others, unused)


def _of_class(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images of a class folder, or of the one folder in it, and the other entries."""
    images, others = _images(folder)
    inner = None if images else _one_of(others)
    if inner is None:
        return images, others
    images, rest = _images(inner)
    return images, [*(path for path in others if path != inner), *rest]


def _held_out(
    val: Path, class_ids: Sequence[str], train: Path, label_val: LabelFile | None
) -> _Found:
    """The images of `val`, by its class folders or by a file of labels."""
    inner = _only(val)
    folder = val if inner.name in class_ids else inner
    beside = [] if folder == val else _beside(val, folder)
    annotations = val / ANNOTATIONS
    if label_val is None and annotations.is_file() and not class_folders(folder):
        label_val = partial(label_files.val_labels, annotations, None)
        beside = [path for path in beside if path != annotations]
    if label_val is None:
        if not class_folders(folder) and _images(folder)[0]:
            raise DataError(
                f"{shown(folder)}: holds images and no folders; a folder for each class was "
                f"expected, or a file of labels (pyalexnet data prepare --val-labels)."
            )
        found = _by_class(folder, class_ids, train)
        return replace(found, unused=[*beside, *found.unused])
    if class_folders(folder):
        raise DataError(
            f"{shown(folder)}: has folders and there is a file of labels, too; one of them was "
            f"expected."
        )
    images, others = _images(folder)
    others = [path for path in others if path != annotations]
    labels = label_val([path.name for path in images], class_ids)
    return _Found(folder, images, labels, others, beside)


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The entries with an image's suffix, and the others."""
    images: list[Path] = []
    others: list[Path] = []
    for path in entries(folder):
        (images if path.suffix.lower() in SUFFIXES else others).append(path)
    return images, others


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return [entry for entry in entries(folder) if _is_folder(entry) and entry.name != LEFT_BY_ZIP]


def entries(folder: Path) -> list[Path]:
    """A folder's entries, sorted, without names that begin with a dot."""
    with refusing(DataError, folder):
        found = sorted(folder.iterdir(), key=lambda entry: os.fsencode(entry.name))
    return [entry for entry in found if not entry.name.startswith(".")]


def files_below(folder: Path) -> list[Path]:
    """All files in and below a folder, in the same order on every file system."""

    def failed(error: OSError) -> None:
        raise DataError(f"{shown(error.filename)}: cannot be read ({error.strerror}).") from error

    found: list[Path] = []
    for where, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted((one for one in folders if one[0] != "."), key=os.fsencode)
        files.sort(key=os.fsencode)
        found += [Path(where, name) for name in files if name[0] != "."]
    return found


def _is_folder(path: Path) -> bool:
    with refusing(DataError, path):  # a folder may be listed but not entered
        return path.is_dir()


# ------------------------------------------------------------------ reports


def check_counts(root: Path, listing: Listing, what: str) -> None:
    """Check that every class has an image in every part, and two if one will be held out."""
    parts = len(listing.folders)
    needed, why = (2, ", as a tenth is held out") if parts == 1 else (1, "")
    for part, folder in enumerate(listing.folders):
        counts = np.bincount(
            listing.labels[listing.parts == part], minlength=len(listing.class_ids)
        )
        few = np.flatnonzero(counts < needed)
        if few.size:
            name = listing.class_ids[few[0]]
            where = "" if parts == 1 else f" in {_below(root, folder)}"
            raise DataError(
                f"{shown(root)}: class {shown(name)} has {counts[few[0]]} {what}{where}; {needed} "
                f"or more were expected{why}.{_holding(folder / name)}"
            )


def _holding(folder: Path) -> str:
    """A further sentence on the contents of a class's folder; "" if there is no such folder."""
    if not _is_folder(folder):
        return ""
    found = entries(folder)
    if not found:
        return " Its folder is empty."
    kinds: dict[str, list[Path]] = {}
    for path in found:
        kind = "folder" if _is_folder(path) else "file"
        kinds.setdefault(kind, []).append(path)
    told = (
        f"{_counted(len(paths), kind)} ({', '.join(shown(path.name) for path in paths[:_NAMED])}"
        f"{', ...' if paths[_NAMED:] else ''})"
        for kind, paths in kinds.items()
    )
    return f" Its folder holds {' and '.join(told)}."


def _images_in(folder: Path) -> str:
    """How many files in and below a folder have an image's suffix."""
    try:
        files = files_below(folder)
    except DataError:  # not a reason to refuse a set that does not need it
        return "cannot be read"
    return _counted(sum(file.suffix.lower() in SUFFIXES for file in files), "image")


def _kind(suffix: str, count: int) -> str:
    """`count` files with a suffix, in words."""
    if suffix == _IMAGE:
        return f"{_counted(count, suffix)} of no class"
    if suffix:
        return _counted(count, f"{shown(suffix)} file")
    return f"{_counted(count, 'file')} without an ending"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _below(root: Path, path: Path) -> str:
    return shown(path.relative_to(root))
