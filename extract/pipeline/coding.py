"""From the device to the host: what is stored of frames and clips, and what the codec costs."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.host.cli import InputError
from cache_schema.records import CodecIoU
from extract.codecs import mask_codec
from extract.codecs.video_tracks import KeptCodes
from extract.pipeline.parts import Clips, CodedClips, CodedFrames, Frames, Head, by_video
from extract.stage import Stage

#: Frames of each video that show what the codec costs.
COMPARED_FRAMES = 2
COMPARED_SEED = 1


def code(stage: Stage, codec: Codec, parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`Frames` become `CodedFrames`, `Clips` become `CodedClips`; only codes leave the device.

    A video with NaN or infinite values fails.
    """
    light, codec = codec.dtype is None, mask_codec.carrier(codec)
    beside = stage.transfer.beside and not light and not mask_codec.in_numpy(codec)

    def work(video_id: str, parts: Iterator[Any]) -> Iterator[Head | CodedFrames | CodedClips]:
        for part in parts:
            if isinstance(part, Head):
                frames = 0 if light else len(part.frame_names)  # exact features have no cost
                compared = _Compared(video_id, frames, codec)
                head, kept = part, KeptCodes() if beside else None
                yield part
                continue
            if isinstance(part, Frames):
                output = part.output
                with stage.transfer.after(
                    part.computed, (output.frame_queries, output.mask_features)
                ):
                    coded = _code_frames(stage, codec, video_id, part, kept)
                    compared.add(part.output.mask_features, coded.mask_features)
                yield coded
            else:
                queries = () if part.frame_queries is None else (part.frame_queries,)
                results = *queries, part.video_queries, part.logits, *part.mask_embeds
                with stage.transfer.after(part.computed, results):
                    found = kept and kept.tracks(
                        codec, part.mask_embeds, part.bank, head.geometry, head.cells
                    )
                    coded = _code_clips(stage, video_id, part, compared, found or None)
                yield coded

    return by_video(parts, work)


def _code_frames(
    stage: Stage, codec: Codec, video_id: str, frames: Frames, kept: KeptCodes | None
) -> CodedFrames:
    features = frames.output.mask_features
    some = stage.segmenter.keep is not None  # whose, the end of the video tells
    queries = {} if some else {"frame_queries": frames.output.frame_queries}
    if kept:
        codes, sound = mask_codec.encode_together(features, codec)
        kept.add(codes)
        for each in queries.values():
            sound = sound & each.isfinite().all()
        host = stage.transfer.download({**queries, "sound": sound, **codes})
        queries_here, sound = host.pop("frame_queries", None), host.pop("sound")
        if sound:
            return CodedFrames(queries_here, host)
    stage.check_finite(video_id, **queries)
    try:
        coded = mask_codec.encode(features, codec)
    except InputError as error:
        stage.check_finite(video_id, mask_features=features)
        raise InputError(f"video {video_id!r}, mask_features cannot be stored: {error}") from None
    here = stage.transfer.download(queries)
    return CodedFrames(here.get("frame_queries"), coded)


def _code_clips(
    stage: Stage,
    video_id: str,
    clips: Clips,
    compared: "_Compared",
    measured: list[tuple[Tensor, Tensor | None]] | None,
) -> CodedClips:
    """With what was ``measured`` on the device."""

    def host(tensors: Iterable[Tensor]) -> list[np.ndarray]:
        return list(stage.transfer.download(dict(enumerate(tensors))).values())

    own = {} if clips.frame_queries is None else {"frame_queries": clips.frame_queries}
    checked = own | {"video_queries": clips.video_queries, "logits": clips.logits}
    stage.check_finite(video_id, **checked, mask_embeds=clips.mask_embeds)
    sure = mask_codec.confident(clips.logits[0])
    video_queries, logits, *mask_embeds = host(
        (clips.video_queries, clips.logits, *clips.mask_embeds)
    )
    if measured:
        tracks, overlaps = zip(*measured, strict=True)
        overlaps = overlaps if overlaps[0] is None else host(overlaps)
        measured = list(zip(host(tracks), overlaps, strict=True))
    return CodedClips(
        bank=clips.bank,
        frame_queries=stage.transfer.download(own).get("frame_queries"),
        video_queries=video_queries,
        logits=logits,
        mask_embeds=mask_embeds,
        codec_iou=compared.iou(clips.mask_embeds[0][..., sure, :]),
        measured=measured,
    )


class _Compared:
    """A few seeded frames of a video, exact and coded, until its mask embeddings are known."""

    def __init__(self, video_id: str, num_frames: int, codec: Codec) -> None:
        rng = np.random.default_rng([COMPARED_SEED, zlib.crc32(video_id.encode())])
        self._wanted = set(rng.permutation(num_frames)[:COMPARED_FRAMES].tolist())
        self._codec, self._seen = codec, 0
        self._kept: list[tuple[int, Tensor, dict[str, np.ndarray]]] = []

    def add(self, features: Tensor, coded: dict[str, np.ndarray]) -> None:
        """Keep what is wanted of the video's next frames (t, C, h, w)."""
        for k in range(len(features)):
            if self._seen + k in self._wanted:
                # Copies: a view would keep the whole chunk.
                codes = {name: array[k : k + 1].copy() for name, array in coded.items()}
                self._kept.append((self._seen + k, features[k : k + 1].clone(), codes))
        self._seen += len(features)

    def iou(self, embeds: Tensor) -> CodecIoU | None:
        """What the codec costs the masks of embeddings (N, C), or (T, N, C) of the video."""
        ious = []
        for t, exact, codes in self._kept:
            own = embeds if embeds.dim() == 2 else embeds[t]
            ious.append(mask_codec.codec_iou(exact, codes, own, self._codec))
        return mask_codec.summarise(ious)
