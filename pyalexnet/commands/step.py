"""`pyalexnet show step`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyalexnet.commands import network as given


def step(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Such as alexnet.")] = "alexnet",
    batch_size: given.BatchSize = 128,
    precision: Annotated[
        str, typer.Option(metavar="fp32|fp32x3|bf16", help=given.PRECISION)
    ] = "fp32",
    fused: Annotated[bool, typer.Option(help=given.FUSED)] = False,
    towers: Annotated[int, typer.Option(min=1, max=2, help=given.TOWERS)] = 1,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|sim|cuda",
            help="Print how the kernels of this backend compute each product; sim's are cuda's.",
        ),
    ] = None,
) -> None:
    """Print a training step, call by call, with shapes: what runs, in order, on which arrays.

    Nothing is run. MB counts every array read or written once, GFLOP a product's multiplications
    and additions.
    """
    import typing

    from rich.console import Console
    from rich.table import Table

    from pyalexnet import backend, nets
    from pyalexnet.step import listing, plan

    plan.check_precision("show step", precision, towers)
    arguments = {"towers_norm": True} if towers > 1 and network == "alexnet" else {}
    spec = nets.get(network)(**arguments)
    made = plan.make(
        spec,
        goal="update",
        precision=typing.cast(plan.Precision, precision),
        fused=fused,
        towers=towers,
    )
    table = Table(title=f"A training step of {spec.name}: {batch_size} images, {precision}")
    chosen_by: Any = backend(kernels) if kernels else None
    columns = 7 if chosen_by else 6
    for name in ("", "operation", "reads", "writes", "MB", "GFLOP", "computed by")[:columns]:
        numeric = name in ("", "MB", "GFLOP")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for number, line in enumerate(listing.lines(made, batch_size, chosen_by), 1):
        work = f"{line.flops / 1e9:,.1f}" if line.flops else ""
        arrays = ("\n".join(line.reads), "\n".join(line.writes))
        moved = f"{line.nbytes / 1e6:,.1f}"
        table.add_row(*(str(number), line.operation, *arrays, moved, work, line.choice)[:columns])
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 180 if chosen_by else 140
    console.print(table)
