"""A network's predictions for image files."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyalexnet.data.dataset import Images, Progress
from pyalexnet.trained.ensemble import Probabilities
from pyalexnet.trained.load import BATCH, Bad, Trained


@dataclass(frozen=True, eq=False)
class Predictions:
    """For a batch of files: `paths`, `images` (n, Hs, Ws, C) as stored, `probabilities`."""

    paths: tuple[Path, ...]
    images: Images
    probabilities: Probabilities
    """(n, classes)"""

    def top(self, count: int) -> list[list[tuple[int, float]]]:
        """Each image's most probable classes with their probabilities; ties by class number."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(int(number), float(row[number])) for number in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]


def predict(
    run: Trained,
    paths: Sequence[Path],
    *,
    ten_crop: bool = False,
    batch_size: int = BATCH,
    bad: Bad | None = None,
    progress: Progress | None = None,
) -> Generator[Predictions]:
    """Predictions for image files, batch by batch.

    bad: called with a file that cannot be read, and why; if None, a DataError is raised instead.
    """
    for images, read in run.image_batches(paths, batch_size, bad=bad, progress=progress):
        yield Predictions(read, images, run.probabilities(images, ten_crop=ten_crop))
