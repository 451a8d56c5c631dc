"""`pyalexnet train`."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pyalexnet.commands import network as given
from pyalexnet.commands.place import is_number, place
from pyalexnet.errors import ArgumentError

_NETWORK, _DATA, _LEARNING, _RUN = "Network", "Data", "Learning", "Run"


def train(
    net: Annotated[
        str | None,
        typer.Option(
            "--net",
            "--model",
            help="Network; alexnet-tiny if none is named, alexnet for a pack.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Whose AlexNet: source (the program behind the paper's numbers; the default), "
            "paper, caffe, owt. See pyalexnet presets.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Maps and units of alexnet, times this.", rich_help_panel=_NETWORK),
    ] = None,
    one_tower: Annotated[
        bool | None,
        typer.Option(
            "--one-tower", help="The half-width net of section 3.2.", rich_help_panel=_NETWORK
        ),
    ] = None,
    towers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            help="2: each half of the network on its device.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Where two towers run; 0,0 puts both on one.", rich_help_panel=_NETWORK),
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS|none",
            help="Layers that read both towers; the preset's conv3,fc6,fc7,fc8.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(metavar="relu|tanh", rich_help_panel=_NETWORK)
    ] = None,
    lrn: Annotated[
        str | None,
        typer.Option(
            metavar="on|off|LAYERS",
            help="Response normalisation: norm1, norm2 and, in source, rnorm2.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="3/2|2/2", help="Windows that overlap, or not.", rich_help_panel=_NETWORK
        ),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Probability of dropping.", rich_help_panel=_NETWORK)
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers to leave out.", rich_help_panel=_NETWORK),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT",
            help="Begin with its parameters; the last layer anew where the classes differ.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    classes_in_order: Annotated[
        bool,
        typer.Option(
            "--classes-in-order",
            help="With --init-from: keep the last layer, too, and take the data's classes for its "
            "own in their order, whatever they are called.",
            rich_help_panel=_NETWORK,
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--data-path",
            help="Pack (pyalexnet data prepare), folder of images by class, CIFAR-10 folder or "
            "archive, cifar10 once fetched, or .npz (images, labels and, if it has them, "
            "test_images, test_labels, class_ids, class_names); built-in photographs if none is "
            "named.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(
            help="Colour jitter in standard deviations along each axis; 0: none.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    crop_chunk: Annotated[
        int | None,
        typer.Option(help="Images that share a crop and a flip.", rich_help_panel=_DATA),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Mirror half of them.", rich_help_panel=_DATA),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-j",
            help="Threads that read images ahead; a number for each core if none is named.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training images. In a new run the schedule is stretched to them; "
            "with --resume only the end moves.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", help="Images of an update.", rich_help_panel=_LEARNING),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the weights; all others in proportion.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    bias_lr: Annotated[
        float | None, typer.Option(help="That of the biases.", rich_help_panel=_LEARNING)
    ] = None,
    layer_lr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER=LR",
            help="That of a layer; 0 freezes it. May be given again.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="const, steps[25=0.1;51=0.01], linear[factor=250], exp[factor=250], "
            "dexp[factor=250;steps=4] or plateau[factor=10;times=3;patience=5].",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    bias_schedule: Annotated[
        str | None, typer.Option(help="That of the biases.", rich_help_panel=_LEARNING)
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(help="Of the updates: 0 or more, less than 1.", rich_help_panel=_LEARNING),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            "--weight-decay", "--wd", help="Of every layer's weights.", rich_help_panel=_LEARNING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of initial weights, order of images, augmentation and dropout.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    chance_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps at chance after which a run stops; 0: never.", rich_help_panel=_LEARNING
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="auto (cuda where it works, else cpu), cpu, sim, cuda.", rich_help_panel=_RUN
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Number of the device; also cpu, cuda, cuda:1.", rich_help_panel=_RUN),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help="On cpu: every convolution by its formula, none by Winograd's algorithm.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|fp32x3|bf16",
            help="Of maps and products; sums, parameters and momentum stay float32. fp32x3: as "
            "accurate as fp32, on a GPU's tensor cores.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    fused: Annotated[
        bool | None,
        typer.Option(
            "--fused/--unfused",
            help="Kernels that take layers together, or one layer after the other; fused on cuda "
            "and cpu.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|latest",
            help="Go on with a run; other options change its values.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Start with the values of a run's config.toml.", rich_help_panel=_RUN),
    ] = None,
    where: Annotated[
        Path,
        typer.Option(
            "--runs",
            "--output-dir",
            metavar="FOLDER",
            help="Where the run folders lie: the new one, and latest, which was begun last.",
            rich_help_panel=_RUN,
        ),
    ] = given.RUNS,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after this many steps in all, and save.", rich_help_panel=_RUN
        ),
    ] = None,
    print_freq: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between two lines of the log.", rich_help_panel=_RUN),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Newest checkpoints to keep; the best stays too.", rich_help_panel=_RUN
        ),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option(
            "--tensorboard/--no-tensorboard",
            help="Write events for TensorBoard into the run folder.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain lines, also on a terminal.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Train a network. Without options: a small AlexNet on built-in photographs.

    Ctrl-C (or SIGTERM, SIGUSR1) finishes the step, saves and stops; --resume latest continues as if
    nothing had happened. SIGHUP and SIGUSR2 save and go on.
    """
    from pyalexnet.step.plan import PRECISIONS
    from pyalexnet.training import start

    if resume is not None and (config is not None or init_from is not None):
        other = "--config" if config is not None else "--init-from"
        raise ArgumentError(f"{other} and --resume were both given; one of them was expected.")
    if precision not in (None, *PRECISIONS):
        raise ArgumentError(
            f"--precision is {precision!r}; one of {', '.join(PRECISIONS)} was expected."
        )
    if dropout is not None and not 0 <= dropout < 1:
        raise ArgumentError(f"--dropout is {dropout:g}; at least 0 and less than 1 was expected.")
    backend, number = place(backend, device)
    choices = start.Choices(
        net=net,
        net_args=_given(
            preset=preset,
            width=width,
            one_tower=one_tower,
            exchange=_names(exchange),
            activation=activation,
            lrn={"on": True, "off": False}.get(lrn, _names(lrn)) if lrn else None,
            pooling=pooling,
            dropout=dropout,
            without=_names(without),
        ),
        data=data,
        backend=backend,
        device=number,
        exact=exact,
        devices=_towers(towers, devices),
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        layer_lr=tuple(layer_lr or ()),
        recipe=_given(bias_lr=bias_lr, schedule=schedule, bias_schedule=bias_schedule),
        augment=_given(jitter=jitter, chunk=crop_chunk, flip=flip),
        workers=workers,
        print_freq=print_freq,
        keep=keep,
        chance_steps=chance_steps,
        tensorboard=tensorboard,
        precision=precision,
        fused=fused,
        init_from=init_from,
        classes_in_order=classes_in_order,
    )
    stopped_by = _run(choices, resume, config, where, steps, plain)
    if stopped_by is not None:
        raise typer.Exit(128 + stopped_by)


def _run(
    choices: Any,
    resume: str | None,
    config: Path | None,
    where: Path,
    steps: int | None,
    plain: bool,
) -> int | None:
    """Train; returns the number of the signal that ended it, if one did."""
    from pyalexnet.runs.run import find
    from pyalexnet.training import progress, start

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
                reporter.opening(trainer)
                outcome = trainer.fit(steps)
                reporter.closing(trainer, outcome)
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
def naming_options(choices: Any) -> Iterator[None]:
    """Make refusals of values from the command line name the option."""
    from pyalexnet import nets

    given = {**vars(choices), **choices.net_args, **choices.recipe, **choices.augment}
    try:
        yield
    except ArgumentError as error:
        who, _, rest = str(error).partition(": ")
        name, _, said = rest.partition(" ")
        if who not in ("recipe", "run", "augment", *nets.names()) or given.get(name) is None:
            raise
        option = "crop-chunk" if name == "chunk" else name.replace("_", "-")
        raise ArgumentError(f"--{option} {said}") from error


def _given(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


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
