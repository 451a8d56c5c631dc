"""Sectors a request and bank conflicts of the kernels, as the emulation counts them."""

from __future__ import annotations

import importlib

from .cases import Case
from .gate import Call
from .results import MemoryRequests


def requests(cases: list[Case]) -> list[MemoryRequests]:
    """Run cases on the emulation that counts, and take its counts.

    Raises:
        RuntimeError: this build of pyalexnet has no such emulation.
    """
    sim = importlib.import_module("pyalexnet.backends.sim")
    make = getattr(sim, "SimlintBackend", None)
    if make is None:
        raise RuntimeError("this build of pyalexnet has no emulation that counts requests")
    backend = make()
    for case in cases:
        Call(backend, case, case.arrays())
    return [MemoryRequests(*row) for row in backend.requests()]
