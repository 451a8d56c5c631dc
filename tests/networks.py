"""Checkpoints of small networks, trained or not, for tests that use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image
from typer.testing import CliRunner

from pyalexnet import nets
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.step.net import Net
from samples import generator

SIDE, STORED = 14, 20
CLASS_NAMES = ("ant", "bee", "cat", "dog")

CROPPED = {"stored": STORED, "mean": "centre"}
"""An `augment` table of a checkpoint: the 14 x 14 input is cropped from 20 x 20."""


def written(
    folder: Path,
    *,
    seed: int = 0,
    step: int = 1,
    channels: int = 3,
    augment: dict[str, Any] | None = CROPPED,
    data: str | None = "",
    class_names: tuple[str, ...] = CLASS_NAMES,
    best_step: int | None = None,
) -> Path:
    """Write a run folder with a checkpoint of a net with random weights; returns the folder."""
    spec = nets.get("alexnet-tiny")(classes=len(class_names), input_shape=(SIDE, SIDE, channels))
    net = Net(spec, "cpu", seed)
    draws = generator(seed, 17)
    # The last layer's usual small weights would leave the classes almost equally probable.
    params = {name: np.array(value) for name, value in net.params.items()}
    params["fc6.w"] = draws.normal(0, 0.5, params["fc6.w"].shape).astype(np.float32)
    side = SIDE if augment is None else augment["stored"]
    mean = draws.uniform(90, 150, (side, side, channels)).astype(np.float32)
    recipe = {} if augment is None else {"augment": augment}
    meta = Meta(
        net="alexnet-tiny",
        classes=len(class_names),
        class_names=class_names,
        input_shape=spec.input_shape,
        step=step,
        epoch=1,
        config={"recipe": recipe} | ({} if data is None else {"data": data, "seed": 0}),
        metrics={"best_step": best_step},
    )
    momentum = {name: np.zeros_like(value) for name, value in params.items()}
    checkpoint.save(folder / "checkpoints", Checkpoint(params, momentum, mean, meta))
    (folder / "config.toml").write_text("")
    return folder


def pictures(count: int, *, side: int = STORED, channels: int = 3, seed: int = 0) -> Any:
    """Images (n, side, side, C) uint8 of coarse blotches, which survive being resized."""
    coarse = generator(seed, count, 5).integers(0, 256, (count, 5, 5, channels), np.uint8)
    scale = -(-side // 5)
    return coarse.repeat(scale, axis=1).repeat(scale, axis=2)[:, :side, :side].copy()


def npz(path: Path, *, per_class: int = 5, channels: int = 3, side: int = STORED) -> Path:
    """A data set of the classes, including their names."""
    count = per_class * len(CLASS_NAMES)
    labels = np.arange(count) % len(CLASS_NAMES)
    images = pictures(2 * count, side=side, channels=channels)
    np.savez(
        path,
        images=images[:count],
        labels=labels,
        test_images=images[count:],
        test_labels=labels,
        class_names=np.array(CLASS_NAMES),
    )
    return path


def files(folder: Path, images: Any) -> list[Path]:
    """Images as PNG files, which are lossless."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(paths[-1])
    return paths


def invoked(command: Callable[..., None], *arguments: object) -> Any:
    """Run a command in this process; refusals are raised, as `cli.main` sees them."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result
