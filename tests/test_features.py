"""`pyalexnet features`: a layer's outputs in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from networks import CLASS_NAMES, files, invoked, npz, pictures, written
from pyalexnet.commands.features import features
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.trained.load import Trained
from tolerance import same_bits


def metadata(path: Path) -> Any:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata()


@pytest.mark.parametrize("layer", ["conv1", "fc5", "drop5", "fc6"])
def test_of_a_data_set(tmp_path: Path, layer: str) -> None:
    run = written(tmp_path / "run")
    data, out = npz(tmp_path / "set.npz"), tmp_path / "out.safetensors"
    said = invoked(
        features, run, "--data", data, "--layer", layer, "-o", out, "-b7", "--backend=cpu"
    )
    loaded = Trained.load(run, backend="cpu")
    split = loaded.dataset(data).test
    # The same batches, so that every sum has the same order.
    batches = [split.images[start : start + 7] for start in (0, 7, 14)]
    expected = np.concatenate([loaded.activations(x, layer) for x in batches]).reshape(20, -1)
    found = safetensors.numpy.load_file(out)
    assert found.keys() == {"features", "labels"}
    assert same_bits(found["features"], expected)
    assert np.array_equal(found["labels"], split.labels)
    about = metadata(out)
    assert (about["layer"], about["data"], about["split"]) == (layer, str(data), "test")
    assert json.loads(about["class_names"]) == list(CLASS_NAMES)
    assert json.loads(about["class_ids"]) == list(CLASS_NAMES)
    assert f"{layer} of 20 images, {expected.shape[1]:,} numbers each" in said.stdout


def test_of_the_runs_own_training_images(tmp_path: Path) -> None:
    data, out = npz(tmp_path / "set.npz"), tmp_path / "out.safetensors"
    run = written(tmp_path / "run", data=str(data))
    invoked(features, run, "--split=train", "-o", out)
    loaded = Trained.load(run)
    expected = loaded.activations(loaded.dataset().train.images, "fc5")
    assert np.array_equal(safetensors.numpy.load_file(out)["features"], expected)
    assert metadata(out)["layer"] == "fc5" and metadata(out)["split"] == "train"


def test_of_files_and_folders(tmp_path: Path) -> None:
    run, out = written(tmp_path / "run"), tmp_path / "out.safetensors"
    x = pictures(5)
    paths = files(tmp_path / "images", x)
    paths[3].write_bytes(b"broken")
    said = invoked(features, run, paths[4], tmp_path / "images", "-o", out, "-b2")
    assert f"warning: skipped {paths[3]}" in said.stdout
    found = safetensors.numpy.load_file(out)
    loaded = Trained.load(run)
    batches = ([4, 0], [1, 2], [4])  # of two files each, the broken one in the last two
    expected = np.concatenate([loaded.activations(x[batch], "fc5") for batch in batches])
    assert found.keys() == {"features"}
    assert same_bits(found["features"], expected)
    kept = [paths[number] for number in (4, 0, 1, 2, 4)]
    assert json.loads(metadata(out)["names"]) == [str(path) for path in kept]


@pytest.mark.parametrize("of", ["files", "a data set"])
def test_json(of: str, tmp_path: Path) -> None:
    run, out = written(tmp_path / "run"), tmp_path / "out.safetensors"
    files(tmp_path / "images", pictures(3))
    given = [tmp_path / "images"] if of == "files" else ["--data", npz(tmp_path / "set.npz")]
    said = invoked(features, run, *given, "--layer=fc6", "-o", out, "--json")
    assert json.loads(said.stdout) == {
        "file": str(out),
        "checkpoint": str(Trained.load(run).path),
        "layer": "fc6",
        "images": 3 if of == "files" else 20,
        "numbers": 4,
    }


def test_refusals_leave_no_file(tmp_path: Path) -> None:
    run, out = written(tmp_path / "run"), tmp_path / "out" / "out.safetensors"
    paths = files(tmp_path / "images", pictures(1))
    with pytest.raises(ArgumentError, match="layer is 'fc7'; one of conv1, pool1"):
        invoked(features, run, paths[0], "--layer=fc7", "-o", out)
    with pytest.raises(ArgumentError, match="--data and images were both given"):
        invoked(features, run, paths[0], "--data=cifar10", "-o", out)
    paths[0].write_bytes(b"broken")
    with pytest.raises(DataError, match=r"000\.png: cannot be read; an image was expected"):
        invoked(features, run, paths[0], "-o", out)
    assert not list(out.parent.iterdir())
