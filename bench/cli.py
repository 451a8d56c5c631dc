"""The command: options in, tables out; exit code 1 where an answer was wrong, 2 for bad options."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyalexnet
from pyalexnet import nets
from pyalexnet.errors import PyalexnetError

from . import cards, environment, errors, listing, model, peers, record, suites, tables
from .device import Device, Gpu, Host
from .results import Results

_CHECKOUT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0, 1 where an answer was wrong, 2 where the options cannot be met."""
    options = parser().parse_args(arguments)
    try:
        if choices := _listed(options):
            card = cards.get(options.model or options.card)
            print((model if options.model else listing).document(choices, card), end="")
            return 0
        if options.errors:
            print(_errors(options), end="")
            return 0
        results = bench(options, shlex.join(["python", "-m", "bench", *arguments]))
    except (PyalexnetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.into is None:
        print(tables.document(results), end="")
    for failure in results.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if results.failures else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="pyalexnet bench",
        description="Time operations and whole steps beside PyTorch and JAX, answers first.",
    )
    where = made.add_mutually_exclusive_group()
    where.add_argument("--cpu", action="store_true", help="the CPU's suite, also beside a GPU")
    where.add_argument("--gpu", action="store_true", help="the GPU's suite, or say why not")
    where.add_argument(
        "--dry-run", action="store_true", help="go through the GPU's suite on the CPU, tiny"
    )
    made.add_argument("--full", action="store_true", help="the CPU's longer suite: an hour or two")
    made.add_argument(
        "--part", choices=[*suites.gpu()], help="part of the GPU's suite; by default all of them"
    )
    made.add_argument("--only", metavar="TEXT", help="only cases whose names contain TEXT")
    made.add_argument("--seconds", type=float, default=0.15, help="for each case on a CPU (0.15)")
    made.add_argument("--card", default=cards.names()[0], help="card of the computed floors (H100)")
    made.add_argument("--data", type=Path, help="data set whose images are fed from the host too")
    kept = made.add_mutually_exclusive_group()
    kept.add_argument("--record", type=Path, metavar="ROOT", help="keep a record in this folder")
    kept.add_argument(
        "--into", type=Path, metavar="RECORD", help="add to a record, as make gpu does"
    )
    made.add_argument(
        "--no-kernels", action="store_true", help="leave out what the compiler and emulation say"
    )
    made.add_argument(
        "--errors",
        action="store_true",
        help="how far the products of a network's layers are from float64 on the device, of the "
        "GPU's kernels by --dry-run; nothing is timed",
    )
    listed = made.add_argument_group("the launches of one training step, computed")
    what = listed.add_mutually_exclusive_group()
    what.add_argument("--list-step", action="store_true", help="list them; nothing is run")
    what.add_argument(
        "--model",
        metavar="CARD",
        choices=("h100", "h200"),
        help="predict their times from machine code, by nvcc and nvdisasm: h100 or h200; without "
        "other choices for the paper's net, batch 256, bf16",
    )
    listed.add_argument("--net", help="network (alexnet)")
    listed.add_argument("--preset", help="of alexnet (caffe)")
    listed.add_argument("--batch", type=int, help="images (128)")
    listed.add_argument("--precision", help="fp32, fp32x3 or bf16 (fp32)")
    listed.add_argument(
        "--unfused", action="store_true", default=None, help="every layer an operation of its own"
    )
    return made


def _listed(options: argparse.Namespace) -> listing.Choices | None:
    """The step for `--list-step` or `--model`; None without either."""
    names = ("net", "preset", "batch", "precision", "unfused")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.model:
        return model.choices(chosen)
    if options.list_step:
        return listing.Choices(**chosen)
    if chosen:
        raise ValueError(f"--{next(iter(chosen))} is given; --list-step was expected beside it.")
    return None


def bench(options: argparse.Namespace, command: str) -> Results:
    """Run the bench that the options describe."""
    card = cards.get(options.card)
    device = _device(options)
    parts = _parts(options, device)
    found = peers.find(device.torch, tuple({one for part in parts for one in part.libraries}))
    if options.into is not None:
        results = record.read(options.into)
        results.environment |= found.versions()
    else:
        versions = device.versions | found.versions()
        about = {**environment.describe(versions), "device": device.name}
        about |= environment.clocks("before")
        results = Results(parts[0].name, command, about)
        suites.compute(card, results)
    save = _saver(options, results, device)
    save("floors")
    for part in parts:
        suites.run(part, device, found, results, options.only, options.data, save)
        if part.inspects and not options.no_kernels:
            suites.inspect(_CHECKOUT / "kernels", results)
    results.environment |= environment.clocks("after")
    save("all")
    return results


def _errors(options: argparse.Namespace) -> str:
    """The tables of errors: for AlexNet, and on a CPU for a net of 5 x 5 filters only."""
    device = _device(options)
    paper = nets.alexnet(preset="paper")
    if isinstance(device, Gpu) or options.dry_run:
        kernels = device.backend if isinstance(device, Gpu) else pyalexnet.backend("sim")
        return errors.document(errors.of_kernels(kernels), paper)
    ways = errors.of_cpu(device.backend)
    return "\n".join(errors.document(ways, spec) for spec in (paper, nets.get("cifar-18pct")()))


def _device(options: argparse.Namespace) -> Device:
    """The GPU if it works, unless the options say otherwise."""
    if options.cpu or options.dry_run:
        return Host(environment.cpu())
    try:
        return Gpu()
    except PyalexnetError:
        if options.gpu:
            raise
        return Host(environment.cpu())


def _parts(options: argparse.Namespace, device: Device) -> list[suites.Suite]:
    if options.full and not options.cpu:
        raise ValueError("--full is given; --cpu was expected beside it.")
    if options.dry_run:
        parts = {"dry": suites.dry()}
    elif isinstance(device, Gpu):
        parts = suites.gpu()
    else:
        parts = {"cpu": (suites.cpu_full if options.full else suites.cpu)(options.seconds)}
    if options.part is None:
        return [*parts.values()]
    if options.part not in parts:
        raise ValueError(f"--part is {options.part!r}; the GPU's suite, which has it, is not run.")
    return [parts[options.part]]


def _saver(options: argparse.Namespace, results: Results, device: Device) -> Callable[[str], None]:
    """A function that prints what is done and keeps the record up to date."""
    where: Path | None = options.into
    if options.record is not None:
        where = record.folder(options.record, results.environment["date"], device.name)

    def save(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if where is not None:
            record.write(where, results)

    return save
