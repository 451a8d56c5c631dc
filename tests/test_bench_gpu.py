"""`make gpu` from end to end without a GPU: its stages run fake programs that hang, crash and leave
children behind; and the families of kernels that come first run on the emulation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pyalexnet
from bench import (
    calls,
    cli,
    compiler,
    environment,
    families,
    gpu,
    process,
    record,
    sanitizer,
    stages,
    suites,
)
from bench.process import Ended, Job
from bench.results import Results, StageRow
from pyalexnet.backends.sim import SimBackend
from pyalexnet.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parent.parent
REAL = sys.executable
# Never returns, whatever signal it gets: like a call that waits for a kernel that does not end.
HANGS = (
    "import ctypes; c, m = ctypes.CDLL(None), ctypes.create_string_buffer(64); "
    "c.pthread_mutex_lock(m); c.pthread_mutex_lock(m)"
)


def script(folder: Path, name: str, text: str, interpreter: str = "/bin/sh") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!{interpreter}\n{text}")
    (folder / name).chmod(0o755)
    return folder / name


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def children(folder: Path) -> list[int]:
    """The processes whose numbers are in that folder, one per file."""
    return [int(path.read_text()) for path in folder.glob("*.pid")]


def gone(pids: list[int]) -> bool:
    """Whether none is left, at once or as soon as the kernel has reaped it."""
    until = time.monotonic() + 5
    while any(map(lives, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(lives, pids))


# Programs with a limit


def job(name: str, code: str, folder: Path, limit: float = 20.0) -> Job:
    return Job(name, (sys.executable, "-c", code), limit, folder / f"{name}.txt")


def test_what_hangs_in_c_is_stopped_and_the_next_has_its_turn(tmp_path: Path) -> None:
    jobs = [job("hangs", HANGS, tmp_path, 1.0), job("next", "print('there')", tmp_path)]
    first, second = process.run(jobs, tmp_path, 20.0)
    assert (first.code, first.overran, second.code) == (None, True, 0)
    assert 0.9 < first.seconds < 4
    assert second.said() == "there\n"


def test_what_is_asked_to_end_says_where_it_was(tmp_path: Path) -> None:
    (ended,) = process.run([job("waits", "import time; time.sleep(60)", tmp_path, 2)], tmp_path, 9)
    assert ended.code is None and ended.seconds < 60
    assert "KeyboardInterrupt" in ended.said()


@pytest.mark.parametrize("parent", ["pass", HANGS], ids=["ends", "hangs"])
def test_no_child_outlives_its_parent(parent: str, tmp_path: Path) -> None:
    """Neither a parent that has ended, as compute-sanitizer may, nor one that was stopped."""
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    at = tmp_path / "child.pid"
    begin = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}, '{at}'])"
        f"\nwhile not __import__('pathlib').Path({str(at)!r}).exists(): time.sleep(0.01)\n{parent}"
    )
    (ended,) = process.run([job("parent", begin, tmp_path, 3.0)], tmp_path, 9.0)
    assert ended.code == (0 if parent == "pass" else None)
    assert children(tmp_path) and gone(children(tmp_path))


def test_many_at_once_within_the_time(tmp_path: Path) -> None:
    """Programs with no time left are not started."""
    jobs = [job(f"job{n}", "import time; time.sleep(60)", tmp_path) for n in range(5)]
    found = list(process.run(jobs, tmp_path, 1.5, at_once=3))
    assert [one.begun for one in found].count(True) == 3
    assert all(one.code is None and not one.overran for one in found)
    assert {one.said() for one in found if not one.begun} == {""}


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    note = f"import os; open('{tmp_path}/one.pid', 'w').write(str(os.getpid())); {HANGS}"
    jobs = [job("hangs", note, tmp_path), job("short", "pass", tmp_path)]
    running = process.run(jobs, tmp_path, 20.0, at_once=2)
    assert next(running).job.name == "short"
    while not children(tmp_path):
        time.sleep(0.01)
    running.close()
    assert gone(children(tmp_path))


# The whole of it

FAKE = r"""
import json, os, pathlib, subprocess, sys, time
arguments = sys.argv[1:]
sys.path.insert(0, {root!r})
told = pathlib.Path({told!r})

def leave_a_child(name):
    one = subprocess.Popen(["sleep", "60"])
    (told / f"{{name}}.pid").write_text(str(one.pid))

def check(family, wrong=None):
    print(json.dumps(dict(family=family, case="a case", wrong=wrong, seconds=0.1)), flush=True)

with (told / "commands").open("a") as file:
    print(" ".join(arguments), file=file)
module = arguments[1]
if module == "bench.families" and len(arguments) == 2:
    print(json.dumps(dict(name="A Card (TM)", hopper=True, versions=dict(cupy="14.9"))))
elif module == "bench.families":
    family = arguments[-1]
    if family == "mma":
        check(family)
        {hangs}
    if family == "plain":
        check(family, "y is off by 1.0e-01 of its norm")
        sys.exit(1)
    if family == "fp32":
        leave_a_child(family)
    if family == "exchange":
        print("ImportError: no library is called so")
        sys.exit(1)
    if family == "wgmma-fprop":
        print("an illegal instruction was met")
        os.abort()
    check(family)
elif module == "bench":
    part = arguments[arguments.index("--part") + 1]
    if part == "bf16":
        from bench import record
        from bench.results import StepRow, Timing
        with record.edited(pathlib.Path(arguments[-1])) as results:
            time_ = Timing(0.002, 0.002, 0.002, 0.002, 20, 0.01)
            row = StepRow("net", "synthetic", 128, "bf16", time_, None, ())
            results.steps.append(row)
    if part == "loader":
        print("RuntimeError: no module is called so")
        sys.exit(1)
    if part == "compile":
        print("no Triton here")
        sys.exit(3)
    if part == "jax":
        leave_a_child(part)
        print("compiling")
        {hangs}
elif module == "pytest":
    print("FAILED tests/test_conv.py::test_it" if "conv" in " ".join(arguments) else "")
    print("1 failed, 11 passed in 2.0s" if "conv" in " ".join(arguments) else "12 passed in 2.0s")
    sys.exit("test_conv.py" in " ".join(arguments) and "--ignore" not in " ".join(arguments))
"""

SANITIZER = """
case "$*" in
  *planted*) exit 86 ;;
esac
echo "unbuffered: $PYTHONUNBUFFERED, backends: $PYALEXNET_TEST_BACKENDS"
case "$*" in
  *memcheck*plain*) exit 86 ;;
  *memcheck*mma*) sleep 60 & echo $! > {told}/sanitizer.pid; wait ;;
esac
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fake GPU, interpreter and sanitizer that act out failures; the folder of their notes."""
    told = tmp_path / "told"
    told.mkdir()
    text = FAKE.format(root=str(ROOT), told=str(told), hangs=HANGS)
    python = script(tmp_path / "bin", "python", text, sys.executable)
    script(tmp_path / "bin", "nvidia-smi", 'echo "GPU 0: A Card (TM)"\n')
    script(tmp_path / "bin", "compute-sanitizer", SANITIZER.format(told=told))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(stages, "_LEAST", 1.0)
    monkeypatch.setattr(stages, "installed", lambda name: name != "torch")
    monkeypatch.setattr(sanitizer, "planted_program", lambda build, _: build / "planted")
    yield told
    assert gone(children(told))


@pytest.mark.slow
def test_every_stage_is_judged_and_the_record_has_all(
    fakes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hangs, crashes and failures end only their own stage, and no process outlives a stage."""
    hang = {
        "families": 0.1,
        "sanitizer": 0.05,
        "jax": 0.05,
    }  # of 120 s; the others end by themselves
    monkeypatch.setattr(
        stages,
        "STAGES",
        tuple(replace(one, share=hang.get(one.name, 1.0)) for one in stages.STAGES),
    )
    assert gpu.main(["--minutes", "2", "--record", str(tmp_path / "records")]) == 1
    (where,) = (tmp_path / "records").iterdir()
    assert where.name.endswith("-a-card-tm")
    found = record.read(where)
    assert [one.name for one in found.stages] == [one.name for one in stages.STAGES]
    state = {one.name: one.state for one in found.stages}
    assert (state["families"], state["bf16"], state["jax"]) == ("done", "done", "stopped")
    assert state["kernels"] == state["compile"] == "left out"
    wrong, left_out = "\n".join(found.failures), "\n".join(found.left_out)
    for sentence in (
        r"family mma did not end in \d+ s",
        r"family wgmma-fprop ended with exit code -6; its last words",
        r"family exchange ended with exit code 1; its last words: ImportError: no library",
        r"loader ended with exit code 1; its last words: RuntimeError: no module",
        r"plain, a case: y is off by 1.0e-01 of its norm\.",
        r"tests of products failed \(pytest's exit code is 1\)",
        r"compute-sanitizer memcheck, plain: found",
    ):
        assert re.search(sentence, wrong), (sentence, wrong)
    for sentence in (
        r"^Nothing is timed beside PyTorch: not installed\.$",
        r"^kernels: PyTorch is not installed\.$",
        r"^jax: stopped after \d+ s; its last words: compiling",
        r"^sanitizer, memcheck, late: .*mma",
    ):
        assert re.search(sentence, left_out, re.MULTILINE), (sentence, left_out)
    assert found.environment["cupy"] == "14.9"
    assert found.environment["Hopper's main loop"] == "in use"
    assert {one.family for one in found.checks} > {"mma", "fp32", "plain", "plan"}
    said, document = capsys.readouterr().err, (where / "README.md").read_text()
    assert "pip install '.[gpu-peers]'" in said or "install .[gpu-peers]" in said
    assert "net step, synthetic, batch 128, bf16: 2.000 ms, no peer" in said
    for sentence in [*found.failures, *found.left_out]:
        assert sentence in document and sentence in said
    assert said.rstrip().endswith(f"the record is {where}")
    assert "compiling" in (where / "logs" / "jax.txt").read_text()
    looked_at = (where / "logs" / "sanitizer-memcheck-plain.txt").read_text()
    assert looked_at == "unbuffered: 1, backends: cuda\n"
    ran = (fakes / "commands").read_text()
    assert ran.index("bench.families plan") < ran.index("--part bf16") < ran.index("pytest")


@pytest.mark.slow
def test_too_little_time_leaves_out_and_says_so(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is not a failure: the exit code is 0."""
    monkeypatch.setattr(gpu, "_CLOSING", 60.0)
    assert gpu.main(["--minutes", "0.2", "--record", str(tmp_path / "records")]) == 0
    found = record.read(next((tmp_path / "records").iterdir()))
    assert {one.state for one in found.stages} == {"left out"}
    assert "bf16: no time was left." in found.left_out
    assert "torch" in found.missing and not found.failures
    assert gpu.main(["--minutes", "0.2", "--record", str(tmp_path / "records")]) == 0
    assert len([*(tmp_path / "records").iterdir()]) == 2  # the first one is still there


def test_what_came_before_counts(fakes: Path, tmp_path: Path) -> None:
    """Installing and compiling count, from the starting time given by `make`."""
    begun = str(time.time() - 118.5)
    kept = str(tmp_path / "records")
    assert gpu.main(["--minutes", "2", "--begun", begun, "--record", kept]) == 0
    found = record.read(next((tmp_path / "records").iterdir()))
    assert {one.state for one in found.stages} == {"left out"}


def driver(tmp_path: Path, prepare: str = "") -> subprocess.Popen[str]:
    """The driver in its own process, with the fake interpreter for its stages."""
    code = (
        f"import sys; sys.executable = {sys.executable!r}\n"
        "from bench import gpu, stages\n"
        "stages._LEAST, stages.installed = 1.0, lambda name: True\n"
        f"{prepare}\n"
        f"sys.exit(gpu.main(['--minutes', '2', '--record', '{tmp_path}/records']))"
    )
    return subprocess.Popen(
        [REAL, "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_a_record(sent: int, fakes: Path, tmp_path: Path) -> None:
    """It records what was done, what was interrupted, and what was never reached."""
    few = "stages.STAGES = stages.STAGES[2:3] + stages.STAGES[9:11]"
    with driver(tmp_path, few) as run:
        assert run.stderr is not None
        while not (fakes / "jax.pid").exists() or not (fakes / "jax.pid").read_text():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(sent)
        said = run.stderr.read()
    assert run.returncode == (-9 if sent == signal.SIGKILL else 130)
    (where,) = (tmp_path / "records").iterdir()
    found = record.read(where)
    assert [(one.name, one.state) for one in found.stages] == [
        ("bf16", "done"),
        ("jax", "stopped"),
        ("operations", "left out"),
    ]
    assert len(found.steps) == 1
    sentences = ["jax: the run was stopped in it.", "operations: the run ended before it."]
    assert found.left_out == sentences
    assert all(one in (where / "README.md").read_text() for one in sentences)
    if sent == signal.SIGKILL:  # nothing was left to end its stage
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            if str(tmp_path).encode() in line.read_bytes() and b"--part" in line.read_bytes():
                os.killpg(int(line.parent.name), signal.SIGKILL)
    else:
        assert all(one in said for one in sentences)


def test_a_stage_that_cannot_be_judged_ends_alone(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(stages.Stage):
        def run(self, session: Any, seconds: float, found: stages.Verdict) -> None:
            raise subprocess.TimeoutExpired("nvidia-smi", seconds)

    monkeypatch.setattr(stages, "STAGES", (Broken("broken", 0.5), stages.Part("bf16", 0.5)))
    assert gpu.main(["--minutes", "0.2", "--record", str(tmp_path / "records")]) == 1
    found = record.read(next((tmp_path / "records").iterdir()))
    assert "broken cannot be judged: TimeoutExpired" in found.failures[0]
    assert [one.state for one in found.stages] == ["done", "done"]


def test_what_a_stage_found_before_it_was_interrupted_is_kept(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(stages.Stage):
        def run(self, session: Any, seconds: float, found: stages.Verdict) -> None:
            found.wrong.append("memcheck: found.")
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "STAGES", (Interrupted("sanitizer", 0.5),))
    assert gpu.main(["--minutes", "0.2", "--record", str(tmp_path / "records")]) == 130
    found = record.read(next((tmp_path / "records").iterdir()))
    assert found.failures == ["memcheck: found."]
    assert found.stages[0].state == "stopped"
    assert found.stages[0].left_out == ("sanitizer: the run was stopped in it.",)


# What ends it before it begins


def test_without_a_gpu_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(number: int = 0) -> None:
        raise BackendUnavailable("there is no GPU; buy one.")

    python = script(tmp_path / "bin", "python", "echo 'error: there is no GPU; buy one.'; exit 2\n")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(cli, "Gpu", none)
    kept = tmp_path / "records"
    assert gpu.main(["--record", str(kept)]) == 2
    assert cli.main(["--gpu", "--record", str(kept)]) == 2
    assert capsys.readouterr().err == "error: there is no GPU; buy one.\n" * 2
    assert not kept.exists()


def test_a_driver_that_hangs_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = script(tmp_path / "bin", "python", "echo looking for cards; sleep 60\n")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(stages, "_CARD_SECONDS", 1.0)
    assert gpu.main(["--record", str(tmp_path / "records")]) == 2
    said = capsys.readouterr().err
    assert (
        said
        == "error: the cuda backend did not answer in 1 s; its last words: looking for cards.\n"
    )


def test_missing_packages_are_said_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "why_incomplete", lambda extra: f"{extra}: pydantic is not there.")
    monkeypatch.setattr(sys, "executable", "/not/a/program")
    assert gpu.main(["--record", str(tmp_path / "records")]) == 2
    assert capsys.readouterr().err == "error: test: pydantic is not there.\n"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "nine"])
def test_minutes_are_a_number_above_0(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([f"--minutes={minutes}"])
    assert f"{minutes!r} came; a number above 0 was expected." in capsys.readouterr().err


def test_nvidia_smi_that_hangs_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path, "nvidia-smi", "exec sleep 60\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "_TIMEOUT", 0.3)
    assert environment.clocks("before") == {}


def test_nvcc_that_hangs_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "nvcc", lambda: str(script(tmp_path, "nvcc", "exec sleep 60\n")))
    monkeypatch.setattr(compiler, "_TIMEOUT", 0.3)
    (tmp_path / "one.cu").write_text("")
    with pytest.raises(RuntimeError, match=r"nvcc takes longer than 0\.3 s for one\.cu"):
        compiler.resources(tmp_path)


# The stages


def test_a_stage_has_its_share_of_what_is_left() -> None:
    stage = stages.Part("bf16", 0.2)
    assert stage.limit(540, 500) == pytest.approx(108)
    assert stage.limit(540, 50) == 50
    assert stage.limit(30, 30) == 8  # less would not be enough to import it
    assert stage.limit(540, 7) == 0


def test_stages_name_what_there_is() -> None:
    """Parts of the bench's suite and test files; each once."""
    names = [one.name for one in stages.STAGES]
    assert len(set(names)) == len(names)
    parts = {one.name for one in stages.STAGES if isinstance(one, stages.Part)}
    assert parts == set(suites.gpu())
    for one in stages.STAGES:
        if isinstance(one, stages.Tests):
            command = one.command(ROOT / "tests", 100.0)
            files = [part.removeprefix("--ignore=") for part in command if part.endswith(".py")]
            assert len(files) == len(one.files) and all(map(os.path.isfile, files))
    order = ["families", "kernels", "bf16", "tests of loops", "sanitizer", "fp32", "compile", "jax"]
    assert [name for name in names if name in order] == order


@pytest.mark.slow
def test_a_test_that_hangs_ends_its_worker_only(tmp_path: Path) -> None:
    """With the stages' pytest options, for a test that never returns from C."""
    (tmp_path / "test_a.py").write_text(f"def test_hangs():\n    {HANGS}\n")
    (tmp_path / "test_b.py").write_text("def test_passes(): ...\n")
    command = [*stages.Tests("t", 1.0, others=True, marked="").command(tmp_path, 60.0)]
    command[command.index("--timeout") + 1] = "2"
    command[command.index("-n") + 1] = "2"
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert re.search(r"1 failed, 1 passed", done.stdout), done.stdout
    assert "test_hangs" in done.stdout and done.returncode == 1


def test_what_failed_is_told_at_once_and_a_files_tests_are_shared_out(tmp_path: Path) -> None:
    """Even next to a test that never ends, and before the run is killed."""
    (tmp_path / "test_a.py").write_text(
        f"def test_hangs():\n    {HANGS}\n\ndef test_fails():\n    assert not 'a reason'\n"
    )
    command = [*stages.Tests("t", 1.0, others=True, marked="").command(tmp_path, 600.0)]
    command[command.index("-n") + 1] = "2"
    said = tmp_path / "said.txt"
    with said.open("wb") as output:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=output, start_new_session=True)
    until = time.monotonic() + 60
    while "assert not 'a reason'" not in said.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    still = run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert still and re.search(
        r"^FAILED test_a\.py::test_fails \(call\)$", said.read_text(), re.MULTILINE
    )


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (0, "12 passed, 3 deselected in 4.0s", None),
        (5, "15 deselected in 4.0s", "loops: none ran."),
        (1, "1 failed, 12 passed", "loops failed (pytest's exit code is 1)."),
        (2, "Interrupted: 1 error during collection", "loops failed (pytest's exit code is 2)."),
    ],
)
def test_a_run_without_tests_is_no_success(code: int, text: str, reason: str | None) -> None:
    assert stages.why_tests_failed("loops", code, text) == reason


# compute-sanitizer


@pytest.mark.parametrize(
    ("code", "seconds", "state", "wrong"),
    [
        (0, 1.0, "clean", False),
        (86, 1.0, "found", True),
        (1, 1.0, "failed", True),
        (None, 1.0, "late", False),
        (None, 0.0, "left out", False),
    ],
)
def test_findings_of_the_sanitizer(
    code: int | None, seconds: float, state: str, wrong: bool, tmp_path: Path
) -> None:
    ended = Ended(Job("memcheck x", (), 9.0, tmp_path / "said"), code, seconds)
    finding = sanitizer.judged("memcheck", "x", ended)
    assert (finding.state, finding.wrong) == (state, wrong)


def looked(tmp_path: Path, subjects: list[sanitizer.Subject]) -> list[sanitizer.Finding]:
    runs = [(tool, subject) for tool in sanitizer.TOOLS for subject in subjects]
    return list(sanitizer.findings(runs, 20.0, tmp_path / "logs", tmp_path))


@pytest.mark.parametrize(
    ("exits", "state"),
    [
        ("*planted*) exit 86 ;; *plain*) exit 0 ;;", "clean"),
        ("*planted*) exit 0 ;; *plain*) exit 0 ;;", "blind"),
        ("*planted*) exit 86 ;; *plain*) exit 86 ;;", "found"),
    ],
)
def test_a_tool_has_to_find_its_planted_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exits: str, state: str
) -> None:
    script(tmp_path, "compute-sanitizer", f'case "$*" in {exits} esac\n')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sanitizer, "planted_program", lambda build, _: build / "planted")
    found = looked(tmp_path, sanitizer.families(["plain"]))
    assert {one.tool for one in found} == set(sanitizer.TOOLS)
    assert {one.state for one in found} == {state}


def test_a_sanitizer_that_hangs_is_late_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it already fails on its planted mistake, it proves nothing and checks nothing else."""
    script(tmp_path, "compute-sanitizer", "exec sleep 60\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sanitizer, "planted_program", lambda build, _: build / "planted")
    (plain,) = sanitizer.families(["plain"])
    runs = [(tool, plain) for tool in sanitizer.TOOLS[:2]]
    begun = time.monotonic()
    found = list(sanitizer.findings(runs, 1.5, tmp_path / "logs", tmp_path))
    assert time.monotonic() - begun < 10
    assert [(one.subject, one.state) for one in found] == [("its planted mistake", "late")] * 2
    assert not any(one.wrong for one in found)


def test_a_sanitizer_that_is_not_there_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizer, "_places", lambda: str(tmp_path))
    monkeypatch.setattr(sanitizer, "planted_program", lambda build, _: build / "planted")
    stage = stages.Sanitized("sanitizer", 0.5)
    found = stages.Verdict()
    stage.run(stages.Session(tmp_path, tmp_path, False), 9.0, found)
    assert not found.wrong
    assert "memcheck, compute-sanitizer is not installed: plain, mma, " in found.left_out[0]


@pytest.mark.slow
def test_planted_mistakes_compile_where_there_is_a_compiler(tmp_path: Path) -> None:
    program = sanitizer.planted_program(tmp_path, 120.0)
    if isinstance(program, str):
        assert program == "the planted mistakes cannot be compiled: no nvcc was found"
    else:
        assert program.is_file()


def test_the_sanitizer_is_given_what_exists() -> None:
    """Families that a GPU has, riskiest first; and test files, including the newest kernels'."""
    files = [subject.command[-1] for subject in sanitizer.files(ROOT / "tests")]
    assert all(map(os.path.isfile, files))
    for name in ("lrn_pool", "hopper_loop", "patch_dgrad", "exchange", "plan", "conv"):
        assert str(ROOT / "tests" / f"test_{name}.py") in files
    stage = stages.Sanitized("sanitizer", 0.5)
    for hopper in (True, False):
        runs = [(tool, subject.name) for tool, subject in stage.runs(hopper)]
        assert len(set(runs)) == len(runs)
        known = {one.name for one in families.families() if one.runs_on(hopper)}
        assert {name for _, name in runs} == known
        assert ("wgmma-fprop" in known) == hopper
        assert {"lrn_pool", "patch_dgrad", "exchange", "plan"} < known
        assert set(runs[: len(stages._FIRST)]) >= {("memcheck", "mma"), ("racecheck", "plain")}


# The families of kernels


def test_every_operation_is_in_one_family() -> None:
    for name in calls.of_every_operation():
        found = [one.name for one in families.families() if re.fullmatch(one.calls or "-", name)]
        assert len(found) == 1, (name, found)


@pytest.mark.parametrize(
    "name", ["plain", "patch_dgrad", "wgmma-patch_dgrad", "lrn_pool", "images", "exchange"]
)
def test_families_are_right_on_the_emulation(name: str) -> None:
    (family,) = (one for one in families.families() if one.name == name)
    found = list(families.checked(pyalexnet.backend("sim"), family))
    assert found and {one.wrong for one in found} == {None}
    assert {one.family for one in found} == {name}


def test_a_family_of_hoppers_loop_is_right_on_the_emulation() -> None:
    """Only the examples: its cases take long here."""
    (family,) = (one for one in families.families() if one.name == "wgmma-dgrad")
    assert family.ops == ("conv_dgrad", "linear_dgrad") and family.hopper
    backend: Any = pyalexnet.backend("sim")
    trials = dict(families.trials(backend, family))
    wgmma = {name: trial for name, trial in trials.items() if name.endswith("wgmma")}
    assert [*wgmma] == ["conv_dgrad conv3 wgmma", "linear_dgrad wgmma"]
    assert len(trials) > len(wgmma)
    assert {trial() for trial in wgmma.values()} == {None}


class Broken(SimBackend):
    """One op gives a wrong result in session, and one raises."""

    def _run(self, op: str, *arguments: Any) -> None:
        if op == "exchange_gather":
            raise RuntimeError("an illegal address")
        super()._run(op, *arguments)
        if op == "linear_wgrad_sgd":
            v = arguments[4]
            v[...] *= 1.01


def test_wrong_kernels_are_found_and_the_others_tried() -> None:
    """The momentum after an update is checked; an exception is reported for its case."""
    by_name = {one.name: one for one in families.families()}
    trials = dict(families.trials(Broken(), by_name["fp32"]))
    assert "w.v is off" in str(trials["linear_wgrad_sgd"]())
    first, *others = families.checked(Broken(), by_name["exchange"])
    assert first.wrong == "RuntimeError: an illegal address"
    assert [one.wrong for one in others] == [None, None]


def test_batches_that_come_out_wrong_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pyalexnet.backend("sim")
    right = backend.copy
    monkeypatch.setattr(backend, "copy", lambda batch: right(batch) + 1)
    (family,) = (one for one in families.families() if one.name == "images")
    found = [one.wrong for one in families.checked(backend, family)]
    assert f"batches {[*range(24)]} of 24 are not what was read" in found


def test_a_family_says_its_cases_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyalexnet.backend", lambda name: Broken())
    assert families.main(["exchange"]) == 1
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    cases = ["exchange_gather", "exchange_scatter_add", "sum_parts"]
    assert [one["case"] for one in lines] == cases
    assert told.err.splitlines()[-1] == "exchange: sum_parts"  # before it begins
    assert families.main(["patch_dgrad"]) == 0


def test_a_record_says_what_a_stage_left_out(tmp_path: Path) -> None:
    """A row that is put back takes its original session."""
    session = stages.Session(tmp_path, tmp_path, False)
    made = Results("GPU", "c", {"date": "2012-12-03", "device": "d"})
    made.stages = [StageRow("a", "left out"), StageRow("b", "left out")]
    record.write(tmp_path, made)
    stages.keep(session, StageRow("a", "done", 3.0, 9.0, ("a is wrong.",), ("a: c, late: x.",)))
    found = record.read(tmp_path)
    assert [one.state for one in found.stages] == ["done", "left out"]
    assert found.failures == ["a is wrong."] and found.left_out == ["a: c, late: x."]
    text = (tmp_path / "README.md").read_text()
    assert (
        text.index("## Wrong") < text.index("## Left out") < text.index("| a | done | 3 | 9 | 1 |")
    )
