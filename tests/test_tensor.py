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

import tensor_cores
from emulated import program
from samples import generator, normal

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


def of_many_sizes(*shape: int, seed: int) -> Floats:
    """bfloat16 whose products reach from 2^-20 to 2^20 and, some, beyond float32's range."""
    spread = generator(seed, *shape).choice([-100, *range(-10, 11), 100], shape)
    numbers: Floats = np.ldexp(rounded(*shape, seed=seed), spread)
    return numbers


@pytest.mark.parametrize("seed", range(8))
def test_a_product_of_fragments_that_is_cut(built: Path, seed: int) -> None:
    """Bit for bit as an Ampere's tensor cores have it, beyond float32's range too; of zeros and of
    denormal numbers."""
    make = of_many_sizes if seed % 2 else rounded
    a, b, d = make(16, 16, seed=seed), make(16, 8, seed=seed + 10), normal(16, 8)
    a[0] = d[0] = 0
    a[1] = np.ldexp(rounded(16, seed=seed), -130).astype(ml_dtypes.bfloat16)
    d[1] = -1e-40
    y = computed(built, "fragments", "cut", given=bits(a) + bits(b) + d.tobytes())
    due = tensor_cores.added(d, a[:, None], b.T[None], tensor_cores.AMPERE)
    np.testing.assert_array_equal(np.frombuffer(y, np.float32).reshape(16, 8), due)


ULP = 2.0**-23  # of 1


@pytest.mark.parametrize(
    ("sum_", "terms", "ampere", "hopper"),
    [
        (1, [ULP / 2], 1, 1),  # the sum is cut, not rounded to even
        (1, [ULP / 2] * 3, 1 + ULP, 1 + ULP),
        (-1, [-ULP / 2] * 3, -1 - ULP, -1 - ULP),
        (1, [ULP / 2] * 2, 1 + ULP, 1 + ULP),  # one bit more than a float32's is kept
        (1, [ULP / 4] * 4, 1, 1 + ULP),  # Hopper keeps two
        (1, [ULP / 8] * 8, 1, 1),
        (0, [1, ULP / 4, ULP / 4, ULP / 4, ULP / 4], 1, 1 + ULP),  # a product may be the largest
        (1, [0] * 8 + [ULP / 2, ULP / 2], 1 + ULP, 1 + ULP),
        (1, [ULP / 2] + [0] * 7 + [ULP / 2], 1, 1 + ULP),  # Ampere adds eight, and eight
        (0, [2.0**140, 1, -(2.0**140)], 0, 0),  # products may exceed the range
        (0, [2.0**140], np.inf, np.inf),
        (0, [2.0**-149, 2.0**-150], 2.0**-149, 2.0**-149),
    ],
)
def test_what_is_known_of_the_cards(
    sum_: float, terms: list[float], ampere: float, hopper: float
) -> None:
    """Values that the papers' descriptions imply, against the oracle of the tests above."""
    a = np.zeros(16)
    a[: len(terms)] = terms
    signs, exponents = np.sign(a), np.log2(abs(a), where=a != 0, out=np.zeros(16))
    half = np.floor(exponents / 2)
    of_a, of_b = signs * 2.0**half, 2.0 ** (exponents - half)
    for card, due in ((tensor_cores.AMPERE, ampere), (tensor_cores.HOPPER, hopper)):
        assert tensor_cores.added(sum_, of_a, of_b, card) == due


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
