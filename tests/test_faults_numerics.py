"""Values that are not finite stop a run in the step that meets them; invalid labels are refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet import nets
from pyalexnet.errors import PyalexnetError, TrainingError
from pyalexnet.runs import checkpoint
from pyalexnet.training.train import Trainer
from training import (
    CLASSES,
    OPTIONS,
    STEPS_AN_EPOCH,
    Hook,
    began,
    environment,
    fitted,
    last,
    photographs,
    pyalexnet,
    resumed,
    small_net,
)
from variants import ONE_ORDER, SIMCHECK, parameters

VALUES = (math.nan, math.inf, -math.inf)
EPOCHS = 2
STEPS = EPOCHS * STEPS_AN_EPOCH

CPU_ROUNDS, SIM_ROUNDS = 60, 12
"""Rounds for each place, in the long form."""

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their own tests, and take longer than the training."""
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


# Something that is not finite, put somewhere at some step


Spoil = Callable[[Trainer, random.Random, float], None]


def any_entry(array: Any, draws: random.Random, value: float) -> None:
    """Overwrite one element, on whatever device the array is."""
    flat = array.reshape(-1)
    flat[draws.randrange(flat.size)] = value


def a_weight(trainer: Trainer, draws: random.Random, value: float) -> None:
    any_entry(trainer.net.params[draws.choice(list(trainer.net.params))], draws, value)


def a_momentum(trainer: Trainer, draws: random.Random, value: float) -> None:
    any_entry(trainer.sgd.momentum[draws.choice(list(trainer.net.params))], draws, value)


def an_update(trainer: Trainer, draws: random.Random, value: float) -> None:
    original = trainer.sgd.step

    def step(*arguments: Any, **more: Any) -> Any:
        loss = original(*arguments, **more)
        a_weight(trainer, draws, value)
        return loss

    vars(trainer.sgd)["step"] = step


def the_loss(trainer: Trainer, draws: random.Random, value: float) -> None:
    original = trainer.sgd.step

    def step(*arguments: Any, **more: Any) -> Any:
        loss = original(*arguments, **more)
        any_entry(loss, draws, value)
        return loss

    vars(trainer.sgd)["step"] = step


def an_image(trainer: Trainer, draws: random.Random, value: float) -> None:
    """One number of one image, as the network is about to see it."""
    original = trainer.sgd.step

    def step(images: Any, *arguments: Any, **more: Any) -> Any:
        any_entry(images, draws, value)
        return original(images, *arguments, **more)

    vars(trainer.sgd)["step"] = step


def the_mean(trainer: Trainer, draws: random.Random, value: float) -> None:
    """At a place of the mean that some view uses: any, since images are seen whole."""
    any_entry(trainer.loader.mean, draws, value)


PLACES: dict[str, Spoil] = {
    "loss": the_loss,
    "update": an_update,
    "image": an_image,
    "weight": a_weight,
    "momentum": a_momentum,
    "mean": the_mean,
}


def contents(run: Path) -> dict[str, bytes]:
    """Every file of the run's checkpoints."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted((run / "checkpoints").rglob("*"))
        if path.is_file()
    }


def spoilt(trainer: Trainer, spoil: Spoil, step: int, draws: random.Random, value: float) -> str:
    """Train, with something spoilt right before `step`; return the run's message when it stops.

    Existing checkpoints must be unchanged, and there must be no new one.
    """
    run = trainer.folder.path
    before: dict[str, bytes] = {}
    original = trainer._step

    def guarded(images: Any, labels: Any) -> None:
        if trainer.at.step + 1 == step:
            before.update(contents(run))
            spoil(trainer, draws, value)
        original(images, labels)

    vars(trainer)["_step"] = guarded
    with pytest.raises(TrainingError) as caught:
        fitted(trainer)
    assert contents(run) == before
    return str(caught.value)


def assert_says(trainer: Trainer, sentence: str, step: int) -> None:
    """Check that it names the step, the learning rate, a layer, and how to continue."""
    assert sentence.startswith(f"step {step}, lr "), sentence
    assert f"lr {trainer.course.lr:g}:" in sentence
    assert any(layer.name in sentence for layer in trainer.net.spec.layers), sentence
    kept = sorted((trainer.folder.path / "checkpoints").iterdir())
    if kept:
        saved = int(kept[-1].name.removeprefix("step-"))
        assert f"checkpoint of step {saved} is unchanged" in sentence
    assert "smaller learning rate" in sentence or "--resume" in sentence
    record = json.loads((trainer.folder.path / "log.jsonl").read_text().splitlines()[-1])
    assert (record["kind"], record["reason"]) == ("stop", sentence)


def meets(place: str, seed: int, data: Path, out: Path, backend: str = "cpu") -> None:
    """Spoil this at a random step with a random value: it is noticed in that same step."""
    draws = random.Random(f"{place} {seed}")
    value, step = draws.choice(VALUES), draws.randint(1, STEPS)
    trainer = began(out, data, backend=backend, epochs=EPOCHS)
    try:
        if place == "mean":  # before step 1, as images are read ahead with it
            the_mean(trainer, draws, value)
            step = 1
            sentence = spoilt(trainer, lambda *_: None, 1, draws, value)
        else:
            sentence = spoilt(trainer, PLACES[place], step, draws, value)
        assert_says(trainer, sentence, step)
    except BaseException as error:
        error.add_note(f"{place}, seed {seed}: {value} at step {step} on {backend}")
        raise


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", [0, 1])
def test_met_in_the_same_step(
    place: str, seed: int, quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    meets(place, seed, quarters, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(("backend", "rounds"), [("cpu", CPU_ROUNDS), ("sim", SIM_ROUNDS)])
@pytest.mark.parametrize("place", PLACES)
def test_met_in_the_same_step_often(
    place: str,
    backend: str,
    rounds: int,
    quarters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Callable[..., None],
) -> None:
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    for seed in range(rounds):
        meets(place, 100 + seed, quarters, tmp_path / str(seed), backend)
    tried(
        f"NaN or Inf in {place}, any step, {backend}", rounds, "caught in that step, nothing saved"
    )


class OnDevice:
    """A scalar that has to be fetched before it can be read, as on a GPU."""

    def __init__(self, value: Any) -> None:
        self.value = np.array(value)

    def reshape(self, *shape: int) -> Any:
        return self.value.reshape(*shape)


def as_on_a_device(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are scalars that have to be fetched, so that the loop does not wait."""
    step, to_numpy = trainer.sgd.step, trainer.net.backend.to_numpy

    def on_device(*arguments: Any, **more: Any) -> Any:
        return OnDevice(step(*arguments, **more))

    def brought(value: Any) -> Any:
        return value.value if isinstance(value, OnDevice) else to_numpy(value)

    monkeypatch.setattr(trainer.sgd, "step", on_device)
    monkeypatch.setattr(trainer.net.backend, "to_numpy", brought)


def met_by_the_next_checkpoint(
    place: str, seed: int, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = random.Random(f"device {place} {seed}")
    value, step = draws.choice(VALUES), draws.randint(1, STEPS)
    trainer = began(out, data, epochs=EPOCHS, print_freq=4)
    with monkeypatch.context() as patch:
        as_on_a_device(trainer, patch)
        try:
            sentence = spoilt(trainer, PLACES[place], step, draws, value)
            named = int(sentence.split(",")[0].removeprefix("step "))
            # The loss of that step or the next shows it or, if a ReLU hides it, the checkpoint.
            assert step <= named <= math.ceil(step / STEPS_AN_EPOCH) * STEPS_AN_EPOCH, sentence
            looks = [at for at in range(1, STEPS + 1) if at % 4 == 0 or at % STEPS_AN_EPOCH == 0]
            assert trainer.at.step <= next(at for at in looks if at >= named)
        except BaseException as error:
            error.add_note(f"{place}, seed {seed}: {value} at step {step}")
            raise


ON_A_DEVICE = [place for place in PLACES if place != "mean"]


@pytest.mark.parametrize("place", ON_A_DEVICE)
def test_met_by_the_next_checkpoint_of_a_device(
    place: str, quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    met_by_the_next_checkpoint(place, 0, quarters, tmp_path, monkeypatch)


@pytest.mark.faults
@pytest.mark.parametrize("place", ON_A_DEVICE)
def test_met_by_the_next_checkpoint_of_a_device_often(
    place: str,
    quarters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Callable[..., None],
) -> None:
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    for seed in range(CPU_ROUNDS):
        met_by_the_next_checkpoint(place, 100 + seed, quarters, tmp_path / str(seed), monkeypatch)
    tried(
        f"NaN or Inf in {place}, losses on a device",
        CPU_ROUNDS,
        "caught at the next checkpoint or before, nothing saved",
    )


@pytest.mark.parametrize("value", VALUES)
def test_image_spoilt_by_the_augmentation(
    value: float, quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the bytes of the data, which cannot be NaN, and the network."""
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    trainer = began(tmp_path, quarters, epochs=EPOCHS)
    backend = type(trainer.net.backend)
    original, calls = backend.augment, []

    def augment(self: Any, *arguments: Any, **more: Any) -> Any:
        seen = original(self, *arguments, **more)
        calls.append(1)
        if len(calls) == 4:
            seen[1, 2, 3, 0] = value
        return seen

    monkeypatch.setattr(backend, "augment", augment)
    with pytest.raises(TrainingError, match=r"step 4, .*conv1"):
        fitted(trainer)
    assert contents(trainer.folder.path) == {}


@pytest.mark.slow
def test_command_exits_with_3_and_the_run_goes_on(quarters: Path, tmp_path: Path) -> None:
    """The actual command, spoilt from inside at step 9; the next one resumes at step 6."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "from pyalexnet.training.train import Trainer\n"
        "original = Trainer._step\n"
        "def spoilt(self, images, labels):\n"
        "    if self.at.step == 8:\n"
        "        self.net.params['conv2.w'].reshape(-1)[7] = float('nan')\n"
        "    original(self, images, labels)\n"
        "Trainer._step = spoilt\n"
    )
    env = environment()
    env["PYTHONPATH"] = f"{hooks}:{env['PYTHONPATH']}"
    done = pyalexnet("train", "--data", quarters, *OPTIONS, cwd=tmp_path, env=env)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: step 9, lr 0.005: ")
    assert "holds values that are not finite" in done.stderr
    assert "Traceback" not in done.stderr
    run = tmp_path / "runs" / "latest"
    assert last(run).meta.step == STEPS_AN_EPOCH
    fitted(resumed(run.resolve()))
    assert last(run).meta.step == 3 * STEPS_AN_EPOCH


# Learning rates


def test_test_loss_that_is_not_finite(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is off in tests, and outputs are larger: the test may be the first to overflow."""
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)

    def spoil(step: int) -> None:
        if step == STEPS_AN_EPOCH:
            trainer.net.params["fc4.b"][:] = [3e38, -3e38, 3e38, -3e38]

    trainer = began(tmp_path, quarters, Hook(spoil))
    with pytest.raises(TrainingError, match=r"step 6, .*loss on the test images is inf; .*fc4"):
        fitted(trainer)
    assert contents(trainer.folder.path) == {}


def colours(path: Path, side: int = 32) -> Path:
    return photographs(path, side=side, channels=3)


def diverges(data: Path, out: Path, **choices: Any) -> None:
    """A thousand times its learning rate ends in a sentence, not in a model that guesses."""
    trainer = began(out, data, lr=None, print_freq=50, epochs=40, **choices)
    usual = trainer.config.recipe.rate.lr_w
    trainer.folder.close()
    trainer = began(out, data, print_freq=50, epochs=40, lr=1000 * usual, **choices)
    with pytest.raises(TrainingError) as caught:
        fitted(trainer)
    sentence = str(caught.value)
    assert sentence.startswith("step "), sentence
    assert "\n" not in sentence
    assert any(layer.name in sentence for layer in trainer.net.spec.layers), sentence
    finite = [checkpoint.load(path) for path in trainer.folder.checkpoints.iterdir()]
    for saved in finite:
        for arrays in (saved.params, saved.momentum):
            assert all(np.isfinite(values).all() for values in arrays.values())


def test_rate_times_1000(tmp_path: Path) -> None:
    diverges(colours(tmp_path / "colours.npz"), tmp_path / "runs", net="alexnet-tiny")


@pytest.mark.faults
def test_rate_times_1000_of_every_net(tmp_path: Path, tried: Callable[..., None]) -> None:
    small = colours(tmp_path / "small.npz")
    large = colours(tmp_path / "large.npz", side=80)
    seeds = 3
    small_nets = [name for name in nets.names() if name != "alexnet"]
    for seed in range(seeds):
        for net in small_nets:
            diverges(small, tmp_path / "runs", net=net, seed=seed)
        for preset in ("source", "owt"):
            diverges(
                large,
                tmp_path / "runs",
                net="alexnet",
                preset=preset,
                width=0.05,
                seed=seed,
                batch_size=16,
            )
    tried(
        "learning rate times 1,000, every network",
        seeds * (len(small_nets) + 2),
        "stopped with step, layer and rate",
    )


# Labels


LABELS = (-(2**63), -(2**31), -1, CLASSES, CLASSES + 1, 2**31, 2**40, 2**63 - 1)


@pytest.mark.parametrize("be", [*ONE_ORDER, *parameters(SIMCHECK)], indirect=True)
def test_kernels_meet_labels_that_are_no_class(be: Any) -> None:
    """Past every check of the host: no byte out of bounds (simcheck would stop), a loss of NaN."""
    logits = be.asarray(np.linspace(-1, 1, 3 * CLASSES, dtype=np.float32).reshape(3, CLASSES))
    for bad in LABELS:
        labels = be.asarray(np.array([0, bad, CLASSES - 1]), np.int64)
        loss, top1, top5 = (be.asarray(np.zeros((), np.float32)) for _ in range(3))
        dlogits = be.asarray(np.zeros((3, CLASSES), np.float32))
        be._run("softmax_cross_entropy", logits, labels, loss, dlogits, top1, top5)
        assert math.isnan(float(be.to_numpy(loss))), bad
        rows = np.isnan(be.to_numpy(dlogits)).all(axis=1)
        assert rows.tolist() == [False, True, False], bad


@pytest.mark.parametrize("backend", ["cpu", "sim"])
@pytest.mark.parametrize("bad", LABELS)
def test_label_spoilt_while_training(
    bad: int, backend: str, quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set's is refused when it is read; one corrupted in memory later, in its step."""
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)
    trainer = began(tmp_path, quarters, backend=backend, epochs=1)
    trainer.dataset.train.labels[:] = bad
    with pytest.raises(PyalexnetError, match=f"labels has {bad}; with 4 classes 0 to 3"):
        fitted(trainer)
    assert contents(trainer.folder.path) == {}


@pytest.mark.parametrize("bad", LABELS)
@pytest.mark.parametrize("which", ["labels", "test_labels"])
def test_label_of_a_data_set(bad: int, which: str, quarters: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(quarters))
    arrays[which] = arrays[which].copy()
    arrays[which][3] = bad
    names = np.array([f"class {number}" for number in range(CLASSES)])
    spoilt_set = tmp_path / "spoilt.npz"
    np.savez(spoilt_set, **(arrays | {"class_names": names}))
    with pytest.raises(PyalexnetError) as caught:
        began(tmp_path / "runs", spoilt_set)
    assert str(bad) in str(caught.value)
    assert not list((tmp_path / "runs").glob("2*"))
