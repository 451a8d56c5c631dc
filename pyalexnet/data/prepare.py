"""Making a pack from a folder of images: `pyalexnet data prepare`.

The images are divided into shards in their listed order, training images first, and every shard is
made independently, by any process, from its own files alone. So a pack's bytes do not depend on the
number of processes, and the next call continues a killed one: it keeps each shard that is complete
and was made from the same files in the same way, and makes the others.

Sums over the pixels are integers, taken from the stored images: for a JPEG, from its decoding.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pyalexnet import files
from pyalexnet.data import bad_files, colour, decode, label_files, listing, pack, processes, shard
from pyalexnet.data.classes import Classes
from pyalexnet.data.colour import Moments
from pyalexnet.data.dataset import Images, Labels, Progress
from pyalexnet.data.listing import Listing
from pyalexnet.data.pack import Part, PixelStatistics, Storage, Table
from pyalexnet.data.processes import WorkerDied
from pyalexnet.data.shard import Facts, Origin
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.files import shown
from pyalexnet.ops.checks import integer

LARGEST_SHARD = 512
"""Images of a shard; a killed process loses the seconds that they take."""

LARGEST_PIXELS = LARGEST_SHARD * 256**2
"""Pixels of a shard, for images above 256 x 256: a process holds a shard in memory."""

PIECE = 32
"""Images of a shard that are decoded before their pixels are added up."""


@dataclass(frozen=True)
class Options:
    """The options of `prepare`.

    Attributes:
        storage: how images are stored.
        seed: draws the tenth that is held out if there is no `val`.
        val_labels: a file of labels for a flat `val` (`label_files.py`).
        val_numbers: a file that says which class each number in `val_labels` is.
        class_names: a file of names for the classes.
    """

    storage: Storage = field(default_factory=Storage)
    seed: int = 0
    val_labels: Path | None = None
    val_numbers: Path | None = None
    class_names: Path | None = None

    def __post_init__(self) -> None:
        storage = self.storage
        if storage.form not in pack.FORMS:
            raise ArgumentError(
                f"prepare: format is {storage.form!r}; {' or '.join(pack.FORMS)} was expected."
            )
        integer("prepare", "size", storage.size, low=8, high=2048)
        integer("prepare", "quality", storage.quality, low=1, high=100)
        integer("prepare", "seed", self.seed, high=2**64 - 1)
        if self.val_numbers is not None and self.val_labels is None:
            raise ArgumentError(
                "prepare: val_numbers is given and val_labels is not; both were expected, or none."
            )


@dataclass(frozen=True, eq=False)
class Job:
    """A shard to be made, or kept if it already exists.

    Attributes:
        root: the folder of the images.
        target: the shard.
        part: "train" or "val".
        files: below `root`.
        places: (files,), in the listing.
        labels: (files,).
        storage: how images are stored.
    """

    root: Path
    target: Path
    part: Part
    files: tuple[str, ...]
    places: Labels
    labels: Labels
    storage: Storage


@dataclass(frozen=True, eq=False)
class Made:
    """A finished shard.

    Attributes:
        facts: for the table.
        bad: its sources that could not be read, by their places in the job, and why.
        sums: (S, S, 3), of each pixel over the images; zeros for `val`.
        moments: of all pixels; zeros for `val`.
    """

    facts: Facts
    bad: tuple[tuple[int, str], ...]
    sums: npt.NDArray[np.int64]
    moments: Moments


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything known before an image is read.

    Attributes:
        source: folder of the images.
        out: folder of the pack.
        options: as given.
        found: the images.
        classes: by label.
        jobs: the shards, training images first.
        digest: SHA-256 of the images' names, their labels and all options that a pack depends on.
    """

    source: Path
    out: Path
    options: Options
    found: Listing
    classes: Classes
    jobs: tuple[Job, ...]
    digest: str


def prepare(
    source: Path,
    out: Path,
    options: Options | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Table:
    """Make a pack in `out` from the images in `source`; returns its table.

    An existing pack of the same images is read completely and kept, and an earlier call's
    unfinished work is continued. A file that changed but kept its name and length is noticed only
    by its modification time.

    Args:
        source: as in `listing.py`.
        out: a folder that holds nothing else.
        options: defaults if None.
        workers: processes; None: one for each core.
        progress: called with (images done, images in all).
        say: called, before anything takes time, with a sentence on what is used of `source`, and
            one on what is not.

    Raises:
        ArgumentError: an option is out of range.
        DataError: `source` is not such a folder, or too many of its images are bad; `out` is in
            use, holds something else or cannot be written; a process was killed.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    integer("prepare", "workers", workers, low=1)
    _check_places(source, out)
    plan = _plan(source, out, options or Options())
    if say:
        _tell(plan, say)
    with _locked(out):
        return _finished(plan) or _made(plan, workers, progress)


def _made(plan: Plan, workers: int, progress: Progress | None) -> Table:
    """Make every shard, then the other files."""
    (plan.out / pack.TABLE).unlink(missing_ok=True)
    facts: dict[Path, Facts] = {}
    bad: dict[int, str] = {}
    sums, moments, done = np.zeros(plan.options.storage.shape, np.int64), Moments(), 0
    with contextlib.closing(_run(plan.jobs, workers)) as results:
        for number, one in results:
            job = plan.jobs[number]
            facts[job.target] = one.facts
            sums += one.sums
            moments += one.moments
            bad |= {int(job.places[place]): why for place, why in one.bad}
            done += len(job.files)
            if progress:
                progress(done, len(plan.found.paths))
            bad_files.refuse_many(plan.source, plan.found, bad, plan.out / pack.BAD_FILES)
    skipped = bad_files.write(plan.out / pack.BAD_FILES, plan.found, bad)
    good = np.array([place not in bad for place in range(len(plan.found.paths))])
    listing.check_counts(plan.source, plan.found.select(good), "readable images")
    shards = {
        part: tuple(facts[job.target] for job in plan.jobs if job.part == part)
        for part in pack.PARTS
    }
    images = sum(one.images for one in shards["train"])
    table = Table(
        source=shown(plan.source.resolve()),
        plan=plan.digest,
        storage=plan.options.storage,
        class_names=plan.classes.names,
        class_ids=plan.classes.ids,
        validation=plan.found.validation(plan.source, plan.options.seed),
        skipped=skipped,
        statistics=_statistics(plan.out, images, sums, moments),
        shards=shards,
    )
    for path in (plan.out / pack.SHARDS).iterdir():
        if path not in facts:  # of an earlier, unfinished call for more images
            path.unlink()
    pack.write_table(plan.out, table)
    return table


# ------------------------------------------------------------------ planning


def _check_places(source: Path, out: Path) -> None:
    with files.refusing(DataError, source, "read", RuntimeError):  # from circular links
        outer, is_folder = source.resolve(), source.is_dir()
    with files.refusing(DataError, out, "read", RuntimeError):
        inner, strangers = out.resolve(), pack.strangers(out)
    if inner.is_relative_to(outer):
        raise DataError(f"{shown(out)}: lies in {shown(source)}; a folder beside it was expected.")
    if outer.is_relative_to(inner):
        raise DataError(f"{shown(out)}: holds {shown(source)}; a folder beside it was expected.")
    if not is_folder:
        raise DataError(f"{shown(source)}: is no folder; one with images was expected.")
    if strangers:
        raise DataError(
            f"{shown(out)}: holds {shown(strangers[0].relative_to(out))}, which is no part of a "
            f"pack; an empty or new folder was expected."
        )


def _plan(source: Path, out: Path, options: Options) -> Plan:
    def names(folders: Sequence[str]) -> tuple[str, ...]:
        """The classes' given names; () without any."""
        path = options.class_names
        return () if path is None else label_files.class_names(path, folders)

    def label_val(files: Sequence[str], folders: Sequence[str]) -> Labels:
        assert options.val_labels is not None
        given = names(folders)
        return label_files.val_labels(
            options.val_labels, options.val_numbers, files, folders, given
        )

    found = listing.of_folders(source, label_val if options.val_labels is not None else None)
    listing.check_counts(source, found, "images")
    ids, given = tuple(shown(name) for name in found.class_ids), names(found.class_ids)
    classes = Classes(ids, given) if given else Classes.named(ids)
    jobs = tuple(_jobs(source, out, options, found))
    digest = _digest(source, found, classes.names, options)
    return Plan(source, out, options, found, classes, jobs, digest)


def _tell(plan: Plan, say: Callable[[str], None]) -> None:
    found, root = plan.found, plan.source
    train, held_out = found.split(plan.options.seed)
    say(
        f"found     {len(train):,} training and {len(held_out):,} validation images of "
        f"{len(plan.classes)} classes; validation is {found.validation(root, plan.options.seed)}"
    )
    if unused := listing.not_used(root, found.rest):
        say(f"not used  {unused}")


def _digest(source: Path, found: Listing, class_names: Sequence[str], options: Options) -> str:
    digest = hashlib.sha256()
    for path, part, label in zip(found.paths, found.parts, found.labels, strict=True):
        digest.update(os.fsencode(path.relative_to(source)) + b"\0%d %d\0" % (part, label))
    rest = [asdict(options.storage), options.seed, list(class_names)]
    digest.update(json.dumps(rest, sort_keys=True).encode("ascii"))
    return digest.hexdigest()


def _jobs(source: Path, out: Path, options: Options, found: Listing) -> Iterator[Job]:
    images = max(1, min(LARGEST_SHARD, LARGEST_PIXELS // options.storage.size**2))
    for part, members in zip(pack.PARTS, found.split(options.seed), strict=True):
        for number, start in enumerate(range(0, len(members), images)):
            places = members[start : start + images]
            yield Job(
                source,
                pack.shard_path(out, part, number),
                part,
                tuple(str(found.paths[place].relative_to(source)) for place in places),
                places,
                found.labels[places],
                options.storage,
            )


# ------------------------------------------------------------------ the folder


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder, lock it, and clean up after a killed call."""
    with files.refusing(DataError, out, "written"):
        (out / pack.SHARDS).mkdir(parents=True, exist_ok=True)
        lock = os.open(out / pack.LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.sweep(out)
        files.sweep(out / pack.SHARDS)
        yield
    except BlockingIOError as error:
        raise DataError(f"{shown(out)}: another process prepares a pack there.") from error
    finally:
        os.close(lock)


def _finished(plan: Plan) -> Table | None:
    """The table of an existing complete pack; None if there is work to do."""
    if not pack.is_pack(plan.out):
        return None
    try:
        table = pack.read_table(plan.out)
    except pack.LaterVersion:
        raise
    except DataError:
        return None  # it will be rewritten
    if table.plan != plan.digest:
        raise DataError(
            f"{shown(plan.out)}: holds a pack of other images or options; a new folder was "
            f"expected, or the same images and options."
        )
    with contextlib.suppress(DataError):
        pack.load(plan.out)
        if not list(pack.damaged_shards(plan.out, table)):
            if table.classes != plan.classes:  # it is from before classes had ids
                ids, names = plan.classes.ids, plan.classes.names
                table = replace(table, class_ids=ids, class_names=names)
                pack.write_table(plan.out, table)
            return table
    return None


def _statistics(
    out: Path, images: int, sums: npt.NDArray[np.int64], moments: Moments
) -> PixelStatistics:
    """Write the mean image; returns the table's statistics of the training images' pixels."""
    own = images >= colour.FEWEST
    means = moments.means() if own else colour.imagenet_means()
    mean = sums / images if own else np.broadcast_to(np.array(means), sums.shape)
    axes = colour.of_set(moments, images)
    return PixelStatistics(
        "train" if own else "imagenet",
        means,
        axes.vectors.tolist(),
        axes.sigmas.tolist(),
        pack.write_mean(out, np.ascontiguousarray(mean, np.float32)),
    )


# ------------------------------------------------------------------ one shard


def make(job: Job) -> Made:
    """Make a shard, or keep an existing one.

    Raises:
        DataError: it cannot be written, or does not read back as written.
    """
    sources, latest = _sources(job)
    for attempt in range(2):
        known = shard.examine(job.target)
        if known is not None and known[0].sources == sources:
            origin, facts = known
            if attempt or job.target.stat().st_mtime_ns >= latest:  # written after its sources
                return Made(facts, origin.bad, *_pixel_sums(job, facts))
        if not attempt:
            _write(job, sources)
    raise DataError(f"{shown(job.target)}: is not there as it was written; is the disk in order?")


def _sources(job: Job) -> tuple[str, int]:
    """A digest of the shard's files and options; when the last file was written, ns."""
    digest, latest = hashlib.sha256(json.dumps(asdict(job.storage)).encode("ascii")), 0
    for file, label in zip(job.files, job.labels.tolist(), strict=True):
        size = -1
        with contextlib.suppress(OSError):  # it is listed as bad
            status = (job.root / file).stat()
            size, latest = status.st_size, max(latest, status.st_mtime_ns)
        digest.update(os.fsencode(file) + b"\0%d %d\0" % (label, size))
    return digest.hexdigest(), latest


def _write(job: Job, sources: str) -> None:
    images: list[bytes] = []
    labels: list[int] = []
    bad: list[tuple[int, str]] = []
    side = job.storage.size
    with decode.pillow_warnings():
        for place, (file, label) in enumerate(zip(job.files, job.labels.tolist(), strict=True)):
            try:
                image = decode.decode(files.contents(job.root / file), (side, side))
            except Exception as error:  # decoders raise anything on damaged files
                bad.append((place, decode.fault(error)))
                continue
            images.append(_stored(image, job.storage))
            labels.append(label)
    shard.write(job.target, images, np.array(labels, dtype=np.int64), Origin(sources, tuple(bad)))


def _stored(image: Images, storage: Storage) -> bytes:
    """An image's bytes in the pack. Colours are not subsampled, since it is compressed twice."""
    if storage.form == "uint8":
        return image.tobytes()
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=storage.quality, subsampling=0)
    return stream.getvalue()


def _pixel_sums(job: Job, facts: Facts) -> tuple[npt.NDArray[np.int64], Moments]:
    """Sums over a shard's training images: of each pixel, and of all pixels."""
    shape = job.storage.shape
    sums, moments = np.zeros(shape, np.int64), Moments()
    if job.part != "train":
        return sums, moments
    stored = shard.open_shard(
        job.target, job.storage.form, math.prod(shape), int(job.labels.max()) + 1, facts
    )
    piece = np.empty((PIECE, *shape), np.uint8)
    for start in range(0, len(stored), PIECE):
        images = piece[: min(PIECE, len(stored) - start)]
        for number, image in enumerate(images, start):
            stored.read(number, image)
        sums += images.sum(axis=0, dtype=np.uint32)
        moments += Moments.of(images)
    return sums, moments


# ------------------------------------------------------------------ processes


def _run(jobs: Sequence[Job], workers: int) -> Generator[tuple[int, Made]]:
    """Each job's number and result, as they come; closing it stops the rest."""
    if workers == 1:
        for number, job in enumerate(jobs):
            yield number, make(job)
        return
    try:
        yield from processes.each(make, jobs, workers)
    except WorkerDied as error:
        raise DataError(
            f"{shown(jobs[0].target.parent)}: a process that prepares images was killed, as the "
            f"system does where memory runs out; the same command goes on, with --workers "
            f"{max(1, workers // 2)} in less memory."
        ) from error
