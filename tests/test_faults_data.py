"""Bad images, labels, packs and mirrors: each is skipped and listed, or refused in a sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import test_data_pack
import test_data_prepare
from image_files import BLUE, RED, damaged_files, encoded, plain, write_class
from pyalexnet import cli, data
from pyalexnet.data import colour, decode, pack, prepare
from pyalexnet.data.dataset import Dataset
from pyalexnet.data.download import Patience
from pyalexnet.data.download import get as fetch
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options
from pyalexnet.errors import DataError
from test_data_pack import fault_of
from test_download import Mirror, Server, source

SEED = int(os.environ.get("PYALEXNET_FAULTS_SEED", "6"))
"""For everything drawn here. A failing test names its case."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command, in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["pyalexnet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# ---------------------------------------------------------------------- the folder of horrors

CUTS = 16
"""The number of places at which a JPEG is cut off."""


def photograph(width: int = 64, height: int = 48) -> Image.Image:
    """Soft colours, so that every byte of a file matters."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def horrors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Write every kind of unreadable file; return a map from name to part of the reason."""
    reasons = damaged_files(folder)
    jpeg = encoded(photograph(), "JPEG", quality=90)
    for cut in range(CUTS):
        name = f"cut at {cut:02}.jpg"
        (folder / name).write_bytes(jpeg[: len(jpeg) * cut // CUTS])
        reasons[name] = "an empty file" if cut == 0 else ""
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "endless.jpg").symlink_to("/dev/zero")
    (folder / "device.jpg").symlink_to("/dev/null")
    reasons |= {"circle.jpg": "Too many levels", "endless.jpg": "not a regular file"}
    with socket.socket(socket.AF_UNIX) as ours, monkeypatch.context() as patch:
        patch.chdir(folder)  # a socket's path may have some hundred characters only
        ours.bind("socket.jpg")
    assert stat.S_ISSOCK((folder / "socket.jpg").stat().st_mode)
    reasons |= {"socket.jpg": "not a regular file", "device.jpg": "not a regular file"}
    latin = os.fsdecode(b"d\xe9j\xe0.jpg")
    (folder / latin).write_bytes(b"vu")
    (folder / "closed.png").write_bytes(encoded(plain()))
    make_unreadable(folder / "closed.png", monkeypatch)
    return reasons | {latin: "not an image", "closed.png": "Permission denied"}


def make_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can read every file, so for root the refusal is simulated."""
    path.chmod(0)
    if not os.access(path, os.R_OK):
        return
    read_bytes = Path.read_bytes

    def refusing(self: Path) -> bytes:
        if self.name == path.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refusing)


def good_ones(folder: Path) -> int:
    """Write every kind of file that looks wrong but can be read; return their number."""
    kinds = len(test_data_prepare.odd_images(folder))
    (folder / "flat.png").write_bytes(encoded(plain(RED, (20_000, 1))))
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(encoded(plain()))
    return kinds + 2


def terrible_set(
    root: Path, monkeypatch: pytest.MonkeyPatch, per_cent: float
) -> tuple[int, dict[str, str]]:
    """A folder with bad files as `per_cent` of it; how many can be read, and why others cannot."""
    ant, bee = write_class(root, "ant", 10, RED), write_class(root, "bee", 10, BLUE)
    reasons = horrors(ant, monkeypatch)
    good = good_ones(bee) + 20
    image = ant / "0000.png"
    for number in range(int(len(reasons) * (100 / per_cent - 1)) - good + 1):
        (ant / f"more {number}.png").hardlink_to(image)
        good += 1
    return good, reasons


def assert_listed(path: Path, reasons: dict[str, str]) -> None:
    """Check that each file is listed once, with its reason."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    found = {Path(entry["path"]).name: entry["reason"] for entry in entries}
    assert len(entries) == len(found)
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert found[name] and reason in found[name], name


TRAIN = (
    "train",
    "--net=alexnet-tiny",
    "--backend=cpu",
    "--batch-size=16",
    "--steps=4",
    "--print-freq=1",
)


def the_run(out: Path) -> Path:
    [path] = [path for path in out.iterdir() if path.is_dir() and not path.is_symlink()]
    return path


def steps_of(path: Path) -> int:
    """The number of steps of a run that ended well."""
    last = json.loads((path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["reason"]) == ("stop", "steps")
    return int(last["step"])


@pytest.mark.slow
def test_the_folder_of_horrors_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, reasons = terrible_set(tmp_path / "set", monkeypatch, 1.0)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *TRAIN, "--data", tmp_path / "set") == 0
    said = capsys.readouterr().out
    assert f"skipped files: {len(reasons)};" in said and "bad_files.jsonl" in said
    assert steps_of(the_run(tmp_path / "runs")) == 4
    counts = re.search(r"\(([\d,]+) \+ ([\d,]+) images", said)
    assert counts and sum(int(count.replace(",", "")) for count in counts.groups()) == good
    assert_listed(the_run(tmp_path / "runs") / "bad_files.jsonl", reasons)


@pytest.mark.slow
@pytest.mark.parametrize("form", pack.FORMS)
def test_the_folder_of_horrors_becomes_a_pack_that_is_trained_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    good, reasons = terrible_set(tmp_path / "set", monkeypatch, 1.0)
    monkeypatch.chdir(tmp_path)
    options = ("--size=32", f"--format={form}", "--workers=1")
    assert run(monkeypatch, "data", "prepare", "set", "pack", *options) == 0
    assert f"skipped   {len(reasons)} files, listed in pack/bad_files" in capsys.readouterr().out
    assert_listed(tmp_path / "pack" / "bad_files.jsonl", reasons)
    dataset = data.load(tmp_path / "pack")
    assert len(dataset.train) + len(dataset.test) == good
    assert run(monkeypatch, *TRAIN, "--data=pack") == 0
    said = capsys.readouterr().out
    assert f"skipped files: {len(reasons)};" in said
    assert steps_of(the_run(tmp_path / "runs")) == 4


@pytest.mark.slow
def test_too_many_horrors_stop_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, reasons = terrible_set(tmp_path / "set", monkeypatch, 1.01)
    monkeypatch.chdir(tmp_path)
    commands: dict[str, tuple[str, ...]] = {
        "runs/bad_files.jsonl": (*TRAIN, "--data=set"),
        "pack/bad_files.jsonl": ("data", "prepare", "set", "pack", "--size=32", "-j1"),
    }
    for listed, arguments in commands.items():
        assert run(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        bad = len(reasons)
        assert f"set: {bad} of {good + bad} images cannot be read, first " in error
        assert "at most 1% was expected, so replace or delete them" in error
        assert error.endswith(f"{listed} lists them.")
        assert_listed(tmp_path / listed, reasons)
    assert not (tmp_path / "pack" / "pack.json").exists()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["bad_files.jsonl"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
def test_a_device_called_like_an_image(tmp_path: Path) -> None:
    """Reading /dev/zero would never end."""
    os.mknod(tmp_path / "zero.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(DataError, match="not a regular file"):
        decode.read_image(tmp_path / "zero.jpg", 8)


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_folders_that_cannot_be_entered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """A folder that can be listed but not entered, and circular links, each give a sentence."""
    write_class(tmp_path / "set", "ant", 3)
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    whole = {"train": (*TRAIN, "--data"), "prepare": ("data", "prepare")}[command]
    rest = () if command == "train" else ("pack",)
    assert run(monkeypatch, *whole, "circle", *rest) == 2
    assert "circle" in capsys.readouterr().err
    assert run(monkeypatch, *whole, "none", *rest) == 2
    is_dir = Path.is_dir

    def refusing(self: Path) -> bool:
        if self.parent.name == "set":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", refusing)
    assert run(monkeypatch, *whole, "set", *rest) == 2
    assert "set/ant: cannot be read (Permission denied)" in capsys.readouterr().err


# ---------------------------------------------------------------------- one damaged file

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {"quality": 90}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "grey": ("L", "JPEG", {}),
    "cmyk": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "rgba": ("RGBA", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "gif": ("P", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "webp": ("RGB", "WEBP", {}),
    "lossless": ("RGB", "WEBP", {"lossless": True}),
}
"""Mode, format and options of a file of each kind."""

SHOWS_A_ZERO_TAIL = set(KINDS) - {"bmp", "lossless"}
"""The others may end in zeros without being damaged."""

KEEPS_CHECKSUMS = {"png", "rgba", "palette"}


def file_of(kind: str) -> bytes:
    mode, name, options = KINDS[kind]
    return encoded(photograph().convert(mode), name, **options)


def what_becomes_of(raw: bytes) -> np.ndarray | None:
    """The image; None if it is refused. Anything other than an exception would end these tests."""
    try:
        with decode.pillow_warnings():
            return decode.decode(raw, (24, 24))
    except Exception as error:
        return None if decode.fault(error) else np.empty(0)


def damaged(kind: str, raw: bytes, length: int, how: str) -> bytes:
    return raw[:length] + (bytes(len(raw) - length) if how == "zeros" else b"")


def silently_wrong(kind: str, how: str, lengths: range) -> list[int]:
    """The lengths at which a truncated file becomes a different image."""
    raw = file_of(kind)
    whole = what_becomes_of(raw)
    assert whole is not None
    wrong = []
    for length in lengths:
        found = what_becomes_of(damaged(kind, raw, length, how))
        if found is not None and not np.array_equal(found, whole):
            wrong.append(length)
    return wrong


def ways(kind: str) -> list[str]:
    return ["cut", "zeros"] if kind in SHOWS_A_ZERO_TAIL else ["cut"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_too_early_is_never_half_an_image(kind: str) -> None:
    """Cut, or zeroed, from each 64th. A few zero bytes are not a tail: a WebP may end that way."""
    size = len(file_of(kind))
    for how in ways(kind):
        assert silently_wrong(kind, how, range(1, size - 40, size // 64)) == [], how


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_may_end_at_any_byte(kind: str, tried: Callable[..., None]) -> None:
    size, times = len(file_of(kind)), 0
    for how in ways(kind):
        last = size - 32 if how == "zeros" and kind == "webp" else size
        assert silently_wrong(kind, how, range(1, last)) == [], how
        times += last - 1
    tried(f"{kind} file cut or zeroed from every byte", times, "refused")


def flipped(raw: bytes, bit: int) -> bytes:
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def flip_bits(kind: str, times: int) -> int:
    """Flip that many bits, one at a time; return how often the file was refused."""
    raw, refused = file_of(kind), 0
    whole = what_becomes_of(raw)
    assert whole is not None
    for bit in np.random.default_rng(SEED).integers(0, 8 * len(raw), times).tolist():
        found = what_becomes_of(flipped(raw, bit))
        refused += found is None
        if found is not None and kind in KEEPS_CHECKSUMS:
            assert np.array_equal(found, whole), f"bit {bit} of {kind}"
        assert found is None or (found.shape == (24, 24, 3) and found.dtype == np.uint8)
    return refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_a_file_does_no_more_than_it_must(kind: str) -> None:
    """A PNG has checksums; for others, either an image or a refusal will do."""
    refused = flip_bits(kind, 60)
    if kind in KEEPS_CHECKSUMS:
        assert refused > 50


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flipped_bits_in_a_file(kind: str, tried: Callable[..., None]) -> None:
    refused = flip_bits(kind, 1_000)
    tried(f"bit flipped in a {kind} file", 1_000, f"{refused:,} refused, else an image; no crash")


# ---------------------------------------------------------------------- labels


def folders(root: Path, **counts: int) -> None:
    """Make class folders: `val_bee=3` is three images in val/bee."""
    for path, count in counts.items():
        write_class(root / path.split("_")[0], path.split("_")[1], count)


def npz(path: Path, **changes: Any) -> None:
    draws = np.random.default_rng(SEED)
    arrays: dict[str, Any] = {
        "images": draws.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
        "labels": np.arange(40) % 4,
        "test_images": draws.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    np.savez(path, **(arrays | changes))


IN_FOLDERS: dict[str, tuple[dict[str, int], str]] = {
    "a class missing in val": (
        {"train_ant": 3, "train_bee": 3, "val_ant": 2},
        "class bee has 0 images in val; 1 or more were expected",
    ),
    "a class missing in train": (
        {"train_ant": 3, "train_bee": 3, "val_ant": 2, "val_bee": 2, "val_cat": 2},
        "set/val/cat: is a class that ",
    ),
    "one class": ({"train_ant": 5, "val_ant": 2}, "train: holds 1 folder (ant); at least 2"),
    "an empty class in val": (
        {"train_ant": 3, "train_bee": 3, "val_ant": 0, "val_bee": 2},
        "class ant has 0 images in val",
    ),
}


@pytest.mark.parametrize("case", [*IN_FOLDERS, "an empty val", "an empty folder"])
@pytest.mark.parametrize("command", ["train", "prepare"])
def test_folders_that_make_no_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    command: str,
) -> None:
    counts, expected = IN_FOLDERS.get(case, ({"train_ant": 3, "train_bee": 3}, "class ant has 0"))
    folders(tmp_path / "set", **counts)
    if case == "an empty val":
        (tmp_path / "set" / "val").mkdir()
    elif case == "an empty folder":
        shutil.rmtree(tmp_path / "set")
        (tmp_path / "set").mkdir()
        expected = "set: holds no folders"
    monkeypatch.chdir(tmp_path)
    arguments = (*TRAIN, "--data=set") if command == "train" else ("data", "prepare", "set", "pack")
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and expected in error and "\n" not in error
    assert not list(tmp_path.glob("runs/*")) and not list(tmp_path.glob("pack/*"))


IN_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "one class": ({"labels": np.zeros(40, int), "test_labels": np.zeros(8, int)}, "1 class (0)"),
    "an empty val": (
        {"test_images": np.zeros((0, 32, 32, 3), np.uint8), "test_labels": np.zeros(0, int)},
        "test_images has shape (0, 32, 32, 3)",
    ),
    "a test label too large": ({"test_labels": np.arange(8) % 5}, "test image 4 has label 4; 0 to"),
    "a negative label": ({"labels": np.arange(40) % 4 - 1}, "image 0 has label -1; 0 to 2 were"),
    "a gap": ({"labels": np.arange(40) % 4 * 2}, "class 1 (1) has no training image"),
    "real labels": ({"labels": np.arange(40) / 10}, "labels is float64; integers were expected"),
    "text": ({"labels": np.array(["cat"] * 40)}, "labels is <U3; integers were expected"),
    "one-hot": ({"labels": np.eye(40, 4, dtype=int)}, "labels has shape (40, 4); (40,) was"),
    "too few": ({"labels": np.arange(39) % 4}, "labels has shape (39,); (40,) was expected"),
    "too many": ({"labels": np.arange(41) % 4}, "labels has shape (41,); (40,) was expected"),
}


@pytest.mark.parametrize("case", IN_ARRAYS)
def test_arrays_that_make_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    changes, expected = IN_ARRAYS[case]
    npz(tmp_path / "set.npz", **changes)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *TRAIN, "--data=set.npz") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {tmp_path}/set.npz: ")
    assert expected in error and "\n" not in error


def test_a_class_that_no_array_tests_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = np.array(["ant", "bee", "cat", "dog"])
    npz(tmp_path / "set.npz", test_labels=np.arange(8) % 2 * 3, class_names=names)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *TRAIN, "--data=set.npz") == 0
    assert "; 2 of 4 classes have no test image, first bee" in capsys.readouterr().out
    npz(tmp_path / "whole.npz", class_names=names)
    assert "no test image" not in data.load(tmp_path / "whole.npz").note


LINES: dict[str, str] = {
    "-1": "line 3 has the label '-1'; one of the 3 classes was expected, 0 to 2",
    "3": "line 3 has the label '3'; one of the 3 classes was expected, 0 to 2",
    "1001": "line 3 has the label '1001'",
    "9" * 5000: "line 3 has the label '999",
    "1.5": "line 3 has the label '1.5'",
    "\u0663": "line 3 has the label '\u0663'",
    "nan": "line 3 has the label 'nan'",
}


@pytest.mark.parametrize("label", LINES, ids=lambda label: label[:5].encode().hex())
def test_a_label_file_with_a_number_out_of_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    test_data_prepare.imagenet(tmp_path / "set")
    labels = ["0", "1", label, "2", "0", "1"]
    lines = [f"{test_data_prepare.val_file(n)} {one}" for n, one in enumerate(labels, 1)]
    (tmp_path / "val.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "data", "prepare", "set", "pack", "--val-labels=val.txt") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: val.txt: ") and LINES[label] in error
    assert not (tmp_path / "pack").exists()


@pytest.mark.slow
def test_a_thousand_and_one_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network has that many outputs, expects their loss, and accepts no other set later."""
    classes = 1001
    images = np.random.default_rng(SEED).integers(0, 256, (classes, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(classes)
    npz(tmp_path / "set.npz", images=images, labels=labels, test_images=images, test_labels=labels)
    npz(tmp_path / "other.npz")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *TRAIN, "--data=set.npz", "-b64") == 0
    said = capsys.readouterr().out
    assert "32x32x3, 1001 classes" in said and "ln 1001" in said
    [loss] = [line.split() for line in said.splitlines() if line.startswith("loss ")]
    assert abs(float(loss[1]) - np.log(classes)) < 0.1
    latest = tmp_path / "runs" / "latest"
    assert run(monkeypatch, "train", "--resume=latest", "--data=other.npz") == 2
    assert "their classes differ: there are 4 and 1001" in capsys.readouterr().err
    assert run(monkeypatch, "evaluate", latest, "--data=other.npz") == 2
    error = capsys.readouterr().err
    assert "classes" in error and error.count("\n") == 1


# ---------------------------------------------------------------------- packs


@pytest.fixture(scope="module", params=pack.FORMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of four shards, of JPEGs and of bytes."""
    base = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "LARGEST_SHARD", test_data_pack.SHARD)
        patch.setattr(colour, "FEWEST", 20)
        options = Options(Storage(test_data_pack.SIDE, request.param, 90))
        photographs = test_data_pack.write_set(base / "set")
        prepare.prepare(photographs, base / "pack", options, workers=1)
    return base / "pack"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return shutil.copytree(made, tmp_path / "pack")


def files_of(folder: Path) -> list[Path]:
    """All files of a pack, except its empty lock."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def truth(folder: Path) -> dict[str, np.ndarray]:
    dataset = data.load(folder)
    mean, axes = dataset.mean(), dataset.colour()
    assert axes is not None
    images = {"train": dataset.train.images, "val": dataset.test.images}
    labels = {"train labels": dataset.train.labels, "val labels": dataset.test.labels}
    return images | labels | {"mean": mean, "axes": axes.vectors, "sigmas": axes.sigmas}


def wrong_or_refused(dataset: Dataset, path: Path, right: dict[str, np.ndarray]) -> int:
    """Read image by image; return how many are refused. Everything else must be right."""
    refused = 0
    axes = dataset.colour()
    assert axes is not None
    assert np.array_equal(dataset.mean(), right["mean"])
    assert np.array_equal(axes.vectors, right["axes"])
    assert np.array_equal(axes.sigmas, right["sigmas"])
    for part, split in (("train", dataset.train), ("val", dataset.test)):
        assert np.array_equal(split.labels, right[f"{part} labels"])
        for index in range(len(split)):
            out = np.zeros((1, *split.image_shape), np.uint8)
            fault = fault_of(partial(split.read, np.array([index]), out))
            if fault is None:
                assert np.array_equal(out[0], right[part][index]), f"{part} image {index}"
            else:
                number = index % test_data_pack.SHARD
                assert fault.startswith(f"{path}: image {number} is damaged ("), fault
                refused += 1
    return refused


def refused_or_right(folder: Path, path: Path, right: dict[str, np.ndarray]) -> bool:
    """Open a damaged pack and read all of it; return whether anything was refused."""
    fault = fault_of(lambda: data.load(folder))
    if fault is not None:
        assert str(path) in fault and fault.endswith(".") and "\n" not in fault
        return True
    return wrong_or_refused(data.load(folder), path, right) > 0


@pytest.mark.slow
@pytest.mark.every(2)
def test_a_pack_cut_at_any_64th_is_refused(copy: Path) -> None:
    """Every file, at each 64th, before the pack is opened."""
    for path in files_of(copy):
        raw = path.read_bytes()
        for part in range(64):
            path.write_bytes(raw[: len(raw) * part // 64])
            with pytest.raises(DataError) as refused:
                data.load(copy)
            assert str(path) in str(refused.value)
        path.write_bytes(raw)
    data.load(copy)


def test_a_pack_cut_while_it_is_open_names_the_image(copy: Path) -> None:
    """With a mapped file the process would die of SIGBUS."""
    right, dataset = truth(copy), data.load(copy)
    path = test_data_pack.first_shard(copy)
    raw, counts = path.read_bytes(), []
    for part in range(64):
        os.truncate(path, len(raw) * part // 64)
        counts.append(wrong_or_refused(dataset, path, right))
        path.write_bytes(raw)
    assert counts[0] == test_data_pack.SHARD and counts[-1] >= 1
    assert counts == sorted(counts, reverse=True)
    assert wrong_or_refused(dataset, path, right) == 0


def flip_in_pack(folder: Path, times: int, opened: bool) -> int:
    """Flip bits anywhere, one at a time; return how often anything was refused."""
    right, dataset = truth(folder), data.load(folder)
    files, draws, refused = files_of(folder), random.Random(SEED), 0
    if opened:
        files = [path for path in files if path.suffix == ".safetensors"]
    for turn in range(times):
        path = draws.choice(files)
        raw = path.read_bytes()
        path.write_bytes(flipped(raw, draws.randrange(8 * len(raw))))
        try:
            if opened:
                refused += wrong_or_refused(dataset, path, right) > 0
            else:
                refused += refused_or_right(folder, path, right)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}, turn {turn}, {path.name}") from error
        finally:
            path.write_bytes(raw)
    return refused


@pytest.mark.parametrize("opened", [False, True])
def test_a_flipped_bit_anywhere_in_a_pack(copy: Path, opened: bool) -> None:
    """Refused by name, or harmless: in the record of a shard's sources."""
    assert flip_in_pack(copy, 50, opened) > 20


@pytest.mark.faults
@pytest.mark.parametrize("opened", [False, True])
def test_a_thousand_flipped_bits_in_a_pack(
    copy: Path, made: Path, opened: bool, tried: Callable[..., None]
) -> None:
    refused = flip_in_pack(copy, 1_000, opened)
    when = "an open pack" if opened else "a pack"
    what = pack.read_table(made).storage.form
    tried(f"bit flipped in {when} of {what}", 1_000, f"{refused} refused, else of no consequence")


# ---------------------------------------------------------------------- killed while preparing

KILLS = 30


def workers_of(group: int) -> list[int]:
    """The processes of a group that prepare images."""
    found = []
    for pid in test_data_prepare.members(group):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def wait_for_all_of(group: int) -> None:
    """Wait until no process of the group is alive."""
    test_data_prepare.wait_for(lambda: not test_data_prepare.members(group), 10)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_prepare_killed_at_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    """kill -9 of the command or of one of its processes; the next call ends with the same bytes."""
    monkeypatch.setattr(prepare, "LARGEST_SHARD", 8)
    many = test_data_prepare.photographs(tmp_path / "set", 250)
    storage = Storage(64, "jpeg", 90)
    straight = tmp_path / "straight"
    test_data_prepare.pack(many, straight, storage=storage)
    expected = test_data_prepare.contents(straight)
    draws, unfinished = random.Random(SEED), 0
    for turn in range(KILLS):
        out = tmp_path / f"pack {turn}"
        process = test_data_prepare.started(tmp_path, many, out)
        begun = time.monotonic()
        shards = draws.randrange(0, 40)
        while len(test_data_prepare.shards_in(out)) < shards and process.poll() is None:
            assert time.monotonic() < begun + 60
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.05 if shards else 1.0))
        team = workers_of(process.pid)
        one = turn % 2 and team
        os.kill(draws.choice(team) if one else process.pid, signal.SIGKILL)
        killed = time.monotonic()
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() < killed + 5, f"seed {SEED}, turn {turn}"
        if one and process.returncode:
            assert "DataError" in stderr and "a process that prepares images was killed" in stderr
        wait_for_all_of(process.pid)
        unfinished += not (out / "pack.json").exists()
        test_data_prepare.pack(many, out, storage=storage, workers=2)
        assert test_data_prepare.contents(out) == expected, f"seed {SEED}, turn {turn}"
        shutil.rmtree(out)
    assert unfinished > KILLS * 0.8, "the kills came too late"
    tried("kill -9 while a pack is prepared", KILLS, "next call ends byte for byte alike")


# ---------------------------------------------------------------------- mirrors


class Hostile(Mirror):
    """More ways to misbehave."""

    def drip(self, asked: str | None) -> None:
        """A kilobyte a second."""
        body = self.start_range(asked)
        for position in range(0, len(body), 100):
            self.wfile.write(body[position : position + 100])
            self.wfile.flush()
            if self.server.stopping.wait(0.1):
                return

    def drip_headers(self, asked: str | None) -> None:
        """Never silent for long, and never finished."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Wait: ")
        while not self.server.stopping.wait(0.1):
            self.wfile.write(b".")
            self.wfile.flush()

    def long_loop(self, asked: str | None) -> None:
        """Each redirection leads to another place, slowly."""
        self.server.stopping.wait(0.2)
        hop = len(self.server.requests)
        self.start(302, Location=f"/long-loop?{hop}", Content_Length=0)

    def stalled(self, asked: str | None) -> None:
        body = self.start_range(asked)
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.server.stopping.wait()

    def silent(self, asked: str | None) -> None:
        self.server.stopping.wait()

    def do_GET(self) -> None:  # noqa: N802
        self.path = self.path.partition("?")[0]
        super().do_GET()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as running, ThreadPoolExecutor(1) as pool:
        running.RequestHandlerClass = Hostile
        serving = pool.submit(running.serve_forever, 0.01)
        yield running
        running.stopping.set()
        running.shutdown()
        serving.result()


IMPATIENT = Patience(silence=0.3, answer=0.5, least_rate=2e6, last_rate=1e4, window=0.3)


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("drip", "0.001"),
        ("drip-headers", "it did not answer"),
        ("long-loop", "it did not answer"),
        ("silent", "it fell silent"),
    ],
)
def test_a_mirror_that_never_ends_is_left(
    server: Server, tmp_path: Path, mirror: str, reason: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(DataError, match="no mirror delivered it") as refused:
        fetch(source(server, mirror), tmp_path / "alone", patience=IMPATIENT)
    assert reason in str(refused.value)
    assert not (tmp_path / "alone" / "set.tar.gz").exists()
    path = fetch(source(server, mirror, "good"), tmp_path / "cache", patience=IMPATIENT)
    assert path.read_bytes() == server.content
    assert time.monotonic() - begun < 10


def test_a_name_server_that_does_not_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking up a name has no limit of its own; the system's is half a minute or more."""
    lookup = socket.getaddrinfo

    def slow(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "mirror.example":
            server.stopping.wait()
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    urls = ("http://mirror.example/set", *server.urls("good"))
    begun = time.monotonic()
    fetch(replace(source(server), mirrors=urls), tmp_path, patience=IMPATIENT)
    assert time.monotonic() - begun < 10


HOPELESS = (
    "cut",
    "stalled",
    "silent",
    "drip",
    "drip-headers",
    "long-loop",
    "loop",
    "wrong",
    "page",
    "missing",
    "broken",
    "garbage",
)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_three_mirrors_that_misbehave_alike_cost_less_than_a_minute(
    server: Server, tmp_path: Path, tried: Callable[..., None]
) -> None:
    """With the default patience, all at the same time."""

    def seconds(kind: str) -> float:
        mirrors = tuple(f"{kind}?{number}" for number in range(3))
        begun = time.monotonic()
        with pytest.raises(DataError, match="no mirror delivered it"):
            fetch(source(server, *mirrors), tmp_path / kind)
        assert not (tmp_path / kind / "set.tar.gz").exists()
        return time.monotonic() - begun

    with ThreadPoolExecutor(len(HOPELESS)) as pool:
        took = dict(zip(HOPELESS, pool.map(seconds, HOPELESS), strict=True))
    assert max(took.values()) < 60, took
    slowest = max(took, key=lambda kind: took[kind])
    tried(
        "three mirrors that misbehave alike",
        len(HOPELESS),
        f"given up in {took[slowest]:.0f} s at most ({slowest})",
    )
