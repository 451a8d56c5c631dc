"""Orders, held-out tenths, means, and the checks that apply to every dataset."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pyalexnet import data
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Split, hold_out, order
from pyalexnet.errors import DataError


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    low, mask = 2**64, 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], low)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], low)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (2**64 - 1, 5)])
def test_order_sorts_the_words_of_philox(seed: int, epoch: int) -> None:
    """Implemented from the paper: a resumed run must see this order under any NumPy."""
    n = 23
    words = [
        word
        for block in range(1, n // 4 + 2)  # NumPy steps the counter before the first block
        for word in philox4x64([block, 0, 0, 0], [seed, epoch])
    ]
    expected = sorted(range(n), key=lambda image: words[image])
    assert order(n, seed, epoch).tolist() == expected


def test_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    orders = {(seed, epoch): order(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    for one in orders.values():
        assert one.dtype == np.int64
        assert np.array_equal(np.sort(one), np.arange(1000))
    assert len({one.tobytes() for one in orders.values()}) == 4
    assert np.array_equal(order(1000, 0, 1), orders[0, 1])
    for one in orders.values():  # 1 fixed point is expected; 10 would come up once in 10^7
        assert np.count_nonzero(one == np.arange(1000)) < 10


def test_hold_out_takes_a_tenth_of_each_class() -> None:
    labels = np.repeat(np.arange(4), [100, 59, 2, 1])
    kept, held = hold_out(labels, 3)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert np.array_equal(kept, np.sort(kept))
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 5, 1, 0]
    assert np.array_equal(hold_out(labels, 3)[1], held)
    assert not np.array_equal(hold_out(labels, 4)[1], held)
    assert held[:10].tolist() != list(range(10))


def test_hold_out_draws_apart_from_every_epoch() -> None:
    labels = np.zeros(50, dtype=np.int64)
    held = hold_out(labels, 0)[1]
    assert all(set(order(50, 0, epoch)[:5]) != set(held) for epoch in range(100))


def test_mean_is_the_exact_mean() -> None:
    """With sums beyond 2^24, where float32 would lose the last pixels."""
    images = np.full((70_000, 1, 2, 1), 255, np.uint8)
    images[0] = 0
    split = Split(images, np.zeros(70_000, np.int64))
    mean = split.mean()
    assert mean.dtype == np.float32
    assert mean.shape == (1, 2, 1)
    assert mean[0, 0, 0] == np.float32(255 * 69_999 / 70_000)
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 2, 3), dtype=np.uint8)
    exact = images.astype(object).sum(axis=0) / 7
    assert np.array_equal(Split(images, np.zeros(7, np.int64)).mean(), exact.astype(np.float32))


def split_of(labels: list[int], side: int = 2) -> Split:
    return Split(np.zeros((len(labels), side, side, 3), np.uint8), np.array(labels, np.int64))


@pytest.mark.parametrize(
    ("train", "test", "names", "text"),
    [
        (split_of([0, 0]), split_of([0]), ["a"], r"1 class \(a\)"),
        (split_of([0, 0]), split_of([0]), [], "no classes"),
        (split_of([]), split_of([0]), ["a", "b"], "0 training images"),
        (split_of([0, 1]), split_of([]), ["a", "b"], "0 test images"),
        (split_of([0, 1, 2]), split_of([0]), ["a", "b"], "training image 2 has label 2; 0 to 1"),
        (split_of([0, 1, 1]), split_of([1, -1]), ["a", "b"], "test image 1 has label -1; 0 to 1"),
        (split_of([0, 2]), split_of([0]), ["a", "b", "c"], r"class 1 \(b\) has no training image"),
        (split_of([0, 1]), split_of([0], 3), ["a", "b"], "3x3x3; 2x2x3 was expected"),
    ],
)
def test_checked_refuses(train: Split, test: Split, names: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        data.Dataset("set", train, test, Classes.named(names), "").checked("set.npz")
    assert str(caught.value).startswith("set.npz: ")
    assert str(caught.value).endswith(".")


def test_checked_passes_what_is_right() -> None:
    named = Classes.named(("a", "b"))
    dataset = data.Dataset("n", split_of([0, 1]), split_of([1]), named, "m").checked("x")
    note = "m; 1 of 2 classes have no test image, first a"
    assert (dataset.name, dataset.note, dataset.class_names) == ("n", note, ("a", "b"))
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    whole = data.Dataset("n", split_of([0, 1]), split_of([1, 0]), named, "m").checked("x")
    assert whole.note == "m"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent", "No such file or directory"),
        ("file.txt", r"neither a folder nor a file called \*\.npz or \*\.tar\.gz"),
        ("broken", "No such file or directory"),
        ("loop", "Too many levels of symbolic links"),
        ("pipe.npz", "neither a folder nor a file"),
        ("null\0", "holds a null character; a path was expected"),
    ],
)
def test_load_refuses_what_is_no_data_set(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=text):
        data.load(tmp_path / name, image_size=(32, 32))


def test_load_of_a_folder_needs_the_image_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_size is None"):
        data.load(tmp_path)
