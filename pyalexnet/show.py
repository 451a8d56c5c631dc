"""Pictures of a run: its curves, and the first layer's filters as in the paper's figure 3.

matplotlib is imported when a picture is drawn, so that nothing else needs it. Figures are drawn
on Agg without pyplot: no display, no global state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyalexnet.run import History, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#1f2328"
_FAINT = "#d8dbe0"
TRAIN = "#2f6f9f"
TEST = "#c2410c"

_TILE_PIXELS = 64

Array = np.ndarray[Any, np.dtype[Any]]
Points = Sequence[tuple[float, float]]


def curves(history: History, path: Path, *, title: str) -> None:
    """Draw loss and top-1 error, training and test, against epochs into the PNG `path`."""
    figure = _figure(10.0, 4.4, title)
    loss, error = figure.subplots(1, 2)
    _plot(
        loss,
        [(at, train.loss) for at, train in history.steps],
        [(at, test.loss) for at, _, test in history.epochs],
        "{:.3f}",
    )
    _plot(
        error,
        [(at, 100 * train.top1_error) for at, train in history.steps],
        [(at, 100 * test.top1_error) for at, _, test in history.epochs],
        "{:.1f} %",
    )
    loss.set_title("loss, nats", loc="left", fontsize=10, color=_INK)
    error.set_title("top-1 error, %", loc="left", fontsize=10, color=_INK)
    _write(figure, path)


def filters(weights: Array, path: Path, *, title: str) -> None:
    """Draw a first layer's filters (K, R, S, C) as tiles into the PNG `path`.

    Three channels are shown as colours, any other number as the grey of their mean. Each filter
    has its own scale, symmetrical about zero: middle grey is a weight of 0.
    """
    count, height, width, _ = weights.shape
    columns = _columns(count, height, width)
    tiles = sheet(weights, columns)
    inches = 7.0  # the sheet has one width, whatever it shows
    figure = _figure(inches, 0.65 + inches * tiles.shape[0] / tiles.shape[1], title)
    axes = figure.subplots()
    axes.imshow(tiles, interpolation="nearest", aspect="equal")
    axes.set_title("each on its own scale; middle grey is a weight of 0", loc="left", fontsize=9)
    axes.set_axis_off()
    _write(figure, path)


def sheet(weights: Array, columns: int) -> Array:
    """Filters (K, R, S, C) as one picture (height, width, 3) in [0, 1], row by row.

    Each is enlarged and stands on white in a thin frame of middle grey, which is a weight of 0.
    """
    count, _, width, _ = weights.shape
    scale = max(1, round(_TILE_PIXELS / width))
    large = _tints(weights).repeat(scale, axis=1).repeat(scale, axis=2)
    framed = np.pad(large, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.5)
    gap = _TILE_PIXELS // 8
    spaced = np.pad(framed, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1)
    rows = math.ceil(count / columns)
    blank = np.ones((rows * columns - count, *spaced.shape[1:]))
    grid = np.concatenate([spaced, blank]).reshape(rows, columns, *spaced.shape[1:])
    whole = grid.swapaxes(1, 2).reshape(rows * spaced.shape[1], columns * spaced.shape[2], 3)
    return whole[:-gap, :-gap]


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    figure.suptitle(
        title, x=0.01, ha="left", fontsize=11, color=_INK, fontweight="bold", parse_math=False
    )
    return figure


def _plot(axes: Axes, train: Points, test: Points, form: str) -> None:
    """Two lines from zero, each with its name and last value where it ends."""
    axes.plot(*_xy(train), color=TRAIN, linewidth=1.2, label="training, as it went")
    axes.plot(*_xy(test), color=TEST, linewidth=1.6, marker="o", markersize=4, label="test")
    if test:
        at, value = test[-1]
        axes.annotate(
            form.format(value),
            (at, value),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=TEST,
            annotation_clip=False,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epochs", color=_INK)
    axes.locator_params(axis="x", steps=[1, 2, 5, 10])
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.legend(frameon=False, loc="upper right")


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _tints(weights: Array) -> Array:
    """Filters (K, R, S, C) as colours (K, R, S, 3) in [0, 1]; 0.5 is a weight of zero."""
    if weights.shape[3] != 3:
        weights = np.repeat(weights.mean(axis=3, keepdims=True), 3, axis=3)
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * weights / np.where(largest > 0, largest, 1)


def _columns(count: int, height: int, width: int) -> int:
    """Tiles in a row: a divisor of `count` where one makes the sheet 1 to 3 times wide as high."""
    good = [n for n in range(1, count + 1) if 1 <= n * n * width / (count * height) <= 3]
    whole = [n for n in good if count % n == 0]
    return max(whole or good or [count])


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a data set's name in any script
        figure.savefig(temporary, format="png")
