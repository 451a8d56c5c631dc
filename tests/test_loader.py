"""Batches for a network: the right images, however they are read ahead."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pyalexnet.backends import Backend, backend
from pyalexnet.data.colour import imagenet
from pyalexnet.data.dataset import Images, Labels, Split
from pyalexnet.data.loader import AHEAD, Loader
from pyalexnet.data.views import Views, centre, training
from pyalexnet.errors import DataError
from pyalexnet.nets.recipe import Augment
from pyalexnet.ops.elements import BFLOAT16

STORED, SIZE = (14, 14), (9, 9)
DRAWS = np.random.default_rng(0)
SPLIT = Split(DRAWS.integers(0, 256, (50, *STORED, 3), dtype=np.uint8), DRAWS.integers(0, 4, 50))
MEAN = SPLIT.mean()


def look(images: Labels, positions: Labels) -> Views:
    return training(
        Augment(chunk=3, jitter=0.1),
        imagenet(),
        seed=1,
        epoch=2,
        images=images,
        positions=positions,
        stored=STORED,
        size=SIZE,
        channels=3,
        progress=2.0,
    )


def whole(images: Labels, positions: Labels) -> Views:
    return centre(len(images), STORED, STORED, 3)


def all_batches(
    device: Backend, workers: int, indices: Labels, size: int = 8, first: int = 0
) -> list[tuple[np.ndarray[Any, Any], Labels]]:
    loader = Loader(device, device.asarray(MEAN), SIZE, False, workers)
    positions = np.arange(first, first + len(indices))
    feed = loader.batches(SPLIT, indices, size, look, positions=positions)
    return [(np.array(device.to_numpy(images)), labels) for images, labels in feed]


@pytest.fixture(scope="module", params=["cpu", "sim"])
def device(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_are_those_of_one_pass_by_hand(device: Backend, workers: int) -> None:
    indices = np.random.default_rng(1).permutation(50)[:43]
    made = all_batches(device, workers, indices)
    assert [len(labels) for _, labels in made] == [8] * 5 + [3]
    by_hand = look(indices, np.arange(43))
    cpu = backend("cpu")
    expected = cpu.augment(
        SPLIT.images[indices],
        MEAN,
        corners=by_hand.corners,
        flips=by_hand.flips,
        shifts=by_hand.shifts,
        size=SIZE,
        scale=by_hand.scale,
    )
    assert np.concatenate([images for images, _ in made]).tobytes() == expected.tobytes()
    assert np.array_equal(np.concatenate([labels for _, labels in made]), SPLIT.labels[indices])


def test_images_in_blocks(device: Backend) -> None:
    """For a network whose first layer reads squares, in bfloat16."""
    put: dict[str, Any] = {"block": 4, "pad": (0, 2, 1, 0), "dtype": BFLOAT16}
    loader = Loader(device, device.asarray(MEAN), STORED, False, 1, **put)
    batches = [
        np.array(device.to_numpy(images))
        for images, _ in loader.batches(SPLIT, np.arange(50), 8, whole)
    ]
    assert {images.shape[1:] for images in batches} == {(4, 4, 48)}
    pixels = np.pad(SPLIT.images - MEAN, ((0, 0), (0, 2), (1, 1), (0, 0)))
    squares = pixels.reshape(50, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(50, 4, 4, 48)
    assert np.concatenate(batches).tobytes() == squares.astype(BFLOAT16).tobytes()


def test_a_pass_taken_up_in_the_middle_goes_on_alike(device: Backend) -> None:
    indices = np.random.default_rng(1).permutation(50)
    straight = all_batches(device, 2, indices)
    later = all_batches(device, 1, indices[16:], first=16)
    for (images, _), (again, _) in zip(straight[2:], later, strict=True):
        assert images.tobytes() == again.tobytes()


def test_images_seen_whole_are_pixels_minus_the_mean(device: Backend) -> None:
    loader = Loader(device, device.asarray(MEAN), STORED, False, 1)
    feed = loader.batches(SPLIT, np.arange(50), 50, whole)
    images, _ = next(feed)
    assert np.array_equal(device.to_numpy(images), SPLIT.images - MEAN)


def test_no_batch_is_read_that_nobody_will_ask_for(device: Backend) -> None:
    assert (
        list(
            Loader(device, device.asarray(MEAN), SIZE, False, 2).batches(
                SPLIT, np.arange(0), 8, look
            )
        )
        == []
    )


class Watched(Split):
    """A split that counts what is read, and may fail or wait."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__(SPLIT.images, SPLIT.labels)
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "fails_at", fails_at)

    seen: list[int]
    fails_at: int | None

    def read(self, indices: Labels, out: Images) -> None:
        self.seen.extend(indices.tolist())
        if self.fails_at in indices:
            raise DataError(f"image {self.fails_at} is damaged.")
        super().read(indices, out)


def test_reading_goes_ahead_but_not_further_than_it_should() -> None:
    split, cpu = Watched(), backend("cpu")
    feed = Loader(cpu, MEAN, SIZE, False, 1).batches(split, np.arange(48), 8, look)
    next(feed)
    feed.close()
    assert set(split.seen) >= set(range(8))
    assert max(split.seen) < 8 * (1 + AHEAD)


@pytest.mark.parametrize("workers", [0, 3])
def test_what_a_worker_raises_reaches_the_caller_and_ends_the_workers(workers: int) -> None:
    split, cpu = Watched(fails_at=20), backend("cpu")
    feed = Loader(cpu, MEAN, SIZE, False, workers).batches(split, np.arange(48), 8, look)
    assert len(next(feed)[1]) == 8
    assert len(next(feed)[1]) == 8
    with pytest.raises(DataError, match="image 20 is damaged"):
        next(feed)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_leaving_a_pass_leaves_no_thread() -> None:
    feed = Loader(backend("cpu"), MEAN, SIZE, False, 3).batches(SPLIT, np.arange(48), 8, look)
    next(feed)
    feed.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
