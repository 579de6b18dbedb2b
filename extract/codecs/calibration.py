"""Fits a low-rank codec to a seeded sample of the data set, before the first video is written."""

from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

from cache_schema.codecs import Codec
from cache_schema.host.cli import InputError
from extract.codecs.fitting import Sample, fit
from extract.codecs.mask_codec import confident
from extract.datasets import Dataset
from extract.pipeline.inference import clip_of
from extract.pipeline.parts import Images
from extract.pipeline.prefetch import ahead
from extract.pipeline.reading import chunks
from extract.stage import Stage

SAMPLE_SEED = 2


def fit_codec(stage: Stage, dataset: Dataset, depth: int) -> Codec:
    """Run the segmenter on clips of many videos, and fit the configured codec to them.

    Args:
        dataset: the whole of it, so that every restart would fit the same.
        depth: see `extract.pipeline.prefetch.ahead`.

    Raises:
        InputError: no video can be used, or no basis will do.
    """
    wanted = stage.config.codec
    clips = sample_clips(stage, dataset, wanted["frames"])
    with (
        ahead(clips, depth, "calibration") as prepared,
        tqdm(
            total=wanted["frames"], desc="fit codec", unit="frame", dynamic_ncols=True, disable=None
        ) as bar,
    ):
        samples = _samples(stage, prepared, bar)
        return fit(samples, name=wanted["name"], rank=wanted["rank"], iou=wanted["iou"])


def sample_clips(stage: Stage, dataset: Dataset, frames: int) -> Iterator[tuple[str, list[Images]]]:
    """Video ids with prepared clips in chunks, ``frames`` frames in all or as many as there are.

    Videos come in a seeded order, one seeded clip of each; when all have given one, a second clip
    of other frames of each. Videos that cannot be read are left out: whose turn it is to write
    them will say so.

    Raises:
        InputError: no video can be read; the reason is that of the first.
    """
    ids, size = dataset.ids, stage.config.clips["frames"]
    order = np.random.default_rng(SAMPLE_SEED).permutation(len(ids))
    left, number, reason = frames, 0, None
    found = True
    while found:
        found = False
        for k in order:
            try:
                video = dataset.video(ids[k], objects=False)
                shuffled = np.random.default_rng([SAMPLE_SEED, k]).permutation(video.num_frames)
                clip = np.sort(shuffled[number * size :][: min(size, left)])
                parts = list(chunks(stage, video, clip))
            except InputError as error:
                reason = reason or error
                continue
            if parts:
                found = True
                left -= len(clip)
                yield ids[k], parts
            if left == 0:
                return
        number += 1
    if left == frames:
        raise InputError(f"the codec cannot be fitted, no video can be read: {reason}")


def _samples(
    stage: Stage, clips: Iterable[tuple[str, list[Images]]], bar: tqdm
) -> Iterator[Sample]:
    found, reason = False, None
    for video_id, parts in clips:
        features, video = clip_of(stage.segmenter, map(stage.prepare, parts))
        bar.update(len(features))
        try:
            stage.check_finite(video_id, mask_features=features, mask_embeds=video.mask_embeds)
        except InputError as error:  # a video like one that cannot be read
            reason = reason or error
            continue
        found = True
        sure = confident(video.logits[0])
        yield Sample(features, video.mask_embeds[0][..., sure, :])
    if reason and not found:
        raise reason
