"""The built-in set: 12,000 photographs of Fashion-MNIST, as viewable contact sheets.

The first 10,000 training and the first 2,000 test images of Zalando's Fashion-MNIST (28x28 grey,
white on black) are in `fashion_mnist/` beside this file. `train.png` shows them in rows of 100,
`test.png` in rows of 50; a text file beside each sheet has one digit, the label, at every image's
place. Zalando's MIT licence is in `fashion_mnist/LICENSE`.

`python -m pyalexnet.data.builtin SOURCE [FOLDER]` remakes the four files from the four `*-ubyte.gz`
of the full set, for instance those of Debian's package dataset-fashion-mnist in
`/usr/share/datasets/fashion-mnist`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset, Images, Labels, Split, checked
from pyalexnet.errors import DataError
from pyalexnet.files import shown

FOLDER = Path(__file__).with_name("fashion_mnist")

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

SIDE = 28
"""Height and width of an image, pixels."""

IDX_IMAGES, IDX_LABELS = 0x803, 0x801
"""Magic numbers of IDX files of bytes with three dimensions, and with one."""


@dataclass(frozen=True)
class Part:
    """One of the two sheets: its source, its layout, and the expected content."""

    name: str
    idx_name: str
    count: int
    columns: int
    sha256: str
    """Of the images' bytes (count, 28, 28), followed by the labels (count,) as bytes."""


TRAIN = Part(
    "train",
    "train",
    10_000,
    100,
    "b134f74849da1a1bcd32ee8c73b764a5657b0f25350e9ed3b4a4e8cb8505b14b",
)
TEST = Part(
    "test",
    "t10k",
    2_000,
    50,
    "5e916b2e91811fe46845f5b34d536fd2cb7788e5c5bc5531b5e3b9ee89e9bad9",
)


def load() -> Dataset:
    """The set: images (N, 28, 28, 1), 10 classes. Takes a fraction of a second.

    Raises:
        DataError: one of the files is missing from the installation, or damaged.
    """
    return checked(
        "the built-in set",
        _read(TRAIN),
        _read(TEST),
        Classes.named(CLASS_NAMES),
        name="fashion-mnist",
        note="the built-in Fashion-MNIST subset (10,000 + 2,000 photographs, Zalando, MIT)",
    )


def build(source: Path, folder: Path = FOLDER) -> None:
    """Cut the subset from the full set's IDX files in `source` and write it into `folder`.

    Raises:
        DataError: a file is missing or damaged, or the subset is not the known one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in (TRAIN, TEST):
        images = _read_idx(source / f"{part.idx_name}-images-idx3-ubyte.gz", IDX_IMAGES)
        labels = _read_idx(source / f"{part.idx_name}-labels-idx1-ubyte.gz", IDX_LABELS)
        images, labels = images[: part.count], labels[: part.count]
        if digest(images, labels) != part.sha256:
            raise DataError(
                f"{shown(source)}: the first {part.count} {part.name} images have SHA-256 "
                f"{digest(images, labels)}; Fashion-MNIST's {part.sha256} was expected."
            )
        Image.fromarray(_sheet(images, part.columns)).save(
            folder / f"{part.name}.png", optimize=True
        )
        rows = labels.reshape(-1, part.columns)
        (folder / f"{part.name}_labels.txt").write_text(
            "".join("".join(map(str, row)) + "\n" for row in rows), encoding="ascii"
        )


def digest(images: Images, labels: np.ndarray) -> str:
    """SHA-256 of the pixels, then the labels as bytes."""
    return hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()


def _read(part: Part) -> Split:
    try:
        with Image.open(FOLDER / f"{part.name}.png", formats=("PNG",)) as sheet:
            images = _tiles(np.asarray(sheet), part.columns)
        digits = "".join((FOLDER / f"{part.name}_labels.txt").read_text(encoding="ascii").split())
    except (OSError, ValueError) as error:
        raise DataError(f"the built-in set: {error}; install pyalexnet anew.") from error
    labels: Labels = np.frombuffer(digits.encode(), np.uint8).astype(np.int64) - ord("0")
    if digest(images, labels) != part.sha256:
        raise DataError(
            f"the built-in set: {shown(FOLDER)}/{part.name}.png and its labels have SHA-256 "
            f"{digest(images, labels)}; {part.sha256} was expected, so install pyalexnet anew."
        )
    return Split(images[..., np.newaxis], labels)


def _sheet(images: Images, columns: int) -> Images:
    """(N, 28, 28) side by side, `columns` to a row: (N / columns * 28, columns * 28)."""
    rows = len(images) // columns
    grid = images.reshape(rows, columns, SIDE, SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * SIDE, columns * SIDE)


def _tiles(sheet: Images, columns: int) -> Images:
    """The inverse of `_sheet`."""
    rows = sheet.shape[0] // SIDE
    grid = sheet.reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * columns, SIDE, SIDE)


def _read_idx(path: Path, magic: int) -> Images:
    """An IDX file of unsigned bytes: the magic number, each dimension as four bytes, the data."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{shown(path)}: {error}; a gzipped IDX file was expected.") from error
    dimensions = magic & 0xFF
    header = np.frombuffer(raw, ">u4", count=min(1 + dimensions, len(raw) // 4))
    if header.size <= dimensions or header[0] != magic:
        raise DataError(f"{shown(path)}: the first bytes are {raw[:4]!r}; {magic:#x} was expected.")
    values = np.frombuffer(raw, np.uint8, offset=header.nbytes)
    if values.size != header[1:].prod(dtype=np.int64):
        raise DataError(
            f"{shown(path)}: {values.size} bytes of data; {'x'.join(map(str, header[1:]))} were "
            f"expected."
        )
    return values.reshape(header[1:])


def main() -> None:
    """The command line of `python -m pyalexnet.data.builtin`."""
    parser = argparse.ArgumentParser(description="Make the built-in Fashion-MNIST subset.")
    parser.add_argument("source", type=Path, help="folder of the four *-ubyte.gz files")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where to write")
    arguments = parser.parse_args()
    build(arguments.source, arguments.folder)


if __name__ == "__main__":
    main()
