"""Packs: their contents, what is known without reading them, and how damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import encoded
from pyalexnet import data
from pyalexnet.data import colour, decode, pack, prepare
from pyalexnet.data.classes import Classes
from pyalexnet.data.colour import Moments
from pyalexnet.data.dataset import Dataset, Split
from pyalexnet.data.pack import PackSplit, Storage
from pyalexnet.data.prepare import Options
from pyalexnet.errors import ArgumentError, DataError
from samples import generator

SIDE = 12
SHARD = 7
"""Images per shard in these tests: the size of neither part is a multiple."""

COUNTS = {"train": {"ant": 11, "bee": 9}, "val": {"ant": 3, "bee": 5}}


def write_set(root: Path) -> Path:
    """Photographs of noise, each class around a different colour."""
    for part, classes in COUNTS.items():
        for label, (name, count) in enumerate(classes.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = generator(len(part), label, number).normal(90 + 60 * label, 40, (20, 31, 3))
                noise[..., label] /= 2
                image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
                (folder / f"{number}.png").write_bytes(encoded(image))
    return root


@pytest.fixture(scope="module", params=pack.FORMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of four shards, of JPEGs and of bytes."""
    base = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "LARGEST_SHARD", SHARD)
        patch.setattr(colour, "FEWEST", 20)
        options = Options(Storage(SIDE, request.param, 90))
        prepare.prepare(write_set(base / "set"), base / "pack", options, workers=1)
    return base / "pack"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return shutil.copytree(made, tmp_path / "pack")


def stored(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a part, read only with the formats' own libraries."""
    from safetensors.numpy import load_file

    form = json.loads((folder / "pack.json").read_text())["storage"]["form"]
    images, labels = [], []
    for path in sorted((folder / "shards").glob(f"{part}-*.safetensors")):
        tensors = load_file(path)
        labels += tensors["labels"].tolist()
        for first, last in zip(tensors["offsets"], tensors["offsets"][1:], strict=False):
            raw = tensors["data"][first:last].tobytes()
            if form == "jpeg":
                with Image.open(BytesIO(raw)) as image:
                    images.append(np.asarray(image))
            else:
                images.append(np.frombuffer(raw, np.uint8).reshape(SIDE, SIDE, 3))
    return np.stack(images), np.array(labels)


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        data.load(folder)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


# ------------------------------------------------------------------ reading


def test_what_is_read_is_what_is_stored(made: Path) -> None:
    dataset = data.load(made)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.name == "pack"
    for part, split in (("train", dataset.train), ("val", dataset.test)):
        images, labels = stored(made, part)
        assert split.labels.tolist() == labels.tolist()
        assert split.labels.dtype == np.int64
        assert len(split) == len(images) == sum(COUNTS[part].values())
        assert split.image_shape == (SIDE, SIDE, 3)
        order = generator(1).permutation(len(split))
        out = np.full((len(split) + 2, SIDE, SIDE, 3), 9, np.uint8)
        split.read(order, out[1:-1])
        assert np.array_equal(out[1:-1], images[order])
        assert (out[[0, -1]] == 9).all()
        assert np.array_equal(split.images, images)
        split.read(order[:0], out[:0])


def test_a_split_in_memory_reads_likewise() -> None:
    draws = generator(2)
    split = Split(draws.integers(0, 256, (9, 4, 5, 1), dtype=np.uint8), np.zeros(9, np.int64))
    chosen = np.array([3, 3, 8, 0])
    out = np.zeros((4, 4, 5, 1), np.uint8)
    split.read(chosen, out)
    assert np.array_equal(out, split.images[chosen])
    assert split.image_shape == (4, 5, 1)


def test_images_are_near_their_sources(made: Path) -> None:
    """An image of class 1 is where the listing says, and has its colours."""
    train = data.load(made).train
    for label, mean in ((0, 90), (1, 150)):
        own = train.images[train.labels == label].mean(axis=(0, 1, 2))
        assert abs(own[label] - mean / 2) < 10 and abs(own[2] - mean) < 10


def test_threads_read_at_the_same_time(made: Path) -> None:
    train = data.load(made).train
    images, _ = stored(made, "train")
    orders = [generator(3, turn).permutation(len(train)) for turn in range(40)]
    outs = np.zeros((len(orders), len(train), SIDE, SIDE, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(train.read, orders, outs))
    for order, out in zip(orders, outs, strict=True):
        assert np.array_equal(out, images[order])


@pytest.mark.parametrize("index", [-1, 20])
def test_an_index_outside_is_refused(made: Path, index: int) -> None:
    with pytest.raises(ArgumentError, match=f"{index}.*; 0 to 19 were expected"):
        data.load(made).train.read(np.array([index]), np.zeros((1, SIDE, SIDE, 3), np.uint8))


def test_a_pack_that_does_not_fit_into_memory(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.load(made).train
    bytes_needed = 20 * SIDE * SIDE * 3
    memory = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": bytes_needed - 1}
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    with pytest.raises(DataError, match=f"20 images of {SIDE}x{SIDE} need"):
        _ = train.images
    memory["SC_PHYS_PAGES"] += 1
    assert len(train.images) == 20


def test_opening_decodes_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: PackSplit, *arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(PackSplit, "read", never)
    dataset = data.load(made)
    assert dataset.mean().shape == (SIDE, SIDE, 3)
    assert dataset.colour() is not None


@pytest.mark.slow
def test_a_thousand_shards_keep_no_files_open(made: Path) -> None:
    shards = [data.load(made) for _ in range(300)]
    assert len(list(Path("/proc/self/fd").iterdir())) < 300
    assert len(shards) == 300


# ------------------------------------------------------------------ statistics


def principal_axes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and deviations, from the singular values of the centred pixels."""
    centred = pixels.reshape(-1, 3).astype(np.float64)
    centred -= centred.mean(axis=0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    return vectors[::-1].T, values[::-1] / np.sqrt(len(centred))


def assert_axes(found: colour.Colour, pixels: np.ndarray) -> None:
    vectors, sigmas = principal_axes(pixels)
    np.testing.assert_allclose(found.sigmas, sigmas, rtol=1e-10)
    np.testing.assert_allclose(np.abs((found.vectors * vectors).sum(axis=0)), 1, rtol=1e-10)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(3), atol=1e-12)
    largest = found.vectors[np.abs(found.vectors).argmax(axis=0), range(3)]
    assert (largest < 0).all()
    assert (np.diff(found.sigmas) > 0).all()


def test_mean_and_colours_are_those_of_the_stored_pixels(made: Path) -> None:
    dataset, (images, _) = data.load(made), stored(made, "train")
    exact = images.astype(object).sum(axis=0) / len(images)
    assert dataset.mean().dtype == np.float32
    assert np.array_equal(dataset.mean(), exact.astype(np.float32))
    found = dataset.colour()
    assert found is not None
    assert_axes(found, images)
    statistics = json.loads((made / "pack.json").read_text())["statistics"]
    assert statistics["of"] == "train"
    assert statistics["channel_means"] == [
        int(images[..., c].sum(dtype=np.int64)) / images[..., c].size for c in range(3)
    ]


def test_sums_in_pieces_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = generator(4).integers(0, 256, (5, 7, 11, 3), dtype=np.uint8)
    whole = pixels.reshape(-1, 3).astype(object)
    for piece in (1, 10, 385, 1000):
        monkeypatch.setattr(colour, "PIECE", piece)
        moments = Moments.of(pixels)
        assert moments.total[0] == 385
        assert moments.total[1].tolist() == whole.sum(axis=0).tolist()
        assert moments.sums.tolist() == pixels.astype(object).sum(axis=0).tolist()
        assert moments.products.tolist() == (whole.T @ whole).tolist()
    both = Moments.of(pixels[:2]) + Moments.of(pixels[2:])
    assert both.images == moments.images == 5
    assert np.array_equal(both.sums, moments.sums)
    assert np.array_equal(both.products, moments.products)


def test_nearly_flat_colours_lose_no_digits() -> None:
    """Large means with small deviations: n sum(xy) - sum(x) sum(y) is computed in integers."""
    pixels = np.full((2**18, 3), 255, np.uint8)
    pixels[0] = (254, 255, 255)
    found = Moments.of(pixels).colour()
    n = len(pixels)
    assert found.sigmas[2] == pytest.approx(np.sqrt((n - 1) / n**2), rel=1e-12)
    assert found.sigmas[:2].tolist() == [0, 0]


def memory_set(images: int, channels: int = 3) -> Dataset:
    draws = generator(5)
    pixels = draws.integers(0, 256, (images, 4, 4, channels), dtype=np.uint8)
    pixels[..., 0] //= 2
    split = Split(pixels, np.arange(images) % 2)
    return Dataset("set", split, split, Classes.named(("a", "b")), "")


def test_colours_of_a_set_in_memory() -> None:
    assert memory_set(1500, 1).colour() is None
    many, few = memory_set(1000), memory_set(999)
    found, shipped = many.colour(), few.colour()
    assert found is not None and shipped is not None
    assert_axes(found, many.train.images)
    assert np.array_equal(shipped.vectors, colour.imagenet().vectors)
    assert np.array_equal(shipped.sigmas, colour.imagenet().sigmas)
    assert np.array_equal(few.mean(), few.train.mean())


def test_shipped_axes_are_axes() -> None:
    """Printed to five digits: orthonormal to a few times 1e-5; largest component negative."""
    shipped = colour.imagenet()
    np.testing.assert_allclose(shipped.vectors.T @ shipped.vectors, np.eye(3), atol=3e-5)
    assert (shipped.vectors[np.abs(shipped.vectors).argmax(axis=0), range(3)] < 0).all()
    np.testing.assert_allclose(shipped.sigmas**2, [388.9, 1376.0, 14830.4], rtol=1e-4)


# ------------------------------------------------------------------ damage


def first_shard(folder: Path) -> Path:
    return folder / "shards" / "train-00000.safetensors"


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(raw)


def test_a_shard_that_is_cut_missing_or_a_folder(copy: Path) -> None:
    path = first_shard(copy)
    raw = path.read_bytes()
    for length in (0, 5, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        assert f"{path}: has {length} bytes; {len(raw)} were" in refusal(copy)
    path.write_bytes(raw + b"x")
    assert "bytes; " in refusal(copy)
    path.unlink()
    assert f"{path}: cannot be read (No such file" in refusal(copy)
    path.mkdir()
    assert str(path) in refusal(copy)


@pytest.mark.every(2)
def test_any_flipped_bit_is_found(copy: Path) -> None:
    """On opening, or if it is in an image, when that image is read."""
    path = first_shard(copy)
    raw, images = path.read_bytes(), stored(copy, "train")[0]
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    data_at = start + header["data"]["data_offsets"][0]
    on_opening = on_reading = 0
    draws = generator(6)
    places = [*draws.integers(0, data_at, 80), *draws.integers(data_at, len(raw), 80)]
    for place in map(int, places):
        flip(path, place)
        opened = fault_of(lambda: data.load(copy))
        if opened is not None:
            assert str(path) in opened and place < data_at
            on_opening += 1
        elif place >= data_at:
            read = fault_of(lambda: data.load(copy).train.images)
            assert read is not None and f"{path}: image " in read and "CRC-32" in read
            on_reading += 1
        else:  # in the note, which is not checked, or in the blanks after it
            assert place < start
            assert np.array_equal(data.load(copy).train.images, images)
        path.write_bytes(raw)
    assert on_reading == 80 and on_opening > 40


def fault_of(action: Callable[[], object]) -> str | None:
    """The refusal, or None."""
    try:
        action()
    except DataError as error:
        return str(error)
    return None


def test_an_image_that_is_no_image_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are as written, but the decoder rejects them."""
    dataset = data.load(copy)

    def refusing(raw: bytes, image: np.ndarray) -> None:
        raise OSError("broken data stream")

    monkeypatch.setattr(decode, "decode_stored", refusing)
    if json.loads((copy / "pack.json").read_text())["storage"]["form"] == "jpeg":
        with pytest.raises(
            DataError, match=r"train-00001.safetensors: image 2 is damaged \(broken"
        ):
            dataset.train.read(np.array([SHARD + 2]), np.zeros((1, SIDE, SIDE, 3), np.uint8))


def test_two_shards_changed_for_one_another(copy: Path) -> None:
    paths = [copy / "shards" / f"train-0000{number}.safetensors" for number in (0, 1)]
    one, other = (path.read_bytes() for path in paths)
    paths[0].write_bytes(other)
    paths[1].write_bytes(one)
    assert "were expected" in refusal(copy) or "SHA-256" in refusal(copy)


def test_a_table_that_was_altered(copy: Path) -> None:
    path = copy / "pack.json"
    text = path.read_text()
    path.write_text(text.replace('"ant"', '"ape"'))
    assert f"{path}: its own SHA-256 does not match" in refusal(copy)
    path.write_text(text.replace("\n", " "))
    assert "its own SHA-256 does not match" in refusal(copy)
    path.write_text(text[: len(text) // 2])
    assert f"{path}: cannot be read" in refusal(copy)
    path.write_text("[]")
    assert "is not the table of a pack" in refusal(copy)
    later = text.replace('"format": 1', '"format": 2')
    path.write_text(later)
    assert "in format 2; this is pyalexnet" in refusal(copy)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the table and correct its SHA-256, as an attacker could."""
    path = folder / "pack.json"
    document = json.loads(path.read_text())
    change(document)
    del document["sha256"]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda table: table.pop("shards"), "not the table of a pack"),
        (lambda table: table["shards"].pop("val"), "not the table of a pack"),
        (lambda table: table["shards"]["val"].clear(), "0 test images"),
        (lambda table: table["storage"].update(form="png"), "not the table of a pack"),
        (lambda table: table["storage"].update(size=-1), "not the table of a pack"),
        (lambda table: table["storage"].update(size="a"), "not the table of a pack"),
        (lambda table: table["storage"].update(more=1), "not the table of a pack"),
        (lambda table: table["storage"].update(size=12.0), "not the table of a pack"),
        (lambda table: table["statistics"].update(sigmas=[10**400] * 3), "not the table of a pack"),
        (lambda table: table["shards"]["train"][0].update(images=None), "not the table of a pack"),
        (lambda table: table["shards"]["train"][0].update(bytes="9"), "not the table of a pack"),
        (
            lambda table: [table[name].pop() for name in ("class_ids", "class_names")],
            "labels 0 to 1; 0 to 0 were expected",
        ),
        (
            lambda table: [table[name].append("cat") for name in ("class_ids", "class_names")],
            r"class 2 \(cat\) has no training",
        ),
        (lambda table: table["class_names"].pop(), "there are 2 ids and 1 names"),
        (lambda table: table.update(class_ids=["ant", "ant"]), "id 'ant' is there twice"),
        (lambda table: table["statistics"].update(sigmas=[1, 2]), "not the table of a pack"),
        (lambda table: table["statistics"].update(mean_sha256="0"), "mean.npy: its SHA-256"),
        (lambda table: table["shards"]["train"][0].update(images=6), "does not fit its data"),
        (lambda table: table["shards"]["train"][0].update(index="0"), "does not have the SHA"),
        (lambda table: table["shards"]["train"].append(table["shards"]["train"][0]), "cannot be"),
    ],
)
def test_a_table_that_lies(
    copy: Path, change: Callable[[dict[str, Any]], object], part: str
) -> None:
    rewrite(copy, lambda table: None)
    data.load(copy)
    rewrite(copy, change)
    with pytest.raises(DataError, match=part):
        data.load(copy)


def test_a_mean_that_is_damaged_or_missing(copy: Path) -> None:
    path = copy / "mean.npy"
    flip(path, 200)
    assert f"{path}: its SHA-256 is not the one in pack.json" in refusal(copy)
    path.unlink()
    assert f"{path}: cannot be read" in refusal(copy)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (12, 12, 3",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
        b"(" * 5000,
    ],
    ids=["never closed", "a terabyte", "nested"],
)
def test_a_forged_mean_is_refused(copy: Path, header: bytes) -> None:
    """Found by fuzzing: NumPy's header reader can raise any exception."""
    raw = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header
    (copy / "mean.npy").write_bytes(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    rewrite(copy, lambda table: table["statistics"].update(mean_sha256=sha256))
    assert f"{copy / 'mean.npy'}: is no array" in refusal(copy)


def test_a_shard_whose_header_gives_no_places_is_refused(copy: Path) -> None:
    """Found by fuzzing."""
    path = copy / "shards" / "train-00000.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["data"]["data_offsets"] = []
    text = json.dumps(header).encode()
    forged = len(text).to_bytes(8, "little") + text + raw[8 + length :]
    path.write_bytes(forged)
    rewrite(copy, lambda table: table["shards"]["train"][0].update(bytes=len(forged)))
    assert f"{path}: is no shard of a pack" in refusal(copy)


def test_a_folder_without_a_table_is_no_pack(copy: Path) -> None:
    (copy / "pack.json").unlink()
    with pytest.raises(DataError):
        data.load(copy, image_size=(8, 8))
