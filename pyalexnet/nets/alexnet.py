"""AlexNet: the network of the paper's section 3.5, and others' versions of it (`presets`)."""

from __future__ import annotations

from collections.abc import Sequence

from pyalexnet.nets import ablations, presets
from pyalexnet.nets.layers import Conv, Linear, MaxPool
from pyalexnet.nets.spec import NetSpec


def alexnet(
    classes: int = 1000,
    preset: str = "source",
    width: float = 1.0,
    dropout: float | None = None,
    one_tower: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    *,
    activation: presets.Neuron = "relu",
    lrn: bool | Sequence[str] | None = None,
    pooling: str = "3/2",
    without: Sequence[str] = (),
    exchange: Sequence[str] | None = None,
    towers_norm: bool = False,
) -> NetSpec:
    """Five convolutions and three linear layers, 60,965,224 parameters.

    preset: whose conventions; they apply to all arguments that are None. width: of all layers but
    the last, times the original's. dropout: probability of dropping. one_tower: the half-width net
    of section 3.2. input_shape: (H, W, C). The rest are experiments, described in `ablations`:
    activation (relu, tanh), lrn (all, none or the names of those to keep), pooling (3/2, 2/2),
    without (middle layers to leave out), exchange (layers that read both towers), towers_norm
    (norms end at a tower's edge).
    """
    p = ablations.neurons(presets.get(preset), activation, dropout)
    p = ablations.normed(p, lrn, towers_norm)
    p = ablations.pooled(p, pooling)
    p = ablations.shortened(p, without)
    p = ablations.exchanging(p, exchange, one_tower).sized(width, one_tower)
    shape = (p.input_size, p.input_size, 3) if input_shape is None else input_shape
    k1, k2, k3, k4, k5 = p.maps
    layers = (
        *p.scaled_pixels(),
        Conv("conv1", k1, 11, stride=4, pad=p.pad, **p.of("conv1")),
        *p.norm("norm1"),
        MaxPool("pool1", *p.pool),
        *p.late_activation(1),
        Conv("conv2", k2, 5, pad=p.pad2, **p.of("conv2")),
        *p.norm("norm2"),
        *p.norm("rnorm2"),
        MaxPool("pool2", *p.pool),
        Conv("conv3", k3, 3, pad=1, **p.of("conv3")),
        Conv("conv4", k4, 3, pad=1, **p.of("conv4")),
        Conv("conv5", k5, 3, pad=p.pad5, **p.of("conv5")),
        MaxPool("pool5", *p.pool),
        *p.late_activation(5),
        *p.drop("drop6", before=True),
        Linear("fc6", p.units[0], **p.of("fc6")),
        *p.drop("drop6", before=False),
        *p.drop("drop7", before=True),
        Linear("fc7", p.units[1], **p.of("fc7")),
        *p.drop("drop7", before=False),
        Linear("fc8", classes, **p.of("fc8")),
    )
    return NetSpec("alexnet", shape, classes, p.kept(layers), p.recipe)
