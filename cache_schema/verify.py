"""Finds damage in a cache: every checksum is computed again, every shard and line matched."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from cache_schema import manifest
from cache_schema.cli import InputError
from cache_schema.manifest import Entry, Manifest
from cache_schema.names import escape, unescape
from cache_schema.reader import CacheReader
from cache_schema.shard import UnreadableShard, child, damages, members, open_shard


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        videos: how many the manifest lists.
        damaged: id to what is wrong with it; these have to be extracted again.
        other: sentences on shards that the manifest does not know.
    """

    videos: int
    damaged: dict[str, list[str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.damaged and not self.other

    def lines(self) -> Iterable[str]:
        """The report as text."""
        for video_id, found in self.damaged.items():
            yield from (f"video {video_id!r}: {what}" for what in found)
        yield from self.other
        if self.damaged:
            names = ", ".join(map(repr, self.damaged))
            yield f"{len(self.damaged)} of {self.videos} videos are damaged: {names}"
            yield (
                f"to extract them again, delete their lines from {manifest.MANIFEST} "
                "and run the same extraction"
            )
        elif self.sound:
            yield f"{self.videos} videos are sound"


def verify(path: str | os.PathLike[str]) -> Report:
    """Check every dataset of every video against its checksum, and shards against the manifest.

    Raises:
        InputError: the folder cannot be read as a cache of this format version at all.
    """
    folder = Path(path)
    known = manifest.read(folder)
    report = Report(len(known.videos))
    listed: dict[str, list[Entry]] = {}
    for entry in known.videos.values():
        listed.setdefault(entry.shard, []).append(entry)
    there = {p.name for p in folder.iterdir() if manifest.SHARD.fullmatch(p.name)}
    if not there and not listed:
        CacheReader(folder)  # raises: no finished video
    foreign: list[InputError] = []
    for name in sorted(there | listed.keys()):
        entries = listed.get(name, [])
        try:
            file, _ = open_shard(folder / name)
        except InputError as error:
            if not isinstance(error, UnreadableShard):
                foreign.append(error)
            report.damaged |= {entry.id: [str(error)] for entry in entries}
            report.other += [] if entries else [str(error)]
            continue
        with file:
            _check_shard(file, entries, known, report)
    if foreign and len(foreign) == len(there):
        raise foreign[0]  # not damage: another format version, or no cache of ours
    _check_layout(folder, report)
    return report


def _check_shard(file: h5py.File, entries: list[Entry], known: Manifest, report: Report) -> None:
    """Compare the bytes of a shard's videos with their checksums, and its names with the lines."""
    try:
        videos = child(file, "videos", h5py.Group)
        names = members(videos)
    except InputError as error:
        report.damaged |= {entry.id: [str(error)] for entry in entries}
        report.other += [] if entries else [str(error)]
        return
    for entry in entries:
        try:
            found = damages(child(videos, escape(entry.id), h5py.Group), entry.checksum)
        except InputError as error:
            found = [str(error)]
        if found:
            report.damaged[entry.id] = [f"{file.filename}: {what}" for what in found]
    for name in names:
        try:
            unknown = unescape(name) not in known.videos
        except InputError:
            unknown = True
        # A copy of a video whose line names another shard was extracted again; it harms nobody.
        if unknown:
            report.other.append(
                f"{file.filename}: {name!r} has no line in {manifest.MANIFEST}; "
                "running the same extraction again takes it in"
            )


def _check_layout(folder: Path, report: Report) -> None:
    """Read everything small of the sound videos, so that names, types and shapes are checked."""
    try:
        reader = CacheReader(folder)
    except InputError:
        return  # the first shard is damaged, which is in the report already
    for video_id in reader.entries:
        if video_id in report.damaged:
            continue
        try:
            video = reader.video(video_id)
            video.frame_queries([])
            video.mask_features([])
            video.video_queries()
            video.video_logits()
            video.tracks()
            video.objects()
            for k in range(video.num_clips):
                video.clip(k)
            for expression_id in video.expression_ids:
                video.expression(expression_id)
        except InputError as error:
            report.damaged[video_id] = [str(error)]
    reader.close()
