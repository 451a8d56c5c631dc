"""The backend cpu: its instructions, its threads, and what `exact` means to it and to others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pyalexnet
from pyalexnet import backends
from pyalexnet.backends.cpu import ISA, instruction_sets
from pyalexnet.errors import ArgumentError, BackendUnavailable
from pyalexnet.ops.elements import ELEMENTS
from pyalexnet.step.net import Net
from samples import normal
from test_net import EVERY_LAYER, SEED, STEP, batch
from tolerance import same_bits
from variants import CPU, CPU_EXACT, ONE_ORDER, SELECTION, parameters

ON_CPU = pytest.mark.parametrize("be", parameters(CPU, CPU_EXACT), indirect=True)


def test_what_numpy_was_is_cpu() -> None:
    with pytest.raises(ArgumentError) as refused:
        pyalexnet.backend("numpy")
    assert str(refused.value) == (
        "backend: name is 'numpy', which was removed; cpu was expected, which took its place."
    )
    assert "numpy" not in backends.names()


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_exact_means_something_to_cpu_alone(be: Any) -> None:
    """The others are always exact."""
    assert pyalexnet.backend(be.name, exact=True).name == be.name


def test_exact_goes_with_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_unavailable", lambda *_: "There is no GPU.")
    for exact in (False, True):
        found: Any = pyalexnet.backend("auto", 1, exact=exact)
        assert (found.name, found.device, found.exact) == ("cpu", 1, exact)


def test_the_instruction_set_is_the_most_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ISA, raising=False)
    be: Any = pyalexnet.backend("cpu")
    assert be.isa == list(instruction_sets())[-1]


def test_an_instruction_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA, "x87")
    with pytest.raises(ArgumentError) as refused:
        pyalexnet.backend("cpu")
    assert str(refused.value) == (
        f"PYALEXNET_ISA is 'x87'; one of {', '.join(instruction_sets())} was expected, which this "
        "processor has."
    )


def test_a_module_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make train` compiles only for its own machine; its folder may be used from another."""

    def levels() -> list[tuple[str, str]]:
        raise RuntimeError("it was compiled for x86-64-v9, which this processor has not")

    monkeypatch.setattr(backends.cpu, "extension", lambda *_: SimpleNamespace(levels=levels))
    with pytest.raises(BackendUnavailable) as refused:
        pyalexnet.backend("cpu")
    assert str(refused.value) == (
        "The extension module pyalexnet._cpu cannot be used here: it was compiled for x86-64-v9, "
        "which this processor has not; install pyalexnet anew on this machine."
    )


@pytest.mark.parametrize("be", parameters(CPU), indirect=True)
@pytest.mark.parametrize(
    ("filters", "side", "tile"), [(3, 8, 4), (3, 13, 5), (3, 10, 5), (5, 8, 4), (5, 10, 4)]
)
def test_a_nan_fills_its_tiles_of_outputs(be: Any, filters: int, side: int, tile: int) -> None:
    """This shows the tile size: the one that covers the map with fewer products (docs/cpu.md)."""
    x, w = normal(1, side, side, 16), normal(4, filters, filters, 16)
    x[0, 0, 0, 0] = np.nan
    y = be.conv_fprop(be.asarray(x), be.asarray(w), None, stride=1, pad=filters // 2)
    expected = np.zeros((side, side), bool)
    expected[:tile, :tile] = True
    np.testing.assert_array_equal(np.isnan(be.to_numpy(y)).all(axis=-1)[0], expected)


@ON_CPU
@pytest.mark.parametrize("isa", instruction_sets())
def test_each_instruction_set_computes_the_same(
    be: Any, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except for the order of sums: fused multiply-adds and longer vectors round differently."""
    monkeypatch.setenv(ISA, isa)
    other: Any = pyalexnet.backend("cpu", exact=be.exact)
    assert other.isa == isa
    x, labels = batch(EVERY_LAYER, 3)
    (loss, grads), (expected, due) = (
        Net(EVERY_LAYER, one, SEED).loss_and_grads(x, labels, train=True, step=STEP)
        for one in (other, be)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, grad in grads.items():
        error = np.linalg.norm(grad - due[name])
        assert error <= 1e-5 * np.linalg.norm(due[name]), name
    if isa == be.isa:
        assert same_bits(loss, expected)


OPERATIONS = [
    str(test)
    for bindings in Path(__file__).parents[1].glob("bindings/*.cpp")
    if (test := Path(__file__).parent / f"test_{bindings.stem}.py").exists()
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("isa", list(instruction_sets())[:-1])
def test_each_instruction_set_is_right(isa: str) -> None:
    """The tests of every operation with the sets that are not chosen by default."""
    assert len(OPERATIONS) == 13
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *OPERATIONS],
        cwd=Path(__file__).parents[1],
        env={**environment(), ISA: isa, SELECTION: "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def environment() -> dict[str, str]:
    """With this folder and the package importable."""
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}


@ON_CPU
def test_memory_begins_at_a_cache_line(be: Any) -> None:
    for shape in ((1,), (3, 5), (1000, 7)):
        for array in (be.empty(shape), be.zeros(shape, np.uint8), be.copy(normal(*shape))):
            assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous


@pytest.mark.every(4)
@ON_CPU
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("groups", [1, 8])
def test_outputs_past_the_caches_are_those_in_them(be: Any, dtype: Any, groups: int) -> None:
    """Outputs of more than 16 MiB are stored past the caches: 40 images, beside 8 at a time.

    In 8 groups, a group's channels are less than a vector, and most begin within one.
    """
    width = 48 if np.dtype(dtype).itemsize == 4 else 64
    x, w = (normal(*s).astype(dtype) for s in ((40, width, width, 64), (64, 1, 1, 64 // groups)))
    b = normal(64)
    window: dict[str, Any] = {"stride": (1, 1), "pad": (0, 0, 0, 0), "groups": groups}
    y = be.conv_fprop(x, w, b, **window, activation="relu")
    dx = be.conv_dgrad(y, w, x_shape=x.shape, **window, gate=x)
    assert y.nbytes == dx.nbytes > 2**24 > y.nbytes // 5
    for first in range(0, 40, 8):
        part = slice(first, first + 8)
        assert same_bits(be.conv_fprop(x[part], w, b, **window, activation="relu"), y[part])
        own = be.conv_dgrad(y[part], w, x_shape=x[part].shape, **window, gate=x[part])
        assert same_bits(own, dx[part])


@ON_CPU
def test_a_linear_layer_of_many_rows_is_that_of_few(be: Any) -> None:
    """With more rows than outputs it is the weights that are reordered; the sums are the same."""
    x, w, b = (normal(*s) for s in ((150, 517), (70, 517), (70,)))
    assert same_bits(be.linear_fprop(x[:33], w, b), be.linear_fprop(x, w, b)[:33])
