"""The record of a claim: `records/NAME.json`, all that its picture and page are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from pyalexnet import files
from pyalexnet.errors import RunError
from pyalexnet.runs.config import validated

from ..environment import describe
from . import effects
from .claim import Claim, Effect
from .measures import Result

FOLDER = Path(__file__).parent / "records"

Runs: TypeAlias = Mapping[str, Mapping[int, Result]]
"""Finished runs, by variant and seed."""


@dataclass(frozen=True)
class Found:
    """An effect's values by seed, None where a run did not get there, and what follows."""

    says: str
    values: dict[int, float | None]
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Record:
    """What a claim's runs have shown so far.

    note: what the data are, if not the originals. rates: the learning rates that the search found,
    by variant. searched: its runs, by variant and rate. command, environment: of the last call.
    """

    claim: str
    complete: bool
    note: str
    effects: tuple[Found, ...]
    rates: dict[str, float]
    command: str
    environment: dict[str, str]
    searched: dict[str, dict[str, Result]]
    runs: dict[str, dict[int, Result]]

    @property
    def every(self) -> Iterator[Result]:
        """All runs, those of the search included."""
        for variant in self.runs.values():
            yield from variant.values()
        for tried in self.searched.values():
            yield from tried.values()


def found(claim: Claim, runs: Runs, note: str) -> tuple[Found, ...]:
    """What follows from finished runs. note: other data than the originals refute nothing."""

    def one(effect: Effect) -> Found:
        per_seed = effects.values(effect, runs)
        range_ = effects.estimate(effect, [*per_seed.values()])
        verdict = effects.verdict(effect, range_, same=effect.same and not note)
        mean, low, high = (_plain(value) for value in (range_.mean, range_.low, range_.high))
        values = {seed: _plain(value) for seed, value in per_seed.items()}
        return Found(effect.says, values, mean, low, high, verdict)

    return tuple(map(one, claim.effects))


def make(
    claim: Claim,
    runs: dict[str, dict[int, Result]],
    searched: Mapping[str, Mapping[float, Result]],
    rates: dict[str, float],
    *,
    complete: bool,
    note: str,
    command: str,
) -> Record:
    """The record of finished runs."""
    tried = {name: {f"{lr:g}": run for lr, run in each.items()} for name, each in searched.items()}
    told = found(claim, runs, note)
    return Record(claim.name, complete, note, told, rates, command, describe({}), tried, runs)


def _plain(value: float) -> float | None:
    """For JSON and people: six digits; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write(record: Record, folder: Path) -> Path:
    """Write the record, each run on a line."""
    values = asdict(record)
    parts = [
        f' "{name}": {{\n' + ",\n".join(_lines(*each) for each in values.pop(name).items()) + "\n }"
        for name in ("searched", "runs")
    ]
    head = json.dumps(values, indent=1, allow_nan=False).removesuffix("\n}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.claim}.json"
    files.write(path, (",\n".join([head, *parts]) + "\n}\n").encode(), RunError)
    return path


def _lines(variant: str, runs: Mapping[str | int, object]) -> str:
    """A variant's runs as JSON, a line for each."""
    each = ",\n".join(f'   "{key}": {json.dumps(run)}' for key, run in runs.items())
    return f"  {json.dumps(variant)}: {{\n{each}\n  }}"


def read(claim: str, folder: Path = FOLDER) -> Record | None:
    """A claim's record, if it has one."""
    path = folder / f"{claim}.json"
    if not path.exists():
        return None
    return validated(Record, json.loads(path.read_text(encoding="utf-8")))
