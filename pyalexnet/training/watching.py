"""Watchers, which observe a run while it trains and cannot change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from pyalexnet.runs.checkpoint import Arrays
from pyalexnet.runs.run import EpochReport, Log, StepReport, StopReport

Warn: TypeAlias = Callable[[str], None]


class Watcher:
    """Is told what happens in a run. A method does nothing unless a subclass says otherwise.

    A watcher never ends the run: if it cannot write, it says so and training goes on without it.
    """

    def say(self, line: str = "") -> None:
        """Report an event that has no method of its own."""

    def begin(self, step: int) -> None:
        """Training begins, or continues, after `step` steps."""

    def step(self, report: StepReport, *, due: bool) -> None:
        """A step is done. due: as at every print interval, `report` is to be kept."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and tested, but not yet saved."""

    def saved(self, params: Arrays) -> None:
        """A checkpoint with these parameters was written."""

    def stop(self, report: StopReport) -> None:
        """Training has ended; if it did not fail, everything is saved."""

    def close(self) -> None:
        """Nothing more will happen, however training ended."""


class Record(Watcher):
    """Writes the lines of log.jsonl, except those that a full disk prevents."""

    def __init__(self, log: Log, warn: Warn) -> None:
        self._log, self._warn = log, warn

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        try:
            self._log.write(kind, values)
        except OSError as error:
            self._warn(f"{self._log.path} misses lines: {error.strerror}.")

    def step(self, report: StepReport, *, due: bool) -> None:
        if due:
            self.write("step", asdict(report))

    def epoch(self, report: EpochReport) -> None:
        self.write("epoch", asdict(report))

    def stop(self, report: StopReport) -> None:
        left_out = ("seconds", "failed", "test") if report.failed else ("seconds", "failed")
        values = {name: each for name, each in asdict(report).items() if name not in left_out}
        self.write("stop", values)
