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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pyalexnet import files
from pyalexnet.data import (
    bad_files,
    colour,
    decode,
    label_files,
    listing,
    pack,
    processes,
    shard,
)
from pyalexnet.data.bad_files import Skipped
from pyalexnet.data.classes import Classes
from pyalexnet.data.colour import Moments
from pyalexnet.data.dataset import Images, Labels, Progress
from pyalexnet.data.listing import Listing
from pyalexnet.data.pack import Numbers, Storage, Table
from pyalexnet.data.processes import WorkerDied
from pyalexnet.data.shard import Bad, Facts, Origin
from pyalexnet.errors import ArgumentError, DataError, reason
from pyalexnet.files import shown

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
        for name, value, low, high in (
            ("size", storage.size, 8, 2048),
            ("quality", storage.quality, 1, 100),
            ("seed", self.seed, 0, 2**64 - 1),
        ):
            if not low <= value <= high:
                raise ArgumentError(f"prepare: {name} is {value}; {low} to {high} was expected.")
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
    part: str
    files: tuple[str, ...]
    places: Labels
    labels: Labels
    storage: Storage


@dataclass(frozen=True, eq=False)
class Made:
    """A finished shard.

    Attributes:
        facts: for the table.
        bad: its sources that could not be read.
        sums: (S, S, 3), of each pixel over the images; zeros for `val`.
        moments: of all pixels; zeros for `val`.
    """

    facts: Facts
    bad: tuple[Bad, ...]
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
    if workers < 1:
        raise ArgumentError(f"prepare: workers is {workers}; 1 or more was expected.")
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
            bad |= {int(job.places[fault.place]): fault.reason for fault in one.bad}
            done += len(job.files)
            if progress:
                progress(done, len(plan.found.paths))
            _refuse_many(plan, bad)
    skipped = _write_bad(plan, bad)
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
        classes=plan.classes,
        validation=plan.found.validation(plan.source, plan.options.seed),
        skipped=skipped,
        numbers=_statistics(plan.out, images, sums, moments),
        shards=shards,
    )
    _remove_others(plan)
    pack.write_table(plan.out, table)
    return table


# ------------------------------------------------------------------ planning


def _check_places(source: Path, out: Path) -> None:
    try:
        inner, outer, is_folder = out.resolve(), source.resolve(), source.is_dir()
    except (OSError, RuntimeError) as error:  # the latter from circular links
        raise DataError(
            f"{shown(source)}, {shown(out)}: cannot be followed ({reason(error)}); a folder "
            f"with images, and another for the pack, were expected."
        ) from error
    if inner == outer or outer in inner.parents:
        raise DataError(f"{shown(out)}: lies in {shown(source)}; a folder beside it was expected.")
    if inner in outer.parents:
        raise DataError(f"{shown(out)}: holds {shown(source)}; a folder beside it was expected.")
    if not is_folder:
        raise DataError(f"{shown(source)}: is no folder; one with images was expected.")
    try:
        strangers = pack.strangers(out)
    except OSError as error:
        raise DataError(
            f"{shown(out)}: {error.strerror}; a folder for the pack was expected."
        ) from error
    if strangers:
        raise DataError(
            f"{shown(out)}: holds {shown(strangers[0].relative_to(out))}, which is no part of a "
            f"pack; an empty or new folder was expected."
        )


def _plan(source: Path, out: Path, options: Options) -> Plan:
    found = _list(source, options)
    classes = _classes(found, options)
    return Plan(
        source,
        out,
        options,
        found,
        classes,
        tuple(_jobs(source, out, options, found)),
        _digest(source, found, classes.names, options),
    )


def _tell(plan: Plan, say: Callable[[str], None]) -> None:
    found, root = plan.found, plan.source
    train, held_out = found.split(plan.options.seed)
    say(
        f"found     {len(train):,} training and {len(held_out):,} validation images of "
        f"{len(plan.classes)} classes; validation is {found.validation(root, plan.options.seed)}"
    )
    if unused := listing.not_used(root, found.rest):
        say(f"not used  {unused}")


def _list(source: Path, options: Options) -> Listing:
    label_val = None
    if options.val_labels is not None:
        label_val = partial(_val_labels, options.val_labels, options)
    found = listing.of_folders(source, label_val)
    listing.check_counts(source, found, "images")
    return found


def _val_labels(
    path: Path, options: Options, files: Sequence[str], folders: Sequence[str]
) -> Labels:
    """The labels of `val`'s images; the file may use the classes' given names."""
    names = options.class_names and label_files.class_names(options.class_names, folders)
    return label_files.val_labels(path, options.val_numbers, files, folders, names or ())


def _classes(found: Listing, options: Options) -> Classes:
    ids = tuple(shown(name) for name in found.class_ids)
    if options.class_names is None:
        return Classes.named(ids)
    return Classes(ids, label_files.class_names(options.class_names, found.class_ids))


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
    try:
        (out / pack.SHARDS).mkdir(parents=True, exist_ok=True)
        lock = os.open(out / pack.LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"{shown(out)}: cannot be written ({error.strerror}).") from error
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
            return _with_ids(plan, table)
    return None


def _with_ids(plan: Plan, table: Table) -> Table:
    """The table of a complete pack; one from before classes had ids is given them."""
    if table.classes == plan.classes:
        return table
    table = replace(table, classes=plan.classes)
    pack.write_table(plan.out, table)
    return table


def _remove_others(plan: Plan) -> None:
    """Delete shards of an earlier, unfinished call for more images."""
    shards = {job.target for job in plan.jobs}
    for path in (plan.out / pack.SHARDS).iterdir():
        if path not in shards:
            path.unlink()


def _write_bad(plan: Plan, bad: Mapping[int, str]) -> int:
    """List skipped files, in the order of the listing; returns their number."""
    skipped = [*_skipped(plan, bad), *bad_files.not_images(plan.found.others)]
    path = plan.out / pack.BAD_FILES
    if skipped:
        bad_files.write(path, skipped)
    else:
        path.unlink(missing_ok=True)
    return len(skipped)


def _skipped(plan: Plan, bad: Mapping[int, str]) -> list[Skipped]:
    return [Skipped(plan.found.paths[place], bad[place]) for place in sorted(bad)]


def _refuse_many(plan: Plan, bad: Mapping[int, str]) -> None:
    """Stop as soon as it is certain that too many images are bad."""
    images = len(plan.found.paths)
    if len(bad) > bad_files.SHARE * images:
        _write_bad(plan, bad)
        listed = plan.out / pack.BAD_FILES
        bad_files.refuse_many(plan.source, _skipped(plan, bad), images, listed)


def _statistics(out: Path, images: int, sums: npt.NDArray[np.int64], moments: Moments) -> Numbers:
    """Write the mean image; returns the table's statistics of the training images' pixels."""
    own = images >= colour.FEWEST
    means = moments.means() if own else colour.imagenet_means()
    mean = sums / images if own else np.broadcast_to(np.array(means), sums.shape)
    return Numbers(
        "train" if own else "imagenet",
        means,
        colour.of_set(moments, images),
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
        if known is not None and known[0].sources == sources and (attempt or _after(job, latest)):
            origin, facts = known
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


def _after(job: Job, latest: int) -> bool:
    """Whether the shard was written after its sources."""
    return job.target.stat().st_mtime_ns >= latest


def _write(job: Job, sources: str) -> None:
    images: list[bytes] = []
    labels: list[int] = []
    bad: list[Bad] = []
    side = job.storage.size
    with decode.pillow_warnings():
        for place, (file, label) in enumerate(zip(job.files, job.labels.tolist(), strict=True)):
            try:
                image = decode.decode(decode.contents(job.root / file), (side, side))
            except Exception as error:  # decoders raise anything on damaged files
                bad.append(Bad(place, decode.fault(error)))
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
