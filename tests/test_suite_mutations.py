"""Whether the tests would notice an accident: one change at a time to a copy of the package.

A slip that no test notices will be made one day. Those here are of the usual kinds: a line lost in
a merge, a shortcut, a state forgotten. A mutation whose text is no longer in the source also fails,
and has to be updated.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyalexnet

HERE = Path(__file__).parent
PACKAGE = Path(pyalexnet.__file__).parent


@dataclass(frozen=True)
class Mutation:
    """What goes wrong, where, how, and the test that has to notice it."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    test: str

    def __str__(self) -> str:
        return self.name


def mutation(name: str, file: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, file, ((old, new),), test)


IN_PLACE = Mutation(
    "checkpoint written in place",
    "runs/checkpoint.py",
    (
        (
            '    temporary = folder / f".tmp-{target.name}-{os.getpid()}"\n',
            "    temporary = target\n",
        ),
        ("        temporary.mkdir()\n", "        temporary.mkdir(exist_ok=True)\n"),
        ("files.create(temporary / name, content)", "(temporary / name).write_bytes(content)"),
        ("        _move(temporary, target)\n", "        sync_folder(folder)\n"),
    ),
    "test_checkpoint.py::test_a_failing_write_leaves_what_was_there",
)

SYNCED = "test_checkpoint.py::test_everything_is_synced_in_the_order_that_survives_a_power_cut"
RESUMED = "test_resume.py::test_resumed_run_is_bitwise_equal"
SHARDED = "test_ranks_data.py::test_bits_depend_on_the_number_of_shards_alone"
VIEWED = "test_views.py::test_a_view_depends_on_seed_epoch_and_image_alone"
ORDERED = "test_data_dataset.py::test_order_is_a_permutation_that_depends_on_seed_and_epoch"
MASKED = "test_net.py::test_masks_depend_on_step_and_seed"

MUTATIONS = (
    IN_PLACE,
    mutation(
        "file of a checkpoint not synced",
        "files.py",
        "        os.fsync(stream.fileno())\n",
        "",
        SYNCED,
    ),
    mutation(
        "folder of the checkpoints not synced",
        "runs/checkpoint.py",
        "    sync_folder(target.parent)\n",
        "",
        SYNCED,
    ),
    mutation(
        "SHA-256 of a checkpoint's file not compared",
        "runs/checkpoint.py",
        "    if hashlib.sha256(raw).hexdigest() != sha256:\n",
        "    if False:\n",
        "test_checkpoint.py::test_every_flipped_bit_is_refused",
    ),
    mutation(
        "damaged checkpoint not passed over",
        "runs/checkpoint.py",
        "            faults.append(str(error))\n            continue\n",
        "            raise\n",
        "test_checkpoint.py::test_newest_falls_back_and_says_so",
    ),
    mutation(
        "best checkpoint deleted like the others",
        "runs/checkpoint.py",
        "        if number == best:\n            continue\n",
        "",
        "test_checkpoint.py::test_prune_keeps_the_newest_and_the_best",
    ),
    mutation(
        "dropout ignores the step",
        "step/program.py",
        '"step": self._steps[call.part]',
        '"step": 0',
        MASKED,
    ),
    mutation(
        "dropout ignores the seed",
        "step/program.py",
        '"seed": self._seed',
        '"seed": 0',
        MASKED,
    ),
    mutation(
        "augmentation ignores the seed",
        "data/views.py",
        "seed=seed, step=epoch, layer=_CROP",
        "seed=0, step=epoch, layer=_CROP",
        VIEWED,
    ),
    mutation(
        "augmentation ignores the epoch",
        "data/views.py",
        "seed=seed, step=epoch, layer=_CROP",
        "seed=seed, step=0, layer=_CROP",
        VIEWED,
    ),
    mutation(
        "colour jitter ignores the epoch",
        "data/views.py",
        "seed=seed, step=epoch, layer=_JITTER",
        "seed=seed, step=0, layer=_JITTER",
        VIEWED,
    ),
    mutation(
        "every epoch in the same order",
        "data/dataset.py",
        "np.argsort(_draws(n, seed, epoch)",
        "np.argsort(_draws(n, seed, 0)",
        ORDERED,
    ),
    mutation(
        "resume forgets the images seen",
        "training/course.py",
        "validated(cls, values)",
        'validated(cls, {**values, "seen": 0})',
        RESUMED,
    ),
    mutation(
        "resume forgets the momentum",
        "training/train.py",
        "        self.sgd.load(momentum)\n",
        "",
        RESUMED,
    ),
    mutation(
        "resume forgets the losses at chance",
        "training/course.py",
        "validated(cls, values)",
        'validated(cls, {**values, "losses": asdict(Losses())})',
        RESUMED,
    ),
    mutation(
        "resume forgets the plateau",
        "training/course.py",
        "validated(cls, values)",
        'validated(cls, {**values, "plateau": asdict(PlateauState())})',
        "test_start.py::test_a_plateau_is_resumed_where_it_stood",
    ),
    mutation(
        "loss that is not finite passes",
        "training/train.py",
        "            if not abs(loss) < _DIVERGED:",
        "            if False:",
        "test_train.py::test_infinite_loss_of_finite_outputs",
    ),
    mutation(
        "update that is not finite passes",
        "training/train.py",
        "            for part in self.net.parts:",
        "            for part in ():",
        "test_faults_numerics.py::test_met_in_the_same_step",
    ),
    mutation(
        "momentum that is not finite is saved",
        "training/train.py",
        '        self._check_finite(self.at.step, "the momentum of", momentum)\n',
        "",
        "test_train.py::test_spoilt_momentum_is_never_saved",
    ),
    mutation(
        "test loss that is not finite passes",
        "training/train.py",
        "        if scores is not None and not math.isfinite(scores.loss):\n",
        "        if False:\n",
        "test_faults_numerics.py::test_test_loss_that_is_not_finite",
    ),
    mutation(
        "smaller last batch counts like the others",
        "trained/evaluate.py",
        "results.append((len(labels), ",
        "results.append((1, ",
        "test_train.py::test_evaluation_weighs_a_smaller_last_batch",
    ),
    mutation(
        "labels of an operation not checked",
        "ops/softmax.py",
        "        if visible and not 0 <= labels.min() <= labels.max() < classes:\n",
        "        if False:\n",
        "test_refusals.py::test_label_that_is_no_class",
    ),
    mutation(
        "labels of a dataset not checked",
        "data/dataset.py",
        "np.flatnonzero((split.labels < 0) | (split.labels >= count))",
        "np.flatnonzero(split.labels < 0)",
        "test_data_dataset.py::test_checked_refuses",
    ),
    mutation(
        "CRC of a pack's image not compared",
        "data/shard.py",
        "            if zlib.crc32(raw) != self.checks[number]:\n",
        "            if False:\n",
        "test_data_pack.py::test_any_flipped_bit_is_found",
    ),
    mutation(
        "any share of bad files passes",
        "data/listing.py",
        "        if len(bad) <= BAD_SHARE * images:\n",
        "        if True:\n",
        "test_data_folder.py::test_over_one_per_cent_stops",
    ),
    mutation(
        "folder 10 before folder 2",
        "data/listing.py",
        "class_folders(train)), key=natural)",
        "class_folders(train)))",
        "test_data_layouts.py::test_folder_10_is_class_10",
    ),
    mutation(
        "classes taken by their places",
        "data/dataset.py",
        "        places = classes.places(self.classes)\n",
        "        places = tuple(range(len(classes)))\n",
        "test_classes.py::test_numbers_in_any_order_give_the_same_scores",
    ),
    mutation(
        "last layer kept for other classes",
        "training/start.py",
        "same_classes=known is not None",
        "same_classes=True",
        "test_classes.py::test_a_child_keeps_the_last_layer_for_the_same_classes_only",
    ),
    mutation(
        "what is not used not told",
        "data/folder.py",
        "    unused = found.not_used()\n",
        '    unused = ""\n',
        "test_data_layouts.py::test_of_val_and_test_val_is_used_and_the_other_named",
    ),
    mutation(
        "pickles in an .npz are read",
        "data/npz.py",
        "allow_pickle=False",
        "allow_pickle=True",
        "test_data_npz.py",
    ),
    mutation(
        "torn line of a log stays",
        "runs/run.py",
        "            self._drop_torn_line()\n",
        "            pass\n",
        "test_train.py::test_torn_line_is_dropped_when_the_log_is_opened",
    ),
    mutation(
        "part of a line stays in the log",
        "runs/run.py",
        "            os.ftruncate(self._file, now.st_size)\n            raise\n",
        "            raise\n",
        "test_faults_environment.py::test_log_on_a_filling_disk",
    ),
    mutation(
        "run folder not locked",
        "runs/run.py",
        "        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        "test_run.py::test_second_process_is_refused_until_the_first_is_gone",
    ),
    mutation(
        "run folder that is gone is made anew",
        "training/train.py",
        "        self.folder.check_held()\n",
        "",
        "test_faults_environment.py::test_run_folder_gone_while_training",
    ),
    mutation(
        "signal forgotten",
        "training/interrupt.py",
        "        self.received = self.received or signal.Signals(number)\n",
        "",
        "test_resume.py::test_signal_finishes_the_step_and_saves",
    ),
    mutation(
        "dropout by the image's place in the rank's part of a batch",
        "step/program.py",
        'first = self._first + drawn.pop("shard")',
        'first = drawn.pop("shard")',
        SHARDED,
    ),
    mutation(
        "a rank counts its own positions",
        "training/train.py",
        ", self._look, positions=positions)",
        ", self._look)",
        "test_ranks_data.py::test_a_run_ends_with_the_same_bits_on_any_number_of_ranks",
    ),
    mutation(
        "sums in the order of a ring",
        "ranks/communicator.py",
        "            for left, right in zip(parts[::2], parts[1::2], strict=False):\n"
        "                self._add(left, right)\n"
        "            parts = parts[::2]\n",
        "            self._add(parts[0], parts[1])\n            del parts[1]\n",
        SHARDED,
    ),
    mutation(
        "every rank's clock decides when to save",
        "training/train.py",
        "if ranks.rank == 0 and time.perf_counter()",
        "if time.perf_counter()",
        "test_ranks_data.py::test_the_clock_of_rank_0_alone_decides_when_to_save",
    ),
    mutation(
        "ranks do not agree on when to save",
        "training/train.py",
        "self.interrupt.heed(ranks.most(asked))",
        "self.interrupt.heed(asked)",
        "test_ranks_data.py::test_the_clock_of_rank_0_alone_decides_when_to_save",
    ),
    mutation(
        "a rank stops for a signal of its own",
        "training/train.py",
        "if self.course.steps_left == 0 and not self._stops():",
        "if self.course.steps_left == 0 and not self.interrupt.received:",
        "test_ranks_data.py::test_a_signal_between_two_steps_stops_all",
    ),
    mutation(
        "a sum over ranks that no one waits for",
        "step/program.py",
        "awaited = [each for each in begun if each.precedes(call)]",
        "awaited = [each for each in begun[:0]]",
        "test_ranks_data.py::test_updates_wait_for_the_sums",
    ),
)

QUICK = (IN_PLACE, next(one for one in MUTATIONS if one.name == "resume forgets the images seen"))

# The import finder of an editable installation would lead away from the copy.
OWN_FINDER_ONLY = """\
import sys
sys.meta_path[:] = [one for one in sys.meta_path if "Redirecting" not in type(one).__name__]
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("mutated"))


def copied(root: Path) -> Path:
    """A copy of the package with its built modules, its tests and their settings."""
    unneeded = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "pyalexnet", ignore=unneeded)
    shutil.copytree(HERE, root / "tests", ignore=unneeded)
    shutil.copytree(HERE.parent / "bench", root / "bench", ignore=unneeded)  # the oracle
    shutil.copy(HERE.parent / "pyproject.toml", root)
    (root / "sitecustomize.py").write_text(OWN_FINDER_ONLY)
    for module in ("_cpu", "_cpu_v3", "_cpu_v4", "_sim", "_simcheck", "_cuda"):
        found = find_spec(f"pyalexnet.{module}")
        if found is not None and found.origin is not None:
            shutil.copy(found.origin, root / "pyalexnet")
    return root


def run_on(
    root: Path, tests: Sequence[str], backend: str = "cpu", *options: str
) -> tuple[int, str]:
    """Run tests on the copy; return pytest's exit code and output."""
    path = os.pathsep.join(map(str, (root, root / "tests")))
    settings = {"PYTHONPATH": path, "PYALEXNET_TEST_BACKENDS": backend}
    arguments = (
        # A mutation may cause a hang: that is seen, too.
        *("-q", "-x", "--tb=short", "--timeout", "60", "--timeout-method", "thread"),
        *("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestCacheWarning"),
        *options,
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *(f"tests/{test}" for test in tests)],
        cwd=root,
        env={**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def mutated(one: Mutation, text: str) -> str:
    """The file's text after the change."""
    for old, new in one.changes:
        assert text.count(old) == 1, f"{one}: {one.file} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


def is_seen(one: Mutation, root: Path) -> None:
    """Check that the change makes the test fail, and causes no other kind of error."""
    path = root / "pyalexnet" / one.file
    good = path.read_text()
    changed = mutated(one, good)
    path.write_text(changed)
    try:
        compile(changed, str(path), "exec")
        code, output = run_on(root, [one.test])
    finally:
        path.write_text(good)
    assert code == 1, f"{one}: no failure of {one.test}, pytest exited with {code}\n{output}"


@pytest.mark.parametrize("one", MUTATIONS, ids=str)
def test_a_mutation_finds_its_text(one: Mutation) -> None:
    mutated(one, (PACKAGE / one.file).read_text())


@pytest.mark.slow
def test_the_copy_is_what_is_tested(copy: Path) -> None:
    """And without a change nothing in it fails."""
    probe = copy / "tests" / "test_probe_of_the_copy.py"
    probe.write_text(
        "import pyalexnet\n"
        "def test_where() -> None:\n"
        f"    assert pyalexnet.__file__.startswith({str(copy)!r})\n"
    )
    code, output = run_on(copy, [probe.name, *(one.test for one in QUICK)])
    assert code == 0, output
    probe.unlink()


@pytest.mark.every(4)
@pytest.mark.parametrize("one", QUICK, ids=str)
def test_a_mutation_is_seen(one: Mutation, copy: Path) -> None:
    is_seen(one, copy)


@pytest.mark.faults
def test_without_a_mutation_nothing_fails(copy: Path) -> None:
    code, output = run_on(copy, sorted({one.test for one in MUTATIONS}))
    assert code == 0, output


@pytest.mark.faults
@pytest.mark.parametrize("one", MUTATIONS, ids=str)
def test_every_mutation_is_seen(one: Mutation, copy: Path, tried: Callable[..., None]) -> None:
    is_seen(one, copy)
    tried(f"mutation: {one}", 1, f"seen by {one.test.partition('::')[2] or one.test}")
