"""Times: candidates take turns, A B A B, and every one is reported with its spread."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Run: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Sampling:
    """How long to measure: `warmups` turns, then `least` to `most` samples of each candidate, as
    many as take `seconds`. Before each sample everything rests for `rest` seconds, and the
    candidate runs once untimed: another library's threads spin for some 20 ms after its last call,
    on the cores that this one needs.
    """

    seconds: float
    least: int
    most: int
    warmups: int = 2
    rest: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: median, quartiles, minimum.

    doubt: how far this median may be off, as a fraction of it: the larger of the difference
    between the medians of its odd and even turns (A against A), and of the quartiles' distance
    over the root of the number of samples.
    """

    median: float
    low: float
    high: float
    least: float
    samples: int
    doubt: float


@dataclass(frozen=True)
class Elsewhere:
    """A call whose work goes to its own library's streams, which wait for no others.

    Earlier work has to be finished before its timing begins.
    """

    run: Run

    def __call__(self) -> object:
        return self.run()


class Stopwatch(ABC):
    """Takes the time of one call, on the device where it runs."""

    @abstractmethod
    def seconds(self, run: Run) -> float:
        """Run once and wait for the end; the time it took."""


class HostStopwatch(Stopwatch):
    """For calls that have ended when they return, or whose result can be waited for.

    least: seconds of a sample; a shorter call runs several times in a row.
    """

    def __init__(self, least: float = 2e-3) -> None:
        self._least = least

    def seconds(self, run: Run) -> float:
        start = time.perf_counter()
        count, elapsed = 0, 0.0
        while elapsed < self._least:
            finish(run())
            count, elapsed = count + 1, time.perf_counter() - start
        return elapsed / count


def finish(result: object) -> None:
    """Wait for a result of JAX's, which is a promise; others are ready."""
    wait = getattr(result, "block_until_ready", None)
    if wait is not None:
        wait()


def interleaved(watch: Stopwatch, runs: Mapping[str, Run], sampling: Sampling) -> dict[str, Timing]:
    """Time candidates in turn, so that a slow spell of the machine affects all of them."""
    for _ in range(sampling.warmups):
        for run in runs.values():
            run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    start, turns = time.perf_counter(), 0
    while turns < sampling.least or (
        turns < sampling.most and time.perf_counter() - start < sampling.seconds
    ):
        for name, run in runs.items():
            if sampling.rest:
                time.sleep(sampling.rest)
                finish(run())
            samples[name].append(watch.seconds(run))
        turns += 1
    return {name: summary(times) for name, times in samples.items()}


def summary(times: list[float]) -> Timing:
    """Median and spread of at least two samples, in the order in which they were taken."""
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    halves = abs(statistics.median(times[::2]) - statistics.median(times[1::2]))
    scatter = (high - low) / len(times) ** 0.5
    doubt = max(halves, scatter) / median if median else 0.0
    return Timing(median, low, high, min(times), len(times), doubt)


def verdict(ours: Timing, peer: Timing) -> str:
    """Which is faster and by how much; a tie if the difference is within their doubt."""
    ratio = peer.median / ours.median
    if abs(ratio - 1) <= ours.doubt + peer.doubt:
        return "tie"
    return f"ours {ratio:.2f}x" if ratio > 1 else f"peer {1 / ratio:.2f}x"
