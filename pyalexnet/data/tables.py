"""Text files of rows and columns, with any of the usual separators.

Columns separated by tabs, semicolons, commas or blanks, cells quoted or not, and JSON: an object of
cells or of lists of them by key, a list of rows, an object per row or per line. UTF-8 with or
without a byte order mark, any line ends; names that are not UTF-8 are decoded as file names are.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyalexnet.errors import DataError, reason
from pyalexnet.files import contents, shown

# What separates columns, and what joins them in a text; the rarest inside cells comes first.
PARTING = (("\t", " "), (";", "; "), (",", ", "), (" ", " "))


class Row(NamedTuple):
    """A row of a file: its cells, and its name in messages, "line 3"."""

    path: Path
    where: str
    cells: tuple[str, ...]

    def cell(self, number: int) -> str:
        """A cell; "" if there is none."""
        return self.cells[number] if number < len(self.cells) else ""

    def __str__(self) -> str:
        return repr(shown(" ".join(self.cells)))

    def refused(self, why: str) -> DataError:
        return DataError(f"{shown(self.path)}: {self.where} {why}.")


class Table(NamedTuple):
    """Rows, and the text that joins cells again."""

    rows: tuple[Row, ...]
    joint: str

    @property
    def width(self) -> int:
        return max(len(row.cells) for row in self.rows)

    def column(self, number: int) -> list[str]:
        """The cells of a column; "" if a row has none."""
        return [row.cell(number) for row in self.rows]


def read(path: Path) -> tuple[Table, ...]:
    """The ways to read a file, each a table with the same number of rows, the likelier first.

    For a text, the last way has whole lines as cells, and the one before splits lines at their last
    blank. For JSON there is one way.
    """
    try:
        raw = utf_8(contents(path)).rstrip()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: {reason(error)}; a file of lines was expected.") from error

    def table(what: str, rows: Iterable[Sequence[str]], joint: str) -> Table:
        numbered = enumerate(rows, 1)
        return Table(tuple(Row(path, f"{what} {n}", tuple(cells)) for n, cells in numbered), joint)

    if raw.lstrip()[:1] in (b"{", b"["):
        return (table("entry", _of_json(path, raw), ", "),)
    lines = [line.strip() for line in os.fsdecode(raw).replace("\r\n", "\n").split("\n")]
    ways = [table("line", [_cut(line, by) for line in lines], joint) for by, joint in PARTING]
    halves = [[part.strip() for part in line.rpartition(" ")[::2] if part] for line in lines]
    return *ways, table("line", halves, " "), table("line", [[line] for line in lines], " ")


def utf_8(raw: bytes) -> bytes:
    """A text without its byte order mark; from UTF-16, as Excel writes it, or a ValueError."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16").encode("utf-8")
    return raw.removeprefix(codecs.BOM_UTF8)


def _cut(line: str, by: str) -> list[str]:
    line = line.replace("\t", " ") if by == " " else line
    try:
        cells = next(csv.reader([line], delimiter=by, skipinitialspace=True, strict=True), [])
    except csv.Error:  # a quotation mark that quotes no cell
        cells = line.split(by)
    return [cell.strip() for cell in cells]


def _of_json(path: Path, raw: bytes) -> list[tuple[str, ...]]:
    try:
        try:
            value = json.loads(raw, object_pairs_hook=_once)
        except json.JSONDecodeError:
            value = [json.loads(line, object_pairs_hook=_once) for line in raw.splitlines()]
        if not value:
            raise ValueError("it is empty")
        return _rows(value)
    except (ValueError, TypeError, RecursionError) as error:
        wanted = "an object or a list of texts, numbers or rows of them was expected"
        why = f"is JSON that cannot be used ({reason(error)})"
        raise DataError(f"{shown(path)}: {why}; {wanted}.") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r} twice")
        found[key] = value
    return found


def _rows(value: Any) -> list[tuple[str, ...]]:
    if isinstance(value, dict):
        return [(key, *_cells(item)) for key, item in value.items()]
    if all(isinstance(item, dict) for item in value):
        keys = list(value[0])  # the header; every entry's cells in the same order
        value = [keys, *([item.get(key, "") for key in keys] for item in value)]
    return [tuple(_cells(item)) for item in value]


def _cells(value: Any) -> list[str]:
    return [_cell(item) for item in (value if isinstance(value, list) else [value])]


def _cell(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"it contains {'null' if value is None else f'a {type(value).__name__}'}")
    return str(value).strip()
