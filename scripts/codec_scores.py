"""What the rank of the low-rank codec costs a trained head: J&F of its masks, weighted and plain.

    python -m scripts.codec_scores --fit CACHE --cache CACHE --predictions FILE [--ranks 4 8 ...]
                                   [--json FILE]

Both caches are of a codec without a basis. One basis of each kind is fitted to frames of --fit;
the mask features of --cache are coded with it in memory, and the predictions of `train.evaluate`
on that cache are replayed from the codes and scored.
"""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from cache_schema.codecs import LOWRANK, Codec, get_codec
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from extract.codecs.fitting import Moments, Sample
from extract.codecs.mask_codec import confident
from scripts.measuring import options, report
from train.evaluation.from_cache.contents import check_origin, list_expressions
from train.evaluation.from_cache.expressions import score_expressions
from train.evaluation.from_cache.task import ReplayTask
from train.predictions import Predictions

FRAMES = 8  # of each video that the basis is fitted to


class Recoded:
    """A cache, or a video of one, whose mask features are coded once more when they are read."""

    def __init__(self, inner: CacheReader | Video, codec: Codec) -> None:
        self._inner, self.codec = inner, codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def video(self, video_id: str) -> "Recoded":
        """A video of the cache."""
        return Recoded(self._inner.video(video_id), self.codec)

    def mask_features(self, indices: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        """Coded frames, as `Video.mask_features` gives them."""
        return self.codec.encode(self._inner.mask_features(indices)["values"].astype(np.float32))


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("codec_scores", __doc__)
    parser.add_argument("--fit", required=True, help="cache that the bases are fitted to")
    parser.add_argument("--cache", required=True, help="cache that was predicted on")
    parser.add_argument("--predictions", required=True, help="predictions.h5 of train.evaluate")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 7, 15, 32])
    parser.add_argument("--videos", type=int, default=32, help="of --fit, to fit the bases to")
    arguments = parser.parse_args(argv)
    fitted, reader = CacheReader(arguments.fit), CacheReader(arguments.cache)
    for each in (fitted, reader):
        if each.codec.scaled:
            raise InputError(f"{each.path} has the codec {each.codec.name}; give one of float16")
    predictions = Predictions(arguments.predictions)
    check_origin(reader, predictions)

    moments = measure(fitted, arguments.videos)
    channels = len(moments.sum)
    if not all(1 <= rank <= channels for rank in arguments.ranks):
        raise InputError(f"--ranks has one that is not from 1 to {channels}, the channels")
    codecs = {reader.codec.name: reader.codec, "int8": get_codec("int8")} | {
        f"rank {rank}, {'weighted' if weighted else 'plain'}": get_codec(
            LOWRANK, moments.basis(rank, weighted=weighted)
        )
        for rank in arguments.ranks
        for weighted in (True, False)
    }
    figures = {}
    for name, codec in codecs.items():
        source = reader if codec is reader.codec else Recoded(reader, codec)
        task = ReplayTask(source, predictions, list_expressions(reader), [predictions.sigma])
        contents = score_expressions(task)
        if not contents:
            raise InputError(f"{reader.path} has no ground truth to score with")
        figures[name] = contents[0]["J&F"]
        print(f"{name:<20}{100 * figures[name]:6.2f}", flush=True)
    return report(figures, [], arguments.json)


def measure(reader: CacheReader, num_videos: int) -> Moments:
    """Moments of a few frames of seeded videos, and of their confident queries' embeddings."""
    rng, moments = np.random.default_rng(0), Moments()
    for video_id in rng.permutation(reader.video_ids)[:num_videos]:
        video = reader.video(str(video_id))
        frames = np.sort(rng.permutation(video.num_frames)[:FRAMES])
        features = video.mask_features(frames)["values"].astype(np.float32)
        sure = confident(torch.from_numpy(video.video_logits()))
        embeds = torch.from_numpy(video.video_mask_embeds().astype(np.float32))[sure]
        moments.add(Sample(torch.from_numpy(features), embeds))
    return moments


if __name__ == "__main__":
    sys.exit(cli.run(main))
