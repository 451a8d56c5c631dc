"""How the loader handles reads that fail, hang or never end, and what it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_files import encoded, plain, write_class
from networks import files, npz, pictures, written
from pyalexnet import cli, data
from pyalexnet.backends import backend
from pyalexnet.data import decode, folder, pack, prepare, views
from pyalexnet.data.dataset import Images, Labels, Split
from pyalexnet.data.loader import Loader
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options
from pyalexnet.data.readers import GRACE, Readers
from pyalexnet.data.views import Views
from pyalexnet.errors import DataError
from pyalexnet.trained import load as trained
from pyalexnet.trained.load import Say, Trained
from pyalexnet.training import train
from training import Hook, began, environment, fitted, lines, photographs

SIDE, IMAGES, SHARD = 28, 100, 16

NOTICED = 5.0
"""Seconds within which a failure or hang must have ended a run."""

PATIENCE = 0.5

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
IN_MEMORY = Split(PIXELS, np.arange(50) % 4)


@pytest.fixture(autouse=True)
def no_reader_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while left := reading():
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def look(images: Labels, positions: Labels) -> Views:
    return views.centre(len(images), (12, 12), (12, 12), 3)


def batches(split: Split, size: int, workers: int, **more: Any) -> Iterator[Any]:
    loader = Loader(backend("cpu"), np.zeros((12, 12, 3), np.float32), (12, 12), False, workers)
    loader = Loader(**{**vars(loader), **more})
    return loader.batches(split, np.arange(len(split)), size, look)


class Odd(Split):
    """The split above, in which one image misbehaves when read."""

    def __init__(self, at: int, instead: Callable[[], object]) -> None:
        super().__init__(PIXELS, IN_MEMORY.labels)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "instead", instead)

    at: int
    instead: Callable[[], object]

    def read(self, indices: Labels, out: Images) -> None:
        if self.at in indices:
            self.instead()
        super().read(indices, out)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that reads wait for; it is set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


# ---------------------------------------------------------------------- reads that hang


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("at", [0, 30, 49])
def test_a_read_that_hangs_is_given_up_and_named(
    gate: threading.Event, workers: int, at: int
) -> None:
    feed = batches(Odd(at, gate.wait), 8, workers, patience=PATIENCE)
    for _ in range(at // 8):
        next(feed)
    begun = time.monotonic()
    with pytest.raises(DataError, match=rf"^images .*\b{at}\b.*: not read after 0.5 seconds; "):
        next(feed)
    assert PATIENCE <= time.monotonic() - begun < PATIENCE + GRACE + 1


def test_what_is_read_slowly_is_waited_for() -> None:
    """Each read takes most of the patience, and together they take far more."""
    split = Odd(-1, list)
    slow = split.read

    def read(indices: Labels, out: Images) -> None:
        time.sleep(PATIENCE * 0.6)
        slow(indices, out)

    object.__setattr__(split, "read", read)
    begun = time.monotonic()
    made = list(batches(split, 8, 1, patience=PATIENCE))
    assert time.monotonic() - begun > 2 * PATIENCE
    assert len(made) == 7


def test_an_interrupt_does_not_wait_for_a_read_that_hangs(gate: threading.Event) -> None:
    feed = batches(Odd(9, gate.wait), 8, 2)
    next(feed)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(feed)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 3


def test_a_timeout_of_the_system_is_not_taken_for_the_end_of_patience() -> None:
    def give_up() -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with pytest.raises(TimeoutError, match="timed out"):
        list(batches(Odd(20, give_up), 8, 2))


def test_a_file_of_a_folder_that_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    for name in ("ant", "bee"):
        write_class(tmp_path, name, 30)
    decode_into = folder._decode_into

    def hanging(path: Path, image: Images) -> str:
        if path.parts[-2:] == ("bee", "0011.png"):
            gate.wait()
        return decode_into(path, image)

    monkeypatch.setattr(folder, "_decode_into", hanging)
    monkeypatch.setattr(folder, "Readers", lambda most: Readers(most, PATIENCE))
    begun = time.monotonic()
    with pytest.raises(DataError, match=rf"^{tmp_path}/bee/0011.png: not read after 0.5 seconds"):
        data.load(tmp_path, image_size=(8, 8))
    assert time.monotonic() - begun < NOTICED


# In use, a network reads images itself, without the loader.


def impatient(most: int) -> Readers:
    return Readers(most, PATIENCE)


def test_a_batch_that_hangs_in_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(trained, "Readers", impatient)
    monkeypatch.setattr(Odd, "where", lambda _, indices: f"shards: {indices.tolist()}")
    run = Trained.load(written(tmp_path / "run"), backend="cpu")
    feed = run.batches(trained.Fitted(Odd(30, gate.wait), run.mean.shape), 8)
    for _ in range(3):
        next(feed)
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"^shards: \[24, .*\b30\b.*\]: not read after 0.5 sec"):
        next(feed)
    assert PATIENCE <= time.monotonic() - begun < PATIENCE + GRACE + 1


@pytest.mark.parametrize("bad", [None, lambda *_: None])
def test_an_image_file_that_hangs_in_use_is_named(
    bad: Say | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    """Even if bad files are skipped: a hanging read may be one of any number."""
    read_image = decode.read_image

    def hanging(path: Path, size: int) -> Images:
        if path.name == "002.png":
            gate.wait()
        return read_image(path, size)

    monkeypatch.setattr(trained, "read_image", hanging)
    monkeypatch.setattr(trained, "Readers", impatient)
    run = Trained.load(written(tmp_path / "run"), backend="cpu")
    paths = files(tmp_path / "images", pictures(5))
    with pytest.raises(DataError, match=rf"^{tmp_path}/images/.*002.png: not read after 0.5 s"):
        run.images(paths, bad)


HANGING = """
import time
from pyalexnet import cli
from pyalexnet.trained import load as trained
from pyalexnet.data.dataset import Split
from pyalexnet.data.readers import Readers

trained.Readers = lambda most: Readers(most, 0.5)
Split.read = lambda *_: time.sleep(600)
cli.main()
"""


def test_a_command_ends_whose_reads_never_do(tmp_path: Path) -> None:
    """At exit, the interpreter waits for every non-daemon thread."""
    run = written(tmp_path / "run", data=str(npz(tmp_path / "set.npz")))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGING, "evaluate", run, "--backend=cpu"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: images 0, 1, .*: not read after 0.5 sec.*\.\n", done.stderr)
    assert time.monotonic() - begun < NOTICED + 10


def test_patience_outlasts_a_process_that_is_stopped(gate: threading.Event) -> None:
    """Ctrl-Z, then fg: the time in between does not count.

    The clock continues while the process is stopped; the awaited read completes soon after.
    """
    script = (
        "import time\n"
        "from pyalexnet.data.readers import Readers\n"
        "with Readers(1, 1.4) as readers:\n"
        "    future = readers.begin(slow := lambda: [time.sleep(0.01) for _ in range(60)])\n"
        "    print('begun', flush=True)\n"
        "    readers.awaited(future, str)\n"
        "print('read')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.7)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "read\n"
    assert process.returncode == 0


# ---------------------------------------------------------------------- the whole command


@pytest.fixture(scope="module", params=pack.FORMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of several shards."""
    base = tmp_path_factory.mktemp(request.param)
    draws = np.random.default_rng(1)
    for part, count in (("train", IMAGES // 2), ("val", 8)):
        for label, name in enumerate(("ant", "bee")):
            images = base / "set" / part / name
            images.mkdir(parents=True)
            for number in range(count):
                shade = (int(draws.integers(256)), 200 * label, int(draws.integers(256)))
                (images / f"{number:03}.png").write_bytes(encoded(plain(shade, (30, 30))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "LARGEST_SHARD", SHARD)
        options = Options(Storage(SIDE, request.param))
        prepare.prepare(base / "set", base / "pack", options, workers=1)
    return base / "pack"


SCRIPT = """
import functools, os, sys
from pathlib import Path
from pyalexnet import cli, data
from pyalexnet.training import train
from pyalexnet.data.loader import Loader

patience, folder, fault = float(sys.argv.pop(1)), Path(sys.argv.pop(1)), sys.argv.pop(1)
load = data.load

def then_broken(*arguments, **options):
    dataset = load(*arguments, **options)
    shard = folder / "shards" / "train-00002.safetensors"
    if fault == "cut":
        os.truncate(shard, 600)
    elif fault == "gone":
        shard.unlink()
    else:  # a pipe into which nobody writes hangs when it is opened, as a dead server's file
        shard.unlink()
        os.mkfifo(shard)
    return dataset

data.load = then_broken
train.Loader = functools.partial(Loader, patience=patience)
cli.main()
"""


TRAIN = ("--net=alexnet-tiny", "--backend=cpu", "-b8")


def ended(tmp_path: Path, made: Path, fault: str, workers: int) -> tuple[str, float]:
    """The output of a run whose pack breaks after it was opened, and how long it took."""
    copy = shutil.copytree(made, tmp_path / "pack")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = (str(PATIENCE), copy, fault, "train", *TRAIN, f"--data={copy}")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, script, *arguments, f"-j{workers}", "--epochs=1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    seconds = time.monotonic() - begun
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    said = done.stderr.strip()
    assert f"error: {lines(tmp_path / 'runs' / 'latest', 'stop')[-1]['reason']}" == said
    return said, seconds


@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("fault", "workers", "part"),
    [
        ("cut", 3, r"train-00002\.safetensors: image \d+ is damaged \(its CRC-32 is not"),
        ("gone", 2, r"train-00002\.safetensors: image \d+ is damaged \(No such file"),
        ("hangs", 4, r"shards: .*train-00002\.safetensors image \d+.*: not read after 0.5 sec"),
    ],
)
def test_a_pack_that_breaks_under_a_run_ends_it(
    tmp_path: Path, made: Path, fault: str, workers: int, part: str
) -> None:
    """Exit code 2 and one sentence; with a mapped file it would die of SIGBUS, or never end."""
    reason, seconds = ended(tmp_path, made, fault, workers)
    assert re.search(part, reason)
    assert reason.endswith(".")
    # Starting Python and importing takes part of the time; nothing is drawn.
    assert seconds < NOTICED + 10


def test_a_read_that_raises_ends_the_run_at_once(
    tmp_path: Path,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard = pack.shard_path(made, "train", 3)
    raw = bytearray(shard.read_bytes())
    raw[-5] ^= 1  # in the last image
    number = data.load(made).train._shards[3].labels.size - 1  # type: ignore[attr-defined]
    copy = shutil.copytree(made, tmp_path / "pack")
    pack.shard_path(copy, "train", 3).write_bytes(raw)
    steps: list[float] = []
    step = train.Trainer._step

    def timed(*arguments: Any) -> None:
        step(*arguments)
        steps.append(time.monotonic())

    monkeypatch.setattr(train.Trainer, "_step", timed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyalexnet", "train", *TRAIN, f"--data={copy}", "-j3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert not steps or time.monotonic() - steps[-1] < NOTICED
    said = capsys.readouterr().err.splitlines()[-1]
    path = pack.shard_path(copy, "train", 3)
    assert said.startswith(f"error: {path}: image {number} is damaged (its CRC-32")


# ---------------------------------------------------------------------- memory


def resident() -> int:
    """Bytes of this process in memory, after garbage collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def grown(split: Split, workers: int, count: int, warm: int) -> float:
    """The relative growth of memory between batch `warm` and batch `count`, of one image each."""
    indices = np.arange(count) % len(split)
    height, width, channels = split.image_shape

    def whole(images: Labels, positions: Labels) -> Views:
        return views.centre(len(images), (height, width), (height, width), channels)

    mean = np.zeros(split.image_shape, np.float32)
    loader = Loader(backend("cpu"), mean, (height, width), False, workers)
    before = after = 0
    with contextlib.closing(loader.batches(split, indices, 1, whole)) as feed:
        for number, _ in enumerate(feed):
            if number == warm:
                before = resident()
            elif number == count - 1:
                after = resident()
    return after / before - 1


QUICK, LONG, WARM = 5_000, 100_000, 1_000

FLAT = 0.01
"""The relative growth of memory that is allowed."""


@pytest.mark.every(9)
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat(workers: int) -> None:
    assert grown(IN_MEMORY, workers, QUICK, WARM) < FLAT


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_where_a_pack_is_read(made: Path, workers: int) -> None:
    assert grown(data.load(made).train, workers, QUICK, WARM) < FLAT


def test_an_open_pack_has_nothing_mapped(made: Path) -> None:
    """A mapping would grow as it is read, and its loss would end the process by a signal."""
    split = data.load(made).train
    split.read(np.arange(len(split)), np.zeros((len(split), SIDE, SIDE, 3), np.uint8))
    assert ".safetensors" not in Path("/proc/self/maps").read_text()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_memory_is_flat_over_a_hundred_thousand_batches(tried: Callable[..., None]) -> None:
    share = grown(IN_MEMORY, 2, LONG, WARM)
    assert share < FLAT
    tried("batches of one image of a set in memory", LONG, f"memory {share:+.2%}")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_memory_is_flat_over_a_hundred_thousand_batches_of_a_pack(
    made: Path, tried: Callable[..., None]
) -> None:
    share = grown(data.load(made).train, 2, LONG, WARM)
    assert share < FLAT
    form = pack.read_table(made).storage.form
    tried(f"batches of one image of a pack, {form}", LONG, f"memory {share:+.2%}")


def growth_in_training(tmp_path: Path, steps: int, warm: int) -> float:
    """The relative growth of memory between two steps of a run."""
    seen: dict[int, int] = {}

    def note(step: int) -> None:
        if step in (warm, steps):
            seen[step] = resident()

    epochs = steps / 6 + 1
    options = {"epochs": epochs, "workers": 2, "chance_steps": 0, "keep": 1}
    run = began(tmp_path / "runs", photographs(tmp_path / "set.npz"), Hook(note), **options)
    fitted(run, steps)
    return seen[steps] / seen[warm] - 1


@pytest.mark.slow
def test_memory_is_flat_in_training(tmp_path: Path) -> None:
    """Through 20 epochs, with a test and a checkpoint at the end of each."""
    assert growth_in_training(tmp_path, 200, 80) < FLAT


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_memory_is_flat_over_a_thousand_steps(tmp_path: Path, tried: Callable[..., None]) -> None:
    share = growth_in_training(tmp_path, 1_000, 200)
    assert share < FLAT
    tried("steps of a small network", 1_000, f"memory {share:+.2%}")


# ---------------------------------------------------------------------- the threads themselves


def test_what_has_not_begun_is_dropped(gate: threading.Event) -> None:
    done: list[int] = []

    def at_the_gate() -> None:
        gate.wait()
        done.append(0)

    with Readers(1) as team:
        team.begin(at_the_gate)
        for number in range(1, 100):
            team.begin(done.append, number)
        time.sleep(0.05)
    assert len(reading()) == 1, "the one that hangs"
    gate.set()
    reading()[0].join(10)
    assert done == [0]


def test_no_more_threads_than_there_is_work(gate: threading.Event) -> None:
    with Readers(8) as team:
        team.begin(gate.wait)
        team.begin(gate.wait)
        assert len(reading()) == 2
        for _ in range(20):
            team.begin(gate.wait)
        assert len(reading()) == 8
        gate.set()
    assert not reading()


def test_the_process_ends_although_a_reader_hangs() -> None:
    script = (
        "import threading\n"
        "from pyalexnet.data.readers import Readers\n"
        "with Readers(2, 0.2) as readers:\n"
        "    readers.awaited(readers.begin(threading.Event().wait), lambda: 'a file')\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "DataError: a file: not read after 0.2 seconds; a disk" in done.stderr
    assert "Fatal" not in done.stderr
    assert time.monotonic() - begun < NOTICED + 5
