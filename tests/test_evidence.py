"""The paper's claims, at toy size: every one runs, is recorded, resumes; what is planted shows."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bench.evidence import __main__ as cli
from bench.evidence import claim as claims
from bench.evidence import measures, networks, page, picture, record, study, training
from bench.evidence.claim import Claim, Effect
from bench.evidence.measures import Result
from bench.evidence.record import Record
from bench.evidence.study import Study
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Conv, Linear
from pyalexnet.trained.load import Trained
from pyalexnet.training.interrupt import Interrupt
from training import environment, photographs

CLAIMS = {claim.name: claim for claim in claims.every()}
SIDES = {"cifar10": 16, "photographs": 72}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy images of each kind; runs that claims share are trained there once."""
    folder = tmp_path_factory.mktemp("evidence")
    for kind, side in SIDES.items():
        photographs(folder / f"{kind}.npz", side=side, channels=3)
    return folder


def toy(claim: Claim, **settings: Any) -> Claim:
    """The claim on two seeds, with hardly any images to see, and networks a 16th as wide."""
    small: dict[str, Any] = {"epochs": 2, "batch_size": 25, **settings}
    if claim.data == "photographs":
        small |= {"crop": 67}
        widths = {**claim.train, "width": claim.train.get("width", 1) / 16}
        claim = dataclasses.replace(claim, train=widths)
    variants = {
        name: own | ({"width": own["width"] / 16} if "width" in own else {})
        for name, own in claim.variants.items()
    }
    search = claim.search and dataclasses.replace(claim.search, rates=(0.001, 0.002), epochs=1)
    train = {**claim.train, **small}
    return dataclasses.replace(claim, seeds=2, train=train, variants=variants, search=search)


def only(claim: Claim, *variants: str) -> Claim:
    """The claim on one seed, with these variants and what can be said of them."""
    kept = {name: claim.variants[name] for name in variants}
    told = tuple(each for each in claim.effects if {each.of, each.over} <= {*kept, ""})
    return dataclasses.replace(claim, variants=kept, effects=told, seeds=1)


def one_by_one(folders: Sequence[Path]) -> Iterator[str]:
    """Trains in this process."""
    for folder in folders:
        training.train(folder)
        yield ""


def carried_out(claim: Claim, room: Path, data: str = "") -> Record:
    """The record of a claim's runs, all in this process."""
    images = str(room / f"{data or claim.data}.npz")
    made = Study(claim, images, room / "runs", claim.seeds, "cpu")
    study.carry_out(made, one_by_one, lambda: None)
    found = made.record("toys", "a test")
    fewer = dataclasses.replace(made, seeds=claim.seeds - 1).record("toys", "a test")
    assert found is not None and found.complete and not (fewer and fewer.complete)
    return found


# Every claim


@pytest.mark.every(4)
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_and_can_be_read(name: str, room: Path) -> None:
    """All its variants train, all its measures are numbers, and its page and picture are made."""
    claim = toy(CLAIMS[name])
    found = carried_out(claim, room)
    for effect, one in zip(claim.effects, found.effects, strict=True):
        assert sorted(one.values) == [1, 2]
        if not effect.measure.startswith("epochs_to"):
            assert one.mean is not None and one.low is not None and one.low <= one.mean
    for run in (run for each in found.runs.values() for run in each.values()):
        assert not run.failed and all(0 <= share <= 1.01 for share in run.signal.values())
    path = record.write(found, room / "records")
    assert record.read(claim, path.parent) == found
    told = page.document(path.parent)
    assert f"## {claim.number} {claim.title}" in told and claim.paper in told
    drawn = page.picture_of(claim, room)
    picture.draw(claim, found, drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_variants_differ_by_what_they_say() -> None:
    """Each variant's network or recipe is its own, and all see the same images."""
    for claim in CLAIMS.values():
        side = 32 if claim.data == "cifar10" else 256
        shape = (side, side, 3)
        specs = [networks.build(claim.settings(name), 10, shape) for name in claim.variants]
        assert len({repr(spec) for spec in specs}) == len(specs), claim.name
        assert len({spec.input_shape for spec in specs}) == 1


@pytest.mark.parametrize("name", ["towers", "specialise", "depth", "pooling-alexnet"])
def test_widened_weights_keep_the_size_of_sums(name: str) -> None:
    """A unit's inputs times their weights' variance are as at full width, in every variant."""
    claim = CLAIMS[name]
    for variant in claim.variants:
        narrow, wide = claim.settings(variant), {**claim.settings(variant), "width": 1.0}
        del wide["widened"], wide["crop"]
        here, original = (
            {
                layer.name: math.prod(spec.param_shapes()[layer.w][1:]) * float(layer.std) ** 2
                for layer in spec.layers
                if isinstance(layer, Conv | Linear)
            }
            for spec in (
                networks.build(narrow, 10, (128, 128, 3)),
                networks.build(wide, 10, (224, 224, 3)),
            )
        )
        assert here == pytest.approx(original)
        plain = networks.build({**narrow, "widened": False}, 10, (128, 128, 3))
        assert repr(plain) != repr(networks.build(narrow, 10, (128, 128, 3)))


def test_tanh_in_place_of_every_relu() -> None:
    claim = CLAIMS["relu"]
    relu, tanh = (networks.build(claim.settings(name), 10, (32, 32, 3)) for name in claim.variants)
    neurons = [str(spec.layers) for spec in (relu, tanh)]
    assert [text.count("Relu(") + text.count("'relu'") for text in neurons] == [3, 0]
    assert [text.count("Tanh(") + text.count("'tanh'") for text in neurons] == [0, 3]
    assert tanh.recipe == relu.recipe
    assert all(relu.recipe.decay(name) == 0 for name in relu.param_shapes())


@pytest.mark.parametrize(("name", "shape"), [("pooling", 32), ("pooling-alexnet", 128)])
def test_pools_of_either_size_leave_the_other_layers_as_they_are(name: str, shape: int) -> None:
    claim = CLAIMS[name]
    specs = [networks.build(claim.settings(v), 10, (shape, shape, 3)) for v in claim.variants]
    assert specs[0].num_parameters == specs[1].num_parameters


def test_a_record_in_part_says_so(room: Path) -> None:
    """One variant has its first seed done, the other none: numbers without intervals, or none."""
    claim = learning()
    whole = carried_out(claim, room)
    runs = {"relu": {1: whole.runs["relu"][1]}, "tanh": {}}
    told = record.findings(claim, runs, "")
    part = dataclasses.replace(whole, runs=runs, complete=False, effects=told)
    text = page.document(record.write(part, room / "part").parent)
    ratio, epochs = page.summary(claim, part)
    assert "no runs yet; 2012: 6 times; open" in ratio
    assert epochs.endswith(", 1 seed; 2012: no number")
    assert "Not all planned runs are done." in text and "| 95 | in part |" in text
    picture.draw(claim, part, room / "part.png")
    first_lacks = dataclasses.replace(part, runs={"relu": {}, "tanh": runs["relu"]})
    picture.draw(dataclasses.replace(claim, picture="chroma"), first_lacks, room / "chroma.png")


# What is planted shows


def learning(**variants: Any) -> Claim:
    """Claim 1, one seed, so that the toy images are learnt in a few epochs, without the search."""
    claim = toy(CLAIMS["relu"], epochs=12, batch_size=10, lr=0.001, stop_below=0)
    wide = {"conv1": {"std": 0.002}, "conv2": {"std": 0.05}, "conv3": {"std": 0.05}}
    own = claim.variants | variants
    for name, one in own.items():
        changes = one.get("layers", {})
        layers = {key: {**wide.get(key, {}), **changes.get(key, {})} for key in {**wide, **changes}}
        own[name] = {**one, "layers": layers}
    return dataclasses.replace(claim, search=None, variants=own, seeds=1)


def ratios(claim: Claim, room: Path) -> list[float | None]:
    """tanh's epochs over ReLU's; on toy images either may win."""
    return [*carried_out(claim, room).effects[0].values.values()]


def test_tanh_for_relu_takes_the_effect_away(room: Path) -> None:
    claim = learning()
    honest = ratios(claim, room)
    assert all(value is not None and abs(value - 1) > 0.1 for value in honest), honest
    relu, tanh = claim.variants["relu"], claim.variants["tanh"]
    assert ratios(learning(relu=tanh), room) == [1]
    turned = ratios(learning(relu=tanh, tanh=relu), room)
    assert turned == pytest.approx([1 / value for value in honest if value], rel=1e-5)


def test_shuffled_labels_are_not_learnt(room: Path) -> None:
    claim = learning()
    images = dict(np.load(room / "cifar10.npz"))
    images["labels"] = np.random.default_rng(0).permutation(images["labels"])
    np.savez(room / "shuffled.npz", **images)
    honest, shuffled = carried_out(claim, room), carried_out(claim, room, "shuffled")
    assert shuffled.effects[0].verdict == "open" and shuffled.effects[0].mean is None
    assert "not reached by 1 of 1 seed" in "\n".join(page.summary(claim, shuffled))
    learnt, guessed = (one.runs["relu"][1].end("train_error") for one in (honest, shuffled))
    assert learnt < 25 < guessed


def test_wider_initial_weights_let_more_of_the_image_through(room: Path) -> None:
    """And the other way round if the two starts are exchanged."""
    claim = only(toy(CLAIMS["signal"]), "full, .03", "full, .01")
    effect = claim.effects[0]
    turned = dataclasses.replace(effect, of=effect.over, over=effect.of)
    honest, swapped = (
        carried_out(dataclasses.replace(claim, effects=(one,)), room).effects[0]
        for one in (effect, turned)
    )
    assert honest.mean is not None and swapped.mean is not None
    assert honest.mean > 1 > swapped.mean


def test_the_best_rate_is_found(room: Path) -> None:
    """Too small a rate learns nothing; one that is too large fails, and is recorded as such."""
    search = claims.Search(rates=(1e-6, 0.001, 0.05), epochs=8, error=25)
    claim = dataclasses.replace(only(learning(), "relu"), search=search)
    found = carried_out(claim, room)
    assert found.rates["relu"] == 0.001
    slow, taken, diverged = found.searched["relu"].values()
    target = "epochs_to_train_error", 25
    assert math.isnan(measures.of(slow, *target)) and not slow.failed
    assert measures.of(taken, *target) < 8
    assert "the loss is" in diverged.failed
    told = page.document(record.write(found, room / "searched").parent)
    assert "| relu | 0.001 (taken) | " in told and "| relu | 0.05 | not reached | nan |" in told


# Measures


def finished(*epochs: Sequence[float], **values: Any) -> Result:
    """A result with these epochs: training loss and error, test loss and error."""
    rows = tuple((float(number), *row) for number, row in enumerate(epochs, 1))
    given: dict[str, Any] = {
        "data": "toys",
        "images": (1, 1),
        "classes": 4,
        "parameters": 1,
        "chroma": (0.0, 0.0),
        "signal": {"images": 1.0, "fc": 0.25},
        "ten_crop": None,
        "failed": "",
        "seconds": 3.0,
        "commit": "",
    }
    return Result(epochs=rows, **{**given, **values})  # type: ignore[arg-type]


RUN = finished((1.3, 0.7, 1.2, 0.6), (0.9, 0.4, 0.8, 0.3), (0.5, 0.2, 1.1, 0.35), ten_crop=0.32)


@pytest.mark.parametrize(
    ("measure", "at", "expected"),
    [
        ("train_error", None, 20),
        ("train_loss", None, 0.5),
        ("test_error", None, 35),
        ("gap", None, 15),
        ("learnt", None, math.log(4) - 0.5),
        ("epochs_to_train_error", 40, 1.5),
        ("epochs_to_train_error", 30, 2),
        ("epochs_to_train_error", 75, 0.5),
        ("epochs_to_train_error", 10, math.nan),
        ("epochs_to_train_loss", 0.7, 2),
        ("epochs_to_test_error", 45, 1.5),
        ("signal", None, 25),
        ("ten_crop_error", None, 32),
        ("ten_crop_gain", None, 3),
        ("seconds", None, 3),
    ],
)
def test_measures_by_hand(measure: str, at: float | None, expected: float) -> None:
    assert measures.of(RUN, measure, at) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(measures.of(dataclasses.replace(RUN, failed="diverged"), measure, at))


def test_half_way_is_a_level_that_both_runs_reach() -> None:
    """One ends at a loss of 0.5, the other at 0.9: half way from ln 4 to 0.9, and so for errors."""
    other = dataclasses.replace(RUN, epochs=RUN.epochs[:2])
    loss = measures.half_way([RUN, other], "epochs_to_train_loss")
    assert loss == pytest.approx((math.log(4) + 0.9) / 2)
    assert measures.half_way([other, RUN], "epochs_to_test_error") == pytest.approx((75 + 30) / 2)
    slow = dataclasses.replace(RUN, epochs=tuple((2 * row[0], *row[1:]) for row in RUN.epochs))
    effect = dataclasses.replace(EFFECT, measure="epochs_to_test_error", at="half way", ratio=True)
    assert record.values(effect, {"a": {1: slow}, "b": {1: RUN}}) == pytest.approx({1: 2})
    failed = dataclasses.replace(RUN, epochs=(), failed="the loss is nan")
    assert math.isnan(record.values(effect, {"a": {1: failed}, "b": {1: RUN}})[1])


def test_every_measure_of_a_claim_exists() -> None:
    for claim in CLAIMS.values():
        for effect in claim.effects:
            known = effect.measure.removeprefix("epochs_to_") in measures.CURVES
            assert known or effect.measure in measures.MEASURES, f"{claim.name}: {effect.says}"
            assert effect.measure.startswith("epochs_to_") == (effect.at is not None)


def test_chroma_of_grey_and_coloured_halves() -> None:
    draws = np.random.default_rng(0)
    grey = np.repeat(draws.standard_normal((6, 5, 5, 1)), 3, axis=3)
    colour = draws.standard_normal((6, 5, 5, 3))
    colour -= colour.mean(axis=3, keepdims=True)
    halves = np.concatenate([grey, colour]).astype(np.float32)
    assert measures.chroma_shares(halves) == pytest.approx((0, 1), abs=1e-6)
    mixed = measures.chroma_shares(np.concatenate([halves[::2], halves[1::2]]))
    apart = finished((1, 1, 1, 1), chroma=measures.chroma_shares(halves))
    together = finished((1, 1, 1, 1), chroma=mixed)
    assert measures.of(apart, "apart") == pytest.approx(100, abs=1e-4)
    assert measures.of(together, "apart") < 30
    energies = measures.energies(halves)
    told = finished((1, 1, 1, 1), filters=energies)
    mixed_up = finished((1, 1, 1, 1), filters=(*energies[::2], *energies[1::2]))
    assert measures.of(told, "split") > 99
    assert measures.of(mixed_up, "split") < 60
    assert math.isnan(measures.of(apart, "split"))
    one = np.array([[1, 0, 0], [1, 1, 1]], np.float32).reshape(2, 1, 1, 3)
    assert measures.chroma_shares(one) == pytest.approx((2 / 3, 0))


# Intervals and verdicts


def test_interval_by_hand() -> None:
    """1, 2, 3, 4, 5: deviation sqrt(2.5), t = 2.776 with four degrees of freedom."""
    found = record.interval([1, 2, 3, 4, 5])
    half = 2.776 * math.sqrt(2.5 / 5)
    assert found == pytest.approx((3, 3 - half, 3 + half))
    assert record.interval([7]) == (7, -math.inf, math.inf)
    for lacking in ([], [1, math.nan]):
        assert all(map(math.isnan, record.interval(lacking)))
    mean, low, high = record.interval([1.25, 2], logarithms=True)
    assert mean == pytest.approx(math.sqrt(2.5)) and low * high == pytest.approx(2.5) and low > 0


def test_quantiles_cover_what_they_say() -> None:
    """Of 4,000 samples of normal numbers, 95 % have 0 in their interval, give or take .014."""
    draws = np.random.default_rng(1)
    for count in (2, 3, 5, 14, 21):
        found = [
            record.interval(sample) for sample in draws.standard_normal((4000, count)).tolist()
        ]
        covered = np.mean([low <= 0 <= high for _, low, high in found])
        assert abs(covered - 0.95) < 0.018, count


EFFECT = Effect(says="x", measure="test_error", of="a", over="b", printed=2)
LONE = {"over": "", "printed": 19, "repeats": True}
VALUE = {"over": "", "printed": None}
INF = math.inf


@pytest.mark.parametrize(
    ("changes", "bounds", "verdict"),
    [
        ({}, (1, 3), "confirmed"),
        ({}, (2.5, 3), "confirmed: larger"),
        ({}, (0.5, 1.9), "not at this scale: smaller"),
        ({}, (-1, 1.9), "not at this scale: not as large"),
        ({}, (-2, -1), "not at this scale: the opposite"),
        ({}, (-1, 3), "open"),
        ({"printed": None}, (0.1, 0.2), "confirmed"),
        ({"printed": None}, (-0.2, 0), "not at this scale: the opposite"),
        ({"printed": None}, (-0.2, 0.1), "open"),
        (LONE, (18, 19.4), "confirmed"),
        (LONE, (17, 18), "confirmed"),
        (LONE, (18, 19.6), "open"),
        (LONE, (10, 30), "open"),
        (LONE, (19.6, 20), "refuted: more"),
        ({"ratio": True}, (1.1, 3), "confirmed"),
        ({"ratio": True}, (0.9, 3), "open"),
        (VALUE, (1, 2), ""),
        (VALUE | {"least": 0.01}, (0.005, 1), "open"),
        (VALUE | {"least": 0.01}, (0.02, 1), "confirmed"),
        (VALUE | {"least": 0.01}, (-1, 0.009), "not at this scale: nothing"),
        ({}, (0, 0), "open"),
        ({}, (-INF, INF), "open"),
        ({}, (0, INF), "open"),
        (LONE, (-INF, INF), "open"),
        ({}, (math.nan, math.nan), "open"),
    ],
)
def test_verdicts(changes: dict[str, Any], bounds: tuple[float, float], verdict: str) -> None:
    effect = dataclasses.replace(EFFECT, **changes)
    assert record.verdict(effect, *bounds) == verdict
    copies = verdict.replace("refuted", "not at this scale")
    assert record.verdict(effect, *bounds, originals=False) == copies


def test_a_copy_of_the_data_refutes_nothing() -> None:
    """Three seeds at 30 %, with the network of 26: with the images of 2012 that is refuted."""
    runs = {"80sec": {seed: finished((1, 1, 1, 0.3 + seed / 1e4)) for seed in (1, 2, 3)}}
    for note, verdict in (("", "refuted: more"), ("a JPEG copy", "not at this scale: more")):
        assert record.findings(CLAIMS["cuda-convnet"], runs, note)[0].verdict == verdict


def test_effects_are_paired_by_seed() -> None:
    errors = {"a": {1: 0.5, 2: 0.6, 4: 0.9}, "b": {1: 0.4, 2: 0.3, 3: 0.1}}
    runs = {
        name: {seed: finished((1, 1, 1, error)) for seed, error in each.items()}
        for name, each in errors.items()
    }
    assert record.values(EFFECT, runs) == pytest.approx({1: 10, 2: 30})
    ratio = dataclasses.replace(EFFECT, ratio=True)
    assert record.values(ratio, runs) == pytest.approx({1: 1.25, 2: 2})


# Resuming


def without_times(claim: Claim, path: Path) -> str:
    """A record's text without the entries that may differ."""
    found = record.read(claim, path.parent)
    assert found is not None
    for run in found.every:
        assert run.seconds > 0
        object.__setattr__(run, "seconds", 0)
    return repr({**vars(found), "environment": {}, "command": ""})


def test_killed_and_resumed_the_record_is_the_same(room: Path, tmp_path: Path) -> None:
    """A run is killed at some time after its first checkpoint, and the study called again."""
    claim = only(learning(), "relu")
    data = str(room / "cifar10.npz")
    texts = []
    for name in ("whole", "killed"):
        out = tmp_path / name
        made = Study(claim, data, out, claim.seeds, "cpu")
        if name == "killed":
            kill_one(training.prepare(made.missing()[0], out))
            assert made.record("", "") is None
        study.carry_out(made, one_by_one, lambda: None)
        found = made.record("", name)
        assert found is not None
        texts.append(without_times(claim, record.write(found, tmp_path / f"records-{name}")))
    assert texts[0] == texts[1]


def test_a_record_goes_on_on_another_machine(room: Path, tmp_path: Path) -> None:
    """Only the second seed is trained there, for another claim too; other data are refused."""
    claim = only(learning(), "relu")
    found = carried_out(claim, room)
    claim = dataclasses.replace(claim, name="another")
    kept = {run.numbers: run for run in found.every}
    elsewhere = shutil.copy(room / "cifar10.npz", tmp_path)
    made = Study(claim, str(elsewhere), tmp_path / "runs", 2, "cpu", kept)
    assert [run.seed for run in made.missing()] == [2]
    assert "1 of 2 runs done" in str(cli._progress(made)())
    study.carry_out(made, one_by_one, lambda: None)
    both = made.record("toys", "")
    assert both is not None and both.complete
    assert both.runs["relu"][1] == found.runs["relu"][1]
    made.done = {
        key: dataclasses.replace(run, images=(1, 1)) if run == both.runs["relu"][1] else run
        for key, run in made.done.items()
    }
    with pytest.raises(ArgumentError, match="differs from the record's runs"):
        made.record("toys", "")


def kill_one(folder: Path) -> None:
    """Begin a run in a process of its own, and kill it once it has a checkpoint."""
    command = [sys.executable, "-m", "bench.evidence.training", str(folder)]
    root = Path(study.__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, env=environment(PYALEXNET_THREADS="1"))
    while not any((folder / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    assert 1 <= len(training.epochs_of(folder)) < 12


@pytest.mark.slow
def test_side_by_side_in_a_budget(room: Path, tmp_path: Path) -> None:
    """Two processes finish what there is time for, without time nothing, and leave the rest."""
    claim = learning()
    made = Study(claim, str(room / "cifar10.npz"), tmp_path, claim.seeds, "cpu")
    told: list[int] = []
    for seconds, done in ((0, []), (200, [1, 0])):
        train = study.side_by_side(seconds, 2, 2)
        study.carry_out(made, train, lambda: told.append(len(made.missing())))
        assert told in (done, done[1:])  # both may have ended by the time that one is seen to


def test_a_run_stops_when_its_parent_is_gone() -> None:
    with Interrupt() as interrupt:
        watcher = training._Orphan()
        watcher.step(cast(Any, None), due=False)
        assert interrupt.received is None
        watcher._parent = -1
        watcher.step(cast(Any, None), due=False)
        assert interrupt.received == signal.SIGTERM


def test_other_commands_take_the_folder_of_a_run(room: Path) -> None:
    claim = only(toy(CLAIMS["towers"]), "one tower")
    carried_out(claim, room)
    made = Study(claim, str(room / "photographs.npz"), room / "runs", 1, "cpu")
    (folder,) = (room / "runs" / run.key for _, _, run in made.planned())
    trained = Trained.load(folder, backend="cpu", which="last")
    assert trained.net.spec.towers == 1 and trained.size == (67, 67) and trained.stored == (72, 72)


# The command and its refusals


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main([]) == 0
    assert all(claim.name in capsys.readouterr().out for claim in [CLAIMS["relu"]])
    for arguments, part in (
        (["lnr"], "error: claim is 'lnr'; one of these was expected"),
        (["towers"], "error: towers: --data is None; a pack: `pyalexnet data prepare"),
        (["relu", "--data", str(tmp_path / "no")], "a folder of CIFAR-10"),
        (["relu", "--data", str(tmp_path), "--seeds", "0"], "--seeds is 0; 1 or more was expected"),
    ):
        assert cli.main(arguments) == 2
        assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"colour": 1}, "cifar-19pct has no setting colour"),
        ({"layers": {"conv9": {"std": 1}}}, "has no layer of the kind or name conv9"),
        ({"layers": {"conv1": {"width": 1}}}, "conv1 has no width; some of activation, bias"),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ArgumentError, match=part):
        networks.build({"net": "cifar-19pct", **settings}, 10, (32, 32, 3))


def test_unknown_claims_and_variants_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"claim is 'lnr'; one of these was expected: 1 relu"):
        claims.named("lnr")
    assert [claim.name for claim in claims.named("3")] == ["lrn", "lrn-alexnet"]
    effect = dataclasses.replace(EFFECT, of="softplus")
    with pytest.raises(ArgumentError, match="an effect is of 'softplus'; one of relu, tanh"):
        dataclasses.replace(CLAIMS["relu"], effects=(effect,))


# The page


def test_the_page_is_what_the_records_say() -> None:
    """`python -m bench.evidence --page` writes it; a claim has a record and a picture, or none."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.document()
    for claim in CLAIMS.values():
        assert (record.read(claim) is not None) == page.picture_of(claim).exists()


def test_what_a_record_says_follows_from_its_runs(tmp_path: Path) -> None:
    for claim in CLAIMS.values():
        if (kept := record.read(claim)) is not None:
            path = record.write(kept, tmp_path)
            assert (record.FOLDER / path.name).read_text() == path.read_text()
