"""`pyalexnet probe`: the one best linear classifier on frozen features."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from networks import CLASS_NAMES, invoked, npz, written
from pyalexnet.commands.probe import probe as command
from pyalexnet.data.dataset import hold_out
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.trained import ensemble, probe
from pyalexnet.trained.load import Trained
from pyalexnet.trained.probe import DECAYS, TOLERANCE, Problem
from samples import classes, generator, normal

Matrix = np.ndarray


def features(n: int, numbers: int, noise: float = 20) -> tuple[Matrix, Matrix]:
    """Rectified, correlated features with a dead unit, and labels that depend on them."""
    draws = generator(n, numbers)
    mixing = draws.normal(size=(numbers, numbers)) * np.exp(-np.arange(numbers) / 5)
    x = np.maximum(draws.normal(size=(n, numbers)) @ mixing.T + 0.5, 0) * 10
    x[:, 1] = 0
    told = (x - x.mean(axis=0)) @ draws.normal(size=(numbers, 3))
    labels = (told + noise * draws.normal(size=(n, 3))).argmax(axis=1)
    assert len(set(labels.tolist())) == 3
    return x.astype(np.float32), labels


def gradient(x: Matrix, labels: Matrix, found: probe.Probe, decay: float) -> tuple[float, float]:
    """Norm of the objective's gradient at a probe, and at zero; on standardised features."""
    mean, deviation = x.mean(axis=0, dtype=float), x.std(axis=0, dtype=float)
    deviation[deviation == 0] = 1
    z = (x - mean) / deviation
    w, b = found.w * deviation, found.b + found.w @ mean
    norms = []
    for weights, biases in ((w, b), (0 * w, 0 * b)):
        logits = z @ weights.T + biases
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        excess = powers / powers.sum(axis=1, keepdims=True) - np.eye(len(b))[labels]
        dw = excess.T @ z / len(x) + decay * weights
        norms.append(float(np.sqrt((dw**2).sum() + (excess.mean(axis=0) ** 2).sum())))
    return norms[0], norms[1]


@pytest.mark.parametrize(("n", "numbers"), [(400, 30), (40, 60)])
@pytest.mark.parametrize("decay", [1.0, 0.01, 1e-4])
def test_the_gradient_vanishes(n: int, numbers: int, decay: float) -> None:
    x, labels = features(n, numbers)
    found = Problem(x, labels, 3).solve(decay)
    end, start = gradient(x, labels, found, decay)
    assert end <= 1.01 * TOLERANCE * start
    assert found.gradient == pytest.approx(end / start, rel=0.01)
    assert found.steps > 0


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    x, labels = features(200, 20)
    warm = Problem(x, labels, 3)
    warm.solve(1.0)
    one, other = warm.solve(0.01), Problem(x, labels, 3).solve(0.01)
    # The objective's curvature is at least the decay, so both are within |gradient| / decay.
    _, start = gradient(x, labels, one, 0.01)
    deviation = x.std(axis=0)
    apart = np.linalg.norm((one.w - other.w) * deviation)
    assert apart <= 2 * TOLERANCE * start / 0.01
    assert warm.solve(0.01).steps == 0


def test_twice_the_same_bits() -> None:
    x, labels = features(100, 20)
    one, other = (Problem(x, labels, 3).solve(0.03) for _ in range(2))
    assert one.w.tobytes() == other.w.tobytes() and one.b.tobytes() == other.b.tobytes()


def test_too_few_steps_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST_STEPS", 3)
    x, labels = features(100, 20)
    with pytest.raises(DataError, match=r"after 3 steps with decay 0.001 the gradient is"):
        Problem(x, labels, 3).solve(0.001)


def test_the_decay_is_the_best_on_a_tenth_that_is_held_out() -> None:
    x, labels = features(300, 40, noise=60)
    said: list[str] = []
    chosen = probe.choose_decay(x, labels, 3, say=said.append)
    kept, held = hold_out(labels, seed=0)
    found = []
    for decay in DECAYS:
        one = Problem(x[kept], labels[kept], 3).solve(decay)
        scores = ensemble.scores(one.probabilities(x[held]), labels[held])
        found.append((round(scores.top1_error, 9), round(scores.loss, 4), decay))
    best = found.index(min(found))
    assert chosen == found[best][2]
    assert 0 < best < len(said) - 1 < len(DECAYS)
    assert said[0].split() == ["decay", "held-out", "top-1", "error", "held-out", "loss", "steps"]
    assert len(said) == best + 4  # two that are not better end the search
    assert len({len(line) for line in said}) == 1  # columns


def test_the_command(tmp_path: Path) -> None:
    run, data = written(tmp_path / "run"), npz(tmp_path / "set.npz", per_class=20)
    out = tmp_path / "probe.safetensors"
    said = invoked(command, run, "--data", data, "--output", out, "--json", "--backend=cpu")
    found = json.loads(said.stdout)
    loaded = Trained.load(run, backend="cpu")
    dataset = loaded.dataset(data)
    stored = safetensors.numpy.load_file(out)
    for part in ("train", "test"):
        split = getattr(dataset, part)
        logits = loaded.activations(split.images, "fc5") @ stored["w"].T + stored["b"]
        expected = ensemble.scores(ensemble.softmax(logits), split.labels)
        assert found[part]["loss"] == pytest.approx(expected.loss, rel=1e-4)
        assert found[part]["top1_error"] == pytest.approx(expected.top1_error, abs=1e-9)
    assert found["chance"]["top1_error"] == 0.75
    assert found["gradient"] <= TOLERANCE and found["layer"] == "fc5"
    assert found["decay"] in DECAYS


def test_lines_for_people_and_a_decay_of_ones_own(tmp_path: Path) -> None:
    run, data = written(tmp_path / "run"), npz(tmp_path / "set.npz")
    said = invoked(command, run, "--data", data, "--decay=0.5", "--layer=conv1").stdout
    assert "softmax regression on conv1 of run, decay 0.5" in said
    assert re.search(r"converged: the gradient fell to \d\.\de-05 of its start", said)
    assert "held-out" not in said and "chance" in said and "75.00 %" in said


def test_progress_is_in_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyalexnet.training.progress._SECONDS_BETWEEN_LINES", 0)
    run, data = written(tmp_path / "run"), npz(tmp_path / "set.npz")
    said = invoked(command, run, "--data", data, "--decay=0.5").stdout
    assert re.search(r"^fitting, percent: \d+ of 100, ETA", said, re.MULTILINE)


def test_other_classes_than_the_networks_will_do(tmp_path: Path) -> None:
    run = written(tmp_path / "run", class_names=("x", "y"))
    said = invoked(command, run, "--data", npz(tmp_path / "set.npz"), "--decay=1").stdout
    assert f"{len(CLASS_NAMES)} classes" in said


def test_chance_follows_how_frequent_the_classes_are(tmp_path: Path) -> None:
    run, path = written(tmp_path / "run"), npz(tmp_path / "set.npz")
    arrays = dict(np.load(path))
    arrays["labels"][:16] = 0
    np.savez(path, **arrays)
    dataset = Trained.load(run).dataset(path)
    assert probe.chance(dataset).top1_error == 0.75
    arrays["test_labels"][:] = 0
    np.savez(path, **arrays)
    assert probe.chance(Trained.load(run).dataset(path)).top1_error == 0


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = written(tmp_path / "run"), npz(tmp_path / "set.npz")
    with pytest.raises(ArgumentError, match="decay is -1; at least 0 was expected"):
        invoked(command, run, "--data", data, "--decay=-1")
    with pytest.raises(ArgumentError, match="layer is 'fc7'"):
        invoked(command, run, "--data", data, "--layer=fc7")
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    with pytest.raises(DataError, match=r"20 images with 128 features each need 0.0 GB"):
        invoked(command, run, "--data", data)


def test_features_that_say_nothing() -> None:
    found = Problem(np.ones((8, 3)), classes(8, 2), 2).solve(0.1)
    assert not found.w.any()
    found = Problem(normal(6, 2), np.zeros(6, int), 1).solve(0.1)
    assert found.steps == 0
