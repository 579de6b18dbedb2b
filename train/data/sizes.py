"""The sizes that heads are built for, from the caches that they read."""

from collections.abc import Collection, Sequence

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.heads.base import CacheSizes


def common_sizes(
    caches: Sequence[CacheReader], needs: Collection[str] = (), *, text_dim: int | None = None
) -> CacheSizes:
    """The sizes of caches, which have to agree.

    Args:
        caches: at least one.
        needs: what is read of them, see `Head.needs`.
        text_dim: of sentences that are not in the caches; None if theirs are read.

    Raises:
        InputError: they do not agree, a cache has no expressions, or one is light and masks are
            to be drawn.
    """
    for reader in caches:
        if reader.light and "mask_features" in needs:
            raise InputError(
                f"{reader.path} holds no mask features (a light cache), and the head draws masks "
                "with them; give a full cache, or take a head that selects among the segmenter's "
                "own masks"
            )
    every = [_shapes(reader, text_dim) for reader in caches]
    for reader, shapes in zip(caches, every, strict=True):
        for name, shape in shapes.items():
            if shape != every[0][name]:
                raise InputError(
                    f"{reader.path} does not fit {caches[0].path}: {name} are {shape} and "
                    f"{every[0][name]}; extract both with the same models"
                )
    shapes = every[0]
    return CacheSizes(
        query_dim=shapes["video queries"][1],
        text_dim=shapes["sentence"][0],
        mask_dim=shapes["mask embeddings"][1],
        num_video_queries=shapes["video queries"][0],
        num_classes=shapes["class logits"][1] - 1,
        identity=caches[0].segmenter.identity,
        mask_head=caches[0].segmenter.mask_head,
        num_frame_queries=shapes["frame queries"][0],
        activation=caches[0].segmenter.activation,
        by_frame=shapes["axes of mask embeddings"] == (3,),
    )


def _shapes(reader: CacheReader, text_dim: int | None) -> dict[str, tuple[int, ...]]:
    """Of what the first video holds, or the first with an expression."""
    videos = (reader.video(video_id) for video_id in reader.video_ids)
    video = next((video for video in videos if text_dim or video.expression_ids), None)
    if video is None:
        raise InputError(f"{reader.path} has no expressions; extract a data set that has them")
    sentence = (text_dim,) if text_dim else video.expression(video.expression_ids[0]).sentence.shape
    embeds = video.video_mask_embeds().shape
    return {
        "frame queries": video.frame_queries([0]).shape[1:],
        "video queries": video.video_queries().shape,
        "class logits": video.video_logits().shape,
        "mask embeddings": embeds[-2:],  # without T
        "axes of mask embeddings": (len(embeds),),
        "sentence": sentence,
    }
