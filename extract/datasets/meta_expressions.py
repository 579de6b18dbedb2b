"""`meta_expressions.json`, the file of sentences that MeViS, Ref-YouTube-VOS and Ref-DAVIS share.

``{"videos": {video: {"frames": [name, ...], "expressions": {id: {"exp": str, ...}}}}}``: frame
names are without extension; what else an expression says differs and is left to the reader.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
from extract.datasets.files import plain_name, read_json


def times_of(names: list[str]) -> list[int] | None:
    """Which frame of its video each is, where names are numbers as 00005 and ascend."""
    if not all(name.isascii() and name.isdecimal() and len(name) < 9 for name in names):
        return None
    times = [int(name) for name in names]
    return times if all(a < b for a, b in pairwise(times)) else None


def read_videos(path: Path, entry: str) -> dict[str, Any]:
    """The object "videos" of a JSON file, each of which should read as ``entry``; or InputError."""
    meta = read_json(path)
    if not isinstance(meta, dict) or not isinstance(meta.get("videos"), dict):
        raise InputError(
            f'{path} has no object "videos" at its top; it should read'
            f' {{"videos": {{video: {entry}}}}}'
        )
    return meta["videos"]


class MetaExpressions:
    """The videos of one file. What concerns all of them fails here, what concerns one with it.

    Raises:
        InputError: the file is missing, malformed, of another shape, or lists no videos.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._videos = read_videos(path, '{"frames": [...], "expressions": {...}}')
        if not self._videos:
            raise InputError(f"{path} lists no videos; download it again")

    @property
    def ids(self) -> list[str]:
        """Video ids in the order of the file."""
        return list(self._videos)

    @property
    def num_expressions(self) -> int:
        """How many sentences there are; videos that are malformed have none."""
        videos = (
            video.get("expressions") for video in self._videos.values() if type(video) is dict
        )
        return sum(len(listed) for listed in videos if type(listed) is dict)

    def error(self, video_id: str, what: str, path: Path | None = None) -> InputError:
        """Something is wrong with a video: in this file, or in the one given."""
        return InputError(f"video {video_id!r} in {path or self.path}: {what}")

    def frames(self, video_id: str) -> list[str]:
        """Frame names of a video, in order.

        Raises:
            InputError: the id or a name is not plain, no frames, a name twice, or not sorted.
        """
        if not plain_name(video_id):
            raise self.error(video_id, "the id would leave the folder; ids are plain names")
        frames = self._entry(video_id).get("frames")
        if not isinstance(frames, list):
            raise self.error(video_id, 'the key "frames" is missing or not a list')
        if not frames:
            raise self.error(video_id, '"frames" is empty; a video needs at least one frame')
        for name in frames:
            if not plain_name(name):
                raise self.error(
                    video_id, f'"frames" holds {name!r}; frame names are plain, without extension'
                )
        if len(set(frames)) < len(frames):
            raise self.error(video_id, '"frames" holds a name twice')
        if frames != sorted(frames):
            numbers = [int(name) for name in frames if name.isdecimal()]
            if len(numbers) == len(frames) and numbers == sorted(numbers):
                # In the order of their names "10" comes before "9".
                raise self.error(
                    video_id,
                    f'"frames" holds numbers of different lengths, such as {frames[0]!r} and '
                    f"{frames[-1]!r}; pad them with zeros, here and in the names of the files, and "
                    "do not sort them",
                )
            # Public loaders sort the frames, the public evaluator does not: they must agree.
            raise self.error(video_id, '"frames" is not sorted; sort it and the masks with it')
        return frames

    def expressions(self, video_id: str) -> dict[str, dict[str, Any]]:
        """Expression id -> what the file says of it; "exp" is a sentence, "tag" a string or absent.

        Raises:
            InputError: an id is not plain, or "exp" or "tag" is of another type or empty.
        """
        expressions = self._entry(video_id).get("expressions")
        if not isinstance(expressions, dict):
            raise self.error(video_id, 'the key "expressions" is missing or not an object')
        for expression_id, value in expressions.items():
            where = f"expression {expression_id!r}"
            if not plain_name(expression_id):  # masks are handed in under this name
                raise self.error(video_id, f"{where}: the id is not the plain name of a folder")
            if not isinstance(value, dict):
                raise self.error(video_id, f"{where} is not an object")
            text = value.get("exp")
            if not isinstance(text, str):
                raise self.error(video_id, f'{where}: the key "exp" is missing or not a string')
            if not text.strip():
                raise self.error(video_id, f"{where} is empty; write a sentence or remove it")
            if not isinstance(value.get("tag", ""), str):
                raise self.error(video_id, f'{where}: "tag" is not a string')
        return expressions

    def _entry(self, video_id: str) -> dict[str, Any]:
        entry = self._videos[video_id]
        if not isinstance(entry, dict):
            raise self.error(video_id, "the entry is not an object")
        return entry
