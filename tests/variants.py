"""The backends that tests run on: which are asked for, which are there, and in what schedules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

import pyalexnet
from pyalexnet.backends import why_unavailable

# Without these a run would prove little, so that losing one is an error and not a shorter report.
REQUIRED = ("numpy", "sim", "simcheck")
SELECTION = "PYALEXNET_TEST_BACKENDS"


@dataclass(frozen=True)
class Variant:
    """A backend, and on sim the seed of the order in which its threads run (0: natural)."""

    backend: str
    schedule: int = 0

    def __str__(self) -> str:
        return f"{self.backend}-seed{self.schedule}" if self.schedule else self.backend

    @property
    def takes_big(self) -> bool:
        """Whether tests marked big run on it: of sim's seeded orders in the first alone."""
        return self.backend != "simcheck" and self.schedule < 2

    def open(self) -> Any:
        """The backend, in this schedule."""
        backend: Any = pyalexnet.backend(self.backend)
        if self.backend == "sim":
            backend.set_schedule(self.schedule)
        return backend

    def close(self, backend: Any) -> None:
        """Leave the emulation in natural order for whoever comes next."""
        if self.backend == "sim":
            backend.set_schedule(0)


NUMPY = Variant("numpy")
SIM = Variant("sim")
SIM_SEEDED = tuple(Variant("sim", seed) for seed in (1, 2, 3))
SIMCHECK = Variant("simcheck")
CUDA = Variant("cuda")


def parameters(*variants: Variant) -> list[Any]:
    """The variants as parameters of the fixture `be`, those on a GPU under its marker."""
    return [
        pytest.param(v, id=str(v), marks=[pytest.mark.gpu] if v.backend == "cuda" else [])
        for v in variants
    ]


EVERY = parameters(NUMPY, SIM, *SIM_SEEDED, SIMCHECK, CUDA)
# For what takes seconds in each order of the emulation, or is about arguments and not kernels.
ONE_ORDER = parameters(NUMPY, SIM, CUDA)
EMULATED = parameters(SIM)


def selected() -> tuple[str, ...]:
    """Names in PYALEXNET_TEST_BACKENDS (separated by commas), else every required one and cuda."""
    named = os.environ.get(SELECTION, "")
    names = tuple(name.strip() for name in named.split(",") if name.strip())
    unknown = set(names) - {*REQUIRED, "cuda"}
    if unknown:
        raise pytest.UsageError(f"{SELECTION} names {sorted(unknown)}, which no test runs on.")
    return names or (*REQUIRED, "cuda")


@cache
def missing(name: str) -> str | None:
    """Why tests on this backend cannot run here, or None."""
    return why_unavailable(name)
