"""A small AlexNet for images of 28 to 32 pixels, with every part of the paper's network.

The default network: it learns on two CPU cores in minutes.
"""

from __future__ import annotations

from pyalexnet.nets.layers import LRN, Conv, Dropout, Linear, MaxPool
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec


def alexnet_tiny(
    classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3), dropout: float = 0.2
) -> NetSpec:
    """Four convolutions and two linear layers, for colour or greyscale images.

    Instead of the paper's biases of 1, which keep ReLUs alive, weights here start with the
    deviation that preserves the signal's size, sqrt(2 / inputs). alpha is large, so that norms act
    on values near 1.
    """
    layers = (
        Conv("conv1", 32, 5, pad=2, activation="relu", std=0.003),
        MaxPool("pool1", 3, 2),
        LRN("norm1", 5, alpha=0.02, beta=0.75, k=1),
        Conv("conv2", 64, 3, pad=1, groups=2, activation="relu", std=0.12),
        MaxPool("pool2", 3, 2),
        LRN("norm2", 5, alpha=0.02, beta=0.75, k=1),
        Conv("conv3", 96, 3, pad=1, activation="relu", std=0.06),
        Conv("conv4", 64, 3, pad=1, groups=2, activation="relu", std=0.07),
        MaxPool("pool4", 3, 2),
        Linear("fc5", 128, activation="relu", std=0.045),
        *([Dropout("drop5", keep=1 - dropout)] if dropout else []),
        Linear("fc6", classes),
    )
    recipe = Recipe(
        epochs=9,
        batch_size=64,
        momentum=0.9,
        rate=Rate(lr_w=0.03, lr_b=0.03, decay_w=5e-4),
        # Pixels are a hundred times larger than the inputs of other layers, and a step's effect
        # grows with their square.
        rates={"conv1": Rate(lr_w=1e-5, lr_b=0.03, decay_w=5e-4)},
        schedule=Steps(((0, 0.2), (0.6, 1), (3.75, 0.5), (6, 0.2), (7.8, 0.05))),
    )
    return NetSpec("alexnet-tiny", input_shape, classes, layers, recipe)
