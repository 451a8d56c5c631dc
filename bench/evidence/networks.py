"""From a claim's settings to a network: one of `pyalexnet.nets`, with layers changed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from pyalexnet import nets
from pyalexnet.errors import ArgumentError
from pyalexnet.nets import layers
from pyalexnet.nets.layers import Conv, Layer, Linear
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.nets.spec import NetSpec

from .claim import Settings

_OF_RECIPE = set(inspect.signature(Recipe.override).parameters) - {"self"}
_OF_AUGMENT = {each.name for each in fields(Augment)}
# Settings that are not the network's: see `training`.
_OF_TRAINING = {"crop", "stop_below", "ten_crop"}
# Those of `build` itself.
_OWN = {"net", "layers", "widened"}


def build(settings: Settings, classes: int, stored: tuple[int, int, int]) -> NetSpec:
    """The network, with its recipe, for stored images (H, W, C).

    Settings are `net`; arguments of its function; those of `Recipe.override`; fields of `Augment`;
    `crop`, the side of what augmentation shows to the network; `layers`, see `changed`; and
    `widened`, true for initial deviations that suit a network smaller than its original.
    """
    height, width, channels = stored
    side = settings.get("crop", 0)
    spec = _made(settings, classes, input_shape=(side or height, side or width, channels))
    recipe = spec.recipe.override(**_some(settings, _OF_RECIPE))
    if recipe.augment is not None:
        augment = {"stored": min(height, width), **_some(settings, _OF_AUGMENT)}
        recipe = replace(recipe, augment=replace(recipe.augment, **augment))
    spec = replace(spec, recipe=recipe)
    return _widened(spec, _made(settings, classes, width=1.0)) if settings.get("widened") else spec


def _made(settings: Settings, classes: int, **own: Any) -> NetSpec:
    """The network of the settings, with its own recipe. own: arguments that replace theirs."""
    make, given = nets.get(settings["net"]), arguments(settings)
    known = given.keys() | _OF_RECIPE | _OF_AUGMENT | _OF_TRAINING | _OWN
    if odd := sorted(settings.keys() - known):
        raise ArgumentError(f"{settings['net']} has no setting {odd[0]}.")
    spec = make(classes=classes, **{**given, **own})
    return changed(spec, settings.get("layers", {}))


def _widened(spec: NetSpec, original: NetSpec) -> NetSpec:
    """The network with sums that vary as much as the original's, although they have fewer terms.

    Each deviation is widened by the root of how many times more inputs a unit of the original has.
    """

    def inputs(net: NetSpec) -> dict[str, int]:
        return {name: math.prod(shape[1:]) for name, shape in net.param_shapes().items()}

    few, many = inputs(spec), inputs(original)
    changes = {
        layer.name: {"std": layer.std * math.sqrt(many[layer.w] / few[layer.w])}
        for layer in spec.layers
        if isinstance(layer, Conv | Linear) and layer.std != "fan_in"
    }
    return changed(spec, changes)


def arguments(settings: Settings) -> dict[str, Any]:
    """The settings that are arguments of the network's function."""
    return _some(settings, set(inspect.signature(nets.get(settings["net"])).parameters))


def changed(spec: NetSpec, changes: Mapping[str, Any]) -> NetSpec:
    """The network with other layers.

    changes: by a layer's kind or name; the name takes precedence. False leaves the layer out; a
    table sets its fields, and `kind` makes it a layer of another kind with what it had in common.
    """
    names = {key for layer in spec.layers for key in (type(layer).__name__, layer.name)}
    if odd := sorted(changes.keys() - names):
        raise ArgumentError(f"{spec.name} has no layer of the kind or name {odd[0]}.")
    new = []
    for layer in spec.layers:
        wanted = [changes[key] for key in (type(layer).__name__, layer.name) if key in changes]
        if False not in wanted:
            new.append(_with(layer, {k: v for table in wanted for k, v in table.items()}))
    return replace(spec, layers=tuple(new))


def _with(layer: Layer, values: dict[str, Any]) -> Layer:
    kind: Any = getattr(layers, values.pop("kind", type(layer).__name__))
    has = {each.name for each in fields(kind)}
    if odd := sorted(values.keys() - has):
        raise ArgumentError(f"{layer.name} has no {odd[0]}; some of {', '.join(sorted(has))} do.")
    made: Layer = kind(**{**_some(vars(layer), has), **values})
    return made


def _some(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
