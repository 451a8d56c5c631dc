"""A table, on a terminal or elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    texts: Collection[str],  # the columns that are not numbers
    title: str | None = None,
    width: int = 120,
    otherwise: Iterable[str] | None = None,  # lines to print instead if not on a terminal
    plain: bool = False,  # as if not on a terminal
    rules: bool = False,  # whether there are lines between cells
    red: str | None = None,  # the first cell of the row to be coloured
) -> None:
    """Print a table; without colours and rules, and at most `width` wide, if not on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    live = not plain and console.is_terminal and not console.is_dumb_terminal
    if not live and otherwise is not None:
        print("\n".join(otherwise))
        return
    if not live:
        console = Console(highlight=False, markup=False, width=width, force_terminal=False)
    lines = box.HEAVY_HEAD if rules and live else None
    table = Table(title=title, box=lines, show_lines=rules and live, pad_edge=lines is not None)
    for number, name in enumerate(head):
        side: Literal["left", "right"] = "left" if name in texts else "right"
        table.add_column(name, justify=side, overflow="fold", no_wrap=number == 0 and not live)
    for row in rows:
        table.add_row(*row, style="red" if row[0] == red else None)
    console.print(table)
