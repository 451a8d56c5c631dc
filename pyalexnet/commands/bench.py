"""`pyalexnet bench`."""

from __future__ import annotations

import typer

from pyalexnet.errors import PyalexnetError


def bench(context: typer.Context) -> None:
    """Time operations and whole steps beside PyTorch and JAX; bench --help says more."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="pyalexnet.commands", name="bench"):
        raise typer.Exit(entry.load()(context.args))
    raise PyalexnetError("The bench is not installed here; in a checkout, run python -m bench.")
