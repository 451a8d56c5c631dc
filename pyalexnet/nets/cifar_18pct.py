"""cuda-convnet's CIFAR-10 network with 18 % error, in 20 minutes on one GTX 580.

Source: `example-layers/layers-18pct.cfg` and `layer-params-18pct.cfg`, whose comment gives the
divisions by 10. Its `scale` of a same-map norm is divided by the 3 x 3 pixels of the window.
"""

from __future__ import annotations

from pyalexnet.nets.layers import AvgPool, Conv, Linear, MaxPool, Relu, RNorm
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec


def cifar_18pct(classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3)) -> NetSpec:
    """The network with 19 %, plus a response norm after pool1 and pool2, 89,578 parameters."""
    layers = (
        Conv("conv1", 32, 5, pad=2, std=0.0001),
        MaxPool("pool1", 3, 2),
        Relu("relu1"),
        RNorm("rnorm1", 3, alpha=5e-5 / 9, beta=0.75, k=1),
        Conv("conv2", 32, 5, pad=2, activation="relu"),
        AvgPool("pool2", 3, 2),
        RNorm("rnorm2", 3, alpha=5e-5 / 9, beta=0.75, k=1),
        Conv("conv3", 64, 5, pad=2, activation="relu"),
        AvgPool("pool3", 3, 2),
        Linear("fc10", classes),
    )
    recipe = Recipe(
        epochs=140,
        batch_size=128,
        momentum=0.9,
        rate=Rate(lr_w=0.001, lr_b=0.002, decay_w=0.004),
        rates={"fc10": Rate(lr_w=0.001, lr_b=0.002, decay_w=1)},
        schedule=Steps(((120, 0.1), (130, 0.01))),
    )
    return NetSpec("cifar-18pct", input_shape, classes, layers, recipe)
