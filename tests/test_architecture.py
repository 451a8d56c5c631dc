"""Who may know whom, read off the source: simt <- kernels <- bindings <- pyalexnet <- the rest."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS, BINDINGS, PACKAGE = ROOT / "kernels", ROOT / "bindings", ROOT / "pyalexnet"
SIMT, CPU = KERNELS / "simt", KERNELS / "cpu"
KERNEL_FILES = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")])
CPU_FILES = sorted(CPU.iterdir())
MODULES = sorted(PACKAGE.rglob("*.py"))

# The modules of the package that import each of these: one, which the others use. Where there are
# more, each reads or prints something of its own.
COMMANDS = {f"commands/{path.name}" for path in (PACKAGE / "commands").glob("*.py")}
IMPORTERS = {
    "cupy": {"backends/cuda.py", "ranks/nccl.py"},
    "google": {"foreign/caffe_messages.py"},  # protobuf
    "matplotlib": {"show/page.py"},
    "ml_dtypes": {"ops/elements.py"},
    "mpi4py": {"ranks/mpi.py"},
    "onnx": {"trained/export_onnx.py"},
    "onnxruntime": {"trained/export_onnx.py"},
    "platformdirs": {"data/download.py"},
    "rich": {"training/progress.py", "commands/table.py"},
    "safetensors": {
        "runs/checkpoint.py",
        "runs/tensors.py",
        "data/shard.py",
        "foreign/torchvision.py",
    },
    "tensorboardX": {"training/tensorboard.py"},
    "torch": {"foreign/pth.py"},  # only to read a .pth
    "typer": {"cli.py", *COMMANDS},
}


def named(path: Path) -> str:
    """A file's name in test ids."""
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------------- C++


def code_of(file: Path) -> str:
    """A C++ file without its comments."""
    return re.sub(r"//.*", "", file.read_text())


def includes(file: Path) -> tuple[set[str], set[str]]:
    """What a file includes: own headers ("...") and foreign ones (<...>)."""
    text = file.read_text()
    own = re.findall(r'^#include "(.+)"', text, re.MULTILINE)
    return set(own), set(re.findall(r"^#include <(.+)>", text, re.MULTILINE))


@pytest.mark.parametrize("file", sorted(SIMT.iterdir()), ids=named)
def test_simt_knows_only_itself(file: Path) -> None:
    own, foreign = includes(file)
    assert all((SIMT / header).is_file() and "/" not in header for header in own)
    allowed = {"gpu.hpp": {"cuda_runtime.h"}, "gpu_hopper.hpp": {"cuda.h"}}.get(file.name, set())
    assert not {header for header in foreign if is_library(header)} - allowed


@pytest.mark.parametrize("file", [*KERNEL_FILES, KERNELS / "ops.h"], ids=named)
def test_kernels_know_only_simt_and_one_another(file: Path) -> None:
    own, foreign = includes(file)
    assert all(
        header in ("simt/simt.hpp", "simt/hopper.hpp")
        or ((KERNELS / header).is_file() and "/" not in header)
        for header in own
    )
    assert not {header for header in foreign if is_library(header)}


@pytest.mark.parametrize("file", CPU_FILES, ids=named)
def test_kernels_for_cpus_know_threads_shared_formulas_and_one_another(file: Path) -> None:
    own, foreign = includes(file)
    assert all((KERNELS / header).is_file() for header in own)
    others = {header for header in own if not header.startswith("cpu/")}
    formulas = {header for header in others if header.endswith(".cuh")}
    assert others - formulas <= {"ops.h", "simt/threads.hpp"}
    assert not {header for header in foreign if is_library(header)}


@pytest.mark.parametrize("file", sorted(BINDINGS.glob("*.?pp")), ids=named)
def test_bindings_know_pybind11_and_the_kernels(file: Path) -> None:
    own, foreign = includes(file)
    folders = (BINDINGS, KERNELS)
    assert all(any((folder / header).is_file() for folder in folders) for header in own)
    assert not {header for header in own if header.endswith((".cuh", ".cu"))}
    allowed = {"cuda_runtime_api.h"} if file.name == "cuda_platform.cpp" else set()
    libraries = {header for header in foreign if is_library(header)}
    assert not {header for header in libraries if not header.startswith("pybind11/")} - allowed


def is_library(header: str) -> bool:
    """Whether a foreign header is neither the language's nor the system's."""
    return bool(
        re.match(r"cuda|cu[a-z]+\.h|cooperative|mma|thrust|cub/|pybind11|Python|numpy", header)
    )


# Compilers have vector instructions for some processors only: one header asks which.
SAME = [file for file in (*KERNEL_FILES, *CPU_FILES) if file.name != "vector.hpp"]


@pytest.mark.parametrize("file", SAME, ids=named)
def test_a_kernel_file_is_the_same_on_every_platform(file: Path) -> None:
    assert not re.search(r"^\s*#\s*(if|ifdef|ifndef|elif)\b", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", [*KERNEL_FILES, *CPU_FILES], ids=named)
def test_nothing_is_added_up_in_an_order_left_to_chance(file: Path) -> None:
    assert "atomic" not in code_of(file).lower()


def test_every_kernel_is_launched_by_simt() -> None:
    code = "\n".join(code_of(file) for file in KERNEL_FILES)
    kernels = set(re.findall(r"__global__[^;{]*?\b(\w+_kernel)\(", code))
    assert len(kernels) > 10
    assert set(re.findall(r"simt::launch<(\w+)", code)) == kernels
    with_syntax = [
        file
        for folder in (KERNELS, BINDINGS)
        for file in folder.rglob("*.*")
        if re.search("<<<|cudaLaunchKernel", file.read_text())
    ]
    assert with_syntax == [SIMT / "gpu.hpp"]


def test_a_kernel_is_declared_for_the_clusters_that_it_is_written_for() -> None:
    """Without SIMT_CLUSTER a card would run its blocks one by one, waiting for each other."""
    code = "\n".join(code_of(file) for file in KERNEL_FILES)
    clusters = [
        (re.findall(r"SIMT_CLUSTER\((\d+)\)", head), re.findall(r"\bcluster<(\d+)>\(\)", body))
        for head, body in re.findall(r"__global__([^;{]*)\{(.*?)\n\}", code, re.DOTALL)
    ]
    assert ([], ["1"]) in clusters and (["2"], ["2"]) in clusters
    assert all(declared == [each for each in said if each != "1"] for declared, said in clusters)


@pytest.mark.parametrize(
    "file", [file for file in KERNEL_FILES if "__global__" in code_of(file)], ids=named
)
def test_a_comment_above_every_kernel_says_what_bounds_it(file: Path) -> None:
    """Explicitly, or by naming another kernel of the file: "As maxpool_fprop_kernel."."""
    bounded: dict[str, bool] = {}
    for name, comment in kernel_comments(file):
        other = re.search(r"\bAs (\w+_kernel)\b", comment)
        bounded[name] = "bound by" in comment.lower() or bool(other and bounded[other[1]])
    assert bounded and all(bounded.values()), bounded


def kernel_comments(file: Path) -> Iterator[tuple[str, str]]:
    """Every kernel of a file, from top to bottom, and the comment block right above it."""
    kernel = r"((?:^//.*\n)*)(?:^template <.*>\s+)?__global__[^;{]*?\b(\w+_kernel)\("
    for found in re.finditer(kernel, file.read_text(), re.MULTILINE):
        yield found[2], re.sub(r"\n?// ?", " ", found[1])


def test_every_launcher_is_bound() -> None:
    """By its own name; dropout's, which is the same forward and backward, by two."""
    launchers = set(re.findall(r"\bvoid (\w+)\(", code_of(KERNELS / "ops.h")))
    assert len(launchers) > 20
    bound = {*dir(import_module("pyalexnet._cpu"))}
    assert launchers - {"dropout"} | {"dropout_fprop", "dropout_dgrad"} <= bound


# ---------------------------------------------------------------------- Python


@cache
def imports(file: Path) -> frozenset[str]:
    """Modules that a file imports anywhere, by statement or by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            found |= {str(argument.value)} if isinstance(argument, ast.Constant) else set()
    return frozenset(found)


def imported_packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_the_package_knows_neither_tests_nor_bench(file: Path) -> None:
    of_tests = {path.stem for path in Path(__file__).parent.glob("*.py")}
    assert not imported_packages(file) & {"tests", "bench", "pytest", *of_tests}


@pytest.mark.parametrize("file", sorted((PACKAGE / "ops").glob("*.py")), ids=named)
def test_operations_know_no_backend(file: Path) -> None:
    own = {name for name in imports(file) if name.startswith("pyalexnet.")}
    assert all(name == "pyalexnet.errors" or name.startswith("pyalexnet.ops.") for name in own)


def test_operations_are_in_files_named_like_their_kernels() -> None:
    shared = {"__init__", "checks", "device", "elements", "epilogue", "records"}
    families = {file.stem for file in (PACKAGE / "ops").glob("*.py")} - shared
    assert families <= {file.stem for file in BINDINGS.glob("*.cpp")}
    assert families - {"linear"} <= {file.stem for file in KERNELS.glob("*.cu")}


@pytest.mark.parametrize("library", IMPORTERS)
def test_each_library_is_imported_in_one_place(library: str) -> None:
    importers = {
        str(file.relative_to(PACKAGE)) for file in MODULES if library in imported_packages(file)
    }
    assert importers and importers <= IMPORTERS[library]


# From the ground up: a room imports only those before it, also where only types are needed.
ROOMS = (
    *("errors", "install", "files", "ops", "_kernels", "backends", "ranks", "nets", "data", "step"),
    *("runs", "show", "trained", "foreign", "training", "doctor", "commands", "cli", "__main__"),
)


def room(path: Path) -> str:
    """A folder of the package, or a file beside them."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(file: Path) -> set[str]:
    """Rooms that a file of the package imports from."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pyalexnet":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("pyalexnet."):
            found.add(str(node.module).split(".")[1])
    return found & set(ROOMS)


@pytest.mark.parametrize(
    "file", [file for file in MODULES if file != PACKAGE / "__init__.py"], ids=named
)
def test_a_room_knows_only_those_below_it(file: Path) -> None:
    own = ROOMS.index(room(file))
    assert not {other for other in rooms_imported(file) if ROOMS.index(other) > own}


def test_no_name_says_nothing() -> None:
    empty = {"util", "utils", "common", "misc", "helper", "helpers"}
    folders = [KERNELS, BINDINGS, PACKAGE, ROOT / "tests", ROOT / "bench"]
    paths = [path for folder in folders for path in folder.rglob("*")]
    assert not {path for path in paths if path.stem in empty}


# ---------------------------------------------------------------------- state


@cache
def classes() -> dict[str, ast.ClassDef]:
    """The package's classes by name."""
    trees = [ast.parse(file.read_text()) for file in MODULES]
    return {
        node.name: node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def attributes_set(code: ast.AST) -> set[str]:
    """Attributes of `self` that a method assigns."""
    return {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }


def line_of(name: str) -> list[ast.ClassDef]:
    """A class of the package, and those of the package that it derives from."""
    if name not in classes():
        return []
    bases = [ast.unparse(base).partition("[")[0] for base in classes()[name].bases]
    return [classes()[name], *(one for base in bases for one in line_of(base))]


def from_the_first(name: str) -> set[str]:
    """Attributes of a new object: from `__init__`, what that calls, and the class."""
    methods: dict[str, list[ast.FunctionDef]] = {}
    found: set[str] = set()
    for part in line_of(name):
        for node in part.body:
            if isinstance(node, ast.FunctionDef):
                methods.setdefault(node.name, []).append(node)
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign):
                found.add(ast.unparse(node.target))
    left, seen = ["__init__", "__enter__"], set()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            for method in methods.get(name, []):
                found |= attributes_set(method)
                left += re.findall(r"self\.(\w+)", ast.unparse(method))
    return found


def test_an_object_has_all_its_state_from_the_first() -> None:
    """No method creates an attribute for another to read, since the other may be called first."""
    late = {
        f"{name}.{attribute}, set by {method.name}"
        for name, node in classes().items()
        for method in node.body
        if isinstance(method, ast.FunctionDef)
        for attribute in attributes_set(method) - from_the_first(name)
    }
    assert not late
