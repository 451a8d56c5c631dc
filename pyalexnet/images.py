"""The image files that a user names on a command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyalexnet.data.dataset import shown
from pyalexnet.data.listing import SUFFIXES
from pyalexnet.errors import ArgumentError, DataError


def named(paths: Iterable[str | Path]) -> list[Path]:
    """The files of that name, and all images in the folders of that name and below, by name.

    A file counts whatever it is called; in folders the suffix decides, and what begins with a dot
    is left alone.

    Raises:
        DataError: there is nothing of a name, or no image in a folder.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{shown(path)}: is not there; an image or a folder was expected.")
            found.append(path)
            continue
        inside = [file for file in _below(path) if file.suffix.lower() in SUFFIXES]
        if not inside:
            raise DataError(f"{shown(path)}: holds no image; files *.jpg, *.png were expected.")
        found += inside
    return found


def none_of(paths: Sequence[Path]) -> str:
    """The sentence of a refusal: not one of these files could be read."""
    if len(paths) == 1:
        return f"{shown(paths[0])}: cannot be read; an image was expected."
    return f"none of the {len(paths)} images can be read; at least one was expected."


def labels_of(paths: Sequence[Path], class_names: Sequence[str]) -> list[int]:
    """Each image's class: the one that is called like its folder.

    Raises:
        ArgumentError: none is.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    folders = [shown(path.absolute().parent.name) for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folder not in numbers:
            raise ArgumentError(
                f"{shown(path)}: lies in a folder {shown(folder)!r}; the name of one of the "
                f"{len(class_names)} classes was expected, such as {class_names[0]!r}."
            )
    return [numbers[folder] for folder in folders]


def _below(folder: Path) -> list[Path]:
    """All files in a folder and in those in it, in one order on every file system."""

    def failed(error: OSError) -> None:
        raise DataError(f"{shown(error.filename)}: cannot be read ({error.strerror}).") from error

    found: list[Path] = []
    for where, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted((one for one in folders if one[0] != "."), key=os.fsencode)
        files.sort(key=os.fsencode)
        found += [Path(where, name) for name in files if name[0] != "."]
    return found
