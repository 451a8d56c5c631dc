"""A layer's outputs as features of images, in a file for other programs.

The file holds `features` (n, numbers) float32 and, if known, `labels` (n,) int64. Its metadata give
their source (`layer`, `checkpoint`, the SHA-256 of its `parameters`) and the images: `names` (JSON,
the files' paths), or `data`, `split`, `class_ids` and `class_names` (JSON).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from pyalexnet.data import Dataset
from pyalexnet.data.dataset import Images, Progress
from pyalexnet.data.images import none_of
from pyalexnet.errors import DataError
from pyalexnet.files import shown
from pyalexnet.runs import checkpoint
from pyalexnet.runs.tensors import Writer
from pyalexnet.trained.load import BATCH, Say, Trained

Features = npt.NDArray[np.float32]
Part = Literal["train", "test"]
Source = TypeVar("Source")


def of(
    run: Trained, batches: Generator[tuple[Images, Source]], layer: str
) -> Generator[tuple[Features, Source]]:
    """Features (n, numbers) of each batch of images, maps in the order H, W, C.

    batches: `Trained.batches` or `Trained.image_batches`, whose labels or paths are passed on.
    """
    with contextlib.closing(batches):
        for images, source in batches:
            outputs = run.activations(images, layer)
            yield outputs.reshape(len(outputs), -1), source


def width(run: Trained, layer: str) -> int:
    """Number of a layer's outputs for one image; an ArgumentError if there is no such layer."""
    run.check_layer(layer)
    return next(math.prod(row.out_shape) for row in run.net.spec.shapes() if row.name == layer)


def write_split(
    path: Path,
    run: Trained,
    dataset: Dataset,
    part: Part,
    layer: str,
    *,
    where: str,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> int:
    """Write the features of a split; returns the number of images.

    where: path of the dataset, "" for the built-in one; recorded in the file.
    """
    split = dataset.train if part == "train" else dataset.test
    about = origin(run, layer) | dataset.classes.described() | {"data": where, "split": part}
    fixed = {"labels": np.asarray(split.labels, np.int64)}
    row = (width(run, layer),)
    with Writer(path, "features", row, most=len(split), fixed=fixed, metadata=about) as writer:
        for rows, _ in of(run, run.batches(split, batch_size, progress), layer):
            writer.add(rows)
    return writer.rows


def write_files(
    path: Path,
    run: Trained,
    files: Sequence[Path],
    layer: str,
    *,
    batch_size: int = BATCH,
    bad: Say | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the features of the readable image files; returns their number.

    A DataError if none can be read, or one cannot and `bad` is None.
    """
    kept: list[Path] = []
    row, about = (width(run, layer),), origin(run, layer) | _names(files)
    with Writer(path, "features", row, most=len(files), metadata=about) as writer:
        images = run.image_batches(files, batch_size, bad=bad, progress=progress)
        for rows, read in of(run, images, layer):
            writer.add(rows)
            kept += read
        if not kept:
            raise DataError(none_of(files))
        writer.metadata |= _names(kept)
    return writer.rows


def origin(run: Trained, layer: str) -> dict[str, str]:
    """Metadata on the source of features; `parameters` is the SHA-256 of the network's."""
    state = json.loads((run.path / checkpoint.STATE).read_bytes())
    return {
        "layer": layer,
        "checkpoint": shown(run.path.absolute()),
        "parameters": state["files"][checkpoint.PARAMS]["sha256"],
    }


def _names(files: Sequence[Path]) -> dict[str, str]:
    return {"names": json.dumps([str(file.absolute()) for file in files])}
