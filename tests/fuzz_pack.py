"""Damaged and forged packs: refused in a sentence, or images that are those of the files."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from fuzz_checkpoint import reheaded
from fuzzing import Edit, Graft, edited, edits, grafted, grafts, refused, watch
from image_files import encoded
from pyalexnet import data
from pyalexnet.data import prepare
from pyalexnet.data.pack import FORMS, Storage
from pyalexnet.data.prepare import Options
from pyalexnet.errors import PyalexnetError
from samples import generator

SIDE = 12
SHARDS = ("train-00000", "val-00000")
OUTCOMES = {"refused", "opened", "read"}
SAMPLE = 80
NAMES = (
    *("storage", "size", "form", "quality", "jpeg", "uint8", "class_ids", "class_names", "plan"),
    *("statistics", "vectors", "sigmas", "mean_sha256", "shards", "train", "val", "images"),
    *("bytes", "index", "data", "offsets", "labels", "checks", "data_offsets", "U32", "I64"),
)


@dataclass(frozen=True)
class Pictures:
    """Damage to the contents of a shard: to images by number, and to labels."""

    images: list[tuple[int, list[Edit]]]
    labels: list[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A damaged pack; `sealed`: every size, CRC and SHA-256 is corrected."""

    form: str
    shard: str
    pictures: Pictures
    header: list[Graft]
    content: list[Edit]
    mean: list[Edit]
    table: list[Graft]
    raw_table: list[Edit]
    sealed: bool


def cases() -> SearchStrategy[Case]:
    none: SearchStrategy[Any] = st.just([])
    whole = st.just(Pictures([], []))
    number = st.integers(0, 20)
    labels = st.integers(-2, 3) | st.sampled_from((2**31, 2**63 - 1, -(2**63)))
    pictures = st.builds(
        Pictures,
        st.lists(st.tuples(number, edits(2, 700)), max_size=3),
        none | st.lists(st.tuples(number, labels), max_size=2),
    )
    form, shard, sealed = st.sampled_from(FORMS), st.sampled_from(SHARDS), st.booleans()
    header, table = grafts(2, NAMES), grafts(2, NAMES)
    forged = st.just(True)
    return st.one_of(
        st.builds(Case, form, shard, pictures, none, none, none, none, none, forged),
        st.builds(Case, form, shard, whole, header, edits(1), none, none, none, sealed),
        st.builds(Case, form, shard, whole, none, none, edits(2, 200), none, none, forged),
        st.builds(Case, form, shard, whole, none, none, none, table, none, forged),
        st.builds(Case, form, shard, pictures, header, none, edits(1), table, edits(1), sealed),
    )


def check(case: Case) -> str:
    with tempfile.TemporaryDirectory() as parent:
        folder = shutil.copytree(original(case.form), Path(parent) / "pack")
        same = not damage(folder, case)
        try:
            with watch():
                found = data.load(folder)
        except PyalexnetError as error:
            assert not same
            return refused(error)
        hold_types(found)
        try:
            with watch():
                images = [split.images for split in (found.train, found.test)]
        except PyalexnetError as error:
            refused(error)
            return "opened"
        for split, pixels in zip((found.train, found.test), images, strict=True):
            assert pixels.shape == (len(split), *split.image_shape)
    if same or not case.sealed:  # accidental damage is found
        for pixels, expected in zip(images, stored(case.form), strict=True):
            assert np.array_equal(pixels, expected)
    return "read"


def hold_types(found: data.Dataset) -> None:
    """Check what a data set promises."""
    for split in (found.train, found.test):
        assert split.labels.dtype == np.int64 and len(split) > 0
        assert 0 <= split.labels.min() <= split.labels.max() < len(found.class_names)
    assert all(type(name) is str for name in found.class_names)
    mean, colour = found.mean(), found.colour()
    assert mean.shape == found.train.image_shape and mean.dtype == np.float32
    assert colour is not None
    assert colour.vectors.shape == (3, 3) and colour.sigmas.shape == (3,)


def damage(folder: Path, case: Case) -> bool:
    """Damage a pack, and return whether any file has changed."""
    shard, table, mean = (
        folder / "shards" / f"{case.shard}.safetensors",
        *(folder / name for name in ("pack.json", "mean.npy")),
    )
    before = [path.read_bytes() for path in (shard, table, mean)]
    content, index = shard_of(before[0], case)
    averages = edited(before[2], case.mean)
    document = json.loads(before[1])
    if case.sealed:
        part, number = case.shard.split("-")
        facts = document["shards"][part][int(number)]
        facts |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        facts |= {"index": index or facts["index"]}
        document["statistics"]["mean_sha256"] = hashlib.sha256(averages).hexdigest()
    document = grafted(document, case.table)
    if case.sealed and isinstance(document, dict):
        rest = {key: value for key, value in document.items() if key != "sha256"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    rendered = json.dumps(document, indent=1, sort_keys=True) + "\n"
    after = [content, edited(rendered.encode(), case.raw_table), averages]
    for path, raw in zip((shard, table, mean), after, strict=True):
        path.write_bytes(raw)
    return before != after


def shard_of(raw: bytes, case: Case) -> tuple[bytes, str | None]:
    """A shard of a case, and the SHA-256 of its index if it has one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    if case.pictures != Pictures([], []):
        tensors = load(raw)
        pieces = np.split(tensors["data"], tensors["offsets"][1:-1])
        images = [piece.tobytes() for piece in pieces]
        for number, changes in case.pictures.images:
            images[number % len(images)] = edited(images[number % len(images)], changes)
        for number, label in case.pictures.labels:
            tensors["labels"][number % len(images)] = label
        lengths = [0, *map(len, images)]
        tensors["data"] = np.frombuffer(b"".join(images), np.uint8)
        tensors["offsets"] = np.cumsum(lengths, dtype=np.int64)
        tensors["checks"] = np.array([zlib.crc32(image) for image in images], np.uint32)
        raw = save(tensors)
    raw = edited(reheaded(raw, case.header), case.content)
    try:
        tensors = load(raw)
        parts = [tensors[name].tobytes() for name in ("offsets", "labels", "checks")]
    except (SafetensorError, KeyError, ValueError, TypeError):
        return raw, None
    return raw, hashlib.sha256(b"".join(parts)).hexdigest()


@functools.cache
def original(form: str) -> Path:
    """A whole pack of two classes."""
    base = Path(tempfile.mkdtemp())
    for part, name, count in (
        *(("train", "ant", 5), ("train", "bee", 4)),
        *(("val", "ant", 2), ("val", "bee", 3)),
    ):
        folder = base / "set" / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            noise = generator(count, number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            (folder / f"{number}.png").write_bytes(encoded(Image.fromarray(noise)))
    prepare.prepare(base / "set", base / "pack", Options(Storage(SIDE, form, 90)), workers=1)
    return base / "pack"


@functools.cache
def stored(form: str) -> tuple[Any, Any]:
    """The images of the whole pack."""
    whole = data.load(original(form))
    return whole.train.images, whole.test.images
