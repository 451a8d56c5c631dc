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
from typing import Literal

import numpy as np
import numpy.typing as npt

from pyalexnet.data import Dataset, Split
from pyalexnet.data.dataset import Labels, Progress
from pyalexnet.data.images import none_of
from pyalexnet.errors import DataError
from pyalexnet.files import shown
from pyalexnet.runs import checkpoint
from pyalexnet.runs.tensors import Writer
from pyalexnet.trained.load import BATCH, Bad, Trained

Features = npt.NDArray[np.float32]
Part = Literal["train", "test"]


def of_split(
    run: Trained,
    split: Split,
    layer: str,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Generator[tuple[Features, Labels]]:
    """Features (n, numbers) and labels (n,) of a split's batches, in its order."""
    with contextlib.closing(run.batches(split, batch_size, progress)) as feed:
        for images, labels in feed:
            yield _rows(run.activations(images, layer)), labels


def of_files(
    run: Trained,
    paths: Sequence[Path],
    layer: str,
    *,
    batch_size: int = BATCH,
    bad: Bad | None = None,
    progress: Progress | None = None,
) -> Generator[tuple[Features, tuple[Path, ...]]]:
    """Features (n, numbers) of image files, batch by batch, and the files; see `Trained.images`."""
    for images, read in run.image_batches(paths, batch_size, bad=bad, progress=progress):
        yield _rows(run.activations(images, layer)), read


def width(run: Trained, layer: str) -> int:
    """Number of a layer's outputs for one image.

    Raises:
        ArgumentError: the network has no such layer.
    """
    run.check_layer(layer)
    return next(math.prod(row.out_shape) for row in run.net.shapes() if row.name == layer)


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

    where: path of the data set, "" for the built-in one; recorded in the file.
    """
    split = dataset.train if part == "train" else dataset.test
    names = dataset.classes.described() | {"data": where, "split": part}
    with Writer(
        path,
        "features",
        (width(run, layer),),
        most=len(split),
        fixed={"labels": np.asarray(split.labels, np.int64)},
        metadata=origin(run, layer) | names,
    ) as writer:
        for rows, _ in of_split(run, split, layer, batch_size=batch_size, progress=progress):
            writer.add(rows)
    return writer.rows


def write_files(
    path: Path,
    run: Trained,
    files: Sequence[Path],
    layer: str,
    *,
    batch_size: int = BATCH,
    bad: Bad | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the features of the readable image files; returns their number.

    Raises:
        DataError: none can be read, or one cannot and `bad` is None.
    """
    kept: list[str] = []
    paths = [str(file.absolute()) for file in files]
    with Writer(
        path,
        "features",
        (width(run, layer),),
        most=len(files),
        metadata=origin(run, layer) | {"names": json.dumps(paths)},
    ) as writer:
        feed = of_files(run, files, layer, batch_size=batch_size, bad=bad, progress=progress)
        for rows, read in feed:
            writer.add(rows)
            kept += [str(file.absolute()) for file in read]
        if not kept:
            raise DataError(none_of(files))
        writer.metadata["names"] = json.dumps(kept)
    return writer.rows


def origin(run: Trained, layer: str) -> dict[str, str]:
    """Metadata on the source of features; `parameters` is the SHA-256 of the network's."""
    state = json.loads((run.path / checkpoint.STATE).read_bytes())
    return {
        "layer": layer,
        "checkpoint": shown(run.path.absolute()),
        "parameters": state["files"][checkpoint.PARAMS]["sha256"],
    }


def _rows(outputs: Features) -> Features:
    """(n, ...) as (n, numbers); maps in the order H, W, C."""
    return outputs.reshape(len(outputs), -1)
