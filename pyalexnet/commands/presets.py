"""`pyalexnet presets`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated

from typer import Argument

from pyalexnet.commands import network as given
from pyalexnet.commands.table import print_table


def presets(
    first: Annotated[str | None, Argument(metavar="A", help="A preset of AlexNet.")] = None,
    second: Annotated[str | None, Argument(metavar="B", help="Another preset.")] = None,
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
        document = []
        for row in rows:
            values = {name: row.value(preset) for name, preset in found.items()}
            where = {name: row.where[name] for name in found}
            document.append({"convention": row.name, "values": values, "where": where})
        given.print_json(document)
        return
    if not rows:
        print(f"{first} and {second} agree on every convention")
        return
    head = ["convention", *shown]
    cells = [[row.name, *(row.value(preset) for preset in found.values())] for row in rows]
    if len(shown) == len(names()):  # no room is left for where each value is defined
        print_table(head, cells, texts=head, rules=True)
        return
    head.append("where")
    for cell, row in zip(cells, rows, strict=True):
        cell.append("; ".join(dict.fromkeys(row.where[name] for name in shown)))
    print_table(head, cells, texts=head, rules=True, otherwise=_listed(head, cells))


def _listed(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row's name, then its other cells below, each after its column's name."""
    labels = [f"  {name}: " for name in head[1:]]
    indent = max(map(len, labels))
    for name, *cells in rows:
        yield name
        for label, cell in zip(labels, cells, strict=True):
            first, later = label.ljust(indent), " " * indent
            yield textwrap.fill(
                cell, 100, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
            )
