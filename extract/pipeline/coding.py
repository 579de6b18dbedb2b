"""From the device to the host: what is stored of frames and clips, and what the codec costs."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.codecs import Codec
from cache_schema.host.cli import InputError
from cache_schema.records import CodecIoU
from extract.codecs import mask_codec
from extract.codecs.video_tracks import KeptCodes
from extract.pipeline.parts import Clips, CodedClips, CodedFrames, Frames, Head, by_video
from extract.segmenters.base import FrameOutput
from extract.stage import Stage

#: Frames of each video that show what the codec costs.
COMPARED_FRAMES = 2
COMPARED_SEED = 1


def code(stage: Stage, codec: Codec, parts: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`Frames` become `CodedFrames`, `Clips` become `CodedClips`; only codes leave the device.

    A video with NaN or infinite values fails. On a GPU the codes of frames arrive while the next
    ones are made.
    """
    light, codec = codec.dtype is None, mask_codec.carrier(codec)
    beside = stage.transfer.beside and not light and not mask_codec.in_numpy(codec)

    def work(video_id: str, parts: Iterator[Any]) -> Iterator[Head | CodedFrames | CodedClips]:
        for part in parts:
            if isinstance(part, Head):
                frames = 0 if light else len(part.frame_names)  # exact features have no cost
                compared = _Compared(video_id, frames, codec)
                head, kept, arriving = part, KeptCodes() if beside else None, None
                yield part
                continue
            if isinstance(part, Frames):
                results = part.output.frame_queries, part.output.mask_features
                with stage.transfer.after(part.computed, results):
                    following = _code_frames(stage, codec, video_id, part.output, kept)
                    if not beside:  # nothing is on its way
                        arriving, following = following, None
                    coded = [compared.add(*arriving())] if arriving else []
                arriving = following
            else:
                queries = () if part.frame_queries is None else (part.frame_queries,)
                results = *queries, part.video_queries, part.logits, *part.mask_embeds
                with stage.transfer.after(part.computed, results):
                    coded = [compared.add(*arriving())] if arriving else []
                    found = kept and kept.tracks(
                        codec, part.mask_embeds, part.bank, head.geometry, head.cells
                    )
                    coded.append(_code_clips(stage, video_id, part, compared, found or None))
            yield from coded

    return by_video(parts, work)


def _code_frames(
    stage: Stage, codec: Codec, video_id: str, output: FrameOutput, kept: KeptCodes | None
) -> Callable[[], tuple[Tensor, CodedFrames]]:
    """Start to code frames; what is returned waits for the codes, and gives them with what they
    are codes of.
    """
    features = output.mask_features
    some = stage.segmenter.keep is not None  # whose queries are stored, the end of the video tells
    queries = {} if some else {"frame_queries": output.frame_queries}

    def alone() -> tuple[Tensor, CodedFrames]:
        stage.check_finite(video_id, **queries)
        try:
            coded = mask_codec.encode(features, codec)
        except InputError as error:
            stage.check_finite(video_id, mask_features=features)
            reason = f"video {video_id!r}, mask_features cannot be stored: {error}"
            raise InputError(reason) from None
        here = stage.transfer.download(queries)
        return features, CodedFrames(here.get("frame_queries"), coded)

    if kept is None:
        return alone
    codes, sound = mask_codec.encode_together(features, codec)
    kept.add(codes)
    for each in queries.values():
        sound = sound & each.isfinite().all()
    arriving = stage.transfer.downloading({**queries, "sound": sound, **codes})

    def arrived() -> tuple[Tensor, CodedFrames]:
        host = arriving()
        queries_here, sound = host.pop("frame_queries", None), host.pop("sound")
        return (features, CodedFrames(queries_here, host)) if sound else alone()

    return arrived


def _code_clips(
    stage: Stage,
    video_id: str,
    clips: Clips,
    compared: "_Compared",
    measured: list[tuple[Tensor, Tensor | None]] | None,
) -> CodedClips:
    """With what was ``measured`` on the device."""
    own = {} if clips.frame_queries is None else {"frame_queries": clips.frame_queries}
    some = {**own, "video_queries": clips.video_queries, "logits": clips.logits}
    lists = {"mask_embeds": clips.mask_embeds}
    if measured:
        tracks, overlaps = zip(*measured, strict=True)
        lists |= {"tracks": tracks} | ({} if overlaps[0] is None else {"overlaps": overlaps})
    # All at once: each wait would be one for the model's next frames, too.
    flat = {(name, k): each for name, every in lists.items() for k, each in enumerate(every)}
    here = stage.transfer.download({**some, **flat})
    found = {name: [here[name, k] for k in range(len(every))] for name, every in lists.items()}
    checked = {name: torch.from_numpy(here[name]) for name in some}
    embeds = [torch.from_numpy(each) for each in found["mask_embeds"]]
    stage.check_finite(video_id, **checked, mask_embeds=embeds)
    if measured:
        none = [None] * len(measured)
        measured = list(zip(found["tracks"], found.get("overlaps", none), strict=True))
    sure = mask_codec.confident(checked["logits"][0])
    return CodedClips(
        bank=clips.bank,
        frame_queries=here.get("frame_queries"),
        video_queries=here["video_queries"],
        logits=here["logits"],
        mask_embeds=found["mask_embeds"],
        codec_iou=compared.iou(embeds[0][..., sure, :].to(clips.logits.device)),
        measured=measured,
    )


class _Compared:
    """A few seeded frames of a video, exact and coded, until its mask embeddings are known."""

    def __init__(self, video_id: str, num_frames: int, codec: Codec) -> None:
        rng = np.random.default_rng([COMPARED_SEED, zlib.crc32(video_id.encode())])
        self._wanted = set(rng.permutation(num_frames)[:COMPARED_FRAMES].tolist())
        self._codec, self._seen = codec, 0
        self._kept: list[tuple[int, Tensor, dict[str, np.ndarray]]] = []

    def add(self, features: Tensor, coded: CodedFrames) -> CodedFrames:
        """Keep what is wanted of the video's next frames (t, C, h, w); gives them back as coded."""
        for k in range(len(features)):
            if self._seen + k in self._wanted:
                # Copies: a view would keep the whole chunk.
                codes = {name: own[k : k + 1].copy() for name, own in coded.mask_features.items()}
                self._kept.append((self._seen + k, features[k : k + 1].clone(), codes))
        self._seen += len(features)
        return coded

    def iou(self, embeds: Tensor) -> CodecIoU | None:
        """What the codec costs the masks of embeddings (N, C), or (T, N, C) of the video."""
        ious = []
        for t, exact, codes in self._kept:
            own = embeds if embeds.dim() == 2 else embeds[t]
            ious.append(mask_codec.codec_iou(exact, codes, own, self._codec))
        return mask_codec.summarise(ious)
