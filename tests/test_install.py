"""From a checkout to an environment: what is built, where it is put, what is reported missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from bench import gpu
from pyalexnet import install

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CMAKE = shutil.which("cmake")
# Variables that `make test` passes on to its commands, and that influence the choice here.
CHOSEN = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKEOVERRIDES",
    "MAKELEVEL",
    "VENV",
    "PYTHON",
    "ISOLATION",
    "MINUTES",
    "WERROR",
    "RECORD",
)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {n: v for n, v in os.environ.items() if n not in CHOSEN and "PYALEXNET" not in n}
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


# What is built

CARD = "echo 'GPU 0: a card (UUID: GPU-1)'"


@pytest.mark.skipif(CMAKE is None, reason="no cmake was found")
@pytest.mark.parametrize(
    ("wanted", "smi", "nvcc", "said"),
    [
        ("AUTO", CARD, True, "_cuda will be built"),
        ("AUTO", "echo No devices found.", True, "no NVIDIA GPU in this machine"),
        ("AUTO", "exit 9", True, "-C cmake.define.PYALEXNET_CUDA=ON builds it all the same"),
        ("AUTO", None, True, "no NVIDIA GPU in this machine"),
        ("ON", None, True, "_cuda will be built"),
        ("OFF", CARD, True, ""),
        ("AUTO", CARD, False, "no nvcc found"),
        ("ON", CARD, False, "PYALEXNET_CUDA=ON, but there is no nvcc"),
        ("on", CARD, True, "PYALEXNET_CUDA is on; AUTO, ON or OFF was expected."),
    ],
)
def test_the_gpus_module_is_built_where_it_can_run(
    wanted: str, smi: str | None, nvcc: bool, said: str, tmp_path: Path
) -> None:
    """Even if an earlier build in the same folder found nvcc."""
    assert CMAKE is not None
    tools = tmp_path / "bin"
    program(tools, "nvcc", "exit 0")
    if smi is not None:
        program(tools, "nvidia-smi", smi)
    script = tmp_path / "build.cmake"
    found = tools / "nvcc" if nvcc else "PYALEXNET_NVCC-NOTFOUND"
    script.write_text(
        f'set(PYALEXNET_NVCC "{found}" CACHE FILEPATH "")\n'
        # Search only what is given: this machine may have one.
        "macro(find_program)\nendmacro()\n"
        f'include("{ROOT}/bindings/cuda/find_nvcc.cmake")\n'
        'message(STATUS "built: ${PYALEXNET_BUILDS_CUDA}")\n'
    )
    given = (f"-DPYALEXNET_CUDA={wanted}", f"-DPython_EXECUTABLE={sys.executable}")
    done = run(CMAKE, *given, "-P", script, PATH=str(tools))
    output = done.stdout + done.stderr
    assert said in " ".join(output.split())
    built = said == "_cuda will be built"
    assert ("built: ON" in output) == built
    assert (done.returncode == 0) == (wanted == "AUTO" or built or wanted == "OFF")


def test_make_leaves_the_choice_to_cmake(tmp_path: Path) -> None:
    """And requires CuPy, for nvcc's version, if there are a GPU and nvcc."""
    tools = tmp_path / "bin"
    program(tools, "nvidia-smi", CARD)
    program(tools, "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.1'")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    place = f"VENV={tmp_path}/v"
    for choice, asked, extras in (
        ([], "AUTO", "[test,cuda-tools,cuda12]"),
        (["PYALEXNET_CUDA=ON"], "ON", "[test,cuda-tools,cuda12]"),
        (["PYALEXNET_CUDA=OFF"], "OFF", "[test,cuda-tools]"),
    ):
        recipe = run("make", "-n", place, *choice, "test", PATH=path).stdout
        assert f"-C cmake.define.PYALEXNET_CUDA={asked} " in recipe
        assert f"'.{extras}'" in recipe
    program(tools, "nvidia-smi", "exit 9")
    recipe = run("make", "-n", place, "test", PATH=path).stdout
    assert "'.[test,cuda-tools]'" in recipe


def test_warnings_are_errors_where_they_are_asked_to_be(tmp_path: Path) -> None:
    """In CI: elsewhere a newer compiler, with more warnings, still has to build it."""
    for choice, wanted in (([], "OFF"), (["WERROR=1"], "ON")):
        recipe = run("make", "-n", f"VENV={tmp_path}/v", *choice, "test").stdout
        assert f"-C cmake.define.PYALEXNET_WARNINGS_ARE_ERRORS={wanted} " in recipe
    assert "-DPYALEXNET_WARNINGS_ARE_ERRORS=ON" in run("make", "-n", "cuda-all").stdout
    assert "export WERROR=1\n" in (ROOT / ".ci" / "run").read_text()
    for name in ("CMakeLists.txt", "bindings/cuda/CMakeLists.txt"):
        always = re.sub(
            r"if\(PYALEXNET_WARNINGS_ARE_ERRORS\).*?endif\(\)",
            "",
            (ROOT / name).read_text(),
            flags=re.S,
        )
        assert "Werror" not in always


# Where it is put


def test_nothing_that_is_compiled_is_shared(tmp_path: Path) -> None:
    """Two environments of one tree, and pip beside them, each compile in their own folder."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    assert "build-dir" not in settings  # then it is a temporary one
    folders = set()
    for name in ("one", "other"):
        recipe = run("make", "-n", f"VENV={tmp_path / name}", "train", "test").stdout
        (folder,) = {part for part in recipe.split() if part.startswith("build-dir=")}
        assert folder == f"build-dir={tmp_path / name}/build"
        folders.add(folder)
    assert len(folders) == 2


# Without a network


def environment(python: str | Path, place: Path, *options: str) -> Path:
    """A virtual environment's interpreter."""
    made = run(python, "-m", "venv", "--without-pip", *options, place)
    assert made.returncode == 0, made.stderr
    return place / "bin" / "python"


@pytest.mark.slow
def test_packages_of_an_environment_stay_visible(tmp_path: Path) -> None:
    """If python3 is a virtual environment's: its packages, and those its own path files add."""
    outer = environment(sys.executable, tmp_path / "outer")
    (site,) = (tmp_path / "outer").glob("lib/python*/site-packages")
    (site / "kept.py").write_text("where = 'outer'\n")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "linked.py").write_text("")
    (site / "linked.pth").write_text(f"{tmp_path / 'beside'}\n")
    inner = tmp_path / "inner"
    made = run("make", f"PYTHON={outer}", f"VENV={inner}", "ISOLATION=off", f"{inner}/bin/python")
    assert made.returncode == 0, made.stderr
    seen = run(inner / "bin" / "python", "-c", "import kept, linked, sys; print(sys.prefix)")
    assert seen.stdout.strip() == str(inner), seen.stderr
    usual = run("make", "-n", f"PYTHON={outer}", f"VENV={tmp_path}/v", f"{tmp_path}/v/bin/python")
    assert usual.stdout == f"{outer} -m venv  {tmp_path}/v\n"


def test_what_is_missing_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.why_incomplete() is None
    right = metadata.version

    def version(name: str) -> str:
        if name in ("platformdirs", "simplejpeg", "hypothesis"):
            raise metadata.PackageNotFoundError(name)
        return "2.4.9" if name == "pydantic" else right(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(install, "pip_install", lambda what: f"pip install {what}")
    (pydantic,) = (one for one in PROJECT["dependencies"] if one.startswith("pydantic"))
    assert install.main([]) == 1
    assert capsys.readouterr().err == (
        f"error: pyalexnet needs platformdirs>=4 (not installed), {pydantic} (2.4.9 is "
        f"installed); pip install 'platformdirs>=4' '{pydantic}'.\n"
    )
    assert "hypothesis>=6.100 (not installed)" in str(install.why_incomplete("test"))


def test_make_says_it_before_anything_is_compiled(tmp_path: Path) -> None:
    recipe = run("make", "-n", "ISOLATION=off", f"VENV={tmp_path}/v", "test", "gpu").stdout
    asked = recipe.index(f"{tmp_path}/v/bin/python -P pyalexnet/install.py test &&")
    assert asked < recipe.index("--no-build-isolation --no-deps")
    assert recipe.index("-m pytest") < recipe.index("-m bench.gpu")


def test_a_checkout_can_be_asked_before_it_is_installed(tmp_path: Path) -> None:
    bare = environment(sys.executable, tmp_path / "bare")
    asked = run(bare, "-P", ROOT / "pyalexnet" / "install.py", "test")
    assert asked.returncode == 1 and not asked.stdout
    pytest_ = next(one for one in PROJECT["optional-dependencies"]["test"] if "pytest>" in one)
    for requirement in (*PROJECT["dependencies"], pytest_):
        said = f"{requirement} (not installed)" in asked.stderr
        assert said != requirement.startswith("simplejpeg")
    assert "torch" not in asked.stderr and "Traceback" not in asked.stderr


def test_the_minutes_of_a_gpu_count_from_makes_beginning(tmp_path: Path) -> None:
    """They include installing and compiling; and the record goes to the given folder."""
    asked = ("MINUTES=9", f"RECORD={tmp_path}/kept", f"VENV={tmp_path}/v")
    before = int(time.time())
    recipe = run("make", "-n", *asked, "gpu").stdout.replace("\\\n", "").split("-m bench.gpu")[1]
    options = gpu.parser().parse_args(recipe.split())
    assert before <= options.begun <= time.time()
    assert (options.minutes, options.record) == (9.0, tmp_path / "kept")


def test_the_peers_of_a_gpu_are_installed_where_there_is_a_network(tmp_path: Path) -> None:
    (torch, jax) = PROJECT["optional-dependencies"]["gpu-peers"]
    assert torch.startswith("torch>=") and jax.startswith("jax[cuda13]>=")
    for isolation, there in (("on", True), ("off", False)):
        place = (f"VENV={tmp_path}/v", f"ISOLATION={isolation}")
        assert (" gpu-peers)" in run("make", "-n", *place, "gpu").stdout) == there
