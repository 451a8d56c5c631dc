"""AlexNet: the network of the paper's section 3.5, and what others made of it (`presets`)."""

from __future__ import annotations

from pyalexnet.layers import Conv, Linear, MaxPool
from pyalexnet.net import NetSpec
from pyalexnet.nets import presets


def alexnet(
    classes: int = 1000,
    preset: str = "source",
    width: float = 1.0,
    dropout: float = 0.5,
    one_tower: bool = False,
    input_shape: tuple[int, int, int] | None = None,
) -> NetSpec:
    """Five convolutions and three linear layers, 60,965,224 parameters.

    preset: whose conventions. width: of all layers but the last, times the original's. dropout:
    probability of dropping. one_tower: the half-width net of section 3.2. input_shape: the
    preset's where None.
    """
    p = presets.get(preset).sized(width, one_tower)
    k1, k2, k3, k4, k5 = p.maps
    early, towers = p.stage_activation, p.towers
    layers = (
        Conv("conv1", k1, 11, stride=4, pad=p.pad, activation=early, **p.start("conv1")),
        *p.norm("norm1"),
        MaxPool("pool1", 3, 2),
        *p.stage_relu("relu1"),
        Conv("conv2", k2, 5, pad=2, groups=towers, activation="relu", **p.start("conv2")),
        *p.norm("norm2"),
        *p.norm_within_maps("rnorm2"),
        MaxPool("pool2", 3, 2),
        Conv("conv3", k3, 3, pad=1, activation="relu", **p.start("conv3")),
        Conv("conv4", k4, 3, pad=1, groups=towers, activation="relu", **p.start("conv4")),
        Conv("conv5", k5, 3, pad=1, groups=towers, activation=early, **p.start("conv5")),
        MaxPool("pool5", 3, 2),
        *p.stage_relu("relu5"),
        *p.drop("drop6", dropout, before=True),
        Linear("fc6", p.units, activation="relu", **p.start("fc6")),
        *p.drop("drop6", dropout, before=False),
        *p.drop("drop7", dropout, before=True),
        Linear("fc7", p.units, activation="relu", **p.start("fc7")),
        *p.drop("drop7", dropout, before=False),
        Linear("fc8", classes, **p.start("fc8")),
    )
    shape = (p.input_size, p.input_size, 3) if input_shape is None else input_shape
    return NetSpec("alexnet", shape, classes, layers, p.recipe)
