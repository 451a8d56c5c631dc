"""`pyalexnet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from pyalexnet.commands import network as given
from pyalexnet.errors import ArgumentError

_FORM = "onnx, torchvision (preset owt), or auto, which the file's name tells."
_BATCH = "Images per call of the model: dynamic or a number."
_MEAN = "The model subtracts the mean: it reads 0 to 255."


def export(
    run: given.Run,
    file: Annotated[Path, Argument(metavar="FILE", help="model.onnx, or weights.safetensors.")],
    which: given.Which = "best",
    form: Annotated[str, Option("--format", help=_FORM)] = "auto",
    batch: Annotated[str, Option(help=_BATCH)] = "dynamic",
    opset: Annotated[int, Option(help="Version of ONNX's operators, 13 or newer.")] = 17,
    include_preprocessing: Annotated[bool, Option("--include-preprocessing", help=_MEAN)] = False,
    where: given.RunsFolder = given.RUNS,
) -> None:
    """Write a trained network for other programs: ONNX, or torchvision's state dict.

    onnxruntime runs the ONNX model on random images, and its logits must match ours.
    """
    from pyalexnet import backends
    from pyalexnet.trained.load import Trained

    forms = {".onnx": "onnx", ".safetensors": "torchvision"}
    if form == "auto" and file.suffix not in forms:
        ending = f"the ending {file.suffix} is not known" if file.suffix else "has no ending"
        raise ArgumentError(f"{file}: {ending}; .onnx or .safetensors was expected.")
    form = forms[file.suffix] if form == "auto" else form
    if form not in forms.values():
        expected = "onnx (.onnx) or torchvision (.safetensors)"
        raise ArgumentError(f"--format is {form!r} for {file}; {expected} was expected.")
    if batch != "dynamic" and not batch.isdecimal():
        raise ArgumentError(f"--batch is {batch!r}; dynamic or a number was expected.")
    cpu = backends.backend("cpu", exact=True)
    trained = Trained.load(run, backend=cpu, which=which, runs=where)
    whose = f"of {trained.name}, step {trained.meta.step}"
    if form == "torchvision":
        from pyalexnet.foreign import torchvision

        transform = torchvision.write(trained, file)
        print(
            f"{file}: torchvision's state dict {whose}\nfor images through transforms.{transform}"
        )
        return
    from pyalexnet.trained import export_onnx

    images = None if batch == "dynamic" else int(batch)
    agreement = export_onnx.export(
        trained, file, batch=images, opset=opset, preprocessing=include_preprocessing
    )
    print(
        f"{file}: ONNX model {whose}\n"
        f"onnxruntime's logits on {agreement.images} random images differ from ours by at most "
        f"{agreement.difference:.2g} ({agreement.tolerance:.2g} is allowed; the largest logit is "
        f"{agreement.largest:.3g})"
    )
