"""The record of a claim: `records/NAME.json`, all that its picture and its rows are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pyalexnet import files
from pyalexnet.errors import RunError
from pyalexnet.runs.config import validated

from ..environment import describe
from . import effects, measures
from .claim import Claim, Effect
from .measures import Result

FOLDER = Path(__file__).parent / "records"
TIMES = ("command", "environment", "commits", "seconds")
"""Entries that may differ between two records of the same runs."""


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
class Data:
    """The images: numbers of those for training and for tests, and the user's note on them."""

    name: str
    images: tuple[int, int]
    note: str


@dataclass(frozen=True)
class Outcome:
    """A run's values by measure; why it ended early, if so; the share of each layer's output that
    depended on the image before training; and its epochs."""

    values: dict[str, float | None]
    failed: str
    signal: dict[str, float | None]
    epochs: tuple[measures.Epoch, ...]


@dataclass(frozen=True)
class Record:
    """What a claim's runs have shown so far.

    searched: by variant and learning rate, the epochs to the target (None: not reached) and the
    last training error, %. rates: the learning rates taken. commits: at which runs ended. seconds:
    of training, those of all processes. runs: by variant and seed.
    """

    claim: str
    complete: bool
    data: Data
    searched: dict[str, dict[str, tuple[float | None, float]]]
    rates: dict[str, float]
    effects: tuple[Found, ...]
    command: str
    environment: dict[str, str]
    commits: tuple[str, ...]
    seconds: float
    runs: dict[str, dict[int, Outcome]]


def make(
    claim: Claim,
    runs: Mapping[str, Mapping[int, Result]],
    searched: Mapping[str, Mapping[float, Result]],
    rates: Mapping[str, float],
    *,
    complete: bool,
    note: str,
    command: str,
) -> Record:
    """The record of finished runs, by variant and seed."""
    every = [run for each in runs.values() for run in each.values()]
    every += [run for each in searched.values() for run in each.values()]
    target = claim.search.error if claim.search else 0.0
    return Record(
        claim=claim.name,
        complete=complete,
        data=Data(every[0].data, every[0].images, note),
        searched={
            variant: {f"{lr:g}": _tried(run, target) for lr, run in each.items()}
            for variant, each in searched.items()
        },
        rates=dict(rates),
        effects=tuple(_found(e, runs, same=e.same and not note) for e in claim.effects),
        command=command,
        environment=describe({}),
        commits=tuple(sorted({run.commit for run in every})),
        seconds=round(math.fsum(run.seconds for run in every), 1),
        runs={
            variant: {seed: _outcome(claim, run) for seed, run in each.items()}
            for variant, each in runs.items()
        },
    )


def _found(effect: Effect, runs: Mapping[str, Mapping[int, Result]], *, same: bool) -> Found:
    per_seed = effects.values(effect, runs)
    found = effects.estimate(effect, [*per_seed.values()])
    mean, low, high = (_plain(value) for value in (found.mean, found.low, found.high))
    told = {seed: _plain(value) for seed, value in per_seed.items()}
    return Found(effect.says, told, mean, low, high, effects.verdict(effect, found, same=same))


def _tried(run: Result, target: float) -> tuple[float | None, float]:
    if run.failed or not run.epochs:
        return None, 100.0
    return _plain(measures.epochs_to_error(run, target)), round(measures.train_error(run), 4)


def _outcome(claim: Claim, run: Result) -> Outcome:
    names = {effect.measure: effect.at for effect in claim.effects} | dict.fromkeys(claim.reports)
    values = {name: _plain(measures.of(run, name, at)) for name, at in names.items()}
    signal = {layer: _plain(share) for layer, share in run.signal.items()}
    return Outcome(values, run.failed, signal, run.epochs)


def _plain(value: float) -> float | None:
    """For JSON and people: six digits; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write(record: Record, folder: Path) -> Path:
    """Write the record, each run on a line."""
    values = asdict(record)
    runs = [
        f"  {json.dumps(variant)}: {{\n"
        + ",\n".join(f'   "{seed}": {json.dumps(outcome)}' for seed, outcome in each.items())
        + "\n  }"
        for variant, each in values.pop("runs").items()
    ]
    head = json.dumps(values, indent=1, allow_nan=False).removesuffix("\n}")
    text = f'{head},\n "runs": {{\n' + ",\n".join(runs) + "\n }\n}\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.claim}.json"
    files.write(path, text.encode(), RunError)
    return path


def read(claim: str, folder: Path = FOLDER) -> Record | None:
    """A claim's record, if it has one."""
    path = folder / f"{claim}.json"
    if not path.exists():
        return None
    return validated(Record, json.loads(path.read_text(encoding="utf-8")))
