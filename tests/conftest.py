"""Which backends the tests run on, and what each marker leaves out.

Every test that takes the fixture `be` runs on cpu (with `exact` too, if it convolves), on simcheck
or on sim in one of two seeded orders, one of which rounds products as GPUs do, on cuda, and a
fourth of its cases on cuda with a stand-in for the GPU (marker again has the rest: see `repeats`);
tests that can depend on the order of streams (marker orders) run in each of the stand-in's twelve
orders.
Tests that a run leaves out are deselected at collection, so that no skip hides among the passes,
and the report's header says which backends run and why the others do not.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from emulated import program
from mpi_ranks import libraries
from variants import (
    CONVOLVING,
    CPU_EXACT,
    CUDA,
    EVERY,
    EVERY_IN_EVERY_ORDER,
    EVERY_ORDER,
    KNOWN,
    REQUIRED,
    SELECTION,
    SIDE,
    SIM,
    SIM_SEEDED,
    SIMCHECK,
    STAND_IN,
    Variant,
    missing,
    selected,
)

MARKERS = {
    "gpu": "needs an NVIDIA GPU; left out where there is none, unless -m names it",
    "two_gpus": "needs two NVIDIA GPUs; left out where there are fewer, unless -m names it",
    "stand_in": "runs the backend cuda on made-up GPUs (tests/stand_in)",
    "orders": "can depend on the order of streams: in each of the stand-in's, on one GPU and two",
    "again": "repeats a case of sim or simcheck on the other, in another order of threads, or on "
    "made-up GPUs; left out unless -m names it",
    "slow": "takes more than a few seconds; left out unless -m names it",
    "every": "runs each backend's first case and one in n of the others, drawn by their "
    "names; the rest are marked slow",
    "faults": "breaks something many times (make test-faults); left out unless -m names it",
    "big": "too large for simcheck, which leaves it out, for sim in more than one order, and for "
    "the stand-in unless -m names it: the host treats small arrays and large ones alike",
    "mpi": "starts ranks by MPI; left out where mpi4py or a launcher is missing",
    "peer": "compares with PyTorch or onnxruntime; left out where they are missing, unless named",
}

TRIED = "tried"
"""The property of a test's report that holds the arguments of `tried`: fault, times, result."""


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    if config.getoption("numprocesses", 0):  # an error in a worker would end in a traceback
        for name in (name for name in REQUIRED if name in selected()):
            refuse_to_lack(name)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes are named by their length: a compressed file contains its creation time, and workers,
    which collect separately, have to give a test the same name."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_report_header() -> str:
    runs, left_out = [], []
    for name in KNOWN:
        if name not in selected():
            left_out.append(f"{name}: not in {SELECTION}")
        elif reason := missing(name):
            left_out.append(f"{name}: {reason}")
        else:
            runs.append(name)
    found = f"backends: {', '.join(runs) or 'none'}" + "".join(f"; not {one}" for one in left_out)
    mpi = ", ".join(one.name for one in libraries()) or "none, as mpi4py or a launcher is missing"
    return f"{found}\nMPI, for tests that start ranks: {mpi}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    cases: Counter[tuple[str, Variant | None]] = Counter()
    new: Counter[tuple[str, Variant | str | None]] = Counter()
    on = {(function_of(item), variant_of(item)) for item in items}
    for item in items:
        test, variant = function_of(item), variant_of(item)
        number = cases[test, variant]
        cases[test, variant] += 1
        others = {one for one in (SIM, SIMCHECK) if (test, one) in on}
        every = item.get_closest_marker("every")
        if variant and repeats(item, variant, number, others):
            item.add_marker("again")
        elif every and not costly(item):
            on_what = STAND_IN if variant and variant.backend == STAND_IN else variant
            if new[test, on_what] and crc32(item.nodeid.encode()) % every.args[0]:
                item.add_marker("slow")
            new[test, on_what] += 1
        (kept if runs_here(item, config.getoption("-m")) else deselected).append(item)
    items[:] = kept
    if deselected:
        config.hook.pytest_deselected(items=deselected)


def runs_here(item: pytest.Item, named_markers: str) -> bool:
    """Whether this run should, and can, include this test."""
    variant = variant_of(item)
    backend = variant.backend if variant else None
    if backend and backend not in selected():
        return False
    if backend in REQUIRED:
        refuse_to_lack(backend)
    if variant and not variant.takes_big and item.get_closest_marker("big"):
        return False
    if backend == STAND_IN and not on_stand_in(item, named_markers):
        return False
    if any(marker not in named_markers for marker in costly(item)):
        return False
    if item.get_closest_marker("peer") and "peer" not in named_markers and not peers():
        return False
    if item.get_closest_marker("mpi") and not libraries():
        return False
    if item.get_closest_marker("two_gpus") and "two_gpus" not in named_markers:
        return gpus() >= 2
    if item.get_closest_marker("gpu") and "gpu" not in named_markers:
        return missing("cuda") is None
    return True


def costly(item: pytest.Item) -> list[str]:
    """Its markers that a run has to name with -m."""
    return [name for name in ("slow", "faults", "again") if item.get_closest_marker(name)]


def function_of(item: pytest.Item) -> str:
    """The test's name without its parameters."""
    return item.nodeid.partition("[")[0]


def repeats(item: pytest.Item, variant: Variant, number: int, others: set[Variant]) -> bool:
    """Whether a case, the `number`-th of its test on a variant, can hardly show anything new beside
    `others`, those of sim and simcheck on which the test runs, too.

    simcheck computes what sim does, in the natural order, and finds a kernel that depends on the
    order, because it lacks a barrier, whatever the order (test_mutation.py leaves out each barrier
    in turn). So where both have a case, one of them runs it: simcheck, or sim in a seeded order. A
    big case, which simcheck does not take, runs on sim in natural order. The stand-in's kernels are
    those of sim, and the host code treats all shapes alike: a fourth of the cases is enough.
    """
    big = item.get_closest_marker("big")
    case = crc32(item.nodeid.replace(f"[{variant}", "[").replace(f"-{variant}", "").encode())
    if {SIM, SIMCHECK} <= others and not big:
        if variant == SIMCHECK:
            return case % 2 > 0
        if variant == SIM or (variant in SIM_SEEDED and case % 2 == 0):
            return True
    if variant in SIM_SEEDED:
        return bool(big) or variant != SIM_SEEDED[case // 2 % len(SIM_SEEDED)]
    if variant != SIDE or SIM not in others or os.environ.get(EVERY_ORDER):
        return False
    ordered = item.get_closest_marker("orders") or big
    return not ordered and number > 0 and crc32(item.nodeid.encode()) % 4 > 0


def on_stand_in(item: pytest.Item, named_markers: str) -> bool:
    """Whether the stand-in for a GPU can show anything new: its kernels are those of sim."""
    if item.get_closest_marker("slow") or item.get_closest_marker("peer"):
        return False
    return not item.get_closest_marker("big") or "big" in named_markers


def refuse_to_lack(backend: str) -> None:
    """End the run if a backend that it needs is missing."""
    if reason := missing(backend):
        raise pytest.UsageError(
            f"The tests need the backend {backend}: {reason} "
            f"(To go on without it, name the others in {SELECTION}.)"
        )


def variant_of(item: pytest.Item) -> Variant | None:
    """The backend that the test's fixture `be` will be."""
    call = getattr(item, "callspec", None)
    variant = call.params.get("be") if call else None
    return variant if isinstance(variant, Variant) else None


def peers() -> bool:
    """Whether everything that tests marked peer compare with is installed (the extra `peers`)."""
    libraries = ("torch", "onnx", "onnxruntime", "google", "tensorboardX")
    return all(find_spec(name) for name in libraries)


def gpus() -> int:
    """The number of GPUs that CuPy sees; 0 if the backend cannot run at all."""
    if missing("cuda"):
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


@pytest.fixture
def any_cards_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """bfloat16 products on a GPU take the main loop for any card, even on Hopper."""
    be: Any = request.getfixturevalue("be") if "be" in request.fixturenames else None
    if be is None or be.name != "cuda":
        yield
        return
    with be.with_hopper(False):
        yield


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Called by a test as its last line with what was tried, and how often, if it is marked faults.

    The run ends with a table of all of them; docs/robustness.md keeps one.
    """

    def tell(fault: str, times: int, result: str = "nothing lost") -> None:
        if request.node.get_closest_marker("faults"):  # a sample is not recorded
            request.node.user_properties.append((TRIED, (fault, times, result)))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        (fault, report.nodeid, times, result)
        for report in terminalreporter.getreports("passed")
        for name, (fault, times, result) in report.user_properties
        if name == TRIED
    ]
    if not rows:
        return
    terminalreporter.section("faults tried")
    terminalreporter.write_line("| fault | times | result | test |")
    terminalreporter.write_line("|---|---:|---|---|")
    for fault, test, times, result in rows:
        terminalreporter.write_line(f"| {fault} | {times:,} | {result} | `{test}` |")


@pytest.fixture(scope="module")
def fast(request: pytest.FixtureRequest) -> Path:
    """The module's SOURCE as a program on the emulation."""
    return program([request.module.SOURCE], checked=False)


@pytest.fixture(scope="module")
def checked(request: pytest.FixtureRequest) -> Path:
    """The same under the checker."""
    return program([request.module.SOURCE], checked=True)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no pictures: these have their own tests, and take longer than the training."""
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)


@pytest.fixture
def full() -> Iterator[int]:
    """A file that accepts no byte: /dev/full if that is the device, else a sealed one."""
    if stat.S_ISCHR(Path("/dev/full").stat().st_mode if Path("/dev/full").exists() else 0):
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        descriptor = os.memfd_create("full", os.MFD_ALLOW_SEALING)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW)
    yield descriptor
    os.close(descriptor)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The variants of `be` for tests that do not name their own."""
    said = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "be" in metafunc.fixturenames and "be" not in said:
        orders = metafunc.definition.get_closest_marker("orders")
        every = EVERY_IN_EVERY_ORDER if orders else EVERY
        left_out = []
        if metafunc.module.__name__.rpartition(".")[2] not in CONVOLVING:
            left_out += [CPU_EXACT]
        if missing("cuda") and "gpu" not in metafunc.config.getoption("-m"):
            left_out += [CUDA]
        every = [one for one in every if one.values[0] not in left_out]
        metafunc.parametrize("be", every, indirect=True)


@pytest.fixture
def be(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The backend under test."""
    variant: Variant = request.param
    with variant.opened() as backend:
        yield backend


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, imported only by the tests that compare with it."""
    import torch

    return torch
