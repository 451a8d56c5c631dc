"""Loss and errors against epochs, of one run or several in the same axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from pyalexnet.runs.run import History, Scores
from pyalexnet.show import page as pages
from pyalexnet.show.page import BODY, HEADER, INK, LINE, MARGIN, SMALL, SOFT, WIDTH, Page

if TYPE_CHECKING:
    from pyalexnet.show.page import Axes

TRAIN, TEST = "#2f6f9f", "#c2410c"

# Distinct in every kind of colour blindness (Okabe and Ito's, the yellow darkened for lines on
# white), and by the shape of their marks without any colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5609a", "#8a6d00", "#3a9bd9", "#1f2328")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")

_HEIGHT = 720
_TICKS = 62  # pixels for the numbers left of the axes
_BELOW = 84  # and for those below them, with their title
_HEADING = 56
_BETWEEN = 30
_LABEL_GAP = 14
_MARK = 24
_LONGEST_NAME = 330
_MOST_MARKS = 16

Points: TypeAlias = Sequence[tuple[float, float]]


class _Quantity(NamedTuple):
    """What a panel shows: its heading, its value from scores, and the format of its last value."""

    heading: str
    of: Callable[[Scores], float]
    form: str


_QUANTITIES = (
    _Quantity("loss, nats", lambda scores: scores.loss, "{:.3f}"),
    _Quantity("top-1 error, %", lambda scores: 100 * scores.top1_error, "{:.1f}"),
    _Quantity("top-5 error, %", lambda scores: 100 * scores.top5_error, "{:.1f}"),
)


@dataclass(frozen=True)
class _Curve:
    """One line of a panel; with a name, its end is labelled, by `mark` too if it has one."""

    points: Points
    colour: str
    name: str | None
    mark: str | None = None
    thin: bool = False
    label: str = ""


def curves(
    histories: History | Mapping[str, History],
    path: Path,
    *,
    title: str,
    top5: bool = False,
    drops: Sequence[tuple[float, float]] = (),
) -> None:
    """Draw loss and top-1 error, training and test, against epochs into the PNG `path`.

    histories: of one run, or of several by name, which differ in colour and mark, with training as
    a thin line. top5: draw the top-5 error too. drops: (epoch, learning rate) where the rate fell.
    """
    note = "marks: test, after each epoch; thin: training, as it went"
    note += "; dotted: the learning rate falls" if drops else ""
    page = Page(WIDTH, _HEIGHT, title=title, note=note)
    quantities = _QUANTITIES[: 3 if top5 else 2]
    panels = []
    for quantity in quantities:
        # If room is scarce, names appear once.
        named = quantity is quantities[-1] or (isinstance(histories, History) and not top5)
        lines = _curves(histories, quantity)
        panels.append([_labelled(page, quantity, line, named) for line in lines])
    # The axes share the room that labels leave.
    beside = _TICKS + _LABEL_GAP + _MARK
    besides = [beside + max(page.extent(line.label, BODY) for line in lines) for lines in panels]
    width = (WIDTH - 2 * MARGIN - sum(besides) - _BETWEEN * (len(panels) - 1)) / len(panels)
    left, top = float(MARGIN), HEADER + _HEADING
    for quantity, lines, taken in zip(quantities, panels, besides, strict=True):
        page.text(quantity.heading, left, HEADER + LINE - 10, bold=True)
        axes = page.axes(left + _TICKS, top, width, _HEIGHT - top - _BELOW)
        _draw(axes, lines)
        _mark_drops(page, axes, drops)
        _write_labels(page, axes, [line for line in lines if line.label])
        right = left + _TICKS + width
        page.text("epochs", right, _HEIGHT - MARGIN, size=SMALL, colour=SOFT, align="right")
        left += taken + width + _BETWEEN
    page.write(path)


def _curves(histories: History | Mapping[str, History], quantity: _Quantity) -> list[_Curve]:
    """A training and a test line; of several runs a thin one and one with label and mark.

    A run without tests has label and mark on its training line.
    """
    if isinstance(histories, History):
        train, test = _points(histories, quantity)
        return [_Curve(train, TRAIN, "training", thin=True), _Curve(test, TEST, "test", "o")]
    thin, marked = [], []
    styles = zip(cycle(_COLOURS), cycle(_MARKS), strict=False)
    for (name, history), (colour, mark) in zip(histories.items(), styles, strict=False):
        train, test = _points(history, quantity)
        thin.append(_Curve(train, colour, None if test else name, None if test else mark, True))
        marked.append(_Curve(test, colour, name, mark))
    return thin + marked


def _points(history: History, quantity: _Quantity) -> tuple[Points, Points]:
    """The values in training and in tests, as (epochs done, value)."""
    train = [(at, quantity.of(scores)) for at, scores in history.steps]
    return train, [(float(at), quantity.of(scores)) for at, _, scores in history.epochs]


def _labelled(page: Page, quantity: _Quantity, line: _Curve, named: bool) -> _Curve:
    """The line with its last value as label, if it has a name, and, if `named`, the name."""
    if not (line.name and line.points):
        return line
    value = quantity.form.format(line.points[-1][1])
    name = page.shortened(line.name, _LONGEST_NAME, BODY) if named else ""
    return replace(line, label=f"{value} {name}".strip())


def _draw(axes: Axes, lines: Sequence[_Curve]) -> None:
    for line in lines:
        every = max(1, -(-len(line.points) // _MOST_MARKS))
        axes.plot(
            *zip(*line.points, strict=True) if line.points else ((), ()),
            color=line.colour,
            linewidth=1.0 if line.thin else 1.8,
            alpha=1 if line.name else 0.7,
            marker=None if line.thin else line.mark,
            markersize=pages.MARK,
            markevery=(-1 - (len(line.points) - 1) // every * every, every),
            clip_on=False,
            zorder=2 if line.thin else 3,
        )
    points = [point for line in lines for point in line.points]
    axes.set_xlim(0, max((at for at, _ in points), default=1) or 1)
    axes.set_ylim(0, 1.04 * max((value for _, value in points), default=1) or 1)
    axes.locator_params(axis="x", nbins=7, steps=[1, 2, 5, 10])
    axes.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
    axes.grid(axis="y", color=pages.FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK, labelsize=SMALL, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(pages.FAINT)


def _write_labels(page: Page, axes: Axes, lines: Sequence[_Curve]) -> None:
    """Each label right of the axes, as near to its line's end as the others allow."""
    frame = _frame(page, axes)
    ends = [_pixel(page, axes, line.points[-1]) for line in lines]
    places = spread([y for _, y in ends], LINE, frame.ymin, frame.ymax)
    start = frame.xmax + _LABEL_GAP
    for line, end, y in zip(lines, ends, places, strict=True):
        page.line([end, (start - 4, y)], line.colour, linewidth=0.8, linestyle=":")
        page.line([(start, y), (start + 16, y)], line.colour, linewidth=1.8 if line.mark else 1.0)
        if line.mark:
            page.line([(start + 8, y)], line.colour, linewidth=0, marker=line.mark)
        # Text is placed by its baseline: a digit's middle is .36 of its size above that.
        baseline = y + 0.36 * BODY * pages.DPI / 72
        page.text(line.label, start + _MARK, baseline, colour=line.colour)


def _mark_drops(page: Page, axes: Axes, drops: Sequence[tuple[float, float]]) -> None:
    """A dotted line where the learning rate fell, with the new rate if there is room for it."""
    frame = _frame(page, axes)
    xs = [_pixel(page, axes, (epoch, 0))[0] for epoch, _ in drops]
    for (epoch, rate), x, room_to in zip(drops, xs, [*xs, frame.xmax][1:], strict=True):
        if not frame.xmin < x < frame.xmax:
            continue
        axes.axvline(epoch, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
        words = f"lr {rate:.2g}"
        if x + page.extent(words, SMALL) + 6 <= room_to:
            page.text(words, x, frame.ymin - 8, size=SMALL, colour=SOFT)


def _pixel(page: Page, axes: Axes, point: tuple[float, float]) -> tuple[float, float]:
    """Where (epochs, value) lies on the page."""
    x, y = (axes.transData + page.pixels.inverted()).transform(point)
    return float(x), float(y)


def _frame(page: Page, axes: Axes) -> Any:
    """The rectangle of the axes on the page; y goes down."""
    return page.pixels.inverted().transform_bbox(axes.get_window_extent())


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places between `low` and `high`, in the order of the given ones, at least `gap` apart.

    The sum of the squared moves is least; if there is not room for all between the bounds, they
    begin at `low`.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []  # neighbours that move as one: the start each would prefer
    for rank, i in enumerate(order):
        blocks.append([places[i] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1].extend(last)
    highest = max(high - (len(places) - 1) * gap, low)
    starts = [min(max(float(np.mean(block)), low), highest) for block in blocks for _ in block]
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = starts[rank] + rank * gap
    return moved
