"""A network of another program that matches none of ours: its layers, written out in the run.

A layer is a table of plain values, for JSON and TOML: its `kind`, the name of its class, and its
options that differ from the defaults, such as {"kind": "LRN", "name": "norm1", "size": 3, "alpha":
1e-5, "beta": 0.5, "k": 2.0}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.nets import presets
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import integer

_KINDS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (AvgPool, Conv, Dropout, LRN, Linear, MaxPool, RNorm, Relu, Scale, Tanh)
}


def imported(
    classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
    *,
    crop: int = 227,
    layers: Sequence[Mapping[str, Any]] = (),
) -> NetSpec:
    """The network of these layers; if the last is linear, it has `classes` outputs.

    It trains as BVLC's reference model did. crop: height and width of the input if there is no
    input_shape (H, W, C).

    Raises:
        ArgumentError: a table does not describe a layer, or layers do not fit each other.
    """
    found = [_layer(table) for table in layers]
    if found and isinstance(found[-1], Linear):
        found[-1] = dataclasses.replace(found[-1], outputs=classes)
    recipe = presets.get("caffe").recipe
    assert recipe.augment is not None
    stored = max(recipe.augment.stored, integer("imported", "crop", crop, low=1))
    recipe = dataclasses.replace(recipe, augment=dataclasses.replace(recipe.augment, stored=stored))
    return NetSpec("imported", input_shape or (crop, crop, 3), classes, tuple(found), recipe)


def tables(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Tables from which `imported` makes these layers."""
    return [_table(layer) for layer in layers]


def _table(layer: Any) -> dict[str, Any]:
    values = {each.name: getattr(layer, each.name) for each in dataclasses.fields(layer)}
    usual = {each.name: each.default for each in dataclasses.fields(layer)}
    return {"kind": type(layer).__name__} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != usual[name]
    }


def _layer(table: Mapping[str, Any]) -> Layer:
    try:
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in table.items()
            if name != "kind"
        }
        layer: Layer = _KINDS[table["kind"]](**options)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"imported: layers has {table!r}; a table with a kind out of {', '.join(_KINDS)} and "
            "its options was expected."
        ) from error
    if not isinstance(layer.name, str):
        raise ArgumentError(f"imported: layers has the name {layer.name!r}; a text was expected.")
    return layer
