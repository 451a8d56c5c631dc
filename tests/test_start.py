"""From choices to a run: networks and their options, schedules, views, towers, fine-tuning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet.errors import ArgumentError, RunError, TrainingError
from pyalexnet.nets.layers import LRN, Dropout
from pyalexnet.nets.schedule import Dexp, Plateau
from pyalexnet.runs.config import Config
from pyalexnet.trained.load import Trained
from pyalexnet.training import start
from pyalexnet.training.summary import opening
from training import (
    Lines,
    assert_same,
    began,
    fitted,
    last,
    lines,
    photographs,
    resumed,
    without_pictures,
)

# Eight filters in conv1: the time in these tests goes into the network's height and width.
NARROW: dict[str, Any] = {"width": 1 / 16}


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("small") / "quarters.npz")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that alexnet uses uncropped: they are smaller than its 224 pixels."""
    return photographs(tmp_path_factory.mktemp("whole") / "coloured.npz", side=67, channels=3)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images that alexnet crops."""
    path = tmp_path_factory.mktemp("large") / "large.npz"
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (12, 232, 232, 3), dtype=np.uint8)
    labels = np.arange(12) % 4
    np.savez(path, images=images, labels=labels, test_images=images[:4], test_labels=labels[:4])
    return path


def alexnet(out: Path, data: Path, **choices: Any) -> Any:
    """An AlexNet at the start of training on a few images."""
    return began(out, data, **{"net": "alexnet", **NARROW, **choices})


# The network


def test_options_make_the_network_and_land_in_the_configuration(
    coloured: Path, tmp_path: Path
) -> None:
    args = {"preset": "paper", "activation": "tanh", "without": ["conv4"], "lrn": ["norm1"]}
    trainer = alexnet(tmp_path, coloured, **args)
    trainer.folder.close()
    names = [layer.name for layer in trainer.net.spec.layers]
    assert "norm1" in names
    assert not {"norm2", "conv4"} & set(names)
    assert trainer.config.net_args == NARROW | args
    again = Config.load(trainer.folder.path / "config.toml")
    assert again == trainer.config
    repeated = start.new(
        {}, out=tmp_path, config=trainer.folder.path / "config.toml", reporter=Lines()
    )
    repeated.folder.close()
    assert repeated.net.spec.layers == trainer.net.spec.layers


def test_the_preset_and_each_override_are_said(coloured: Path, tmp_path: Path) -> None:
    reporter = Lines()
    trainer = alexnet(tmp_path, coloured, reporter=reporter, preset="caffe", momentum=0.8)
    with trainer.folder:
        for line in opening(trainer):
            reporter.say(line)
    (preset,) = (line for line in reporter.said if line.startswith("preset"))
    (changed,) = (line for line in reporter.said if line.startswith("changed"))
    assert preset.split() == ["preset", "caffe"]
    assert "width 0.0625" in changed
    assert "momentum 0.9 -> 0.8" in changed
    assert "batch_size 256 -> 8" in changed
    assert "rate" not in changed  # they follow lr, which is the preset's


def test_a_network_without_the_option_refuses_it(quarters: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="alexnet-tiny has no option width; alexnet, which has"):
        began(tmp_path, quarters, width=0.5)
    assert list(tmp_path.glob("20*")) == []


def test_a_run_cannot_change_its_network_but_its_dropout(coloured: Path, tmp_path: Path) -> None:
    trainer = alexnet(tmp_path, coloured, epochs=2)
    fitted(trainer, 1)
    run = trainer.folder.path
    with pytest.raises(ArgumentError, match=r"preset is 'paper'; .* trains a network of None"):
        resumed(run, preset="paper")
    again = resumed(run, dropout=0.3)
    again.folder.close()
    keeps = [layer.keep for layer in again.net.spec.layers if isinstance(layer, Dropout)]
    assert keeps == [0.7, 0.7]


# Where it computes


def test_exact_is_kept_and_can_be_changed(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, exact=True)
    backend: Any = trainer.net.backend
    assert backend.exact
    fitted(trainer, 1)
    run = trainer.folder.path
    assert Config.load(run / "config.toml").exact
    for exact, changes in ((None, {}), (False, {"exact": [True, False]})):
        again = resumed(run, exact=exact)
        again.folder.close()
        backend = again.net.backend
        assert backend.exact is (exact is None)
        assert lines(run, "resume")[-1]["changes"] == changes


@pytest.mark.parametrize(
    "choices", [{"precision": "bf16"}, {"fused": True}, {"devices": (0, 1)}], ids=str
)
def test_every_kind_of_network_is_exact(
    choices: dict[str, Any], coloured: Path, tmp_path: Path
) -> None:
    trainer = alexnet(tmp_path, coloured, exact=True, **choices)
    trainer.folder.close()
    found: list[Any] = [part.backend for part in trainer.net.parts]
    assert [(one.device, one.exact) for one in found] == [(0, True), (1, True)][: len(found)]
    assert len(found) == (2 if "devices" in choices else 1)


def test_the_configuration_of_a_run_on_numpy_is_repeated_on_cpu(
    quarters: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, quarters)
    trainer.folder.close()
    config = trainer.folder.path / "config.toml"
    config.write_text(config.read_text().replace('backend = "cpu"', 'backend = "numpy"'))
    repeated = start.new({}, out=tmp_path, config=config, reporter=Lines())
    repeated.folder.close()
    assert Config.load(config).backend == "numpy"
    assert (repeated.config.backend, repeated.net.backend.name) == ("cpu", "cpu")


# Two towers


@pytest.mark.parametrize("backend", ["cpu", "sim"])
def test_two_towers_train_and_stop_and_go_on(backend: str, coloured: Path, tmp_path: Path) -> None:
    """The loss of every step matches the network on one device, within the tests' tolerance."""
    runs = {}
    for name, devices in (("one", ()), ("two", (0, 0)), ("stopped", (0, 0))):
        args = {"towers_norm": True} if name == "one" else {}
        trainer = alexnet(
            tmp_path / name,
            coloured,
            backend=backend,
            devices=devices,
            epochs=1,
            batch_size=4,
            print_freq=1,
            preset="paper",
            **args,
            lr=0.001,
        )
        assert (len(trainer.net.parts) == 2) == (name != "one")
        fitted(trainer, 1 if name == "stopped" else 3)
        runs[name] = trainer.folder.path
    fitted(resumed(runs["stopped"]), 3)
    assert_same(runs["two"], runs["stopped"])
    one, two = (
        [line["train"]["loss"] for line in lines(runs[name], "step")] for name in ("one", "two")
    )
    assert one == pytest.approx(two, rel=1e-5)
    reported = [line["exchanged"] for line in lines(runs["two"], "step")]
    assert len(set(reported)) == 1
    assert reported[0] > 0
    assert {line["exchanged"] for line in lines(runs["one"], "step")} == {0}


def test_a_run_of_two_towers_is_used_like_any_other(coloured: Path, tmp_path: Path) -> None:
    trainer = alexnet(tmp_path, coloured, devices=(0, 0), preset="paper")
    fitted(trainer, 1)
    trained = Trained.load(trainer.folder.path, backend="cpu")
    assert [layer.groups for layer in trained.net.spec.layers if isinstance(layer, LRN)] == [2, 2]
    assert set(trained.net.params) == set(trainer.net.params)


def test_two_towers_can_go_on_as_one(coloured: Path, tmp_path: Path) -> None:
    trainer = alexnet(tmp_path, coloured, devices=(0, 0))
    fitted(trainer, 1)
    again = resumed(trainer.folder.path, devices=())
    again.folder.close()
    assert len(again.net.parts) == 1
    for name, value in trainer.net.params.items():
        assert np.array_equal(again.net.params[name], value)


def test_towers_need_a_network_that_has_them(
    quarters: Path, coloured: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="towers is 2 and net alexnet-tiny, which cannot be"):
        began(tmp_path, quarters, devices=(0, 0))
    with pytest.raises(ArgumentError, match="towers is 2 and one_tower was chosen too"):
        alexnet(tmp_path, coloured, devices=(0, 0), one_tower=True)
    assert list(tmp_path.glob("20*")) == []


# Learning


def test_what_is_refused_on_resuming_changes_nothing(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters)
    fitted(trainer, 8)
    run = trainer.folder.path
    before = {name: (run / name).read_bytes() for name in ("config.toml", "log.jsonl", "env.json")}
    changes = {"seed": 9, "keep": 1, "lr": 5.0}
    for choices, steps in ((changes, 8), ({"layer_lr": ("x=1",)}, None)):
        with pytest.raises(ArgumentError):
            start.resumed(run, choices, reporter=Lines(), steps=steps)
        after = {name: (run / name).read_bytes() for name in before}
        assert after == before


@pytest.mark.parametrize("epochs", [0.5, 1.5])
def test_a_run_that_ends_within_an_epoch_goes_on_with_the_rest_of_it(
    epochs: float, quarters: Path, tmp_path: Path
) -> None:
    """Whole epochs as in a single run, although its schedule differs: it is constant here."""
    const: dict[str, Any] = {"schedule": "const"}
    straight = began(tmp_path / "straight", quarters, epochs=2, **const)
    fitted(straight)
    parts = began(tmp_path / "parts", quarters, epochs=epochs, **const)
    assert fitted(parts).finished
    assert parts.at.step == 6 * epochs
    with pytest.raises(RunError, match=f"all of its {epochs:g} epochs are done; for more give "):
        resumed(parts.folder.path)
    again = resumed(parts.folder.path, epochs=2)
    assert fitted(again).finished
    assert again.at.step == 12
    for name, value in last(straight.folder.path).params.items():
        assert last(again.folder.path).params[name].tobytes() == value.tobytes(), name


def test_a_layer_rate_of_0_freezes_it(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=1, layer_lr=("conv2=0",))
    before = {name: value.copy() for name, value in trainer.net.params.items()}
    fitted(trainer)
    for name, value in trainer.net.params.items():
        assert np.array_equal(value, before[name]) == name.startswith("conv2."), name
    with pytest.raises(ArgumentError, match="layer-lr is 'conv9=0'; LAYER=LR"):
        began(tmp_path, quarters, layer_lr=("conv9=0",))


def test_schedules_are_chosen_by_their_text(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, schedule="dexp[factor=250;steps=4]", bias_lr=0.5)
    trainer.folder.close()
    assert trainer.config.recipe.schedule == Dexp(divisor=250, epochs=3, steps=4)
    assert trainer.config.recipe.lr("fc5.b", 0.0) == 0.5
    assert Config.load(trainer.folder.path / "config.toml") == trainer.config


def test_a_plateau_divides_the_rate_then_ends_the_run(quarters: Path, tmp_path: Path) -> None:
    """With a rate too small to change anything, no epoch after the first improves."""
    trainer = began(
        tmp_path,
        quarters,
        epochs=10,
        lr=1e-12,
        schedule=Plateau(times=1, patience=1),
        bias_lr=1e-12,
    )
    outcome = fitted(trainer)
    assert outcome.finished
    run = trainer.folder.path
    rates = [line["lr"] for line in lines(run, "epoch")]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-13])
    assert trainer.at.epoch == 3
    with pytest.raises(RunError, match="its test error no longer improved; for more give another"):
        resumed(run, epochs=20)
    again = resumed(run, epochs=4, schedule="const")
    assert fitted(again).finished
    assert again.at.epoch == 4


def test_a_plateau_is_resumed_where_it_stood(quarters: Path, tmp_path: Path) -> None:
    choices: dict[str, Any] = {"epochs": 8, "schedule": Plateau(times=2, patience=1)}
    straight = began(tmp_path / "straight", quarters, **choices)
    fitted(straight)
    stopped = began(tmp_path / "stopped", quarters, **choices)
    fitted(stopped, 7)
    for stop in (14, 15, 27, None):
        again = resumed(stopped.folder.path)
        if stop is not None and stop >= again.course.steps:
            again.folder.close()
            break
        fitted(again, stop)
        if again.course.finished:
            break
    assert_same(straight.folder.path, stopped.folder.path)


def test_a_loss_at_chance_stops_the_run_and_says_where_to_look(
    quarters: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, quarters, epochs=50, lr=1e-12, chance_steps=20, bias_lr=1e-12)
    with pytest.raises(TrainingError, match=r"at chance, 1\.3\d+, for 20 steps") as caught:
        fitted(trainer)
    sentence = str(caught.value)
    assert f"pyalexnet doctor --init {trainer.folder.path}" in sentence
    assert last(trainer.folder.path).meta.step == 20
    assert lines(trainer.folder.path, "stop")[-1]["reason"] == sentence
    on = resumed(trainer.folder.path, chance_steps=0)
    fitted(on, 60)
    assert on.at.step == 60


def test_a_machine_that_goes_down_costs_minutes_at_most(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.training.train._SECONDS_BETWEEN_SAVES", 0.0)
    trainer = began(tmp_path, quarters, epochs=1, keep=100)
    fitted(trainer)
    saved = sorted(path.name for path in trainer.folder.checkpoints.iterdir())
    assert saved == [f"step-{step:08d}" for step in range(1, 7)]


# What is seen


@pytest.mark.parametrize("preset", ["source", "caffe", "owt"])
def test_views_do_not_depend_on_workers_or_stops(preset: str, large: Path, tmp_path: Path) -> None:
    paths = []
    for name, workers in (("straight", 4), ("stopped", 1)):
        trainer = alexnet(
            tmp_path / name,
            large,
            workers=workers,
            epochs=2,
            batch_size=3,
            preset=preset,
            width=1 / 32,
            lr=1e-4,
        )
        assert trainer.config.recipe.augment is not None
        assert trainer.config.recipe.augment.stored == 232
        fitted(trainer, 6 if name == "straight" else 2)
        paths.append(trainer.folder.path)
    fitted(resumed(paths[1], workers=0), 5)
    fitted(resumed(paths[1], workers=2), 6)
    assert_same(*paths)


def test_means_are_by_pixel_or_by_channel_as_the_preset_says(large: Path, tmp_path: Path) -> None:
    means = {}
    for preset in ("source", "owt"):
        trainer = alexnet(tmp_path, large, preset=preset)
        trainer.folder.close()
        means[preset] = trainer.mean
    assert means["source"].shape == means["owt"].shape == (232, 232, 3)
    assert len(np.unique(means["owt"].reshape(-1, 3), axis=0)) == 1
    expected = means["source"].mean(axis=(0, 1), dtype=np.float64)
    assert means["owt"][5, 7] == pytest.approx(expected, rel=1e-6)


def test_how_images_are_seen_can_be_chosen(large: Path, tmp_path: Path) -> None:
    choice: dict[str, Any] = {"jitter": 0.0, "chunk": 1, "flip": False}
    trainer = alexnet(tmp_path, large, **choice)
    trainer.folder.close()
    augment = trainer.config.recipe.augment
    assert augment is not None
    assert (augment.jitter, augment.chunk, augment.flip) == (0.0, 1, False)
    assert Config.load(trainer.folder.path / "config.toml") == trainer.config
    with pytest.raises(ArgumentError, match="jitter was given, and the network sees its images"):
        began(tmp_path, large, net="cifar-18pct", jitter=0.1)


# Fine-tuning


@pytest.fixture(scope="module")
def parent(quarters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    trainer = began(tmp_path_factory.mktemp("parent"), quarters, epochs=1)
    without_pictures(trainer)
    fitted(trainer)
    return trainer.folder.path


def test_a_run_begins_with_the_parameters_of_another(
    parent: Path, quarters: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, quarters, init_from=str(parent), seed=9)
    trainer.folder.close()
    for name, value in last(parent).params.items():
        assert np.array_equal(trainer.net.params[name], value), name
    assert not any(buffer.any() for buffer in trainer.sgd.momentum.values())
    assert "with the parameters of" in lines(trainer.folder.path, "start")[0]["init_from"]


def test_a_child_is_the_network_that_its_parent_is(coloured: Path, tmp_path: Path) -> None:
    parent = alexnet(tmp_path, coloured, preset="caffe")
    fitted(parent, 1)
    child = began(tmp_path, coloured, init_from=str(parent.folder.path))
    child.folder.close()
    assert child.config.net == "alexnet"
    assert child.config.net_args == parent.config.net_args


def test_other_classes_get_a_last_layer_of_their_own(parent: Path, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    images, labels = draws.integers(0, 256, (24, 12, 12, 1), dtype=np.uint8), np.arange(24) % 6
    np.savez(tmp_path / "six.npz", images=images, labels=labels)
    trainer = began(tmp_path / "runs", tmp_path / "six.npz", init_from=str(parent))
    trainer.folder.close()
    fresh = began(tmp_path / "runs", tmp_path / "six.npz")
    fresh.folder.close()
    for name, value in last(parent).params.items():
        expected = fresh.net.params[name] if name.startswith("fc6.") else value
        assert np.array_equal(trainer.net.params[name], expected), name


def test_another_network_is_refused_with_the_first_difference(
    parent: Path, quarters: Path, coloured: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"init_from: conv1\.w has shape .* was expected, as"):
        alexnet(tmp_path, coloured, init_from=str(parent))
    assert list(tmp_path.glob("20*")) == []


# TensorBoard


def test_tensorboard_writes_into_the_run_or_is_refused_before_it(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.training.tensorboard.find_spec", lambda _: None)
    with pytest.raises(ArgumentError, match=r'pip install "pyalexnet\[tensorboard\]"'):
        began(tmp_path, quarters, tensorboard=True)
    assert list(tmp_path.glob("20*")) == []


def test_the_expected_first_loss_counts_what_the_logits_say(coloured: Path, tmp_path: Path) -> None:
    trainer = alexnet(tmp_path, coloured, preset="paper", width=0.25)
    trainer.folder.close()
    expected, measured = trainer.first_losses()
    assert expected > math.log(4)
    assert measured == pytest.approx(expected, abs=0.1)
