"""`pyalexnet train`."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from pyalexnet.commands import network as given
from pyalexnet.errors import ArgumentError

_INIT_FROM = "Begin with its parameters; the last layer is initialised anew if the classes differ."
_WORKERS = "Threads that read images ahead; by default their number depends on the cores."
_RUNS = "Folder of the run folders: the new one, and latest, the one started last."
_PATIENCE = "Seconds that ranks wait for an inactive one before all end; 600."
_DIVIDE = "Keep only a part of the momentum on each rank: the same bits in less memory."
_BF16_GRADIENTS = (
    "Round every gradient, and every sum, to bfloat16 before it is sent: half the bytes, and bits "
    "that depend on the number of ranks."
)
_TENSORBOARD = "Write events for TensorBoard into the run folder."

# By panel of --help: names and form of the value; its type, if not str, meaning and limits.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "Network": {
        "--net --model": "Network; alexnet-tiny if none is named, alexnet for a pack.",
        "--preset": (
            "Whose AlexNet: source (the program behind the paper's numbers; the default), "
            "paper, caffe, owt. See pyalexnet presets."
        ),
        "--width": (float, "Factor on the maps and units of alexnet."),
        "--one-tower": (bool, "The half-width net of section 3.2."),
        "--towers": (int, given.TOWERS, {"min": 1, "max": 2}),
        "--devices": "Where two towers run; 0,0 puts both on one.",
        "--exchange=LAYERS|none": "Layers that read both towers; the preset's conv3,fc6,fc7,fc8.",
        "--activation=relu|tanh": None,
        "--lrn=on|off|LAYERS": "Response normalisation: norm1, norm2 and, in source, rnorm2.",
        "--pooling=3/2|2/2": "Overlapping windows, or not.",
        "--dropout": (float, "Probability of dropping."),
        "--without=LAYERS": "Layers to leave out.",
        "--init-from=RUN|CHECKPOINT": _INIT_FROM,
        "--classes-in-order": (
            bool,
            "With --init-from: keep the last layer, too, and match the data's classes to its "
            "own by position, whatever they are called.",
        ),
    },
    "Data": {
        "--data --data-path": (
            "Pack (pyalexnet data prepare), folder of images by class, CIFAR-10 folder or "
            "archive, cifar10 once fetched, or .npz (images, labels and, if it has them, "
            "test_images, test_labels, class_ids, class_names); built-in photographs if none is "
            "named."
        ),
        "--jitter": (float, "Colour jitter in standard deviations along each axis; 0: none."),
        "--crop-chunk": (int, "Images that share a crop and a flip."),
        "--flip/--no-flip": (bool, "Mirror half of them."),
        "--workers -j": (int, _WORKERS),
    },
    "Learning": {
        "--epochs": (
            float,
            "Passes over the training images. In a new run the schedule is stretched to them; "
            "with --resume only the end moves.",
        ),
        "--batch-size -b": (int, "Images per update."),
        "--lr": (float, "Learning rate of the weights; all others in proportion."),
        "--bias-lr": (float, "Learning rate of the biases."),
        "--layer-lr=LAYER=LR": (list[str], "Learning rate of a layer; 0 freezes it. Repeatable."),
        "--schedule": (
            "const, steps[25=0.1;51=0.01], linear[factor=250], exp[factor=250], "
            "dexp[factor=250;steps=4] or plateau[factor=10;times=3;patience=5]."
        ),
        "--bias-schedule": "Schedule of the biases.",
        "--momentum": (float, "Of the updates: 0 or more, less than 1."),
        "--weight-decay --wd": (float, "Of every layer's weights."),
        "--seed": (int, "Of initial weights, order of images, augmentation and dropout."),
        "--chance-steps": (int, "Stop after this many steps at chance; 0: never."),
    },
    "Ranks": {
        "--parallel=data|towers|hybrid": (
            "What the processes of one mpirun share: data, each batch; towers, the network, in "
            "two; hybrid, batches up to the linear layers and these from there on."
        ),
        "--scheme=whole|turns|slices": (
            "With hybrid: linear layers see the batch at once, one rank's images after another's, "
            "or a slice of each rank's at a time."
        ),
        "--divide-momentum/--no-divide-momentum": (bool, _DIVIDE),
        "--shards": (int, given.SHARDS, {"min": 1}),
        "--bf16-gradients/--no-bf16-gradients": (bool, _BF16_GRADIENTS),
        "--patience": (float, _PATIENCE, {"min": 1.0}),
    },
    "Run": {
        "--backend": given.BACKEND,
        "--device": given.DEVICE,
        "--exact/--no-exact": (bool, given.EXACT),
        "--precision=fp32|fp32x3|bf16": given.PRECISION,
        "--fused/--unfused": (bool, given.FUSED),
        "--resume=RUN|latest": "Continue a run; other options change its values.",
        "--config": (Path, "Start with the values of a run's config.toml."),
        "--runs --output-dir=FOLDER": (Path, _RUNS, {"default": given.RUNS}),
        "--steps": (int, "Stop after this many steps in all, and save.", {"min": 1}),
        "--print-freq": (int, "Steps between two lines of the log.", {"min": 1}),
        "--keep": (int, "Newest checkpoints to keep; the best stays too.", {"min": 1}),
        "--tensorboard/--no-tensorboard": (bool, _TENSORBOARD),
        "--plain": (bool, "Plain lines, also on a terminal."),
    },
}

# Options that are not settings of a run.
_OF_THE_COMMAND = ("resume", "config", "runs", "steps", "plain", "towers", "patience")


def _parameters() -> Iterator[inspect.Parameter]:
    """The options, as typer reads them off a function's signature."""
    for panel, options in _OPTIONS.items():
        for declared, about in options.items():
            kind, meaning, *limits = about if isinstance(about, tuple) else (str, about)
            names, _, metavar = declared.partition("=")
            more: dict[str, Any] = {"default": None, "metavar": metavar or None, **dict(*limits)}
            default = more.pop("default")
            option = Option(*names.split(), help=meaning, rich_help_panel=panel, **more)
            name = names.split()[0].partition("/")[0].strip("-").replace("-", "_")
            hint: Any = Annotated[kind | None if default is None else kind, option]
            by_name = inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter(name, by_name, default=default, annotation=hint)


def train(**options: Any) -> None:
    """Train a network. Without options: a small AlexNet on built-in photographs.

    Ctrl-C (or SIGTERM, SIGUSR1) finishes the step, saves and stops; --resume latest continues as if
    nothing had happened. SIGHUP and SIGUSR2 save and continue.
    """
    from pyalexnet.ranks import launch
    from pyalexnet.runs.run import find
    from pyalexnet.training import progress, start, summary, together

    ranks = launch.start(options["patience"] or launch.PATIENCE)
    several = ranks.world_size > 1  # their launcher may give them a terminal that nobody sees
    together.agree_on_options(ranks, options)
    resume, config, runs, steps, plain, towers, _ = map(options.pop, _OF_THE_COMMAND)
    if resume is not None and (config is not None or options["init_from"] is not None):
        other = "--config" if config is not None else "--init-from"
        raise ArgumentError(f"{other} and --resume were both given; one of them was expected.")
    choices = _choices(options, towers)
    trainer = None
    try:
        with progress.reporter(plain=bool(plain) or several, silent=ranks.rank > 0) as reporter:
            known: dict[str, Any] = {"reporter": reporter, "ranks": ranks}
            with naming_options(choices), ranks.at_length():
                if resume is None:
                    trainer = start.new(choices, out=runs, config=config, **known)
                else:
                    run = find(resume, runs) if ranks.rank == 0 else Path(resume)
                    trainer = start.resumed(run, choices, steps=steps, **known)
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
            "stopped at once; progress since the newest checkpoint is lost; to continue: "
            f"pyalexnet train --resume {shlex.quote(str(trainer.folder.path))}"
        )
        raise typer.Exit(128 + signal.SIGINT) from None
    if outcome.interrupt is not None and not several:
        raise typer.Exit(128 + outcome.interrupt)


train.__signature__ = inspect.Signature([*_parameters()])  # type: ignore[attr-defined]


def _choices(options: dict[str, Any], towers: int | None) -> dict[str, Any]:
    """The chosen options, as `training.start` takes them."""
    dropout, lrn = options["dropout"], options["lrn"]
    if dropout is not None and not 0 <= dropout < 1:
        raise ArgumentError(f"--dropout is {dropout:g}; at least 0 and less than 1 was expected.")
    backend, device = given.place(options["backend"], options["device"])
    choices = options | {
        "backend": backend,
        "device": device,
        "devices": _towers(towers, options["devices"]),
        "exchange": _names(options["exchange"]),
        "lrn": {"on": True, "off": False}.get(lrn, _names(lrn)),
        "without": _names(options["without"]),
        "chunk": options["crop_chunk"],
        "crop_chunk": None,
    }
    return {name: value for name, value in choices.items() if value is not None}


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
    if towers != 2 or len(numbers) != 2 or not all(map(given.is_number, numbers)):
        raise ArgumentError(
            f"--devices is {devices!r} and --towers {towers}; two numbers, for instance 0,1, and "
            "--towers 2 were expected."
        )
    return int(numbers[0]), int(numbers[1])
