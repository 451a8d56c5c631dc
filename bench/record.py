"""A run kept: `<root>/<date>-<device>/` with README.md, bench.json, env.json and tests.txt."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from . import tables
from .results import Results


def folder(root: Path, date: str, device: str) -> Path:
    """Where a record goes; `date` begins with the day (ISO 8601)."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return root / f"{date[:10]}-{name or 'device'}"


def write(where: Path, results: Results, tests: str) -> None:
    """Write or replace the four files; called after every row, so that a crash loses one."""
    where.mkdir(parents=True, exist_ok=True)
    found = {"failures": results.failures, **dataclasses.asdict(results)}
    environment = found.pop("environment")
    contents = {
        "README.md": tables.document(results),
        "bench.json": json.dumps(found, indent=1) + "\n",
        "env.json": json.dumps(environment, indent=1) + "\n",
        "tests.txt": tests,
    }
    for name, text in contents.items():
        temporary = where / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(where / name)
