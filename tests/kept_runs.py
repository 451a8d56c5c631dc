"""Runs kept in tests/data, which every later version must be able to continue.

`python tests/kept_runs.py NEW_FOLDER` makes another with the imported version: a run that was
stopped in the middle of an epoch (`checkpoints`, `config.toml`), its data, and the log of the same
run without a stop (`straight.jsonl`).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from pyalexnet import nets
from pyalexnet.nets.layers import LRN, Conv, Dropout, Linear, MaxPool
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.step.net import NetSpec
from pyalexnet.training import start
from pyalexnet.training.progress import Silent
from pyalexnet.training.train import Trainer

STOPPED, STEPS = 4, 12
KEPT = Path(__file__).parent / "data"


def kept_net(classes: int = 4, input_shape: tuple[int, int, int] = (8, 8, 1)) -> NetSpec:
    """Every kind of layer in 2,736 parameters; fixed for good, as the kept checkpoints need it."""
    layers = (
        Conv("conv1", 8, 5, pad=2, activation="relu", std=0.005),
        MaxPool("pool1", 3, 2),
        LRN("norm1", 5, alpha=0.02, beta=0.75, k=1),
        Conv("conv2", 16, 3, pad=1, groups=2, activation="relu", std=0.15),
        MaxPool("pool2", 3, 2),
        Linear("fc3", 28, activation="relu", std=0.1),
        Dropout("drop3", keep=0.8),
        Linear("fc4", classes, std=0.1),
    )
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        momentum=0.9,
        rate=Rate(lr_w=0.01, lr_b=0.02, decay_w=5e-4),
        rates={"conv1": Rate(lr_w=1e-5, lr_b=0.01, decay_w=5e-4)},
        schedule=Steps(((1, 0.5),)),
    )
    return NetSpec("kept", input_shape, classes, layers, recipe)


def make(folder: Path) -> None:
    from training import photographs

    nets._NETS["kept"] = kept_net
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = photographs(Path(scratch) / "data.npz", side=8)
        straight, stopped = _ran(Path(scratch), data, STEPS), _ran(Path(scratch), data, STOPPED)
        shutil.copy(data, folder)
        shutil.copy(straight / "log.jsonl", folder / "straight.jsonl")
        shutil.copy(stopped / "config.toml", folder)
        shutil.copytree(stopped / "checkpoints", folder / "checkpoints")


def _ran(out: Path, data: Path, steps: int) -> Path:
    choices = {"net": "kept", "data": str(data), "backend": "cpu", "print_freq": 1}
    from training import without_pictures

    trainer: Trainer = start.new(choices, out=out, config=None, reporter=Silent())
    without_pictures(trainer)
    with trainer.folder, trainer.interrupt:
        trainer.fit(steps)
    return trainer.folder.path


if __name__ == "__main__":
    make(Path(sys.argv[1]))
