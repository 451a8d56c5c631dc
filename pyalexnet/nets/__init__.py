"""The networks by name, one per file, each with the recipe that trains it."""

from __future__ import annotations

from collections.abc import Callable

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.alexnet import alexnet as alexnet
from pyalexnet.nets.alexnet_tiny import alexnet_tiny as alexnet_tiny
from pyalexnet.nets.cifar_18pct import cifar_18pct as cifar_18pct
from pyalexnet.nets.cifar_19pct import cifar_19pct as cifar_19pct
from pyalexnet.nets.cifar_80sec import cifar_80sec as cifar_80sec
from pyalexnet.nets.imported import imported as imported
from pyalexnet.nets.spec import NetSpec

_NETS: dict[str, Callable[..., NetSpec]] = {
    make.__name__.replace("_", "-"): make
    for make in (alexnet_tiny, cifar_80sec, cifar_19pct, cifar_18pct, alexnet)
}


def names() -> tuple[str, ...]:
    """Names that `get` knows; the first is the default network."""
    return tuple(_NETS)


def get(name: str) -> Callable[..., NetSpec]:
    """The function that makes the network `name`; all of them take `classes` and `input_shape`.

    `imported`, which users do not choose, holds networks of other programs.
    """
    if name == "imported":
        return imported
    if name not in _NETS:
        raise ArgumentError(f"net is {name!r}; one of {', '.join(_NETS)} was expected.")
    return _NETS[name]
