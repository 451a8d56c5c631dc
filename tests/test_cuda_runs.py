"""Training runs on a GPU: the bits do not depend on when its streams do their work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training import assert_same, began, fitted, photographs, resumed
from variants import CUDA, in_every_order, on_two_gpus

CHOICES: dict[str, Any] = {"epochs": 1, "fused": True, "workers": 2}


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


@pytest.fixture(scope="module")
def emulated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the same kernels, in sequence."""
    trainer = began(tmp_path_factory.mktemp("emulated"), data, backend="sim", **CHOICES)
    fitted(trainer)
    return trainer.folder.path


@pytest.mark.every(9)
@pytest.mark.parametrize("be", in_every_order(CUDA), indirect=True)
def test_a_run_and_one_that_was_resumed(
    be: Any, data: Path, emulated: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    straight = began(tmp_path / "straight", data, backend=be.name, **CHOICES)
    fitted(straight)
    stopped = began(tmp_path / "stopped", data, backend=be.name, **CHOICES)
    fitted(stopped, 3)
    again = resumed(stopped.folder.path)
    fitted(again)
    assert_same(again.folder.path, straight.folder.path)
    if request.node.get_closest_marker("stand_in"):  # the same kernels
        assert_same(straight.folder.path, emulated)


@pytest.mark.every(9)
@pytest.mark.parametrize("be", on_two_gpus("side", "second"), indirect=True)
def test_a_run_in_two_towers(be: Any, tmp_path: Path) -> None:
    """On two GPUs as on one."""
    coloured = photographs(tmp_path / "coloured.npz", side=67, channels=3)
    runs = []
    for devices in ((0, 0), (0, 1)):
        trainer = began(
            tmp_path / str(devices[1]),
            coloured,
            net="alexnet",
            width=1 / 16,
            dropout=0.5,
            backend=be.name,
            devices=devices,
            workers=2,
        )
        fitted(trainer, 3)
        runs.append(trainer.folder.path)
    assert_same(*runs)
