"""bfloat16, copies, ldmatrix and mma on the emulation: their numbers against float64 and ml_dtypes.

The kernels are in tensor_cases.cu. The checker's reports on such operations are in test_simt.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import program
from samples import normal

SOURCE = Path(__file__).with_name("tensor_cases.cu")
ROOT = SOURCE.parent.parent
ROWS, DEPTH = 128, 88  # kRows and kDepth of the source
Floats = NDArray[np.float32]


@pytest.fixture(scope="module", params=[pytest.param("fast", marks=pytest.mark.slow), "checked"])
def built(request: pytest.FixtureRequest) -> Path:
    return program([SOURCE], checked=request.param == "checked")


def run(program: Path, *arguments: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [program, *arguments], input=given, capture_output=True, check=False, timeout=60
    )


def computed(program: Path, *arguments: str, given: bytes) -> bytes:
    done = run(program, *arguments, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rounded(*shape: int, seed: int) -> Floats:
    """Normally distributed numbers, already rounded to bfloat16."""
    return normal(*shape, seed=seed).astype(ml_dtypes.bfloat16).astype(np.float32)


def bits(x: Floats) -> bytes:
    return x.astype(ml_dtypes.bfloat16).tobytes()


# ---------------------------------------------------------------------- bfloat16


def test_every_bfloat16_and_what_lies_between_is_rounded_to_nearest_even(built: Path) -> None:
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    x = (upper[:, None] | lower).reshape(-1).view(np.float32)
    with np.errstate(invalid="ignore"):
        exact = np.stack([x, -x], axis=1).astype(ml_dtypes.bfloat16).view(np.uint16)
    words = np.frombuffer(computed(built, "roundings", given=x.tobytes()), np.uint16).reshape(-1, 4)
    nan = np.isnan(x)
    np.testing.assert_array_equal(words[~nan, :2], exact[~nan])
    np.testing.assert_array_equal(words[~nan, 2:], exact[~nan])
    assert (words[nan] == 0x7FFF).all()  # as the GPU's instruction returns it


def test_eight_at_a_time(built: Path) -> None:
    x = normal(64, 8)
    y = np.frombuffer(computed(built, "vectors", given=x.tobytes()), np.float32)
    np.testing.assert_array_equal(y, x.astype(ml_dtypes.bfloat16).astype(np.float32).reshape(-1))


# ---------------------------------------------------------------------- products


@pytest.mark.parametrize("seed", range(3))
def test_a_product_of_fragments(built: Path, seed: int) -> None:
    a, b, d = rounded(16, 16, seed=seed), rounded(16, 8, seed=seed + 10), normal(16, 8)
    given = bits(a) + bits(b) + d.tobytes()
    y = np.frombuffer(computed(built, "fragments", given=given), np.float32).reshape(16, 8)
    exact = d + a.astype(np.float64) @ b
    magnitude = np.abs(d) + np.abs(a).astype(np.float64) @ np.abs(b)
    assert (np.abs(y - exact) <= 8 * 2.0**-24 * magnitude).all()
    in_order = d.copy()
    for k in range(16):
        in_order += a[:, k, None] * b[k]
    np.testing.assert_array_equal(y, in_order)


A, B = rounded(ROWS, DEPTH, seed=1), rounded(ROWS, DEPTH, seed=2)
FACTORS = bits(A) + bits(B)


@pytest.mark.parametrize("schedule", range(4))
def test_a_pipelined_product_in_every_schedule(built: Path, schedule: int) -> None:
    """The last slice of the depth is short: the rest of it is copied as zeros."""
    out = computed(built, "product", str(schedule), given=FACTORS)
    y = np.frombuffer(out, np.float32).reshape(ROWS, ROWS)
    exact = A.astype(np.float64) @ B.T
    magnitude = np.abs(A).astype(np.float64) @ np.abs(B).T
    assert (np.abs(y - exact) <= 8 * 2.0**-24 * magnitude).all()


NOTICED = {  # without the wait; without the barrier after it
    True: "to which a cp.async is under way: begun by",
    False: "uninitialised read of slices|data race on slices|to which a cp.async is under way",
}


@pytest.mark.parametrize("built", ["checked"], indirect=True)
def test_without_its_wait_or_its_barrier_it_is_reported(built: Path) -> None:
    met = run(built, "product", "0", given=FACTORS).stderr.decode().split()
    lines = SOURCE.read_text().splitlines()
    kinds = [lines[int(site.rpartition(":")[2]) - 1].strip() for site in met]
    assert sorted(kinds) == ["__syncthreads();", "simt::cp_async_wait<1>();"]
    for kind, site in zip(kinds, met, strict=True):
        for schedule in range(4):
            done = run(built, "product", str(schedule), site, given=FACTORS)
            report = done.stderr.decode()
            assert done.returncode == 1
            assert not done.stdout
            assert re.search(NOTICED["wait" in kind], report), report
            if "wait" in kind and schedule == 0:  # docs/checker.md shows this one
                checker = (ROOT / "docs" / "checker.md").read_text()
                shown = report.replace(f"{SOURCE.parent}/", "")
                assert " ".join(shown.split()) in " ".join(checker.split())
