"""How much host memory training steps take: each side in a process of its own, on Linux."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from . import environment, peers, steps
from .device import Host
from .peers import Peers, torch_steps
from .peers.torch_steps import TorchStep
from .results import MemoryRow
from .steps import Ours, Step, StepCase

Side: TypeAlias = Ours | torch_steps.TorchForm

# Steps before pages are counted, until the heap has its size; then those to average over.
_FIRST_STEPS = 3
_STEPS = 4
_PR_SET_THP_DISABLE = 41  # of prctl(2): else a page may be 4 KB or 2 MB


def rows(case: StepCase, variants: list[Ours], found: Peers) -> Iterator[MemoryRow]:
    """A training step in each of our variants, and in every eager form of PyTorch's."""
    sides: dict[str, Side] = {f"ours, {ours.precision}, {ours.form}": ours for ours in variants}
    if found.torch:
        forms = torch_steps.forms(case.spec, "fp32", Host.layouts)
        sides |= {f"PyTorch {form}": form for form in forms}
    spawned = multiprocessing.get_context("spawn")
    for name, side in sides.items():
        with ProcessPoolExecutor(1, mp_context=spawned) as process:
            yield MemoryRow(case.label, case.batch, name, *process.submit(_of, case, side).result())


def _of(case: StepCase, side: Side) -> tuple[int, int, int | None]:
    device = Host(environment.cpu())
    found = peers.find("cpu", () if isinstance(side, Ours) else ("torch",))
    batches, params = steps.synthetic(case, 1), case.spec.initial(seed=0)

    def made() -> Callable[[int], Any]:
        if isinstance(side, Ours):
            return Step(device.backend, case, batches, side, params=params).run
        return TorchStep(found.torch, "cpu", case.spec, params, batches, side).run

    peak, fresh, arrays = taken(made)
    return peak, fresh, arrays if isinstance(side, Ours) else None


def taken(made: Callable[[], Callable[[int], Any]]) -> tuple[int, int, int]:
    """The numbers of a `MemoryRow`, for a step that is made and then run repeatedly."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    run = made()
    for index in range(_FIRST_STEPS):
        run(index)
    set_huge = ctypes.CDLL(None).prctl
    set_huge(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    faults = _faults()
    for index in range(_STEPS):
        run(index)
    fresh = (_faults() - faults) * resource.getpagesize() // _STEPS
    set_huge(_PR_SET_THP_DISABLE, 0, 0, 0, 0)
    return _status("VmHWM") - before, fresh, _arrays(run)


def _arrays(run: Callable[[int], Any]) -> int:
    tracemalloc.start()
    run(0)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    run(1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before


def _faults() -> int:
    """Page faults that needed no disk: pages touched for the first time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kilobytes) * 1024
