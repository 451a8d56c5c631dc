"""From values seed by seed to a mean, its interval, and a verdict that says no more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from . import measures
from .claim import Effect
from .measures import Result

Verdict: TypeAlias = Literal["confirmed", "not at this scale", "refuted", "open", ""]

# The .975 quantiles of Student's t by degrees of freedom; the last is taken for more: it is larger.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval by Student's t; infinite for a single seed."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """The interval of independent values; NaN throughout if there is none, or one of them is."""
    count = len(values)
    if count == 0 or any(map(math.isnan, values)):
        return Interval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _T[min(count - 2, len(_T) - 1)] * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half)


def values(effect: Effect, runs: Mapping[str, Mapping[int, Result]]) -> dict[int, float]:
    """The effect in each seed for which the variants' runs are there: {variant: {seed: run}}."""
    ours, others = runs[effect.of], runs.get(effect.over, {})
    seeds = sorted(ours if effect.by == "value" else ours.keys() & others.keys())
    found = {}
    for seed in seeds:
        one = measures.of(ours[seed], effect.measure, effect.at)
        if effect.by != "value":
            other = measures.of(others[seed], effect.measure, effect.at)
            one = one - other if effect.by == "difference" else one / other
        found[seed] = one
    return found


def estimate(effect: Effect, per_seed: Sequence[float]) -> Interval:
    """The interval of the effect; of a ratio, that of its logarithm."""
    if effect.by != "ratio":
        return interval(per_seed)
    log = interval([math.log(value) if value > 0 else math.nan for value in per_seed])
    highest = math.exp(log.high) if log.high < 700 else math.inf
    return Interval(math.exp(log.mean), math.exp(log.low), highest)


def verdict(effect: Effect, found: Interval, *, same: bool) -> Verdict:
    """What the interval alone says; nothing if there is nothing to compare it with.

    confirmed: it excludes no effect, and reaches what was printed. open: it excludes neither, or
    there is none. Otherwise it excludes an effect, or one as large as was printed: refuted if
    all is the `same` as in 2012, network, data and measure, and else only not at this scale.
    """
    if effect.none is None and effect.printed is None:
        return ""
    low, high = (-found.high, -found.low) if effect.fewer else (found.low, found.high)
    none, printed = (
        level if level is None or not effect.fewer else -level
        for level in (effect.none, effect.printed)
    )
    if math.isnan(found.mean):
        return "open"
    reaches = printed is None or high >= printed
    if reaches and (none is None or low > none) and math.isfinite(low):
        return "confirmed"
    if not reaches or (none is not None and high <= none):
        return "refuted" if same else "not at this scale"
    return "open"
