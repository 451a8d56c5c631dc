"""A network loaded for use sees images as in training and gives the same outputs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import networks
from networks import SIDE, STORED, files, npz, pictures, written
from pyalexnet.data.views import Views
from pyalexnet.errors import ArgumentError, CheckpointError, DataError, RunError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.trained import scoring
from pyalexnet.trained.load import Fitted, Trained, fitted
from training import began, photographs
from training import fitted as train


def load(run: Path, which: str = "best") -> Trained:
    return Trained.load(run, backend="cpu", which=which)


def oracle(x: Any, mean: Any, top: int, left: int, flip: bool, at: str) -> Any:
    """A crop of stored images by slicing, float32."""
    down = (STORED - SIDE) // 2
    crop = x[:, top : top + SIDE, left : left + SIDE].astype(np.float32)
    if at == "centre":
        return (crop[:, :, ::-1] if flip else crop) - mean[down : down + SIDE, down : down + SIDE]
    own = crop - mean[top : top + SIDE, left : left + SIDE]
    return own[:, :, ::-1] if flip else own


@pytest.mark.parametrize("rule", ["centre", "pixel", "channel"])
def test_ten_crops_are_ten_forwards(tmp_path: Path, rule: str) -> None:
    run = load(written(tmp_path / "run", augment=networks.CROPPED | {"mean": rule}))
    x = pictures(3)
    mean = checkpoint.load(run.path).mean
    if rule == "channel":
        mean = np.broadcast_to(mean.mean(axis=(0, 1), dtype=np.float64), mean.shape)
        mean = mean.astype(np.float32)
    far = STORED - SIDE
    corners = [(0, 0), (0, far), (far // 2, far // 2), (far, 0), (far, far)]
    whole = np.zeros((3, 4))
    for flip in (False, True):
        for top, left in corners:
            images = oracle(x, mean, top, left, flip, "pixel" if rule == "pixel" else "centre")
            logits = np.asarray(run.net.forward(np.ascontiguousarray(images)), np.float64)
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            whole += powers / powers.sum(axis=1, keepdims=True)
    found = run.probabilities(x, ten_crop=True)
    assert found.dtype == np.float64
    assert found == pytest.approx(whole / 10, rel=2**-50)
    centre = run.probabilities(x)
    assert np.abs(found - centre).max() > 0.01


def test_the_centre_is_what_is_seen(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    x = pictures(2)
    down = (STORED - SIDE) // 2
    assert np.array_equal(run.look(x), oracle(x, run.mean, down, down, False, "centre"))
    views = Views(
        np.array([[0, 6], [5, 1]], np.int32),
        np.array([1, 0], np.uint8),
        np.zeros((2, 3), np.float32),
        0.5,
    )
    seen = run.look(x, views)
    assert np.array_equal(seen[0], oracle(x, run.mean, 0, 6, True, "centre")[0] / 2)
    assert np.array_equal(seen[1], oracle(x, run.mean, 5, 1, False, "centre")[1] / 2)


def test_a_checkpoint_of_before_there_were_crops(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run", augment=None))
    assert (run.augment, run.stored, run.size) == (None, (SIDE, SIDE), (SIDE, SIDE))
    x = pictures(2, side=SIDE)
    assert np.array_equal(run.look(x), x.astype(np.float32) - run.mean)


def test_activations_are_those_on_the_way_to_the_logits(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    x = pictures(3)
    assert np.array_equal(run.activations(x, "fc6"), run.logits(x))
    hidden = run.activations(x, "fc5")
    # The 2012 rule: in evaluation the dropout layer multiplies by the probability of keeping.
    assert np.array_equal(run.activations(x, "drop5"), hidden * np.float32(0.8))
    assert (hidden > 0).any() and run.activations(x, "pool1").shape == (3, 7, 7, 32)
    with pytest.raises(ArgumentError, match=r"layer is 'fc9'; one of conv1, .*fc6 was expected"):
        run.activations(x, "fc9")


def test_the_last_hidden_linear_layer(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    assert run.last_hidden == "fc5"
    layers = tuple(layer for layer in run.net.spec.layers if layer.name not in ("fc5", "drop5"))
    run.net.spec = dataclasses.replace(
        run.net.spec, layers=layers, recipe=dataclasses.replace(run.net.spec.recipe, rates={})
    )
    assert run.last_hidden == "pool4"


def test_best_last_and_a_step(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        written(tmp_path / "run", seed=step, step=step, best_step=min(step, 2))
    steps = {
        which: load(tmp_path / "run", which).meta.step
        for which in ("best", "last", "step-1", "step-00000003")
    }
    assert steps == {"best": 2, "last": 3, "step-1": 1, "step-00000003": 3}
    one, three = (load(tmp_path / "run", which) for which in ("step-1", "last"))
    assert not np.array_equal(one.logits(pictures(1)), three.logits(pictures(1)))
    with pytest.raises(CheckpointError, match=r"step-00000009.*step-00000001, step-00000002"):
        load(tmp_path / "run", "step-9")
    with pytest.raises(ArgumentError, match="which is 'worst'; best, last or step-N"):
        load(tmp_path / "run", "worst")


def test_before_the_first_epoch_ends_the_last_is_best(tmp_path: Path) -> None:
    assert load(written(tmp_path / "run", step=4)).meta.step == 4


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    for step in (1, 2):
        run = written(tmp_path / "run", step=step)
    (run / "checkpoints" / "step-00000002" / "mean.safetensors").write_bytes(b"")
    said: list[str] = []
    found = Trained.load(run, backend="cpu", which="last", say=said.append)
    assert found.meta.step == 1 and "step-00000002" in said[0]


def test_a_run_a_checkpoint_and_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "latest").symlink_to("one")
    folder = run / "checkpoints" / "step-00000001"
    by_run, by_checkpoint = load(run), load(folder)
    assert by_run.path == by_checkpoint.path == folder
    assert by_run.run == by_checkpoint.run == run and by_run.name == "one"
    monkeypatch.chdir(tmp_path)
    assert load(Path("latest")).run == run
    loose = folder.rename(tmp_path / "step-00000001")
    assert load(loose).run is None and load(loose).name == "step-00000001"


@pytest.mark.parametrize("name", ["latest", "nowhere", "."])
def test_what_is_no_run_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = r"neither a run folder nor a checkpoint; a folder with"
    if name == "latest":
        expected = r"^runs/latest is no run folder; the folder in which train begins runs"
    with pytest.raises(RunError, match=expected):
        load(Path(name))


def altered(run: Path, **changes: object) -> Path:
    """The run's checkpoint with another `Meta` or mean."""
    saved = checkpoint.load(run / "checkpoints" / "step-00000001")
    mean = changes.pop("mean", saved.mean)
    meta = dataclasses.replace(saved.meta, **changes)  # type: ignore[arg-type]
    checkpoint.save(
        run / "checkpoints",
        Checkpoint(saved.params, saved.momentum, mean, meta),  # type: ignore[arg-type]
    )
    return run


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"net": "lenet"}, "'lenet' cannot be built here"),
        ({"net_args": {"depth": 3}}, "cannot be built here .*depth"),
        ({"net_args": {"dropout": 2.0}}, "cannot be built here .*keep"),
        (
            {"classes": 5, "class_names": tuple("abcde")},
            r"cannot be built here \(fc6.w has shape",
        ),
        ({"net_args": {"dropout": "half"}}, "cannot be built here"),
        ({"net_args": {"dropout": 10**400}}, "cannot be built here"),
        ({"net_args": {"\n": None}}, r"cannot be built here \([^\n]*\)\.$"),
        ({"config": {"recipe": {"augment": {"stored": -1}}}}, "its augment is"),
        ({"config": {"recipe": {"augment": {"jitter": 10**400}}}}, "beyond every float"),
        ({"config": {"recipe": {"augment": {"zoom": 2}}}}, "its augment is .*zoom"),
        ({"config": {"recipe": {"augment": {"stored": 21}}}}, r"\(21, 21, 3\) was expected"),
        ({"mean": np.zeros((SIDE, SIDE, 3), np.float32)}, r"\(20, 20, 3\) was expected"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    run = altered(written(tmp_path / "run"), **changes)
    with pytest.raises(CheckpointError, match=sentence):
        load(run)


@pytest.mark.parametrize("recipe", [None, [], "none"])
def test_a_recipe_that_is_none_has_no_augment(tmp_path: Path, recipe: object) -> None:
    """Found by fuzzing: without it the mean has to have the input's size, which it has not."""
    run = altered(written(tmp_path / "run"), config={"recipe": recipe})
    with pytest.raises(CheckpointError, match="its mean image is"):
        load(run)


def test_an_unknown_backend_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="tpu"):
        Trained.load(written(tmp_path / "run"), backend="tpu")


def test_arguments_of_the_net_travel_along(tmp_path: Path) -> None:
    run = altered(written(tmp_path / "run"), net_args={"dropout": 0.5})
    x = pictures(1)
    found = load(run)
    assert np.array_equal(found.activations(x, "drop5"), found.activations(x, "fc5") / 2)


def test_the_runs_own_data(tmp_path: Path) -> None:
    data = npz(tmp_path / "set.npz")
    run = load(written(tmp_path / "run", data=str(data)))
    dataset = run.dataset()
    assert dataset.class_names == networks.CLASS_NAMES and len(dataset.test) == 20
    batches = list(run.batches(dataset.test, 8))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]


def test_batches_are_all_images_in_order(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    split = run.dataset(npz(tmp_path / "set.npz", per_class=25)).test
    done: list[tuple[int, int]] = []
    images, labels = [], []
    for x, own in run.batches(split, 37, lambda *at: done.append(at)):
        time.sleep(0.03)  # the next batch is being read, but not into this one
        images.append(x.copy())
        labels.append(own)
    assert np.array_equal(np.concatenate(images), split.images)
    assert np.array_equal(np.concatenate(labels), split.labels)
    assert done == [(37, 100), (74, 100), (100, 100)]


def test_a_checkpoint_without_data_asks_for_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not say which data"):
        load(written(tmp_path / "run", data=None)).dataset()


def test_another_set_is_brought_to_what_the_network_stores(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    grey = npz(tmp_path / "grey.npz", channels=1, side=2 * STORED)
    split = run.dataset(grey).train
    assert isinstance(split, Fitted) and split.image_shape == (STORED, STORED, 3)
    assert len(split) == len(split.labels) == 20
    out = np.empty((2, STORED, STORED, 3), np.uint8)
    split.read(np.array([7, 3]), out)
    stored = np.load(grey)["images"]
    for image, number in zip(out, (7, 3), strict=True):
        large = Image.fromarray(stored[number, ..., 0])
        small = np.asarray(large.resize((STORED, STORED), Image.Resampling.BICUBIC))
        assert np.array_equal(image, np.repeat(small[..., None], 3, axis=2))


def test_colour_becomes_luminance() -> None:
    image = pictures(1)[0]
    grey = fitted(image, (STORED, STORED, 1))
    weighed = image @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (STORED, STORED, 1)
    assert np.abs(grey[..., 0] - weighed).max() <= 0.5 + 255 * 2**-15


def test_of_an_oblong_image_the_centre_counts() -> None:
    image = np.zeros((10, 30, 1), np.uint8)
    image[:, 10:20] = 200
    assert np.array_equal(fitted(image, (10, 10, 1)), np.full((10, 10, 1), 200))


def test_other_channels_are_refused() -> None:
    with pytest.raises(DataError, match="2 channels; 3 were expected"):
        fitted(np.zeros((4, 4, 2), np.uint8), (4, 4, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_files(tmp_path: Path, channels: int) -> None:
    run = load(written(tmp_path / "run", channels=channels))
    x = pictures(3, channels=channels)
    paths = files(tmp_path / "images", x)
    images, read = run.images(paths)
    assert np.array_equal(images, x) and read == tuple(paths)


def test_an_unreadable_image_is_refused_or_skipped(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run"))
    x = pictures(3)
    paths = files(tmp_path / "images", x)
    paths[1].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"001.png"):
        run.images(paths)
    bad: list[str] = []
    images, read = run.images(paths, bad.append)
    assert np.array_equal(images, x[[0, 2]]) and read == (paths[0], paths[2])
    assert bad[0].startswith(f"{paths[1]}: ") and len(bad) == 1
    paths[0].unlink()
    paths[2].unlink()
    batches = run.image_batches(paths, 2, bad=lambda *_: None)
    assert list(batches) == []
    assert run.images(paths, lambda *_: None)[0].shape == (0, STORED, STORED, 3)


def test_a_trained_run_scores_as_in_its_log(tmp_path: Path) -> None:
    trainer = began(tmp_path, photographs(tmp_path / "q.npz", side=28), epochs=1)
    outcome = train(trainer)
    assert outcome.test is not None
    run = load(trainer.folder.path)
    assert run.run == trainer.folder.path
    judged = scoring.judge([run], [run.dataset().test])
    assert judged.alone[0].loss == pytest.approx(outcome.test.loss, rel=1e-5)
    assert judged.alone[0].top1_error == pytest.approx(outcome.test.top1_error, abs=1e-6)
