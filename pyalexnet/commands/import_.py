"""`pyalexnet import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

_FILE = (
    "torchvision's state dict or a training script's checkpoint (.safetensors, .pth, .pth.tar, "
    "...), or a .caffemodel."
)
_FORM = "torchvision, caffe, or auto, which the file tells."
_CLASS_NAMES = (
    "Text file with a line a class, in the order of the outputs: NAME, SYNSET NAME, or ID, a tab, "
    "NAME; or JSON, such as Keras's imagenet_class_index.json or a class_to_idx. If neither it "
    "nor FILE names them, classes are called 0, 1, ..., as data's folders then have to be."
)
_MEAN = "Caffe's mean image, imagenet_mean.binaryproto."
_STATE_DICT = "Which of a checkpoint's state dicts, such as model_ema."


def import_weights(
    file: Annotated[Path, Argument(metavar="FILE", help=_FILE)],
    run: Annotated[Path, Argument(metavar="RUN", help="Run folder to be made.")],
    form: Annotated[str, Option("--format", help=_FORM)] = "auto",
    class_names: Annotated[Path | None, Option(help=_CLASS_NAMES)] = None,
    mean: Annotated[Path | None, Option(help=_MEAN)] = None,
    state_dict: Annotated[str | None, Option(help=_STATE_DICT)] = None,
) -> None:
    """Make a run of an AlexNet that was trained elsewhere: torchvision's, or one of Caffe's.

    The run can be evaluated, asked for predictions, exported, and trained from with --init-from.
    """
    from pyalexnet.foreign.import_weights import import_run

    found = import_run(
        file, run, form=form, class_names=class_names, mean=mean, state_dict=state_dict
    )
    for note in found.notes:
        print(f"note: {note}")
    if found.classes is None and class_names is None:
        print(
            "note: The file does not name its classes, so they are numbers from 0, "
            "and only data with classes of these names matches; --class-names names them."
        )
    preset = f", preset {found.net_args['preset']}" if "preset" in found.net_args else ""
    size = f"{found.spec.num_parameters:,} parameters, {found.spec.classes} classes"
    print(f"{run}: {found.spec.name}{preset}, {size}")
