"""A trained network, ready for use, with its checkpoint's rules for preparing images.

All users (evaluation, prediction, features, retrieval) go through `Trained`, so that images are
always prepared as in training: resized to the stored size, cropped to the centre, less the mean.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pyalexnet import data, nets
from pyalexnet.backends import Array, Backend
from pyalexnet.backends import backend as make_backend
from pyalexnet.data import Dataset, Split
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Images, Labels, Progress, by_channel
from pyalexnet.data.decode import pillow_warnings, read_image
from pyalexnet.data.loader import read_in_pieces
from pyalexnet.data.readers import Readers
from pyalexnet.data.views import Side, Views, centre, ten
from pyalexnet.errors import ArgumentError, CheckpointError, DataError, RunError
from pyalexnet.files import about, refused, shown
from pyalexnet.nets.layers import Linear
from pyalexnet.nets.recipe import Augment
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.runs.run import find
from pyalexnet.step.net import Net
from pyalexnet.trained.ensemble import average, softmax

# Called with a sentence for the user, such as on an image file that cannot be read.
Say = Callable[[str], None]

# Images that go through a network at once by default.
BATCH = 128


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with the parameters of a checkpoint; `load` makes one.

    run: the run's folder; None if a checkpoint outside of a run was loaded. path: the checkpoint's
    folder. net: the network, its parameters on the backend. meta: the checkpoint's JSON. mean: (Hs,
    Ws, C) float32, subtracted from stored images as `augment` says. augment: how training saw
    stored images; None: whole, less the mean of each pixel.
    """

    run: Path | None
    path: Path
    net: Net
    meta: Meta
    mean: npt.NDArray[np.float32]
    augment: Augment | None

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        backend: str | Backend = "auto",
        which: str = "best",
        runs: Path = Path("runs"),
        say: Say | None = None,
    ) -> Trained:
        """The network of a run, or of one checkpoint.

        run: a run's folder, "latest" for the newest run in `runs`, or a checkpoint's folder.
        backend: a name for `pyalexnet.backend`, or what it returned. which: checkpoint of the run:
        "best" (lowest test error; the last one if no epoch has ended), "last", or "step-N". say:
        called with a sentence for each damaged checkpoint that was skipped; None warns. A RunError
        if `run` is neither, a CheckpointError if it cannot be read or describes no known network.
        """
        place = backend if isinstance(backend, Backend) else make_backend(backend)
        folder, path, saved = _found(str(run), which, runs, say)
        with about(path):
            net, augment = _net(saved, place), _augment(saved)
            return cls(folder, path, net, saved.meta, _mean(saved, augment), augment)

    @property
    def name(self) -> str:
        """Its name for people: that of the run's folder, or the checkpoint's."""
        return (self.run or self.path).name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.meta.class_names

    @cached_property
    def classes(self) -> Classes:
        """Ids and names of its classes."""
        return self.meta.known_classes

    @property
    def size(self) -> Side:
        """Height and width of the network's input, pixels."""
        return self.meta.input_shape[0], self.meta.input_shape[1]

    @property
    def stored(self) -> Side:
        """Height and width of the images that inputs are cropped from, pixels."""
        return self.mean.shape[0], self.mean.shape[1]

    @property
    def last_hidden(self) -> str:
        """Name of the last linear layer before the logits; of the last layer if there is none.

        In AlexNet it is fc7, whose 4096 numbers represent an image in the paper's section 6.1.
        """
        *hidden, last = self.net.spec.layers
        linear = [layer.name for layer in hidden if isinstance(layer, Linear)]
        return (linear or [layer.name for layer in (hidden or [last])])[-1]

    # Images

    def dataset(self, path: str | Path | None = None, progress: Progress | None = None) -> Dataset:
        """The dataset at `path`, or the one that the network was trained on; "" is built in.

        Images are converted to the network's channels and resized to its stored size if necessary.
        """
        seed = self.meta.config.get("seed", 0)
        where = self.place_of(path)
        found = data.load(where or None, image_size=self.stored, seed=seed, progress=progress)
        shape = self.mean.shape
        train, test = (
            split if split.image_shape == shape else Fitted(split, shape)
            for split in (found.train, found.test)
        )
        return dataclasses.replace(found, train=train, test=test, statistics=None)

    def numbered(self, dataset: Dataset, *, in_order: bool = False) -> Dataset:
        """The set with labels in the network's numbering of the classes, whatever their order.

        in_order: match its classes to the network's by position, whatever they are called; else a
        DataError if they are not the same.
        """
        as_many = len(dataset.classes) == len(self.classes)
        found = dataset if in_order and as_many else dataset.numbered_as(self.classes)
        if found is None:
            advice = "; --classes-in-order takes them in their order" if as_many else ""
            raise DataError(
                f"{dataset.note}: its classes are not those of {self.name}: "
                f"{dataset.classes.difference(self.classes)}{advice}."
            )
        return found

    def place_of(self, path: str | Path | None) -> str:
        """Absolute path of the set at `path`, or of the training data; "" for the built-in set.

        A DataError if the checkpoint does not say what it was trained on.
        """
        if path == "":
            return ""
        if path is not None:  # a name such as cifar10 is not a path
            return str(Path(path).absolute() if Path(path).exists() else path)
        where = self.meta.config.get("data")
        if not isinstance(where, str):
            raise DataError(
                f"{self.path}: does not say which data it was trained on; --data was expected."
            )
        return os.fsdecode(where.encode())  # from config.toml's UTF-8 to this locale's encoding

    def batches(
        self, split: Split, batch_size: int = BATCH, progress: Progress | None = None
    ) -> Generator[tuple[Images, Labels]]:
        """Stored images (n, Hs, Ws, C) and labels (n,) of a split, in its order.

        The next batch is read while the caller works on one, which is valid until the next; a
        DataError says which image is damaged or hangs. progress: called with (images processed,
        images in all).
        """
        count = len(split)
        buffers = [np.empty((min(batch_size, count), *self.mean.shape), np.uint8) for _ in range(2)]
        with Readers(len(os.sched_getaffinity(0))) as readers:

            def begin(start: int) -> tuple[Callable[[], None], Images, Labels]:
                chosen = np.arange(start, min(start + batch_size, count))
                images = buffers[start // batch_size % 2][: len(chosen)]
                return read_in_pieces(readers, split, chosen, images), images, split.labels[chosen]

            done = 0
            begun = map(begin, range(0, count + batch_size, batch_size))  # the last one is empty
            for (finish, images, labels), _next in pairwise(begun):
                finish()
                yield images, labels
                done += len(labels)
                if progress:
                    progress(done, count)

    def images(
        self, paths: Sequence[Path], bad: Say | None = None
    ) -> tuple[Images, tuple[Path, ...]]:
        """Image files at the stored size, (n, Hs, Ws, C), and their paths.

        bad: called for each file that cannot be read, which is then skipped; None: a DataError,
        as always if reading hangs.
        """
        images: list[Images] = []
        read: list[Path] = []
        with pillow_warnings(), Readers(len(os.sched_getaffinity(0))) as readers:
            decoding = [readers.begin(self._read, path) for path in paths]
            for path, future in zip(paths, decoding, strict=True):
                try:
                    images.append(readers.awaited(future, partial(shown, path)))
                    read.append(path)
                except DataError as error:
                    if bad is None or not future.done():  # a read that hangs
                        raise
                    bad(str(error))
        return np.array(images, np.uint8).reshape(-1, *self.mean.shape), tuple(read)

    def image_batches(
        self,
        paths: Sequence[Path],
        batch_size: int = BATCH,
        *,
        bad: Say | None = None,
        progress: Progress | None = None,
    ) -> Generator[tuple[Images, tuple[Path, ...]]]:
        """`images` of at most `batch_size` paths at a time; those with none readable are skipped.

        progress: called with (files processed, files in all).
        """
        for start in range(0, len(paths), batch_size):
            images, read = self.images(paths[start : start + batch_size], bad)
            if read:
                yield images, read
            if progress:
                progress(min(start + batch_size, len(paths)), len(paths))

    def centre(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The centre (..., H, W, C) of stored images (..., Hs, Ws, C), which evaluation sees."""
        top, left = ((s - side) // 2 for s, side in zip(self.stored, self.size, strict=True))
        height, width = self.size
        return x[..., top : top + height, left : left + width, :]

    def look(self, x: Images, views: Views | None = None) -> Array:
        """The network's inputs (n, H, W, C), on the device, from stored images (n, Hs, Ws, C).

        x: of the host or the device. views: crops and colours; None: the centre of each image.
        """
        if views is None:
            views = centre(len(x), self.stored, self.size, self.mean.shape[2])
        backend, stored = self.net.backend, self.net.backend.asarray(x)
        own = self.augment is not None and self.augment.mean == "pixel"
        settings = vars(views) | {"size": self.size, "mean_at_pixel": own}
        return backend.augment(stored, self._mean_there, **settings)

    # Parameters and outputs of the network

    @property
    def params(self) -> dict[str, npt.NDArray[np.float32]]:
        """The parameters by name, on the host."""
        net, to_numpy = self.net, self.net.backend.to_numpy
        return {name: np.asarray(to_numpy(x), np.float32) for name, x in net.params.items()}

    def logits(self, x: Images, views: Views | None = None) -> npt.NDArray[np.float32]:
        """Logits (n, classes) for stored images (n, Hs, Ws, C)."""
        logits = self.net.forward(self.look(x, views))
        return np.asarray(self.net.backend.to_numpy(logits), np.float32)

    def probabilities(self, x: Images, *, ten_crop: bool = False) -> npt.NDArray[np.float64]:
        """Probability of each class, (n, classes), for stored images (n, Hs, Ws, C).

        ten_crop: the average of the softmaxes of the paper's ten patches (section 4.1).
        """
        if not ten_crop:
            return softmax(self.logits(x))
        there = self.net.backend.asarray(x)
        patches = ten(len(x), self.stored, self.size, self.mean.shape[2])
        return average([softmax(self.logits(there, views)) for views in patches])

    def activations(self, x: Images, layer: str) -> npt.NDArray[np.float32]:
        """A layer's output (n, ...) in evaluation, for the centres of stored images."""
        self.check_layer(layer)
        outputs = self.net.activations(self.look(x))
        output = next(output for name, output in outputs if name == layer)
        return np.array(self.net.backend.to_numpy(output), np.float32)

    def check_layer(self, layer: str) -> None:
        """Refuse the name of a layer that the network does not have."""
        names = [one.name for one in self.net.spec.layers]
        if layer not in names:
            raise ArgumentError(f"layer is {layer!r}; one of {', '.join(names)} was expected.")

    @cached_property
    def _mean_there(self) -> Array:
        """`mean` on the backend's device."""
        return self.net.backend.asarray(self.mean)

    def _read(self, path: Path) -> Images:
        return fitted(read_image(path, max(self.stored)), self.mean.shape)


class Fitted(Split):
    """A split whose images are converted to another shape as they are read."""

    _split: Split
    _shape: tuple[int, int, int]

    def __init__(self, split: Split, shape: tuple[int, int, int]) -> None:
        vars(self).update(labels=split.labels, _split=split, _shape=shape)  # the class is frozen

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._shape

    def read(self, indices: Labels, out: Images) -> None:
        for place, image in enumerate(self._split.take(indices)):
            out[place] = fitted(image, self._shape)

    def where(self, indices: Labels) -> str:
        return self._split.where(indices)


def fitted(image: Images, shape: tuple[int, int, int]) -> Images:
    """An image (h, w, 1 or 3) as `shape` (H, W, C): its centre of that aspect, resized (bicubic).

    Colour becomes luminance (ITU-R 601) if C is 1; grey is repeated if C is 3.
    """
    height, width, channels = shape
    if image.shape == shape:
        return image
    if image.shape[2] not in (1, 3) or channels not in (1, 3):
        raise DataError(f"images have {image.shape[2]} channels; {channels} were expected.")
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(shape)


def _found(
    run: str, which: str, runs: Path, say: Say | None
) -> tuple[Path | None, Path, Checkpoint]:
    """The run's folder, the checkpoint's folder, and the checkpoint."""
    path = Path(run)
    if run == "latest" or (path / "config.toml").is_file():
        folder = find(run, runs)
        return folder, *_chosen(folder, which, say)
    if not (path / checkpoint.STATE).is_file():
        raise RunError(
            f"{shown(path)} is neither a run folder nor a checkpoint; a folder with a config.toml "
            "or a state.json, or latest, was expected."
        )
    folder = path.resolve().parent.parent
    return folder if (folder / "config.toml").is_file() else None, path, checkpoint.load(path)


def _chosen(run: Path, which: str, say: Say | None) -> tuple[Path, Checkpoint]:
    """The checkpoint of a run that `which` names."""
    if named := re.fullmatch(r"step-(\d+)", which):
        step: Any = int(named[1])
    elif which not in ("best", "last"):
        raise ArgumentError(f"which is {which!r}; best, last or step-N was expected.")
    else:
        path = checkpoint.newest(run, say)
        saved = checkpoint.load(path)
        step = saved.meta.metrics.get("best_step")
        if which == "last" or step in (None, saved.meta.step):
            return path, saved
    path = run / "checkpoints" / f"step-{step:08d}"
    if not path.is_dir():
        there = sorted(entry.name for entry in path.parent.glob("step-*"))
        raise CheckpointError(
            f"{shown(path)}: there is no such checkpoint; one of {', '.join(there)} was expected."
        )
    return path, checkpoint.load(path)


def _net(saved: Checkpoint, backend: Backend) -> Net:
    meta = saved.meta
    for name, values in saved.params.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{name} holds values that are not finite; a trained network was expected."
            )
    try:
        make, shape = nets.get(meta.net), meta.input_shape
        spec = make(classes=meta.classes, input_shape=shape, **meta.net_args)
        return Net(spec, backend, params=saved.params)
    except Exception as error:  # unchecked arguments can raise anything
        # The message may quote the checkpoint, line breaks included.
        why = str(error).encode("unicode_escape").decode("ascii")
        raise CheckpointError(f"its network {meta.net!r} cannot be built here ({why}).") from error


def _augment(saved: Checkpoint) -> Augment | None:
    """How training saw images; checkpoints from before crops existed do not say, and had none."""
    recipe = saved.meta.config.get("recipe")
    values = recipe.get("augment") if isinstance(recipe, dict) else None
    said = f"its augment is {values!r}, which is not valid"
    with refused(CheckpointError, said, ArgumentError, TypeError):
        return None if values is None else Augment(**values)


def _mean(saved: Checkpoint, augment: Augment | None) -> npt.NDArray[np.float32]:
    """The mean image at the stored size; constant per channel where the rule is one number."""
    shape = saved.meta.input_shape
    if augment is not None:
        shape = (augment.stored, augment.stored, shape[2])
    mean = np.asarray(saved.mean, np.float32)
    if mean.shape != shape:
        raise CheckpointError(f"its mean image is {mean.shape}; {shape} was expected.")
    return by_channel(mean) if augment is not None and augment.mean == "channel" else mean
