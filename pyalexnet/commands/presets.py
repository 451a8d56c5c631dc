"""`pyalexnet presets`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Annotated

import typer

from pyalexnet.commands import network as given
from pyalexnet.commands.table import print_table


def presets(
    first: Annotated[str | None, typer.Argument(metavar="A", help="A preset of AlexNet.")] = None,
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another preset.")] = None,
    as_json: given.Json = False,
) -> None:
    """Show how the presets of AlexNet differ, and where each value is defined.

    Without names: a table of all presets; with one: all its conventions; with two: the conventions
    on which they differ.
    """
    from pyalexnet.nets import conventions
    from pyalexnet.nets.presets import get, names

    shown = [name for name in (first, second) if name is not None] or list(names())
    rows = conventions.differences(*shown) if len(shown) == 2 else conventions.conventions()
    found = {name: get(name) for name in shown}
    if as_json:
        given.print_json(
            [
                {
                    "convention": row.name,
                    "values": {name: row.value(preset) for name, preset in found.items()},
                    "where": {name: row.where[name] for name in found},
                }
                for row in rows
            ]
        )
        return
    if not rows:
        print(f"{first} and {second} agree on every convention")
        return
    # All four leave no room for where each value is defined.
    with_sources = len(shown) < len(names())
    head = ["convention", *shown, *(["where"] if with_sources else [])]
    cells = [[row.name, *(row.value(preset) for preset in found.values())] for row in rows]
    if with_sources:
        for cell, row in zip(cells, rows, strict=True):
            cell.append("; ".join(dict.fromkeys(row.where[name] for name in shown)))
    plain = _listed(head, cells) if with_sources else _columns(head, cells)
    print_table(head, cells, plain, rules=True)


_WIDTH = 120
_LIST_WIDTH = 100


def _listed(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row's name, then its other cells below, each after its column's name."""
    labels = [f"  {name}: " for name in head[1:]]
    indent = max(map(len, labels))
    for name, *cells in rows:
        yield name
        for label, cell in zip(labels, cells, strict=True):
            first, *rest = _wrapped(cell, _LIST_WIDTH - indent)
            yield label.ljust(indent) + first
            yield from (" " * indent + line for line in rest)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns; cells wider than their share of the line wrap."""
    names, *others = ([len(cell) for cell in column] for column in zip(head, *rows, strict=True))
    share = (_WIDTH - max(names)) // len(others) - 2
    widths = [max(names), *(min(max(column), share) for column in others)]
    for row in (head, *rows):
        cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*cells, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(line, widths, strict=True))
            yield "  ".join(padded).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken at spaces and after semicolons; longer words stay whole."""
    lines = [""]
    for piece in re.findall(r"[^\s;]+;?\s*", text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
