"""The two main loops of the tensor cores side by side, product by product, on a Hopper GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from pyalexnet.backends import Backend
from pyalexnet.backends.kernels import KernelBackend

from . import gate
from .cases import Case
from .device import Device
from .results import LoopRow
from .timing import Run, Sampling, interleaved

_LOOPS = {"mma": False, "wgmma": True}
"""The backend's `hopper` for each."""


def rows(device: Device, cases: Iterable[Case], sampling: Sampling) -> Iterator[LoopRow]:
    """Check and time the cases that multiply bfloat16; none if there is no second loop."""
    backend = device.backend
    if not is_hopper(backend):
        return
    for case in cases:
        if case.flops and case.precision == "bf16":
            yield _row(device, backend, case, sampling)


def is_hopper(backend: Backend) -> bool:
    """Whether bfloat16 products use Hopper's own loop here."""
    return isinstance(backend, KernelBackend) and backend.hopper


def _row(device: Device, backend: Any, case: Case, sampling: Sampling) -> LoopRow:
    about = (case.name, case.net, case.batch, case.flops)
    arrays = case.arrays()
    runs: dict[str, Run] = {}
    for name, hopper in _LOOPS.items():
        if wrong := _in(backend, hopper, partial(gate.check, backend, case, arrays)):
            return LoopRow(*about, None, None, f"{name}: {wrong}")
        call = gate.Call(backend, case, arrays)
        runs[name] = device.ready(partial(_in, backend, hopper, call.run))
    timings = interleaved(device.stopwatch, runs, sampling)
    return LoopRow(*about, timings["mma"], timings["wgmma"], None)


def _in(backend: Any, hopper: bool, call: Callable[[], Any]) -> Any:
    """Make a call with one of the loops."""
    with backend.with_hopper(hopper):
        return call()
