"""The README's code blocks run unchanged: Python in a fresh interpreter, commands in a shell.

All except the two make commands, which install the package under test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh" and not text.startswith("make ")]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command in an empty folder, with this interpreter's commands first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_something_to_run() -> None:
    assert len(PYTHON) == 3
    assert len(SHELL) == 1
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text"}


@pytest.mark.parametrize("block", PYTHON)
def test_python(block: str, tmp_path: Path) -> None:
    assert run([sys.executable, "-W", "error", "-c", block], tmp_path).strip()


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL)
def test_commands(block: str, tmp_path: Path) -> None:
    out = run(["bash", "-e", "-c", block], tmp_path)
    assert "epoch 2/2 done" in out
    assert "recipe.rate.lr_w: 0.03 -> 0.02" in out
    assert "alpha of the LRN" in out
    assert len(list((tmp_path / "runs").glob("*-alexnet-tiny-*"))) == 1


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing
