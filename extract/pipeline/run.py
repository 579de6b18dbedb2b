"""Stage one: every video of a data set through segmenter and text side, both frozen, to the cache.

Four generators, one after the other: `read` decodes and prepares frames and encodes sentences,
`infer` runs the model, `code` brings codes to the host, `write` measures tracks and does everything
of HDF5. Reading and writing have processes of their own and the model a thread, a bounded number of
chunks apart: the slowest sets the pace, and memory does not grow with the length of a video.
"""

import heapq
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from cache_schema import codec_file, manifest
from cache_schema.codecs import LOWRANK, Codec, get_codec
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from cache_schema.host.launch import SINGLE, Rank
from cache_schema.host.lock import CacheLock
from cache_schema.host.system import SystemTrouble
from cache_schema.reader import CacheReader
from cache_schema.records import CodecIoU, Facts
from cache_schema.writer import CacheWriter
from extract.arguments import SHARD_BYTES
from extract.codecs.fitting import fit_codec
from extract.config import ExtractConfig
from extract.datasets import Dataset, open_dataset
from extract.datasets.mirrored import Mirrored
from extract.pipeline.beside import Child, ahead, cut_off
from extract.pipeline.coding import code
from extract.pipeline.continued import go_on
from extract.pipeline.inference import infer
from extract.pipeline.parts import CodedFrames, Failed
from extract.pipeline.progress import Progress
from extract.pipeline.reading import read, reading
from extract.pipeline.writing import write
from extract.stage import Stage, load_stage

#: Beside a GPU: cores that do not read, and the most processes that do.
BUSY_CORES, MOST_READERS = 3, 16
#: Codes that may wait while a shard is closed, which takes a while.
CODED_BYTES = 1 << 27
#: Codes that may wait in the writing process.
RECEIVED_BYTES = 1 << 25


@dataclass
class Summary:
    """What a run did, for its closing lines.

    Attributes:
        total: videos of this rank's share.
        videos, frames, seconds: written by this run, in which time.
        already_there: videos of the share that were in the cache.
        bytes_on_disk: of the finished shards.
        failures: of this run: video id to reason.
        codec_iou: over all videos of the cache; None if it was not measured.
        unfinished: what the cache lacks at the end: video id to reason. Only the last rank to end
            knows; it is empty for the others.
    """

    total: int
    videos: int = 0
    frames: int = 0
    seconds: float = 0.0
    already_there: int = 0
    bytes_on_disk: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    codec_iou: CodecIoU | None = None
    unfinished: dict[str, str] = field(default_factory=dict)


def extract(
    config: ExtractConfig,
    *,
    data_root: Path,
    split: str | None,
    weights: str,
    out: Path,
    device: str,
    chunk_frames: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    autocast: str = "none",
    queue: int = 1,
    readers: int | None = None,
    rank: Rank = SINGLE,
) -> Summary:
    """Write what is missing of a cache.

    Args:
        data_root, split: where the data set lies.
        weights: a ``.pth``, ``.pkl`` or ``.safetensors`` file, or `extract.stage.RANDOM`.
        out: folder of the cache; one that is there already is completed.
        chunk_frames: frames that go through the frame level together; None chooses by their size.
            Only a few chunks are in memory.
        shard_bytes: a shard is closed when it is larger than this.
        autocast: a key of `extract.stage.AUTOCAST`.
        queue: chunks that may wait between two threads; 0 does everything in one thread. The cache
            is the same.
        readers: processes that read; None is one for a model on a CPU, and for another as many as
            the cores allow. The cache is the same.
        rank: which of several processes this is; each writes its share of the videos.

    Raises:
        InputError: anything that concerns the whole run. What concerns one video is noted in the
            manifest and in the summary instead, and the others go on.
    """
    dataset = open_dataset(config.dataset, data_root, split, config.dataset_settings)
    if config.mirror:
        dataset = Mirrored(dataset, words=config.mirror == "words")
    stage = load_stage(
        config,
        weights,
        device,
        has_text=dataset.facts.has_text,
        chunk_frames=chunk_frames,
        autocast=autocast,
    )
    settings = stage.identity() | {
        "dataset": config.dataset,
        "dataset_settings": config.dataset_settings,
        "split": split or "",
        "annotations_sha256": dataset.fingerprint(),
    }
    out = Path(out)
    settings, facts = go_on(out, dataset, settings, has_text=stage.text is not None)
    codec = _codec(stage, dataset, out, settings, queue, rank)
    own = share(dataset, rank)
    open_cache = new_cache(stage, facts, codec, out, settings, shard_bytes=shard_bytes, rank=rank)
    summary, start = Summary(total=len(own)), time.perf_counter()
    readers = readers or default_readers(stage.segmenter.device)
    with closing(outcomes_of(stage, dataset, codec, open_cache, own, queue, readers)) as outcomes:
        summary.already_there = len(next(outcomes).intersection(own))
        with Progress(len(own) - summary.already_there, rank) as progress:
            for video_id, outcome in outcomes:
                progress.update(video_id, outcome)
                if isinstance(outcome, Failed):
                    summary.failures[video_id] = outcome.reason
                else:
                    summary.videos += 1
                    summary.frames += outcome.frames
    summary.seconds = time.perf_counter() - start
    reached = summary.already_there + summary.videos + len(summary.failures)
    if reached != summary.total:
        raise SystemTrouble(
            f"{reached} of {summary.total} videos were reached, and nothing says why the others "
            "were not: run the same command again to continue"
        )
    _look_back(summary, out, dataset)
    return summary


def new_cache(
    stage: Stage,
    facts: Facts,
    codec: Codec,
    out: Path,
    settings: dict[str, Any],
    *,
    shard_bytes: int = SHARD_BYTES,
    rank: Rank = SINGLE,
) -> Callable[[], CacheWriter]:
    """Opens the cache of a stage for writing, in a process that must not touch the device.

    ``settings`` and the codec make its fingerprint.
    """
    return partial(
        CacheWriter,
        out,
        fingerprint=settings | {"codec": codec.describe()},
        dataset=stage.config.dataset,
        split=settings.get("split", ""),
        codec=codec,
        facts=facts,
        segmenter=stage.segmenter.facts(stage.config.segmenter_type),
        shard_bytes=shard_bytes,
        rank=rank.rank,
        world_size=rank.world_size,
    )


def outcomes_of(
    stage: Stage,
    dataset: Dataset,
    codec: Codec,
    open_cache: Callable[[], CacheWriter],
    own: list[str],
    queue: int,
    readers: int,
) -> Iterator[Any]:
    """What `write` yields; the work is spread over processes and threads unless ``queue`` is 0."""
    done: set[str] = set()
    keep = stage.config.segmenter_masks["keep"]
    if queue == 0:
        missing = (video_id for video_id in own if video_id not in done)  # once `done` is known
        coded = code(stage, codec, infer(stage, read(stage, dataset, missing)))
        here = write(open_cache, coded, keep)
        with closing(here):
            done |= next(here)
            yield done
            yield from here
        return
    cv2.setNumThreads(0)  # a forked process must not look for threads that did not come along
    with Child(lambda parts: write(open_cache, _received(parts), keep), "writing") as writer:
        outcomes = iter(writer)
        done |= next(outcomes)
        yield done
        missing = [video_id for video_id in own if video_id not in done]
        with (
            reading(stage, dataset, missing, readers) as (stream, processes),
            ahead(stream, queue, "receiver") as parts,
            ahead(infer(stage, parts), queue, "model") as results,
            ahead(code(stage, codec, results), CODED_BYTES, "coder", coded_bytes) as coded,
            cut_off(*processes),
        ):
            for part in coded:
                writer.put(part)
                yield from writer.ready()
        writer.end()
        yield from outcomes


def _received(parts: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Parts that a thread takes out of the pipe, once the first is asked for and not before.

    Until then the other side sends nothing, and nobody could end the thread.
    """
    with ahead(parts, RECEIVED_BYTES, "receiver", coded_bytes) as received:
        yield from received


def default_readers(device: torch.device) -> int:
    """Processes that read: cores that the model's threads and the writing process leave over."""
    if device.type == "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(CORES // ranks_here - BUSY_CORES, MOST_READERS))


def coded_bytes(item: tuple[str, Any]) -> int:
    """What a coded part takes of `CODED_BYTES`; what does not grow with the frames is free."""
    part = item[1]
    return part.nbytes if isinstance(part, CodedFrames) else 0


def _codec(
    stage: Stage, dataset: Dataset, out: Path, settings: dict[str, Any], queue: int, rank: Rank
) -> Codec:
    """The configured codec. One with a basis is fitted once for a cache, by rank 0."""
    name = stage.config.codec["name"]
    if name != LOWRANK:
        return get_codec(name).for_channels(stage.segmenter.mask_dim)
    codec = codec_file.load(out, settings)
    if codec is None and rank.rank == 0:
        codec = fit_codec(stage, dataset, queue)
        codec_file.save(out, codec, settings)
    elif codec is None:
        print(f"{rank.prefix}waits until rank 0 has fitted the codec", file=sys.stderr, flush=True)
        codec = wait_for(lambda: codec_file.load(out, settings), "the codec")
    return codec


def _look_back(summary: Summary, out: Path, dataset: Dataset) -> None:
    """Fill in what is to be said of the cache as a whole."""
    known = manifest.read(out)
    summary.bytes_on_disk = sum(shard.stat().st_size for shard in out.glob("shard-*.h5"))
    summary.codec_iou = CodecIoU.over(entry.codec_iou for entry in known.videos.values())
    if set(dataset.ids) <= known.videos.keys() | known.failures.keys():
        if known.videos:  # of ranks that began at once, none could tell that others differ
            reader = CacheReader(out)
            for video_id in {entry.shard: entry.id for entry in known.videos.values()}.values():
                reader.video(video_id)  # reads the header of its shard
            reader.close()
        with suppress(InputError):  # another rank is at work
            CacheLock(out).release()
            summary.unfinished = {i: known.failures[i] for i in dataset.ids if i in known.failures}
            if not (summary.unfinished or known.complete):
                manifest.append(out, [{"complete": len(known.videos)}])


T = TypeVar("T")

#: Seconds between two looks for what rank 0 prepares, and until rank 0 is taken for dead.
PAUSE = 1.0
PATIENCE = 6 * 3600.0


def share(dataset: Dataset, rank: Rank) -> list[str]:
    """The videos of a rank, in the data set's order.

    Longest first, each goes to the rank with the fewest frames so far. All videos take part, also
    those that are in the cache already: every rank finds the same shares whenever it starts.
    """
    if rank.world_size == 1:
        return dataset.ids
    lengths = dict.fromkeys(dataset.ids, 0)
    for video_id in lengths:
        with suppress(InputError):  # whose share it is will say so
            lengths[video_id] = dataset.video(video_id, objects=False).num_frames
    loads = [(0, k) for k in range(rank.world_size)]
    own = set()
    for video_id in sorted(lengths, key=lambda video_id: -lengths[video_id]):
        load, least = loads[0]
        heapq.heapreplace(loads, (load + lengths[video_id], least))
        if least == rank.rank:
            own.add(video_id)
    return [video_id for video_id in lengths if video_id in own]


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """What rank 0 prepares for the others, as soon as ``look`` finds it.

    Raises:
        InputError: it does not come.
    """
    end = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > end:
            raise InputError(
                f"rank 0 has not prepared {what} in {PATIENCE / 3600:g} hours: see what it says, "
                "then run the same command again"
            )
        time.sleep(PAUSE)
    return found
