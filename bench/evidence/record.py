"""The record of a claim: `records/NAME.json`, all that its picture and page are made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyalexnet import files
from pyalexnet.errors import RunError
from pyalexnet.runs.config import validated

from . import effects
from .claim import Claim
from .effects import Found
from .measures import Result

FOLDER = Path(__file__).parent / "records"


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
        for runs in self.runs.values():
            yield from runs.values()
        for tried in self.searched.values():
            yield from tried.values()

    def judged(self, claim: Claim) -> Record:
        """The record with what follows from its runs now: the claim's effects may have changed."""
        return replace(self, effects=effects.found(claim, self.runs, self.note))


def write(record: Record, folder: Path) -> Path:
    """Write the record, each run on a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.claim}.json"
    files.write(path, (_text(asdict(record), 3) + "\n").encode(), RunError)
    return path


def _text(value: Any, levels: int) -> str:
    """JSON with so many levels indented, and the rest on their lines."""
    if not (levels and value and isinstance(value, dict | tuple)):
        return json.dumps(value, allow_nan=False)
    named, ends = isinstance(value, dict), "{}" if isinstance(value, dict) else "[]"
    parts = [
        (f"{json.dumps(str(name))}: " if named else "") + _text(value[name], levels - 1)
        for name in (value if named else range(len(value)))
    ]
    inner = ",\n".join(parts).replace("\n", "\n ")
    return f"{ends[0]}\n {inner}\n{ends[1]}"


def read(claim: str, folder: Path = FOLDER) -> Record | None:
    """A claim's record, if it has one."""
    path = folder / f"{claim}.json"
    if not path.exists():
        return None
    return validated(Record, json.loads(path.read_text(encoding="utf-8")))
