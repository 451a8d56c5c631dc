"""The built-in set: photographs published by Zalando, and the program that extracted them."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fashion_mnist
from pyalexnet import data
from pyalexnet.data import builtin
from pyalexnet.errors import DataError

LARGEST_FILE = 6 * 2**20
"""Bytes: no file of the set may be larger, for the sake of the repository."""


def test_it_is_what_was_published() -> None:
    """The module's SHA-256 is of the first images of the full set, as shipped by Debian."""
    dataset = data.load(None)
    for split, part in ((dataset.train, builtin.TRAIN), (dataset.test, builtin.TEST)):
        assert split.images.shape == (part.count, 28, 28, 1)
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert split.labels.dtype == np.int64
        assert builtin.digest(split.images, split.labels) == part.sha256
        assert np.bincount(split.labels).min() > 0.09 * part.count
    assert len(dataset.class_names) == 10
    assert "Fashion-MNIST" in dataset.note


def test_labels_belong_to_their_images() -> None:
    """An ankle boot fills the lower right corner of its picture; trousers never do."""
    dataset = data.load(None)
    boots, trousers = dataset.class_names.index("Ankle boot"), dataset.class_names.index("Trouser")
    corner = dataset.train.images[:, 20:24, 20:26].mean(axis=(1, 2, 3))
    assert corner[dataset.train.labels == boots].mean() > 100
    assert corner[dataset.train.labels == trousers].mean() < 20


def test_the_files_are_small_and_the_licence_is_beside_them() -> None:
    sizes = [path.stat().st_size for path in builtin.FOLDER.iterdir()]
    assert max(sizes) < LARGEST_FILE
    notice = (builtin.FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def idx(values: np.ndarray, magic: int) -> bytes:
    header = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
    return gzip.compress(header + values.tobytes(), compresslevel=1)


def write_source(folder: Path) -> None:
    """The four files of the full set: as much as `build` reads, and one more image."""
    for part in (builtin.TRAIN, builtin.TEST):
        split = builtin._read(part)
        images = np.concatenate([split.images[..., 0], split.images[:1, ..., 0]])
        labels = np.append(split.labels, 3).astype(np.uint8)
        for kind, values, magic in (("images-idx3", images, 0x803), ("labels-idx1", labels, 0x801)):
            (folder / f"{part.idx_name}-{kind}-ubyte.gz").write_bytes(idx(values, magic))


@pytest.mark.slow
def test_build_makes_the_same_sheets_again(tmp_path: Path) -> None:
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    write_source(source)
    fashion_mnist.build(source, built)
    assert sorted(path.name for path in built.iterdir()) == sorted(
        path.name for path in builtin.FOLDER.iterdir() if path.name != "LICENSE"
    )
    for path in built.iterdir():
        shipped = builtin.FOLDER / path.name
        if path.suffix == ".png":  # zlib may compress differently elsewhere
            with Image.open(path) as ours, Image.open(shipped) as theirs:
                assert ours.mode == theirs.mode == "L"
                assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        else:
            assert path.read_bytes() == shipped.read_bytes()


@pytest.mark.every(9)
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "expected"),
        (b"no gzip", "gzip"),
        (gzip.compress(b"\0\0"), "0x803 was expected"),
        (idx(np.zeros((2, 28, 28), np.uint8), 0x801), "0x803 was expected"),
        (gzip.compress(struct.pack(">4I", 0x803, 9, 28, 28) + bytes(784)), "784 bytes of data"),
        (idx(np.zeros((10_000, 28, 28), np.uint8), 0x803), "SHA-256"),
    ],
)
def test_build_refuses_another_source(tmp_path: Path, content: bytes, text: str) -> None:
    write_source(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=text):
        fashion_mnist.build(tmp_path, tmp_path / "built")
    assert not list((tmp_path / "built").iterdir())


def test_build_refuses_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        fashion_mnist.build(tmp_path, tmp_path / "built")


@pytest.mark.parametrize("damage", ["missing", "truncated", "pixel", "label", "rows"])
def test_a_damaged_installation_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = Path(shutil.copytree(builtin.FOLDER, tmp_path / "copy"))
    monkeypatch.setattr(builtin, "FOLDER", folder)
    sheet, labels = folder / "test.png", folder / "test_labels.txt"
    match damage:
        case "missing":
            sheet.unlink()
        case "truncated":
            sheet.write_bytes(sheet.read_bytes()[:-1000])
        case "pixel":
            with Image.open(sheet) as image:
                image.putpixel((5, 5), 77)
                image.save(sheet)
        case "label":
            labels.write_text(str((int(labels.read_text()[0]) + 1) % 10) + labels.read_text()[1:])
        case "rows":
            labels.write_text(labels.read_text()[51:])
    with pytest.raises(DataError, match="install pyalexnet anew"):
        builtin.load()


def test_the_layout_of_the_sheets() -> None:
    """Image number row * columns + column is at that row and column."""
    images = np.arange(6, dtype=np.uint8)[:, None, None] + np.zeros((6, 28, 28), np.uint8)
    sheet = fashion_mnist.sheet(images, 3)
    assert sheet.shape == (56, 84)
    assert [[int(sheet[28 * row, 28 * column]) for column in range(3)] for row in range(2)] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert np.array_equal(builtin._tiles(sheet, 3), images)
