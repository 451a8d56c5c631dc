"""`pyalexnet show`: what it draws for a run, where it puts it, and how it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pyalexnet import data, nets
from pyalexnet.commands.show import distinct, show_app
from pyalexnet.data import views
from pyalexnet.errors import ArgumentError, DataError, PyalexnetError, RunError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.runs.run import History
from pyalexnet.step.net import Net
from pyalexnet.trained import gather
from pyalexnet.trained.load import Trained
from training import began, fitted, photographs

COMMANDS = ("curves", "filters", "predictions", "similar", "batch", "maps")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on greyscale images."""
    folder = tmp_path_factory.mktemp("grey")
    trainer = began(folder / "runs", photographs(folder / "quarters.npz"), epochs=2)
    fitted(trainer)
    return trainer.folder.path


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network that crops colour images of 32 pixels to 24."""
    folder = tmp_path_factory.mktemp("colour")
    path = photographs(folder / "quarters.npz", side=32, channels=3)
    dataset = data.load(path)
    spec = nets.get("cifar-80sec")(classes=4, input_shape=(24, 24, 3))
    params = {name: np.asarray(value) for name, value in Net(spec, "cpu", seed=1).params.items()}
    augment = {"stored": 32, "chunk": 2, "jitter": 0.5, "jitter_shrinks": True, "jitter_until": 2}
    meta = Meta(
        net="cifar-80sec",
        classes=4,
        class_names=dataset.class_names,
        input_shape=(24, 24, 3),
        step=7,
        epoch=1,
        config={"data": str(path), "seed": 5, "recipe": {"batch_size": 8, "augment": augment}},
    )
    state = Checkpoint(params, params, dataset.train.mean(), meta)
    return checkpoint.save(folder / "checkpoints", state)


def show(*arguments: str | Path) -> list[Path]:
    """Run the command; return the paths that it prints."""
    done = CliRunner().invoke(show_app, [str(each) for each in arguments])
    if done.exception:
        raise done.exception
    return [Path(line) for line in done.stdout.splitlines() if line.endswith(".png")]


def is_picture(path: Path) -> bool:
    with Image.open(path, formats=("PNG",)) as image:
        return image.width > 1000 and np.asarray(image).std() > 5


# Where pictures go


@pytest.mark.every(9)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_picture_lands_in_the_run_folder(command: str, run: Path) -> None:
    (run / f"{command}.png").unlink(missing_ok=True)
    assert show(command, run) == [run / f"{command}.png"]
    assert is_picture(run / f"{command}.png")


@pytest.mark.every(9)
@pytest.mark.parametrize("command", COMMANDS[1:])
def test_of_a_checkpoint_it_lands_here(
    command: str, cropped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert show(command, cropped) == [Path(f"{command}.png")]
    assert is_picture(tmp_path / f"{command}.png")


def test_of_a_folder_that_cannot_be_written_it_lands_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    assert show("curves", run) == [Path("curves.png")]
    assert is_picture(tmp_path / "curves.png")


def test_the_newest_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    assert show("curves", "latest") == show("filters", "latest", "--output", run / "curves.png")


def test_out_is_a_file_or_a_folder(run: Path, cropped: Path, tmp_path: Path) -> None:
    assert show("filters", run, "--output", tmp_path / "mine.png") == [tmp_path / "mine.png"]
    assert show("filters", run, "--output", tmp_path) == [tmp_path / "filters.png"]
    new = tmp_path / "new" / "folder"
    written = show("filters", run, cropped, "--output", new)
    assert written == [new / f"{run.name}-filters.png", new / f"{cropped.name}-filters.png"]
    assert all(is_picture(path) for path in written)


def test_out_that_is_neither(run: Path, cropped: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"--output is .*a.png for 2 runs; a folder was expected"
    ):
        show("filters", run, cropped, "--output", tmp_path / "a.png")
    with pytest.raises(
        ArgumentError, match=r"--output is .*a.jpg; a file called \*.png or a folder"
    ):
        show("filters", run, "--output", tmp_path / "a.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be written "):
        show("filters", run, "--output", tmp_path / "file" / "a.png")


def test_a_full_disk_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(RunError, match=r"a.png cannot be written: No space left on device\."):
        show("curves", run, "--output", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_without_matplotlib(command: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is reported before anything is read or computed."""
    monkeypatch.delattr(Trained, "dataset")
    monkeypatch.delattr(gather, "convolution")
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PyalexnetError, match=r"pictures need matplotlib .* pip install matplotlib"):
        show(command, run)


# Curves


def test_curves_of_several_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / f"{run.name}-2"
    other.mkdir(parents=True)
    for name in ("config.toml", "log.jsonl"):
        (other / name).write_bytes((run / name).read_bytes())
    assert show("curves", run, other) == [Path("curves.png")]
    assert is_picture(tmp_path / "curves.png")


def test_a_run_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(RunError, match=r"log.jsonl is missing"):
        show("curves", tmp_path)


def test_a_run_that_has_not_begun(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "log.jsonl").write_text('{"kind": "start", "step": 0}\n')
    for runs in ([tmp_path], [run, tmp_path]):
        with pytest.raises(RunError, match=r"log.jsonl has no record of training yet"):
            show("curves", *runs)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["2026-01-02-alexnet-a", "2026-01-02-alexnet-b"], ["a", "b"]),
        (["2026-01-02-a", "2026-01-02-a-2"], ["a", "a-2"]),
        (["2026-01-02-a", "2026-01-03-a"], ["02-a", "03-a"]),
        (["run", "run"], ["run (1)", "run (2)"]),
        (["a", "b-c"], ["a", "b-c"]),
    ],
)
def test_names_of_runs_are_what_tells_them_apart(names: list[str], expected: list[str]) -> None:
    assert distinct(names) == expected


def test_falls_of_the_rate_are_read_off_the_log(tmp_path: Path) -> None:
    def step(number: int, lr: float) -> str:
        scores = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.1}
        where = {"step": number, "progress": number / 10}
        return json.dumps({"kind": "step", "lr": lr, "train": scores} | where)

    lines = [
        json.dumps({"kind": "start", "step": 0}),
        step(1, 0.001),
        step(2, 0.01),  # a rise
        step(3, 0.008),  # a gentle fall
        step(4, 0.0008),
        step(5, 0.0001),  # overtaken, like the next
        step(9, 0.00001),
        json.dumps({"kind": "resume", "step": 4}),
        "torn",
        step(5, 0.0008),
        step(6, 0.0004),
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    history = History.read(tmp_path / "log.jsonl")
    assert history.rate_drops() == [(0.3, 0.0008), (0.5, 0.0004)]


# Filters and maps


def test_filters_of_a_layer(run: Path, tmp_path: Path) -> None:
    options = ("--layer", "conv2", "--no-normalize", "--gray", "--output", tmp_path)
    assert is_picture(show("filters", run, *options)[0])
    (run / "filters.png").write_bytes(b"of conv1")
    assert show("filters", run, "--layer", "conv2") == [run / "filters-conv2.png"]
    assert (run / "filters.png").read_bytes() == b"of conv1"
    assert is_picture(run / "filters-conv2.png")
    with pytest.raises(ArgumentError, match=r"layer is 'fc5'; a convolution of .*conv1, conv2"):
        show("filters", run, "--layer", "fc5")


@pytest.mark.parametrize(
    ("net", "expected"), [("alexnet", 2), ("alexnet-tiny", 2), ("cifar-80sec", 1)]
)
def test_towers_are_what_the_second_convolution_has(net: str, expected: int) -> None:
    assert nets.get(net)().towers == expected


def test_maps_are_those_of_the_layers(run: Path) -> None:
    trained = Trained.load(run, backend="cpu")
    image = trained.dataset().test.take(np.array([3]))
    found = gather.maps_of(trained, image, ["conv2", "conv1"])
    assert list(found) == ["conv1", "conv2"]
    for name, values in found.items():
        assert np.array_equal(values, trained.activations(image, name)[0])
    with pytest.raises(ArgumentError, match="layer is 'fc5', whose output has no maps"):
        gather.maps_of(trained, image, ["fc5"])
    with pytest.raises(ArgumentError, match="layer is 'conv9'; one of conv1"):
        gather.maps_of(trained, image, ["conv9"])


def test_maps_of_an_image_file(cropped: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 40, 3), 90, np.uint8)).save(tmp_path / "photo.jpg")
    options = ("--layer", "pool1", "--no-normalize", "--output", tmp_path / "maps.png")
    assert is_picture(show("maps", cropped, "--image", tmp_path / "photo.jpg", *options)[0])
    with pytest.raises(ArgumentError, match="--number is 20; 0 to 19 was expected"):
        show("maps", cropped, "--number", "20", "--output", tmp_path)


# Predictions and neighbours


def test_errors_are_errors_and_the_seed_draws(run: Path) -> None:
    trained = Trained.load(run, backend="cpu", which="step-00000006")
    split = trained.dataset().test
    images, labels, chances = gather.predicted(trained, split, 8, 0, only_errors=False)
    chosen = gather.drawn(split, 8, 0)
    assert np.array_equal(images, split.take(chosen))
    assert np.array_equal(labels, split.labels[chosen])
    assert np.array_equal(chances, trained.probabilities(images))
    assert not np.array_equal(chosen, gather.drawn(split, 8, 1))
    everything = split.take(np.arange(len(split)))
    wrong = (trained.probabilities(everything).argmax(axis=1) != split.labels).sum()
    images, labels, chances = gather.predicted(trained, split, 99, 0, only_errors=True)
    assert len(images) == len(labels) == len(chances) == wrong > 0
    assert (chances.argmax(axis=1) != labels).all()


def test_no_errors_to_show(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained.load(run, backend="cpu")
    split = trained.dataset().test
    order = gather.drawn(split, len(split), 0)
    right = np.eye(trained.meta.classes)[split.labels[order]]
    monkeypatch.setattr(Trained, "probabilities", lambda *_: right)
    with pytest.raises(DataError, match="all 20 test images are classified correctly"):
        gather.predicted(trained, split, 8, 0, only_errors=True)


def test_an_image_is_its_own_nearest(cropped: Path) -> None:
    trained = Trained.load(cropped, backend="cpu")
    split = trained.dataset().train
    indices = np.array([31, 4])
    found, distances = gather.nearest(trained, split, split.take(indices), "fc64", 3)
    assert found.shape == distances.shape == (2, 3)
    assert np.array_equal(found[:, 0], indices)
    # Not 0: with a different batch size, a product adds in another order.
    assert (distances[:, 0] < 1e-5 * distances[:, 1]).all()
    assert (np.diff(distances, axis=1) >= 0).all()


def test_data_of_other_classes(run: Path, cropped: Path, tmp_path: Path) -> None:
    path = photographs(tmp_path / "other.npz")
    with np.load(path) as arrays:
        names = np.array(["a", "b", "c", "d"])
        np.savez(tmp_path / "named.npz", **arrays, class_names=names)
        labels = {name: arrays[name] % 3 for name in ("labels", "test_labels")}
        np.savez(tmp_path / "fewer.npz", **{**arrays, **labels}, class_names=names[:3])
    # The run's own classes have no names but numbers.
    for command in ("predictions", "similar", "batch", "maps"):
        with pytest.raises(DataError, match=r"'a' is a class of the one, '0' of the other; --cla"):
            show(command, run, "--data", tmp_path / "named.npz", "--output", tmp_path)
    in_order = ("--classes-in-order", "--output", tmp_path)
    show("predictions", run, "--data", tmp_path / "named.npz", *in_order)
    with pytest.raises(DataError, match="there are 3 and 4"):
        show("predictions", run, "--data", tmp_path / "fewer.npz", *in_order)
    named = began(tmp_path / "runs", tmp_path / "named.npz", epochs=1)
    fitted(named)
    with pytest.raises(DataError, match="'0' is a class of the one, 'a' of the other"):
        show("predictions", named.folder.path, "--data", path)


# Batch


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_what_is_seen_is_the_crop_in_other_colours(cropped: Path, epoch: int) -> None:
    trained = Trained.load(cropped, backend="cpu")
    dataset = trained.dataset()
    indices, positions = gather.of_first_batch(trained, dataset, epoch, 5)
    assert positions.tolist() == [0, 1, 3, 4, 6]
    assert np.array_equal(indices, data.order(len(dataset.train), 5, epoch)[positions])
    how = gather.training_views(trained, dataset, epoch, indices, positions)
    assert how.shifts.any() == (epoch < 2)
    assert trained.augment is not None
    expected = views.training(
        trained.augment,
        dataset.colour(),
        seed=5,
        epoch=epoch,
        images=indices,
        positions=positions,
        stored=(32, 32),
        size=(24, 24),
        channels=3,
        progress=float(epoch),
    )
    assert np.array_equal(how.shifts, expected.shifts)
    assert np.array_equal(how.corners, expected.corners)
    stored = dataset.train.take(indices)
    seen = gather.seen(trained, stored, how)
    views_of = zip(how.corners, how.flips, how.shifts, strict=True)
    for image, pixels, ((top, left), flip, shift) in zip(stored, seen, views_of, strict=True):
        crop = image[top : top + 24, left : left + 24]
        crop = (crop[:, ::-1] if flip else crop) + shift.astype(float)
        # Each of two images is rounded three times, at numbers below 512 and scaled up by 1.5.
        assert np.abs(pixels - crop).max() <= 1.5 * 2 * 3 * 512 * 2**-24


def test_a_network_without_crops_sees_its_images(run: Path) -> None:
    trained = Trained.load(run, backend="cpu")
    dataset = trained.dataset()
    indices, positions = gather.of_first_batch(trained, dataset, 0, 99)
    assert len(indices) == 8  # the batch
    how = gather.training_views(trained, dataset, 0, indices, positions)
    stored = dataset.train.take(indices)
    assert np.abs(gather.seen(trained, stored, how) - stored).max() <= 4 * 512 * 2**-24
    assert not how.corners.any() and not how.flips.any() and not how.shifts.any()
