"""How ranks begin, what they have to agree on, and how the watchdog speaks."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pyalexnet.errors import RunError
from pyalexnet.ranks import ending, launch
from pyalexnet.ranks.watchdog import STUCK, Watchdog
from thread_ranks import ThreadRank, together


@pytest.fixture(autouse=True)
def _unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run in a job of Slurm."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: pytest.fail(f"{name} is wanted"))
    assert launch.start().world_size == 1
    monkeypatch.setenv("PMI_SIZE", "1")
    assert launch.start().world_size == 1


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "4"}, ("OMPI_COMM_WORLD_SIZE", 4)),
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "4"}, ("PMI_SIZE", 4)),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ("SLURM_STEP_NUM_TASKS", 2)),
        ({"PMI_SIZE": "odd"}, ("", 1)),
    ],
)
def test_the_launcher_says_how_many(
    variables: dict[str, str], found: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.launched() == found


def test_a_launch_without_mpi4py_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(
        RunError, match=r"PMI_SIZE says that 2 .* mpi4py is not installed; .*pyalexnet\[ranks"
    ):
        launch.start()


def test_ranks_that_differ_are_named() -> None:
    def refusal(comm: ThreadRank) -> str:
        facts = {"version": "0.1", "option seed": 3 if comm.rank in odd else 0}
        with pytest.raises(RunError) as refused:
            launch.agree(comm, facts)
        return str(refused.value)

    odd: tuple[int, ...] = (2,)
    sentence = "option seed is 3 on rank 2; 0 was expected, as on rank 0."
    assert together(refusal, [0, 0, 0]) == [sentence] * 3
    odd = (0, 3)
    sentence = "option seed is 3 on rank 0 and 3; 0 was expected, as on rank 1."
    assert together(refusal, [0] * 5) == [sentence] * 5


def test_a_fact_that_only_one_has_differs_too() -> None:
    def refusal(comm: ThreadRank) -> str:
        with pytest.raises(RunError) as refused:
            launch.agree(comm, {"option lr": 0.1} if comm.rank == 1 else {})
        return str(refused.value)

    assert "option lr is 0.1 on rank 1; None" in together(refusal, [0, 0])[0]


def test_ranks_that_agree_go_on() -> None:
    together(lambda comm: launch.agree(comm, {"version": "0.1"}), [0, 0, 2])


def test_a_digest_tells_arrays_apart() -> None:
    x = np.arange(6, dtype=np.float32)
    same = launch.digest(x, x[::-1])
    assert launch.digest(x.copy(), x[::-1].copy()) == same
    others = ((x,), (x[::-1], x), (x.reshape(2, 3), x[::-1]), (x.view(np.int32), x[::-1]))
    assert len({same, *(launch.digest(*other) for other in others)}) == 5


# How they end


def sentence_of(
    watched: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """What a watchdog with a patience of a fifth of a second says as `watched` is done."""
    ended, codes = threading.Event(), list[int]()
    watchdog = Watchdog("rank 1 of 3", 0.2, codes.append)
    monkeypatch.setattr("pyalexnet.ranks.watchdog._GRACE", 0.2)
    monkeypatch.setattr("pyalexnet.ranks.watchdog._LAST", 0.1)

    def exit_(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr("os._exit", exit_)
    watchdog.start()
    watched(watchdog, ended)
    assert ended.wait(20)
    watchdog.join()
    assert codes == [STUCK, STUCK]  # the library is asked first
    return capfd.readouterr().err


def test_a_rank_that_does_nothing_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = sentence_of(lambda watchdog, ended: ended.wait(20), monkeypatch, capfd)
    assert said.startswith("error: rank 1 of 3 has told the others nothing for 0 s, more than")
    assert "--patience 0.2; it is in threading.py, line " in said


def test_a_rank_that_waits_names_those_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = sentence_of(lambda watchdog, ended: watchdog.beat({2, 0}), monkeypatch, capfd)
    assert "rank 1 of 3 has waited for 0 s, more than --patience 0.2, for rank 0, 2, which" in said


def test_a_rank_that_goes_on_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For five times its patience, as it beats; for five times, as something takes long."""

    def work(watchdog: Watchdog, ended: threading.Event) -> None:
        for _ in range(100):
            watchdog.beat()
            time.sleep(0.01)
        with watchdog.at_length():
            assert not ended.wait(1.0)

    assert "has told the others nothing" in sentence_of(work, monkeypatch, capfd)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(3), 3),
        (SystemExit("a sentence"), 1),
        (KeyboardInterrupt(), 130),
        (ValueError("odd"), 1),
        (SystemExit(0), None),
        (SystemExit(None), None),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_any_end_but_success_is_that_of_all(
    error: BaseException,
    code: int | None,
    ranks: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    codes: list[int] = []
    mpi = SimpleNamespace(size=lambda: ranks, rank=lambda: 0, abort=codes.append)
    monkeypatch.setitem(sys.modules, "pyalexnet.ranks.mpi", mpi)
    with pytest.raises(type(error)), ending.ending_all():
        raise error
    assert codes == ([] if code is None or ranks == 1 else [code])
    traceback = isinstance(error, ValueError) and ranks == 2  # which nobody else would print
    assert ("ValueError: odd" in capfd.readouterr().err) == traceback


def test_sentences_name_the_rank_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    assert ending.speaker() == ""
    for rank in (0, 1):
        of_several: dict[str, Any] = {"size": lambda: 2, "rank": lambda rank=rank: rank}
        mpi = SimpleNamespace(**of_several, named=lambda rank=rank: f"rank {rank} of 2")
        monkeypatch.setitem(sys.modules, "pyalexnet.ranks.mpi", mpi)
        assert ending.speaker() == f"rank {rank} of 2: "
        assert len(slept) == rank  # rank 0 speaks first
