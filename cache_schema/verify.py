"""Finds damage in a cache: digests and checksums computed again, shards and lines matched.

The digest of a whole shard finds any byte that changed. Only where it differs, or where there is
none, is every dataset compared with its own checksum, which tells the videos that are affected.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from cache_schema import codec_file, manifest
from cache_schema.address import Address, Place, Where, place
from cache_schema.blocks import RemoteFile, Stream
from cache_schema.checksums import damages
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.manifest import Entry, Manifest, SealedShard
from cache_schema.names import escape, unescape
from cache_schema.nodes import child, members
from cache_schema.reader import CacheReader
from cache_schema.shard import Header, UnreadableShard, open_shard, remedy
from cache_schema.spec import FORMAT_VERSION


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        path: of the cache.
        videos: how many the manifest lists.
        damaged: id to what is wrong with it; these have to be extracted again.
        shards: name to what is wrong with a shard that has lines, as a file.
        other: sentences on what the manifest does not know.
        codec_file: what is wrong with the codec kept beside the shards; '' when nothing is.
        dropped: ids that were taken out before and that no extraction has brought back.
        versions: format versions of the shards that could be opened.
        repaired: what was found has been taken out since.
    """

    path: Place
    videos: int
    damaged: dict[str, list[str]] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    codec_file: str = ""
    dropped: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    repaired: bool = False

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not (self.damaged or self.shards or self.other or self.codec_file)

    def lines(self) -> Iterable[str]:
        """The report as text; the last line names the videos to extract again."""
        for name, what in self.shards.items():
            yield f"{self.path / name}: {what}"
        for video_id, found in self.damaged.items():
            yield from (f"video {video_id!r}: {what}" for what in found)
        yield from self.other
        if self.codec_file:
            yield self.codec_file
        if self.shards or self.damaged or self.codec_file:
            yield (
                "repaired: run the same extraction to bring back what is missing"
                if self.repaired
                else f"to repair it, {remedy(self.path)}"
            )
        if self.damaged:
            names = ", ".join(map(repr, self.damaged))
            yield f"{len(self.damaged)} of {self.videos} videos are damaged: {names}"
        elif self.shards:
            yield f"all {self.videos} videos are sound, there is none to extract again"
        elif self.sound:
            yield f"{self.videos} videos are sound"
        if self.dropped:
            names = ", ".join(map(repr, self.dropped))
            yield f"{len(self.dropped)} more, dropped before, are to be extracted: {names}"


def verify(path: Where, *, quick: bool = False) -> Report:
    """Check every shard and every video of a cache.

    Args:
        path: the folder or address; of a server all is read anew.
        quick: leave out what reads the data: only sizes, headers, and the names, shapes and
            attributes of what is in the shards.

    Raises:
        InputError: the folder cannot be read as a cache at all.
        SystemTrouble, MemoryError: part of it cannot be read, which proves nothing.
    """
    folder = place(path)
    # First, so that what is finished meanwhile is at worst in the manifest only. A server has no
    # list.
    shards = [] if isinstance(folder, Address) else folder.glob("shard-*.h5")
    there = {p.name for p in shards if manifest.SHARD.fullmatch(p.name)}
    known = manifest.read(folder)
    report = Report(folder, len(known.videos), dropped=sorted(known.dropped))
    listed: dict[str, list[Entry]] = {name: [] for name in known.shards}
    for entry in known.videos.values():
        listed.setdefault(entry.shard, []).append(entry)
    if not there and not listed:
        CacheReader(folder)  # raises: no finished video
    foreign: list[InputError] = []
    for name in sorted(there | listed.keys()):
        try:
            _check_shard(folder / name, listed.get(name), known, report, quick)
        except Foreign as error:
            foreign.append(error)
            report.shards[name] = str(error)
            report.damaged |= {entry.id: [str(error)] for entry in listed.get(name, [])}
    # Of a cache of another version nothing is damage, even where some of its shards are damaged.
    if foreign and (not report.versions or len(foreign) == len(there | listed.keys())):
        raise InputError(str(foreign[0]))
    try:
        reader = CacheReader(folder)
    except InputError:
        return report  # the first shard is damaged, which is in the report already
    if not quick:
        _check_layout(reader, report)
    reader.close()
    if isinstance(folder, Path):
        report.codec_file = codec_file.damage(folder, reader.codec)
    return report


class Foreign(InputError):
    """A shard that is whole, but not ours: of another format version, or of another program."""


def _check_shard(
    path: Place, entries: list[Entry] | None, known: Manifest, report: Report, quick: bool
) -> None:
    """Check a shard and its videos; ``entries`` is None for one that no line names."""
    sealed = known.shards.get(path.name)
    wrong = file_damage(path, sealed, quick=quick)
    try:
        with open_videos(path) as (header, videos, names):
            report.versions.add(header.version)
            data = not quick and (bool(wrong) or sealed is None)
            for entry in entries or ():
                found = video_damage(videos, entry, data=data)
                if found:
                    report.damaged[entry.id] = [f"{path}: {what}" for what in found]
    except InputError as error:
        wrong = wrong or file_damage(path, sealed, quick=False)
        if not wrong and not isinstance(error, UnreadableShard):
            raise Foreign(str(error)) from error
        why = f"{path}: {wrong}" if wrong else str(error)
        wrong = wrong or str(error)
        report.damaged |= {entry.id: [why] for entry in entries or ()}
    else:
        if sealed:
            _check_names(path, names, known, report)
        elif header.version == FORMAT_VERSION:
            report.other.append(
                f"{path} has no line in {manifest.MANIFEST}: the same extraction takes in "
                "what is sound in it"
            )
    if wrong and entries is None:
        report.other.append(f"{path} has no line in {manifest.MANIFEST}: {wrong}")
    elif wrong:
        report.shards[path.name] = wrong


def file_damage(path: Place, sealed: SealedShard | None, *, quick: bool) -> str:
    """What is wrong with a shard as a file, going by its line; '' when nothing is.

    Raises:
        SystemTrouble: it cannot be read, which says nothing about it.
    """
    try:
        with _open(path, anew=not quick) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if sealed and size != sealed.size:
                return f"it has {size} bytes instead of {sealed.size}"
            digest = hashlib.file_digest(file, "sha256") if sealed and not quick else None
            if digest and digest.hexdigest() != sealed.sha256:
                return "its bytes are not those that were written (SHA-256)"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        system.check(error, path)
        raise
    return ""


def _open(path: Place, *, anew: bool) -> io.BufferedIOBase:
    if isinstance(path, Path):
        return path.open("rb")
    file = RemoteFile(path)
    if anew:
        file.forget()
    return io.BufferedReader(Stream(file), 1 << 24)


@contextmanager
def open_videos(path: Place) -> Iterator[tuple[Header, h5py.Group, list[str]]]:
    """A shard's header, its group of videos and the names in it; raises as `open_shard` does."""
    with ExitStack() as stack:
        with system.undisturbed():
            file, header = open_shard(path)
            stack.enter_context(file)
            videos = child(file, "videos", h5py.Group)
            names = members(videos)
        yield header, videos, names


def video_damage(videos: h5py.Group, entry: Entry, *, data: bool) -> list[str]:
    """What is wrong with a video that a line lists; see `damages`."""
    with system.undisturbed():
        try:
            return damages(child(videos, escape(entry.id), h5py.Group), entry.checksum, data=data)
        except InputError as error:
            return [str(error)]


def _check_names(path: Place, names: list[str], known: Manifest, report: Report) -> None:
    """Every video in a sealed shard is known, if only as dropped or as copied elsewhere."""
    for name in names:
        try:
            video_id = unescape(name)
        except InputError:
            video_id = None
        if video_id not in known.videos and video_id not in known.dropped:
            report.other.append(
                f"{path}: {name!r} has no line in {manifest.MANIFEST}: the same extraction "
                "extracts it again"
            )


def _check_layout(reader: CacheReader, report: Report) -> None:
    """Read everything small of the sound videos, so that names, types and shapes are checked."""
    for video_id in reader.entries:
        if video_id in report.damaged:
            continue
        try:
            with system.undisturbed():
                _read_small(reader, video_id)
        except InputError as error:
            report.damaged[video_id] = [str(error)]


def _read_small(reader: CacheReader, video_id: str) -> None:
    video = reader.video(video_id)
    video.frame_queries([])
    if not reader.light:
        video.mask_features([])
    video.video_queries()
    video.video_logits()
    video.video_mask_embeds()
    video.tracks()
    video.frame_times()
    video.overlaps()
    video.objects()
    video.segmenter_masks()
    for k in range(video.num_clips):
        video.clip(k)
    for expression_id in video.expression_ids:
        video.expression(expression_id)
