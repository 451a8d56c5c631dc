"""The image files that a user names on a command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pyalexnet.data.classes import Classes, by_name
from pyalexnet.data.listing import SUFFIXES, files_below, not_used
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.files import shown


def named(paths: Iterable[str | Path], say: Callable[[str], None] | None = None) -> list[Path]:
    """The files named, whatever their suffix, and all images in and below the folders named.

    `say` is called with a sentence on the files of a folder that are not used.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{shown(path)}: is missing; an image or a folder was expected.")
            found.append(path)
            continue
        inside = files_below(path)
        images = [file for file in inside if file.suffix.lower() in SUFFIXES]
        others = not_used(path, (file for file in inside if file.suffix.lower() not in SUFFIXES))
        if not images:
            held = f"no image, but {others}" if others else "no image"
            raise DataError(f"{shown(path)}: holds {held}; files *.jpg, *.png were expected.")
        if others and say:
            say(f"not used  of {shown(path)}: {others}")
        found += images
    return found


def none_of(paths: Sequence[Path]) -> str:
    """The refusal for files, none of which could be read."""
    if len(paths) == 1:
        return f"{shown(paths[0])}: cannot be read; an image was expected."
    return f"none of the {len(paths)} images can be read; at least one was expected."


def labels_of(paths: Sequence[Path], classes: Classes) -> list[int]:
    """Each image's class: the one whose id, or unique name, is the name of the image's folder."""
    numbers = by_name(classes.ids, classes.names)
    folders = [shown(path.absolute().parent.name) for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folder not in numbers:
            wanted = f"the name of one of the {len(classes)} classes was expected"
            such = f"{wanted}, such as {classes.ids[0]!r}"
            raise ArgumentError(f"{shown(path)}: is in a folder {folder!r}; {such}.")
    return [numbers[folder] for folder in folders]
