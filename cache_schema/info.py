"""What a cache holds, in numbers."""

from collections import Counter
from typing import Any

import h5py

from cache_schema.fingerprint import flat
from cache_schema.reader import CacheReader
from cache_schema.shard import walk
from cache_schema.spec import FORMAT_VERSION


def summary(reader: CacheReader) -> dict[str, Any]:
    """Counts, bytes by kind of dataset, fingerprint and failures, as JSON types.

    Raises:
        InputError: a shard cannot be read.
    """
    kinds: Counter[str] = Counter()
    expressions = objects = clips = 0
    for video_id in reader.video_ids:
        video = reader.video(video_id)
        expressions += len(video.expression_ids)
        objects += video.num_objects
        clips += video.num_clips
        for path, node in walk(video.group()):
            if isinstance(node, h5py.Dataset):
                kinds[path.split("/")[0]] += node.nbytes
    return {
        "path": str(reader.path),
        "schema_version": FORMAT_VERSION,
        "dataset": reader.dataset,
        "split": reader.split,
        "codec": reader.codec.name,
        "videos": len(reader),
        "frames": sum(entry.frames for entry in reader.entries.values()),
        "expressions": expressions,
        "objects": objects,
        "clips": clips,
        "shards": len({entry.shard for entry in reader.entries.values()}),
        "bytes": kinds.total(),
        "bytes_by_kind": dict(kinds.most_common()),
        "fingerprint": reader.fingerprint_hex,
        "fingerprint_fields": reader.fingerprint,
        "failures": reader.failures,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A summary as text, one figure a line."""
    simple = (
        "path",
        "schema_version",
        "dataset",
        "split",
        "codec",
        "videos",
        "frames",
        "expressions",
        "objects",
        "clips",
        "shards",
    )
    rows = [(name, str(found[name])) for name in simple]
    rows.append(("bytes", f"{found['bytes']:,}"))
    rows += [(f"  {kind}", f"{size:,}") for kind, size in found["bytes_by_kind"].items()]
    rows.append(("fingerprint", found["fingerprint"]))
    rows += [(f"  {name}", value) for name, value in flat(found["fingerprint_fields"]).items()]
    rows.append(("failures", str(len(found["failures"]))))
    rows += [(f"  {video_id!r}", reason) for video_id, reason in found["failures"].items()]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
