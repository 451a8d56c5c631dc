"""From values seed by seed to a mean, its interval, and a verdict that says no more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from . import measures
from .claim import Claim, Effect
from .measures import Result

Runs: TypeAlias = Mapping[str, Mapping[int, Result]]
"""Finished runs, by variant and seed."""

# The .975 quantiles of Student's t by degrees of freedom; the last is taken for more: it is larger.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Found:
    """An effect's values by seed, None where a run did not get there, and what follows.

    mean, low, high: with its 95 % interval by Student's t; None if there is none.
    """

    says: str
    values: dict[int, float | None]
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


def found(claim: Claim, runs: Runs, note: str) -> tuple[Found, ...]:
    """What follows from finished runs. note: other data than the originals refute nothing."""

    def one(effect: Effect) -> Found:
        by_seed = values(effect, runs)
        mean, low, high = interval([*by_seed.values()], logarithms=effect.by == "ratio")
        said = verdict(effect, low, high, same=effect.same and not note)
        each = {seed: _plain(value) for seed, value in by_seed.items()}
        return Found(effect.says, each, _plain(mean), _plain(low), _plain(high), said)

    return tuple(map(one, claim.effects))


def values(effect: Effect, runs: Runs) -> dict[int, float]:
    """The effect in each seed for which the variants' runs are there."""
    variants = [runs[name] for name in (effect.of, effect.over) if name]
    seeds = set.intersection(*map(set, variants))
    return {seed: _value(effect, [each[seed] for each in variants]) for seed in sorted(seeds)}


def _value(effect: Effect, runs: Sequence[Result]) -> float:
    if any(run.failed for run in runs):
        return math.nan
    at = measures.half_way(runs, effect.measure) if effect.at == "half way" else effect.at
    one, *other = (measures.of(run, effect.measure, at) for run in runs)
    if effect.by == "value":
        return one
    return one - other[0] if effect.by == "difference" else one / other[0]


def interval(values: Sequence[float], *, logarithms: bool = False) -> tuple[float, float, float]:
    """Mean, low and high of independent values, or of their logarithms, and back.

    NaN throughout if there is none, or one of them is; infinitely wide for a single one.
    """
    if logarithms:
        logs = [math.log(value) if value > 0 else math.nan for value in values]
        mean, low, high = interval(logs)
        return math.exp(mean), math.exp(low), math.exp(high) if high < 700 else math.inf
    count = len(values)
    if count == 0 or any(map(math.isnan, values)):
        return math.nan, math.nan, math.nan
    mean = math.fsum(values) / count
    if count == 1:
        return mean, -math.inf, math.inf
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _T[min(count - 2, len(_T) - 1)] * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def verdict(effect: Effect, low: float, high: float, *, same: bool) -> str:
    """What the interval alone says; nothing if there is nothing to compare it with.

    confirmed: it excludes no effect, and not what was printed. refuted: it excludes an effect, or
    one as large as was printed, where all is the `same` as in 2012, network, data and measure; and
    else only not at this scale. open: neither, or there is no interval.
    """
    none, printed = effect.none, effect.printed
    if none is None and printed is None:
        return ""
    if not math.isfinite(high - low):
        return "open"
    no = "refuted" if same else "not at this scale"
    if effect.fewer and printed is not None:
        most = printed + 0.5  # is still printed so
        return "confirmed" if high < most else f"{no}: more" if low >= most else "open"
    if none is not None and high <= none:
        return f"{no}: the opposite"
    smaller = printed is not None and high < printed
    if none is None or low > none:
        return f"{no}: smaller" if smaller else "confirmed"
    return f"{no}: not as large" if smaller else "open"


def _plain(value: float) -> float | None:
    """For JSON and people: six digits; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
