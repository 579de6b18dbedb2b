"""How fast a cache is read: ``python -m scripts.bench_cache [--json FILE] [sizes ...]``.

Makes caches of random numbers in a temporary folder, with the sizes of the paper's models unless
told otherwise, measures, and removes them. Two questions, each answered by a ratio of things
measured in turn in the same run:

1. Random clips of mask features through `CacheReader`, against `os.preadv` of the same byte
   ranges. Reading into memory that was never touched is several times slower than into a buffer
   that is used again, so each is compared with its like.
2. Clips a second out of the training loader (targets decoded, batches collated), each codec
   against float16. Videos have been seen once before, and files are in the page cache.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pycocotools import mask as coco
from torch.utils.data import DataLoader

from cache_schema.codecs import LOWRANK, Basis, Codec, get_codec
from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.records import Clip, Expression, Facts, Geometry, SegmenterFacts
from cache_schema.writer import CacheWriter
from train.data import ClipDataset, CounterBatches, collate

N_F, N_V, C_TEXT, WORDS, CLASSES = 100, 100, 768, 12, 25
EXACT = "float16"
AT_LEAST_ONE = ("videos", "channels", "height", "width", "processes", "batch", "rounds")
CLIPS = 1  # read at a time, in many short rounds, so that noise hits all ways alike


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = parse(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        caches = {}
        for codec in codecs(arguments):
            name = f"{codec.name} R={codec.basis.rank}" if codec.basis else codec.name
            caches[name] = Path(folder) / name.replace(" ", "-")
            write(caches[name], codec, arguments)
        result = {"machine": machine(), "sizes": vars(arguments)}
        result["reading"] = reading(caches[EXACT], arguments)
        result["loading"] = loading(caches, arguments)
    print("\n".join(lines(result)))
    if arguments.json:
        files.write(Path(arguments.json), json.dumps(result, indent=2) + "\n")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with the paper's sizes as defaults."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_cache", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, default, what in [
        ("videos", 6, "videos of each cache"),
        ("frames", 40, "frames of a video"),
        ("clip", 10, "frames of a clip"),
        ("channels", 256, "channels of the mask features"),
        ("height", 96, "of the mask features"),
        ("width", 160, "of the mask features"),
        ("processes", 2, "that read clips at a time"),
        ("batch", 4, "clips a batch of the loader"),
        ("rounds", 5, "of each measurement; medians are reported"),
    ]:
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default {default})"
        )
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 32, 64], help="of " + LOWRANK)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the loader")
    parser.add_argument("--dir", help="where the temporary folder is made")
    parser.add_argument("--json", metavar="FILE", help="write everything measured as JSON")
    arguments = parser.parse_args(argv)
    least = {"clip": 1, "frames": arguments.clip} | dict.fromkeys(AT_LEAST_ONE, 1)
    for name, bound in least.items():
        if (value := getattr(arguments, name)) < bound:
            raise InputError(f"--{name} is {value}: give at least {bound}")
    return arguments


def codecs(sizes: argparse.Namespace) -> list[Codec]:
    """float16, and the low-rank codec in several ranks with any basis."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((sizes.channels, sizes.channels)))[0]
    bases = [
        Basis(
            np.zeros(sizes.channels, np.float32),
            np.ascontiguousarray(directions[:, :rank], np.float32),
            np.ascontiguousarray(directions[:, :rank].T, np.float32),
        )
        for rank in sizes.ranks
    ]
    return [get_codec(EXACT), *(get_codec(LOWRANK, basis) for basis in bases)]


#: What caches of random numbers say of where they come from.
ORIGIN = {
    "facts": Facts(one_object=False, protocol="expressions", has_text=True),
    "segmenter": SegmenterFacts("random", identity=False),
}


def write(path: Path, codec: Codec, sizes: argparse.Namespace) -> None:
    """A cache of random numbers; shards hold about two videos, as MeViS's in float16."""
    print(f"writing {path.name}", file=sys.stderr)
    rng = np.random.default_rng(0)
    layout = codec.layout(sizes.channels, sizes.height, sizes.width)
    frame = {
        name: rng.integers(-127, 128, shape, dtype).astype(dtype)
        if dtype.kind == "i"
        else rng.standard_normal(shape, np.float32).astype(dtype)
        for name, (shape, dtype) in layout.items()
    }
    with CacheWriter(
        path,
        fingerprint={"codec": codec.describe()},
        dataset="random",
        split="train",
        codec=codec,
        **ORIGIN,
        shard_bytes=sizes.frames * sum(array.nbytes for array in frame.values()) * 3 // 2,
    ) as writer:
        for video in range(sizes.videos):
            write_video(writer, f"video{video}", frame, rng, sizes)


def write_video(
    writer: CacheWriter,
    video_id: str,
    frame: dict[str, np.ndarray],
    rng: np.random.Generator,
    sizes: argparse.Namespace,
) -> None:
    """One video: every frame is the given one rolled on, with three objects and six expressions."""
    H, W = 480, 854  # what MeViS's frames are scaled to, most of them
    padded = (4 * sizes.height, 4 * sizes.width)
    geometry = Geometry(H, W, padded[0] * 15 // 16, padded[1], *padded, 4)
    names = [f"{t:05d}" for t in range(sizes.frames)]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32).astype(np.float16)

    def clip() -> Clip:
        indices = np.sort(rng.choice(sizes.frames, sizes.clip, replace=False)).astype(np.int32)
        logits = rng.standard_normal((N_V, CLASSES + 1), np.float32)
        return Clip(indices, normal(N_V, sizes.channels), logits, normal(N_V, sizes.clip, 6))

    objects = {str(i): [blob(rng, H, W) for _ in names] for i in range(3)}
    flags = np.arange(WORDS) % 2 == 0
    expressions = [
        Expression(
            expression_id=str(i),
            text="word " * WORDS,
            object_ids=[],
            annotation_ids=list(objects)[: 1 + i % 2],
            tag="",
            words=normal(WORDS, C_TEXT),
            sentence=normal(C_TEXT),
            static=flags,
            motion=~flags,
            offsets=np.zeros((WORDS, 2), np.int32),
        )
        for i in range(6)
    ]
    with writer.video(video_id, geometry=geometry, frame_names=names) as out:
        for t in range(sizes.frames):
            coded = {name: np.roll(array, t, axis=-1)[None] for name, array in frame.items()}
            out.append(normal(1, N_F, sizes.channels), coded)
        out.finish(
            video_queries=normal(N_V, sizes.channels),
            video_logits=rng.standard_normal((N_V, CLASSES + 1), np.float32),
            video_mask_embeds=normal(N_V, sizes.channels),
            tracks=normal(N_V, sizes.frames, 6),
            clips=[clip() for _ in range(8)],
            objects=objects,
            expressions=expressions,
            frame_times=np.arange(sizes.frames),
            overlaps=None,
        )


def blob(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    """A mask with a wavy edge, about a twelfth of the image."""
    y, x = np.ogrid[:height, :width]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
    angle, radius = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    edge = height * (0.21 + 0.03 * np.sin(5 * angle) + 0.01 * np.sin(17 * angle + cx))
    rle = coco.encode(np.asfortranarray(radius < edge, np.uint8))
    return {"size": [height, width], "counts": rle["counts"].decode()}


def reading(path: Path, sizes: argparse.Namespace) -> dict[str, Any]:
    """Bytes a second of random clips, all processes together, by way of reading."""
    context = get_context("spawn")
    barrier = context.Barrier(sizes.processes, timeout=300)  # of seconds: one that fails ends all
    with ProcessPoolExecutor(
        sizes.processes, context, initializer=meet_at, initargs=(barrier,)
    ) as pool:
        jobs = [pool.submit(read_clips, path, sizes, n) for n in range(sizes.processes)]
        rows = [job.result() for job in jobs]
    # A round of all processes lasts as long as the slowest.
    seconds = {way: np.max([row[way] for row in rows], axis=0) for way in WAYS}
    read = sizes.processes * rows[0]["bytes"]
    found: dict[str, Any] = {way: read / float(np.median(seconds[way])) for way in WAYS}
    for memory in ("used again", "new"):
        ratio = seconds[f"preadv, {memory}"] / seconds[f"reader, {memory}"]
        found[f"ratio, {memory}"] = float(np.median(ratio))
    return found


def meet_at(barrier: Any) -> None:
    """Where the processes wait for each other; it can only be handed over when they start."""
    global together
    together = barrier


WAYS = ("reader, used again", "preadv, used again", "reader, new", "preadv, new")


def read_clips(path: Path, sizes: argparse.Namespace, number: int) -> dict[str, Any]:
    """One process: read the same random clips in every way, in turn, all processes at a time."""
    reader = CacheReader(path)
    places = [frame_places(path, reader, video_id) for video_id in reader.video_ids]
    videos = [reader.video(video_id) for video_id in reader.video_ids]
    extent, *_ = videos[0].mask_extents().values()
    buffer = np.zeros((sizes.clip, *extent.row_shape), extent.dtype)
    flat = buffer.reshape(-1).view(np.uint8).reshape(sizes.clip, extent.row_bytes)

    def plain(clips: list[tuple[int, np.ndarray]], into: np.ndarray | None) -> None:
        for video, frames in clips:
            descriptor, starts = places[video]
            target = np.empty(flat.shape, np.uint8) if into is None else into
            for row, t in zip(target, frames, strict=True):
                if os.preadv(descriptor, [row], starts[t]) != extent.row_bytes:
                    raise OSError("a short read")

    def cached(clips: list[tuple[int, np.ndarray]], into: np.ndarray | None) -> None:
        for video, frames in clips:
            given = None if into is None else {"values": into}
            reader.video(reader.video_ids[video]).mask_features(frames, out=given)

    ways: dict[str, Callable[[list], None]] = {
        "reader, used again": lambda clips: cached(clips, buffer),
        "preadv, used again": lambda clips: plain(clips, flat),
        "reader, new": lambda clips: cached(clips, None),
        "preadv, new": lambda clips: plain(clips, None),
    }
    rng, orders = np.random.default_rng(number), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for measured in range(-1, 12 * sizes.rounds):  # the first round warms up
        clips = [
            (int(rng.integers(len(videos))), np.sort(rng.choice(sizes.frames, sizes.clip, False)))
            for _ in range(CLIPS)
        ]
        # The first to read a clip brings it into the processor's cache: each way has its turns.
        for way in orders.permutation(WAYS):
            together.wait()
            start = time.perf_counter()
            ways[way](clips)
            if measured >= 0:
                seconds[way].append(time.perf_counter() - start)
    return {**seconds, "bytes": CLIPS * flat.nbytes}


def frame_places(path: Path, reader: CacheReader, video_id: str) -> tuple[int, list[int]]:
    """A descriptor of a video's shard and the offset of each frame, found without the package."""
    shard = path / reader.entries[video_id].shard
    with h5py.File(shard) as file:
        values = file["videos"][video_id]["mask_features/values"].id
        starts = [
            values.get_chunk_info_by_coord((t, 0, 0, 0)).byte_offset for t in range(values.shape[0])
        ]
    return os.open(shard, os.O_RDONLY), starts


def loading(caches: dict[str, Path], sizes: argparse.Namespace) -> list[dict[str, Any]]:
    """Clips a second of the training loader, by codec and number of workers."""
    rows = []
    for workers in sizes.workers:
        seconds: dict[str, list[float]] = {name: [] for name in caches}
        datasets = {name: ClipDataset([CacheReader(p)], seed=0) for name, p in caches.items()}
        batches = max(len(d) for d in datasets.values()) // sizes.batch
        for measured in range(-1, sizes.rounds):
            for name, dataset in datasets.items():
                took = epoch(dataset, batches, workers, sizes)
                if measured >= 0:
                    seconds[name].append(took)
        for name in caches:
            ratio = np.array(seconds[EXACT]) / seconds[name]
            rows.append(
                {
                    "codec": name,
                    "workers": workers,
                    "clips_per_second": batches * sizes.batch / float(np.median(seconds[name])),
                    "times_float16": float(np.median(ratio)),
                }
            )
    return rows


def epoch(dataset: ClipDataset, batches: int, workers: int, sizes: argparse.Namespace) -> float:
    """Seconds that an epoch's batches take, from the first one's arrival on with workers."""
    # Workers are forked anew each time and inherit what the dataset knows of its videos.
    count = batches + (2 * workers if workers else 0)
    loader = DataLoader(
        dataset,
        batch_sampler=CounterBatches(sizes.batch, count),
        collate_fn=collate,
        num_workers=workers,
    )
    start = time.perf_counter()
    for number, _ in enumerate(loader):
        if number == count - batches - 1:
            start = time.perf_counter()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = platform.processor()
    try:
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        cpu = models[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    return {
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "torch": torch.__version__,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What was measured, as text."""
    sizes, read = result["sizes"], result["reading"]
    shape = "x".join(str(sizes[name]) for name in ("channels", "height", "width"))
    out = [
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        f"clips of {sizes['clip']} frames of {shape}; medians of {sizes['rounds']} rounds",
        "",
        f"random clips, {EXACT}, {sizes['processes']} processes, page cache: GB/s, all together",
        f"{'memory':12}{'reader':>10}{'preadv':>10}{'ratio':>10}",
    ]
    for memory in ("used again", "new"):
        gb = [read[f"{way}, {memory}"] / 1e9 for way in ("reader", "preadv")]
        ratio = read[f"ratio, {memory}"]
        out.append(f"{memory:12}{gb[0]:>10.2f}{gb[1]:>10.2f}{ratio:>10.2f}")
    out += ["", f"training loader, batches of {sizes['batch']}: clips/s"]
    out.append(f"{'codec':20}{'workers':>10}{'clips/s':>10}{'x ' + EXACT:>12}")
    out += [
        f"{row['codec']:20}{row['workers']:>10}{row['clips_per_second']:>10.1f}"
        f"{row['times_float16']:>12.2f}"
        for row in result["loading"]
    ]
    return out


if __name__ == "__main__":
    sys.exit(cli.run(main))
