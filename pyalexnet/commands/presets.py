"""`pyalexnet presets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer


def presets(
    first: Annotated[str | None, typer.Argument(metavar="A", help="A preset of AlexNet.")] = None,
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say in what the presets of AlexNet differ, and where each value stands.

    Without names a table of all presets; with one all its conventions; with two every convention on
    which they differ.
    """
    import json

    from pyalexnet.nets import conventions
    from pyalexnet.nets.presets import get, names

    shown = [name for name in (first, second) if name is not None] or list(names())
    rows = conventions.differences(*shown) if len(shown) == 2 else conventions.conventions()
    found = {name: get(name) for name in shown}
    if as_json:
        document = [
            {
                "convention": row.name,
                "values": {name: row.value(preset) for name, preset in found.items()},
                "where": {name: row.where[name] for name in found},
            }
            for row in rows
        ]
        print(json.dumps(document, indent=2))
        return
    if not rows:
        print(f"{first} and {second} agree on every convention")
        return
    # All four leave no room for where each value stands.
    with_sources = len(shown) < len(names())
    head = ["convention", *shown, *(["where"] if with_sources else [])]
    cells = [
        [
            row.name,
            *(row.value(preset) for preset in found.values()),
            *([_places([row.where[name] for name in shown])] if with_sources else []),
        ]
        for row in rows
    ]
    _show(head, cells)


def _places(places: Sequence[str]) -> str:
    """Each place once."""
    return "; ".join(dict.fromkeys(places))


def _show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with lines on a terminal; elsewhere columns of which each row is one line."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if console.is_terminal and not console.is_dumb_terminal:
        table = Table(show_lines=True)
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
