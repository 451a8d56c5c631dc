"""`pyalexnet predict`: from image files to classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks import CLASS_NAMES, files, invoked, pictures, written
from pyalexnet.commands.predict import predict
from pyalexnet.data.images import named
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.trained import ensemble
from pyalexnet.trained.load import Trained


@pytest.mark.parametrize("ten_crop", [False, True])
def test_json_is_what_the_network_says(tmp_path: Path, ten_crop: bool) -> None:
    run = written(tmp_path / "run")
    x = pictures(5)
    paths = files(tmp_path / "images", x)
    options = ["--ten-crop"] if ten_crop else []
    said = invoked(predict, run, *paths, "--json", "--top=2", "--batch-size=2", *options)
    expected = Trained.load(run).probabilities(x, ten_crop=ten_crop)
    for document, path, row in zip(json.loads(said.stdout), paths, expected, strict=True):
        assert document["path"] == str(path)
        order = np.argsort(-row)[:2]
        found = document["predictions"]
        assert [entry["index"] for entry in found] == list(order)
        assert [entry["class"] for entry in found] == [CLASS_NAMES[i] for i in order]
        assert [entry["probability"] for entry in found] == pytest.approx(row[order], rel=1e-4)


def test_lines_for_people(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    x = pictures(2)
    paths = files(tmp_path / "images", x)
    lines = invoked(predict, run, tmp_path / "images").stdout.splitlines()
    probabilities = Trained.load(run).probabilities(x)[1]
    best = int(probabilities.argmax())
    assert lines[5] == str(paths[1])
    assert lines[6] == f"  {100 * probabilities[best]:6.2f} %  {CLASS_NAMES[best]}"
    assert len(lines) == 10  # there are four classes, and all are printed


def test_ties_come_in_the_order_of_the_classes() -> None:
    rows = np.array([[0.2, 0.3, 0.2, 0.3]])
    assert ensemble.best(rows, 3) == [[1, 3, 0]]


def test_a_greyscale_network_takes_photographs(tmp_path: Path) -> None:
    run = written(tmp_path / "run", channels=1)
    x = pictures(1)
    (path,) = files(tmp_path / "images", x)
    grey = np.asarray(Image.fromarray(x[0]).convert("L"))[None, ..., None]
    expected = Trained.load(run).probabilities(grey)[0]
    (found,) = json.loads(invoked(predict, run, path, "--json").stdout)
    assert found["predictions"][0]["probability"] == pytest.approx(expected.max(), rel=1e-6)


def test_unreadable_files_are_skipped_with_a_warning(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    paths = files(tmp_path / "images", pictures(2))
    paths[0].write_bytes(b"")
    said = invoked(predict, run, *paths, "--json")
    assert [document["path"] for document in json.loads(said.stdout)] == [str(paths[1])]
    assert f"warning: skipped {paths[0]}: an empty file" in said.stderr
    paths[1].write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="none of the 2 images can be read; at least one was"):
        invoked(predict, run, *paths)
    with pytest.raises(DataError, match=r"000\.png: cannot be read; an image was expected"):
        invoked(predict, run, paths[0])


def test_a_sheet_with_and_without_labels(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    paths = files(tmp_path / "cat", pictures(3))
    said = invoked(predict, run, *paths, "--sheet", tmp_path / "sheet.png", "--labels")
    assert said.stdout.count("(cat)") == said.stdout.count("cat  <- right") == 3
    assert said.stdout.count("<- right") == 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        labelled = np.asarray(sheet.convert("RGB"))
    invoked(predict, run, *paths, "--sheet", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        plain = np.asarray(sheet.convert("RGB"))
    assert labelled.std() > 5 and labelled.shape[1] == plain.shape[1]
    assert labelled.shape != plain.shape or (labelled != plain).any()
    (document, *_) = json.loads(invoked(predict, run, *paths, "--labels", "--json").stdout)
    assert document["label"] == "cat"


def test_labels_end_in_a_total(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    x = pictures(12)
    files(tmp_path / "ant", x[:6])
    files(tmp_path / "bee", x[6:])
    order = np.argsort(-Trained.load(run).probabilities(x), axis=1)
    truth = np.repeat([0, 1], 6)
    first = int((order[:, 0] == truth).sum())
    among = int((order[:, :2] == truth[:, None]).any(axis=1).sum())
    assert 0 < first < among < 12
    asked = (run, tmp_path / "ant", tmp_path / "bee", "--batch-size=5")
    said = invoked(predict, *asked, "--labels", "--top=2").stdout
    assert said.splitlines()[-1] == f"right: {first} of 12 (top-2: {among})"
    assert invoked(predict, *asked, "--labels", "--top=1").stdout.endswith(
        f"right: {first} of 12\n"
    )
    assert invoked(predict, *asked, "--labels").stdout.endswith(
        f"right: {first} of 12 (top-4: 12)\n"
    )
    assert "right" not in invoked(predict, *asked).stdout


def test_labels_of_no_class_are_refused(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    paths = files(tmp_path / "cow", pictures(1))
    with pytest.raises(ArgumentError, match=r"folder 'cow'; the name of one of the 4 classes"):
        invoked(predict, run, *paths, "--labels")


def test_folders_stand_for_the_images_in_them(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("b/2.jpg", "b/10.JPG", "a/c/1.png", "z.webp", ".hidden.png", ".dot/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("notes.txt", "a/list.json"):
        (root / name).touch()
    said: list[str] = []
    found = [str(path.relative_to(root)) for path in named([root], said.append)]
    assert found == ["z.webp", "a/c/1.png", "b/10.JPG", "b/2.jpg"]
    assert said == [
        f"not used  of {root}: 1 .txt file, first notes.txt, 1 .json file, first a/list.json"
    ]
    # A file counts, whatever its name, and as often as it is given.
    assert named([root / "notes.txt", root / "notes.txt"]) == [root / "notes.txt"] * 2


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.tif").touch()
    with pytest.raises(DataError, match=r"holds no image, but 1 \.tif file, first 1\.tif; files"):
        named([tmp_path / "scans"])
    with pytest.raises(DataError, match="holds no image;"):
        named([tmp_path / "empty"])
    with pytest.raises(DataError, match="is missing"):
        named([tmp_path / "missing.png"])
