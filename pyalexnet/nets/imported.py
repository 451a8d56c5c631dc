"""A network of another program that matches none of ours: its layers, written out in the run.

A layer is a table of plain values, for JSON and TOML: its `kind`, the name of its class, and its
options that differ from the defaults, such as {"kind": "LRN", "name": "norm1", "size": 3, "alpha":
1e-5, "beta": 0.5, "k": 2.0}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.nets import layers as kinds
from pyalexnet.nets import presets
from pyalexnet.nets.layers import Layer, Linear
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import integer

_KINDS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(kinds.AvgPool, kinds.Conv, kinds.Dropout, kinds.LRN, kinds.Linear, kinds.MaxPool),
        *(kinds.RNorm, kinds.Relu, kinds.Scale, kinds.Tanh),
    )
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
    """
    found = [_layer(table) for table in layers]
    if found and isinstance(found[-1], Linear):
        found[-1] = replace(found[-1], outputs=classes)
    recipe = presets.get("caffe").recipe
    assert recipe.augment is not None
    stored = max(recipe.augment.stored, integer("imported", "crop", crop, low=1))
    recipe = replace(recipe, augment=replace(recipe.augment, stored=stored))
    return NetSpec("imported", input_shape or (crop, crop, 3), classes, tuple(found), recipe)


def tables(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Tables from which `imported` makes these layers."""
    return [_table(layer) for layer in layers]


def _table(layer: Any) -> dict[str, Any]:
    values = {each.name: (getattr(layer, each.name), each.default) for each in fields(layer)}
    return {"kind": type(layer).__name__} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, usual) in values.items()
        if value != usual
    }


def _layer(table: Mapping[str, Any]) -> Layer:
    try:
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in table.items()
        }
        layer: Layer = _KINDS[options.pop("kind")](**options)
    except (KeyError, TypeError, AttributeError) as error:
        expected = f"a table with a kind out of {', '.join(_KINDS)} and its options"
        said = f"imported: layers has {table!r}; {expected} was expected."
        raise ArgumentError(said) from error
    if not isinstance(layer.name, str):
        raise ArgumentError(f"imported: layers has the name {layer.name!r}; a text was expected.")
    return layer
