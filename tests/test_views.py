"""How training and evaluation see a stored image: cropped, mirrored, coloured."""

from __future__ import annotations

import numpy as np
import pytest

from pyalexnet.data import colour, views
from pyalexnet.data.views import Views
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.recipe import Augment

STORED, SIZE = (256, 256), (224, 224)


def seen(
    augment: Augment,
    images: np.ndarray,
    *,
    seed: int = 3,
    epoch: int = 5,
    positions: np.ndarray | None = None,
    progress: float = 5.0,
    stored: tuple[int, int] = STORED,
    axes: colour.Colour | None = None,
) -> Views:
    return views.training(
        augment,
        colour.imagenet() if axes is None else axes,
        seed=seed,
        epoch=epoch,
        images=images,
        positions=np.arange(len(images)) if positions is None else positions,
        stored=stored,
        size=SIZE,
        channels=3,
        progress=progress,
    )


def test_every_offset_and_both_reflections_are_drawn_equally_often() -> None:
    """33 x 33 offsets: a stored side of 256 leaves 0 to 32 pixels on either side."""
    drawn = seen(Augment(), np.arange(40_000))
    for axis in (0, 1):
        counts = np.bincount(drawn.corners[:, axis], minlength=33)
        assert len(counts) == 33
        # Binomial, 1,212 expected; five of its deviations (34.3) either way.
        assert np.abs(counts - 40_000 / 33).max() < 5 * np.sqrt(40_000 / 33 * 32 / 33)
    assert abs(drawn.flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(40_000)
    pairs = np.corrcoef(np.column_stack([drawn.corners, drawn.flips]).T)
    assert np.abs(pairs - np.eye(3)).max() < 5 / np.sqrt(40_000)


def test_a_view_depends_on_seed_epoch_and_image_alone() -> None:
    augment = Augment(jitter=0.1)
    images = np.array([7, 3, 11, 3])
    drawn = seen(augment, images)
    for index, image in enumerate(images):
        alone = seen(augment, np.array([image]), positions=np.array([99]))
        assert np.array_equal(alone.corners[0], drawn.corners[index])
        assert alone.flips[0] == drawn.flips[index]
        assert np.array_equal(alone.shifts[0], drawn.shifts[index])
    many = np.arange(64)
    usual = seen(augment, many)
    for other in (seen(augment, many, seed=4), seen(augment, many, epoch=6)):
        assert not np.array_equal(other.corners, usual.corners)
        assert not np.array_equal(other.flips, usual.flips)
        assert not np.array_equal(other.shifts, usual.shifts)


def test_a_chunk_shares_crop_and_flip_but_not_colours() -> None:
    augment = Augment(chunk=32, jitter=0.1)
    images = np.random.default_rng(0).permutation(1000)[:96]
    drawn = seen(augment, images, positions=np.arange(64, 160))
    for start in (0, 32, 64):
        part = slice(start, start + 32)
        assert len(np.unique(drawn.corners[part], axis=0)) == 1
        assert len(np.unique(drawn.flips[part])) == 1
        assert len(np.unique(drawn.shifts[part], axis=0)) == 32
    assert len(np.unique(drawn.corners[::32], axis=0)) == 3
    # The same chunk of the epoch, reached half way by a resumed run, is cropped the same way.
    later = seen(augment, images[16:], positions=np.arange(80, 160))
    assert np.array_equal(later.corners, drawn.corners[16:])


def test_the_jitter_has_a_tenth_of_each_axis_deviation() -> None:
    axes = colour.imagenet()
    drawn = seen(Augment(jitter=0.1, jitter_shrinks=True), np.arange(20_000))
    along = drawn.shifts.astype(np.float64) @ np.linalg.inv(axes.vectors).T
    # The deviation of n draws itself has a deviation of sigma / sqrt(2 n); five of those.
    assert np.allclose(along.std(axis=0), 0.1 * axes.sigmas, rtol=5 / np.sqrt(2 * 20_000))
    assert np.abs(along.mean(axis=0) / (0.1 * axes.sigmas)).max() < 5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 5 / np.sqrt(20_000)
    assert drawn.scale == 1 / 1.1
    # The main axis is brightness: 12.18 grey levels before the division (alexnet's own constants).
    assert axes.sigmas.max() * 0.1 == pytest.approx(12.178, abs=1e-3)


def test_the_jitter_ends_and_takes_its_division_along() -> None:
    augment = Augment(jitter=0.1, jitter_shrinks=True, jitter_until=67)
    images = np.arange(8)
    assert seen(augment, images, progress=66.99).shifts.any()
    over = seen(augment, images, progress=67.0)
    assert not over.shifts.any()
    assert over.scale == 1
    assert augment.stretched(0.1).jitter_until == pytest.approx(6.7)


def test_without_jitter_and_flip_nothing_but_the_crop_is_drawn() -> None:
    drawn = seen(Augment(flip=False), np.arange(200))
    assert not drawn.flips.any()
    assert not drawn.shifts.any()
    assert drawn.scale == 1
    assert len(np.unique(drawn.corners, axis=0)) > 100


def test_an_image_of_the_input_size_is_seen_whole() -> None:
    drawn = seen(Augment(), np.arange(50), stored=SIZE)
    assert not drawn.corners.any()


def test_the_centre() -> None:
    fixed = views.centre(3, STORED, SIZE, 3)
    assert fixed.corners.tolist() == [[16, 16]] * 3
    assert not fixed.flips.any()
    assert not fixed.shifts.any()
    # 227 of 256 leaves 29 pixels: 14 of them above.
    assert views.centre(1, STORED, (227, 227), 3).corners.tolist() == [[14, 14]]


def test_ten_views_in_the_order_of_the_source() -> None:
    ten = views.ten(2, STORED, SIZE, 3)
    corners = [tuple(view.corners[0]) for view in ten]
    assert corners[:5] == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert corners[5:] == corners[:5]
    assert [int(view.flips[1]) for view in ten] == [0] * 5 + [1] * 5
    assert all(len(view.flips) == 2 for view in ten)


def test_an_input_larger_than_the_stored_image_is_refused() -> None:
    with pytest.raises(ArgumentError, match="stored as 200x256; at least the network's 224x224"):
        seen(Augment(), np.arange(2), stored=(200, 256))
    with pytest.raises(ArgumentError, match="stored as 100x100"):
        views.ten(1, (100, 100), SIZE, 3)


def test_jitter_without_colours_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"jitter is 0\.1 and the images have 1 channels"):
        views.training(
            Augment(jitter=0.1),
            None,
            seed=0,
            epoch=0,
            images=np.arange(2),
            positions=np.arange(2),
            stored=STORED,
            size=SIZE,
            channels=1,
            progress=0.0,
        )


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("stored", 0, "stored is 0"),
        ("chunk", 0, "chunk is 0"),
        ("jitter", -0.1, r"jitter is -0\.1"),
        ("mean", "median", "mean is 'median'; centre, pixel or channel was expected"),
    ],
)
def test_impossible_augmentation_is_refused(field: str, value: object, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        Augment(**{field: value})  # type: ignore[arg-type]
