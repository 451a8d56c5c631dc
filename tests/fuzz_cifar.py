"""Damaged and hostile CIFAR-10, both layouts, folders and archives: refused, or read as it is."""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzzing import Edit, edited, edits, refused, watch
from pyalexnet.data import cifar
from pyalexnet.errors import DataError
from samples import pixels

OUTCOMES = {"refused", "read"}
SAMPLE = 100
PER_BATCH = 2
CLASSES = 2
BINARY, PICKLED = cifar.BINARY, cifar.PICKLED
ARCHIVE = ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"

OPCODES = (
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"(S'true'\nios\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"),
    *(b"cnumpy.core.numeric\n_frombuffer\n", b"cnumpy.core.multiarray\nscalar\n", b"R", b"b"),
    *(b"\x81", b"\x92", b"0", b"1", b"2", b"t", b"(", b"]", b"}", b"K\x00", b"N", b"\x85", b"\x86"),
    *(b"h\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"U\xff"),
    *(b"\x8b\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\x7f", b"P1\n"),
    *(b"\x95" + b"\xff" * 8, b"\x82\x01", b"\x97", b"\x98", b"X\x04\x00\x00\x00data", b"."),
)


@dataclass(frozen=True)
class Member:
    """A member of an archive: kind, name ({} stands for the name of a file of the layout), target.

    size: as declared; None: that of the file of the layout. pax: further headers.
    """

    kind: bytes
    name: str
    target: str
    size: int | None
    pax: dict[str, str]


@dataclass(frozen=True)
class Case:
    """A set with damaged files, as a folder (no `suffix`) or an archive, itself damaged too."""

    pickled: bool
    protocol: int
    files: list[tuple[int, list[Edit]]]
    suffix: str
    members: list[tuple[int, Member]]
    archive: list[Edit]


def cases() -> SearchStrategy[Case]:
    number = st.integers(0, 6)
    opcodes = st.builds(
        Edit,
        st.sampled_from(("insert", "overwrite")),
        st.integers(0, 256) | st.integers(-64, 2**13),
        st.just(0),
        st.lists(st.sampled_from(OPCODES), max_size=4).map(b"".join),
    )
    files = st.lists(
        st.tuples(number, st.lists(opcodes, max_size=2) | edits(3, 2**13) | edits(2, 256)),
        max_size=2,
    )
    members = st.builds(
        Member,
        st.sampled_from(
            (
                *(tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE),
                *(tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE),
                *(tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"9"),
            )
        ),
        st.sampled_from(("{}", "../../{}", "/{}", "x/{}", "//{}", "{}/{}", ".", "", "\udcff/{}")),
        st.sampled_from(("", "/etc/passwd", "../{}", "{}", ".")),
        st.none() | st.sampled_from((0, 1, 6146, 2**31, 2**33 - 1, 2**62)),
        st.dictionaries(
            st.sampled_from(
                (
                    *("size", "path", "linkpath", "uid", "mtime", "GNU.sparse.map", "charset"),
                    *("GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.minor", "hdrcharset"),
                    *("GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.numblocks"),
                )
            ),
            st.sampled_from(("-1", "0", "1", "512", "x", "", "data_batch_1", "0,1,2", "9" * 30))
            | st.text(max_size=4),
            max_size=3,
        ),
    )
    protocol = st.integers(0, 5)
    none: SearchStrategy[Any] = st.just([])
    return st.one_of(
        st.builds(Case, st.booleans(), protocol, files, st.just(""), none, none),
        st.builds(Case, st.just(True), protocol, files, st.just(""), none, none),
        st.builds(
            Case,
            st.booleans(),
            protocol,
            none | files,
            st.sampled_from(ARCHIVE),
            none | st.lists(st.tuples(number, members), max_size=2),
            none | edits(2, 2**12),
        ),
    )


def check(case: Case) -> str:
    names = PICKLED if case.pickled else BINARY
    contents = dict(layout(case.pickled, case.protocol))
    for number, changes in case.files:
        contents[names[number]] = edited(contents[names[number]], changes)
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / f"cifar{case.suffix}"
        if case.suffix:
            raw = edited(archive(contents, case.suffix, case.members), case.archive)
            path.write_bytes(raw)
        else:
            path.mkdir()
            for name, content in contents.items():
                (path / name).write_bytes(content)
        try:
            with watch():
                found = (cifar.load_archive if case.suffix else cifar.load_folder)(path)
        except DataError as error:
            return refused(error)
    for split in (found.train, found.test):
        assert split.images.dtype == np.uint8 and split.images.flags.c_contiguous
        assert split.images.shape == (len(split), 32, 32, 3) and split.labels.dtype == np.int64
        assert 0 <= split.labels.min() <= split.labels.max() < len(found.class_names)
    assert all(type(name) is str for name in found.class_names)
    if contents == layout(case.pickled, case.protocol) and not (case.members or case.archive):
        assert np.array_equal(found.train.images, planes(0, 5).transpose(0, 2, 3, 1))
        assert np.array_equal(found.test.images, planes(5, 6).transpose(0, 2, 3, 1))
    return "read"


def archive(contents: dict[str, bytes], suffix: str, members: list[tuple[int, Member]]) -> bytes:
    """A tar archive; each of `members` precedes the file of its number, or replaces it."""
    stream = io.BytesIO()
    mode: Any = f"w:{suffix[5:]}"
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for number, (name, content) in enumerate(contents.items()):
            for _, odd in (pair for pair in members if pair[0] == number):
                header = tarfile.TarInfo(odd.name.replace("{}", name))
                header.type, header.linkname = odd.kind, odd.target.replace("{}", name)
                header.size = len(content) if odd.size is None else odd.size
                header.pax_headers = odd.pax
                # Without contents, which addfile refuses: the bytes that follow are read as such.
                head = header.tobuf(tar.format, tar.encoding, tar.errors)
                assert tar.fileobj is not None
                tar.fileobj.write(head)
                tar.offset += len(head)
            header = tarfile.TarInfo(f"cifar-10-batches/{name}")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return stream.getvalue()


@functools.cache
def layout(pickled: bool, protocol: int) -> dict[str, bytes]:
    """The files of a small set."""
    names = tuple(f"class{number}" for number in range(CLASSES))
    labels = [number % CLASSES for number in range(PER_BATCH)]
    rows = [planes(number, number + 1).reshape(PER_BATCH, -1) for number in range(6)]
    if pickled:
        values: list[Any] = [{b"data": row, b"labels": labels} for row in rows]
        values.append({"label_names": list(names)})
        return {
            name: pickle.dumps(value, protocol) for name, value in zip(PICKLED, values, strict=True)
        }
    records = [np.column_stack([np.array(labels, np.uint8), row]).tobytes() for row in rows]
    contents = [*records, "\n".join(names).encode()]
    return dict(zip(BINARY, contents, strict=True))


@functools.cache
def planes(first: int, stop: int) -> Any:
    """Images of some batches, (N, 3, 32, 32)."""
    whole = pixels(6 * PER_BATCH, 3, 32, 32)
    return whole[first * PER_BATCH : stop * PER_BATCH]
