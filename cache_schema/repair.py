"""Takes damage out of a cache, so that the same extraction brings back what is missing.

Only what was read and proved wrong is taken out; an error of the system ends the repair before
anything is changed. A shard in which some videos are sound stays as it is, and its line is written
anew with the digest of what it is now: every byte of it that a reader uses has been compared with
the checksums in the manifest. Any other damaged shard is deleted. The manifest only grows, in one
append, in an order in which its beginning is right on its own: a repair that is killed leaves a
good manifest, and the next one does the rest.
"""

import os
from pathlib import Path
from typing import Any

from cache_schema import codec_file, manifest
from cache_schema.address import local_folder
from cache_schema.host.cli import InputError
from cache_schema.host.files import sync_folder
from cache_schema.host.lock import CacheLock
from cache_schema.recovery import seal_of
from cache_schema.spec import FORMAT_VERSION
from cache_schema.verify import Report, open_videos, verify, video_damage


def repair(path: str | os.PathLike[str], *, quick: bool = False) -> Report:
    """Verify a cache and drop what is damaged.

    Args:
        quick: look for damage as a quick `verify` does; what is found is examined in full.

    Returns:
        What was found, and has been repaired.

    Raises:
        InputError: another process writes the cache, it cannot be read or written at all, or it
            is of an older format version, which nothing refills.
        SystemTrouble, MemoryError: part of it cannot be read; nothing has been changed.
    """
    folder = local_folder(path)
    manifest.read(folder)  # before anything is written: is this a cache?
    try:
        with CacheLock(folder):
            manifest.heal(folder)
            report = verify(folder, quick=quick)
            if report.versions and FORMAT_VERSION not in report.versions:
                raise InputError(
                    f"{folder} is a cache of an older format version, which this program reads "
                    "but does not continue: extract into another folder"
                )
            if not report.sound:
                _drop(folder, report)
                report.repaired = True
    except OSError as error:
        raise InputError(f"cannot repair the cache {folder}: {error.strerror}") from error
    return report


def _drop(folder: Path, report: Report) -> None:
    known = manifest.read(folder)
    videos: list[dict[str, Any]] = [
        {"id": video_id, "dropped": found[0]}
        for video_id, found in report.damaged.items()
        if known.videos[video_id].shard not in report.shards
    ]
    shards: list[Any] = []
    lost: list[Path] = []
    for name, why in report.shards.items():
        entries = known.inside(name)
        try:
            # The digest first: what is vouched for is what is looked at after it.
            sealed = seal_of(folder / name, name)
            with open_videos(folder / name) as (_, videos_there, _):
                bad = {e.id for e in entries if video_damage(videos_there, e, data=True)}
        except (InputError, FileNotFoundError):
            bad = {entry.id for entry in entries}
        bad |= report.damaged.keys() & {entry.id for entry in entries}
        if len(bad) < len(entries):
            videos += [{"id": video_id, "dropped": why} for video_id in sorted(bad)]
            shards.append(sealed)
        else:
            lost.append(folder / name)
            videos += known.drop(name, why)
    for path in lost:
        path.unlink(missing_ok=True)
    sync_folder(folder)
    manifest.append(folder, [*videos, *shards])
    if report.codec_file:
        (folder / codec_file.CODEC_FILE).unlink()
