"""What the memory accesses of the kernels would cost on a card, counted by the checker.

A warp's accesses by one instruction are one request. In global memory it moves 32-byte sectors; in
shared memory it takes passes over 32 banks of 4 bytes. docs/checker.md says how they are counted.

    python -m bench.lint          a call of every operation: lines that cost more than necessary
    python -m bench.lint --all    every line
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from pyalexnet.backends.sim import SimcheckBackend

from . import calls
from .cases import Case
from .results import MemoryRequests

Call = Callable[[SimcheckBackend], object]

BOUND = 1.5  # times the fewest sectors or passes: lines that cost more are marked


@dataclass(frozen=True)
class LineCost:
    """The requests of warps to one array by one line of the source.

    Attributes:
        line: "file.cu:12".
        array: its name in the launcher or the kernel.
        space: "global" or "shared".
        access: "read" or "write".
        bytes: read or written by one lane at once.
        requests: executions by warps.
        transfers: total 32-byte sectors that they moved, or passes over the banks they took.
        ideal: the fewest that could have moved the same bytes.
    """

    line: str
    array: str
    space: str
    access: str
    bytes: int
    requests: int
    transfers: int
    ideal: int

    @property
    def each(self) -> float:
        """Sectors or passes per request."""
        return self.transfers / self.requests

    @property
    def ratio(self) -> float:
        """Sectors or passes as a multiple of the fewest possible; at least 1."""
        return self.transfers / self.ideal


def lint(calls: Iterable[Call]) -> list[LineCost]:
    """Make calls on the emulation with the checker and count the cost of their accesses.

    Args:
        calls: functions of the backend that call its operations.

    Returns:
        A row for each line, array and kind of access, the worst ratio first.

    Raises:
        BackendUnavailable: the emulation with the checker was not built.
        KernelError: a kernel broke a rule.
    """
    backend = SimcheckBackend()
    with backend.lint() as counted:
        for call in calls:
            call(backend)
    rows = [LineCost(*fields) for fields in counted]
    return sorted(rows, key=lambda row: (-row.ratio, row.line, row.array, row.access))


def examples() -> dict[str, Call]:
    """The calls of `bench.calls` by name, on arrays drawn for each."""
    return {name: partial(_made, case) for name, case in calls.of_every_operation().items()}


def _made(case: Case, backend: SimcheckBackend) -> object:
    inputs = {name: backend.asarray(array) for name, array in case.arrays().items()}
    with backend.with_hopper(case.name.endswith(" wgmma")):
        return getattr(backend, case.op)(**case.arguments(inputs))


def requests() -> list[MemoryRequests]:
    """Accesses that cost more than they need, in a call of every operation, the worst first.

    Raises:
        BackendUnavailable: this build of pyalexnet has no checked emulation.
    """
    return [
        MemoryRequests(
            row.line, row.array, row.access, row.space, row.requests, row.each, row.ratio
        )
        for row in lint(examples().values())
        if row.ratio > BOUND
    ]


# ---------------------------------------------------------------------- the table

_HEADER = (
    f"  {'operation':<22}{'line':<20}{'array':<12}{'access':<18}"
    f"{'requests':>9}{'each':>7}{'ideal':>7}{'ratio':>7}"
)


def _text(name: str, row: LineCost) -> str:
    access = f"{row.space} {row.access} {row.bytes}"
    return (
        f"{'!' if row.ratio > BOUND else ' '} {name:<22}{row.line:<20}{row.array:<12}{access:<18}"
        f"{row.requests:>9}{row.each:>7.2f}{row.ideal / row.requests:>7.2f}{row.ratio:>7.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost of a call of every operation, the worst line first."""
    parser = argparse.ArgumentParser(prog="python -m bench.lint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="also the lines that cost the least")
    every = parser.parse_args(arguments).all
    rows = [(name, row) for name, call in examples().items() for row in lint([call])]
    shown = [(name, row) for name, row in rows if every or row.transfers > row.ideal]
    print(_HEADER)
    for name, row in sorted(shown, key=lambda one: -one[1].ratio):
        print(_text(name, row))
    print(
        f"{len(rows) - len(shown)} more took as few sectors or passes as can be. each: 32-byte "
        f"sectors of a global request,\npasses over the banks of a shared one. !: more than "
        f"{BOUND} times the fewest."
    )


if __name__ == "__main__":
    main()
