"""The pictures really show what they claim to show."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from pyalexnet import show
from pyalexnet.data.views import Views
from pyalexnet.errors import ArgumentError, PyalexnetError
from pyalexnet.runs.run import History, Scores
from pyalexnet.show.batch import levels, outlined
from pyalexnet.show.curves import spread
from pyalexnet.show.filters import sheets
from pyalexnet.show.maps import tiled
from pyalexnet.show.page import HEADER, MARGIN, Page, rgb
from pyalexnet.show.predictions import best
from pyalexnet.show.tiles import about_zero, centred, from_zero, grid
from pyalexnet.show.tiles import fitted as fit
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """The pages written in a test."""
    pages: list[Page] = []
    write = Page.write

    def kept(page: Page, path: Path) -> None:
        pages.append(page)
        write(page, path)

    monkeypatch.setattr(Page, "write", kept)
    return pages


def line_of(text: Text) -> int:
    """The row of pixels of a text's baseline."""
    return round(text.get_position()[1])


def box_of(text: Text) -> Bbox | None:
    """The pixels that a text covers; None if there are no letters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that no font has
        return text.get_window_extent() if text.get_text() else None


def touch(box: Bbox, other: Bbox) -> bool:
    """Whether two boxes overlap by more than the white space around letters."""
    wide = min(box.x1, other.x1) - max(box.x0, other.x0)
    high = min(box.y1, other.y1) - max(box.y0, other.y0)
    return bool(wide > 0 and high > 0.35 * min(box.height, other.height))


def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


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
        plotted = rows > height * 0.25  # below the headings
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


def test_filters_as_greys(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    show.filters(weights, tmp_path / "filters.png", title="conv1", grey=True)
    image = pixels(tmp_path / "filters.png").astype(int)
    tiles = image[HEADER : HEADER + 100, MARGIN : MARGIN + 500]
    assert tiles.std() > 20 and np.ptp(tiles, axis=2).max() == 0


def test_filters_stand_in_order_and_zero_is_middle_grey() -> None:
    weights = np.zeros((6, 2, 2, 3))
    for number in range(5):
        weights[number, 0, 0, number % 3] = (number + 1) * (-1) ** number
    [sheet] = sheets(weights)
    height, width = sheet.shape[0] / 2, sheet.shape[1] / 3
    for number in range(6):
        row, column = divmod(number, 3)
        tile = sheet[
            round(row * height) : round((row + 1) * height),
            round(column * width) : round((column + 1) * width),
        ]
        rows, columns = tile.shape[:2]
        expected = [128, 128, 128]
        if number < 5:
            expected[number % 3] = 255 * (number % 2 == 0)
        assert np.array_equal(tile[rows // 4, columns // 4], expected)
        assert np.array_equal(tile[rows // 4, columns * 5 // 8], [128, 128, 128])


def test_a_common_scale_keeps_the_filters_apart() -> None:
    weights = np.ones((2, 1, 1, 1)) * [[[[4.0]]], [[[1.0]]]]
    [own], [one] = sheets(weights), sheets(weights, own_scale=False)
    assert set(np.unique(own)) == {128, 255}
    assert set(np.unique(one)) == {128, 255, round(127.5 + 127.5 / 4)}


def test_each_tower_has_its_own_half(drawn: list[Page], tmp_path: Path) -> None:
    weights = np.zeros((96, 11, 11, 3))
    weights[:48] = 1  # white
    weights[48:] = -1  # black
    first, second = sheets(weights, towers=2)
    assert first.shape == second.shape and first.shape[1] > 1000
    assert first.min() == 128 and second.max() == 255  # frames; gaps
    assert (second == 0).mean() > 0.8
    show.filters(weights, tmp_path / "filters.png", title="conv1", towers=2)
    words = [text.get_text() for text in drawn[0].figure.texts]
    assert {"tower 1", "filters 1 to 48", "tower 2", "filters 49 to 96"} <= set(words)
    black = np.flatnonzero((drawn[0].canvas == 0).any(axis=(1, 2)))
    places = {text.get_text(): line_of(text) for text in drawn[0].figure.texts}
    assert places["tower 1"] < places["tower 2"] < black.min()


def test_filters_that_do_not_divide_into_towers(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="towers is 2; a divisor of 7 was expected"):
        show.filters(np.ones((7, 3, 3, 1)), tmp_path / "filters.png", title="", towers=2)


# Curves


def test_several_runs_are_named_once_and_have_a_colour_each(
    drawn: list[Page], tmp_path: Path
) -> None:
    runs = {f"run {number}": falling(5 + number) for number in range(4)}
    show.curves(runs, tmp_path / "curves.png", title="runs", top5=True)
    words = " ".join(text.get_text() for text in drawn[0].figure.texts)
    assert all(words.count(name) == 1 for name in runs)
    assert all(heading in words for heading in ("loss", "top-1", "top-5"))
    axes = drawn[0].figure.axes
    assert len(axes) == 3
    for panel in axes:
        tests = [line for line in panel.lines if line.get_marker() != "None"]
        assert len(tests) == 4 and len(panel.lines) == 8
        assert len({line.get_color() for line in tests}) == 4
        assert len({line.get_marker() for line in tests}) == 4


def test_a_run_without_a_test_is_labelled_by_its_training(
    drawn: list[Page], tmp_path: Path
) -> None:
    begun = History(steps=[(0.1, Scores(2.3, 0.9, 0.5)), (0.2, Scores(2.25, 0.8, 0.5))])
    show.curves({"old": falling(3), "new": begun}, tmp_path / "curves.png", title="two")
    words = [text.get_text() for text in drawn[0].figure.texts]
    assert "80.0 new" in words


def test_falls_of_the_learning_rate_are_marked(drawn: list[Page], tmp_path: Path) -> None:
    drops = [(2.0, 0.001), (7.99, 0.0001)]
    show.curves(falling(8), tmp_path / "curves.png", title="falls", drops=drops)
    words = [text.get_text() for text in drawn[0].figure.texts]
    assert words.count("lr 0.001") == 2
    assert "lr 0.0001" not in words  # there is no room for it
    for axes in drawn[0].figure.axes:
        upright = [
            np.asarray(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 0.8
        ]
        assert [x[0] for x in upright] == [2.0, 7.99]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([50.0], [50.0]),
        ([50.0, 52.0], [46.0, 56.0]),
        ([52.0, 50.0], [56.0, 46.0]),
        ([20.0, 50.0], [20.0, 50.0]),
        ([2.0, 3.0], [0.0, 10.0]),
        ([99.0, 99.0, 99.0], [80.0, 90.0, 100.0]),
        ([40.0, 41.0, 60.0], [35.5, 45.5, 60.0]),
        ([50.0, 51.0, 56.0], [42.333333, 52.333333, 62.333333]),
    ],
)
def test_labels_move_apart_no_further_than_needed(
    places: list[float], expected: list[float]
) -> None:
    assert spread(places, 10, 0, 100) == pytest.approx(expected)


def test_labels_with_too_little_room_begin_at_the_top() -> None:
    assert spread([5, 4, 3], 10, 0, 15) == [20, 10, 0]


# Predictions


def test_bars_are_as_long_as_the_probabilities(drawn: list[Page], tmp_path: Path) -> None:
    chances = np.array([[0.5, 0.05, 0.25, 0.0, 0.1, 0.06, 0.04]])
    grey = np.full((1, 4, 4, 1), 128, np.uint8)
    names = [f"name {number}" for number in range(7)]
    path = tmp_path / "predictions.png"
    show.predictions(grey, chances, names, path, labels=np.array([2]), title="one")
    canvas = drawn[0].canvas
    words = [text.get_text() for text in drawn[0].figure.texts]
    bars = [words.index(f"name {number}", 3) for number in (0, 2, 4, 5, 1)]
    assert bars == sorted(bars) and "name 6" not in words
    assert words[2] == "name 2"  # below the image
    for place, (number, chance) in enumerate(((0, 0.5), (2, 0.25), (4, 0.1))):
        text = drawn[0].figure.texts[bars[place]]
        row = canvas[line_of(text) - 5, MARGIN : MARGIN + 360]
        colour = rgb("#f2a35e" if number == 2 else "#b4d0e6")
        assert (row == colour).all(axis=1).sum() == 360 * chance
        assert (text.get_fontweight() == "bold") == (number == 2)


def test_of_equal_probabilities_the_first_come_first() -> None:
    assert best(np.array([0.2, 0.3, 0.2, 0.3]), 3) == [1, 3, 0]


def test_an_image_fills_its_place(drawn: list[Page], tmp_path: Path) -> None:
    images = np.zeros((2, 28, 28, 3), np.uint8)
    images[:] = [[[[200, 10, 10]]], [[[10, 10, 200]]]]
    path = tmp_path / "predictions.png"
    show.predictions(images, np.full((2, 2), 0.5), ["a", "b"], path, title="two")
    canvas = drawn[0].canvas
    for number, colour in enumerate(((200, 10, 10), (10, 10, 200))):
        rows, columns = np.nonzero((canvas == colour).all(axis=2))
        assert np.ptp(rows) == np.ptp(columns) == 359 and len(rows) == 360**2
        assert (rows.min(), columns.min()) == (HEADER, MARGIN + number * (360 + 32))


# Similar


def test_neighbours_stand_right_of_their_query(drawn: list[Page], tmp_path: Path) -> None:
    queries = np.zeros((2, 6, 6, 1), np.uint8) + np.array([10, 20], np.uint8)[:, None, None, None]
    neighbours = np.zeros((2, 3, 6, 6, 1), np.uint8)
    neighbours += np.arange(100, 106, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    distances = np.array([[0.0, 0.5, 66.6], [1e-3, 999.96, 123456.7]])
    path = tmp_path / "similar.png"
    show.similar(queries, neighbours, distances, path, captions=["a", "b"], title="two")
    canvas = drawn[0].canvas[..., 0]

    def corner(value: int) -> tuple[int, int]:
        rows, columns = np.nonzero(canvas == value)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        return int(rows.min()), int(columns.min())

    for row, query in enumerate((10, 20)):
        places = [corner(value) for value in (query, *range(100 + 3 * row, 103 + 3 * row))]
        assert len({top for top, _ in places}) == 1
        assert [left for _, left in places] == sorted({left for _, left in places})
    words = [text.get_text() for text in drawn[0].figure.texts]
    numbers = ["a", "0.000", "0.5000", "66.60", "b", "0.001000", "1000.", "123,457"]
    assert words[-8:] == numbers


# Batch


def seen_as(corners: Any, flips: Any, shifts: Any) -> Views:
    """How a batch is seen, image by image."""
    return Views(np.array(corners), np.array(flips), np.array(shifts, np.float32))


def test_the_crop_is_outlined_and_the_rest_is_pale() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    picture = outlined(image, (4, 6), (10, 12), 200)
    assert picture.shape == (200, 200, 3)
    frame = (picture == rgb("#f28c28")).all(axis=2)
    rows, columns = np.nonzero(frame)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 139, 60, 179)
    inside = picture[43:137, 63:177]
    assert (inside == 100).all() and frame.sum() == 100 * 120 - inside.shape[0] * inside.shape[1]
    outside = np.ones((200, 200), bool)
    outside[40:140, 60:180] = False
    assert (picture[outside] == 255 - 155 * 2 // 5).all()


def test_what_is_seen_is_clipped() -> None:
    image = np.array([[[-3.0, 0.4, 0.6], [254.6, 300, np.nan]]])
    assert levels(image).tolist() == [[[0, 0, 1], [255, 255, 0]]]


def test_a_batch_says_how_each_image_is_seen(drawn: list[Page], tmp_path: Path) -> None:
    stored = np.zeros((2, 8, 8, 3), np.uint8)
    looks = seen_as([(1, 2), (0, 1)], [True, False], [(1.0, -2.25, 0.0), (0.0, 0.0, 0.0)])
    show.batch(stored, np.zeros((2, 6, 6, 3)), looks, tmp_path / "batch.png", title="two")
    words = {text.get_text() for text in drawn[0].figure.texts}
    assert {"from row 1, column 2, mirrored", "from row 0, column 1", "colours as stored"} <= words
    assert "red +1.0, green \N{MINUS SIGN}2.2, blue +0.0" in words
    show.batch(stored, np.zeros((2, 8, 8, 3)), looks, tmp_path / "batch.png", title="whole")
    words = {text.get_text() for text in drawn[1].figure.texts}
    assert {"whole, mirrored", "whole"} <= words


# Maps


def test_maps_stand_in_order_on_their_own_scale_or_one() -> None:
    values = np.ones((5, 5, 1)) * np.arange(5.0)
    own, one = tiled(values, 100), tiled(values, 100, own_scale=False)
    for number in range(5):
        row, column = divmod(number, 3)
        middle = (row * 34 + 15, column * 34 + 15)
        assert own[middle][0] == (255 if number else 0)
        assert one[middle][0] == round(255 * number / 4)
    assert own.shape == (64, 98, 3)


def test_maps_below_zero_are_grey_about_it() -> None:
    values = np.ones((5, 5, 1)) * np.array([-1.0, 0.5])
    picture = tiled(values, 100, own_scale=False)
    assert picture[24, 24][0] == 0 and picture[24, 76][0] == round(127.5 + 127.5 / 2)


def test_maps_say_what_they_are(drawn: list[Page], tmp_path: Path) -> None:
    layers = {"conv1": np.zeros((9, 8, 70)), "conv2": -np.ones((4, 4, 3))}
    show.maps(np.zeros((9, 9, 1), np.uint8), layers, tmp_path / "maps.png", title="maps")
    words = {text.get_text() for text in drawn[0].figure.texts}
    assert {"input", "9 x 9 x 1", "conv1", "9 x 8 x 70, the first 64; black is 0"} <= words
    assert {"conv2", "4 x 4 x 3; middle grey is 0"} <= words


# Tiles


def test_tiles_in_rows() -> None:
    tiles = np.zeros((3, 2, 1, 3), np.uint8) + np.array([1, 2, 3], np.uint8)[:, None, None, None]
    picture = grid(tiles, 2, 1)[..., 0]
    assert picture.tolist() == [
        [1, 255, 2],
        [1, 255, 2],
        [255, 255, 255],
        [3, 255, 255],
        [3, 255, 255],
    ]


def test_images_keep_their_shape_and_squares_are_squares() -> None:
    wide = np.arange(12, dtype=np.uint8).reshape(3, 4, 1) * 20
    picture = fit(wide, 40)
    assert picture.shape == (30, 40, 3)
    assert (picture == wide.repeat(10, axis=0).repeat(10, axis=1)).all()
    assert fit(wide.repeat(20, axis=1), 40).shape == (2, 40, 3)
    square = centred(picture, 40)
    assert (square[:5] == 255).all() and (square[5:35] == picture).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_drawn_as_zero(value: float) -> None:
    values = np.array([value, 1.0]).reshape(1, 1, 2, 1)
    assert about_zero(values, own_scale=True)[0, 0, :, 0].tolist() == [128, 255]
    assert from_zero(values, own_scale=True)[0, 0, :, 0].tolist() == [0, 255]


# All pictures


SCRIPTS = ("$\\frac{ $x_$", "写真", "العربية", "line\nbreak", "a name that goes on " * 9, "", "é")


def gallery(folder: Path, channels: int, count: int, classes: int) -> None:
    """Every picture, of small random images and odd names."""
    draws = np.random.default_rng(0)
    title = SCRIPTS[4]

    def images(*shape: int) -> np.ndarray:
        return draws.integers(0, 256, (*shape, channels), dtype=np.uint8)

    names = [SCRIPTS[number % len(SCRIPTS)] for number in range(classes)]
    captions = [*SCRIPTS, *SCRIPTS][:count]
    stored = images(count, 12, 12)
    show.curves({name: falling(3) for name in SCRIPTS}, folder / "curves.png", title=title)
    weights = draws.normal(size=(2 * count, 5, 5, channels))
    show.filters(weights, folder / "filters.png", title=title, towers=2)
    chances = draws.dirichlet(np.ones(classes), count)
    labels = draws.integers(0, classes, count)
    path = folder / "predictions.png"
    show.predictions(stored, chances, names, path, labels=labels, title=title)
    path = folder / "captions.png"
    show.predictions(stored, chances, names, path, captions=captions, title=title)
    neighbours, distances = images(count, 6, 12, 12), draws.random((count, 6))
    path = folder / "similar.png"
    show.similar(stored, neighbours, distances, path, captions=captions, title=title)
    looks = seen_as([(1, 2)] * count, [True] * count, [(-100.125,) * channels] * count)
    path = folder / "batch.png"
    show.batch(stored, stored[:, :9, :9], looks, path, captions=captions, title=title)
    layers = {"conv1": draws.normal(size=(6, 6, 96)), SCRIPTS[4]: np.zeros((1, 1, 1))}
    show.maps(stored[0], layers, folder / "maps.png", title=title)


@pytest.mark.every(9)
@pytest.mark.parametrize(
    ("channels", "count", "classes"), [(1, 1, 2), (3, 9, 1000), (3, 2, 5), (1, 5, 10)]
)
def test_words_are_whole_and_apart(
    drawn: list[Page], tmp_path: Path, channels: int, count: int, classes: int
) -> None:
    gallery(tmp_path, channels, count, classes)
    assert len(drawn) == 7
    for page in drawn:
        height, width = page.canvas.shape[:2]
        boxes = [(box, text) for text in page.figure.texts if (box := box_of(text))]
        for number, (box, text) in enumerate(boxes):
            assert box.x0 >= 0 and box.x1 <= width, text
            assert box.y0 >= 0 and box.y1 <= height, text
            for other, another in boxes[:number]:
                assert not touch(box, other), (text, another)


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_colour(drawn: list[Page], tmp_path: Path, value: int) -> None:
    stored = np.full((1, 8, 8, 3), value, np.uint8)
    show.predictions(stored, np.ones((1, 2)) / 2, ["a", "b"], tmp_path / "p.png", title="")
    show.similar(stored, stored[None], np.zeros((1, 1)), tmp_path / "s.png", title="")
    show.batch(
        stored, stored, seen_as([(0, 0)], [False], [(0.0,) * 3]), tmp_path / "b.png", title=""
    )
    show.maps(stored[0], {"conv": np.full((2, 2, 2), float(value))}, tmp_path / "m.png", title="")
    for page in drawn:
        assert (page.canvas == value).all(axis=2).sum() > 150**2


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        show.filters(np.ones((4, 3, 3, 1)), tmp_path / "none" / "filters.png", title="")


def test_pictures_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_matplotlib(monkeypatch)
    with pytest.raises(PyalexnetError, match="pip install matplotlib"):
        show.filters(np.ones((4, 3, 3, 1)), tmp_path / "filters.png", title="")


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
    show.curves(falling(2), tmp_path / "curves.png", title="costs " + SCRIPTS[0] + SCRIPTS[1])
    assert pixels(tmp_path / "curves.png").std() > 0


def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    trainer = began(tmp_path, photographs(tmp_path / "q.npz", channels=3), epochs=1)
    fitted(trainer)
    for name in ("curves.png", "filters.png"):
        assert pixels(trainer.folder.path / name).std() > 5


def test_without_matplotlib_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_matplotlib(monkeypatch)
    trainer = began(tmp_path, photographs(tmp_path / "q.npz"), epochs=1)
    assert fitted(trainer).finished
    assert not (trainer.folder.path / "curves.png").exists()


def test_matplotlib_is_not_imported_before_a_picture_is_drawn() -> None:
    code = "import sys, pyalexnet.cli, pyalexnet.training.start; print('matplotlib' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
