"""`pyalexnet show step`."""

from __future__ import annotations

from typing import Annotated, cast

from typer import Argument, Option

from pyalexnet.commands import network as given
from pyalexnet.commands.table import print_table

_TEXTS = ("operation", "reads", "writes")


def step(
    network: Annotated[str, Argument(metavar="NETWORK", help="Such as alexnet.")] = "alexnet",
    batch_size: given.BatchSize = 128,
    precision: Annotated[str, Option(metavar="fp32|fp32x3|bf16", help=given.PRECISION)] = "fp32",
    fused: Annotated[bool, Option(help=given.FUSED)] = False,
    towers: Annotated[int, Option(min=1, max=2, help=given.TOWERS)] = 1,
) -> None:
    """Print a training step, call by call, with shapes: what runs, in order, on which arrays.

    Nothing is run. MB counts every array read or written once, GFLOP a product's multiplications
    and additions.
    """
    from pyalexnet import nets
    from pyalexnet.step import listing, plan

    plan.check_precision("show step", precision, towers)
    arguments = {"towers_norm": True} if towers > 1 and network == "alexnet" else {}
    spec = nets.get(network)(**arguments)
    exact = cast(plan.Precision, precision)
    made = plan.make(spec, goal="update", precision=exact, fused=fused, towers=towers)
    rows = []
    for number, line in enumerate(listing.lines(made, batch_size), 1):
        work = f"{line.flops / 1e9:,.1f}" if line.flops else ""
        arrays = ("\n".join(line.reads), "\n".join(line.writes))
        rows.append((str(number), line.operation, *arrays, f"{line.nbytes / 1e6:,.1f}", work))
    head = ("", *_TEXTS, "MB", "GFLOP")
    title = f"A training step of {spec.name}: {batch_size} images, {precision}"
    print_table(head, rows, texts=_TEXTS, title=title, width=140, rules=True)
