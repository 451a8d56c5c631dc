"""`pyalexnet train`."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pyalexnet.commands import network as given
from pyalexnet.commands.place import is_number, place
from pyalexnet.errors import ArgumentError


def _panel(name: str) -> Callable[..., Any]:
    """Makes options of a panel of --help: what one means, and names other than its parameter."""

    def option(meaning: str | None, *names: str, **more: Any) -> Any:
        return typer.Option(*names, help=meaning, rich_help_panel=name, **more)

    return option


_network, _data, _learning, _run = map(_panel, ("Network", "Data", "Learning", "Run"))

_OF_THE_COMMAND = {"resume", "config", "where", "steps", "plain", "towers", "crop_chunk"}
"""Options that are no setting of a run; every other is one, by its name."""


def train(
    net: Annotated[
        str | None,
        _network("Network; alexnet-tiny if none is named, alexnet for a pack.", "--net", "--model"),
    ] = None,
    preset: Annotated[
        str | None,
        _network(
            "Whose AlexNet: source (the program behind the paper's numbers; the default), "
            "paper, caffe, owt. See pyalexnet presets."
        ),
    ] = None,
    width: Annotated[float | None, _network("Maps and units of alexnet, times this.")] = None,
    one_tower: Annotated[
        bool | None, _network("The half-width net of section 3.2.", "--one-tower")
    ] = None,
    towers: Annotated[int | None, _network(given.TOWERS, min=1, max=2)] = None,
    devices: Annotated[str | None, _network("Where two towers run; 0,0 puts both on one.")] = None,
    exchange: Annotated[
        str | None,
        _network(
            "Layers that read both towers; the preset's conv3,fc6,fc7,fc8.", metavar="LAYERS|none"
        ),
    ] = None,
    activation: Annotated[str | None, _network(None, metavar="relu|tanh")] = None,
    lrn: Annotated[
        str | None,
        _network(
            "Response normalisation: norm1, norm2 and, in source, rnorm2.", metavar="on|off|LAYERS"
        ),
    ] = None,
    pooling: Annotated[
        str | None, _network("Windows that overlap, or not.", metavar="3/2|2/2")
    ] = None,
    dropout: Annotated[float | None, _network("Probability of dropping.")] = None,
    without: Annotated[str | None, _network("Layers to leave out.", metavar="LAYERS")] = None,
    init_from: Annotated[
        str | None,
        _network(
            "Begin with its parameters; the last layer anew where the classes differ.",
            metavar="RUN|CHECKPOINT",
        ),
    ] = None,
    classes_in_order: Annotated[
        bool,
        _network(
            "With --init-from: keep the last layer, too, and take the data's classes for its "
            "own in their order, whatever they are called.",
            "--classes-in-order",
        ),
    ] = False,
    data: Annotated[
        str | None,
        _data(
            "Pack (pyalexnet data prepare), folder of images by class, CIFAR-10 folder or "
            "archive, cifar10 once fetched, or .npz (images, labels and, if it has them, "
            "test_images, test_labels, class_ids, class_names); built-in photographs if none is "
            "named.",
            "--data",
            "--data-path",
        ),
    ] = None,
    jitter: Annotated[
        float | None, _data("Colour jitter in standard deviations along each axis; 0: none.")
    ] = None,
    crop_chunk: Annotated[int | None, _data("Images that share a crop and a flip.")] = None,
    flip: Annotated[bool | None, _data("Mirror half of them.", "--flip/--no-flip")] = None,
    workers: Annotated[
        int | None,
        _data(
            "Threads that read images ahead; a number for each core if none is named.",
            "--workers",
            "-j",
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        _learning(
            "Passes over the training images. In a new run the schedule is stretched to them; "
            "with --resume only the end moves."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _learning("Images of an update.", "--batch-size", "-b")
    ] = None,
    lr: Annotated[
        float | None, _learning("Learning rate of the weights; all others in proportion.")
    ] = None,
    bias_lr: Annotated[float | None, _learning("That of the biases.")] = None,
    layer_lr: Annotated[
        list[str] | None,
        _learning("That of a layer; 0 freezes it. May be given again.", metavar="LAYER=LR"),
    ] = None,
    schedule: Annotated[
        str | None,
        _learning(
            "const, steps[25=0.1;51=0.01], linear[factor=250], exp[factor=250], "
            "dexp[factor=250;steps=4] or plateau[factor=10;times=3;patience=5]."
        ),
    ] = None,
    bias_schedule: Annotated[str | None, _learning("That of the biases.")] = None,
    momentum: Annotated[float | None, _learning("Of the updates: 0 or more, less than 1.")] = None,
    weight_decay: Annotated[
        float | None, _learning("Of every layer's weights.", "--weight-decay", "--wd")
    ] = None,
    seed: Annotated[
        int | None, _learning("Of initial weights, order of images, augmentation and dropout.")
    ] = None,
    chance_steps: Annotated[
        int | None, _learning("Steps at chance after which a run stops; 0: never.")
    ] = None,
    backend: Annotated[
        str | None, _run("auto (cuda where it works, else cpu), cpu, sim, cuda.")
    ] = None,
    device: Annotated[str | None, _run("Number of the device; also cpu, cuda, cuda:1.")] = None,
    exact: Annotated[
        bool | None,
        _run(
            "On cpu: every convolution by its formula, none by Winograd's algorithm.",
            "--exact/--no-exact",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        _run(
            given.PRECISION,
            metavar="fp32|fp32x3|bf16",
        ),
    ] = None,
    fused: Annotated[
        bool | None,
        _run(
            given.FUSED,
            "--fused/--unfused",
        ),
    ] = None,
    resume: Annotated[
        str | None, _run("Go on with a run; other options change its values.", metavar="RUN|latest")
    ] = None,
    config: Annotated[Path | None, _run("Start with the values of a run's config.toml.")] = None,
    where: Annotated[
        Path,
        _run(
            "Where the run folders lie: the new one, and latest, which was begun last.",
            "--runs",
            "--output-dir",
            metavar="FOLDER",
        ),
    ] = given.RUNS,
    steps: Annotated[
        int | None, _run("Stop after this many steps in all, and save.", min=1)
    ] = None,
    print_freq: Annotated[int | None, _run("Steps between two lines of the log.", min=1)] = None,
    keep: Annotated[
        int | None, _run("Newest checkpoints to keep; the best stays too.", min=1)
    ] = None,
    tensorboard: Annotated[
        bool | None,
        _run("Write events for TensorBoard into the run folder.", "--tensorboard/--no-tensorboard"),
    ] = None,
    plain: Annotated[bool, _run("Plain lines, also on a terminal.", "--plain")] = False,
) -> None:
    """Train a network. Without options: a small AlexNet on built-in photographs.

    Ctrl-C (or SIGTERM, SIGUSR1) finishes the step, saves and stops; --resume latest continues as if
    nothing had happened. SIGHUP and SIGUSR2 save and go on.
    """
    options = {name: value for name, value in locals().items() if name not in _OF_THE_COMMAND}
    if resume is not None and (config is not None or init_from is not None):
        other = "--config" if config is not None else "--init-from"
        raise ArgumentError(f"{other} and --resume were both given; one of them was expected.")
    if dropout is not None and not 0 <= dropout < 1:
        raise ArgumentError(f"--dropout is {dropout:g}; at least 0 and less than 1 was expected.")
    options["backend"], options["device"] = place(backend, device)
    options |= {
        "devices": _towers(towers, devices),
        "exchange": _names(exchange),
        "lrn": {"on": True, "off": False}.get(lrn, _names(lrn)) if lrn else None,
        "without": _names(without),
        "chunk": crop_chunk,
    }
    choices = {name: value for name, value in options.items() if value is not None}
    stopped_by = _train(choices, resume, config, where, steps, plain)
    if stopped_by is not None:
        raise typer.Exit(128 + stopped_by)


def _train(
    choices: Mapping[str, Any],
    resume: str | None,
    config: Path | None,
    where: Path,
    steps: int | None,
    plain: bool,
) -> int | None:
    """Train; returns the number of the signal that ended it, if one did."""
    from pyalexnet.runs.run import find
    from pyalexnet.training import progress, start, summary

    trainer = None
    try:
        with progress.reporter(plain=plain) as reporter:
            with naming_options(choices):
                if resume is None:
                    trainer = start.new(choices, out=where, config=config, reporter=reporter)
                else:
                    run = find(resume, where)
                    trainer = start.resumed(run, choices, reporter=reporter, steps=steps)
            trainer.interrupt.tell = reporter.answer
            with trainer.folder, trainer.interrupt:
                for line in summary.opening(trainer):
                    reporter.say(line)
                outcome = trainer.fit(steps)
                for line in summary.closing(trainer, outcome, told_loss=reporter.told_loss):
                    reporter.say(line)
    except KeyboardInterrupt:
        if trainer is None:  # while data were being read
            raise
        progress.Reporter().say(
            "stopped at once; what came after the newest checkpoint is lost; to go on: "
            f"pyalexnet train --resume {shlex.quote(str(trainer.folder.path))}"
        )
        return signal.SIGINT
    return outcome.interrupt


@contextlib.contextmanager
def naming_options(choices: Mapping[str, Any]) -> Iterator[None]:
    """Make refusals of values from the command line name the option."""
    from pyalexnet import nets

    try:
        yield
    except ArgumentError as error:
        who, _, rest = str(error).partition(": ")
        name, _, said = rest.partition(" ")
        if who not in ("recipe", "run", "augment", *nets.names()) or name not in choices:
            raise
        option = "crop-chunk" if name == "chunk" else name.replace("_", "-")
        raise ArgumentError(f"--{option} {said}") from error


def _names(text: str | None) -> list[str] | None:
    """Names separated by commas; "none" means no names."""
    if text is None:
        return None
    return [] if text == "none" else [name.strip() for name in text.split(",")]


def _towers(towers: int | None, devices: str | None) -> tuple[int, ...] | None:
    """The devices of two towers, () for one; None if nothing was chosen."""
    if devices is None:
        return None if towers is None else (0, 1) if towers == 2 else ()
    numbers = devices.split(",")
    if towers != 2 or len(numbers) != 2 or not all(map(is_number, numbers)):
        raise ArgumentError(
            f"--devices is {devices!r} and --towers {towers}; two numbers, for instance 0,1, and "
            "--towers 2 were expected."
        )
    return int(numbers[0]), int(numbers[1])
