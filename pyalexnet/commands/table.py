"""A table on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    otherwise: Iterable[str],
    *,
    plain: bool = False,
    rules: bool = False,
    red: str | None = None,
) -> None:
    """Print a table on a terminal, and the lines `otherwise` elsewhere, or if `plain`.

    Args:
        rules: whether cells are texts with rules between them, rather than numbers.
        red: the first cell of the row to be coloured.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        for line in otherwise:
            print(line)
        return
    table = Table(box=box.HEAVY_HEAD if rules else None, show_lines=rules)
    for number, name in enumerate(head):
        right = number > 0 and not rules
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for row in rows:
        table.add_row(*row, style="red" if row[0] == red else None)
    console.print(table)
