"""`pyalexnet evaluate`: networks alone and together on a data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from networks import CLASS_NAMES, STORED, invoked, npz, written
from pyalexnet.commands.evaluate import evaluate
from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.runs import checkpoint
from pyalexnet.trained import ensemble, scoring
from pyalexnet.trained.load import Trained


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three runs with different predictions, trained on the same set."""
    data = str(npz(tmp_path / "set.npz"))
    return [written(tmp_path / f"run{seed}", seed=seed, data=data) for seed in range(3)]


def opinions(runs: list[Path], *, ten_crop: bool = False) -> list[np.ndarray]:
    loaded = [Trained.load(run, backend="cpu") for run in runs]
    return [run.probabilities(run.dataset().test.images, ten_crop=ten_crop) for run in loaded]


def labels() -> np.ndarray:
    return np.arange(20) % len(CLASS_NAMES)


@pytest.mark.parametrize("ten_crop", [False, True])
def test_scores_alone_and_together(runs: list[Path], ten_crop: bool) -> None:
    members = opinions(runs, ten_crop=ten_crop)
    options = ["--ten-crop"] if ten_crop else []
    said = invoked(evaluate, *runs, *options, "--json", "--batch-size=7", "--backend=cpu")
    found = json.loads(said.stdout)
    assert (found["images"], found["split"], found["searched"]) == (20, "test", None)
    everybody = [*members, (members[0] + members[1] + members[2]) / 3]
    for entry, probabilities in zip([*found["runs"], found["average"]], everybody, strict=True):
        expected = ensemble.scores(probabilities, labels())
        # Batches of a different size may round a logit differently: 8 roundings of float32.
        assert entry["loss"] == pytest.approx(expected.loss, abs=1e-4)
        assert entry["top1_error"] == pytest.approx(expected.top1_error, abs=1e-12)
        assert entry["top5_error"] == expected.top5_error == 0
    assert len({round(entry["loss"], 6) for entry in found["runs"]}) == 3


def test_a_batch_changes_no_score(runs: list[Path]) -> None:
    run = Trained.load(runs[0], backend="cpu")
    split = run.dataset().test
    whole, parts = (scoring.judge([run], [split], batch_size=size).alone[0] for size in (20, 3))
    assert parts.top1_error == pytest.approx(whole.top1_error, abs=1e-12)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_predictions_can_be_written(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "predictions.safetensors"
    invoked(evaluate, *runs[:2], "--output", out, "--backend=cpu")
    found = safetensors.numpy.load_file(out)
    members = opinions(runs[:2])
    assert np.array_equal(found["labels"], labels())
    assert found["probabilities"].dtype == np.float32
    assert found["probabilities"] == pytest.approx((members[0] + members[1]) / 2, rel=1e-4)
    invoked(evaluate, runs[0], "--output", out, "--split=train", "--backend=cpu")
    run = Trained.load(runs[0], backend="cpu")
    expected = run.probabilities(run.dataset().train.images)
    assert safetensors.numpy.load_file(out)["probabilities"] == pytest.approx(expected, rel=1e-4)


def test_fitted_coefficients_say_what_they_are(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "predictions.safetensors"
    said = invoked(evaluate, *runs, "--search-weights", "--backend=cpu", "--json", "--output", out)
    found = json.loads(said.stdout)
    members = opinions(runs)
    expected = ensemble.search(members, labels())
    assert found["searched"]["coefficients"] == list(expected.coefficients)
    assert found["searched"]["top1_error"] <= found["average"]["top1_error"]
    weighted = ensemble.average(members, expected.coefficients)
    written_ = safetensors.numpy.load_file(out)["probabilities"]
    assert written_ == pytest.approx(weighted, rel=1e-4)
    said = invoked(evaluate, *runs, "--search-weights", "--backend=cpu")
    assert "The weights were fitted on these same images; expect worse on others." in said.stdout
    told = "relative weights, in the order of the runs: "
    assert f"{told}{expected.coefficients[0]:.2f}" in said.stdout


def test_one_run_as_people_read_it(runs: list[Path]) -> None:
    said = invoked(evaluate, runs[0], "--backend=cpu").stdout
    expected = ensemble.scores(opinions(runs[:1])[0], labels())
    assert "run0/step-00000001" in said and "the centre of each image" in said
    assert f"{100 * expected.top1_error:.2f} %" in said and f"{expected.loss:.4f}" in said
    assert "average" not in said


def test_val_is_another_word_for_test(runs: list[Path]) -> None:
    said = [invoked(evaluate, runs[0], f"--split={part}").stdout for part in ("val", "test")]
    assert said[0] == said[1] and "test images: 20" in said[0]


def test_runs_of_one_name_are_told_apart_by_their_paths(runs: list[Path], tmp_path: Path) -> None:
    data = str(tmp_path / "set.npz")
    twins = [written(tmp_path / where / "run", seed=7, data=data) for where in ("a", "b")]
    said = invoked(evaluate, *twins, runs[0]).stdout
    for twin in twins:
        assert str(twin / "checkpoints" / "step-00000001") in said
    assert "\nrun0/step-00000001 " in said


def test_numbers_are_no_classes_of_other_names_unless_it_is_said(
    runs: list[Path], tmp_path: Path
) -> None:
    """As after an import without names."""
    data, numbers = tmp_path / "set.npz", ("0", "1", "2", "3")
    run = written(tmp_path / "imported", data=None, class_names=numbers)
    out = tmp_path / "predictions.safetensors"
    with pytest.raises(
        DataError, match=r"not those of imported: 'ant' is .*; --classes-in-order takes them"
    ):
        invoked(evaluate, run, "--data", data)
    in_order = ("--data", data, "--classes-in-order")
    said = invoked(evaluate, run, *in_order, "--output", out).stdout
    assert "classes   the dataset's are matched to the networks' by position" in said
    with safetensors.safe_open(out, "np") as file:
        assert json.loads(file.metadata()["class_names"]) == list(CLASS_NAMES)
        assert json.loads(file.metadata()["class_ids"]) == list(CLASS_NAMES)
    with pytest.raises(DataError, match="imported and run0 have different classes"):
        invoked(evaluate, runs[0], run, "--data", data)
    invoked(evaluate, runs[0], run, *in_order)
    fewer = written(tmp_path / "fewer", data=None, class_names=numbers[:3])
    with pytest.raises(DataError, match=r"not those of fewer: there are 4 and 3\.$"):
        invoked(evaluate, fewer, *in_order)


def test_classes_in_another_order_are_the_same_classes(runs: list[Path], tmp_path: Path) -> None:
    """The network's outputs in another order, and its classes with them: the same scores."""
    data, other = tmp_path / "set.npz", (2, 0, 3, 1)
    net = checkpoint.load(checkpoint.newest(runs[0]))
    for name in ("fc6.w", "fc6.b"):
        net.params[name][:] = net.params[name][list(other)]
    names = tuple(CLASS_NAMES[number] for number in other)
    turned = tmp_path / "turned"
    meta = dataclasses.replace(net.meta, class_names=names)
    checkpoint.save(turned / "checkpoints", dataclasses.replace(net, meta=meta))
    (turned / "config.toml").write_text("")
    asked = ("--data", data, "--json", "--backend=cpu")
    (found,), (expected,) = (
        json.loads(invoked(evaluate, run, *asked).stdout)["runs"] for run in (turned, runs[0])
    )
    assert found["top1_error"] == expected["top1_error"] < 0.9
    # Another row of a matrix may be summed in another order: this moves a logit by 8 roundings of
    # the terms' total size, and a loss by at most twice that.
    loaded = Trained.load(runs[0], backend="cpu")
    hidden = np.abs(loaded.activations(loaded.dataset().test.images, "drop5"))
    magnitude = (hidden @ np.abs(net.params["fc6.w"]).T).max()
    assert found["loss"] == pytest.approx(expected["loss"], abs=float(2 * 8 * 2**-24 * magnitude))
    with pytest.raises(DataError, match="turned and run0 number the same classes in another order"):
        invoked(evaluate, runs[0], turned, "--data", data)


def test_the_checkpoint_that_was_asked_for(runs: list[Path], tmp_path: Path) -> None:
    data = str(tmp_path / "set.npz")
    written(runs[0], seed=5, step=2, data=data, best_step=1)
    for which, step in (("best", 1), ("last", 2), ("step-2", 2)):
        said = invoked(evaluate, runs[0], "--which", which, "--json", "--backend=cpu")
        ((entry),) = json.loads(said.stdout)["runs"]
        assert entry["checkpoint"].endswith(f"step-0000000{step}")


def test_networks_of_different_input_share_images_not_sizes(tmp_path: Path) -> None:
    data = str(npz(tmp_path / "set.npz"))
    large = written(tmp_path / "large", data=data)
    small = written(tmp_path / "small", data=data, augment=None)
    loaded = [Trained.load(run, backend="cpu") for run in (large, small)]
    first, second = scoring.same_images(loaded, None)
    assert first.test.image_shape == (STORED, STORED, 3) != second.test.image_shape
    assert np.array_equal(first.test.labels, second.test.labels)
    found = json.loads(invoked(evaluate, large, small, "--json", "--backend=cpu").stdout)
    assert len(found["runs"]) == 2


def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path) -> None:
    other = written(tmp_path / "other", class_names=("ant", "bee", "cow", "dog"))
    with pytest.raises(DataError, match="'cow' is a class of the one, 'cat' of the other"):
        invoked(evaluate, runs[0], other)
    fewer = written(tmp_path / "fewer", class_names=("ant", "bee", "cat"))
    with pytest.raises(DataError, match="there are 3 and 4"):
        invoked(evaluate, runs[0], fewer)
    with pytest.raises(DataError, match=r"its classes are not those of other: 'cat' is a class"):
        invoked(evaluate, other, "--data", tmp_path / "set.npz")
    elsewhere = written(tmp_path / "elsewhere", data="")
    with pytest.raises(DataError, match="trained on different data; --data was expected"):
        invoked(evaluate, runs[0], elsewhere)
    both = invoked(evaluate, runs[0], elsewhere, "--data", tmp_path / "set.npz", "--json")
    assert json.loads(both.stdout)["average"]


def test_options_that_make_no_sense_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--search-weights was given with 1 run"):
        invoked(evaluate, runs[0], "--search-weights")
    with pytest.raises(ArgumentError, match="--split is 'dev'; test or train"):
        invoked(evaluate, runs[0], "--split=dev")
    with pytest.raises(RunError, match="neither a run folder nor"):
        invoked(evaluate, tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        invoked(evaluate, runs[0], "--output", tmp_path / "file" / "p.safetensors")
