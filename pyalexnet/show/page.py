"""The page that a picture is drawn on: pixels first, then text over them.

Everything is placed in pixels from the top left corner, so that nothing moves, is cut off or
overlaps because of a library's automatic layout. Tiles and bars go straight into the array
`Page.canvas`; matplotlib draws text, lines and axes over it. It is imported only here, when a page
is made, so that nothing else needs it, and draws on Agg without pyplot: no display, no global
state.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyalexnet.errors import PyalexnetError
from pyalexnet.files import replacing, shown
from pyalexnet.install import pip_install
from pyalexnet.show.tiles import Array, Pixels, centred, fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.font_manager import FontProperties

DPI = 160
WIDTH = 1600  # pixels; twice what a README shows, so text of 9 points is still readable there
NARROWEST = 1080  # pixels that titles and notes need
MARGIN = 32
HEADER = 118  # pixels from the top edge to the first thing below title and note
LINE = 28  # pixels from one line of small text to the next

TITLE, BODY, SMALL = 12.0, 9.5, 8.5  # sizes of text, points
MARK = 4.5  # size of a mark on a line, points

INK = "#1f2328"
SOFT = "#59636e"
FAINT = "#d8dbe0"

# Fonts with letters that DejaVu Sans lacks, used if installed.
_MORE_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Arial Unicode MS"),
)


class MatplotlibMissing(PyalexnetError, ImportError):
    """matplotlib, which draws the pictures, is missing."""


def check_matplotlib() -> None:
    """Refuse with a sentence if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MatplotlibMissing(
            f"pictures need matplotlib ({error}); to install it: {pip_install('matplotlib')}."
        ) from error


class Page:
    """A page with a title, and a note under it in a lighter colour."""

    def __init__(self, width: int, height: int, *, title: str, note: str = "") -> None:
        check_matplotlib()
        from matplotlib.figure import Figure
        from matplotlib.font_manager import fontManager
        from matplotlib.transforms import Affine2D

        # Drawn under all text.
        self.canvas: Pixels = np.full((height, width, 3), 255, np.uint8)
        # From pixels (x, y from the top) to the figure.
        self.pixels = Affine2D().scale(1, -1).translate(0, height)
        size = (width / DPI, height / DPI)
        self.figure = Figure(figsize=size, dpi=DPI, facecolor="white")
        installed = {font.name for font in fontManager.ttflist}
        self._families = ["DejaVu Sans", *(name for name in _MORE_SCRIPTS if name in installed)]
        room = width - 2 * MARGIN
        self.text(title, MARGIN, 52, size=TITLE, bold=True, room=room)
        self.text(note, MARGIN, 88, colour=SOFT, room=room)

    def paste(self, image: Pixels, left: int, top: int) -> None:
        """Put `image` (h, w, 3) on the canvas."""
        height, width = image.shape[:2]
        self.canvas[top : top + height, left : left + width] = image

    def show(self, image: Array, side: int, left: int, top: int) -> None:
        """Put an image (h, w, C) uint8 in the middle of a square, as large as fits."""
        self.paste(centred(fitted(image, side), side), left, top)

    def fill(self, left: int, top: int, width: int, height: int, colour: str) -> None:
        self.canvas[top : top + height, left : left + width] = rgb(colour)

    def text(
        self,
        words: str,
        x: float,
        baseline: float,
        *,
        size: float = BODY,
        colour: str = INK,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
        room: float = math.inf,
    ) -> None:
        """Write one line; text wider than `room` pixels ends in an ellipsis."""
        line = self.shortened(words, room, size, bold=bold)
        how: dict[str, Any] = {"color": colour, "ha": align, "va": "baseline", "parse_math": False}
        font = self._font(size, bold)
        self.figure.text(x, baseline, line, transform=self.pixels, fontproperties=font, **how)

    def shortened(self, words: str, room: float, size: float, *, bold: bool = False) -> str:
        """`words` in one line, or as many of its letters as fit `room` pixels, and an ellipsis."""
        words = " ".join(shown(words).split())  # a name may hold anything, even a line break
        if self.extent(words, size, bold=bold) <= room:
            return words

        def extent(letters: int) -> float:
            return self.extent(words[:letters].rstrip() + "…", size, bold=bold)

        fits = bisect_right(range(1, len(words)), room, key=extent)
        return words[:fits].rstrip() + "…"

    def extent(self, words: str, size: float, *, bold: bool = False) -> float:
        """Width of a line of `words` in pixels."""
        from matplotlib.textpath import text_to_path

        with _any_script():
            width, _, _ = text_to_path.get_text_width_height_descent(
                shown(words), self._font(size, bold), ismath=False
            )
        return width * DPI / 72

    def line(self, points: Sequence[tuple[float, float]], colour: str, **how: Any) -> None:
        """Draw a line through pixels (x, y); how: more arguments of matplotlib's `Line2D`."""
        from matplotlib.lines import Line2D

        xs, ys = zip(*points, strict=True)
        line = Line2D(xs, ys, transform=self.pixels, color=colour, markersize=MARK, **how)
        self.figure.add_artist(line)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose frame is this rectangle."""
        tall, wide = self.canvas.shape[:2]
        return self.figure.add_axes(
            (left / wide, 1 - (top + height) / tall, width / wide, height / tall)
        )

    def write(self, path: Path) -> None:
        """Write the PNG `path`, completely or not at all; then OSError is raised."""
        self.figure.figimage(self.canvas, origin="upper", zorder=-1)
        with replacing(path) as temporary, _any_script():
            self.figure.savefig(temporary, format="png", dpi=DPI)

    def _font(self, size: float, bold: bool) -> FontProperties:
        from matplotlib.font_manager import FontProperties

        weight = "bold" if bold else "normal"
        return FontProperties(family=self._families, size=size, weight=weight)


def cells(
    count: int, across: int, size: tuple[int, int], between: tuple[int, int], **words: Any
) -> tuple[Page, list[tuple[int, int]]]:
    """A page with `count` cells in rows of at most `across`, and their left and top edges.

    size: of a cell. between: pixels between neighbours, and between rows. words: title and note.
    """
    across = min(across, count)
    step_x, step_y = size[0] + between[0], size[1] + between[1]
    wide = max(NARROWEST, 2 * MARGIN + across * step_x - between[0])
    page = Page(wide, HEADER + -(-count // across) * step_y - between[1] + MARGIN, **words)
    places = (divmod(number, across) for number in range(count))
    return page, [(MARGIN + column * step_x, HEADER + row * step_y) for row, column in places]


def rgb(colour: str) -> Pixels:
    """A colour "#rrggbb" as its three bytes."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


@contextmanager
def _any_script() -> Iterator[None]:
    """Draw letters that no font has as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")  # letter shaping
        yield
