"""Where the image signal dies: numbers by hand, and networks for which this is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet import data, nets
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Dropout, Linear
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from pyalexnet.trained.signals import IMAGES, Units, chance_sentence, survey, verdict

RECIPE = Recipe(epochs=1, batch_size=4, momentum=0.9, rate=Rate(0.1, 0.1, 0))


def two_units(keep: float = 0.5, *, b: tuple[float, float] = (3.0, -1.0)) -> Net:
    """One pixel x; units x + b0 and b1 with a ReLU, dropout, and their own logits."""
    layers = (
        Linear("fc1", 2, activation="relu"),
        Dropout("drop1", keep=keep),
        Linear("fc2", 2),
    )
    net = Net(NetSpec("two", (1, 1, 1), 2, layers, RECIPE))
    net.load(
        {
            "fc1.w": np.array([[1.0], [0.0]], np.float32),
            "fc1.b": np.array(b, np.float32),
            "fc2.w": np.eye(2, dtype=np.float32),
            "fc2.b": np.zeros(2, np.float32),
        }
    )
    return net


def pixels(*values: float) -> Any:
    """Images of one pixel."""
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def photographs(spec: NetSpec) -> Any:
    """Built-in photographs as large as the network's input, in its channels, minus their mean."""
    height, width, channels = spec.input_shape
    small = data.load(None, image_size=None).train.images[:IMAGES].astype(np.float32)
    rows = np.arange(height) * small.shape[1] // height
    columns = np.arange(width) * small.shape[2] // width
    large = small[:, rows][:, :, columns]
    images = large[..., :1].repeat(channels, axis=3)
    return np.ascontiguousarray(images - images.mean(axis=0))


def by_layer(rows: tuple[Units, ...]) -> dict[str, Units]:
    return {row.layer: row for row in rows}


def test_numbers_by_hand() -> None:
    """Pixels 1 and -1: fc1 gives (4, 0) and (2, 0); evaluation halves it."""
    rows = by_layer(survey(two_units(), pixels(1, -1, 1, -1)))
    assert list(rows) == ["images", "fc1", "drop1", "fc2"]
    for layer, factor in (("fc1", 1.0), ("drop1", 0.5), ("fc2", 0.5)):
        row = rows[layer]
        assert row.mean == 1.5 * factor
        assert math.isclose(row.rms, math.sqrt(5) * factor)
        assert math.isclose(row.signal, math.sqrt(0.5) * factor)
        assert math.isclose(row.share, math.sqrt(0.1))
        assert (row.active, row.alive) == (0.5, 0.5)
    assert rows["images"].signal == rows["images"].rms == 1
    fc1 = rows["fc1"]
    assert (fc1.fan_in, fc1.std, fc1.bias) == (1, 0.5, 2.0)
    assert (rows["drop1"].fan_in, rows["images"].fan_in) == (None, None)


def test_alive_is_above_zero_for_some_image() -> None:
    row = by_layer(survey(two_units(b=(0.0, 1.0)), pixels(1, -1, -1, -1)))["fc1"]
    assert (row.active, row.alive) == (0.625, 1.0)


def test_noise_is_that_of_the_masks_at_one_image() -> None:
    """A unit at 4, kept half of the time, deviates by 2, its neighbour at 0 not at all.

    Of 32 masks a share p is kept: sqrt(p (1 - p)) is 1/2 up to a term in (p - 1/2)^2, less than
    a fifth of it for p within 4 deviations of 1/2.
    """
    rows = by_layer(survey(two_units(), pixels(*[1, -1] * 16)))
    for layer in ("drop1", "fc2"):
        assert math.isclose(rows[layer].noise, math.sqrt(2), rel_tol=0.3)
    assert rows["fc1"].noise == rows["images"].noise == 0
    assert rows["fc2"].noise_to_signal == rows["fc2"].noise / rows["fc2"].signal
    without = by_layer(survey(two_units(keep=1.0), pixels(*[1, -1] * 16)))
    assert [row.noise for row in without.values()] == [0, 0, 0, 0]


def test_needs_images() -> None:
    with pytest.raises(ArgumentError, match="images has 1; at least 2"):
        survey(two_units(), pixels(1))


def test_only_the_first_images_count() -> None:
    few = survey(two_units(), pixels(*[1, -1] * 16))
    assert survey(two_units(), pixels(*[1, -1] * 16, 100, 200)) == few


# Networks


@pytest.mark.parametrize("seed", [0, 1])
def test_paper_at_a_quarter_of_its_width_dies_in_conv4(seed: int) -> None:
    """Its loss is known to stay at chance."""
    spec = nets.alexnet(classes=10, preset="paper", width=0.25)
    rows = survey(Net(spec, seed=seed), photographs(spec))
    found = verdict(rows)
    assert (found.state, found.layer) == ("dead", "conv4")
    assert "0.068 = sqrt(2 / 432) instead of 0.01" in found.sentence
    assert "smaller biases than 1" in found.sentence and "--preset source" in found.sentence
    assert by_layer(rows)["conv4"].active > 0.99


def test_source_at_a_quarter_of_its_width_is_faint() -> None:
    """It learns, slowly at first, held back by its narrow fc7, which no preset mends."""
    spec = nets.alexnet(classes=10, width=0.25)
    found = verdict(survey(Net(spec), photographs(spec)))
    assert (found.state, found.layer) == ("faint", "fc7")
    assert "--preset" not in found.sentence


@pytest.mark.slow
def test_presets_at_full_width() -> None:
    for preset, state, layer in [("source", "healthy", None), ("paper", "faint", "conv4")]:
        spec = nets.alexnet(classes=10, preset=preset)
        found = verdict(survey(Net(spec), photographs(spec)))
        assert (found.state, found.layer) == (state, layer), found.sentence


@pytest.mark.parametrize("name", [name for name in nets.names() if name != "alexnet"])
def test_small_networks_are_healthy(name: str) -> None:
    spec = nets.get(name)()
    found = verdict(survey(Net(spec), photographs(spec)))
    assert (found.state, found.layer) == ("healthy", None), found.sentence
    assert "healthy" in found.sentence


@pytest.mark.parametrize("layer", ["conv2", "conv4", "fc5"])
def test_names_the_layer_that_was_spoilt(layer: str) -> None:
    spec = nets.get("alexnet-tiny")()
    net = Net(spec)
    net.load({**net.params, f"{layer}.b": net.params[f"{layer}.b"] + 1e5})
    found = verdict(survey(net, photographs(spec)))
    assert (found.state, found.layer) == ("dead", layer), found.sentence


@pytest.mark.parametrize("layer", ["conv3", "fc6"])
def test_names_the_layer_whose_weights_are_too_small(layer: str) -> None:
    """Without biases nothing drowns the signal; it just vanishes."""
    spec = nets.get("alexnet-tiny")()
    net = Net(spec)
    net.load({**net.params, f"{layer}.w": net.params[f"{layer}.w"] * np.float32(1e-8)})
    found = verdict(survey(net, photographs(spec)))
    assert (found.state, found.layer) == ("dead", layer), found.sentence
    assert "try wider initial weights" in found.sentence


def test_units_that_are_never_above_zero() -> None:
    spec = nets.get("alexnet-tiny")()
    net = Net(spec)
    net.load({**net.params, "conv4.b": net.params["conv4.b"] - 1e5})
    found = verdict(survey(net, photographs(spec)))
    assert (found.state, found.layer) == ("dead", "conv4")
    assert "none of its units is above 0" in found.sentence


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_names_the_first_layer_that_is_not_finite(value: float) -> None:
    net = two_units()
    net.load({**net.params, "fc2.b": np.array([value, 0], np.float32)})
    found = verdict(survey(net, pixels(1, -1)))
    assert (found.state, found.layer) == ("not finite", "fc2")
    assert found.sentence == "fc2 is the first layer whose outputs are not finite"


def test_images_that_are_all_alike() -> None:
    found = verdict(survey(two_units(), pixels(1, 1, 1)))
    assert (found.state, found.layer) == ("dead", "images")


# What a run says when it stops


def chance(net: Net, images: Any) -> str:
    return chance_sentence(
        net, images, step=700, steps=500, loss=2.3051, chance=2.3026, run=Path("runs/one")
    )


def test_sentence_of_a_run_at_chance() -> None:
    net = two_units(b=(1e5, 0.0))
    sentence = chance(net, pixels(1, -1, 1))
    for part in (
        "step 700: the loss is 2.3051 and has been at chance, 2.3026, for 500 steps",
        "dies in fc1",
        "smaller biases",
        "pyalexnet doctor --init runs/one",
        "--chance-steps 0",
    ):
        assert part in sentence, sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")


def test_sentence_where_the_signal_is_healthy() -> None:
    assert "another learning rate" in chance(two_units(), pixels(1, -1))


def test_rows_can_be_made_by_hand() -> None:
    """The verdict needs only rows."""
    image = Units("images", 50, 60, 60, 0, 0.5, 1)
    first = Units("a", 1, 1, 0.5, 0, 0.5, 1, fan_in=8, std=0.5, bias=0.0)
    last = dataclasses.replace(first, layer="b", signal=0.02)
    assert verdict((image, first, last)).state == "healthy"
    assert verdict((image, first, dataclasses.replace(last, signal=0.0199)))[0] == "b"


@pytest.mark.parametrize(("std", "advised"), [(0.01, True), (0.03, False)])
def test_preset_source_is_advised_to_those_without_it(std: float, advised: bool) -> None:
    image = Units("images", 50, 60, 60, 0, 0.5, 1)
    conv4 = Units("conv4", 1, 1, 0.01, 0, 0.5, 1, fan_in=432, std=std, bias=1.0)
    assert ("--preset source" in verdict((image, conv4)).sentence) == advised
