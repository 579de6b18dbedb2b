"""What the tests of this folder share."""

import hashlib
import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from cache_schema import manifest


def contents(path: Path) -> dict[str, dict[str, object]]:
    """Every video's attributes and dataset bytes, whatever shard they are in."""
    videos: dict[str, dict[str, object]] = {}
    for shard in sorted(path.glob("shard-*.h5")):
        with h5py.File(shard) as file:
            for name, group in file["videos"].items():
                assert name not in videos
                videos[name] = _of_video(group)
    return videos


def listed_contents(path: Path) -> dict[str, dict[str, object]]:
    """The same of the videos that the manifest lists, from the shards that it names."""
    videos = {}
    for video_id, entry in manifest.read(path).videos.items():
        with h5py.File(path / entry.shard) as file:
            videos[video_id] = _of_video(file[f"videos/{video_id}"])
    return videos


def _of_video(group: h5py.Group) -> dict[str, object]:
    found: dict[str, object] = {"": sorted(group.attrs.items())}

    def visit(path, node):
        data = None
        if isinstance(node, h5py.Dataset):
            data = (node.shape, node.dtype, np.asarray(node[()]).tobytes())
        found[path] = (data, sorted((k, str(v)) for k, v in node.attrs.items()))

    group.visititems(visit)
    return found


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def payloads(path: Path) -> list[tuple[str, int, int]]:
    """Name, offset and length of every dataset's bytes in a shard; chunked ones chunk by chunk.

    Those of videos come first.
    """
    found = []

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and node.chunks:
            for i in range(node.id.get_num_chunks()):
                chunk = node.id.get_chunk_info(i)
                found.append((name, chunk.byte_offset, chunk.size))
        elif isinstance(node, h5py.Dataset):
            found.append((name, node.id.get_offset(), node.nbytes))

    with h5py.File(path) as file:
        file.visititems(visit)
    return sorted(found, key=lambda place: not place[0].startswith("videos/"))


def seal_again(path: Path) -> None:
    """Enter a shard that a test has changed as if it had been written like that."""
    data = path.read_bytes()
    line = {"shard": path.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with open(path.parent / "manifest.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def in_child(function: Callable[[], None]) -> int:
    """Run a function in a forked process; its exit status, negative for the signal it died of."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def die() -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)
