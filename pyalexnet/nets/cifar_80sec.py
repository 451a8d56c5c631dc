"""cuda-convnet's 80-second CIFAR-10 network: 26 % error then, on one GTX 580.

Source: `example-layers/layers-80sec.cfg` and `layer-params-80sec.cfg`, whose comment gives the
division by 10 after 8 epochs. The total of ten epochs is Caffe's for this net (`cifar10_quick`).
"""

from __future__ import annotations

from pyalexnet.nets.layers import AvgPool, Conv, Linear, MaxPool, Relu
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec


def cifar_80sec(classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3)) -> NetSpec:
    """Three convolutions and two linear layers, 145,578 parameters."""
    layers = (
        Conv("conv1", 32, 5, pad=2, std=0.0001),
        MaxPool("pool1", 3, 2),
        Relu("relu1"),
        Conv("conv2", 32, 5, pad=2, activation="relu"),
        AvgPool("pool2", 3, 2),
        Conv("conv3", 64, 5, pad=2, activation="relu"),
        AvgPool("pool3", 3, 2),
        Linear("fc64", 64, activation="relu", std=0.1),
        Linear("fc10", classes, std=0.1),
    )
    linear = Rate(lr_w=0.001, lr_b=0.002, decay_w=0.03)
    recipe = Recipe(
        epochs=10,
        batch_size=128,
        momentum=0.9,
        rate=Rate(lr_w=0.001, lr_b=0.002, decay_w=0.004),
        rates={"fc64": linear, "fc10": linear},
        schedule=Steps(((8, 0.1),)),
    )
    return NetSpec("cifar-80sec", input_shape, classes, layers, recipe)
