"""(video, expression) pairs of one or more caches, each with a clip and its target masks."""

from collections.abc import Collection, Sequence
from hashlib import blake2b

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from cache_schema.records import Clip, Expression
from train.data.batch import Sample
from train.data.compatible import check_compatible
from train.data.mixture import Mixture
from train.data.sizes import common_sizes
from train.data.targets import ClipRuns, clip_runs, clip_targets, shown_ids
from train.losses import Targets
from train.memory import Buffers


class ClipDataset(Dataset):
    """Sample number n of an endless training run, a pure function of (seed, n).

    Each epoch is one permutation of all pairs, or of a cache's where caches have weights. An
    expression without targets stays in: all its queries are negative. Videos of a single frame
    are left out: nothing moves in them.

    Args:
        caches: at least one; frames may differ in size and codec, queries and channels may not.
        seed: of the order and of the clips.
        clip_source: "bank", clips of the cache's clip bank with their own video queries; or
            "video", frames of the whole video with the video queries of the whole.
        num_frames: T for "video"; None takes every frame.
        frame_choice: "first" or "random" (in order), which T frames of a longer video.
        cache_weights: how often each cache is drawn from; empty draws every pair equally often.
        mixed_codecs: caches may differ in codec and rank.
        staged: samples have their mask features still to be read, see `train.data.staging`.
        needs: what is read, see `Head.needs`; None for all that the caches hold.

    Attributes:
        sizes: of the caches, which heads are built for.

    Raises:
        InputError: an unknown choice, no expressions, no objects, or caches that do not fit.
    """

    # mmengine asks a data set for this and warns where there is none.
    metainfo: dict = {}

    def __init__(
        self,
        caches: Sequence[CacheReader],
        *,
        seed: int,
        clip_source: str = "bank",
        num_frames: int | None = None,
        frame_choice: str = "random",
        cache_weights: Sequence[int] = (),
        mixed_codecs: bool = False,
        staged: bool = False,
        needs: Collection[str] | None = None,
    ) -> None:
        for key, value, known in [
            ("clip_source", clip_source, ("bank", "video")),
            ("frame_choice", frame_choice, ("first", "random")),
        ]:
            if value not in known:
                raise InputError(f"data.{key} is {value!r}; choose one of {', '.join(known)}")
        if clip_source == "bank" and num_frames is not None:
            raise InputError(
                "data.num_frames goes with data.clip_source='video' only; the clips of the bank "
                "have the length they were extracted with"
            )
        if cache_weights and len(cache_weights) != len(caches):
            raise InputError(
                f"data.cache_weights has {len(cache_weights)} numbers for {len(caches)} cache(s); "
                "give one a cache, in the order of --cache"
            )
        check_compatible({str(c.path): c.fingerprint for c in caches}, mixed_codecs=mixed_codecs)
        self.caches = list(caches)
        self.seed = seed
        self.clip_source = clip_source
        self.num_frames = num_frames
        self.frame_choice = frame_choice
        self.staged = staged
        self.needs = needs
        self.buffers = Buffers()
        pairs = [self._pairs(index) for index in range(len(caches))]
        self.pairs = [pair for own in pairs for pair in own]
        self.mixture = Mixture([len(own) for own in pairs], cache_weights, seed=seed)
        self.sizes = common_sizes(caches, needs or ())
        # All batches hold them or none does, so that all steps log the same.
        self.has_overlaps = all(reader.version >= 3 for reader in caches)

    def __len__(self) -> int:
        """Pairs of an epoch; counters go on beyond it."""
        return len(self.pairs)

    def __getitem__(self, counter: int) -> Sample:
        number = self.mixture.pair(counter)
        cache, video_id, expression_id = self.pairs[number]
        reader = self.caches[cache]
        video = reader.video(video_id)
        expression = video.expression(expression_id)
        clip = self._clip(video, np.random.default_rng([self.seed, 1, counter]))
        frames = clip.frame_indices
        draws = self.wants("mask_features") and not reader.light
        targets: Targets | ClipRuns | None = None
        if not draws:
            shown = shown_ids(video, expression, frames)
        elif self.staged:
            targets = clip_runs(video, expression, frames)
            shown = targets.ids
        else:
            targets, shown = clip_targets(video, expression, frames, buffers=self.buffers)
        features: dict[str, Tensor] | tuple[Video, np.ndarray] | None = None
        if draws:
            features = (video, frames) if self.staged else self._mask_features(video, frames)
        found = {
            "video_queries": clip.video_queries,
            "video_logits": clip.video_logits,
            "tracks": clip.tracks,
            "mask_embeds": self._there(clip.mask_embeds, "mask_embeds", reader),
        }
        wanted = {name: array if self.wants(name) else None for name, array in found.items()}
        overlaps = None
        if self.wants("overlaps") and self.has_overlaps:
            overlaps = self._overlaps(video, clip, shown)
        return Sample(
            times=video.frame_times()[frames],
            frame_queries=video.frame_queries(frames) if self.wants("frame_queries") else None,
            **wanted,
            mask_features=features,
            codec=reader.codec,
            cache=cache,
            expression=expression,
            targets=targets,
            overlaps=overlaps,
            ids=self._ids(number, expression) if self.wants("ids") else None,
            number=counter,
        )

    def _ids(self, number: int, expression: Expression) -> np.ndarray:
        """See `Batch.ids`."""
        *video, _ = self.pairs[number]
        objects = sorted(expression.annotation_ids)
        return np.array([number, _hash(*video, *objects), _hash(*video), len(self.pairs)])

    def wants(self, name: str) -> bool:
        """Whether samples have a field."""
        return self.needs is None or name in self.needs

    def _there(self, array: np.ndarray | None, name: str, reader: CacheReader) -> np.ndarray | None:
        """What the cache holds; refuse one that lacks what a head needs."""
        if array is None and name in (self.needs or ()):
            raise InputError(
                f"{reader.path} holds no {name.replace('_', ' ')} of its clips, for it is of an "
                "older version; extract again for a head that reads them"
            )
        return array

    @staticmethod
    def _overlaps(video: Video, clip: Clip, shown: list[str]) -> np.ndarray:
        """(N_v, M) float32, the columns of the targets."""
        if not shown:
            return np.zeros((len(clip.video_logits), 0), np.float32)
        if clip.overlaps is None:
            raise InputError(
                f"video {video.id!r}: the cache holds its objects, but not how far video queries "
                "overlap them; extract the video again"
            )
        columns = [video.annotation_ids.index(annotation_id) for annotation_id in shown]
        return clip.overlaps[:, columns].astype(np.float32)

    def _mask_features(self, video: Video, indices: np.ndarray) -> dict[str, Tensor]:
        """Read from the shard straight to where the training process will find them."""
        features = {
            name: self.buffers.empty((len(indices), *extent.row_shape), extent.dtype)
            for name, extent in video.mask_extents().items()
        }
        video.mask_features(indices, out={name: t.numpy() for name, t in features.items()})
        return features

    def _clip(self, video: Video, random: np.random.Generator) -> Clip:
        if self.clip_source == "bank":
            if video.num_clips == 0:
                raise InputError(
                    f"video {video.id!r} has an empty clip bank; extract it with clips.num > 0 or "
                    "train with data.clip_source='video'"
                )
            return video.clip(int(random.integers(video.num_clips)))
        indices = np.arange(video.num_frames, dtype=np.int32)
        if self.num_frames is not None and self.num_frames < video.num_frames:
            if self.frame_choice == "random":
                indices = np.sort(random.choice(indices, self.num_frames, replace=False))
            indices = indices[: self.num_frames]
        embeds = video.video_mask_embeds()
        return Clip(
            indices,
            video.video_queries(),
            video.video_logits(),
            video.tracks()[:, indices],
            embeds[indices] if embeds.ndim == 3 else embeds,
            video.overlaps(),
        )

    def _pairs(self, index: int) -> list[tuple[int, str, str]]:
        reader = self.caches[index]
        videos = [(i, reader.video(i)) for i in reader.video_ids if reader.entries[i].frames > 1]
        pairs = [(index, v, expr) for v, video in videos for expr in video.expression_ids]
        if not pairs:
            raise InputError(
                f"{reader.path}: none of its {len(reader)} videos has several frames and an "
                "expression, so there is nothing to train on; extract a data set with expressions"
            )
        if not any(video.num_objects for _, video in videos):
            raise InputError(
                f"{reader.path}: no video has object masks (split {reader.split!r} of "
                f"{reader.dataset!r}), so there is nothing to learn from; extract a split with "
                "ground truth"
            )
        return pairs


def _hash(*names: object) -> int:
    """A number of 63 bits that no other names have."""
    return int.from_bytes(blake2b(repr(names).encode(), digest_size=8).digest(), "big") >> 1
