"""Images and those that a network finds most similar: figure 4 of the paper, right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyalexnet.show.page import FAINT, HEADER, MARGIN, NARROWEST, SMALL, SOFT, WIDTH, Page
from pyalexnet.show.tiles import Array, Pixels

_BETWEEN = 12
_BEHIND_QUERY = 52
_HEADING = 34
_WORDS = 44
_LARGEST = 220


def similar(
    queries: Pixels,
    neighbours: Pixels,
    distances: Array,
    path: Path,
    *,
    captions: Sequence[str] | None = None,
    title: str,
    note: str = "the number below an image is its distance from the query",
) -> None:
    """Draw a row for each query, its nearest neighbours from left to right, into the PNG `path`.

    queries: (n, H, W, C) uint8. neighbours: (n, k, H, W, C) uint8. distances: (n, k), written below
    the neighbours. captions: n names, written below the queries. note: what the distances are.
    """
    count, nearest = neighbours.shape[:2]
    room = WIDTH - 2 * MARGIN - _BEHIND_QUERY - (nearest - 1) * _BETWEEN
    side = min(_LARGEST, room // (nearest + 1))
    first = MARGIN + side + _BEHIND_QUERY
    top = HEADER + _HEADING
    step = side + _WORDS
    wide = max(NARROWEST, first + nearest * (side + _BETWEEN) - _BETWEEN + MARGIN)
    page = Page(wide, top + count * step - (_WORDS - 28) + MARGIN, title=title, note=note)
    page.text("query", MARGIN, top - 14, bold=True)
    page.text("nearest first", first, top - 14, bold=True)
    page.fill(first - _BEHIND_QUERY // 2, HEADER, 2, page.canvas.shape[0] - HEADER - MARGIN, FAINT)
    for row in range(count):
        upper = top + row * step
        page.show(queries[row], side, MARGIN, upper)
        if captions:
            page.text(captions[row], MARGIN, upper + side + 25, size=SMALL, bold=True, room=side)
        for place in range(nearest):
            left = first + place * (side + _BETWEEN)
            page.show(neighbours[row, place], side, left, upper)
            distance = float(distances[row, place])  # with four digits, or as a whole number
            words = f"{distance:,.0f}" if distance >= 1000 else f"{distance:#.4g}"
            page.text(words, left, upper + side + 25, size=SMALL, colour=SOFT)
    page.write(path)
