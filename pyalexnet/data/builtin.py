"""The built-in set: 12,000 photographs of Fashion-MNIST, as viewable contact sheets.

The first 10,000 training and the first 2,000 test images of Zalando's Fashion-MNIST (28x28 grey,
white on black) are in `fashion_mnist/` beside this file. `train.png` shows them in rows of 100,
`test.png` in rows of 50; a text file beside each sheet has one digit, the label, at every image's
place. Zalando's MIT licence is in `fashion_mnist/LICENSE`.

`tests/fashion_mnist.py` made the four files from the full set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset, Images, Labels, Split
from pyalexnet.errors import DataError
from pyalexnet.files import shown

FOLDER = Path(__file__).with_name("fashion_mnist")

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

SIDE = 28  # height and width of an image, pixels


@dataclass(frozen=True)
class Part:
    """One of the two sheets: its source, its layout, and the expected content."""

    name: str
    idx_name: str
    count: int
    columns: int
    sha256: str  # of the images' bytes (count, 28, 28), followed by the labels (count,) as bytes


_TRAIN_SHA256 = "b134f74849da1a1bcd32ee8c73b764a5657b0f25350e9ed3b4a4e8cb8505b14b"
_TEST_SHA256 = "5e916b2e91811fe46845f5b34d536fd2cb7788e5c5bc5531b5e3b9ee89e9bad9"
TRAIN = Part("train", "train", 10_000, 100, _TRAIN_SHA256)
TEST = Part("test", "t10k", 2_000, 50, _TEST_SHA256)


def load() -> Dataset:
    """The set: images (N, 28, 28, 1), 10 classes. Takes a fraction of a second."""
    note = "the built-in Fashion-MNIST subset (10,000 + 2,000 photographs, Zalando, MIT)"
    classes = Classes.named(CLASS_NAMES)
    found = Dataset("fashion-mnist", _read(TRAIN), _read(TEST), classes, note)
    return found.checked("the built-in set")


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


def _tiles(sheet: Images, columns: int) -> Images:
    """A sheet's images (N, 28, 28), `columns` to a row."""
    rows = sheet.shape[0] // SIDE
    grid = sheet.reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * columns, SIDE, SIDE)
