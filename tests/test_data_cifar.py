"""CIFAR-10's two layouts, as folders and archives, and pickles that contain more than arrays."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet import data
from pyalexnet.data import cifar, download, unpickle
from pyalexnet.errors import DataError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PER_BATCH = 12


def python2(value: object) -> bytes:
    """A pickle like CIFAR-10's, made by Python 2: strings are bytes, NumPy's module is old."""
    return b"\x80\x02" + python2_item(value) + b"."


def python2_item(value: object) -> bytes:
    match value:
        case dict():
            items = [python2_item(item) for pair in value.items() for item in pair]
            return b"}(" + b"".join(items) + b"u"
        case list():
            return b"](" + b"".join(map(python2_item, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(python2_item, value)) + b"t"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return f"L{value}L\n".encode()
        case str():
            return b"T" + len(value).to_bytes(4, "little") + value.encode("ascii")
        case np.ndarray():
            return python2_array(value)
    raise TypeError(f"{type(value)} is not in CIFAR-10")


def python2_array(array: np.ndarray) -> bytes:
    order, code = array.dtype.str[0], array.dtype.str[1:]
    dtype = b"cnumpy\ndtype\n" + python2_item((code, 0, 1)) + b"R(K\x03"
    dtype += python2_item(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = array.tobytes()
    data = b"T" + len(raw).to_bytes(4, "little") + raw
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return empty + b"(K\x01" + python2_item(array.shape) + dtype + b"\x89" + data + b"tb"


def image(batch: int, index: int) -> np.ndarray:
    """(32, 32, 3), every pixel computed from its place, so that transpositions show."""
    rows, columns, channels = np.indices((32, 32, 3))
    values = 7 * rows + 3 * columns + 50 * channels + 11 * index + 29 * batch
    picture: np.ndarray = (values % 251).astype(np.uint8)
    return picture


def label(batch: int, index: int) -> int:
    return (index + batch) % 10


def planes(batch: int) -> np.ndarray:
    """A batch as it is stored: (N, 3072), channel by channel."""
    images = [image(batch, index).transpose(2, 0, 1).ravel() for index in range(PER_BATCH)]
    return np.stack(images)


def labels(batch: int) -> list[int]:
    return [label(batch, index) for index in range(PER_BATCH)]


def binary_layout() -> dict[str, bytes]:
    files = {
        f"{name}.bin": np.column_stack(
            [np.array(labels(number), np.uint8)[:, None], planes(number)]
        ).tobytes()
        for number, name in enumerate(BATCHES)
    }
    return files | {"batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}


def python_layout(dump: Callable[[object], bytes] = python2) -> dict[str, bytes]:
    files = {
        name: dump({"batch_label": name, "labels": labels(number), "data": planes(number)})
        for number, name in enumerate(BATCHES)
    }
    return files | {"batches.meta": dump({"num_vis": 3072, "label_names": list(NAMES)})}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def assert_is_the_set(dataset: data.Dataset) -> None:
    assert dataset.name == "cifar10"
    assert dataset.class_names == NAMES
    for split, batches in ((dataset.train, range(5)), (dataset.test, range(5, 6))):
        places = [(batch, index) for batch in batches for index in range(PER_BATCH)]
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert np.array_equal(split.images, np.stack([image(*place) for place in places]))
        assert split.labels.dtype == np.int64
        assert split.labels.tolist() == [label(*place) for place in places]


def test_the_python_2_pickles_of_this_file_are_right() -> None:
    value: dict[str, Any] = {"data": planes(0), "labels": labels(0), "three": (1, True, -5)}
    loaded = pickle.loads(python2(value), encoding="latin1")
    assert np.array_equal(loaded.pop("data"), value.pop("data"))
    assert loaded == value


def test_binary_layout(tmp_path: Path) -> None:
    dataset = data.load(write_folder(tmp_path, binary_layout()))
    assert_is_the_set(dataset)
    assert str(tmp_path) in dataset.note


@pytest.mark.parametrize(
    "dump",
    [python2, *(lambda value, n=n: pickle.dumps(value, protocol=n) for n in (3, 4, 5))],
    ids=["python2", "protocol3", "protocol4", "protocol5"],
)
def test_python_layout(tmp_path: Path, dump: Callable[[object], bytes]) -> None:
    assert_is_the_set(data.load(write_folder(tmp_path, python_layout(dump))))


@pytest.mark.parametrize("name", ["some.tar.gz", "some.tgz", "some.tar"])
@pytest.mark.parametrize("layout", [binary_layout, python_layout])
def test_archives(tmp_path: Path, name: str, layout: Callable[[], dict[str, bytes]]) -> None:
    dataset = data.load(write_archive(tmp_path / name, layout()))
    assert_is_the_set(dataset)
    assert "not the official archive" in dataset.note
    assert [entry.name for entry in tmp_path.iterdir()] == [name], "something was extracted"


def test_the_official_archive_is_known_by_its_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "any.tar.gz", python_layout())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    known = (path.name, path.stat().st_size)
    monkeypatch.setattr(cifar, "ARCHIVES", {sha256: known})
    assert "SHA-256 verified" in data.load(path).note
    monkeypatch.setattr(cifar, "ARCHIVES", {"0" * 64: known})
    with pytest.raises(DataError, match="is damaged: fetch it again"):
        data.load(path)


def test_the_fetched_archive_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="fetch it with `pyalexnet data get cifar10`"):
        data.load("cifar10")
    (tmp_path / "cache").mkdir()
    write_archive(tmp_path / "cache" / "cifar-10-python.tar.gz", python_layout())
    assert_is_the_set(data.load("cifar10"))
    write_folder(tmp_path / "cifar10", {"data_batch_1.bin": b""})
    with pytest.raises(DataError, match="lacks data_batch_2"):
        data.load("cifar10")


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        data.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}")
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("layout", [binary_layout, python_layout])
def test_each_missing_file_is_named(tmp_path: Path, layout: Callable[[], dict[str, bytes]]) -> None:
    folder = write_folder(tmp_path / "set", layout())
    for name in layout():
        (folder / name).rename(tmp_path / "aside")
        assert f"lacks {name}; " in refusal(folder)
        (tmp_path / "aside").rename(folder / name)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("data_batch_3.bin", lambda raw: raw[:-1], "a multiple of 3073"),
        ("data_batch_3.bin", lambda raw: b"", "an empty file"),
        ("data_batch_3.bin", lambda raw: b"\x0a" + raw[1:], "label 10; 0 to 9 were expected"),
        ("test_batch.bin", lambda raw: b"\xff" + raw[1:], "label 255; 0 to 9 were expected"),
        ("batches.meta.txt", lambda raw: b"\xff", "is not text"),
        ("batches.meta.txt", lambda raw: b"cat\n", "1 class"),
        ("batches.meta.txt", lambda raw: raw + b"\nyak", r"class 10 \(yak\) has no training image"),
    ],
)
def test_damaged_binary_files(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], text: str
) -> None:
    files = binary_layout()
    path = write_folder(tmp_path, files | {name: change(files[name])})
    with pytest.raises(DataError, match=text):
        data.load(path)
    refusal(path)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("data_batch_2", [1], "is a list of something else"),
        ("data_batch_2", {3: 4}, "a dict with names as keys"),
        ("data_batch_2", {"labels": labels(1)}, "data is missing"),
        ("data_batch_2", {"data": [1], "labels": labels(1)}, "data is a list"),
        ("data_batch_2", {"data": planes(1)}, "labels is missing"),
        ("data_batch_2", {"data": planes(1).astype("i8"), "labels": labels(1)}, "data is int64"),
        ("data_batch_2", {"data": planes(1)[:, 1:], "labels": labels(1)}, r"shape \(12, 3071\)"),
        ("data_batch_2", {"data": planes(1)[0], "labels": labels(1)}, r"shape \(3072,\)"),
        ("data_batch_2", {"data": planes(1), "labels": labels(1)[1:]}, "11 labels for 12 images"),
        ("data_batch_2", {"data": planes(1), "labels": ["3"] * 12}, "a list of int was expected"),
        ("data_batch_2", {"data": planes(1), "labels": [True] * 12}, "a list of int was expected"),
        ("data_batch_2", {"data": planes(1), "labels": [-1] * 12}, "label -1; 0 to 9"),
        ("data_batch_2", {"data": planes(1), "labels": [2**80] * 12}, "has the label 1208925"),
        ("data_batch_2", {"data": planes(1).astype("f8"), "labels": labels(1)}, "elements 'f8'"),
        ("data_batch_2", {"data": planes(1).astype(">i4"), "labels": labels(1)}, "byte order"),
        ("data_batch_2", {"data": np.array([{}], object), "labels": [1]}, "elements 'O'"),
        ("batches.meta", {"label_names": "cat"}, "a list of names was expected"),
        ("batches.meta", {"label_names": [1]}, "a list of names was expected"),
        ("batches.meta", {}, "label_names is missing"),
    ],
)
def test_damaged_python_files(tmp_path: Path, name: str, value: object, text: str) -> None:
    path = write_folder(tmp_path, python_layout() | {name: python2(value)})
    with pytest.raises(DataError, match=text):
        data.load(path)
    assert f": {name}: " in refusal(path)


def test_a_label_of_10_in_the_python_layout(tmp_path: Path) -> None:
    batch = python2({"data": planes(1), "labels": [10] * 12})
    path = write_folder(tmp_path, python_layout() | {"data_batch_2": batch})
    assert "training image 12 has label 10; 0 to 9 were expected" in refusal(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    files = python_layout()
    for part in range(32):
        cut = files["data_batch_1"][: len(files["data_batch_1"]) * part // 32]
        refusal(write_folder(tmp_path / "set", files | {"data_batch_1": cut}))
    archive = write_archive(tmp_path / "set.tar.gz", files)
    whole = archive.read_bytes()
    for part in range(32):
        archive.write_bytes(whole[: len(whole) * part // 32])
        refusal(archive)


class Payload:
    """The payload of a malicious pickle: a call, made when it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def command(path: Path) -> str:
    return f"touch '{path}'"


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    payload = pickle.dumps({"data": Payload(os.system, command(touched))}, protocol=protocol)
    folder = write_folder(tmp_path / "set", python_layout() | {"data_batch_1": payload})
    assert "posix.system" in refusal(folder)
    archive = write_archive(tmp_path / "set.tar.gz", python_layout() | {"batches.meta": payload})
    assert "posix.system" in refusal(archive)
    assert not touched.exists()
    pickle.loads(payload)
    assert touched.exists(), "the payload does nothing, so the test showed nothing"


def global_name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    "raw",
    [
        global_name("builtins", "eval") + b".",
        global_name("__builtin__", "eval") + b".",
        global_name("numpy", "load") + b".",
        global_name("numpy.core.multiarray", "scalar") + b".",
        global_name("numpy.core.multiarray", "_reconstruct.__globals__") + b".",
        global_name("pyalexnet.data.unpickle", "from_buffer") + b".",
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1
        b"P1\n.",  # PERSID
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # LONG_BINPUT: a table of 2^31 entries for one value
        b"Np2147483647\n.",  # PUT
        b"\x80\x05\x97.",  # NEXT_BUFFER
        # BUILD on the objects behind admitted names: nothing in the process may change
        global_name("numpy.core.multiarray", "_reconstruct") + b"}S'x'\nI1\nsb.",
        global_name("numpy", "dtype") + b"}S'x'\nI1\nsb.",
        global_name("numpy", "ndarray") + b"}S'x'\nI1\nsb.",
        global_name("numpy._core.numeric", "_frombuffer") + b"(N}S'x'\nI1\nstb.",
        global_name("numpy.core.multiarray", "_reconstruct") + b"(N}S'x'\nI1\nstb.",
    ],
)
def test_other_ways_to_ask_for_more(raw: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError, ValueError)):
        unpickle.loads(raw)
    for admitted in (unpickle.StandIn, unpickle.ElementType, unpickle.from_buffer):
        assert not hasattr(admitted, "x")


def array_pickle(state: str) -> bytes:
    """A pickled array whose state is the pickle source `state`."""
    reconstruct = global_name("numpy.core.multiarray", "_reconstruct")
    ndarray = global_name("numpy", "ndarray")
    return reconstruct + b"(" + ndarray + b"(I0\ntS'b'\ntR" + state.encode() + b"b."


U1 = "cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (f"(I1\n(I2\nt{U1}I00\nS'abc'\nt", "3 bytes"),
        (f"(I1\n(I-3\nt{U1}I00\nS'abc'\nt", "shape"),
        (f"(I1\n(F3.0\nt{U1}I00\nS'abc'\nt", "shape"),
        (f"(I1\nI3\n{U1}I00\nS'abc'\nt", "shape"),
        (f"(I1\n(I3\nt{U1}I00\n(lt", "not made of bytes"),
        ("(I1\n(I3\ntS'u1'\nI00\nS'abc'\nt", "not made of bytes"),
    ],
)
def test_an_array_that_does_not_fit_its_bytes_is_refused(state: str, text: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=text):
        unpickle.loads(array_pickle(state))


@pytest.mark.parametrize(("order", "expected"), [("I00", [[97, 98, 99]]), ("I01", [[97, 98, 99]])])
def test_arrays_of_both_orders(order: str, expected: list[list[int]]) -> None:
    array = unpickle.loads(array_pickle(f"(I1\n(I1\nI3\nt{U1}{order}\nS'abc'\nt")).value
    assert array.tolist() == expected
    fortran = unpickle.loads(pickle.dumps(np.asfortranarray(np.arange(6).reshape(2, 3)))).value
    assert fortran.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_links_and_paths_in_archives_reach_nothing(tmp_path: Path) -> None:
    """A link in place of a batch, and a name that climbs out: neither is followed or written."""
    secret = write_folder(tmp_path / "secret", binary_layout())
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for name in binary_layout():
            link = tarfile.TarInfo(f"x/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(secret / name)
            archive.addfile(link)
        evil = tarfile.TarInfo("../../evil")
        evil.size = 3
        archive.addfile(evil, io.BytesIO(b"bad"))
    assert "lacks" in refusal(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["secret", "set.tar"]


def test_archives_that_unpack_to_gigabytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", binary_layout() | {"other": bytes(300_000)})
    monkeypatch.setattr(cifar, "LARGEST_ARCHIVE", 500_000)
    assert "unpacks to 300000 bytes" in refusal(path)
    monkeypatch.setattr(cifar, "LARGEST_ARCHIVE", 600_000)
    assert_is_the_set(data.load(path))
    monkeypatch.setattr(cifar, "LARGEST_FILE", PER_BATCH * 3073 - 1)
    assert "'cifar-10-batches/data_batch_1.bin' unpacks to" in refusal(path)
    folder = write_folder(tmp_path / "set", binary_layout())
    assert f"more than the {PER_BATCH * 3073 - 1} allowed" in refusal(folder)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"<html>404</html>")
    assert "a tar archive of CIFAR-10 was expected" in refusal(tmp_path / "a.tar.gz")


@pytest.mark.parametrize(
    ("pax", "size", "reason"),
    [
        ({}, 2**33 - 1, "a header of 8589934591 bytes"),
        ({"GNU.sparse.realsize": "x"}, None, "invalid literal"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, None, "cannot be read"),
    ],
    ids=["of eight gigabytes", "no number", "sparse"],
)
def test_headers_that_lie(
    tmp_path: Path, pax: dict[str, str], size: int | None, reason: str
) -> None:
    """Found by fuzzing: tarfile reads, and allocates, whatever a header's header declares."""
    odd = tarfile.TarInfo("data_batch_1.bin")
    odd.pax_headers = pax
    if size is not None:
        odd.type, odd.size = tarfile.XHDTYPE, size
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("first"))
        archive.addfile(odd)
        archive.addfile(tarfile.TarInfo("last"), io.BytesIO())
    assert reason in refusal(path)


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    """Found by fuzzing: pickle's message on a persistent id has two lines."""
    folder = write_folder(tmp_path / "set", python_layout() | {"data_batch_1": b"\x80\x02P1\n."})
    assert "\n" not in refusal(folder)
