"""Folders of images: how each kind of file is read, skipped or refused."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import BLUE, RED, damaged_files, encoded, plain, png16, write_class
from pyalexnet import data
from pyalexnet.data import decode, folder
from pyalexnet.errors import DataError
from pyalexnet.files import LARGEST_FILE

SIZE = (8, 8)


def halves(width: int = 32, height: int = 32) -> Image.Image:
    """Red above, blue below."""
    image = plain(RED, (width, height))
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load(root, **({"image_size": SIZE} | options))


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, **options)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# ------------------------------------------------------------------ what one file becomes


def decoded(raw: bytes, size: tuple[int, int] = SIZE) -> np.ndarray:
    image = decode.decode(raw, size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    return image


def assert_plain(image: np.ndarray, colour: tuple[int, int, int], within: int = 0) -> None:
    assert np.abs(image.astype(int) - colour).max() <= within


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format(kind: str) -> None:
    assert_plain(decoded(encoded(plain((200, 100, 50)), kind)), (200, 100, 50), 4)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "TGA", "ICO", "PCX"])
def test_other_formats_stay_shut(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^not an image \(JPEG, PNG, WEBP, GIF, BMP\)"):
        decode.decode(encoded(plain(), kind), SIZE)


def test_greyscale_is_repeated() -> None:
    assert_plain(decoded(encoded(Image.new("L", (9, 9), 77))), (77, 77, 77))
    assert_plain(decoded(encoded(Image.new("L", (9, 9), 77), "JPEG")), (77, 77, 77), 1)
    assert_plain(decoded(encoded(Image.new("1", (9, 9), 1))), (255, 255, 255))


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert Image.open(BytesIO(encoded(image, "JPEG"))).mode == "CMYK"
    assert_plain(decoded(encoded(image, "JPEG")), RED, 4)


def test_palettes_are_looked_up() -> None:
    for kind in ("PNG", "GIF", "BMP"):
        raw = encoded(halves().quantize(4), kind)
        assert Image.open(BytesIO(raw)).mode == "P"
        assert_plain(decoded(raw)[:3], RED, 8)
        assert_plain(decoded(raw)[5:], BLUE, 8)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(255, RED), (0, (255,) * 3), (128, (255, 127, 127))]
)
def test_transparent_images_are_laid_over_white(alpha: int, expected: tuple[int, ...]) -> None:
    rgba = encoded(Image.new("RGBA", (9, 9), (*RED, alpha)))
    assert_plain(decoded(rgba), expected, 1)  # type: ignore[arg-type]
    grey = 0 if alpha == 255 else 255 - alpha
    assert_plain(decoded(encoded(Image.new("LA", (9, 9), (0, alpha)))), (grey,) * 3, 1)


def test_a_transparent_palette_entry_is_white() -> None:
    for kind in ("PNG", "GIF"):
        image = Image.new("P", (8, 8))
        image.putpalette([*RED, *BLUE])
        image.paste(1, (0, 4, 8, 8))
        raw = encoded(image, kind, transparency=0)
        assert_plain(decoded(raw)[:4], (255, 255, 255))
        assert_plain(decoded(raw)[4:], BLUE)
    keyed = encoded(plain(RED), transparency=RED)
    assert Image.open(BytesIO(keyed)).mode == "RGB"
    assert_plain(decoded(keyed), (255, 255, 255))


def test_16_bits_keep_their_high_byte() -> None:
    values = np.full((9, 9), 0x6420, np.uint16)
    raw = encoded(Image.fromarray(values))
    assert raw[24] == 16
    assert_plain(decoded(raw), (0x64,) * 3)


@pytest.mark.parametrize(
    ("colour_type", "samples", "expected"),
    [
        (0, [0x80FF], (0x80, 0x80, 0x80)),
        (2, [0x10FF, 0x20FF, 0x30FF], (0x10, 0x20, 0x30)),
        (4, [0x80FF, 0xFFFF], (0x80, 0x80, 0x80)),
        (6, [0x10FF, 0x20FF, 0x30FF, 0xFFFF], (0x10, 0x20, 0x30)),
        (6, [0x10FF, 0x20FF, 0x30FF, 0], (0xFF, 0xFF, 0xFF)),
    ],
)
def test_16_bit_pngs(colour_type: int, samples: list[int], expected: tuple[int, int, int]) -> None:
    assert_plain(decoded(png16(colour_type, samples)), expected, 1)


UPRIGHT = [[RED, RED], [BLUE, (0, 255, 0)]]
"""Corners of an image that every rotation or reflection changes."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """A camera stores an image with the transposition that turns it upright."""
    upright = np.repeat(np.repeat(np.array(UPRIGHT, np.uint8), 16, axis=0), 16, axis=1)
    turned_back: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # shown by a quarter turn clockwise
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned_back[orientation](upright)))
    image = decoded(encoded(stored, kind, exif=exif, quality=100), (32, 32))
    assert np.abs(image[4::24, 4::24].astype(int) - upright[4::24, 4::24]).max() < 32


def test_damaged_exif_does_not_lose_the_image() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 3
    raw = encoded(plain(size=(16, 16)), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_plain(decoded(raw), RED, 4)


def test_the_first_picture_of_an_animation_counts() -> None:
    frames = [plain(BLUE), plain((0, 255, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        raw = encoded(plain(RED), kind, save_all=True, append_images=frames)
        assert Image.open(BytesIO(raw)).n_frames == 3  # type: ignore[attr-defined]
        assert_plain(decoded(raw), RED, 4)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (10, 6)])
@pytest.mark.parametrize("image_size", [(40, 40), (40, 90), (90, 40), (3, 50), (8, 9)])
def test_the_centre_is_cut_out(size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """The pixels of this image are their own coordinates, and show where each pixel came from."""
    (height, width), (tall, wide) = size, image_size
    rows, columns = np.indices((tall, wide)) * 2.0
    picture = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    image = decoded(encoded(Image.fromarray(picture)), size).astype(float)
    scale = min(tall / height, wide / width)
    for axis, (length, side) in enumerate([(height, tall), (width, wide)]):
        centres = (np.arange(length) + 0.5) * scale + (side - length * scale) / 2 - 0.5
        found = image[..., axis].mean(axis=1 - axis)
        inner = slice(2, -2) if scale < 1 else slice(1, -1)  # at the border the filter is cut off
        assert np.abs(found - 2 * np.clip(centres, 0, side - 1))[inner].max() < 1.5


def test_shrinking_averages() -> None:
    """Black and white lines one pixel wide become grey, not black or white."""
    lines = np.zeros((64, 64), np.uint8)
    lines[::2] = 255
    assert_plain(decoded(encoded(Image.fromarray(lines))), (127, 127, 127), 8)


def test_a_large_jpeg_is_as_without_its_decoders_own_shrinking() -> None:
    """libjpeg shrinks first, which is cheaper; waves of four pixels in the result survive it."""
    rows, columns = np.indices((200, 200)) * (2 * np.pi / 16)
    waves = [127 + 100 * np.sin(angle) for angle in (rows, columns, rows + columns)]
    photo = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    jpeg = decoded(encoded(photo, "JPEG", quality=95, subsampling=0), (50, 50)).astype(int)
    difference = np.abs(jpeg - decoded(encoded(photo), (50, 50)))[1:-1, 1:-1]
    assert difference.max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_odd_shapes(size: tuple[int, int]) -> None:
    assert_plain(decoded(encoded(plain(RED, size))), RED)


# ------------------------------------------------------------------ a set


def test_train_and_val(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        write_class(tmp_path / part, "ant", count, RED)
        write_class(tmp_path / part, "bee", count, BLUE)
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.name == tmp_path.name
    assert str(tmp_path) in dataset.note
    for split, count in ((dataset.train, 3), (dataset.test, 2)):
        assert split.images.shape == (2 * count, *SIZE, 3)
        assert split.images.flags.c_contiguous
        assert split.labels.tolist() == [0] * count + [1] * count
        assert split.images[:, 0, 0].tolist() == [
            [colour[0], number, colour[2]] for colour in (RED, BLUE) for number in range(count)
        ]


@pytest.mark.parametrize("below", ["", "train"])
def test_without_val_a_seeded_tenth_is_held_out(tmp_path: Path, below: str) -> None:
    write_class(tmp_path / below, "ant", 30, RED)
    write_class(tmp_path / below, "bee", 20, BLUE)
    dataset = load(tmp_path, seed=1)
    assert np.bincount(dataset.train.labels).tolist() == [27, 18]
    assert np.bincount(dataset.test.labels).tolist() == [3, 2]
    shades = [
        {(int(label), int(image[0, 0, 1])) for image, label in zip(*pair, strict=True)}
        for pair in ((split.images, split.labels) for split in (dataset.train, dataset.test))
    ]
    assert not shades[0] & shades[1]
    assert len(shades[0] | shades[1]) == 50
    assert np.array_equal(load(tmp_path, seed=1).test.images, dataset.test.images)
    assert not np.array_equal(load(tmp_path, seed=2).test.images, dataset.test.images)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_class(tmp_path, "train", 4)
    write_class(tmp_path, "bus", 4)
    assert load(tmp_path).class_names == ("bus", "train")


def test_the_order_is_that_of_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file system, the number of threads and the sizes of the files."""
    for name in ("b", "a", "B"):
        write_class(tmp_path, name, 100)
    large = plain((255, 50, 0), (900, 900))
    (tmp_path / "a" / "0050.png").write_bytes(encoded(large))
    dataset = load(tmp_path)
    assert dataset.class_names == ("B", "a", "b")
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(iterdir(path), reverse=True)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    monkeypatch.setattr(folder, "CHUNK", 3)
    again = load(tmp_path)
    assert np.array_equal(again.train.images, dataset.train.images)
    assert np.array_equal(again.train.labels, dataset.train.labels)
    assert np.array_equal(again.test.images, dataset.test.images)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    write_class(tmp_path, "a", 50)
    write_class(tmp_path, "b", 20)
    seen: list[tuple[int, int]] = []
    load(tmp_path, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (70, 70)
    assert seen == sorted(set(seen))


def test_bad_files_are_skipped_and_listed_once(tmp_path: Path) -> None:
    good = write_class(tmp_path / "set", "ant", 1600)
    write_class(tmp_path / "set", "bee", 3)
    expected = damaged_files(good)
    (good / os.fsdecode(b"latin\xe9.jpg")).write_bytes(b"x")
    (good / "png named.jpg").write_bytes(encoded(plain((255, 99, 255))))
    (good / "notes.txt").write_text("not counted")
    (good / "more").mkdir()
    (good / ".DS_Store").write_bytes(b"")
    listed = tmp_path / "run" / "bad_files.jsonl"
    dataset = load(tmp_path / "set", bad_files=listed)
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in entries}
    assert len(entries) == len(reasons)
    assert reasons.keys() == {*expected, "notes.txt", "more", os.fsdecode(b"latin\xe9.jpg")}
    for name, reason in expected.items():
        assert reason in reasons[name]
    assert "not called like an image" in reasons["notes.txt"]
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert len(images) == 1600 + 1 + 3
    assert np.count_nonzero((images == (255, 99, 255)).all(axis=(1, 2, 3))) == 1
    assert f"skipped files: {len(entries)}" in dataset.note


def test_an_unreadable_file_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can read every file, so the refusal is simulated."""
    write_class(tmp_path, "ant", 150)
    write_class(tmp_path, "bee", 2)
    read_bytes = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name == "0077.png":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    load(tmp_path, bad_files=tmp_path / "bad.jsonl")
    [line] = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "path": str(tmp_path / "ant" / "0077.png"),
        "reason": "Permission denied",
    }


def test_nothing_is_listed_where_nothing_is_bad(tmp_path: Path) -> None:
    write_class(tmp_path, "ant", 2)
    write_class(tmp_path, "bee", 2)
    load(tmp_path, bad_files=tmp_path / "bad.jsonl")
    assert not (tmp_path / "bad.jsonl").exists()


@pytest.mark.parametrize(("good", "bad", "stops"), [(99, 1, False), (98, 1, True), (198, 2, False)])
def test_over_one_per_cent_stops(tmp_path: Path, good: int, bad: int, stops: bool) -> None:
    root = tmp_path / "set"
    ant = write_class(root, "ant", good - 2)
    write_class(root, "bee", 2)
    for number in range(bad):
        (ant / f"bad{number}.png").write_bytes(b"x")
    listed = tmp_path / "bad.jsonl"
    if stops:
        text = refusal(root, bad_files=listed)
        assert f"{bad} of {good + bad} images cannot be read" in text
        assert "bad0.png (not an image" in text
        assert "at most 1%" in text
        assert str(listed) in text
        assert "1 of 99 images" in refusal(root)
    else:
        load(root, bad_files=listed)
    assert len(listed.read_text().splitlines()) == bad


def test_a_list_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    write_class(tmp_path / "set", "ant", 200)
    (write_class(tmp_path / "set", "bee", 2) / "bad.png").write_bytes(b"x")
    (tmp_path / "file").write_text("")
    text = refusal(tmp_path / "set", bad_files=tmp_path / "file" / "bad.jsonl")
    assert "cannot be written as the list of skipped files" in text


@pytest.mark.parametrize("pixels", [80, 79])
def test_images_over_the_limit_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr(decode, "LARGEST_IMAGE", pixels)
    raw = encoded(plain(size=(8, 10)))
    if pixels == 80:
        assert_plain(decoded(raw), RED)
    else:
        with pytest.raises(ValueError, match="8 x 10 pixels, more than the 79 allowed"):
            decode.decode(raw, SIZE)


def test_files_over_the_limit_are_bad(tmp_path: Path) -> None:
    write_class(tmp_path, "ant", 200)
    bee = write_class(tmp_path, "bee", 2)
    (bee / "large.bmp").touch()
    os.truncate(bee / "large.bmp", LARGEST_FILE + 1)
    load(tmp_path, bad_files=tmp_path / "bad.jsonl")
    assert f"more than the {LARGEST_FILE} allowed" in (tmp_path / "bad.jsonl").read_text()


def test_pillows_own_alarm_is_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns about an image between once and twice its limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    for name in ("ant", "bee"):
        for path in write_class(tmp_path, name, 60).iterdir():
            path.write_bytes(encoded(plain(size=(8, 8))))
    (tmp_path / "bee" / "large.png").write_bytes(encoded(plain(size=(10, 12))))
    load(tmp_path, bad_files=tmp_path / "bad.jsonl")
    assert "decompression bomb" in (tmp_path / "bad.jsonl").read_text()


def test_zeros_after_a_whole_jpeg_do_no_harm() -> None:
    raw = encoded(plain(size=(16, 16)), "JPEG")
    assert_plain(decoded(raw + bytes(5000)), RED, 4)


def test_a_thumbnails_end_marker_does_not_hide_a_zero_tail() -> None:
    """Cameras put a small JPEG, with its own end marker, into the metadata before the scan."""
    exif = Image.Exif()
    exif[0x010E] = b"\xff\xd9" * 3  # the description, where Pillow accepts any bytes
    jpeg = encoded(Image.effect_noise((64, 64), 90), "JPEG", exif=exif)
    assert jpeg.count(b"\xff\xd9") == 4
    decoded(jpeg)
    broken = jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2)
    with Image.open(BytesIO(broken)) as image:
        image.load()  # Pillow alone notices nothing
    with pytest.raises(ValueError, match="the rest of the file is zeros"):
        decode.decode(broken, SIZE)


# ------------------------------------------------------------------ what is refused


def test_an_empty_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no folders; at least 2" in refusal(tmp_path)
    (tmp_path / "image.png").write_bytes(encoded(plain()))
    assert "holds no folders" in refusal(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    write_class(tmp_path, "ant", 5)
    assert "holds 1 folder (ant); at least 2 were expected" in refusal(tmp_path)


def test_a_class_without_images(tmp_path: Path) -> None:
    write_class(tmp_path, "ant", 5)
    bee = write_class(tmp_path, "bee", 0)
    assert "class bee has 0 images; 2 or more" in refusal(tmp_path)
    (bee / "list.txt").write_text("")
    assert "class bee has 0 images" in refusal(tmp_path)
    (bee / "one.png").write_bytes(encoded(plain()))
    assert "class bee has 1 images; 2 or more were expected, as a tenth is" in refusal(tmp_path)
    (bee / "two.png").write_bytes(encoded(plain()))
    assert len(load(tmp_path).test) == 2


def test_a_class_whose_every_image_is_bad(tmp_path: Path) -> None:
    write_class(tmp_path, "ant", 300)
    bee = write_class(tmp_path, "bee", 1)
    (bee / "0000.png").write_bytes(b"")
    (bee / "0001.png").write_bytes(b"")
    assert "class bee has 0 readable images" in refusal(tmp_path)


def test_classes_that_differ_between_train_and_val(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            write_class(tmp_path / part, name, 2)
    extra = write_class(tmp_path / "val", "cat", 2)
    text = refusal(tmp_path)
    assert text.startswith(f"{extra}: is a class that {tmp_path / 'train'} does not have")
    extra.rename(tmp_path / "train" / "cat")
    assert "class cat has 0 images in val; 1 or more" in refusal(tmp_path)


def test_a_set_that_does_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class(tmp_path, "ant", 5)
    write_class(tmp_path, "bee", 5)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": 19}.__getitem__)
    assert "10 images of 8x8 need 0.0 GB" in refusal(tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 96, "SC_PHYS_PAGES": 20}.__getitem__)
    load(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class(tmp_path, "ant", 2)
    iterdir = Path.iterdir

    def refusing(path: Path) -> Iterator[Path]:
        if path.name == "ant":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    write_class(tmp_path, "bee", 2)
    monkeypatch.setattr(Path, "iterdir", refusing)
    assert f"{tmp_path / 'ant'}: cannot be read (Permission denied)" in refusal(tmp_path)


def test_an_interrupt_does_not_wait_for_the_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class(tmp_path, "ant", 200)
    write_class(tmp_path, "bee", 200)
    decodings: list[int] = []
    whole = decode.decode

    def counting(raw: bytes, size: tuple[int, int]) -> np.ndarray:
        decodings.append(threading.get_ident())
        return whole(raw, size)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decode, "decode", counting)
    monkeypatch.setattr(folder, "CHUNK", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, progress=interrupt)
    assert len(decodings) < 200
    assert threading.get_ident() not in decodings
