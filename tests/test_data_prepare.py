"""Preparing packs: every layout, any number of processes, kills in the middle, and refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from image_files import BLUE, RED, damaged_files, encoded, plain, png16, write_class
from pyalexnet import data
from pyalexnet.commands.data import data_app
from pyalexnet.data import colour, prepare
from pyalexnet.data.pack import Storage, Table
from pyalexnet.data.prepare import Options
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.files import sealed
from samples import generator

IMAGENET_MEANS = np.array([127.30, 119.72, 104.91], np.float32)

SMALL = Storage(16, "uint8")
"""Sixteen pixels a side, stored uncompressed."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "LARGEST_SHARD", 8)


def pack(source: Path, out: Path, *, workers: int = 1, **more: Any) -> Table:
    progress = more.pop("progress", None)
    options = Options(**({"storage": SMALL} | more))
    return prepare.prepare(source, out, options, workers=workers, progress=progress)


def refusal(source: Path, out: Path, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        pack(source, out, **more)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a pack."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def photographs(root: Path, count: int = 20) -> Path:
    """Two classes of JPEGs, in train and val, all different."""
    for part, share in (("train", count), ("val", count // 3)):
        for label, name in enumerate(("ant", "bee")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(share):
                noise = generator(len(part), label, number).integers(0, 256, (24, 40, 3))
                image = Image.fromarray(noise.astype(np.uint8))
                (folder / f"{number:03}.JPEG").write_bytes(encoded(image, "JPEG"))
    return root


# ------------------------------------------------------------------ what becomes of a set


def test_train_and_val(tmp_path: Path) -> None:
    for part, count in (("train", 11), ("val", 9)):
        write_class(tmp_path / "set" / part, "ant", count, RED)
        write_class(tmp_path / "set" / part, "bee", count, BLUE)
    table = pack(tmp_path / "set", tmp_path / "pack")
    dataset = data.load(tmp_path / "pack")
    for split, count in ((dataset.train, 11), (dataset.test, 9)):
        assert split.labels.tolist() == [0] * count + [1] * count
        assert split.images[:, 0, 0].tolist() == [
            [colour[0], number, colour[2]] for colour in (RED, BLUE) for number in range(count)
        ]
    assert [facts.images for facts in table.shards["train"]] == [8, 8, 6]
    assert dataset.class_names == ("ant", "bee")
    assert "validation is val" in dataset.note and "skipped files: 0" in dataset.note
    assert not (tmp_path / "pack" / "bad_files.jsonl").exists()


@pytest.mark.parametrize("below", ["", "train"])
def test_without_val_the_tenth_is_that_of_a_folder_read_directly(
    tmp_path: Path, below: str
) -> None:
    write_class(tmp_path / "set" / below, "ant", 30, RED)
    write_class(tmp_path / "set" / below, "bee", 20, BLUE)
    pack(tmp_path / "set", tmp_path / "pack", seed=1)
    packed = data.load(tmp_path / "pack")
    direct = data.load(tmp_path / "set", image_size=(16, 16), seed=1)
    for one, other in ((packed.train, direct.train), (packed.test, direct.test)):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(packed.mean(), np.broadcast_to(IMAGENET_MEANS, (16, 16, 3)))
    assert "a tenth drawn with seed 1" in packed.note


def test_a_jpeg_in_the_pack_is_of_the_quality_asked_for(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set", 3)
    exact, fine, coarse = (tmp_path / name for name in ("exact", "fine", "coarse"))
    pack(source, exact)
    pack(source, fine, storage=Storage(16, "jpeg", 95))
    pack(source, coarse, storage=Storage(16, "jpeg", 20))
    images = {path: data.load(path).train.images.astype(int) for path in (exact, fine, coarse)}
    error = {path: np.abs(images[path] - images[exact]).mean() for path in (fine, coarse)}
    assert 0 < error[fine] < 3 < error[coarse]
    for shard in (fine / "shards").iterdir():
        raw = shard.read_bytes()
        start = raw.index(b"\xff\xc0")  # the frame: every component sampled 1 x 1
        assert [raw[start + at] for at in (11, 14, 17)] == [0x11] * 3


@pytest.mark.every(9)
@pytest.mark.parametrize("name", ["an image set", os.fsdecode(b"caf\xe9")])
def test_odd_names(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    for label in ("white bear", os.fsdecode(b"\xff\xfe")):
        folder = write_class(source, label, 110)
        (folder / os.fsdecode(b"1 \xe9.png")).write_bytes(encoded(plain()))
        (folder / os.fsdecode(b"bad \xe9.png")).write_bytes(b"x")
    table = pack(source, tmp_path / f"{name} pack", workers=2)
    dataset = data.load(tmp_path / f"{name} pack")
    assert len(dataset.train) + len(dataset.test) == 222
    assert dataset.class_names == ("white bear", "\\xff\\xfe")
    assert table.skipped == 2
    lines = (tmp_path / f"{name} pack" / "bad_files.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["path"] == str(source / os.fsdecode(b"\xff\xfe/bad \xe9.png"))


def odd_images(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Write a good image of each odd kind; name to colour."""
    turned = Image.Exif()
    turned[0x0112] = 6
    cmyk = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    kinds: dict[str, tuple[bytes, tuple[int, int, int]]] = {
        "grey.JPEG": (encoded(Image.new("L", (20, 20), 77), "JPEG"), (77, 77, 77)),
        "cmyk.JPEG": (encoded(cmyk, "JPEG"), RED),
        "palette.png": (encoded(plain(BLUE).quantize(4)), BLUE),
        "rgba.png": (encoded(Image.new("RGBA", (9, 9), (*RED, 0))), (255, 255, 255)),
        "sixteen.png": (png16(2, [0x10FF, 0x20FF, 0x30FF]), (0x10, 0x20, 0x30)),
        "png named.JPEG": (encoded(plain((1, 2, 3))), (1, 2, 3)),
        "animated.gif": (
            encoded(plain(RED), "GIF", save_all=True, append_images=[plain(BLUE)]),
            RED,
        ),
        "turned.jpg": (encoded(plain(BLUE, (40, 16)), "JPEG", exif=turned), BLUE),
        "dot.png": (encoded(plain(RED, (1, 1))), RED),
        "line.png": (encoded(plain(RED, (1, 20_000))), RED),
    }
    for name, (raw, _) in kinds.items():
        (folder / name).write_bytes(raw)
    return {name: expected for name, (_, expected) in kinds.items()}


def test_odd_images_come_out_right_and_bad_files_are_listed_once(tmp_path: Path) -> None:
    ant = write_class(tmp_path / "set" / "train", "ant", 1500, (0, 0, 9))
    write_class(tmp_path / "set" / "train", "bee", 1)
    write_class(tmp_path / "set" / "val", "ant", 1)
    write_class(tmp_path / "set" / "val", "bee", 1)
    good, expected = odd_images(ant), damaged_files(ant)
    (ant / "notes.txt").write_text("not counted")
    table = pack(tmp_path / "set", tmp_path / "pack", workers=2)
    lines = (tmp_path / "pack" / "bad_files.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in entries}
    assert len(entries) == len(reasons) == table.skipped
    assert reasons.keys() == {*expected, "notes.txt"}
    assert all(reason in reasons[name] for name, reason in expected.items())
    train = data.load(tmp_path / "pack").train
    assert len(train) == 1500 + len(good) + 1
    names = sorted([path.name for path in ant.iterdir() if path.name not in reasons])
    for name, colours in good.items():
        image = train.images[names.index(name)].astype(int)
        assert np.abs(image - colours).max() <= 4, name
    again = pack(tmp_path / "set", tmp_path / "pack")
    assert again.skipped == table.skipped
    assert (tmp_path / "pack" / "bad_files.jsonl").read_text().splitlines() == lines


@pytest.mark.every(4)
@pytest.mark.parametrize(("good", "bad", "stops"), [(99, 1, False), (98, 1, True), (198, 2, False)])
@pytest.mark.parametrize("workers", [1, 2])
def test_over_one_per_cent_stops(
    tmp_path: Path, good: int, bad: int, stops: bool, workers: int
) -> None:
    ant = write_class(tmp_path / "set", "ant", good - 2)
    write_class(tmp_path / "set", "bee", 2)
    for number in range(bad):
        (ant / f"bad{number}.png").write_bytes(b"x")
    out = tmp_path / "pack"
    if not stops:
        pack(tmp_path / "set", out, workers=workers)
    else:
        text = refusal(tmp_path / "set", out, workers=workers)
        assert f"{bad} of {good + bad} images cannot be read" in text
        assert "bad0.png (not an image" in text and f"{out}/bad_files.jsonl lists them" in text
        assert not (out / "pack.json").exists()
        with pytest.raises(DataError, match="images"):
            data.load(out, image_size=(8, 8))
        (ant / "bad0.png").write_bytes(encoded(plain(size=(33, 44))))
        pack(tmp_path / "set", out, workers=workers)
        assert not (out / "bad_files.jsonl").exists()
    assert (out / "pack.json").exists()
    assert len(data.load(out).train) + len(data.load(out).test) == good + (bad if stops else 0)


def test_a_class_whose_every_image_is_bad(tmp_path: Path) -> None:
    write_class(tmp_path / "set", "ant", 300)
    bee = write_class(tmp_path / "set", "bee", 1)
    (bee / "0000.png").write_bytes(b"")
    (bee / "0001.png").write_bytes(b"")
    assert "class bee has 0 readable images" in refusal(tmp_path / "set", tmp_path / "pack")
    assert not (tmp_path / "pack" / "pack.json").exists()


@pytest.mark.parametrize(("count", "of"), [(499, "imagenet"), (500, "train")])
def test_a_set_of_a_thousand_has_statistics_of_its_own(
    tmp_path: Path, count: int, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LARGEST_SHARD", 512)
    for part, images in (("train", count), ("val", 1)):
        write_class(tmp_path / "set" / part, "ant", images, RED)
        write_class(tmp_path / "set" / part, "bee", images, BLUE)
    table = pack(tmp_path / "set", tmp_path / "pack")
    dataset = data.load(tmp_path / "pack")
    found, shipped = dataset.colour(), colour.imagenet()
    assert found is not None
    assert table.statistics.of == of
    assert np.array_equal(found.vectors, shipped.vectors) == (of == "imagenet")
    expected = dataset.train.mean() if of == "train" else IMAGENET_MEANS
    assert np.array_equal(dataset.mean(), np.broadcast_to(expected, (16, 16, 3)))


def test_progress_counts_files_up_to_all(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set")
    for workers in (1, 2):
        seen: list[tuple[int, int]] = []
        pack(
            source,
            tmp_path / str(workers),
            workers=workers,
            progress=lambda *numbers, seen=seen: seen.append(numbers),
        )
        assert seen == sorted(set(seen))
        assert seen[-1] == (52, 52) and len(seen) == 5 + 2


# ------------------------------------------------------------------ processes, kills, resumption


@pytest.mark.every(2)
@pytest.mark.parametrize("form", ["jpeg", "uint8"])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colour, "FEWEST", 40)
    source = photographs(tmp_path / "set")
    (source / "train" / "ant" / "notes.txt").write_text("")
    found = {}
    for workers in (1, 3):
        out = tmp_path / str(workers)
        pack(source, out, workers=workers, storage=Storage(32, form, 90))
        found[workers] = contents(out)
    assert found[1] == found[3]
    assert json.loads(found[1]["pack.json"])["statistics"]["of"] == "train"


SCRIPT = """
import signal
from pyalexnet.commands.data import data_app
from pyalexnet.data import prepare

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    prepare.LARGEST_SHARD = 8
    data_app()
"""


def started(tmp_path: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    """The command, in its own processes, as from a terminal."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = ("--size", "64", "--quality", "90", "--workers", "2")
    return subprocess.Popen(
        [sys.executable, script, "prepare", source, out, *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shards_in(out: Path) -> list[Path]:
    return sorted((out / "shards").glob("*.safetensors"))


def members(group: int) -> list[int]:
    """Live processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(own) == group and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photographs for a kill to come in time."""
    return photographs(tmp_path_factory.mktemp("many") / "set", 300)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 20])
def test_kill_9_and_go_on(tmp_path: Path, many: Path, shards: int) -> None:
    out, straight = tmp_path / "pack", tmp_path / "straight"
    (many / "train" / "ant" / "bad.png").write_bytes(b"x")
    try:
        storage = Storage(64, "jpeg", 90)
        pack(many, straight, storage=storage)
        process = started(tmp_path, many, out)
        wait_for(lambda: len(shards_in(out)) >= shards)
        process.kill()
        process.communicate()
        wait_for(lambda: not members(process.pid), 10)  # no worker is left behind
        kept = {path: path.stat().st_mtime_ns for path in shards_in(out)}
        assert shards <= len(kept) < len(shards_in(straight))
        assert not (out / "pack.json").exists()
        (out / "shards" / ".tmp-train-00001.safetensors-1").write_bytes(b"half")
        pack(many, out, workers=2, storage=storage)
        assert contents(out) == contents(straight)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        [line] = (out / "bad_files.jsonl").read_text().splitlines()
        assert json.loads(line)["path"] == str(many / "train" / "ant" / "bad.png")
    finally:
        (many / "train" / "ant" / "bad.png").unlink()


def test_ctrl_c_ends_in_a_line(tmp_path: Path, many: Path) -> None:
    """The signal goes to every process of the group, as from a terminal."""
    out = tmp_path / "pack"
    process = started(tmp_path, many, out)
    wait_for(lambda: len(shards_in(out)) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode == 130
    assert stderr == ""
    assert stdout.splitlines()[-1] == "stopped; the same command continues"
    wait_for(lambda: not members(process.pid), 10)
    assert not (out / "pack.json").exists()


@pytest.fixture
def no_child_left() -> Iterator[None]:
    yield
    wait_for(lambda: not multiprocessing.active_children(), 10)


@pytest.mark.usefixtures("no_child_left")
def test_an_interrupt_does_not_wait_for_the_whole_set(tmp_path: Path, many: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(many, tmp_path / "pack", workers=2, progress=interrupt)
    assert 1 <= len(shards_in(tmp_path / "pack")) < 40


@pytest.mark.usefixtures("no_child_left")
def test_a_killed_worker_is_noticed(tmp_path: Path, many: Path) -> None:
    def kill(done: int, total: int) -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    begun = time.monotonic()
    text = refusal(many, tmp_path / "pack", workers=2, progress=kill)
    assert time.monotonic() - begun < 20
    assert "was killed" in text and "--workers 1" in text
    pack(many, tmp_path / "pack")


def test_what_changed_is_made_again(tmp_path: Path) -> None:
    """A shard is kept only if its files are the same, by name, length and time."""
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    pack(source, out)
    old = contents(out)
    (out / "pack.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in shards_in(out)}

    def remade() -> list[str]:
        (out / "pack.json").unlink()
        pack(source, out)
        found = {path: path.stat().st_mtime_ns for path in shards_in(out)}
        changed = [path.name for path in found if found[path] != times[path]]
        times.update(found)
        return changed

    pack(source, out)
    assert remade() == []
    assert contents(out) == old
    image = source / "train" / "ant" / "009.JPEG"
    raw = image.read_bytes()
    image.write_bytes(raw + b"\0")  # a different length
    assert remade() == ["train-00001.safetensors"]
    image.write_bytes(raw)
    os.utime(image, ns=(0, 0))  # the length changes again, and the file is old
    assert remade() == ["train-00001.safetensors"]
    os.utime(image)  # the same length, and new
    assert remade() == ["train-00001.safetensors"]
    assert contents(out) == old
    for damage in (b"", old["shards/val-00000.safetensors"][:-1], b"x" * 100):
        (out / "shards" / "val-00000.safetensors").write_bytes(damage)
        assert remade() == ["val-00000.safetensors"]
    flipped = bytearray(old["shards/val-00000.safetensors"])
    flipped[-1] ^= 1
    (out / "shards" / "val-00000.safetensors").write_bytes(flipped)
    assert remade() == ["val-00000.safetensors"]
    assert contents(out) == old


def test_a_finished_pack_is_kept_or_mended(tmp_path: Path) -> None:
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    table = pack(source, out)
    old = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    seen: list[int] = []
    again = pack(source, out, progress=lambda done, total: seen.append(done))
    assert again.plan == table.plan and not seen
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    for path, raw in (
        ("shards/train-00002.safetensors", old["shards/train-00002.safetensors"][:-9]),
        ("mean.npy", b"x"),
        ("pack.json", old["pack.json"][:-9]),
    ):
        (out / path).write_bytes(raw)
        pack(source, out)
        assert contents(out) == old
    (out / "shards" / "train-00002.safetensors").unlink()
    pack(source, out)
    assert contents(out) == old


def test_a_pack_that_is_being_mended_is_none(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    pack(source, out)
    shards_in(out)[-1].write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, progress=interrupt)
    assert not (out / "pack.json").exists()


def test_shards_of_an_earlier_larger_call_go(tmp_path: Path) -> None:
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    pack(source, out)
    (out / "pack.json").unlink()
    for number in range(12):
        (source / "train" / "bee" / f"{number:03}.JPEG").unlink()
    pack(source, out)
    pack(source, tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")


# ------------------------------------------------------------------ labels of a flat val


def imagenet(root: Path, folders: tuple[str, ...] = ("n01", "n02", "n03")) -> Path:
    """train/<folder>/ and a flat val/ of six images, with their number as green."""
    for folder in folders:
        write_class(root / "train", folder, 2)
    (root / "val").mkdir()
    for number in range(6):
        name = f"ILSVRC2012_val_{number + 1:08}.JPEG"
        (root / "val" / name).write_bytes(encoded(plain((255, 40 * number, 0))))
    return root


def val_file(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


LABELS = [2, 0, 1, 1, 2, 0]
BY_FOLDER = [f"n0{label + 1}" for label in LABELS]
NUMBERS = "30 n01\n10 n02\n20 n03\n"


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (BY_FOLDER, None),
        ([{0: "30", 1: "10", 2: "20"}[label] for label in LABELS], NUMBERS),
        ([f"{val_file(n)} {label}" for n, label in enumerate(LABELS, 1)], None),
        ([f"{val_file(n)}\t{folder}" for n, folder in enumerate(BY_FOLDER, 1)], None),
        ([f"{val_file(n)} {LABELS[n - 1]}" for n in (4, 2, 6, 1, 3, 5)], None),
    ],
    ids=["folders", "ground truth", "caffe", "names and folders", "any order"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_val_labels(tmp_path: Path, lines: list[str], numbers: str | None, end: str) -> None:
    source = imagenet(tmp_path / "set")
    labels, meaning = tmp_path / "val.txt", tmp_path / "numbers.txt"
    labels.write_bytes(end.join([*lines, ""]).encode())
    if numbers:
        meaning.write_text(numbers)
    pack(source, tmp_path / "pack", val_labels=labels, val_numbers=meaning if numbers else None)
    test = data.load(tmp_path / "pack").test
    assert test.labels.tolist() == LABELS
    assert test.images[:, 0, 0, 1].tolist() == [40 * number for number in range(6)]


REFUSED: dict[str, tuple[list[str], str | None, str]] = {
    "too few": (BY_FOLDER[:5], None, "has 5 lines; 6 were expected"),
    "too many": ([*BY_FOLDER, "n01"], None, "has 7 lines; 6 were expected"),
    "unknown folder": (["n01"] * 5 + ["n09"], None, "line 6 has the label 'n09'; one of"),
    "blank line": (["n01"] * 3 + [""] + ["n01"] * 2, None, "line 4 has the label ''; one of"),
    "numbers alone": (["1", "2", "3", "1", "2", "3"], None, "lines NUMBER FOLDER"),
    "a number without meaning": (["10", "20", "40"] * 2, NUMBERS, "line 3 has the label '40'"),
    "folders and numbers": (["n01", "2", "3", "1", "2", "3"], None, "line 2 has the label '2'"),
    "two forms": ([f"{val_file(1)} 0", *BY_FOLDER[1:]], None, "line 2 is 'n01'; a class folder's"),
    "meanings of folders": (BY_FOLDER, NUMBERS, "labels that are no numbers"),
    "from one": (
        [f"{val_file(n)} {1 + n % 3}" for n in range(1, 7)],
        None,
        "has the label '3'; one of the 3 classes was expected, 0 to 2",
    ),
    "an image twice": ([f"{val_file(1)} 0"] * 6, None, "line 2 has an image a second time"),
    "another image": ([f"{val_file(n)} 0" for n in range(6)], None, "line 1 has an image that is"),
    "an image missing": (
        [f"{val_file(n)} 0" for n in range(1, 6)],
        None,
        f"lacks 1 of 6 images, first {val_file(6)}",
    ),
    "a class missing": (["n01", "n02"] * 3, None, "class n03 has 0 images in val"),
    "empty": ([], None, "an empty file"),
    "a number twice": (["10"] * 6, NUMBERS + "10 n03\n", "line 4 is '10 n03'; a number, once"),
    "a number of no folder": (["10"] * 6, NUMBERS + "40 n04\n", "line 4 is '40 n04'; a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_val_labels_that_are_refused(tmp_path: Path, case: str) -> None:
    lines, numbers, part = REFUSED[case]
    source = imagenet(tmp_path / "set")
    labels, meaning = tmp_path / "val.txt", tmp_path / "numbers.txt"
    labels.write_text("".join(f"{line}\n" for line in lines))
    meaning.write_text(numbers or "")
    text = refusal(
        source,
        tmp_path / "pack",
        val_labels=labels,
        val_numbers=meaning if numbers else None,
    )
    assert part in text
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("line", ["{} 1", "{}"])
def test_numbers_beside_folders_called_by_numbers(tmp_path: Path, line: str) -> None:
    """A label 1 could be the folder 1 or the second folder; only a file of meanings says."""
    source = imagenet(tmp_path / "set", ("1", "2", "3"))
    labels, meaning = tmp_path / "val.txt", tmp_path / "numbers.txt"
    pairs = [(val_file(n), 1 + n % 3) for n in range(1, 7)]
    labels.write_text(
        "".join(f"{file} {label}\n" if " " in line else f"{label}\n" for file, label in pairs)
    )
    text = refusal(source, tmp_path / "pack", val_labels=labels)
    assert "folders are called by numbers, too" in text
    meaning.write_text("1 1\n2 2\n3 3\n")
    pack(source, tmp_path / "pack", val_labels=labels, val_numbers=meaning)
    assert data.load(tmp_path / "pack").test.labels.tolist() == [n % 3 for n in range(1, 7)]


def test_a_flat_val_needs_labels_and_others_have_no_use_for_them(tmp_path: Path) -> None:
    labels = tmp_path / "val.txt"
    labels.write_text("n01\n")
    flat = imagenet(tmp_path / "flat")
    text = refusal(flat, tmp_path / "pack")
    assert f"{flat}/val: holds images and no folders" in text and "--val-labels" in text
    deep = photographs(tmp_path / "deep", 3)
    assert "has folders and there is a file of labels" in refusal(
        deep, tmp_path / "pack", val_labels=labels
    )
    write_class(tmp_path / "one", "ant", 3)
    write_class(tmp_path / "one", "bee", 3)
    assert "there are labels for val" in refusal(
        tmp_path / "one", tmp_path / "pack", val_labels=labels
    )
    assert f"{tmp_path}/none: No such file" in refusal(
        flat, tmp_path / "pack", val_labels=tmp_path / "none"
    )
    (flat / "val" / "extra").mkdir()
    assert "has folders" in refusal(flat, tmp_path / "pack", val_labels=labels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n02 bumble bee, bee\nn01\tant\nn03  cat\n", ("ant", "bumble bee, bee", "cat")),
        ("an ant\nbee\ncat\n", ("an ant", "bee", "cat")),
        ("n01 ant\nn02 bee\n", "has 2 lines; 3 were expected"),
        ("n01 ant\nn02 bee\ncat\n", "begins 2 of its 3 lines"),
        ("n01 ant\nn02 bee\nn02 cat\n", "begins 3 of its 3 lines"),
        ("n01 ant\nn02\nn03 cat\n", "begins 3 of its 3 lines"),
        ("", "an empty file"),
    ],
)
def test_class_names(tmp_path: Path, text: str, expected: str | tuple[str, ...]) -> None:
    source = imagenet(tmp_path / "set")
    labels, names = tmp_path / "val.txt", tmp_path / "names.txt"
    labels.write_text("\n".join(BY_FOLDER))
    names.write_text(text)
    more: dict[str, Any] = {"val_labels": labels, "class_names": names}
    if isinstance(expected, str):
        assert expected in refusal(source, tmp_path / "pack", **more)
    else:
        pack(source, tmp_path / "pack", **more)
        assert data.load(tmp_path / "pack").class_names == expected


def test_val_labels_that_call_classes_by_their_names(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "set")
    labels, names = tmp_path / "solution.csv", tmp_path / "names.txt"
    names.write_text("n01 ant\nn02 bumble bee\nn03 cat\n")
    called = ("ant", "bumble bee", "cat")
    rows = (f"{val_file(n)},{called[label]}\n" for n, label in enumerate(LABELS, 1))
    labels.write_text("file,class\n" + "".join(rows))
    pack(source, tmp_path / "pack", val_labels=labels, class_names=names)
    assert data.load(tmp_path / "pack").test.labels.tolist() == LABELS
    assert "has the label 'cat'" in refusal(source, tmp_path / "other", val_labels=labels)


# ------------------------------------------------------------------ refusals


def test_places_that_are_refused(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set", 3)
    before = contents(tmp_path)
    (tmp_path / "link").symlink_to(source)
    for out in (source, source / "pack", tmp_path / "link" / "train", source / "a" / ".." / "b"):
        assert f"is in {source}; a folder beside it" in refusal(source, out)
    assert f"holds {source}; a folder beside it" in refusal(source, tmp_path)
    assert "is no folder" in refusal(tmp_path / "none", tmp_path / "pack")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("dear")
    assert "holds thesis.txt, which is no part of a pack" in refusal(source, tmp_path / "other")
    (tmp_path / "third" / "shards").mkdir(parents=True)
    (tmp_path / "third" / "shards" / "of glass.txt").write_text("dear")
    assert "holds shards/of glass.txt, which is" in refusal(source, tmp_path / "third")
    assert "Not a directory" in refusal(source, tmp_path / "other" / "thesis.txt")
    assert "Not a directory" in refusal(source, tmp_path / "other" / "thesis.txt" / "pack")
    kept = {"other/thesis.txt": b"dear", "third/shards/of glass.txt": b"dear"}
    assert contents(tmp_path) == before | kept


def test_one_class_only(tmp_path: Path) -> None:
    write_class(tmp_path / "set" / "train", "ant", 5)
    assert "holds 1 folder (ant)" in refusal(tmp_path / "set", tmp_path / "pack")


def test_a_pack_of_other_images_or_options_is_not_replaced(tmp_path: Path) -> None:
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    pack(source, out)
    before = contents(out)
    assert "of other images or options" in refusal(source, out, storage=Storage(16, "jpeg"))
    assert "of other images or options" in refusal(source, out, storage=Storage(17, "uint8"))
    (source / "val" / "ant" / "000.JPEG").rename(source / "val" / "ant" / "x.JPEG")
    assert "of other images or options" in refusal(source, out)
    assert contents(out) == before


def test_a_pack_of_a_later_version_is_not_replaced(tmp_path: Path) -> None:
    """It may be complete, which this version cannot tell."""
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    pack(source, out)
    document = json.loads((out / "pack.json").read_bytes())
    later = sealed(document | {"format": 9, "pyalexnet": "9.0"})
    (out / "pack.json").write_bytes(later)
    before = contents(out)
    assert "written by pyalexnet 9.0 in format 9" in refusal(source, out)
    assert contents(out) == before


def test_two_at_once(tmp_path: Path) -> None:
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    refused: list[str] = []

    def again(done: int, total: int) -> None:
        if not refused:
            refused.append(refusal(source, out))

    pack(source, out, progress=again)
    assert refused == [f"{out}: another process prepares a pack there."]


def test_no_space(tmp_path: Path) -> None:
    """A limit on the length of a file fails as a full disk does: in the middle of a write."""
    source, out = photographs(tmp_path / "set"), tmp_path / "pack"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        text = refusal(source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    path = out / "shards" / "train-00000.safetensors"
    assert text.startswith(f"{path}: cannot be written (File too large); ")
    assert not list((out / "shards").iterdir())
    pack(source, out)
    assert f" {path.stat().st_size} bytes are needed" in text


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"storage": Storage(7)}, "size is 7; 8 to 2048"),
        ({"storage": Storage(2049)}, "size is 2049"),
        ({"storage": Storage(form="png")}, "format is 'png'; jpeg or uint8"),
        ({"storage": Storage(quality=0)}, "quality is 0; 1 to 100"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0; at least 1"),
        ({"val_numbers": Path("x")}, "val_numbers is given and val_labels is not"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, more: dict[str, Any], part: str) -> None:
    with pytest.raises(ArgumentError, match=part):
        pack(tmp_path, tmp_path / "pack", **more)


# ------------------------------------------------------------------ the command


def test_the_command(tmp_path: Path) -> None:
    source, out = photographs(tmp_path / "set"), tmp_path / "a pack"
    (source / "train" / "ant" / "notes.txt").write_text("")
    arguments = ["prepare", str(source), str(out), "--size", "20", "-j", "1", "--format", "uint8"]
    result = CliRunner().invoke(data_app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[:2] == [
        "found     40 training and 12 validation images of 2 classes; validation is val",
        "not used  1 .txt file, first train/ant/notes.txt",
    ]
    del lines[:2]
    assert lines[0] == (
        f"pack      {out}: 40 training and 12 validation images, 20x20 uint8, 2 classes, 0 MB"
    )
    assert lines[1] == f"skipped   1 files, listed in {out}/bad_files.jsonl"
    assert "mean 127.3, 119.7, 104.9" in lines[2] and "ImageNet's, as there are under" in lines[2]
    assert lines[3] == f"to train  pyalexnet train --net alexnet --data '{out}'"
    assert data.load(out).train.image_shape == (20, 20, 3)
    result = CliRunner().invoke(data_app, [*arguments[:-1], "gif"])
    assert result.exit_code == 2
