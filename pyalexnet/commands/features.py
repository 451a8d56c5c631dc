"""`pyalexnet features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from pyalexnet.commands import network as given
from pyalexnet.errors import ArgumentError


@given.grouped
def features(
    run: given.Run,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...", help="Image files or folders; by default those of a dataset."
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Safetensors file to write.")
    ] = Path("features.safetensors"),
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
        done = reporter.progress("images")
        if images:
            count = write.write_files(
                output,
                trained,
                named(images, reporter.say),
                chosen,
                batch_size=batch_size,
                bad=given.skipping(reporter),
                progress=done,
            )
        else:
            dataset = trained.dataset(data, reporter.progress("reading images"))
            reporter.say(f"data      {dataset.note}")
            count = write.write_split(
                output,
                trained,
                dataset,
                part,
                chosen,
                where=trained.place_of(data),
                batch_size=batch_size,
                progress=done,
            )
        if not lines.as_json:
            reporter.say(f"{output}: {chosen} of {count:,} images, {numbers:,} numbers each")
    if lines.as_json:
        given.print_json(
            {
                "file": shown(output),
                "checkpoint": shown(trained.path),
                "layer": chosen,
                "images": count,
                "numbers": numbers,
            }
        )
