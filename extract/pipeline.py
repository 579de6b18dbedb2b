"""Stage one: every video of a data set through the frozen VITA and the text side, to the cache."""

import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import cache_schema
from cache_schema.cli import InputError
from cache_schema.codecs import get_codec
from cache_schema.fingerprint import file_sha256
from cache_schema.records import Clip, Expression
from cache_schema.writer import CacheWriter
from extract.config import ExtractConfig
from extract.datasets import DATASETS, SourceVideo
from extract.segmenters import VITA, Preprocessor, SegmenterConfig, load_vita
from extract.segmenters.masks import tracks
from extract.text import TextEncoder, TextPipeline, WordDecoupler, normalise

#: ``--weights random``: a segmenter of seeded random weights, for timing and for tests.
RANDOM = "random"
CLIP_SEED = 0


@dataclass
class Summary:
    """What a run did, for its closing lines."""

    total: int
    videos: int = 0
    frames: int = 0
    seconds: float = 0.0
    already_there: int = 0
    bytes_on_disk: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class Stage:
    """The frozen models with the settings of how they are applied."""

    vita: VITA
    text: TextPipeline | None
    preprocess: Preprocessor
    config: ExtractConfig
    chunk_frames: int


def extract(
    config: ExtractConfig,
    *,
    data_root: Path,
    split: str | None,
    weights: str,
    out: Path,
    device: str,
    chunk_frames: int = 8,
    shard_bytes: int = 1 << 28,
) -> Summary:
    """Write what is missing of a cache.

    Args:
        config: see `extract.config`.
        data_root, split: where the data set lies.
        weights: a ``.pth`` or ``.safetensors`` file, or `RANDOM`.
        out: folder of the cache; one that is there already is completed.
        device: where the models run.
        chunk_frames: frames that go through the frame level together; only these are in memory.
        shard_bytes: a shard is closed when it is larger than this.

    Raises:
        InputError: anything that concerns the whole run. What concerns one video is noted in the
            manifest and in the summary instead, and the others go on.
    """
    if config.dataset not in DATASETS:
        raise InputError(f"unknown dataset '{config.dataset}': known are {', '.join(DATASETS)}")
    get_codec(config.codec["name"])
    dataset = DATASETS[config.dataset](data_root, split)
    has_text = config.text is not None and config.dataset != "folder"
    stage, weights_digest = load_stage(config, weights, device, chunk_frames, has_text=has_text)
    fingerprint = {
        "code_version": cache_schema.__version__,
        "segmenter": asdict(stage.vita.config),
        "weights_sha256": weights_digest,
        "resize": config.resize,
        "dtype": "float32",
        "codec": get_codec(config.codec["name"]).describe(),
        "clips": {**config.clips, "seed": CLIP_SEED},
        "text": stage.text.identity() if stage.text else None,
        "dataset": config.dataset,
        "split": split or "",
        "annotations_sha256": dataset.fingerprint(),
    }
    summary, start = Summary(total=len(dataset)), time.perf_counter()
    with CacheWriter(
        out,
        fingerprint=fingerprint,
        dataset=config.dataset,
        split=split or "",
        codec=get_codec(config.codec["name"]),
        shard_bytes=shard_bytes,
    ) as writer:
        missing = [video_id for video_id in dataset.ids if video_id not in writer.done]
        summary.already_there = len(dataset) - len(missing)
        bar = tqdm(missing, desc="extract", unit="video", dynamic_ncols=True)
        for video_id in bar:
            try:
                video = dataset.video(video_id)
                write_video(writer, stage, video)
            except InputError as error:
                writer.fail(video_id, str(error))  # raises when the cache itself is the trouble
                summary.failures[video_id] = str(error)
                tqdm.write(f"video {video_id} failed: {error}")
                continue
            summary.videos += 1
            summary.frames += video.num_frames
            rate = summary.frames / (time.perf_counter() - start)
            bar.set_postfix_str(f"{rate:.1f} frames/s", refresh=False)
    summary.seconds = time.perf_counter() - start
    summary.bytes_on_disk = sum(file.stat().st_size for file in Path(out).iterdir())
    return summary


def load_stage(
    config: ExtractConfig, weights: str, device: str, chunk_frames: int = 8, *, has_text: bool
) -> tuple[Stage, str]:
    """Load the frozen models.

    Returns:
        The models, and the SHA-256 of the segmenter's weights.
    """
    sizes = SegmenterConfig.from_dict(config.segmenter)
    if weights == RANDOM:
        torch.manual_seed(0)
        vita, digest = VITA(sizes).to(device), RANDOM
    else:
        vita, digest = load_vita(sizes, weights, device), file_sha256(Path(weights))
    text = None
    if has_text and config.text is not None:
        text = TextPipeline(
            TextEncoder(config.text["encoder"], device), WordDecoupler(config.text["tagger"])
        )
    resize = config.resize or {"short": None, "max": None}
    preprocess = Preprocessor(resize["short"], resize["max"], sizes.pixel_mean, sizes.pixel_std)
    return Stage(vita, text, preprocess, config, chunk_frames), digest


def write_video(writer: CacheWriter, stage: Stage, video: SourceVideo) -> None:
    """Everything about one video to the cache. Frames stream: only a chunk is in memory.

    Raises:
        InputError: a broken frame or annotation; nothing of the video stays in the cache.
    """
    vita, settings = stage.vita, stage.config
    codec = get_codec(settings.codec["name"])
    expressions = encode_expressions(stage.text, video)
    geometry = stage.preprocess(video.read_frame(0))[1]
    with writer.video(video.id, geometry=geometry, frame_names=video.frame_names) as entry:
        chunks = []
        for images in _chunks(stage, video):
            frames = vita.frames(images.to(vita.device))
            coded = codec.encode(frames.mask_features.cpu().numpy())
            entry.append(frames.frame_queries.cpu().numpy(), coded)
            chunks.append(frames.frame_queries)
        queries = torch.cat(chunks)  # (T, N_f, C)
        bank = clip_bank(video.id, video.num_frames, **settings.clips)  # (K, T_c)
        whole = vita.video(queries[None])
        parts = [_on_cpu(whole, 0)]
        if len(bank):
            # (K, T_c, N_f, C)
            banked = vita.video(queries[torch.from_numpy(bank).long().to(queries.device)])
            parts += [_on_cpu(banked, k) for k in range(len(bank))]
        embeds = np.concatenate([part["mask_embeds"] for part in parts])  # ((1+K)*N_v, C)
        # Tracks are those of the coded features: of the masks that readers of the cache get.
        paths = []
        for t in range(video.num_frames):
            logits = torch.from_numpy(codec.mask_logits(entry.mask_features(t), embeds))
            paths.append(tracks(logits, geometry))  # ((1+K)*N_v, 1, 6)
        per_query = torch.cat(paths, dim=1).numpy()  # ((1+K)*N_v, T, 6)
        shares = np.split(per_query, len(parts))
        entry.finish(
            video_queries=parts[0]["video_queries"],
            video_logits=parts[0]["logits"],
            video_mask_embeds=parts[0]["mask_embeds"],
            tracks=shares[0],
            clips=[
                Clip(
                    frame_indices=indices,
                    video_queries=part["video_queries"],
                    video_logits=part["logits"],
                    tracks=share[:, indices],
                )
                for indices, part, share in zip(bank, parts[1:], shares[1:], strict=True)
            ],
            objects=video.objects,
            expressions=expressions,
        )


def encode_expressions(text: TextPipeline | None, video: SourceVideo) -> list[Expression]:
    """The text side of a video; nothing without a text pipeline.

    Raises:
        InputError: an empty or overlong expression; names it.
    """
    if text is None or not video.expressions:
        return []
    for expression in video.expressions:
        if not normalise(expression.text):
            raise InputError(
                f"expression {expression.id!r} of video {video.id!r} is empty: "
                "write a sentence or remove it"
            )
    encoded = text.encode([expression.text for expression in video.expressions])
    return [
        Expression(
            expression_id=source.id,
            text=source.text,
            object_ids=source.object_ids,
            annotation_ids=source.annotation_ids,
            tag=source.tag,
            words=features.words,
            sentence=features.sentence,
            static=features.static,
            motion=features.motion,
            offsets=features.offsets,
        )
        for source, features in zip(video.expressions, encoded, strict=True)
    ]


def clip_bank(video_id: str, num_frames: int, *, num: int, frames: int) -> np.ndarray:
    """Which frames each clip of a video shows: sorted, seeded by the video's id.

    Returns:
        (K, min(T, T_c)) int32; a video shorter than a clip is taken whole.
    """
    size = min(frames, num_frames)
    rng = np.random.default_rng([CLIP_SEED, zlib.crc32(video_id.encode())])
    clips = [np.sort(rng.permutation(num_frames)[:size]) for _ in range(num)]
    return np.array(clips, np.int32).reshape(num, size)


def _chunks(stage: Stage, video: SourceVideo) -> Iterator[Tensor]:
    """Chunks (t, 3, Hp, Wp) float32 of prepared frames."""
    for start in range(0, video.num_frames, stage.chunk_frames):
        stop = min(start + stage.chunk_frames, video.num_frames)
        yield torch.stack([stage.preprocess(video.read_frame(t))[0] for t in range(start, stop)])


def _on_cpu(output: Any, index: int) -> dict[str, np.ndarray]:
    names = ("video_queries", "logits", "mask_embeds")
    return {name: getattr(output, name)[index].float().cpu().numpy() for name in names}
