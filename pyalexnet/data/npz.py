"""Datasets in one `.npz` file.

images        (N, H, W, C) uint8
labels        (N,) any integer type, 0 to classes - 1
test_images   likewise; without them a seeded tenth of each class is held out
test_labels
class_ids     (classes,) unique strings that identify the classes, as folder names do
class_names   (classes,) strings for people; without ids they also identify the classes

Without either the classes are called 0, 1, 2, ... Arrays of other names are not used, but reported.
Keras's names (x_train, y_train, x_test, y_test) and MedMNIST's (train_images, ...) work, too.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset, Split, hold_out
from pyalexnet.errors import DataError, reason
from pyalexnet.files import shown

Array = np.ndarray[Any, np.dtype[Any]]

ARRAYS = ("images", "labels", "test_images", "test_labels", "class_ids", "class_names")

# Names of these arrays in Keras's sets and MedMNIST, whose grey images are (N, H, W).
FOREIGN = {
    "x_train": "images",
    "y_train": "labels",
    "x_test": "test_images",
    "y_test": "test_labels",
    "train_images": "images",
    "train_labels": "labels",
}


def load(path: Path, *, seed: int = 0) -> Dataset:
    """Read the arrays above; nothing in the file is ever unpickled."""
    source = shown(path)
    arrays = _usual(source, _read(path))
    for name in ("images", "labels"):
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "no arrays"
            raise DataError(f"{source}: holds {held}; an array called {name} was expected.")
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise DataError(f"{source}: holds one of test_images and test_labels; both were expected.")
    whole = _split(source, arrays, "")
    classes = _classes(source, arrays, whole)
    if "test_images" in arrays:
        train, test, how = whole, _split(source, arrays, "test_"), ""
    else:
        parts = hold_out(whole.labels, seed)
        train, test = (Split(whole.images[part], whole.labels[part]) for part in parts)
        how = f", a tenth of which, drawn with seed {seed}, is held out"
    others = ", ".join(sorted(arrays.keys() - set(ARRAYS)))
    unused = f"; not used: {others}" if others else ""
    note = f"{source} ({len(train)} + {len(test)} images{how}{unused})"
    return Dataset(path.stem, train, test, classes, note).checked(source)


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                return {name: archive[name] for name in archive.files}
        raise DataError(f"{shown(path)}: is a single array; an .npz of several was expected.")
    except MemoryError as error:
        why = f"does not fit into memory ({reason(error)})"
        advice = "a pack (pyalexnet data prepare) is read image by image"
        raise DataError(f"{shown(path)}: {why}; {advice}.") from error
    # A RuntimeError: an encrypted member, or a compression that zipfile does not know.
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, BadZipFile, zlib.error) as error:
        why = f"cannot be read ({reason(error)})"
        raise DataError(f"{shown(path)}: {why}; plain arrays were expected.") from error


def _usual(source: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays by the names above, converted to the shapes above if necessary."""
    foreign = any(name.lower() in FOREIGN for name in arrays)
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        ours = FOREIGN.get(name.lower(), name)
        if ours in found or (ours != name and ours in arrays):
            raise DataError(f"{source}: holds {name} and {ours}; one of the two was expected.")
        if foreign and ours.endswith("images") and array.ndim == 3:
            array = array[..., None]
        elif foreign and ours.endswith("labels") and array.shape[1:] == (1,):
            array = array[:, 0]
        found[ours] = array
    return found


def _split(source: str, arrays: dict[str, Array], prefix: str) -> Split:
    images, labels = arrays[f"{prefix}images"], arrays[f"{prefix}labels"]
    source = f"{source}: {prefix}"
    if images.dtype != np.uint8:
        nan = np.count_nonzero(np.isnan(images)) if images.dtype.kind in "fc" else 0
        found = f"{images.dtype}{f' and {nan} of its values are NaN' if nan else ''}"
        raise DataError(f"{source}images is {found}; uint8, 0 to 255, was expected.")
    if images.ndim != 4 or 0 in images.shape:
        wanted = "(N, H, W, C) was expected, none of them 0"
        raise DataError(f"{source}images has shape {images.shape}; {wanted}.")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}labels is {labels.dtype}; integers were expected.")
    if labels.shape != images.shape[:1]:
        wanted = f"{images.shape[:1]} was expected, one for each image"
        raise DataError(f"{source}labels has shape {labels.shape}; {wanted}.")
    if int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{source}labels has label {labels.max()}; 0 to classes - 1 were expected.")
    return Split(np.ascontiguousarray(images), labels.astype(np.int64))


def _classes(source: str, arrays: dict[str, Array], split: Split) -> Classes:
    ids, names = (_strings(source, arrays, name) for name in ("class_ids", "class_names"))
    if ids is not None:
        if len(set(ids)) < len(ids) or (names is not None and len(names) != len(ids)):
            found = f"{', '.join(ids[:5])}{', ...' if ids[5:] else ''}"
            wanted = "each id once, and as many as class_names, were expected"
            raise DataError(f"{source}: class_ids is {found}; {wanted}.")
        return Classes(ids, names or ids)
    if names is not None:
        return Classes.named(names)
    classes = int(split.labels.max()) + 1
    if classes > len(split):
        counts = f"the label {classes - 1} and {len(split)} images"
        raise DataError(f"{source}: has {counts}; 0 to classes - 1, each once, were expected.")
    return Classes.numbered(classes)


def _strings(source: str, arrays: dict[str, Array], name: str) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    strings = arrays[name]
    if strings.ndim != 1 or strings.dtype.kind != "U":
        found = f"{strings.dtype} of shape {strings.shape}"
        raise DataError(f"{source}: {name} is {found}; strings of shape (classes,) were expected.")
    return tuple(strings.tolist())
