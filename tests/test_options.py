"""An option means the same in all commands; and behaviour common to all of them."""

from __future__ import annotations

import inspect
import re
import signal
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from networks import npz, written
from pyalexnet import cli
from pyalexnet.commands import group
from pyalexnet.errors import PyalexnetError, RunError


def commands(root: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each command's words and the command."""
    root = typer.main.get_command(cli.app) if root is None else root
    for name, command in root.commands.items():
        words = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


COMMANDS = dict(commands())
OF_A_RUN = [words for words, each in COMMANDS.items() if "--runs" in group._options(each)]

SEVERAL_MEANINGS = {
    "--format": "of a pack's images, of an exported and of an imported file",
    "--seed": "what it draws",
    "--count": "of what",
    "--workers": "threads, or processes",
    "--output": "a file of numbers, or a picture",
    "--runs": "a new run's place too",
    "--output-dir": "the same as --runs",
    "--layer": "of what",
    "--classes-in-order": "of a net that is used, or begun with",
    "--batch-size": "of an update, or at once",
    "--data": "where none is named",
    "--data-path": "the same as --data",
    "--class-names": "of folders, or of a file's outputs",
}
"""Options whose help differs, and how; their kind of value never does."""


def shared() -> dict[str, list[tuple[str, str]]]:
    """Options that several commands have: by name, each one's kind of value and its help."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for command in COMMANDS.values():
        hints = inspect.signature(command.callback, eval_str=True).parameters
        for each in command.params:
            for name in each.opts:
                if name.startswith("--") and each.name in hints:
                    kind = inspect.formatannotation(typing.get_args(hints[each.name].annotation)[0])
                    found[name].append((kind.removesuffix(" | None"), each.help))
    return {name: options for name, options in found.items() if len(options) > 1}


@pytest.mark.parametrize("name", shared())
def test_an_option_takes_one_kind_of_value(name: str) -> None:
    kinds, helps = map(set, zip(*shared()[name], strict=True))
    alike = name not in SEVERAL_MEANINGS
    assert len(kinds) == 1 or not alike, kinds
    assert (len(helps) == 1) == alike, helps


def test_no_command_calls_a_file_and_a_folder_alike() -> None:
    """--runs is the folder of runs, --output what is written; old names are still accepted."""
    for words, command in COMMANDS.items():
        names = group._options(command)
        assert "--out" not in names, words
        if "--output" in names:
            assert "-o" in names, words
        assert ("--runs" in names) == ("--output-dir" in names), words
    assert len(OF_A_RUN) == 14
    others = {"data get", "data prepare", "import", "presets", "bench", "show step"}
    assert COMMANDS.keys() - OF_A_RUN == others


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that is not `runs`, with one run in it."""
    place = tmp_path_factory.mktemp("elsewhere")
    data = npz(place / "data.npz")
    run = written(place / "here" / "a-run", data=str(data))
    (run / "log.jsonl").write_text("")
    (place / "here" / "latest").symlink_to("a-run")
    return place / "here"


@pytest.mark.every(9)
@pytest.mark.parametrize("words", OF_A_RUN)
def test_latest_is_looked_for_in_runs_by_every_command(
    words: str, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the command refuses anything after that, it is not that there is no run."""
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "x.png"
    picture.write_bytes(b"")
    arguments = {
        "train": ["--resume=latest"],
        "doctor": ["--init=latest"],
        "predict": ["latest", str(picture)],
        "similar": ["latest", str(picture), f"--index={tmp_path}"],
        "export": ["latest", "x.onnx", "--batch=1"],
        "show maps": ["latest", f"--image={picture}"],
        "show similar": ["latest", "--layer=none"],
    }.get(words, ["latest"])

    def said(*more: str) -> BaseException | None:
        return CliRunner().invoke(cli.app, [*words.split(), *arguments, *more]).exception

    lost = said()
    assert isinstance(lost, RunError) and str(lost).startswith("runs/latest is no run folder; ")
    assert "--runs" in str(lost)
    found = said(f"--runs={elsewhere}")
    assert "no run folder" not in str(found) and not isinstance(found, AttributeError | TypeError)


def test_a_run_begins_with_the_parameters_of_the_latest_there(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = ["train", "--init-from=latest", "--net=none"]
    lost = CliRunner().invoke(cli.app, begun).exception
    assert str(lost).startswith("runs/latest is no run folder")
    found = CliRunner().invoke(cli.app, [*begun, f"--runs={elsewhere}"]).exception
    assert "'none'" in str(found)


def test_latest_that_leads_nowhere_says_where(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("gone")
    lost = CliRunner().invoke(cli.app, ["evaluate", "latest", f"--runs={tmp_path}"]).exception
    assert f"{tmp_path}/latest, which leads to gone, is no run folder" in str(lost)


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["train", "--out", "X", "--net=none"], "--runs"),
        (["doctor", "--out=X", "--init=none"], "--runs"),
        (["export", "none", "x.onnx", "--out", "X"], "--runs"),
        (["evaluate", "none", "--out=X"], "--output"),
        (["probe", "none", "--out", "X"], "--output"),
        (["features", "none", "--out", "X"], "--output"),
        (["show", "filters", "none", "--out", "X.png"], "--output"),
        (["show", "maps", "none", "--index=3"], "--number"),
    ],
)
def test_an_old_name_is_taken_for_the_new_one(
    arguments: list[str], new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, arguments)
    old = "--index" if new == "--number" else "--out"
    assert done.output == f"note: {old} is called {new} now\n"
    assert isinstance(done.exception, PyalexnetError) and "none" in str(done.exception)


def test_an_option_of_that_name_is_left_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["similar", "none", "q.jpg", f"--index={tmp_path}"])
    assert "note:" not in done.output and isinstance(done.exception, PyalexnetError)
    assert CliRunner().invoke(cli.app, ["presets", "--out", "X"]).exit_code == 2


# ------------------------------------------------------------------ memory


def failing(monkeypatch: pytest.MonkeyPatch, words: str, error: BaseException) -> Any:
    """The result of a command that fails with an error, called without arguments."""
    command = COMMANDS[words]

    def fail(self: Any, context: Any) -> Any:
        raise error

    monkeypatch.setattr(type(command), "invoke", fail)
    needed = ["x" for each in command.params if each.required and each.param_type_name != "option"]
    index = ["--index=x"] if words == "similar" else []
    return CliRunner().invoke(cli.app, [*words.split(), *needed, *index])


@pytest.mark.every(5)
@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("error", [MemoryError(), MemoryError("Unable to allocate 3.4 GiB")])
def test_what_saves_memory_is_an_option_that_the_command_has(
    words: str, error: MemoryError, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(failing(monkeypatch, words, error).exception)
    assert text.startswith("there is not enough memory")
    assert ("Unable to allocate" in text) == bool(str(error))
    advised = set(re.findall(r"--[a-z-]+", text))
    assert advised <= group._options(COMMANDS[words])
    if {"--batch-size", "--workers", "--size", "--count"} & group._options(COMMANDS[words]):
        assert len(advised) == 1
    else:
        assert "other programs" in text


# ------------------------------------------------------------------ Ctrl-C


@pytest.mark.every(9)
@pytest.mark.parametrize("words", COMMANDS)
def test_ctrl_c_is_answered_in_a_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = failing(monkeypatch, words, KeyboardInterrupt())
    assert (done.exit_code, done.output) == (130, "stopped by Ctrl-C\n")


def test_ctrl_c_that_an_extension_module_turned_into_another_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As pybind11 does while a module is loaded, after which a backend reports it as missing."""

    def struck(self: Any, context: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(type(COMMANDS["presets"]), "invoke", struck)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = CliRunner().invoke(cli.app, ["presets"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.exit_code, done.output) == (130, "stopped by Ctrl-C\n")


def test_another_error_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    done = failing(monkeypatch, "presets", ImportError("broken"))
    assert isinstance(done.exception, ImportError)
