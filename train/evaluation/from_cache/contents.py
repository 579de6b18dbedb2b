"""What there is to evaluate in a cache: its expressions, their truth, and by which rule."""

from collections.abc import Iterable

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.predictions import Predictions
from train.records import ExpressionRef


def list_expressions(reader: CacheReader) -> dict[str, list[ExpressionRef]]:
    """The expressions of every video that has any.

    Raises:
        InputError: there are none in the whole cache.
    """
    listed = {video_id: list_of_video(reader, video_id) for video_id in reader.video_ids}
    videos = {video_id: expressions for video_id, expressions in listed.items() if expressions}
    if not videos:
        raise InputError(
            f"{reader.path} has no expressions, so there is nothing to predict; extract a data set "
            "that has them"
        )
    return videos


def list_of_video(reader: CacheReader, video_id: str) -> list[ExpressionRef]:
    """The expressions of one video."""
    video, listed = reader.video(video_id), []
    for expression_id in video.expression_ids:
        e = video.expression(expression_id)
        ids = list(e.object_ids), list(e.annotation_ids)
        listed.append(ExpressionRef(video_id, expression_id, e.text, e.tag, *ids))
    return listed


def pick_rule(config: Config, reader: CacheReader) -> str:
    """How queries are kept: the config's rule or, with "auto", what fits the data set.

    Raises:
        InputError: "auto", and the cache does not say what its expressions mean.
    """
    if config.evaluation.rule != "auto":
        return config.evaluation.rule
    if reader.facts.one_object is None:
        raise InputError(
            f"{reader.path} does not say whether an expression of {reader.dataset} means exactly "
            "one object, so evaluation.rule='auto' cannot choose: set it to 'top1' for one object, "
            "to 'threshold' for any number"
        )
    return "top1" if reader.facts.one_object else "threshold"


def check_origin(reader: CacheReader, predictions: Predictions) -> None:
    """Refuse predictions of another cache."""
    if predictions.fingerprint != reader.fingerprint_hex:
        raise InputError(
            f"{predictions.path} was predicted from the cache {predictions.fingerprint[:12]}, but "
            f"{reader.path} is {reader.fingerprint_hex[:12]}; give the cache it came from"
        )


def scored_videos(reader: CacheReader, video_ids: Iterable[str]) -> set[str]:
    """Those of some videos for whose expressions there is ground truth.

    Where expressions may mean nothing, as in MeViS, a video without objects is one whose
    expressions all do, if other videos of the cache have objects; elsewhere the truth is missing.
    """
    asked = set(video_ids)
    known = {video_id for video_id in asked if reader.video(video_id).num_objects > 0}
    if known == asked or reader.facts.one_object:
        return known
    return asked if known or has_truth(reader) else known


def has_truth(reader: CacheReader) -> bool:
    """Whether any video of the cache has objects."""
    return any(reader.video(video_id).num_objects > 0 for video_id in reader.video_ids)
