"""Network inputs from stored images: cropping, mirroring, the mean, colour, rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import double
from pyalexnet.ops.records import BlockGeometry
from samples import EACH_ELEMENT, generator, normal, pixels
from shapes import each
from tolerance import assert_close, same_bits
from trial import run
from variants import CPU, CUDA, SIM, SIMCHECK, parameters

ON_KERNELS = pytest.mark.parametrize("be", parameters(CPU, SIM, SIMCHECK, CUDA), indirect=True)


@dataclass(frozen=True)
class Crops:
    """Crops of (height, width) from stored images x (N, Hs, Ws, C), each at a random place."""

    name: str
    x: tuple[int, int, int, int]
    size: tuple[int, int]
    chunk: int = 1  # the number of images that share a place
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def inputs(self) -> tuple[Any, Any]:
        """The images, and a mean that no float32 sum with a pixel represents exactly."""
        return pixels(*self.x), 100 + 40 * normal(*self.x[1:])

    @property
    def places(self) -> dict[str, Any]:
        """Corners, flips, shifts, size and scale."""
        images, h, w, c = self.x
        source = generator(images, h, w)
        room = (h - self.size[0] + 1, w - self.size[1] + 1)
        same = np.arange(images) // self.chunk
        shifts = 10 * normal(images, c, seed=3)
        shifts[0] = 0
        return {
            "corners": source.integers(0, room, (images, 2), np.int32)[same],
            "flips": source.integers(0, 2, images, np.uint8)[same],
            "shifts": shifts,
            "size": self.size,
            "scale": 1 / 1.1,
        }


CASES = (
    Crops("three channels", (5, 9, 12, 3), (6, 7)),
    Crops("grey", (5, 9, 12, 1), (6, 7)),
    Crops("five channels", (4, 6, 7, 5), (3, 4)),
    Crops("room for one more", (5, 6, 9, 3), (5, 8)),
    Crops("nothing cut off", (4, 7, 5, 3), (7, 5)),
    Crops("only rows cut off", (4, 7, 5, 3), (4, 5)),
    Crops("one pixel", (6, 4, 5, 2), (1, 1)),
    Crops("one image", (1, 8, 6, 3), (4, 3)),
    Crops("places shared", (11, 8, 9, 3), (5, 6), chunk=4),
    Crops("bands of rows and one more", (2, 20, 5, 3), (17, 4)),
    Crops("rows of more than a block", (2, 3, 140, 3), (2, 131)),
    Crops("AlexNet's", (3, 256, 256, 3), (224, 224), big=True),
)
EACH = pytest.mark.parametrize("case", each(CASES))
AT_PIXEL = pytest.mark.parametrize("mean_at_pixel", [False, True], ids=["centre", "at pixel"])


def in_steps(x: Any, mean: Any, *, scale: float = 1.0, **places: Any) -> Any:
    """The oracle's operands, put together in float32 in the order that ops.h states."""
    operands = oracle.augment_operands(x, mean, **places)
    pixel, less, shift = (one.astype(np.float32) for one in operands)
    return ((pixel - less) + shift) * np.float32(scale)


@pytest.mark.every(3)
@EACH
@AT_PIXEL
def test_crops(be: Any, case: Crops, mean_at_pixel: bool) -> None:
    """Bit for bit, so that all backends train on the same images."""
    how = {**case.places, "mean_at_pixel": mean_at_pixel}
    (y,) = run(be, "augment", *case.inputs, **how)
    assert_close(y, oracle.augment(*case.inputs, **how))
    assert same_bits(y, in_steps(*case.inputs, **how))


# Blocks that the padded crop of 6 x 7 pixels fills or not; larger than the crop; only padding.
PUT: tuple[dict[str, Any], ...] = (
    {"block": 4, "pad": (0, 2, 0, 1)},
    {"block": 2, "pad": (1, 0, 2, 0)},
    {"block": 3, "pad": (2, 1, 1, 3)},
    {"block": 5},
    {"block": 9, "pad": 1},
    {"pad": (0, 3, 2, 1)},
    {},
)


@pytest.mark.parametrize("put", PUT, ids=str)
@pytest.mark.parametrize("case", each(CASES[:3]))
@EACH_ELEMENT
def test_blocks(be: Any, case: Crops, put: dict[str, Any], dtype: Any) -> None:
    """Blocks hold the same bits as the plain crop, or these rounded to bfloat16."""
    how = {**case.places, "mean_at_pixel": True}
    (y,) = run(be, "augment", *case.inputs, **how, **put, dtype=dtype)
    crops = oracle.padded(double(in_steps(*case.inputs, **how)), put.get("pad", 0))
    assert same_bits(y, oracle.in_blocks(crops, put.get("block", 1)).astype(dtype))
    x, mean = case.inputs
    assert_close(y, oracle.augment(x, mean, **how, **put), dtype=dtype)


@pytest.mark.parametrize("left_out", ["shifts", "scale"])
def test_steps_that_change_nothing(be: Any, left_out: str) -> None:
    """A shift of 0 and a scale of 1 may be skipped; the other steps must not be."""
    case = CASES[0]
    neutral = {"shifts": np.zeros_like(case.places["shifts"]), "scale": 1.0}
    how = {**case.places, left_out: neutral[left_out]}
    (y,) = run(be, "augment", *case.inputs, **how)
    assert same_bits(y, in_steps(*case.inputs, **how))


def test_the_order_of_the_steps_shows() -> None:
    """The test data distinguish the stated order from others that are equal in float64."""
    x, mean = CASES[0].inputs
    pixel, less, shift = (
        one.astype(np.float32)
        for one in oracle.augment_operands(
            x, mean, **{key: value for key, value in CASES[0].places.items() if key != "scale"}
        )
    )
    scale = np.float32(CASES[0].places["scale"])
    stated = in_steps(x, mean, **CASES[0].places)
    assert same_bits(stated, ((pixel - less) + shift) * scale)
    assert not same_bits(stated, (pixel + (shift - less)) * scale)
    assert not same_bits(stated, (pixel - less) * scale + shift * scale)


def whole(shape: tuple[int, ...]) -> dict[str, Any]:
    """The arguments that leave images of a shape (N, H, W, C) unchanged."""
    return {
        "corners": np.zeros((shape[0], 2), np.int32),
        "flips": np.zeros(shape[0], np.uint8),
        "shifts": np.zeros((shape[0], shape[3]), np.float32),
        "size": shape[1:3],
    }


@AT_PIXEL
def test_images_seen_whole(be: Any, mean_at_pixel: bool) -> None:
    x, mean = CASES[3].inputs
    (y,) = run(be, "augment", x, mean, **whole(x.shape), mean_at_pixel=mean_at_pixel)
    assert same_bits(y, x.astype(np.float32) - mean)


def test_a_mirrored_image_is_the_image_mirrored(be: Any) -> None:
    """For any nonzero flip; the mean is not mirrored with the image, unless taken at the pixel."""
    x, mean = CASES[0].inputs
    flips = np.array([1, 2, 128, 255, 0], np.uint8)
    how = {**whole(x.shape), "flips": flips}
    mirrored = x.copy()
    mirrored[:4] = x[:4, :, ::-1]
    (y,) = run(be, "augment", x, mean, **how)
    assert same_bits(y, mirrored.astype(np.float32) - mean)
    (y,) = run(be, "augment", x, mean, **how, mean_at_pixel=True)
    expected = x.astype(np.float32) - mean
    expected[:4] = expected[:4, :, ::-1].copy()
    assert same_bits(y, expected)


def test_the_centre_of_an_odd_margin(be: Any) -> None:
    """The mean's crop begins at half the margin, rounded down: 9 rows to 6, 12 columns to 7."""
    x, mean = CASES[0].inputs
    how = {**whole(x.shape), "size": (6, 7)}
    (y,) = run(be, "augment", x, mean, **how)
    assert same_bits(y, x[:, :6, :7].astype(np.float32) - mean[1:7, 2:9])


def test_arrays_of_the_device(be: Any) -> None:
    """The other arrays may be on the host or the device, and may be slices."""
    case = CASES[0]
    x, mean = (be.asarray(one) for one in case.inputs)
    names = ("corners", "flips", "shifts")
    expected = be.to_numpy(be.augment(x, mean, **case.places))
    for place in (be.asarray, lambda one: np.repeat(one, 2, axis=0)[::2]):
        moved = {name: place(case.places[name]) for name in names}
        assert same_bits(be.to_numpy(be.augment(x, mean, **{**case.places, **moved})), expected)


def test_what_is_not_finite_stays_in_its_place(be: Any) -> None:
    """A shift that is NaN, a mean that is infinite."""
    case = CASES[0]
    x, mean = case.inputs
    shifts = case.places["shifts"].copy()
    shifts[1, 2] = np.nan
    mean[4, 5, 0] = np.inf
    how = {**case.places, "shifts": shifts}
    (y,) = run(be, "augment", x, mean, **how)
    np.testing.assert_array_equal(y, in_steps(x, mean, **how))
    assert np.isnan(y).sum() == 6 * 7 and np.isinf(y).sum() == len(x)


@ON_KERNELS
def test_corners_outside_are_moved_inside(be: Any) -> None:
    """Corners on a GPU are read only by the kernel, which must stay within the images."""
    x, mean = CASES[0].inputs
    places = CASES[0].places
    least, most = -(2**31), 2**31 - 1
    forged = np.array([[-1, 2], [4, -7], [least, most], [most, least], [3, 6]], np.int32)
    within = np.clip(forged, 0, (3, 5))
    beside = [be.asarray(places[name]) for name in ("flips", "shifts")]
    y = be.empty((5, 6, 7, 3))
    how = ((6, 7), BlockGeometry(1, 0, 0, 0, 0), 0.5, True)
    be._run("augment", be.asarray(x), be.asarray(mean), be.asarray(forged), *beside, y, *how)
    due = {**places, "corners": within, "scale": 0.5, "mean_at_pixel": True}
    assert same_bits(be.to_numpy(y), in_steps(x, mean, **due))
