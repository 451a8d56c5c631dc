"""A network's predictions for images: figure 4 of the paper, left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyalexnet.show.page import SMALL, Page, cells
from pyalexnet.show.tiles import Array, Pixels

_CELL = 360
_COLUMNS = 4
_BETWEEN = 32
_CAPTION = 46
_BAR, _BAR_STEP = 30, 35
_GUESSES = 5

_TRACK = "#eef1f4"
_GUESS = "#b4d0e6"
_RIGHT = "#f2a35e"


def predictions(
    images: Pixels,
    probabilities: Array,
    class_names: Sequence[str],
    path: Path,
    *,
    labels: Array | None = None,
    captions: Sequence[str] | None = None,
    title: str,
) -> None:
    """Draw images with bars of their most probable classes, five at most, into the PNG `path`.

    images: (n, H, W, C) uint8. probabilities: (n, classes). class_names: of all classes. labels:
    (n,) the true classes, written below the images; their bars are orange and their names bold.
    captions: text below the images instead, for instance names of files.
    """
    guesses = min(_GUESSES, probabilities.shape[1])
    below = _CAPTION if labels is not None or captions is not None else _BETWEEN // 2
    truths = "" if labels is None else "; the true one is below the image, its bar is orange"
    note = f"the {guesses} most probable classes{truths}"
    size, gaps = (_CELL, _CELL + below + guesses * _BAR_STEP), (_BETWEEN, _BETWEEN)
    page, places = cells(len(images), _COLUMNS, size, gaps, title=title, note=note)
    for number, (left, top) in enumerate(places):
        page.show(images[number], _CELL, left, top)
        truth = None if labels is None else int(labels[number])
        caption = captions[number] if captions else "" if truth is None else class_names[truth]
        middle, top = left + _CELL / 2, top + _CELL
        page.text(caption, middle, top + 31, bold=True, align="center", room=_CELL)
        for place, which in enumerate(best(probabilities[number], guesses)):
            chance, upper = float(probabilities[number, which]), top + below + place * _BAR_STEP
            _bar(page, left, upper, class_names[which], chance, right=which == truth)
    page.write(path)


def best(probabilities: Array, count: int) -> list[int]:
    """The `count` most probable classes, the most probable first; ties by class number."""
    return [int(i) for i in np.argsort(-probabilities, kind="stable")[:count]]


def _bar(page: Page, left: int, top: int, name: str, probability: float, *, right: bool) -> None:
    """A bar as long as the probability, with the class's name and the number over it."""
    page.fill(left, top, _CELL, _BAR, _TRACK)
    page.fill(left, top, round(_CELL * probability), _BAR, _RIGHT if right else _GUESS)
    number = f"{100 * probability:.1f} %"
    baseline = top + _BAR - 9
    room = _CELL - 34 - page.extent(number, SMALL, bold=right)
    page.text(name, left + 10, baseline, size=SMALL, bold=right, room=room)
    page.text(number, left + _CELL - 10, baseline, size=SMALL, bold=right, align="right")
