"""The CUDA compiler's output for the kernels: no spills, no stack, tensor cores where due.

Skipped without nvcc; tests that read machine code also without nvdisasm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import compiler, sass
from bench.compiler import Compiled
from bench.sass import Code

KERNELS = Path(__file__).parent.parent / "kernels"
HOPPER = "sm_90a"
ARCHITECTURES = ("sm_80", HOPPER)


def compiles(test: Callable[..., None]) -> Any:
    """Every form of every kernel, for one architecture: minutes."""
    return pytest.mark.slow(pytest.mark.timeout(1800)(test))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Compiled]:
    """Every kernel file, compiled for an architecture."""
    if compiler.nvcc() is None:
        pytest.skip("no nvcc was found")
    return compiler.compiled(KERNELS, request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def codes(files: list[Compiled]) -> list[Code]:
    """The machine code of the kernels that multiply on the tensor cores."""
    if compiler.tool("nvdisasm") is None:
        pytest.skip("no nvdisasm was found; pip install nvidia-cuda-nvdisasm brings it")
    having = [file for file in files if any(is_tensor(one.kernel) for one in file.kernels)]
    return [code for file in having for code in sass.disassembled(file.cubin)]


@pytest.fixture(scope="module")
def tensor_kernels(codes: list[Code]) -> list[Code]:
    """Those for any GPU."""
    return [code for code in codes if is_tensor(code.kernel)]


@pytest.fixture(scope="module")
def hopper_kernels(codes: list[Code]) -> list[Code]:
    """Those for Hopper alone."""
    return [code for code in codes if code.kernel.startswith("hopper")]


def is_tensor(kernel: str) -> bool:
    return kernel.startswith("tensor")


def by_vectors(kernel: str) -> bool:
    """Whether this form fetches vectors by cp.async, unlike single elements and float32 in planes,
    which pass through registers."""
    return "Bf16Tiles, true>" in kernel or "PatchTile<" in kernel


@compiles
def test_no_kernel_spills_or_has_a_stack(files: list[Compiled]) -> None:
    kernels = [kernel for file in files for kernel in file.kernels]
    assert len(kernels) > 30
    wrong = [
        f"{one.kernel}: spills {one.spilled} bytes, stack {one.stack}, registers {one.registers}"
        for one in kernels
        if one.spilled or one.stack
    ]
    assert not wrong, "\n".join(wrong)


@compiles
def test_tensor_kernels_multiply_on_the_tensor_cores(tensor_kernels: list[Code]) -> None:
    """Every main loop has matrix products, and fragments by ldmatrix."""
    assert tensor_kernels
    for code in tensor_kernels:
        loops = code.loops("HMMA")
        assert loops, f"{code.kernel} has no loop with HMMA"
        assert all("LDSM" in loop for loop in loops), code.kernel


@compiles
def test_tensor_kernels_fetch_while_they_multiply(tensor_kernels: list[Code]) -> None:
    """cp.async, which bypasses the registers, is in the main loop itself."""
    fetching = [code for code in tensor_kernels if by_vectors(code.kernel)]
    assert fetching
    for code in fetching:
        assert all("LDGSTS" in loop for loop in code.loops("HMMA")), code.kernel


@compiles
def test_hopper_kernels_multiply_by_warpgroups(
    files: list[Compiled], hopper_kernels: list[Code]
) -> None:
    """On Hopper: products from shared memory in one loop, the copies of slices in another. On
    other GPUs, which never launch these kernels, there are no products."""
    # Tiles of each pass, for single blocks and for clusters; of dgrad in patches.
    assert len({code.kernel for code in hopper_kernels}) == 2 * (6 + 5 + 5) + 2
    hopper = files[0].architecture == HOPPER
    for code in hopper_kernels:
        multiplying = code.loops("HGMMA")
        bringing = code.loops("LDGSTS" if "patch_dgrad" in code.kernel else "UTMALDG")
        assert bool(multiplying) == bool(bringing) == hopper, code.kernel
        # Only kernels for clusters have their instructions.
        cast = any(one.name == "UTMALDG" and "MULTICAST" in one.rest for one in code.listing)
        assert (
            cast == ("UCGABAR_ARV" in code.instructions) == (hopper and "_pair_" in code.kernel)
        ), code.kernel
        for loop in multiplying:  # sums stay in registers
            assert not {"LDG", "STG", "STS", "LDSM", "FFMA"} & set(loop), code.kernel
        assert all("LDGSTS" in loop for loop in bringing), code.kernel
        assert not {"LDL", "STL"} & set(code.instructions), code.kernel
        assert code.instructions.count("USETMAXREG") == 2 * hopper, code.kernel


@compiles
def test_registers_suffice_for_the_roles_of_warpgroups(
    files: list[Compiled], hopper_kernels: list[Code]
) -> None:
    """Multiplying warpgroups wait for registers freed by the others: for ever if too few. On other
    GPUs there are no roles."""
    hopper = files[0].architecture == HOPPER
    registers = {one.kernel: one.registers for file in files for one in file.kernels}
    for code in hopper_kernels:
        kept = [one.rest for one in code.listing if one.name == "USETMAXREG"]
        assert bool(kept) == hopper, code.kernel
        if not hopper:
            continue
        few, many = (
            next(int(rest.split()[-1], 16) for rest in kept if kind in rest)
            for kind in (".DEALLOC", ".TRY_ALLOC")
        )
        found = re.search(r"HopperTile<(\d+), \d+, \d+, (\d+), (\d+)>", code.kernel)
        multiplying, blocks = (int(found[2]), int(found[3])) if found else (2, 2)
        at_entry = registers[code.kernel]
        assert few + multiplying * many <= (multiplying + 1) * at_entry, code.kernel
        assert blocks * (multiplying + 1) * 128 * at_entry <= 65536, code.kernel


@compiles
def test_products_of_warpgroups_are_not_held_up(files: list[Compiled]) -> None:
    """The compiler warns if it serialises them, because of too few registers or their order."""
    for file in files:
        assert "wgmma" not in file.report, file.report


@compiles
def test_nothing_of_a_tensor_kernel_lies_in_local_memory(tensor_kernels: list[Code]) -> None:
    for code in tensor_kernels:
        assert not {"LDL", "STL"} & set(code.instructions), code.kernel


# ----------------------------------------------------------------------------------- the readers


def test_report_of_the_compiler() -> None:
    report = """
ptxas info    : Compiling entry function '_ZN9pyalexnet1fEPf' for 'sm_90'
ptxas info    : Function properties for _ZN9pyalexnet1fEPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 181 registers, used 1 barriers, 33792 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'g' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""
    first, second = compiler.parse(report)
    assert (first.registers, first.spilled, first.stack, first.shared) == (181, 12, 16, 33792)
    assert second.kernel == "g"
    assert (second.registers, second.spilled, second.stack, second.shared) == (32, 0, 0, 0)


def test_listing_of_machine_code() -> None:
    """A loop of products with its copies placed after it, and a loop without products."""
    listing = """
.text.g:
        /*0000*/                   EXIT ;
.text.f:
        /*0000*/                   LDG.E R1, [R2.64] ;
.L_x_0:
        /*0010*/              @!P0 LDSM.16.M88.4 R4, [R3] ;
        /*0020*/              @P1  BRA `(.L_x_2) ;
.L_x_1:
        /*0030*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0040*/                   BRA P0, `(.L_x_0) ;
        /*0050*/                   STG.E [R2.64], R1 ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   LDGSTS.E.128 [R1], [R2.64] ;
        /*0078*/              @P2  CALL.REL.NOINC `(.L_x_1) ;
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   STL [R1], R2 ;
        /*00a0*/             @!UP0 BRA `(.L_x_3) ;
        /*00b0*/                   BRA `(.L_x_4) ;
.L_x_4:
        /*00c0*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*00d0*/                   EXIT ;
"""
    g, f = sass.parse(listing)
    assert (g.kernel, g.instructions, g.loops("EXIT")) == ("g", ("EXIT",), [])
    assert f.loops("HMMA") == [("LDSM", "BRA", "HMMA", "BRA", "LDGSTS", "CALL")]
    assert f.loops("STL") == [("STL", "BRA")]
    assert not f.loops("LDG") and not f.loops("STG")
