"""An open shard, and what is known of a video in it, so that HDF5 is asked only once."""

import threading
from typing import Any

import h5py

from cache_schema.address import Place
from cache_schema.direct import open_file
from cache_schema.host.cli import InputError
from cache_schema.manifest import Entry
from cache_schema.names import escape
from cache_schema.nodes import Node, attribute, child, json_attribute, where
from cache_schema.records import Geometry
from cache_schema.shard import Header, open_shard, read_geometry

MAX_NODES = 256  # groups and datasets of a shard that HDF5 keeps open


class OpenShard:
    """An open shard: a descriptor to read from, and HDF5's view of it once that is needed."""

    def __init__(self, path: Place, expected: Header):
        self.file = open_file(path)
        self._expected = expected
        basis = expected.codec.basis
        self.dims = {"C_mask": len(basis.mean)} if basis else {}  # of every video
        self._nodes: dict[str, h5py.Group | h5py.Dataset] = {}
        self._lock = threading.RLock()

    def node(self, path: str, kind: type[Node]) -> Node:
        """A group or dataset, checked when it is first asked for."""
        with self._lock:
            if not self._nodes:
                self._nodes[""] = self._open()
            if path not in self._nodes:
                parent, _, name = path.rpartition("/")
                node = child(self.node(parent, h5py.Group), name, kind)
                if len(self._nodes) >= MAX_NODES:
                    self._nodes = {"": self._nodes[""]}
                self._nodes[path] = node
            return self._nodes[path]

    def _open(self) -> h5py.File:
        file, header = open_shard(self.file.path)
        try:
            if not self.file.is_current:
                raise changed(self.file.path)
            self._expected.check(header, self.file.path)
            if file.userblock_size:
                raise InputError(f"{self.file.path} has a user block, which no cache has; refused")
        except InputError:
            file.close()
            raise
        return file


class VideoIndex:
    """What HDF5 said of one video, so that it is not asked again.

    Attributes:
        identity: of the file that it holds for.
        dims: lengths that the video's arrays share, by their letters.
        found: places, names and attributes, by what `Video` calls them.
    """

    def __init__(self, shard: OpenShard, entry: Entry):
        self.identity = shard.file.identity
        self.root = f"videos/{escape(entry.id)}"
        group = shard.node(self.root, h5py.Group)
        if attribute(group, "id", str) != entry.id:
            raise InputError(f"{where(group)} is not the video {entry.id!r}")
        self.num_frames = attribute(group, "num_frames", int)
        self.frame_names = json_attribute(group, "frame_names", list)
        if not self.num_frames == len(self.frame_names) == entry.frames:
            raise InputError(
                f"{where(group)} has {self.num_frames} frames and {len(self.frame_names)} frame "
                f"names, its manifest line {entry.frames}"
            )
        self.geometry: Geometry = read_geometry(group)
        self.dims = {"T": self.num_frames, **shard.dims}
        self.found: dict[Any, Any] = {}


def changed(path: Place) -> InputError:
    """What is said of a shard that is not the file that it was."""
    return InputError(
        f"shard {path} has changed while it was in use, which no finished shard does: "
        "run verify, then start again"
    )
