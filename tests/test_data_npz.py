"""Data sets in `.npz` files, and every way they can be wrong."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet import data
from pyalexnet.data.classes import Classes
from pyalexnet.errors import DataError
from samples import generator

N = 40


def arrays(**changes: Any) -> dict[str, Any]:
    """A good set of 2 classes, with some arrays changed, or left out if None."""
    rng = np.random.default_rng(0)
    good: dict[str, Any] = {
        "images": rng.integers(0, 256, (N, 5, 4, 3), dtype=np.uint8),
        "labels": np.arange(N) % 2,
    }
    return {name: array for name, array in (good | changes).items() if array is not None}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays(**changes))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_a_tenth_is_held_out(tmp_path: Path, dtype: type) -> None:
    path = write(tmp_path, labels=(np.arange(N) % 2).astype(dtype))
    dataset = data.load(path, seed=3)
    assert (len(dataset.train), len(dataset.test)) == (36, 4)
    assert dataset.name == "set"
    assert dataset.class_names == ("0", "1")
    assert str(path) in dataset.note
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    whole = {image.tobytes(): index % 2 for index, image in enumerate(arrays()["images"])}
    for split in (dataset.train, dataset.test):
        assert split.labels.dtype == np.int64
        for image, label in zip(split.images, split.labels, strict=True):
            assert whole.pop(image.tobytes()) == label
    assert not whole
    again, other = data.load(path, seed=3), data.load(path, seed=4)
    assert np.array_equal(again.test.images, dataset.test.images)
    assert not np.array_equal(other.test.images, dataset.test.images)


def test_test_images_class_names_and_strange_layouts_are_read(tmp_path: Path) -> None:
    images = np.asfortranarray(arrays()["images"])
    path = write(
        tmp_path,
        images=images,
        test_images=images[:3, :, ::-1],
        test_labels=np.array([1, 0, 1], np.uint8),
        class_names=np.array(["cat", "dög"]),
    )
    dataset = data.load(str(path))
    assert dataset.class_names == dataset.classes.ids == ("cat", "dög")
    assert np.array_equal(dataset.train.images, images)
    assert np.array_equal(dataset.test.images, images[:3, :, ::-1])
    assert dataset.test.labels.tolist() == [1, 0, 1]
    assert dataset.train.images.flags.c_contiguous
    assert dataset.test.images.flags.c_contiguous


NAN = np.zeros((N, 5, 4, 3), np.float32)
NAN[3, 2, 1] = np.nan
TEN = np.arange(N) % 11
NAMES = np.array([f"class {number}" for number in range(10)])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": NAN}, "images is float32 and 3 of its values are NaN; uint8"),
        ({"images": np.zeros((N, 5, 4, 3))}, "images is float64; uint8, 0 to 255, was expected"),
        ({"images": np.zeros((N, 5, 4), np.uint8)}, r"shape \(40, 5, 4\); \(N, H, W, C\)"),
        ({"images": np.zeros((0, 5, 4, 3), np.uint8), "labels": TEN[:0]}, r"shape \(0, 5, 4, 3\)"),
        ({"images": np.zeros((N, 0, 4, 3), np.uint8)}, "none of them 0"),
        ({"images": None}, "an array called images was expected"),
        ({"labels": None}, "holds images; an array called labels was expected"),
        ({"labels": TEN, "class_names": NAMES}, "label 10; 0 to 9 were expected"),
        ({"labels": TEN - 1}, "label -1; 0 to 9 were expected"),
        (
            {"labels": np.where(TEN == 1, np.uint64(2**63 + 5), np.uint64(0))},
            "label 9223372036854775813",
        ),
        ({"labels": TEN + 10**12}, "label 1000000000010 and 40 images; 0 to classes - 1"),
        ({"labels": TEN + 1}, r"class 0 \(0\) has no training image"),
        ({"labels": np.where(TEN == 3, 5, TEN)}, r"class 3 \(3\) has no training image"),
        ({"labels": TEN.astype(float)}, "labels is float64; integers"),
        ({"labels": TEN.astype(bool)}, "labels is bool; integers"),
        ({"labels": TEN[1:]}, r"shape \(39,\); \(40,\) was expected"),
        ({"labels": TEN[:, None]}, r"shape \(40, 1\); \(40,\) was expected"),
        ({"labels": np.zeros(N, int)}, "1 class"),
        ({"test_images": np.zeros((2, 5, 4, 3), np.uint8)}, "one of test_images and test_labels"),
        ({"test_labels": TEN}, "one of test_images and test_labels"),
        ({"test_images": np.zeros((2, 5, 4, 3)), "test_labels": TEN[:2]}, "test_images is float64"),
        (
            {"test_images": np.zeros((2, 6, 4, 3), np.uint8), "test_labels": TEN[:2]},
            "6x4x3; 5x4x3 was expected",
        ),
        (
            {"test_images": np.zeros((2, 5, 4, 3), np.uint8), "test_labels": TEN[:2] + 1},
            "test image 1 has label 2; 0 to 1",
        ),
        ({"class_names": np.array([1, 2])}, "class_names is int64 of shape"),
        ({"class_names": np.array("ab")}, r"shape \(\); strings of shape"),
        ({"class_ids": np.array([1, 2])}, "class_ids is int64 of shape"),
        ({"class_ids": np.array(["a", "a"])}, "class_ids is a, a; each id once"),
        ({"class_ids": NAMES, "class_names": np.array(["a"])}, "and as many as class_names, were"),
    ],
)
def test_a_wrong_array_is_one_sentence(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(DataError, match=text) as caught:
        data.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
@pytest.mark.parametrize("grey", [True, False])
def test_arrays_of_keras_and_of_medmnist(
    tmp_path: Path, names: tuple[str, str, str, str], grey: bool
) -> None:
    """Grey images without channels, labels in a column."""
    images = generator(5).integers(0, 256, (N, 6, 5, 1 if grey else 3), np.uint8)
    labels = np.arange(N) % 4
    parts = (images[..., 0] if grey else images, labels[:, None])
    path = tmp_path / "set.npz"
    arrays = (*parts, *(part[:8] for part in parts))
    named: dict[str, Any] = dict(zip(names, arrays, strict=True))
    np.savez(path, **named)
    found = data.load(path)
    assert np.array_equal(found.train.images, images) and found.train.labels.tolist() == [*labels]
    assert np.array_equal(found.test.images, images[:8])
    np.savez(path, images=images, labels=labels, **named)
    with pytest.raises(DataError, match=f"holds {names[0]} and images; one of the two"):
        data.load(path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_ids_and_names(tmp_path: Path) -> None:
    ids, names = np.array(["n1", "n2"]), np.array(["crane", "crane"])
    both = data.load(write(tmp_path, class_ids=ids, class_names=names))
    assert both.classes == Classes(("n1", "n2"), ("crane", "crane"))
    assert data.load(write(tmp_path, class_ids=ids)).classes == Classes.named(("n1", "n2"))
    assert data.load(write(tmp_path, class_names=names)).classes.ids == ("crane (0)", "crane (1)")


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    assert "not used" not in data.load(write(tmp_path)).note
    note = data.load(write(tmp_path, val_images=np.zeros(3), val_labels=np.zeros(3))).note
    assert note.endswith("is held out; not used: val_images, val_labels)")


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        data.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    path = tmp_path / "set.npz"
    path.write_bytes(pickle.dumps(Payload(touched)))
    refusal(path)
    np.savez(path, **arrays(labels=np.array([Payload(touched)] * N, object)))
    assert "cannot be read" in refusal(path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Payload(touched)))
    assert touched.exists(), "the payload does nothing, so the test showed nothing"


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    for part in range(16):
        path.write_bytes(whole[: len(whole) * part // 16])
        refusal(path)
    middle = len(whole) // 4
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert "CRC" in refusal(path)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert "is a single array" in refusal(path)


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    header = str({"descr": "|u1", "fortran_order": False, "shape": (2**60, 5, 4, 3)}).encode()
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", magic + header)
        archive.writestr("labels.npy", magic + header)
    assert "cannot be read" in refusal(path)
