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
Images that turn out to be unreadable are skipped and listed, and refused if they are too many.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyalexnet import files
from pyalexnet.data import label_files
from pyalexnet.data.classes import Classes, by_name
from pyalexnet.data.dataset import Labels, hold_out
from pyalexnet.errors import DataError
from pyalexnet.files import refusing, shown

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"))

# Names of the parts' folders, in either case.
TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev")
TEST = ("test", "testing", "eval", "evaluation")

ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's file of labels, in `val`
LEFT_BY_ZIP = "__MACOSX"  # a folder that macOS adds to archives, without images

BAD_SHARE = 0.01  # of a set's images, which may be bad
_NAMED = 3  # most unused folders that are reported by name; of more only the number is


@dataclass(frozen=True)
class Listing:
    """The images of a set, sorted by part, then class, then name."""

    root: Path
    folders: tuple[Path, ...]  # of training and, if there is one, of val
    class_ids: tuple[str, ...]  # names of the classes' folders
    classes: Classes
    paths: tuple[Path, ...]
    parts: Labels  # (N,): 0 is training, 1 is val
    labels: Labels  # (N,)
    others: tuple[Path, ...]  # entries of class folders without an image's suffix
    unused: tuple[Path, ...]  # everything else that was found

    def readable(self, bad: Mapping[int, str], listed: Path | None) -> tuple[Listing, Labels]:
        """The listing without bad images, and the places of the others.

        `bad` says why images cannot be read, by their places. The file `listed` then lists them,
        one JSON object per line, and files without an image's suffix, which never count as bad.
        """
        self.refuse_many(bad, listed)
        self._list(bad, listed)
        good = np.delete(np.arange(len(self.paths)), [*bad])
        paths = tuple(self.paths[place] for place in good)
        found = replace(self, paths=paths, parts=self.parts[good], labels=self.labels[good])
        found.check_counts("readable images")
        return found, good

    def refuse_many(self, bad: Mapping[int, str], listed: Path | None) -> None:
        """Refuse the set if more than `BAD_SHARE` of its images are bad; `listed` lists them."""
        images = len(self.paths)
        if len(bad) <= BAD_SHARE * images:
            return
        self._list(bad, listed)
        first = f"{shown(self.paths[min(bad)])} ({bad[min(bad)]})"
        found = f"{len(bad)} of {images} images cannot be read, first {first}"
        advice = f"replace or delete them{f'; {shown(listed)} lists them' if listed else ''}"
        wanted = f"at most {BAD_SHARE:.0%} was expected"
        raise DataError(f"{shown(self.root)}: {found}; {wanted}, so {advice}.")

    def _list(self, bad: Mapping[int, str], listed: Path | None) -> None:
        skipped = [(self.paths[place], bad[place]) for place in sorted(bad)]
        skipped += [(other, "not called like an image") for other in self.others]
        lines = (json.dumps({"path": str(file), "reason": why}) + "\n" for file, why in skipped)
        if listed:
            with refusing(DataError, listed, "written as the list of skipped files"):
                if skipped:
                    listed.parent.mkdir(parents=True, exist_ok=True)
                    files.write(listed, "".join(lines).encode("ascii"), DataError)
                else:
                    listed.unlink(missing_ok=True)

    def split(self, seed: int) -> tuple[Labels, Labels]:
        """The places of the training images, and of `val` or a tenth drawn by `seed`."""
        if len(self.folders) == 1:
            return hold_out(self.labels, seed)
        return np.flatnonzero(self.parts == 0), np.flatnonzero(self.parts == 1)

    def validation(self, seed: int) -> str:
        """Where the images of `val` come from."""
        own = len(self.folders) > 1
        return _below(self.root, self.folders[1]) if own else f"a tenth drawn with seed {seed}"

    def not_used(self) -> str:
        """A line on everything found that is not an image of the set; "" if there is nothing."""
        return not_used(self.root, (*self.unused, *self.others))

    def check_counts(self, what: str) -> None:
        """Check that every class has an image in every part, and two if one will be held out."""
        alone = len(self.folders) == 1
        needed, why = (2, ", as a tenth is held out") if alone else (1, "")
        for part, folder in enumerate(self.folders):
            counts = np.bincount(self.labels[self.parts == part], minlength=len(self.class_ids))
            for name, count in zip(self.class_ids, counts, strict=True):
                if count < needed:
                    where = "" if alone else f" in {_below(self.root, folder)}"
                    found = f"class {shown(name)} has {count} {what}{where}"
                    wanted = f"{needed} or more were expected{why}.{_holding(folder / name)}"
                    raise DataError(f"{shown(self.root)}: {found}; {wanted}")


def of_folders(
    root: Path,
    val_labels: Path | None = None,
    val_numbers: Path | None = None,
    class_names: Path | None = None,
) -> Listing:
    """The images below `root`, laid out as above; the other files are those of `label_files.py`."""
    train, val, unused = _layout(root, labelled=val_labels is not None)
    class_ids = tuple(sorted((folder.name for folder in class_folders(train)), key=natural))
    if len(class_ids) < 2:
        found = f"1 folder ({shown(class_ids[0])})" if class_ids else "no folders"
        wanted = "at least 2 were expected, one for each class of images"
        raise DataError(f"{shown(train)}: holds {found}; {wanted}.")
    names = label_files.class_names(class_names, class_ids) if class_names else ()
    parts = [_by_class(train, class_ids, train)]
    if val is not None:
        parts.append(_held_out(val, class_ids, train, names, val_labels, val_numbers))
    elif val_labels is not None:
        wanted = "folders train, with classes, and val were expected"
        raise DataError(f"{shown(root)}: there are labels for val; {wanted}.")
    ids = tuple(map(shown, class_ids))
    return Listing(
        root,
        tuple(found.folder for found in parts),
        class_ids,
        Classes(ids, names) if names else Classes.named(ids),
        tuple(path for found in parts for path in found.paths),
        np.repeat(np.arange(len(parts)), [len(found.paths) for found in parts]),
        np.concatenate([np.array(found.labels, np.int64) for found in parts]),
        tuple(path for found in parts for path in found.others),
        (*unused, *(path for found in parts for path in found.unused)),
    )


def natural(name: str) -> tuple[list[int | bytes], bytes]:
    """A key that sorts names by their bytes, but numbers in them as numbers."""
    raw = os.fsencode(name)
    pieces = re.split(rb"(\d+)", raw)
    return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)], raw


# ------------------------------------------------------------------ which folder is what


# The folders of training and validation, and what else was found beside them.
_Layout = tuple[Path, Path | None, list[Path]]


def _layout(root: Path, *, labelled: bool) -> _Layout:
    """Find the parts in `root` or, if it holds a single folder, in that; else it has no parts."""
    found = _parts_in(root, labelled=labelled)
    if found is not None:
        return found
    top, _, _ = _inside(root)
    if top == root or not class_folders(top):
        return _one_part(root)
    train, val, unused = _parts_in(top, labelled=labelled) or _one_part(top)
    return train, val, [*_beside(root, top), *unused]


def _parts_in(top: Path, *, labelled: bool) -> _Layout | None:
    """The parts in a folder; None if there is no `train` with folders in it."""
    folders = class_folders(top)
    train = _called([one for one in folders if _is(one, TRAIN) and class_folders(one)], TRAIN)
    if train is None:
        return None
    val = _called(folders, VAL)
    test = None if val else _called(folders, TEST)
    # Often a contest's unlabelled images: without labels it cannot be validation.
    if test and (labelled or class_folders(_inside(test)[0]) or (test / ANNOTATIONS).is_file()):
        val = test
    unused = _beside(top, train, val)
    inner, _, _ = _inside(train)
    if inner != train and class_folders(inner):
        return inner, val, [*unused, *_beside(train, inner)]
    return train, val, unused


def _one_part(top: Path) -> _Layout:
    """A folder of class folders; `train` is a class there, unless all have names of parts."""
    folders = class_folders(top)
    if folders and all(_is(folder, (*TRAIN, *VAL, *TEST)) for folder in folders):
        held = " and ".join(shown(folder.name) for folder in folders)
        why = f"holds {held}, and no folder for each class in train"
        raise DataError(f"{shown(top)}: {why}; train/<class> or <class> were expected.")
    return top, None, []


def _is(folder: Path, names: Collection[str]) -> bool:
    return folder.name.lower() in names


def _called(folders: Iterable[Path], names: Collection[str]) -> Path | None:
    """The one folder that has a name of the part, if there is one."""
    found = [folder for folder in folders if _is(folder, names)]
    if len(found) > 1:
        both = " and ".join(shown(one.name) for one in found)
        raise DataError(f"{shown(found[0].parent)}: holds {both}; one of them was expected.")
    return found[0] if found else None


def _inside(folder: Path) -> tuple[Path, list[Path], list[Path]]:
    """The only folder in a folder without images, else that folder; its images; other entries."""
    images, others = _images(folder)
    inner = [] if images else [one for one in others if _may_have_images(one)]
    if len(inner) != 1:
        return folder, images, others
    images, rest = _images(inner[0])
    return inner[0], images, [*(path for path in others if path != inner[0]), *rest]


def _beside(top: Path, *used: Path | None) -> list[Path]:
    return [entry for entry in entries(top) if entry not in used]


# ------------------------------------------------------------------ contents of folders


class _Found(NamedTuple):
    """The contents of one part's folder: images, their labels, and the rest."""

    folder: Path
    paths: list[Path]
    labels: list[int]
    others: list[Path]
    unused: list[Path]


def _by_class(folder: Path, class_ids: Sequence[str], train: Path) -> _Found:
    numbers = by_name(class_ids, ())
    folders = class_folders(folder)
    found = _Found(folder, [], [], [], _beside(folder, *folders))
    for class_folder in folders:
        if class_folder.name not in numbers:
            raise DataError(f"{shown(class_folder)}: is a class that {shown(train)} does not have.")
        _, images, rest = _inside(class_folder)
        found.paths.extend(images)
        found.labels.extend([numbers[class_folder.name]] * len(images))
        found.others.extend(rest)
    return found


def _held_out(
    val: Path,
    class_ids: Sequence[str],
    train: Path,
    names: Sequence[str],
    val_labels: Path | None,
    val_numbers: Path | None,
) -> _Found:
    """The images of `val`, by its class folders or by a file of labels."""
    inner, _, _ = _inside(val)
    folder = val if inner.name in class_ids else inner
    beside = [] if folder == val else _beside(val, folder)
    images, others = _images(folder)
    flat, annotations = not class_folders(folder), val / ANNOTATIONS
    if val_labels is None and flat and annotations.is_file():
        val_labels = annotations
        beside = [path for path in beside if path != annotations]
    if val_labels is None:
        if flat and images:
            wanted = "a folder for each class was expected, or data prepare --val-labels"
            raise DataError(f"{shown(folder)}: holds images and no folders; {wanted}.")
        found = _by_class(folder, class_ids, train)
        return found._replace(unused=[*beside, *found.unused])
    if not flat:
        raise DataError(f"{shown(folder)}: has folders and there is a file of labels, too.")
    called = [path.name for path in images]
    labels = label_files.val_labels(val_labels, val_numbers, called, class_ids, names).tolist()
    return _Found(folder, images, labels, [one for one in others if one != annotations], beside)


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The entries with an image's suffix, and the others."""
    images: list[Path] = []
    others: list[Path] = []
    for path in entries(folder):
        (images if path.suffix.lower() in SUFFIXES else others).append(path)
    return images, others


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, which may hold images."""
    return [entry for entry in entries(folder) if _may_have_images(entry)]


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
    for where, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted((one for one in folders if one[0] != "."), key=os.fsencode)
        names.sort(key=os.fsencode)
        found += [Path(where, name) for name in names if name[0] != "."]
    return found


def _is_folder(path: Path) -> bool:
    with refusing(DataError, path):  # a folder may be listed but not entered
        return path.is_dir()


def _may_have_images(path: Path) -> bool:
    return path.name != LEFT_BY_ZIP and _is_folder(path)


# ------------------------------------------------------------------ reports


def not_used(root: Path, paths: Iterable[Path]) -> str:
    """A line on the files in `root` that are not used: folders, and others by kind; "" if none."""
    told: list[str] = []
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        if _is_folder(path):
            told.append(f"{_below(root, path)}/ ({_images_in(path)})")
        else:
            kinds.setdefault(_kind(path), []).append(path)
    if told[_NAMED:]:
        told[_NAMED:] = [f"{len(told) - _NAMED} more folders"]
    for (kind, which), found in kinds.items():
        told.append(f"{_counted(len(found), kind)}{which}, first {_below(root, found[0])}")
    return ", ".join(told)


def _kind(path: Path) -> tuple[str, str]:
    """What a file that is not used counts as: a noun, and what follows it."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "image", " of no class"
    return (f"{shown(suffix)} file", "") if suffix else ("file", " without an ending")


def _images_in(folder: Path) -> str:
    """How many files in and below a folder have an image's suffix."""
    try:
        count = sum(file.suffix.lower() in SUFFIXES for file in files_below(folder))
    except DataError:  # not a reason to refuse a set that does not need it
        return "cannot be read"
    return _counted(count, "image")


def _holding(folder: Path) -> str:
    """A further sentence on the contents of a class's folder; "" if there is no such folder."""
    if not _is_folder(folder):
        return ""
    kinds: dict[str, list[Path]] = {}
    for path in entries(folder):
        kinds.setdefault("folder" if _is_folder(path) else "file", []).append(path)
    told = (
        f"{_counted(len(paths), kind)} ({', '.join(shown(path.name) for path in paths[:_NAMED])}"
        f"{', ...' if paths[_NAMED:] else ''})"
        for kind, paths in kinds.items()
    )
    return f" Its folder holds {' and '.join(told)}." if kinds else " Its folder is empty."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _below(root: Path, path: Path) -> str:
    return shown(path.relative_to(root))
