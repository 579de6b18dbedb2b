"""What a cache holds, in numbers."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import h5py

from cache_schema.fingerprint import flat
from cache_schema.nodes import walk
from cache_schema.reader import CacheReader
from cache_schema.records import CodecIoU


def summary(reader: CacheReader) -> dict[str, Any]:
    """Counts, bytes by kind of dataset, the codec and its cost, fingerprint and failures.

    Returns:
        JSON types.

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
    shards = sorted({entry.shard for entry in reader.entries.values()})
    costs = [entry.codec_iou for entry in reader.entries.values() if entry.codec_iou]
    cost = CodecIoU.over(costs)
    return {
        "path": str(reader.path),
        "schema_version": reader.version,
        "dataset": reader.dataset,
        "split": reader.split,
        "facts": asdict(reader.facts),
        "segmenter": reader.segmenter.describe(),
        "codec": reader.codec.name,
        "light": reader.light,
        "codec_rank": reader.codec.basis.rank if reader.codec.basis else None,
        # Over masks of all videos that measured it.
        "codec_iou": cost and asdict(cost) | {"videos": len(costs)},
        "videos": len(reader),
        "frames": sum(entry.frames for entry in reader.entries.values()),
        "expressions": expressions,
        "objects": objects,
        "clips": clips,
        "shards": len(shards),
        "file_bytes": sum(reader.shard(name).file.size for name in shards),
        "bytes": kinds.total(),
        "bytes_by_kind": dict(kinds.most_common()),
        "fingerprint": reader.fingerprint_hex,
        "fingerprint_fields": reader.fingerprint,
        "failures": reader.failures,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A summary as text, one figure a line."""
    rows = [(name, str(found[name])) for name in ("path", "schema_version", "dataset", "split")]
    for name in ("facts", "segmenter"):
        told = (f"{key} {value}" for key, value in found[name].items() if value != "")
        rows.append((name, ", ".join(told)))
    rank, cost = found["codec_rank"], found["codec_iou"]
    light = ", a light cache" if found["light"] else ""
    rows.append(("codec", found["codec"] + (f", rank {rank}" if rank else light)))
    if cost:
        rows.append(
            (
                "  mask IoU",
                f"mean {cost['mean']:.4f}, worst {cost['worst']:.4f} "
                f"({cost['masks']:,} masks of {cost['videos']:,} videos, coded against exact)",
            )
        )
    elif not found["light"]:
        rows.append(("  mask IoU", "not measured"))
    counts = ("videos", "frames", "expressions", "objects", "clips", "shards")
    rows += [(name, f"{found[name]:,}") for name in (*counts, "file_bytes", "bytes")]
    rows += [(f"  {kind}", f"{size:,}") for kind, size in found["bytes_by_kind"].items()]
    rows.append(("fingerprint", found["fingerprint"]))
    rows += [(f"  {name}", value) for name, value in flat(found["fingerprint_fields"]).items()]
    rows.append(("failures", str(len(found["failures"]))))
    rows += [(f"  {video_id!r}", reason) for video_id, reason in found["failures"].items()]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
