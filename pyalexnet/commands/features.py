"""`pyalexnet features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from typer import Argument

from pyalexnet.commands import network as given
from pyalexnet.errors import ArgumentError

_IMAGES = "Image files or folders; by default those of a dataset."
_OUTPUT = Path("features.safetensors")


@given.grouped
def features(
    run: given.Run,
    images: Annotated[list[Path] | None, Argument(metavar="IMAGE...", help=_IMAGES)] = None,
    *,
    output: Annotated[Path, given.written(help="Safetensors file to write.")] = _OUTPUT,
    layer: given.Layer = None,
    data: given.Data = None,
    split: given.Part = "test",
    batch_size: given.BatchSize = 128,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """Write a layer's outputs for images, in evaluation mode, to a safetensors file.

    The file holds features (images, numbers) float32 and, for a dataset, labels (images,) int64;
    its metadata name the network, the layer and the images.
    """
    from pyalexnet.data.images import named
    from pyalexnet.files import shown
    from pyalexnet.trained import features as write

    part = cast(write.Part, given.train_or_test(split))
    if images and data is not None:
        raise ArgumentError("--data and images were both given; one of them was expected.")
    given.check_parent(output)
    with lines.reporting() as reporter:
        (trained,) = network.load([run], reporter)
        chosen = layer or trained.last_hidden
        numbers = write.width(trained, chosen)
        how: dict[str, Any] = {"batch_size": batch_size, "progress": reporter.progress("images")}
        if images:
            files = named(images, reporter.say)
            how["bad"] = given.skipping(reporter)
            count = write.write_files(output, trained, files, chosen, **how)
        else:
            dataset = trained.dataset(data, reporter.progress("reading images"))
            reporter.say(f"data      {dataset.note}")
            how["where"] = trained.place_of(data)
            count = write.write_split(output, trained, dataset, part, chosen, **how)
        where = {"file": shown(output), "checkpoint": shown(trained.path)}
        document = {**where, "layer": chosen, "images": count, "numbers": numbers}
        sentence = f"{output}: {chosen} of {count:,} images, {numbers:,} numbers each"
        lines.tell(reporter, document, [sentence])
