"""Datasets: the built-in one, CIFAR-10, packs, folders of images, `.npz` files."""

from __future__ import annotations

import stat
from pathlib import Path

from pyalexnet.data import builtin, cifar, folder, npz, pack
from pyalexnet.data.dataset import Dataset, Progress, Split, order
from pyalexnet.errors import DataError, reason
from pyalexnet.files import shown

__all__ = ["Dataset", "Split", "load", "order"]

CACHED = "cifar10"  # the path of the archive fetched by `pyalexnet data get cifar10`


def load(
    path: str | Path | None,
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    bad_files: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The dataset at `path`, read according to its contents.

    Args:
        path: None for the built-in set; `cifar10` for the fetched archive (unless there is a file
            or folder of that name); CIFAR-10, as a folder or a tar archive; a pack; a folder of
            images, one folder per class; an `.npz` file. Each has a module here.
        image_size: (height, width) that a folder's images are resized to; other sets keep their own
            size.
        seed: draws the tenth that is held out if a set has no test images.
        bad_files: where a folder's images that could not be read are listed.
        progress: called with (images done, images in all) while a folder is read.

    Raises:
        DataError: there is nothing usable; one sentence says what was found and expected.
    """
    if path is None:
        return builtin.load()
    if "\0" in str(path):
        raise DataError(f"{str(path)!r}: holds a null character; a path was expected.")
    try:
        where = Path(path)
        if path == CACHED and not where.exists():
            from pyalexnet.data.download import fetched  # imports HTTP and TLS, needed only here

            where = fetched(CACHED)
        mode = where.stat().st_mode
        if stat.S_ISREG(mode) and where.name.lower().endswith(cifar.SUFFIXES):
            return cifar.load_archive(where)
        if stat.S_ISREG(mode) and where.suffix.lower() == ".npz":
            return npz.load(where, seed=seed)
        if not stat.S_ISDIR(mode):
            called = " or *".join((".npz", *cifar.SUFFIXES))
            raise DataError(f"{shown(where)}: is neither a folder nor a file called *{called}.")
        if pack.is_pack(where):
            return pack.load(where)
        if cifar.is_folder_of(where):
            return cifar.load_folder(where)
        if image_size is None:
            raise DataError(f"{shown(where)}: is a folder of images and image_size is None.")
        return folder.load(where, image_size, seed, bad_files, progress)
    except OSError as error:
        raise DataError(f"{shown(path)}: {reason(error)}; a dataset was expected.") from error
