"""The backends that tests run on: which are selected, which are available, in what schedules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

import pyalexnet
import stand_in
from pyalexnet.backends import why_unavailable

# Without these a run would prove little, so a missing one is an error, not a shorter report.
REQUIRED = ("cpu", "sim", "simcheck")
STAND_IN = "stand-in"
KNOWN = (*REQUIRED, STAND_IN, "cuda")
SELECTION = "PYALEXNET_TEST_BACKENDS"
EVERY_ORDER = "PYALEXNET_TEST_EVERY_ORDER"


@dataclass(frozen=True)
class Variant:
    """A backend, or the stand-in for a GPU below the backend cuda.

    schedule: on sim, the seed of the order in which its threads run (0: natural).
    order, gpus: on the stand-in, how unordered work runs, and how many GPUs there are.
    exact: on cpu, whether Winograd's algorithm is ruled out.
    cuts: on sim, whether tensor cores cut sums as a card's do.
    """

    backend: str
    schedule: int = 0
    order: str = ""
    gpus: int = 0
    exact: bool = False
    cuts: bool = False

    def __str__(self) -> str:
        if self.backend == STAND_IN:
            return f"{STAND_IN}-{self.order}" + (f"-{self.gpus}" if self.gpus > 1 else "")
        if self.exact:
            return f"{self.backend}-exact"
        seeded = f"{self.backend}-seed{self.schedule}" if self.schedule else self.backend
        return f"{seeded}-cuts" if self.cuts else seeded

    @property
    def takes_big(self) -> bool:
        """Whether tests marked big run on it; of sim's seeded orders, only the first does."""
        return self.backend != "simcheck" and self.schedule < 2

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The backend, in this schedule or order; everything is restored afterwards."""
        if self.backend == STAND_IN:
            with stand_in.installed(stand_in.Machine(self.order, self.gpus)):
                yield pyalexnet.backend("cuda")
            return
        backend: Any = pyalexnet.backend(self.backend, exact=self.exact)
        if self.backend == "sim":
            backend.set_schedule(self.schedule, self.cuts)
        yield backend
        if self.backend == "sim":
            backend.set_schedule(0)


CPU = Variant("cpu")
CPU_EXACT = Variant("cpu", exact=True)
SIM = Variant("sim")
# One of these rounds as GPUs do, in a sample of the tests of products.
SIM_SEEDED = (Variant("sim", 1), Variant("sim", 2, cuts=True))
SIMCHECK = Variant("simcheck")
CUDA = Variant("cuda")
# Tests in which the order of streams can matter (marker orders) run in all of these.
ORDERS = (
    *(Variant(STAND_IN, 0, order, gpus=1) for order in stand_in.ORDERS),
    *(Variant(STAND_IN, 0, order, gpus=2) for order in stand_in.ORDERS_OF_TWO),
)
SIDE = Variant(STAND_IN, 0, "side", 1)  # other tests: every kernel as late as possible


def parameters(*variants: Variant) -> list[Any]:
    """The variants as parameters of the fixture `be`; cuda is followed by its stand-in."""
    made = []
    for variant in variants:
        made += [_parameter(variant)]
        if variant == CUDA:
            made += [_parameter(one) for one in (ORDERS if os.environ.get(EVERY_ORDER) else [SIDE])]
    return made


def _parameter(variant: Variant, *more: pytest.MarkDecorator) -> Any:
    markers = {"cuda": [pytest.mark.gpu], STAND_IN: [pytest.mark.stand_in]}
    return pytest.param(variant, id=str(variant), marks=[*markers.get(variant.backend, []), *more])


def in_every_order(*variants: Variant) -> list[Any]:
    """The same, with the stand-in in each of its orders if a GPU is among the variants."""
    kept = [one for one in parameters(*variants) if one.values[0].backend != STAND_IN]
    return [*kept, *map(_parameter, ORDERS)]


def on_two_gpus(*orders: str) -> list[Any]:
    """Two GPUs, or made-up ones in these orders; in all orders if none is named."""
    wanted = orders or stand_in.ORDERS_OF_TWO
    chosen = [one for one in ORDERS if one.gpus == 2 and one.order in wanted]
    return [_parameter(CUDA, pytest.mark.two_gpus), *map(_parameter, chosen)]


EVERY = parameters(CPU, CPU_EXACT, SIM, *SIM_SEEDED, SIMCHECK, CUDA)
EVERY_IN_EVERY_ORDER = in_every_order(CPU, CPU_EXACT, SIM, *SIM_SEEDED, SIMCHECK, CUDA)
# Files with convolutions, which cpu computes in two ways.
CONVOLVING = (
    *("test_bindings", "test_conv", "test_depth", "test_examples", "test_grouped_linear"),
    *("test_interop", "test_net", "test_nets", "test_patch_dgrad", "test_plan"),
    "test_torch_parity_nets",
)
# For tests that take seconds in each order of the emulation, or are about arguments, not kernels.
ONE_ORDER = parameters(CPU, SIM, CUDA)
EMULATED = parameters(SIM)


def selected() -> tuple[str, ...]:
    """The names in PYALEXNET_TEST_BACKENDS (separated by commas), else all known backends."""
    named = os.environ.get(SELECTION, "")
    names = tuple(name.strip() for name in named.split(",") if name.strip())
    unknown = set(names) - {*KNOWN}
    if unknown:
        raise pytest.UsageError(f"{SELECTION} names {sorted(unknown)}, which no test runs on.")
    return names or KNOWN


@cache
def missing(name: str) -> str | None:
    """Why tests on this backend cannot run here, or None."""
    return why_unavailable("sim" if name == STAND_IN else name)
