"""The frozen models of stage one with the settings of how they are applied, and their identity."""

import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cache_schema
from cache_schema.codecs import LIGHT
from cache_schema.fingerprint import check_same
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.records import Geometry
from cache_schema.spec import FORMAT_VERSION
from extract.arguments import AUTOCAST, RANDOM
from extract.config import ExtractConfig
from extract.frozen import freeze
from extract.pipeline.parts import Images
from extract.pipeline.transfer import Transfer
from extract.segmenters.base import Segmenter, configure, find_segmenter
from extract.segmenters.preprocessing import Preprocessor
from extract.text import TextEncoder, TextPipeline, WordDecoupler

CLIP_SEED = 0
#: Frames of a chunk at most, and on a CPU, whose caches are small, their pixels: 8 frames of the
#: demo, 1 of 360x640. Measured, see the README.
CHUNK_FRAMES, CHUNK_PIXELS = 8, 1 << 18
#: Frames of a chunk on another device.
DEVICE_CHUNK_FRAMES = 16


@dataclass
class Stage:
    """The frozen models with the settings of how they are applied.

    Attributes:
        segmenter: the frozen segmenter.
        text: None where there are no expressions to encode.
        preprocess: from a frame to an image.
        config: see `extract.config`.
        chunk_frames: frames that go through the frame level together; None chooses by their size.
        autocast: a key of `AUTOCAST`.
        weights_sha256: of the segmenter's weights, or `RANDOM`.
        transfer: between host and device.
    """

    segmenter: Segmenter
    text: TextPipeline | None
    preprocess: Preprocessor
    config: ExtractConfig
    chunk_frames: int | None
    autocast: str
    weights_sha256: str
    transfer: Transfer

    def identity(self) -> dict[str, Any]:
        """Everything about models and settings that decides the numbers of a cache.

        The codec stands in it as it was asked for; what comes of that replaces it in the
        fingerprint.
        """
        return {
            "code_version": cache_schema.__version__,
            "format_version": FORMAT_VERSION,
            "weights_sha256": self.weights_sha256,
            "codec": self.config.codec,
            "text": self.text.identity() if self.text else None,
            **_settings(self.config, self.segmenter.config, self.autocast),
        }

    def frames_together(self, geometry: Geometry) -> int:
        """How many frames of a size make a chunk; the numbers do not depend on it."""
        if self.chunk_frames is not None:
            return self.chunk_frames
        if self.segmenter.device.type != "cpu":
            return DEVICE_CHUNK_FRAMES
        pixels = geometry.padded_height * geometry.padded_width
        return max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // pixels))

    def prepare(self, images: Images) -> Tensor:
        """Frames on the model's device as it takes them: (t, 3, Hp, Wp) float32."""
        return self.preprocess.normalise(self.transfer.upload(images.pixels))

    def check_finite(self, video_id: str, **arrays: Tensor | list[Tensor]) -> None:
        """Refuse what half precision, or broken weights, made of a video.

        Raises:
            InputError: NaN or infinite values; names the array and the option that helps.
        """
        for name, array in arrays.items():
            parts = array if isinstance(array, list) else [array]
            # Least and greatest tell, and take no memory.
            if torch.stack([one for part in parts for one in part.aminmax()]).isfinite().all():
                continue
            if self.segmenter.autocast is None:
                advice = "check the weights, and this video's frames"
            else:
                advice = f"--autocast {self.autocast} is not enough for it, use --autocast none"
            raise InputError(f"video {video_id!r}, {name} holds NaN or infinite values: {advice}")


def load_stage(
    config: ExtractConfig,
    weights: str,
    device: str,
    *,
    has_text: bool,
    chunk_frames: int | None = None,
    autocast: str = "none",
) -> Stage:
    """Load the frozen models.

    Args:
        config: see `extract.config`.
        weights: a ``.pth``, ``.pkl`` or ``.safetensors`` file, or `RANDOM`.
        device: where the models run.
        has_text: whether the data set has expressions.
        chunk_frames, autocast: see `Stage`.

    Raises:
        InputError: weights or text models that are missing or do not fit the configuration.
    """
    kind = find_segmenter(config.segmenter_type)
    sizes = configure(kind.Config, config.segmenter)
    if weights == RANDOM:
        torch.manual_seed(0)
        segmenter, digest = kind(sizes), RANDOM
    else:
        segmenter, digest = kind.load(sizes, weights), kind.digest(weights)
    freeze(segmenter).to(device)
    segmenter.autocast, tf32 = precision(autocast)
    if segmenter.device.type == "cuda":
        allow_tf32(tf32)
    text = None
    if has_text and config.text is not None:
        text = TextPipeline(
            # On the CPU, where the process that reads can use it.
            TextEncoder(config.text["encoder"]),
            WordDecoupler(config.text["tagger"]),
        )
    resize = config.resize or {"short": None, "max": None}
    return Stage(
        segmenter=segmenter,
        text=text,
        preprocess=segmenter.preprocessor(resize["short"], resize["max"]),
        config=config,
        chunk_frames=chunk_frames,
        autocast=autocast,
        weights_sha256=digest,
        transfer=Transfer(segmenter.device),
    )


def _settings(config: ExtractConfig, sizes: Any, autocast: str) -> dict[str, Any]:
    """What decides the numbers of a cache and is known without data, weights and text models."""
    light = config.codec["name"] == LIGHT.name
    # Keys that came later stand in it only where they say something, for the sake of older caches.
    clips = {name: value for name, value in config.clips.items() if value is not None}
    return {
        "segmenter": {"type": config.segmenter_type, **asdict(sizes)},
        "resize": config.resize,
        "dtype": "float32",
        "autocast": autocast,
        "clips": {**clips, "seed": CLIP_SEED},
        **({"mirror": config.mirror} if config.mirror else {}),
        **({"segmenter_masks": config.segmenter_masks} if light else {}),
    }


def check_kept(cache: Path, config: ExtractConfig, split: str | None, autocast: str) -> None:
    """Refuse a complete cache that was made with other settings, as far as can be told.

    Raises:
        InputError: it was; names the fields.
    """
    kind = find_segmenter(config.segmenter_type)
    wanted = _settings(config, configure(kind.Config, config.segmenter), autocast)
    wanted |= {"dataset": config.dataset, "split": split or ""}
    wanted["codec"] = {"name": config.codec["name"]}
    made_with = CacheReader(cache).fingerprint
    kept = {name: made_with.get(name) for name in wanted}
    kept["codec"] = {"name": made_with["codec"]["name"]}
    check_same(kept, wanted, cache)


def precision(autocast: str) -> tuple[torch.dtype | None, bool]:
    """What `AUTOCAST` says of a name, with torch's type."""
    narrow, tf32 = AUTOCAST[autocast]
    return narrow and getattr(torch, narrow), tf32


def allow_tf32(allowed: bool) -> None:
    """Whether float32 may multiply in TF32 on CUDA, in this process; by default convolutions do."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def clip_bank(
    video_id: str, shown: np.ndarray, *, num: int, frames: int, range: int | None = None
) -> np.ndarray:
    """Which frames each clip of a video shows: sorted, seeded by the video's id.

    Args:
        video_id: the video's.
        shown: (T,) bool, whether a frame shows an object.
        num, frames: K and T_c.
        range: None draws from the whole video. A number draws a frame, and the clip from those at
            most so far from it, as LMPM and DsHmp do; clips that show no object are drawn again.

    Returns:
        (K, min(T, T_c)) int32; a video shorter than a clip is taken whole.
    """
    size = min(frames, len(shown))
    rng = np.random.default_rng([CLIP_SEED, zlib.crc32(video_id.encode())])
    clips: list[np.ndarray] = []
    while len(clips) < num:
        near = rng.permutation(len(shown))
        if range is not None:
            distance = abs(near - near[0])
            # A range that holds fewer frames, or that the video's end cuts off, grows.
            near = near[distance <= max(range, np.sort(distance)[size - 1])]
        clip = np.sort(near[:size])
        if range is None or shown[clip].any() or not shown.any():
            clips.append(clip)
    return np.array(clips, np.int32).reshape(num, size)
