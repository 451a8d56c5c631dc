"""The record of a run: `<root>/<date>-<device>/` with README.md, bench.json and env.json."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from . import tables
from .results import Results


def folder(root: Path, date: str, device: str) -> Path:
    """Where a record goes; `date` begins with the day (ISO 8601)."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return root / f"{date[:10]}-{name or 'device'}"


def fresh(root: Path, date: str, device: str) -> Path:
    """A folder that does not exist yet: a day's second record has a number."""
    first = folder(root, date, device)
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([first], others) if not one.exists())


def write(where: Path, results: Results) -> None:
    """Write or replace the three files; called after every row, so that a crash loses one."""
    where.mkdir(parents=True, exist_ok=True)
    found = {"failures": results.failures, **dataclasses.asdict(results)}
    environment = found.pop("environment")
    contents = {
        "README.md": tables.document(results),
        "bench.json": json.dumps(found, indent=1) + "\n",
        "env.json": json.dumps(environment, indent=1) + "\n",
    }
    for name, text in contents.items():
        temporary = where / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(where / name)


def read(where: Path) -> Results:
    """What `write` has written."""
    found, environment = (
        json.loads((where / name).read_text(encoding="utf-8"))
        for name in ("bench.json", "env.json")
    )
    return TypeAdapter(Results).validate_python(found | {"environment": environment})


@contextmanager
def edited(where: Path) -> Iterator[Results]:
    """A record's results, to be changed; written back at the end."""
    results = read(where)
    yield results
    write(where, results)
