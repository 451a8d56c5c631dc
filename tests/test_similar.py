"""`pyalexnet similar`: exact nearest neighbours in a layer's features."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks import files, invoked, npz, pictures, written
from pyalexnet.commands.features import features
from pyalexnet.commands.similar import similar
from pyalexnet.data import cifar
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options, prepare
from pyalexnet.errors import DataError
from pyalexnet.trained.load import Trained
from pyalexnet.trained.similar import Search, of_dataset, open_index
from samples import generator, normal


def brute(queries: np.ndarray, rows: np.ndarray, k: int) -> list[tuple[list[int], list[float]]]:
    """By exact arithmetic; ties by index."""
    found = []
    for query in queries:
        squares = [
            sum(
                (Fraction(float(a)) - Fraction(float(b))) ** 2
                for a, b in zip(query, row, strict=True)
            )
            for row in rows
        ]
        order = sorted(range(len(rows)), key=lambda number: (squares[number], number))[:k]
        found.append((order, [float(squares[number]) ** 0.5 for number in order]))
    return found


def searched(queries: np.ndarray, rows: np.ndarray, k: int, block: int) -> Search:
    search = Search(queries, k)
    for start in range(0, len(rows), block):
        search.add(rows[start : start + block])
    return search


@pytest.mark.parametrize("block", [1, 7, 60])
@pytest.mark.parametrize("k", [1, 4, 60, 70])
def test_as_by_hand(block: int, k: int) -> None:
    queries, rows = normal(5, 6, seed=1), normal(60, 6, seed=2)
    found = searched(queries, rows, k, block).nearest()
    for (indices, distances), (order, exact) in zip(found, brute(queries, rows, k), strict=True):
        assert indices.tolist() == order
        assert distances == pytest.approx(exact, rel=2**-48)


def test_ties_come_by_index_and_a_copy_is_at_no_distance() -> None:
    rows = generator(4).integers(0, 2, (80, 4)).astype(np.float32)  # 16 different ones
    queries = rows[[70, 3]]
    found = searched(queries, rows, 12, 9).nearest()
    for (indices, distances), (order, _) in zip(found, brute(queries, rows, 12), strict=True):
        assert indices.tolist() == order
        assert distances[0] == 0


@pytest.mark.parametrize("block", [2, 5])
def test_features_that_are_all_zero_are_alike(block: int) -> None:
    ((indices, distances),) = searched(np.zeros((1, 3)), np.zeros((5, 3)), 2, block).nearest()
    assert indices.tolist() == [0, 1] and distances.tolist() == [0, 0]


def test_small_differences_between_large_features_count() -> None:
    # In float64 the squares of 4096 numbers of 2^16 add up to within about 2^-53 * 2^44; these
    # rows differ by squares of 2^-14 and more.
    draws = generator(5)
    base = draws.normal(2.0**16, 2.0**13, 4096).astype(np.float32)
    rows = np.tile(base, (30, 1))
    rows[:, 0] = 2.0**16 + draws.permutation(30) * 2.0**-7
    base[0] = 2.0**16
    wide = rows.astype(float)
    product = (
        (base.astype(float) ** 2).sum() + (wide**2).sum(axis=1) - 2 * wide @ base.astype(float)
    )
    ((indices, _),) = searched(base[None], rows, 30, 30).nearest()
    order = np.argsort(rows[:, 0], kind="stable").tolist()
    assert indices.tolist() == order
    assert np.argsort(product, kind="stable").tolist() != order
    ((indices, _),) = searched(base[None], rows, 5, 7).nearest()
    assert indices.tolist() == order[:5]


@pytest.mark.parametrize("stored", [False, True])
def test_the_command_agrees_with_brute_force(tmp_path: Path, stored: bool) -> None:
    run = written(tmp_path / "run")
    x, asked = pictures(30, seed=1), pictures(3, seed=2)
    paths, queries = files(tmp_path / "index", x), files(tmp_path / "queries", asked)
    index = tmp_path / "index"
    if stored:
        index = tmp_path / "index.safetensors"
        invoked(features, run, tmp_path / "index", "-o", index)
    said = invoked(similar, run, tmp_path / "queries", "--index", index, "-k4", "--json")
    loaded = Trained.load(run)
    rows, points = loaded.activations(x, "fc5"), loaded.activations(asked, "fc5")
    squares = ((points[:, None].astype(float) - rows.astype(float)) ** 2).sum(axis=2)
    order = np.argsort(squares, axis=1)[:, :4]
    documents = json.loads(said.stdout)
    assert [document["query"] for document in documents] == [str(path) for path in queries]
    for document, best, row in zip(documents, order, squares, strict=True):
        found = document["neighbours"]
        assert [entry["index"] for entry in found] == best.tolist()
        assert [entry["name"] for entry in found] == [str(paths[number]) for number in best]
        distances = [entry["distance"] for entry in found]
        assert distances == pytest.approx(np.sqrt(row[best]), rel=1e-5)


def test_a_query_in_the_index_is_not_its_own_neighbour(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    x = pictures(5)
    paths = files(tmp_path / "index", np.concatenate((x, x[2:3])))  # and a copy of one
    said = invoked(similar, run, paths[2], "--index", tmp_path / "index", "-k5", "--json")
    ((document),) = json.loads(said.stdout)
    found = [entry["index"] for entry in document["neighbours"]]
    # Alone in its batch, the query is rounded differently, and not quite equal to its copy.
    first, second, *_ = document["neighbours"]
    assert first["index"] == 5 and first["distance"] < 1e-4 * second["distance"]
    assert sorted(found) == [0, 1, 3, 4, 5]
    asked = (run, paths[2], *files(tmp_path / "queries", x[:1]))
    sheet = tmp_path / "sheet.png"
    said = invoked(
        similar, *asked, "--index", tmp_path / "index", "--neighbours=9", "--sheet", sheet
    )
    assert "neighbours: all 5 in the index; 9 were requested" in said.stdout
    assert said.stdout.count("\n  ") == 5 + 6 and sheet.stat().st_size > 0
    alone = files(tmp_path / "alone", x[:1])
    with pytest.raises(DataError, match=r"the index has no image except .*; at least one more was"):
        invoked(similar, run, *alone, "--index", tmp_path / "alone")


def test_another_layer_and_lines_for_people(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    x = pictures(8)
    paths = files(tmp_path / "index", x[1:])
    (query,) = files(tmp_path / "query", x[:1])
    said = invoked(similar, run, query, "--index", tmp_path / "index", "-k1", "--layer=conv1")
    maps = Trained.load(run).activations(x, "conv1").reshape(8, -1).astype(float)
    distances = np.sqrt(((maps[1:] - maps[0]) ** 2).sum(axis=1))
    best = int(distances.argmin())
    assert said.stdout.splitlines() == [
        "Euclidean distance of conv1 features",
        str(query),
        f"  {distances[best]:10.4f}  {paths[best]}",
    ]
    said = invoked(similar, run, query, "--index", tmp_path / "index", "--json")
    assert json.loads(said.stdout)[0]["metric"] == "Euclidean distance of fc5 features"


def of_cifar(folder: Path) -> Path:
    """A CIFAR-10 in its binary layout with one image per file, all different."""
    folder.mkdir()
    for number, name in enumerate((*cifar.TRAIN, "test_batch")):
        pixels = pictures(1, side=32, seed=number).transpose(0, 3, 1, 2)
        (folder / f"{name}.bin").write_bytes(bytes([number % 5]) + pixels.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{n}" for n in range(5)))
    return folder


def test_a_data_set_as_the_index(tmp_path: Path) -> None:
    """Its test images, then its training images; the nearest of all by hand."""
    run = written(tmp_path / "run")
    data, sheet = npz(tmp_path / "set.npz"), tmp_path / "sheet.png"
    x = pictures(6, seed=3)
    paths = files(tmp_path / "queries", x)
    said = invoked(similar, run, *paths, "--index", data, "-k40", "--json", "--sheet", sheet)
    loaded = Trained.load(run)
    dataset = loaded.dataset(data)
    rows = np.concatenate(
        [loaded.activations(split.images, "fc5") for split in (dataset.test, dataset.train)]
    )
    for document, point in zip(json.loads(said.stdout), loaded.activations(x, "fc5"), strict=True):
        found = document["neighbours"]
        assert [entry["name"] for entry in found] == [
            f"test {entry['index']}" if entry["index"] < 20 else f"train {entry['index'] - 20}"
            for entry in found
        ]
        assert sorted(entry["index"] for entry in found) == list(range(40))
        distances = np.linalg.norm(rows.astype(float) - point.astype(float), axis=1)
        for entry in found:
            assert entry["distance"] == pytest.approx(distances[entry["index"]], rel=1e-4)
    assert sheet.stat().st_size > 0
    index = of_dataset(loaded, data, "fc5")
    read = index.images([25, 3, 20])
    expected = [dataset.train.images[5], dataset.test.images[3], dataset.train.images[0]]
    assert np.array_equal(read, np.stack(expected))


def test_packs_and_cifar_are_data_sets(tmp_path: Path) -> None:
    run = Trained.load(written(tmp_path / "run"))
    for name in ("ant", "bee"):
        files(tmp_path / "images" / name, pictures(10, seed=len(name)))
    prepare(tmp_path / "images", tmp_path / "pack", Options(Storage(24)), workers=1)
    folder = open_index(run, tmp_path / "images", "fc5")
    assert sum(map(len, folder.blocks)) == 20
    assert folder.name(0) == str(tmp_path / "images" / "ant" / "000.png")
    pack = open_index(run, tmp_path / "pack", "fc5")
    assert pack.name(0) == "test 0" and sum(map(len, pack.blocks)) == 20
    index = open_index(run, of_cifar(tmp_path / "cifar"), "fc5")
    assert (index.name(0), index.name(1)) == ("test 0", "train 0")


def test_a_sheet_of_files_and_of_a_data_set(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    queries = files(tmp_path / "queries", pictures(2))
    data, index = npz(tmp_path / "set.npz"), tmp_path / "index.safetensors"
    invoked(features, run, "--data", data, "-o", index)
    said = invoked(
        similar, run, *queries, "--index", index, "-k3", "--sheet", tmp_path / "sheet.png"
    )
    assert re.search(rf"test image \d+ of {data}\n", said.stdout) and "written" in said.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet.convert("RGB")).std() > 5


def test_a_sheet_of_the_built_in_set(tmp_path: Path) -> None:
    run = written(tmp_path / "run", channels=1, data="")
    queries = files(tmp_path / "queries", pictures(1))
    index, sheet = tmp_path / "index.safetensors", tmp_path / "sheet.png"
    invoked(features, run, "-o", index)
    invoked(similar, run, *queries, "--index", index, "--sheet", sheet)
    assert sheet.stat().st_size > 0


def test_what_is_no_index_of_this_network_is_refused(tmp_path: Path) -> None:
    run, other = written(tmp_path / "run"), written(tmp_path / "other", seed=1)
    (query,) = files(tmp_path / "query", pictures(1))
    index = tmp_path / "index.safetensors"
    with pytest.raises(DataError, match="cannot be read"):
        invoked(similar, run, query, "--index", index)
    index.write_bytes(b"broken")
    with pytest.raises(DataError, match="is no safetensors file"):
        invoked(similar, run, query, "--index", index)
    invoked(features, other, query, "-o", index)
    with pytest.raises(DataError, match="features of other parameters"):
        invoked(similar, run, query, "--index", index)
    with pytest.raises(DataError, match="holds the features of fc5; conv1 was expected"):
        invoked(similar, other, query, "--index", index, "--layer=conv1")
    params = run / "checkpoints" / "step-00000001" / "params.safetensors"
    with pytest.raises(DataError, match="was not written by pyalexnet features"):
        invoked(similar, run, query, "--index", params)
    query.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"000\.png: cannot be read; an image was expected"):
        invoked(similar, run, query, "--index", tmp_path / "query")
