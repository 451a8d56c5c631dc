"""Makes the built-in set of `pyalexnet/data/builtin.py` from the full Fashion-MNIST.

`python tests/fashion_mnist.py SOURCE [FOLDER]` remakes the four files from the four `*-ubyte.gz` of
the full set, for instance those of Debian's package dataset-fashion-mnist in
`/usr/share/datasets/fashion-mnist`.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from pyalexnet.data.builtin import FOLDER, SIDE, TEST, TRAIN, digest
from pyalexnet.data.dataset import Images
from pyalexnet.errors import DataError
from pyalexnet.files import shown

IDX_IMAGES, IDX_LABELS = 0x803, 0x801
"""Magic numbers of IDX files of bytes with three dimensions, and with one."""


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
        Image.fromarray(sheet(images, part.columns)).save(
            folder / f"{part.name}.png", optimize=True
        )
        rows = labels.reshape(-1, part.columns)
        (folder / f"{part.name}_labels.txt").write_text(
            "".join("".join(map(str, row)) + "\n" for row in rows), encoding="ascii"
        )


def sheet(images: Images, columns: int) -> Images:
    """(N, 28, 28) side by side, `columns` to a row: (N / columns * 28, columns * 28)."""
    rows = len(images) // columns
    grid = images.reshape(rows, columns, SIDE, SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * SIDE, columns * SIDE)


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
    """The command line of `python tests/fashion_mnist.py`."""
    parser = argparse.ArgumentParser(description="Make the built-in Fashion-MNIST subset.")
    parser.add_argument("source", type=Path, help="folder of the four *-ubyte.gz files")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where to write")
    arguments = parser.parse_args()
    build(arguments.source, arguments.folder)


if __name__ == "__main__":
    main()
