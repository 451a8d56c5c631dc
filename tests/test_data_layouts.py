"""Where a folder's images are, what its parts are called, and what is reported of the rest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from image_files import BLUE, RED, encoded, plain, write_class
from pyalexnet import data
from pyalexnet.commands.data import data_app
from pyalexnet.data import listing, prepare
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options
from pyalexnet.errors import DataError
from pyalexnet.training import start
from pyalexnet.training.progress import Reporter
from pyalexnet.training.summary import opening

SIZE = (8, 8)


def load(root: Path) -> data.Dataset:
    return data.load(root, image_size=SIZE)


def part(root: Path, name: str, count: int) -> Path:
    """A folder of two classes of `count` images."""
    write_class(root / name, "ant", count, RED)
    write_class(root / name, "bee", count, BLUE)
    return root / name


def counts(root: Path) -> tuple[int, int]:
    """Training and test images, all of the right class."""
    dataset = load(root)
    for split in (dataset.train, dataset.test):
        blue = split.images[:, 0, 0, 2] > 127
        assert np.array_equal(split.labels, blue.astype(int))
    return len(dataset.train), len(dataset.test)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


# ------------------------------------------------------------------ names of the parts


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "valid"),
        ("train", "validation"),
        ("training", "val"),
        ("Train", "Test"),
        ("train", "dev"),
        ("train", "testing"),
        ("TRAINING", "eval"),
        ("train", "evaluation"),
    ],
)
def test_names_of_the_parts(tmp_path: Path, train: str, val: str) -> None:
    part(tmp_path, train, 12)
    part(tmp_path, val, 3)
    assert counts(tmp_path) == (24, 6)
    assert f"validation is {val})" in load(tmp_path).note


def test_of_val_and_test_val_is_used_and_the_other_named(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("valid", 3), ("test", 5)):
        part(tmp_path, name, count)
    assert counts(tmp_path) == (24, 6)
    assert "validation is valid; not used: test/ (10 images))" in load(tmp_path).note


def test_a_test_folder_without_classes_is_no_validation(tmp_path: Path) -> None:
    """As in contests, which keep the labels secret."""
    part(tmp_path, "train", 20)
    write_class(tmp_path, "test", 7)
    assert counts(tmp_path) == (36, 4)
    assert "a tenth drawn with seed 0; not used: test/ (7 images))" in load(tmp_path).note
    (tmp_path / "test").rename(tmp_path / "unknown")
    write_class(tmp_path / "test", "unknown", 7)
    assert counts(tmp_path) == (36, 4)


@pytest.mark.parametrize(("one", "other"), [("val", "valid"), ("test", "eval"), ("train", "Train")])
def test_two_names_of_one_part_are_refused(tmp_path: Path, one: str, other: str) -> None:
    for name in {"train", one, other}:
        part(tmp_path, name, 3)
    text = refusal(tmp_path)
    assert f"holds {min(one, other)} and {max(one, other)}; one of them was expected" in text


def test_parts_without_classes_are_no_classes(tmp_path: Path) -> None:
    """Taken as classes, training and test images would train a net to tell the two apart."""
    write_class(tmp_path, "train", 4)
    write_class(tmp_path, "test", 4)
    assert "holds test and train, and no folder for each class in train" in refusal(tmp_path)
    write_class(tmp_path, "bus", 4)
    assert load(tmp_path).class_names == ("bus", "test", "train")


# ------------------------------------------------------------------ folders in folders


@pytest.mark.parametrize("below", ["photos", "photos/train", "train/train"])
def test_a_zip_in_a_folder_of_its_name(tmp_path: Path, below: str) -> None:
    part(tmp_path / below, "", 20)
    assert counts(tmp_path) == (36, 4)


def test_parts_one_folder_down(tmp_path: Path) -> None:
    part(tmp_path / "cats_and_dogs", "train", 12)
    part(tmp_path / "cats_and_dogs", "validation", 3)
    (tmp_path / "cats_and_dogs" / "vectorize.py").write_text("")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._0000.png").write_bytes(b"")
    (tmp_path / "README").write_text("")
    assert counts(tmp_path) == (24, 6)
    note = load(tmp_path).note
    assert "validation is cats_and_dogs/validation; not used: __MACOSX/ (0 images), 1 file " in note
    assert "1 file without an ending, first README, 1 .py file, first cats_and_d" in note


def tiny_imagenet(root: Path) -> Path:
    """Its layout: two classes, images one folder down, a flat val with a file of labels."""
    for name, colour in (("n01443537", RED), ("n01629819", BLUE)):
        write_class(root / "train" / name, "images", 20, colour)
        (root / "train" / name / f"{name}_boxes.txt").write_text("0000.png\t0\t0\t9\t9\n")
    images = root / "val" / "images"
    images.mkdir(parents=True)
    lines = []
    for number, colour in enumerate((BLUE, RED, RED)):
        (images / f"val_{number}.JPEG").write_bytes(encoded(plain(colour), "JPEG"))
        name = "n01443537" if colour == RED else "n01629819"
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    write_class(root / "test", "images", 5)
    (root / "wnids.txt").write_text("n01629819\nn01443537\n")
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return root


def test_tiny_imagenet(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    assert counts(tmp_path) == (40, 3)
    dataset = load(tmp_path)
    assert dataset.test.labels.tolist() == [1, 0, 0]
    assert dataset.classes.ids == ("n01443537", "n01629819")
    top = "tiny-imagenet-200"
    assert dataset.note.endswith(
        f"validation is {top}/val/images; not used: {top}/test/ (5 images), "
        f"4 .txt files, first {top}/wnids.txt)"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("val_0.JPEG\n", "has 1 lines; 3 were expected, one for each image of val"),
        ("val_0.JPEG\tn9\t0\t0\t9\t9\n", "line 1 has the label 'n9'; one of the 2 classes"),
        ("val_0.JPEG\tn01443537\t0\t0\t9\t9\n", "lacks 2 of 3 images, first val_1.JPEG"),
        (
            "val_0.JPEG\tn01443537\t0\t0\t9\t9\nval_9.JPEG\tn01443537\t0\t0\t9\t9\n",
            "an image that is not in val, val_9.JPEG",
        ),
    ],
)
def test_annotations_that_do_not_fit(tmp_path: Path, text: str, told: str) -> None:
    tiny_imagenet(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(text)
    assert told in refusal(tmp_path)


def test_tiny_imagenet_with_its_val_sorted_into_folders(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    for line in (tmp_path / "val" / "val_annotations.txt").read_text().splitlines():
        name, label, *_ = line.split("\t")
        (tmp_path / "val" / label / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / "images" / name).rename(tmp_path / "val" / label / "images" / name)
    (tmp_path / "val" / "images").rmdir()
    assert counts(tmp_path) == (40, 3)
    assert "5 .txt files, first wnids.txt" in load(tmp_path).note


def test_labels_of_ones_own_go_before_annotations(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "set")
    (labels := tmp_path / "labels.txt").write_text("n01443537\nn01629819\nn01629819\n")
    options = Options(Storage(16, "uint8"), val_labels=labels)
    prepare.prepare(tmp_path / "set", tmp_path / "pack", options, workers=1)
    assert data.load(tmp_path / "pack").test.labels.tolist() == [0, 1, 1]


def test_a_val_of_one_class_is_not_taken_for_a_flat_one(tmp_path: Path) -> None:
    part(tmp_path, "train", 3)
    write_class(tmp_path / "val", "bee", 2)
    assert "class ant has 0 images in val; 1 or more were expected." in refusal(tmp_path)


# ------------------------------------------------------------------ what is told


def test_everything_that_is_not_used_is_counted_by_kind(tmp_path: Path) -> None:
    part(tmp_path, "train", 12)
    part(tmp_path, "val", 3)
    for name in (
        "b/1.jpg",
        "b/2.png",
        "b/notes.txt",
        "c/1.jpg",
        "d/e/1.jpg",
        "f/1.jpg",
        ".g/1.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("train/1.jpg", "val/2.png", "labels.csv", "val/more.csv", "train/ant/more.csv"):
        (tmp_path / name).touch()
    (tmp_path / "train" / "ant" / "masks").mkdir()
    (tmp_path / "train" / "ant" / "masks" / "1.png").touch()
    assert load(tmp_path).note.endswith(
        "; not used: b/ (2 images), c/ (1 image), d/ (1 image), 2 more folders, "
        "3 .csv files, first labels.csv, 2 images of no class, first train/1.jpg)"
    )


def test_nothing_is_told_where_all_is_used(tmp_path: Path) -> None:
    part(tmp_path, "train", 12)
    assert "not used" not in load(tmp_path).note


def test_the_command_tells_it_first(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("valid", 3), ("test", 5)):
        part(tmp_path / "set", name, count)
    result = CliRunner().invoke(
        data_app, ["prepare", str(tmp_path / "set"), str(tmp_path / "pack"), "--size=16", "-j1"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:2] == [
        "found     24 training and 6 validation images of 2 classes; validation is valid",
        "not used  test/ (10 images)",
    ]
    assert "validation is valid" in data.load(tmp_path / "pack").note


def test_training_tells_it_before_the_first_step(tmp_path: Path) -> None:
    part(tmp_path / "set", "train", 12)
    part(tmp_path / "set", "kept", 3)
    stream = io.StringIO()
    reporter = Reporter(stream)
    trainer = start.new(
        {"data": str(tmp_path / "set"), "backend": "cpu", "batch_size": 8},
        out=tmp_path / "runs",
        config=None,
        reporter=reporter,
    )
    with trainer.folder:
        for line in opening(trainer):
            reporter.say(line)
    assert "not used: kept/ (6 images)" in stream.getvalue()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), "Its folder is empty."),
        (("a.tif", "b.tif"), "Its folder holds 2 files (a.tif, b.tif)."),
        (("x/1.jpg", "y/2.jpg"), "Its folder holds 2 folders (x, y)."),
        (
            ("a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg", "n.txt"),
            "Its folder holds 4 folders (a, b, c, ...) and 1 file (n.txt).",
        ),
    ],
)
def test_a_class_without_images_says_what_it_holds(
    tmp_path: Path, files: tuple[str, ...], told: str
) -> None:
    write_class(tmp_path, "ant", 5)
    (tmp_path / "bee").mkdir()
    for name in files:
        (tmp_path / "bee" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bee" / name).touch()
    text = refusal(tmp_path)
    assert "class bee has 0 images; 2 or more were expected, as a tenth is held out. " in text
    assert text.endswith(told)


# ------------------------------------------------------------------ the order of the classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("10 9 0 1 11 2", "0 1 2 9 10 11"),
        ("b a B", "B a b"),
        ("class10 class2 class1", "class1 class2 class10"),
        ("n02 n01 n10", "n01 n02 n10"),
        ("1 01 001 2", "001 01 1 2"),
        ("a 10 2", "2 10 a"),
    ],
)
def test_numbers_sort_as_numbers(names: str, expected: str) -> None:
    assert sorted(names.split(), key=listing.natural) == expected.split()


def numbered(root: Path, names: Any) -> Path:
    for name in names:
        write_class(root, str(name), 20, (int(name) * 20, 0, 0))
    return root


def test_folder_10_is_class_10(tmp_path: Path) -> None:
    dataset = load(numbered(tmp_path, range(12)))
    assert dataset.classes.ids == tuple(str(number) for number in range(12))
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.images[:, 0, 0, 0], 20 * split.labels)


def test_images_come_by_the_bytes_of_their_names(tmp_path: Path) -> None:
    """As always, so that a run trained before classes were sorted by number can continue."""
    train = load(numbered(tmp_path, range(12))).train
    order = list(dict.fromkeys(train.labels.tolist()))
    assert order == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]


def test_numbers_of_folders_that_others_sort_otherwise(tmp_path: Path) -> None:
    """Is class10 the second folder, or class2?"""
    for name in ("class2", "class10"):
        write_class(tmp_path / "set" / "train", name, 2)
    write_class(tmp_path / "set", "val", 2)
    labels, numbers, names = (tmp_path / f"{name}.txt" for name in ("val", "numbers", "names"))
    labels.write_text("0000.png 0\n0001.png 1\n")
    numbers.write_text("0 class10\n1 class2\n")
    names.write_text("ten\ntwo\n")

    def made(**more: Any) -> data.Dataset:
        options = Options(Storage(16, "uint8"), val_labels=labels, **more)
        prepare.prepare(tmp_path / "set", tmp_path / "pack", options, workers=1)
        return data.load(tmp_path / "pack")

    with pytest.raises(DataError, match="which folder is the second depends on whether numbers"):
        made()
    with pytest.raises(DataError, match=r"without their folders, .* lines FOLDER NAME were"):
        made(val_numbers=numbers, class_names=names)
    names.write_text("class10 ten\nclass2 two\n")
    dataset = made(val_numbers=numbers, class_names=names)
    assert dataset.classes.ids == ("class2", "class10") and dataset.class_names == ("two", "ten")
    assert dataset.test.labels.tolist() == [1, 0]
