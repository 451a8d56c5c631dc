"""Checkpoints: saved state comes back bit for bit, and anything else is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pyalexnet import files
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import sealed
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta

FILES = ("params.safetensors", "momentum.safetensors", "mean.safetensors", "state.json")


def make(step: int, *, seed: int = 0) -> Checkpoint:
    """A small checkpoint whose every value depends on the step."""
    rng = np.random.default_rng((seed, step))

    def arrays() -> dict[str, np.ndarray[Any, Any]]:
        return {
            "conv1.w": rng.standard_normal((4, 3, 2, 5), np.float32),
            "conv1.b": rng.standard_normal(4, np.float32),
            "fc6.w": rng.standard_normal((2, 7), np.float32),
        }

    return Checkpoint(
        params=arrays(),
        momentum=arrays(),
        mean=rng.standard_normal((6, 5, 3), np.float32),
        meta=Meta(
            net="alexnet-tiny",
            classes=2,
            class_names=("cat", "Katzenbär"),
            class_ids=("n1", "n2"),
            input_shape=(6, 5, 3),
            step=step,
            epoch=step // 10,
            net_args={"width": 0.1},
            config={"lr": 0.01, "steps": [1, 2], "out": "runs/\udcff"},
            metrics={"top1": 1 / 3},
        ),
    )


def assert_same(actual: Checkpoint, expected: Checkpoint) -> None:
    assert actual.meta == expected.meta
    for group in ("params", "momentum"):
        given, wanted = getattr(actual, group), getattr(expected, group)
        assert given.keys() == wanted.keys()
        for name in wanted:
            assert given[name].dtype == np.float32
            assert given[name].shape == wanted[name].shape
            assert given[name].tobytes() == wanted[name].tobytes()
    assert actual.mean.shape == expected.mean.shape
    assert actual.mean.tobytes() == expected.mean.tobytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "checkpoints", make(7))


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    state = make(1234)
    state.params["conv1.b"][:] = [np.nan, -0.0, np.inf, 1e-45]
    path = checkpoint.save(tmp_path, state)
    assert path == tmp_path / "step-00001234"
    assert sorted(entry.name for entry in path.iterdir()) == sorted(FILES)
    assert_same(checkpoint.load(path), state)


def test_loaded_arrays_can_be_trained_on(saved: Path) -> None:
    state = checkpoint.load(saved)
    state.params["conv1.w"] += 1
    state.momentum["fc6.w"][:] = 0
    assert checkpoint.load(saved).params["conv1.w"].tobytes() != state.params["conv1.w"].tobytes()


def test_arrays_that_are_not_contiguous_keep_their_values(tmp_path: Path) -> None:
    state = make(1)
    state.params["fc6.w"] = np.asfortranarray(state.params["fc6.w"])
    state.momentum["fc6.w"] = np.zeros((2, 14), np.float32)[:, ::2]
    assert_same(checkpoint.load(checkpoint.save(tmp_path, state)), state)


def test_the_files_are_plain_safetensors_and_json(saved: Path) -> None:
    params = safetensors.numpy.load_file(saved / "params.safetensors")
    assert params.keys() == make(7).params.keys()
    state = json.loads((saved / "state.json").read_text())
    assert state["meta"]["net"] == "alexnet-tiny"
    assert state["files"].keys() == set(FILES) - {"state.json"}


def test_a_checkpoint_in_a_folder_of_another_name_loads(saved: Path) -> None:
    assert_same(checkpoint.load(saved.rename(saved.parent / "best")), make(7))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"params": {"w": np.zeros(2)}}, "w is float64; float32"),
        ({"momentum": {}}, "other names or shapes"),
        ({"mean": np.zeros(2, np.int64)}, "mean is int64"),
        ({"meta": replace(make(7).meta, metrics={"loss": float("nan")})}, "JSON"),
        ({"meta": replace(make(7).meta, metrics={"loss": np.float32(1)})}, "JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    state = replace(make(7), **change)
    if "params" in change:
        state = replace(state, momentum=change["params"])
    with pytest.raises(ArgumentError, match=text):
        checkpoint.save(tmp_path, state)
    assert not list(tmp_path.iterdir())


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for part in range(64):
        cut = whole[: len(whole) * part // 64]
        (saved / name).write_bytes(cut)
        assert name in refusal(saved)
        if name != "state.json":
            assert f"has {len(cut)} bytes; {len(whole)} were expected" in refusal(saved)
    (saved / name).write_bytes(whole + b"\0")
    assert name in refusal(saved)
    (saved / name).write_bytes(whole)
    assert_same(checkpoint.load(saved), make(7))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused(saved: Path, name: str) -> None:
    """Both ends of each file, where the formats keep their structure, and samples between."""
    whole = (saved / name).read_bytes()
    rng = np.random.default_rng(0)
    ends = [*range(40), *range(len(whole) - 20, len(whole))]
    for position in {*ends, *rng.integers(0, len(whole), 200).tolist()}:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        (saved / name).write_bytes(damaged)
        assert str(saved) in refusal(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert name in refusal(saved)


def test_swapped_files_are_refused(saved: Path) -> None:
    params, momentum = saved / "params.safetensors", saved / "momentum.safetensors"
    assert params.stat().st_size == momentum.stat().st_size
    params.rename(saved / "other")
    momentum.rename(params)
    (saved / "other").rename(momentum)
    assert "SHA-256" in refusal(saved)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_step_are_refused(saved: Path, name: str) -> None:
    other = checkpoint.save(saved.parent, make(8))
    shutil.copy(other / name, saved / name)
    refusal(saved)


def test_a_checkpoint_under_another_steps_name_is_refused(saved: Path) -> None:
    moved = saved.rename(saved.parent / "step-00000009")
    assert "step 7; 9 was expected" in refusal(moved)


def test_links_and_pipes_are_not_followed(saved: Path) -> None:
    params = saved / "params.safetensors"
    params.rename(saved / "elsewhere")
    params.symlink_to("elsewhere")
    refusal(saved)
    params.unlink()
    os.mkfifo(params)
    assert "no regular file" in refusal(saved)


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change state.json with knowledge of how its checksum is made."""
    document = json.loads((path / "state.json").read_text())
    change(document)
    (path / "state.json").write_bytes(sealed(document))


def test_a_forged_state_still_has_to_name_the_three_files(saved: Path) -> None:
    secret = saved.parent / "secret"
    secret.write_bytes((saved / "mean.safetensors").read_bytes())
    original = (saved / "state.json").read_bytes()
    forge(saved, lambda document: None)
    assert (saved / "state.json").read_bytes() == original
    for name in ("../secret", str(secret), "params.safetensors/../../secret", "extra"):

        def rename(document: dict[str, Any], name: str = name) -> None:
            document["files"][name] = document["files"].pop("mean.safetensors")

        forge(saved, rename)
        assert "were expected" in refusal(saved)
        (saved / "state.json").write_bytes(original)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("files"),
        lambda document: document.update(files=3),
        lambda document: document["files"].update({"mean.safetensors": {}}),
        lambda document: document["files"]["mean.safetensors"].update(bytes="many"),
        lambda document: document.pop("meta"),
        lambda document: document["meta"].pop("step"),
        lambda document: document["meta"].update(surprise=1),
        lambda document: document["meta"].update(input_shape=[1]),
        lambda document: document["meta"].update(class_names=None),
        lambda document: document["meta"].update(class_names=["cat"]),
        lambda document: document["meta"].update(class_ids=["cat"]),
        lambda document: document["meta"].update(class_ids=["n1", "n1"]),
        lambda document: document["meta"].update(class_ids=None),
        lambda document: document["meta"].pop("class_ids"),
    ],
)
def test_a_forged_state_of_another_form_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    forge(saved, change)
    refusal(saved)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"format": 1}', "[" * 100_000, "\0"])
def test_a_state_that_is_none_is_refused(saved: Path, text: str) -> None:
    (saved / "state.json").write_text(text)
    assert "state.json" in refusal(saved)


def test_tensors_of_another_form_are_refused(saved: Path) -> None:
    def replaced(name: str, content: bytes) -> str:
        def change(document: dict[str, Any]) -> None:
            sha256 = hashlib.sha256(content).hexdigest()
            document["files"][name] = {"bytes": len(content), "sha256": sha256}

        original = (saved / name).read_bytes(), (saved / "state.json").read_bytes()
        (saved / name).write_bytes(content)
        forge(saved, change)
        text = refusal(saved)
        (saved / name).write_bytes(original[0])
        (saved / "state.json").write_bytes(original[1])
        return text

    arrays = make(7).params
    assert "no safetensors file" in replaced("params.safetensors", b"\x80\x04N.")
    assert "no safetensors file" in replaced("params.safetensors", b"\xff" * 8)
    double = safetensors.numpy.save({name: array.astype("f8") for name, array in arrays.items()})
    assert "float64" in replaced("params.safetensors", double)
    fewer = safetensors.numpy.save({"conv1.w": arrays["conv1.w"]})
    assert "names or shapes" in replaced("momentum.safetensors", fewer)
    assert "mean was expected" in replaced("mean.safetensors", fewer)


def test_a_later_format_names_the_version_that_wrote_it(saved: Path) -> None:
    document = json.loads((saved / "state.json").read_text())
    document.update(format=checkpoint.FORMAT + 1, pyalexnet="7.8.9", sha256="of another kind")
    (saved / "state.json").write_text(json.dumps(document))
    assert "written by pyalexnet 7.8.9 in format 3" in refusal(saved)


def test_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    paths = [checkpoint.save(folder, make(step)) for step in (9, 10, 100_000_000)]
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == paths[2]
    assert not said
    (paths[2] / "mean.safetensors").write_bytes(b"")
    (paths[1] / "state.json").unlink()
    assert checkpoint.newest(tmp_path, said.append) == paths[0]
    assert [str(path) in text for path, text in zip(paths[:0:-1], said, strict=True)] == [True] * 2
    with pytest.warns(RuntimeWarning, match="skipped a checkpoint"):
        assert checkpoint.newest(folder) == paths[0]
    shutil.rmtree(paths[0])
    with pytest.raises(CheckpointError, match=r"step-100000000.*step-00000010"):
        checkpoint.newest(tmp_path)


def test_newest_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.newest(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.newest(tmp_path / "absent")


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (5, 10, 20, 100_000_000, 30):
        checkpoint.save(folder, make(step))
    (folder / "notes").mkdir()
    checkpoint.prune(tmp_path, 2, best=10)
    assert steps(folder) == [10, 30, 100_000_000]
    checkpoint.prune(tmp_path, 2, best=100_000_000)
    assert steps(folder) == [30, 100_000_000]
    checkpoint.prune(tmp_path, 1)
    assert steps(folder) == [100_000_000]
    assert sorted(entry.name for entry in folder.iterdir()) == ["notes", "step-100000000"]
    with pytest.raises(ArgumentError, match="keep is 0"):
        checkpoint.prune(tmp_path, 0)


def steps(folder: Path) -> list[int]:
    return sorted(int(entry.name[5:]) for entry in folder.glob("step-*"))


def test_a_step_is_replaced_by_a_later_save_of_it(saved: Path) -> None:
    again = make(7, seed=1)
    assert checkpoint.save(saved.parent, again) == saved
    assert_same(checkpoint.load(saved), again)
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    done: list[Path] = []

    def killed(self: Path, target: Path) -> Path:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved.parent, make(7, seed=1))
    monkeypatch.undo()
    found = checkpoint.newest(saved.parent)
    assert not saved.exists()
    assert_same(checkpoint.load(found), make(7))
    assert checkpoint.save(saved.parent, make(8))
    assert checkpoint.load(found), "the only copy of step 7 was swept away"
    checkpoint.save(saved.parent, make(7))
    checkpoint.save(saved.parent, make(9))
    assert steps(saved.parent) == [7, 8, 9]
    assert not list(saved.parent.glob(".*"))


def test_everything_is_synced_in_the_order_that_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, then the folder, then the rename, then the parent."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        written = path.stat().st_size if path.is_file() else 0
        assert path.is_dir() or written > 0, "synced before it was written"
        events.append(path.name)
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    checkpoint.save(tmp_path, make(3))
    assert sorted(events[:4]) == sorted(FILES)
    temporary = f".tmp-step-00000003-{os.getpid()}"
    assert events[4:] == [temporary, "rename", tmp_path.name]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_umask_is_honoured(
    tmp_path: Path, umask: Callable[[int], int], mask: int, mode: int
) -> None:
    umask(mask)
    path = checkpoint.save(tmp_path, make(1))
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {mode}
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask


def test_old_temporaries_are_swept_and_those_of_living_processes_are_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = tmp_path / f".tmp-step-00000001-{child.pid}"
        others = [tmp_path / ".tmp-notes", tmp_path / "step-x", tmp_path / ".old-step-00000003"]
        dead = tmp_path / f".tmp-step-00000001-{os.getpid()}"
        for folder in (living, dead, *others):
            folder.mkdir()
            (folder / "file").write_text("x")
        checkpoint.save(tmp_path, make(2))
        assert living.exists()
        assert all(other.exists() for other in others)
        assert not dead.exists()
    finally:
        child.communicate(b"\n")
    checkpoint.save(tmp_path, make(3))
    assert not living.exists()
    assert not (tmp_path / ".old-step-00000003").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "I/O error")])
@pytest.mark.parametrize("at", range(4))
def test_a_failing_write_leaves_what_was_there(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, at: int
) -> None:
    write, count = files.create, iter(range(99))

    def failing(path: Path, content: bytes) -> None:
        if next(count) == at:
            path.write_bytes(content[: len(content) // 2])
            raise error
        write(path, content)

    monkeypatch.setattr(files, "create", failing)
    for step in (7, 8):
        count = iter(range(99))
        with pytest.raises(CheckpointError) as caught:
            checkpoint.save(saved.parent, make(step, seed=1))
        needed = sum(entry.stat().st_size for entry in saved.iterdir())
        sentence = str(caught.value)
        assert f"step-{step:08d}" in sentence
        assert str(error.strerror) in sentence
        assert abs(int(sentence.split(" bytes")[0].split()[-1]) - needed) < 16
    monkeypatch.undo()
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
    assert_same(checkpoint.load(saved), make(7))


def test_a_failing_rename_brings_the_replaced_one_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp"):
            raise OSError(5, "I/O error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="I/O error"):
        checkpoint.save(saved.parent, make(7, seed=1))
    monkeypatch.undo()
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
    assert_same(checkpoint.load(saved), make(7))


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Not a directory|File exists"):
        checkpoint.save(tmp_path / "file" / "checkpoints", make(1))


FULL_DISK = """
import resource, sys
from pathlib import Path
from test_checkpoint import make
from pyalexnet.runs import checkpoint
from pyalexnet.errors import CheckpointError
folder = Path(sys.argv[1])
checkpoint.save(folder, make(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    checkpoint.save(folder, make(2))
except CheckpointError as error:
    print(error)
"""


def run(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a program in its own process, with this folder importable."""
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
            "PYALEXNET_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_write_that_the_system_refuses_leaves_the_previous_one(tmp_path: Path) -> None:
    child = run(FULL_DISK, tmp_path)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "step-00000002: cannot be written (File too large)" in output
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert_same(checkpoint.load(tmp_path / "step-00000001"), make(1))
