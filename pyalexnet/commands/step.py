"""`pyalexnet show step`."""

from __future__ import annotations

from typing import Annotated, Any, cast

from typer import Argument, Option

from pyalexnet.commands import network as given
from pyalexnet.commands.table import print_table

_KERNELS = "Print how the kernels of this backend compute each product; sim's are cuda's."
_RANKS = "Print what one of this many ranks runs, on its part of the batch."
_TEXTS = ("operation", "reads", "writes", "computed by")


def step(
    network: Annotated[str, Argument(metavar="NETWORK", help="Such as alexnet.")] = "alexnet",
    batch_size: given.BatchSize = 128,
    precision: Annotated[str, Option(metavar="fp32|fp32x3|bf16", help=given.PRECISION)] = "fp32",
    fused: Annotated[bool, Option(help=given.FUSED)] = False,
    towers: Annotated[int, Option(min=1, max=2, help=given.TOWERS)] = 1,
    ranks: Annotated[int, Option(min=1, help=_RANKS)] = 1,
    shards: Annotated[int | None, Option(min=1, help=given.SHARDS)] = None,
    kernels: Annotated[str | None, Option(metavar="cpu|sim|cuda", help=_KERNELS)] = None,
) -> None:
    """Print a training step, call by call, with shapes: what runs, in order, on which arrays.

    Nothing is run. MB counts every array read or written once, GFLOP a product's multiplications
    and additions.
    """
    from pyalexnet import backend, nets
    from pyalexnet.step import listing, plan
    from pyalexnet.step.shards import Shards

    divided = Shards.of("show step", ranks, shards or ranks)
    divided.check("show step", batch_size)
    plan.check_precision("show step", precision, towers)
    arguments = {"towers_norm": True} if towers > 1 and network == "alexnet" else {}
    spec = nets.get(network)(**arguments)
    exact = cast(plan.Precision, precision)
    how: dict[str, Any] = {"precision": exact, "fused": fused, "towers": towers}
    made = plan.make(spec, goal="update", shards=divided, **how)
    chosen_by: Any = backend(kernels) if kernels else None
    columns = 7 if chosen_by else 6
    rows = []
    for number, line in enumerate(listing.lines(made, batch_size // divided.all, chosen_by), 1):
        work = f"{line.flops / 1e9:,.1f}" if line.flops else ""
        arrays = ("\n".join(line.reads), "\n".join(line.writes))
        moved = f"{line.nbytes / 1e6:,.1f}"
        rows.append((str(number), line.operation, *arrays, moved, work, line.choice)[:columns])
    head = ("", *_TEXTS[:3], "MB", "GFLOP", *_TEXTS[3:])[:columns]
    title = f"A training step of {spec.name}: {divided.shown(batch_size)} images, {precision}"
    width = 180 if chosen_by else 140
    print_table(head, rows, texts=_TEXTS, title=title, width=width, rules=True)
