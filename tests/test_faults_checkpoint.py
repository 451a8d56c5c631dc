"""Checkpoints broken in every way: full disks, failing calls, damage, forgeries, old versions.

At most the unsaved part is lost; what is read is what was written, or is refused in a sentence.
`test_kill.py` has the kills.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kept_runs import KEPT, STEPS, STOPPED, kept_net
from pyalexnet import nets
from pyalexnet.errors import CheckpointError, PyalexnetError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.run import History, RunFolder
from pyalexnet.trained.load import Trained
from pyalexnet.training.course import Position
from pyalexnet.training.progress import Silent
from pyalexnet.training.train import Trainer
from test_checkpoint import FILES, assert_same, forge, make, refusal
from training import (
    OPTIONS,
    STEPS_AN_EPOCH,
    Lines,
    assert_same_end,
    began,
    command,
    environment,
    fitted,
    last,
    lines,
    photographs,
    pyalexnet,
    resumed,
)

SEED = 1

Tried = Callable[..., None]


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


class Listener(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warned: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warned.append(sentence)


# Calls that fail

CALLS = (
    (Path, "mkdir"),
    (Path, "iterdir"),
    (Path, "open"),
    (Path, "rename"),
    (os, "open"),
    (os, "fsync"),
)
"""All calls of a save that reach the disk; `test_checkpoint.py` has the writes."""

FAULTS = [
    *(OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.EACCES)),
    *(OSError(number, os.strerror(number)) for number in (errno.EDQUOT, errno.EROFS)),
    KeyboardInterrupt(),  # a second Ctrl-C
]


class Failing:
    """Makes call number `at` (from 0), counted over all `CALLS`, raise `error`."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.count, self.at, self.error = 0, at, error
        for owner, name in CALLS:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.at + 1:
                raise self.error
            return real(*arguments, **more)

        return call


@pytest.mark.every(3)
@pytest.mark.parametrize("step", [7, 8], ids=["replaced", "new"])
@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_no_call_that_fails_in_a_save_costs_what_was_there(
    error: BaseException, step: int, tmp_path: Path
) -> None:
    """Each call in turn; the disk works again for the next save."""
    old, new = make(7), make(step, seed=1)
    for at in range(_calls(tmp_path / "clean", old, new)):
        folder = tmp_path / str(at)
        saved, said = checkpoint.save(folder, old), None
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, at, error)
            try:
                checkpoint.save(folder, new)
            except (CheckpointError, KeyboardInterrupt) as failure:
                said = str(failure)
        found = checkpoint.load(checkpoint.newest(folder, say=_refuse))
        is_new = found.params["fc6.w"].tobytes() == new.params["fc6.w"].tobytes()
        assert is_new or said is not None  # only cleaning up may fail silently
        assert_same(found, new if is_new else old)
        if step == 8:
            assert_same(checkpoint.load(saved), old)
        if said and isinstance(error, OSError):
            assert f"step-{step:08d}: cannot be written ({error.strerror})" in said
            assert "bytes are needed there" in said
        assert_same(checkpoint.load(checkpoint.save(folder, new)), new)
        left = sorted(path.name for path in folder.iterdir())
        assert left == sorted({"step-00000007", f"step-{step:08d}"})


def _calls(folder: Path, old: checkpoint.Checkpoint, new: checkpoint.Checkpoint) -> int:
    """The number of calls in a save of `new` beside `old`."""
    checkpoint.save(folder, old)
    with pytest.MonkeyPatch.context() as patch:
        counter = Failing(patch, -1, AssertionError())
        checkpoint.save(folder, new)
    assert counter.count > 12
    return counter.count


def _refuse(sentence: str) -> None:
    raise AssertionError(f"a save that failed left a bad checkpoint under a good name: {sentence}")


def test_what_cannot_be_deleted_stops_nothing(tmp_path: Path) -> None:
    """A link among the checkpoints, or a file being read over NFS."""
    elsewhere = checkpoint.save(tmp_path / "elsewhere", make(1))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-00000001").symlink_to(elsewhere)
    for step in (2, 3):
        checkpoint.save(folder, make(step))
        checkpoint.prune(folder, 1)
    assert [path.name for path in folder.glob("step-*")] == ["step-00000003"]
    assert_same(checkpoint.load(elsewhere), make(1))


def test_a_configuration_outlives_a_power_cut(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is synced before it replaces the previous one, which could otherwise end up empty."""
    trainer = began(tmp_path, data)
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append(f"replace {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    trainer.folder.write_config(trainer.config)
    trainer.folder.close()
    temporary = f".tmp-{os.getpid()}-config.toml"
    run = trainer.folder.path.name
    assert events == [f"sync {temporary}", f"replace {temporary}", f"sync {run}"]


# A disk that is full

MEGABYTES = """
mount -t tmpfs -o size=$1 none disk || exit 99
shift
code=0
"$@" --runs disk || code=$?
cp -a disk/. rescued
exit $code
"""
"""Runs a command on a disk of that size, visible only to it, and keeps what it wrote."""


def on_a_small_disk(size: str, *arguments: str | Path, cwd: Path) -> Any:
    (cwd / "disk").mkdir(exist_ok=True)
    (cwd / "rescued").mkdir(exist_ok=True)
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(
        ["unshare", "--mount", *root, "sh", "-c", MEGABYTES, "sh", size, *command(*arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def small_disks() -> bool:
    """Whether this process may mount a file system visible only to its children."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = ["unshare", "--mount", *root, "mount", "-t", "tmpfs", "none", tempfile.gettempdir()]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(mount, capture_output=True).returncode
    )


@pytest.mark.faults
@pytest.mark.skipif(not small_disks(), reason="no file system can be mounted here")
def test_disks_that_fill_up_at_any_point(data: Path, tmp_path: Path, tried: Tried) -> None:
    """From one too small for anything up to one that holds all but the last checkpoint."""
    straight = began(tmp_path / "straight", data)
    fitted(straight)
    sizes = [*range(100, 1000, 100), *range(1000, 3000, 250)]
    stops: set[int] = set()
    for size in sizes:
        place = tmp_path / str(size)
        place.mkdir()
        done = on_a_small_disk(f"{size}k", "train", "--data", data, *OPTIONS, cwd=place)
        assert done.returncode in (0, 2), (size, done.stdout, done.stderr)
        run = (place / "rescued").resolve() / "latest"
        if done.returncode:
            assert done.stderr.count("\n") == 1, done.stderr
            assert "No space left on device" in done.stderr
        if not (run / "checkpoints").is_dir() or not list((run / "checkpoints").glob("step-*")):
            assert done.returncode == 2
            continue
        assert done.returncode == 0 or "bytes are needed there" in done.stderr
        step = checkpoint.load(checkpoint.newest(run, say=_refuse)).meta.step
        stops.add(step)
        if step < 3 * STEPS_AN_EPOCH:
            fitted(resumed(run.resolve()))
        assert_same_end(run, straight.folder.path)
    assert len(stops) > 1, "the disks were all full at the same point"
    tried("a disk that is full (tmpfs of 0.1 to 3 MB)", len(sizes), "exit 2, the previous intact")


@pytest.mark.parametrize("often", [1, pytest.param(30, marks=pytest.mark.faults)])
def test_a_run_whose_disk_fails_now_and_then(
    often: int, data: Path, tmp_path: Path, tried: Tried
) -> None:
    """Each sync of a run fails once; resumed each time, it ends as if none had failed."""
    straight = began(tmp_path / "straight", data)
    fitted(straight)
    draws = random.Random(SEED)
    print(f"seed {SEED}")
    failures = 0
    for number in range(often):
        out = tmp_path / str(number)
        trainer = began(out, data)
        run = trainer.folder.path
        fitted(trainer, 1)
        while True:
            trainer = resumed(run)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "fsync", _failing_at(draws.randrange(20)))
                refused = _failed(trainer)
            if refused:
                failures += 1
                assert "Input/output error" in refused
                assert lines(run, "stop")[-1]["reason"] == refused
                if last(run).meta.epoch < 3:
                    continue
            break
        assert_same_end(run, straight.folder.path)
    assert failures > often / 2
    tried("an I/O error in a save, then --resume", failures, "bit for bit as if there were none")


def _failed(trainer: Trainer) -> str:
    """Train, and return the refusal of a save, if any."""
    try:
        fitted(trainer)
    except CheckpointError as error:
        return str(error)
    return ""


def _failing_at(number: int) -> Callable[[int], None]:
    real, calls = os.fsync, iter(range(1000))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    return fsync


# Damage


def fall_back(folder: Path, name: str, content: bytes) -> None:
    """With this content in `name` of step 9, `newest` gives step 8 and names the file."""
    said: list[str] = []
    victim = folder / "step-00000009" / name
    before = victim.read_bytes()
    victim.write_bytes(content)
    assert checkpoint.newest(folder, said.append).name == "step-00000008"
    assert len(said) == 1
    assert said[0].startswith(f"skipped a checkpoint: {victim}: ") or name == "state.json"
    assert str(victim.parent) in said[0]
    victim.write_bytes(before)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The folder of steps 8 and 9."""
    checkpoint.save(tmp_path, make(8))
    checkpoint.save(tmp_path, make(9))
    return tmp_path


@pytest.mark.parametrize("parts", [8, pytest.param(64, marks=pytest.mark.faults)])
def test_after_every_truncation_the_previous_one_counts(
    parts: int, two: Path, tried: Tried
) -> None:
    for name in FILES:
        whole = (two / "step-00000009" / name).read_bytes()
        for part in range(parts):
            fall_back(two, name, whole[: len(whole) * part // parts])
    tried("a file cut at every 1/64", parts * len(FILES), "named and passed over")


@pytest.mark.parametrize("flips", [64, pytest.param(1000, marks=pytest.mark.faults)])
def test_after_any_flipped_bit_the_previous_one_counts(flips: int, two: Path, tried: Tried) -> None:
    """The flips are spread evenly over each file."""
    draws = random.Random(SEED)
    print(f"seed {SEED}")
    for name in FILES:
        whole = (two / "step-00000009" / name).read_bytes()
        for number in range(flips):
            damaged = bytearray(whole)
            bit = int((number + draws.random()) / flips * 8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            fall_back(two, name, bytes(damaged))
    tried("one flipped bit", flips * len(FILES), "named and passed over")


def test_after_files_that_changed_places_the_previous_one_counts(two: Path) -> None:
    newer = two / "step-00000009"
    contents = {name: (newer / name).read_bytes() for name in FILES}
    for one in FILES:
        for other in set(FILES) - {one}:
            fall_back(two, one, contents[other])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("replace", [_pipe, _link, _folder, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_passed_over(
    name: str, replace: Callable[[Path], None], two: Path
) -> None:
    said: list[str] = []
    replace(two / "step-00000009" / name)
    assert checkpoint.newest(two, said.append).name == "step-00000008"
    assert str(two / "step-00000009" / name) in said[0]


def test_resume_passes_over_a_damaged_one_and_keeps_what_comes_after(
    data: Path, tmp_path: Path
) -> None:
    """Checkpoints saved before the damaged step is reached again are never pruned in its favour."""
    trainer = began(tmp_path, data, keep=1)
    fitted(trainer, 9)
    run = trainer.folder.path
    assert sorted(path.name[-2:] for path in (run / "checkpoints").iterdir()) == ["06", "09"]
    (run / "checkpoints" / "step-00000009" / "mean.safetensors").write_bytes(b"")
    for stop in (7, 8):
        listener = Listener()
        trainer = resumed(run, listener)
        assert trainer.at.step == stop - 1
        (warning,) = listener.warned
        assert "mean.safetensors: has 0 bytes" in warning
        fitted(trainer, stop)
        assert last_quietly(run).meta.step == stop
    fitted(resumed(run, Listener()), 9)
    assert last(run).meta.step == 9


def last_quietly(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoint.newest(run, say=lambda _: None))


@pytest.mark.faults
def test_resume_after_any_damage(data: Path, tmp_path: Path, tried: Tried) -> None:
    """One file of the newest checkpoint, or the log, is cut, flipped or gone; the run goes on."""
    straight = began(tmp_path / "straight", data)
    fitted(straight)
    begun = began(tmp_path / "begun", data)
    fitted(begun, 9)
    draws = random.Random(SEED)
    print(f"seed {SEED}")
    times = 60
    for number in range(times):
        run = Path(shutil.copytree(begun.folder.path, tmp_path / str(number)))
        name = draws.choice([*(f"checkpoints/step-00000009/{each}" for each in FILES), "log.jsonl"])
        whole = (run / name).read_bytes()
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        content = draws.choice([whole[: draws.randrange(len(whole))], bytes(damaged)])
        (run / name).write_bytes(content)
        listener = Listener()
        trainer = resumed(run, listener)
        assert trainer.at.step == (9 if name == "log.jsonl" else STEPS_AN_EPOCH)
        assert [name in sentence for sentence in listener.warned] == [True] * (name != "log.jsonl")
        fitted(trainer)
        assert_same_end(run, straight.folder.path)
        History.read(run / "log.jsonl")
        shutil.rmtree(run)
    tried("a damaged checkpoint or log, then --resume", times, "bit for bit as if undamaged")


@pytest.mark.parametrize("flips", [300, pytest.param(5000, marks=pytest.mark.faults)])
def test_a_damaged_log_is_read_as_far_as_it_goes(
    flips: int, data: Path, tmp_path: Path, tried: Tried
) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 9)
    log = trainer.folder.path / "log.jsonl"
    whole, lines_there = log.read_bytes(), len(History.read(log).steps)
    draws = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(flips):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] = draws.randrange(256)
        log.write_bytes(damaged)
        assert len(History.read(log).steps) >= lines_there - 2  # two, where a newline went
    for odd in (b"3\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"kind": "resume"}\n'):
        log.write_bytes(whole + odd)
        assert len(History.read(log).steps) == lines_there
    tried("a damaged byte in log.jsonl", flips, "the other lines are read")


def test_an_epoch_that_was_logged_twice_counts_once(data: Path, tmp_path: Path) -> None:
    """Saved by a signal in the test, logged, and killed before the epoch's own checkpoint."""
    trainer = began(tmp_path, data)
    fitted(trainer, STEPS_AN_EPOCH)
    log = trainer.folder.path / "log.jsonl"
    (epoch,) = (line for line in log.read_text().splitlines() if '"kind": "epoch"' in line)
    history = History.read(log)
    with log.open("a") as file:
        file.write(json.dumps({"kind": "resume", "step": STEPS_AN_EPOCH}) + "\n" + epoch + "\n")
    assert History.read(log) == history


# Forgeries: anyone who can write the files can also compute their hashes


def replaced(path: Path, name: str, content: bytes) -> str:
    """The refusal of a checkpoint whose state.json vouches for other contents of a file."""

    def vouch(document: dict[str, Any]) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        document["files"][name] = {"bytes": len(content), "sha256": sha256}

    (path / name).write_bytes(content)
    forge(path, vouch)
    return refusal(path)


def tensors(header: object, payload: bytes = b"") -> bytes:
    """A safetensors file with that header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + payload


def entry(*shape: int, kind: str = "F32", begin: int = 0, end: int = 4) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


HOSTILE = {
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 2^64-1 bytes": b"\xff" * 16,
    "header of 200 MB, not there": struct.pack("<Q", 200_000_000) + b"{}",
    "header cut": struct.pack("<Q", 10) + b"{}",
    "no header": b"",
    "overlapping": tensors({"a": entry(1), "b": entry(1)}, bytes(4)),
    "beyond the end": tensors({"a": entry(2, end=8)}, bytes(4)),
    "backwards": tensors({"a": entry(1, begin=4, end=0)}, bytes(4)),
    "negative": tensors({"a": entry(1, begin=-4, end=0)}, bytes(4)),
    "a hole": tensors({"a": entry(1, begin=4, end=8)}, bytes(8)),
    "bytes left over": tensors({"a": entry(1)}, bytes(5)),
    "a size that overflows": tensors({"a": entry(2**63, 2, end=0)}),
    "nothing, of a huge shape": tensors({"a": entry(2**40, 0, 2**40, end=0)}),
    "a hundred dimensions": tensors({"a": entry(*[1] * 100)}, bytes(4)),
    "deep JSON": tensors(b'{"a":' + b"[" * 100_000),
    "deep JSON in metadata": tensors(b'{"__metadata__":' + b'{"a":' * 100_000),
    "metadata of numbers": tensors({"__metadata__": {"a": 3}, "a": entry(1)}, bytes(4)),
    "a header of null": tensors(b"null"),
    "a header that is no UTF-8": tensors(b'{"\xff": 3}'),
    "bfloat16": tensors({"a": entry(1, kind="BF16", end=2)}, bytes(2)),
    "eight bits": tensors({"a": entry(1, kind="F8_E4M3", end=1)}, bytes(1)),
    "complex": tensors({"a": entry(1, kind="C64", end=8)}, bytes(8)),
    "objects": tensors({"a": entry(1, kind="O", end=8)}, bytes(8)),
    "no tensor": tensors({}),
    "a name that leads elsewhere": tensors({"../../x": entry(1)}, bytes(4)),
    "a name that redraws the screen": tensors({"\x1b[2J": entry(1, kind="I32")}, bytes(4)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tensors_are_refused(content: bytes, tmp_path: Path) -> None:
    for name in FILES[:3]:
        sentence = replaced(checkpoint.save(tmp_path, make(7)), name, content)
        assert "\x1b" not in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


@pytest.mark.slow
def test_a_header_of_200_mb_is_refused(tmp_path: Path) -> None:
    """A complete header: blanks are valid JSON, so only its size is wrong."""
    content = struct.pack("<Q", 200_000_000) + b"{}".ljust(200_000_000)
    sentence = replaced(checkpoint.save(tmp_path, make(7)), FILES[0], content)
    assert "no safetensors file" in sentence


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_unpickled(name: str, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, make(7))
    touched = tmp_path / "touched"
    bait = pickle.dumps(Trap(touched))
    archive = io.BytesIO()
    np.savez(archive, **{"conv1.w": np.array([Trap(touched)], object)})  # type: ignore[arg-type]
    for content in (bait, archive.getvalue()):
        if name == "state.json":
            (path / name).write_bytes(content)
            refusal(path)
        else:
            replaced(path, name, content)
    assert not touched.exists()
    pickle.loads(bait)
    assert touched.exists(), "the trap would not have shown it"


@pytest.mark.parametrize("size", [-(2**63), -5, -2, -1, 0, 2**31, 2**62, 2**63, 10**30, 1e300])
def test_no_size_that_is_claimed_is_believed(size: float, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, make(7))
    for name in FILES[:3]:
        forge(path, lambda document, name=name: document["files"][name].update(bytes=size))  # type: ignore[misc]
        assert "were expected" in refusal(path)


ODD: dict[str, list[Any]] = {
    "net": [3],
    **{key: [-1, 1.5, "7", None] for key in ("step", "epoch", "classes")},
    "class_names": [[1], [["a"]], "abc", None, 3],
    "input_shape": [[1, 2], [1, 2, "3"], [1, 2, -3], "abc", {}],
    **{key: [[]] for key in ("net_args", "config", "metrics")},
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ODD.items() for value in values]
)
def test_what_a_state_says_is_of_the_right_kind(name: str, value: object, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, make(7))
    forge(path, lambda document: document["meta"].update({name: value}))
    assert "is not the state of a checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "twelve"},
        {"seen": -8},
        {"epoch": 1.5},
        {"best_step": "../../x"},
        {"best_error": None},
        {"epoch_sums": {"images": [], "loss": 0, "top1_error": 0, "top5_error": 0}},
        {"window_sums": 3},
        {"losses": {"blocks": [[1]]}},
        {"plateau": []},
        {"surprise": 1},
    ],
)
def test_where_a_run_stood_is_of_the_right_kind(
    change: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 1)
    metrics = last(trainer.folder.path).meta.metrics
    assert Position.from_mapping(metrics).step == 1
    path = checkpoint.newest(trainer.folder.path)
    forge(path, lambda document: document["meta"]["metrics"].update(change))
    with pytest.raises(CheckpointError, match=r"does not say (where|how)") as caught:
        resumed(trainer.folder.path)
    assert "\n" not in str(caught.value)


def test_parameters_of_another_network_are_refused(data: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 1)
    run = trainer.folder.path
    whole = last(run)
    odd: dict[str, Any] = {
        "one less": {name: value for name, value in whole.params.items() if name != "fc6.b"},
        "another shape": whole.params | {"fc6.b": np.zeros(5, np.float32)},
        "one more": whole.params | {"../../x": np.zeros(5, np.float32)},
    }
    for params in odd.values():
        checkpoint.save(
            run / "checkpoints", checkpoint.Checkpoint(params, params, whole.mean, whole.meta)
        )
        with pytest.raises(PyalexnetError):
            resumed(run)


@pytest.mark.timeout(60)
def test_a_run_folder_leads_nowhere_else(data: Path, tmp_path: Path) -> None:
    """Links and pipes in place of a run's files are refused or replaced, never followed."""
    trainer = began(tmp_path / "runs", data)
    fitted(trainer, 1)
    run = trainer.folder.path
    victim = tmp_path / "victim"
    for name in ("lock", "log.jsonl"):
        for replace in (_pipe, _link):
            copy = Path(shutil.copytree(run, tmp_path / f"{name}-{replace.__name__}"))
            replace(copy / name)
            if replace is _link:
                (copy / name).unlink()
                (copy / name).symlink_to(victim)
                victim.write_text("mine")
            if (name, replace) == ("lock", _pipe):  # it can be locked as well
                resumed(copy).folder.close()
                continue
            with pytest.raises(PyalexnetError, match="cannot be written"):
                resumed(copy)
            assert replace is _pipe or victim.read_text() == "mine"
    for name in ("config.toml", "env.json"):
        copy = Path(shutil.copytree(run, tmp_path / name))
        victim.write_text((copy / name).read_text())
        (copy / name).unlink()
        (copy / name).symlink_to(victim)
        before = victim.read_text()
        resumed(copy, momentum=0.5).folder.close()
        assert victim.read_text() == before
        assert not (copy / name).is_symlink()
    copy = Path(shutil.copytree(run, tmp_path / "env-pipe"))
    _pipe(copy / "env.json")
    resumed(copy).folder.close()
    assert len(json.loads((copy / "env.json").read_text())["starts"]) == 1


# Permissions and locks


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_all_of_a_run_honours_the_umask(
    mask: int, file: int, folder: int, data: Path, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        trainer = began(tmp_path / "runs", data)
        fitted(trainer, 7)
        fitted(resumed(trainer.folder.path), 8)
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "runs").rglob("*")}
    assert len(found) > 20
    for path, mode in found.items():
        assert mode == (folder if path.is_dir() else file), path


@pytest.mark.every(9)
@pytest.mark.parametrize("how", ["new", "resumed", "checkpoints"])
def test_a_folder_that_cannot_be_written_stops_the_command_before_it_reads_data(
    how: str, data: Path, tmp_path: Path
) -> None:
    """The data are a pipe without a writer: opening it would block for ever."""
    runs, pipe = tmp_path / "runs", tmp_path / "data.npz"
    trainer = began(runs, data)
    fitted(trainer, 1)
    run = trainer.folder.path
    os.mkfifo(pipe)
    config = run / "config.toml"
    config.write_text(config.read_text().replace(str(data), str(pipe)))
    closed = {"new": runs, "resumed": run, "checkpoints": run / "checkpoints"}[how]
    closed.chmod(0o555)
    options = ("--data", pipe, *OPTIONS) if how == "new" else ("--resume", run)
    done = pyalexnet("train", *options, "--runs", runs, cwd=tmp_path, preexec_fn=_heed_modes)
    closed.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {closed}: cannot be written (Permission denied).\n"


def _heed_modes() -> None:
    """Take root's right to write anywhere away from the program."""
    if os.geteuid() == 0:
        drop_from_bounding_set, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, override, 0, 0, 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.faults)])
def test_of_many_processes_one_trains(
    rounds: int, data: Path, tmp_path: Path, tried: Tried
) -> None:
    """The others are refused; when it is killed the folder is free at once."""
    trainer = began(tmp_path / "runs", data, epochs=4000, chance_steps=0)
    fitted(trainer, 1)
    run = trainer.folder.path
    for _ in range(rounds):
        first = subprocess.Popen(
            command("train", "--resume", run), cwd=tmp_path, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert first.stdout is not None
            next(line for line in first.stdout if line[0].isdigit())
            second = pyalexnet("train", "--resume", run, cwd=tmp_path)
            assert second.returncode == 2
            assert f"the run folder {run} is in use by process {first.pid} on " in second.stderr
        finally:
            first.send_signal(signal.SIGKILL)
            first.communicate()
        RunFolder(run).close()
    tried("a second process in a run folder; the first killed by -9", rounds, "refused; then free")


@pytest.mark.faults
def test_a_race_for_a_run_folder_has_one_winner(data: Path, tmp_path: Path, tried: Tried) -> None:
    trainer = began(tmp_path / "runs", data)
    fitted(trainer, 1)
    program = """if True:
        import sys
        from pathlib import Path
        from pyalexnet.errors import RunError
        from pyalexnet.runs.run import RunFolder
        sys.stdin.readline()
        for _ in range(500):
            try:
                folder = RunFolder(Path(sys.argv[1]))
            except RunError:
                continue
            mine = folder.path / "mine"
            mine.mkdir()  # fails where another process holds the lock, too
            mine.rmdir()
            folder.close()
            print(".", end="")
    """
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, trainer.folder.path],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    outputs = [racer.communicate("\n", timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    held = sum(map(len, outputs))
    assert held > 500, "the lock was hardly ever taken"
    tried("four processes race for one run folder", held, "never two at once")


# Versions


@pytest.fixture
def knows_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets._NETS, "kept", kept_net)


@pytest.mark.usefixtures("knows_kept")
@pytest.mark.parametrize("folder", sorted(KEPT.iterdir()), ids=lambda path: path.name)
def test_runs_of_earlier_versions_go_on(folder: Path, tmp_path: Path) -> None:
    """They take the same steps as in their own version: same images, masks, rates, momentum.

    Another backend adds in another order, which moves a loss by about 1e-6 here; another seed, by
    more than 1e-2.
    """
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    straight = History.read(run / "straight.jsonl")
    reporter = Lines()
    trainer = resumed(run, reporter, data=str(run / "data.npz"))
    assert "changed   backend: numpy -> cpu" in reporter.said  # there was no other for processors
    assert trainer.at.step == STOPPED
    fitted(trainer)
    assert trainer.at.step == STEPS
    history = History.read(run / "log.jsonl")
    assert [at for at, _ in history.steps] == [at for at, _ in straight.steps][STOPPED:]
    assert history.rates == straight.rates[STOPPED:]
    for (_, now), (_, then) in zip(history.steps, straight.steps[STOPPED:], strict=True):
        assert now.loss == pytest.approx(then.loss, rel=1e-4)
        assert now.top1_error == then.top1_error
    assert len(history.epochs) == 2
    assert Trained.load(run, backend="cpu").meta.class_names == ("0", "1", "2", "3")


@pytest.mark.usefixtures("knows_kept")
def test_a_run_of_a_later_version_is_refused_by_its_name(tmp_path: Path) -> None:
    run = Path(shutil.copytree(KEPT / "format-1-options", tmp_path / "run"))
    state = run / "checkpoints" / f"step-{STOPPED:08d}" / "state.json"
    document = json.loads(state.read_text())
    document.update(format=checkpoint.FORMAT + 1, pyalexnet="7.8.9\n\x1b[2J", files="elsewhere")
    state.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"written by pyalexnet 7\.8\.9\?\?\[2J in") as caught:
        resumed(run)
    assert caught.value.args[0].isprintable()
