"""What is ready before the model asks for it: prepared frames and encoded sentences.

A model that one process cannot keep busy has several that read. Frames are shared out a chunk at a
time, so that all processes work on the video that the model is at and memory does not grow with its
length: a process holds one finished chunk at most. Each chunk is asked for and answered once, in
the order of the stream, whoever reads it. What a video starts with (its sentences, its masks) takes
as long as many chunks, so it is made by processes of its own, each a video ahead.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.host.cores import SPARE_THREADS
from extract.datasets import Dataset, SourceVideo
from extract.datasets.frames import ImageFiles
from extract.pipeline.beside import Child
from extract.pipeline.parts import End, Failed, Head, Images, by_video
from extract.segmenters.masks import object_cells
from extract.stage import Stage
from extract.text import encode_expressions


def read(stage: Stage, dataset: Dataset, video_ids: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The `Head` of each video, its frames as `Images`, and `End`."""

    def parts(video_id: str, _: Iterator[None]) -> Iterator[Head | Images | End]:
        video = dataset.video(video_id)
        head = head_of(stage, video)
        for number, images in enumerate(chunks(stage, video, range(video.num_frames))):
            if number == 0:
                yield head
            yield images
        yield End()

    return by_video(((video_id, None) for video_id in video_ids), parts)


def head_of(stage: Stage, video: SourceVideo) -> Head:
    """What a video starts with.

    Raises:
        InputError: an expression that cannot be encoded, or whose objects are not the video's, or
            a broken first frame.
    """
    for expression in video.expressions if video.objects else ():
        if unknown := sorted(set(expression.annotation_ids) - set(video.objects)):
            raise InputError(
                f"video {video.id!r}: expression {expression.id!r} means the annotation "
                f"{unknown[0]!r}, but there are {', '.join(sorted(video.objects)):.60}; mend the "
                "data set"
            )
    expressions = encode_expressions(stage.text, video)
    geometry = stage.preprocess.geometry(*video.size())
    return Head(
        geometry=geometry,
        frame_names=video.frame_names,
        frame_times=np.array(video.frame_times, np.int32),
        expressions=expressions,
        objects=video.objects,
        cells=object_cells(video.objects, geometry),
    )


def chunks(stage: Stage, video: SourceVideo, indices: Sequence[int]) -> Iterator[Images]:
    """Resized frames of a video, as many at a time as the stage says.

    Raises:
        InputError: a broken frame.
    """
    step = stage.frames_together(stage.preprocess.geometry(*video.size()))
    with ThreadPoolExecutor(SPARE_THREADS) as pool:
        # Only image files can be read in any order.
        spread = pool.map if isinstance(video.frames, ImageFiles) else map
        for start in range(0, len(indices), step):
            yield images_of(stage, video, indices[start : start + step], spread)


def images_of(
    stage: Stage, video: SourceVideo, indices: Sequence[int], spread: Callable = map
) -> Images:
    """Some frames of a video; ``spread`` is a `map`. Raises InputError: a broken frame."""

    def resized(t: int) -> np.ndarray:
        return stage.preprocess.resize(video.read_frame(int(t)))

    return Images(np.stack(list(spread(resized, indices))))


#: Chunks that a process has been asked for: one to be taken, one in the making.
ASKED = 2
#: Of every so many processes one makes what videos start with, if there are sentences.
HEADS_EVERY = 4

Task = tuple[str, int, int]  # a video's id, first frame, one past the last


@contextmanager
def reading(
    stage: Stage, dataset: Dataset, ids: Sequence[str], processes: int
) -> Iterator[tuple[Iterable[tuple[str, Any]], list[Child]]]:
    """What `read` says of videos, made by one process or by several; and the processes.

    Enter it before there are threads: the processes are forked.

    Args:
        processes: with more than one, image files and sentences are read by so many, and video
            files are decoded by each.
    """
    with ExitStack() as stack:
        if processes == 1:
            only = stack.enter_context(Child(lambda _: read(stage, dataset, ids), "reading"))
            yield only, [only]
            return

        def child(function: Callable[[Iterator[Any]], Iterable[Any]]) -> Child:
            return stack.enter_context(Child(function, "reading"))

        number = max(processes // HEADS_EVERY, 1) if stage.text else 1
        heads = [
            child(lambda _, own=ids[k::number]: read_heads(stage, dataset, own))
            for k in range(number)
        ]
        readers = [
            child(lambda tasks: read_images(stage, dataset, tasks))
            for _ in range(processes - number)
        ]
        yield _in_order(stage, ids, heads, readers), [*heads, *readers]


def read_heads(
    stage: Stage, dataset: Dataset, ids: Iterable[str]
) -> Iterator[tuple[str, Head | Failed]]:
    """One part a video: its `Head`, or why it has none."""

    def parts(video_id: str, _: Iterator[None]) -> Iterator[Head]:
        yield head_of(stage, dataset.video(video_id))

    return by_video(((video_id, None) for video_id in ids), parts)


def read_images(
    stage: Stage, dataset: Dataset, tasks: Iterable[Task]
) -> Iterator[tuple[str, Images | Failed]]:
    """One part a task: its `Images`, or what is wrong with them."""
    opened: SourceVideo | None = None
    for video_id, start, stop in tasks:

        def parts(
            video_id: str, _: Iterator[None], indices: range = range(start, stop)
        ) -> Iterator[Images]:
            nonlocal opened
            if opened is None or opened.id != video_id:
                opened = dataset.video(video_id, objects=False)
            yield images_of(stage, opened, indices)

        yield from by_video([(video_id, None)], parts)


@dataclass
class _Coming:
    """The next of the stream: a part that is here, or frames that a process was asked for.

    A video's `Head` goes with its first frames: without them it has none.
    """

    video_id: str
    part: Head | Failed | End | None
    task: Task | None = None
    reader: Child | None = None


def _in_order(
    stage: Stage, ids: Sequence[str], heads: list[Child], readers: list[Child]
) -> Iterator[tuple[str, Any]]:
    """Ask the processes in turn, a bounded number of chunks ahead, and yield what `read` would."""
    coming: deque[_Coming] = deque()
    plan, turns = _plan(stage, ids, heads, idle=lambda: not coming), cycle(readers)
    asked, failed = 0, None
    while True:
        while asked < ASKED * len(readers) and (item := next(plan, None)):
            if item.task:
                item.reader = next(turns)
                item.reader.put(item.task)
                asked += 1
            coming.append(item)
        if not coming:
            return
        item = coming.popleft()
        parts = [item.part] if item.part else []
        if item.reader:
            asked -= 1
            answer = _next(item.reader, item.video_id)
            parts = [answer] if isinstance(answer, Failed) else [*parts, answer]
        if item.video_id == failed:
            continue  # what was asked before that was known
        for part in parts:
            yield item.video_id, part
            if isinstance(part, Failed):
                failed = item.video_id


def _plan(
    stage: Stage, ids: Sequence[str], heads: list[Child], idle: Callable[[], bool]
) -> Iterator[_Coming | None]:
    """All of the stream in its order; None while a video's head takes longer than what is asked."""
    for video_id, maker in zip(ids, cycle(heads), strict=False):
        while not (head := _next(maker, video_id, wait=idle())):
            yield None
        if isinstance(head, Failed):
            yield _Coming(video_id, head)
            continue
        step, frames = stage.frames_together(head.geometry), len(head.frame_names)
        for start in range(0, frames, step):
            task = video_id, start, min(start + step, frames)
            yield _Coming(video_id, None if start else head, task)
        yield _Coming(video_id, End())


def _next(child: Child, video_id: str, *, wait: bool = True) -> Any:
    """What a process says next, of the video whose turn it is; None if it is not there yet."""
    item = next(iter(child) if wait else child.ready(), None)
    if item is None and not wait:
        return None
    if item is None or item[0] != video_id:
        raise RuntimeError(f"a reading process says {item and item[0]!r} in place of {video_id!r}")
    return item[1]
