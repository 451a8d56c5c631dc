"""How fast batches come: images/s of the loader by workers, and of one core decoding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pyalexnet import data
from pyalexnet.backends import Backend
from pyalexnet.data import Dataset, prepare, views
from pyalexnet.data.dataset import Labels
from pyalexnet.data.loader import Loader
from pyalexnet.data.pack import is_pack
from pyalexnet.nets.recipe import Augment

from .results import LoaderRow
from .timing import HostStopwatch, Run, Sampling, interleaved

_IMAGES, _BATCH = 512, 128
_STORED, _SIZE = 256, (224, 224)


def rows(backend: Backend, sampling: Sampling, pack: Path | None) -> list[LoaderRow]:
    """A row for each number of workers, up to the cores; all take turns.

    A turn is 512 images: decoded by one core in the calling thread, and loaded for `backend`,
    cropped, mirrored and jittered as in preset source.

    pack: source of the images; they are generated if it is None, or not made by `data prepare`.
    """
    with _photographs(pack) as dataset:
        indices = np.arange(_IMAGES) % len(dataset.train)
        runs = {"core": _decoding(dataset, indices)}
        for workers in _counts():
            runs[str(workers)] = _loading(backend, dataset, indices, workers)
        times = interleaved(HostStopwatch(), runs, sampling)
    core = times.pop("core")
    return [LoaderRow(int(name), _IMAGES, timing, core) for name, timing in times.items()]


def _counts() -> list[int]:
    """0, the calling thread itself, then 1, 2, 4 ... up to the cores."""
    cores = len(os.sched_getaffinity(0))
    return [0, *takewhile(lambda count: count <= cores, (2**power for power in range(10)))]


def _decoding(dataset: Dataset, indices: Labels) -> Run:
    out = np.empty((_BATCH, *dataset.train.image_shape), np.uint8)

    def run() -> None:
        for start in range(0, len(indices), _BATCH):
            dataset.train.read(indices[start : start + _BATCH], out)

    return run


def _loading(backend: Backend, dataset: Dataset, indices: Labels, workers: int) -> Run:
    height, width, channels = dataset.train.image_shape
    loader = Loader(backend, backend.asarray(dataset.mean()), _SIZE, False, workers)
    augment = Augment(chunk=32, jitter=0.1, jitter_shrinks=True)

    def look(images: Labels, positions: Labels) -> views.Views:
        return views.training(
            augment,
            dataset.colour(),
            seed=0,
            epoch=0,
            images=images,
            positions=positions,
            stored=(height, width),
            size=_SIZE,
            channels=channels,
            progress=0.0,
        )

    def run() -> None:
        for _ in loader.batches(dataset.train, indices, _BATCH, look):
            pass
        backend.synchronize()

    return run


@contextmanager
def _photographs(pack: Path | None) -> Iterator[Dataset]:
    """The pack's images; without one, generated ones with the detail of photographs."""
    if pack is not None and is_pack(pack):
        yield data.load(pack)
        return
    with TemporaryDirectory() as folder:
        source, made = Path(folder, "source"), Path(folder, "pack")
        _generate(source)
        prepare.prepare(source, made)
        yield data.load(made)


def _generate(folder: Path) -> None:
    """64 images in two classes; their power falls with the square of the frequency."""
    draws = np.random.default_rng(0)
    y, x = np.meshgrid(*[np.fft.fftfreq(_STORED)] * 2, indexing="ij")
    falling = 1 / np.maximum(np.hypot(x, y), 1 / _STORED)
    for number in range(64):
        noise = np.fft.fft2(draws.standard_normal((3, _STORED, _STORED)))
        waves = np.fft.ifft2(noise * falling).real
        waves = 128 + 50 * waves / waves.std()
        path = folder / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(waves.transpose(1, 2, 0), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
