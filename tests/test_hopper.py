"""Hopper's barriers, tiles and products on the emulation: their numbers, and what the checker sees.

The kernels are in hopper_cases.cu.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import program
from samples import normal

SOURCE = Path(__file__).with_name("hopper_cases.cu")
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built(tmp_path_factory, checked=False)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built(tmp_path_factory, checked=True)


@pytest.fixture(params=["fast", "checked"])
def built(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def _built(tmp_path_factory: pytest.TempPathFactory, *, checked: bool) -> Path:
    base = tmp_path_factory.getbasetemp()
    folder = base / f"hopper_cases_{'checked' if checked else 'fast'}"
    return program(folder, [SOURCE], base / "emulation", checked=checked)


def computed(program: Path, *arguments: object, given: bytes) -> Floats:
    done = subprocess.run(
        [program, *map(str, arguments)], input=given, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, np.float32)


def rounded(*shape: int, seed: int) -> Floats:
    """Normal numbers that are bfloat16 already."""
    return normal(*shape, seed=seed).astype(ml_dtypes.bfloat16).astype(np.float32)


def bits(x: Floats) -> bytes:
    return x.astype(ml_dtypes.bfloat16).tobytes()


def assert_product(y: Floats, a: Floats, b: Floats) -> None:
    """That y is a b^T, but for the rounding of sums in float32."""
    exact = a.astype(np.float64) @ b.T
    magnitude = np.abs(a).astype(np.float64) @ np.abs(b).T
    assert (np.abs(y.reshape(exact.shape) - exact) <= 8 * 2.0**-24 * magnitude).all()


MAJORS = [(a, b) for a in ("k", "mn") for b in ("k", "mn")]


@pytest.mark.parametrize("majors", MAJORS, ids="-".join)
@pytest.mark.parametrize("columns", [64, 96, 128, 192, 256])
def test_one_product_of_every_size_and_way(
    built: Path, columns: int, majors: tuple[str, str]
) -> None:
    a, b = rounded(64, 64, seed=1), rounded((columns + 63) // 64 * 64, 64, seed=2)
    tiles = [tile.T if majors[1] == "mn" else tile for tile in b.reshape(-1, 64, 64)]
    given = bits(a.T if majors[0] == "mn" else a) + bits(np.concatenate(tiles))
    y = computed(built, "multiply", columns, *majors, given=given)
    assert_product(y, a, b[:columns])


def factor(lines: Floats, major: str) -> bytes:
    """A factor as it lies in memory: rows of a multiple of 8 elements, NaN behind their end."""
    matrix = lines if major == "k" else lines.T
    rest = np.full((len(matrix), -matrix.shape[1] % 8), np.nan, np.float32)
    return bits(np.concatenate([matrix, rest], axis=1))


@pytest.mark.parametrize("schedule", range(4))
@pytest.mark.parametrize("majors", MAJORS, ids="-".join)
def test_a_warp_specialised_product_in_every_schedule(
    built: Path, majors: tuple[str, str], schedule: int
) -> None:
    """Two blocks by two, none full; five stages, of which the last is short."""
    rows, columns, depth = 141, 203, 263
    a, b = rounded(rows, depth, seed=3), rounded(columns, depth, seed=4)
    given = factor(a, majors[0]) + factor(b, majors[1])
    y = computed(built, "product", schedule, *majors, rows, columns, depth, given=given)
    assert_product(y, a, b)
