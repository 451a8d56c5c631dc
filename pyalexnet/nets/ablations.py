"""Changes to AlexNet besides its preset: the experiments of the paper and of the 2012 program.

Each function takes a preset and returns the changed one; a value that fits no experiment is
refused. #148 is the run of the 2012 program with `layer-params-148.cfg`, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.presets import Neuron, Preset
from pyalexnet.ops.checks import real

NORMS = ("norm1", "norm2", "rnorm2")
MIDDLE = ("conv3", "conv4", "conv5", "fc6", "fc7")
READERS = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def neurons(preset: Preset, activation: Neuron, dropout: float | None) -> Preset:
    """ReLU, or the paper's figure 1's tanh; another probability of dropping, 0 for none."""
    if activation not in ("relu", "tanh"):
        raise ArgumentError(f"alexnet: activation is {activation!r}; relu or tanh was expected.")
    if dropout is None:
        dropout = preset.dropout
    dropout = real("alexnet", "dropout", dropout, low=0, high=1)
    return replace(preset, activation=activation, dropout=dropout)


def normed(preset: Preset, lrn: bool | str | Sequence[str] | None, per_tower: bool) -> Preset:
    """Response norms after conv1 and conv2, after one of them, or none.

    rnorm2 comes with norm2 if the preset has it: the paper's "without response normalisation" was
    measured without all three (#148 of the source). Named explicitly, it is kept without norm2 too.

    per_tower: windows end at a tower's edge, as they must if each tower has its own device.
    """
    if per_tower:
        preset = replace(preset, lrn_per_tower=True)
    if lrn is None:
        return preset
    both = {True: NORMS[:2], False: ()}
    named = both[lrn] if isinstance(lrn, bool) else _names("lrn", lrn, NORMS)
    if "norm2" in named and "rnorm2" in preset.norms:
        named = (*named, "rnorm2")
    norms = tuple(name for name in NORMS if name in named)
    return replace(preset, norms=norms)


def pooled(preset: Preset, pooling: str) -> Preset:
    """Overlapping pools, 3 wide and 2 apart, or the non-overlapping ones of section 3.4.

    For the latter #147 of the source padded conv2 by 1 and conv5 by 0, so that conv3 and fc6 see
    maps of unchanged size.
    """
    if pooling == "3/2":
        return preset
    if pooling == "2/2":
        return replace(preset, pool=(2, 2), pad2=1, pad5=0)
    raise ArgumentError(f"alexnet: pooling is {pooling!r}; 3/2 or 2/2 was expected.")


def shortened(preset: Preset, without: str | Sequence[str]) -> Preset:
    """Middle layers left out, with their neuron and dropout (paper, section 7).

    The layer after reads the layer before. rnorm2, the norm that the paper does not mention, can be
    left out too.
    """
    return replace(preset, without=_names("without", without, (*MIDDLE, "rnorm2")))


def exchanging(preset: Preset, exchange: str | Sequence[str] | None, one_tower: bool) -> Preset:
    """Which layers read both towers; fc8 always does.

    If only fc8 does, conv2 has 5/4 of the maps and fc6 twice the units, as in #150 of the source,
    to make up for the missing weights of conv3, fc6 and fc7.
    """
    if exchange is None:
        return preset
    if preset.towers == 1 or one_tower:
        raise ArgumentError(
            f"alexnet: exchange is {exchange!r}; with a single tower None was expected."
        )
    named = _names("exchange", exchange, (*READERS, "none"))
    if "none" in named and len(named) > 1:
        raise ArgumentError(
            f"alexnet: exchange is {', '.join(named)}; none or names of layers were expected."
        )
    if gone := [name for name in named if name in preset.without]:
        said = f"alexnet: exchange names {gone[0]}, which is left out"
        raise ArgumentError(f"{said}; layers of the network were expected.")
    readers = tuple(name for name in READERS if name in named or name == "fc8")
    if readers == ("fc8",):
        k1, k2, k3, k4, k5 = preset.maps
        maps, units = (k1, k2 * 5 // 4, k3, k4, k5), (2 * preset.units[0], preset.units[1])
        preset = replace(preset, maps=maps, units=units)
    return replace(preset, exchange=readers)


def _names(argument: str, value: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """`value`, a name or several, as a tuple of names that are `known`, each once."""
    named = (value,) if isinstance(value, str) else tuple(value)
    for name in named:
        if name not in known:
            raise ArgumentError(
                f"alexnet: {argument} names {name!r}; some of {', '.join(known)} were expected."
            )
    return tuple(dict.fromkeys(named))
