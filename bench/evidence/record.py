"""The record of a claim, `records/NAME.json`: its runs, and the resulting effects.

For each effect, these are a mean, its interval, and a verdict that follows from the interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pyalexnet import files
from pyalexnet.errors import RunError
from pyalexnet.runs.config import validated

from . import measures
from .claim import Claim, Effect
from .measures import Result

FOLDER = Path(__file__).parent / "records"

Runs: TypeAlias = Mapping[str, Mapping[int, Result]]
"""Finished runs, by variant and seed."""

# The .975 quantiles of Student's t by degrees of freedom; the last is taken for more: it is larger.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Finding:
    """An effect's values by seed, None if a run did not reach it, and the conclusions.

    mean, low, high: with its 95 % interval by Student's t; None if there is none.
    """

    says: str
    values: dict[int, float | None]
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


def findings(claim: Claim, runs: Runs, note: str) -> tuple[Finding, ...]:
    """Effects found in finished runs. note: other data than the originals refute nothing."""

    def one(effect: Effect) -> Finding:
        by_seed = values(effect, runs)
        compared = [*by_seed.values()] if effect.measure != "seconds" else []
        mean, low, high = interval(compared, logarithms=effect.ratio)
        said = verdict(effect, low, high, originals=not note)
        each = {seed: _plain(value) for seed, value in by_seed.items()}
        return Finding(effect.says, each, _plain(mean), _plain(low), _plain(high), said)

    return tuple(map(one, claim.effects))


def values(effect: Effect, runs: Runs) -> dict[int, float]:
    """The effect for each seed whose runs of all variants are finished."""
    variants = [runs.get(name, {}) for name in (effect.of, effect.over) if name]
    seeds = set.intersection(*map(set, variants))
    return {seed: _value(effect, [each[seed] for each in variants]) for seed in sorted(seeds)}


def _value(effect: Effect, runs: Sequence[Result]) -> float:
    if any(run.failed for run in runs):
        return math.nan
    at = measures.half_way(runs, effect.measure) if effect.at == "half way" else effect.at
    one, *other = (measures.of(run, effect.measure, at) for run in runs)
    if not other:
        return one
    return one / other[0] if effect.ratio else one - other[0]


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


def verdict(effect: Effect, low: float, high: float, *, originals: bool = True) -> str:
    """The interval's verdict; "" if there is nothing to compare it with.

    confirmed: all of it is an effect, and not less than printed. not at this scale: all of it
    is less than printed, or no effect. refuted: all of it is more than the printed error of the
    same network on the `originals`. open: neither, or there is no interval.
    """
    none, printed = effect.none, effect.printed
    if none is None and printed is None:
        return ""
    if not 0 < high - low < math.inf:  # equal values, as of networks at chance, say nothing
        return "open"
    if effect.repeats and printed is not None:
        most, no = printed + 0.5, "refuted" if originals else "not at this scale"
        return "confirmed" if high < most else f"{no}: more" if low >= most else "open"
    if none is not None and high <= none:
        return f"not at this scale: {'the opposite' if effect.over else 'nothing'}"
    smaller = printed is not None and high < printed
    if none is None or low > none:
        larger = ": larger" * (printed is not None and low > printed)
        return "not at this scale: smaller" if smaller else f"confirmed{larger}"
    return "not at this scale: not as large" if smaller else "open"


def _plain(value: float) -> float | None:
    """For JSON and people: six digits; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Record:
    """A claim's results so far.

    complete: whether the runs of as many seeds as the claim asks for are done. note: what the data
    are, if not the originals. rates: the learning rates that the search found, by variant.
    searched: its runs, by variant and rate. command, environment: of the last call.
    """

    claim: str
    complete: bool
    note: str
    effects: tuple[Finding, ...]
    rates: dict[str, float]
    command: str
    environment: dict[str, str]
    searched: dict[str, dict[str, Result]]
    runs: dict[str, dict[int, Result]]

    @property
    def every(self) -> Iterator[Result]:
        """All runs, those of the search included."""
        for runs in self.runs.values():
            yield from runs.values()
        for tried in self.searched.values():
            yield from tried.values()


def write(record: Record, folder: Path) -> Path:
    """Write the record, each run on a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.claim}.json"
    files.write(path, (_text(asdict(record), 3) + "\n").encode(), RunError)
    return path


def _text(value: Any, levels: int) -> str:
    """JSON with this many levels indented; deeper ones stay on their line."""
    if not (levels and value and isinstance(value, dict | tuple)):
        return json.dumps(value, allow_nan=False)
    named, ends = isinstance(value, dict), "{}" if isinstance(value, dict) else "[]"
    parts = [
        (f"{json.dumps(str(name))}: " if named else "") + _text(value[name], levels - 1)
        for name in (value if named else range(len(value)))
    ]
    inner = ",\n".join(parts).replace("\n", "\n ")
    return f"{ends[0]}\n {inner}\n{ends[1]}"


def read(claim: Claim, folder: Path = FOLDER) -> Record | None:
    """A claim's record, if it has one, with effects by the current text of the claim."""
    path = folder / f"{claim.name}.json"
    if not path.exists():
        return None
    kept = validated(Record, json.loads(path.read_text(encoding="utf-8")))
    return replace(kept, effects=findings(claim, kept.runs, kept.note))
