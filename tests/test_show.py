"""The pictures are real pictures of what they claim to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyalexnet import show
from pyalexnet.run import History, Scores
from training import began, environment, fitted, photographs


def pixels(path: Path) -> np.ndarray:
    """A PNG's pixels (H, W, 3), 0 to 255; fails on anything else."""
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"))


def share(image: np.ndarray, colour: str) -> float:
    """The share of an image's pixels that are very nearly of a colour (#rrggbb)."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(image.astype(int) - wanted).max(axis=2) < 12).mean())


def falling(epochs: int) -> History:
    history = History()
    for step in range(1, 4 * epochs + 1):
        at = step / 4
        history.steps.append((at, Scores(2.3 * 0.7**at, 0.9 * 0.7**at, 0.1)))
        if step % 4 == 0:
            test = Scores(2.3 * 0.75**at, 0.9 * 0.75**at, 0.1)
            history.epochs.append((step // 4, history.steps[-1][1], test))
    return history


def test_curves_show_both_lines_falling(tmp_path: Path) -> None:
    show.curves(falling(8), tmp_path / "curves.png", title="a net on some data")
    image = pixels(tmp_path / "curves.png")
    height, width, _ = image.shape
    assert (height, width) > (600, 1200)
    for half in (image[:, : width // 2], image[:, width // 2 :]):
        for colour in (show.TRAIN, show.TEST):
            assert share(half, colour) > 1e-3
        wanted = [int(show.TEST[i : i + 2], 16) for i in (1, 3, 5)]
        rows, columns = np.nonzero(np.abs(half.astype(int) - wanted).max(axis=2) < 12)
        plotted = rows > height * 0.3  # below the legend
        left, right = np.percentile(columns[plotted], (10, 90))
        assert rows[plotted & (columns <= left)].mean() < rows[plotted & (columns >= right)].mean()


def test_curves_before_the_first_epoch_ends(tmp_path: Path) -> None:
    history = History(steps=[(0.1, Scores(2.3, 0.9, 0.5))])
    show.curves(history, tmp_path / "curves.png", title="one step")
    assert pixels(tmp_path / "curves.png").std() > 0


@pytest.mark.parametrize("shape", [(96, 11, 11, 3), (32, 5, 5, 1), (7, 3, 3, 4), (1, 1, 1, 1)])
def test_filters_make_a_picture(shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    show.filters(weights, tmp_path / "filters.png", title="conv1")
    image = pixels(tmp_path / "filters.png")
    assert image.shape[1] > 1000
    coloured = (image.max(axis=2).astype(int) - image.min(axis=2)).max() > 60
    assert coloured == (shape[3] == 3)
    assert image.std() > 5


def test_tiles_stand_in_order_and_zero_is_middle_grey() -> None:
    weights = np.zeros((6, 2, 2, 3), np.float32)
    for number in range(5):
        weights[number, 0, 0, number % 3] = (number + 1) * (-1) ** number
    sheet = show.sheet(weights, columns=3)
    height, width = sheet.shape[0] / 2, sheet.shape[1] / 3
    for number in range(6):
        row, column = divmod(number, 3)
        tile = sheet[
            round(row * height) : round((row + 1) * height),
            round(column * width) : round((column + 1) * width),
        ]
        rows, columns = tile.shape[:2]
        expected = [0.5, 0.5, 0.5]
        if number < 5:
            expected[number % 3] = number % 2 == 0
        assert np.array_equal(tile[rows // 4, columns // 4], expected)
        assert np.array_equal(tile[rows // 4, columns * 5 // 8], [0.5, 0.5, 0.5])


def test_a_picture_takes_the_place_of_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "filters.png"
    show.filters(np.ones((4, 3, 3, 1)), path, title="first")
    first = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", full)
        with pytest.raises(OSError, match="No space left"):
            show.filters(np.ones((4, 3, 3, 1)), path, title="second")
    assert [file.name for file in tmp_path.iterdir()] == ["filters.png"]
    assert path.read_bytes() == first


def test_any_title_can_be_drawn(tmp_path: Path) -> None:
    show.curves(falling(2), tmp_path / "curves.png", title="costs $\\frac{ in 写真 $x_$")
    assert pixels(tmp_path / "curves.png").std() > 0


def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    trainer = began(tmp_path, photographs(tmp_path / "q.npz", channels=3), epochs=1)
    fitted(trainer)
    for name in ("curves.png", "filters.png"):
        assert pixels(trainer.folder.path / name).std() > 5


def test_without_matplotlib_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trainer = began(tmp_path, photographs(tmp_path / "q.npz"), epochs=1)
    assert fitted(trainer).finished
    assert not (trainer.folder.path / "curves.png").exists()


def test_matplotlib_is_not_imported_before_a_picture_is_drawn() -> None:
    code = "import sys, pyalexnet.cli, pyalexnet.start; print('matplotlib' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
