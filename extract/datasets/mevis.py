"""MeViS: `<root>/<split>/{JPEGImages/<video>/<frame>.jpg, meta_expressions.json, mask_dict.json}`.

Release 2 calls its sentences `meta_expressions_v2.json`, and `JPEGImages` may be a `.tar` or `.zip`
as it was downloaded. The sentences are ``{"videos": {video: {"frames": [...], "expressions": {id:
{"exp": str, "obj_id": [int], "anno_id": [int]}}}}}``, perhaps with ``tag``. `mask_dict.json` is
``{annotation id: [RLE or null, one a frame]}`` and absent where the truth is kept by a server.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.archives import Inside, find_archive
from extract.datasets.files import JsonTable, existing_folder, plain_name
from extract.datasets.frames import ImageFiles
from extract.datasets.meta_expressions import MetaExpressions, times_of
from extract.datasets.published import PUBLISHED
from extract.datasets.records import RLE, Dataset, SourceExpression, SourceVideo, check_rle

#: How the file of sentences is called, by release; the first name is release 1's, or made at home.
SENTENCES = {
    1: ("meta_expressions.json",),
    2: ("meta_expressions_v2.json", "meta_expressions_v2_release.json"),
}
IMAGES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png")


class MeViS(Dataset):
    """Videos of a split. What concerns all of them fails here, what concerns one fails with it.

    Args:
        root: folder of the splits.
        split: name of the split's folder (train, valid_u, valid, test).
        release: 1 or 2, where the sentences of both are there; 0 takes what is there.

    Attributes:
        facts: with the release, told by the number of sentences or else by the file's name.

    Raises:
        InputError: folder or sentences missing or of two releases, malformed JSON, wrong shape.
    """

    facts = Facts(one_object=False, protocol="expressions", has_text=True)
    SPLITS = ("train", "valid_u", "valid", "test")

    def __init__(self, root: str | Path, split: str | None, *, release: int = 0) -> None:
        if not plain_name(split):
            raise InputError(
                f"MeViS needs the name of a split ({', '.join(self.SPLITS)}), not {split!r}"
            )
        self.folder = existing_folder(
            existing_folder(Path(root), what="data root") / split, what="split folder"
        )
        self.meta = MetaExpressions(_sentences(self.folder, release))
        self.facts = replace(type(self).facts, release=self._release(release))
        frames = self.folder / "JPEGImages"
        self._archive = None if frames.is_dir() else find_archive(self.folder, frames.name)
        masks_path = self.folder / "mask_dict.json"
        #: None in splits without ground truth.
        self.masks = JsonTable(masks_path) if masks_path.exists() else None

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The splits that lie under a root."""
        return [split for split in cls.SPLITS if (root / split).is_dir()]

    @property
    def ids(self) -> list[str]:
        """Video ids in the order of the file. `video` takes them one by one."""
        return self.meta.ids

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each annotation file."""
        paths = [self.meta.path] + ([self.masks.path] if self.masks is not None else [])
        return {path.name: file_sha256(path) for path in paths}

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        frames = self.meta.frames(video_id)
        made = [
            self._expression(video_id, i, value)
            for i, value in self.meta.expressions(video_id).items()
        ]
        return SourceVideo(
            id=video_id,
            frame_names=frames,
            frame_times=times_of(frames),
            frames=ImageFiles(self._images(video_id, frames), video_id),
            expressions=made,
            objects=self._objects(video_id, made, frames) if objects else {},
        )

    def _release(self, asked: int) -> str:
        """Which release the sentences are of; empty for those of a part, or made at home."""
        number = asked or (0 if self.meta.path.name in SENTENCES[1] else 2)
        named = f"v{number}" if number else ""
        counts = len(self.meta.ids), self.meta.num_expressions
        known = PUBLISHED["mevis"].get(self.folder.name, [])
        told = next((p.release for p in known if (p.videos, p.expressions) == counts), named)
        if named and told != named:
            raise InputError(
                f"{self.meta.path} has as many sentences as release {told} of MeViS, {counts[1]}, "
                f"and was taken for {named}: look at what was downloaded"
            )
        return told

    def _images(self, video_id: str, frames: list[str]) -> list[Path | Inside]:
        """Where the frames lie; all of a video end as the first one does."""
        if self._archive is not None:
            names = [f"{video_id}/{name}" for name in frames]
            there = (kind for kind in IMAGES if names[0] + kind in self._archive)
            kind = next(there, IMAGES[0])
            return [Inside(self._archive, name + kind) for name in names]
        folder = self.folder / "JPEGImages" / video_id
        there = (kind for kind in IMAGES if (folder / f"{frames[0]}{kind}").exists())
        kind = next(there, IMAGES[0])
        return [folder / f"{name}{kind}" for name in frames]

    def _expression(
        self, video_id: str, expression_id: str, value: dict[str, Any]
    ) -> SourceExpression:
        where = f"expression {expression_id!r}"
        lists = {}
        for key in ("obj_id", "anno_id"):
            # Splits without ground truth may leave the objects out.
            ids = value.get(key, [] if self.masks is None else None)
            if not isinstance(ids, list) or not all(type(i) in (int, str) for i in ids):
                raise self.meta.error(
                    video_id, f'{where}: the key "{key}" is missing or not a list of integers'
                )
            lists[key] = [str(i) for i in ids]
        return SourceExpression(
            id=expression_id,
            text=value["exp"],
            object_ids=lists["obj_id"],
            annotation_ids=lists["anno_id"],
            tag=value.get("tag", ""),
        )

    def _objects(
        self, video_id: str, expressions: list[SourceExpression], frames: list[str]
    ) -> dict[str, list[RLE | None]]:
        if self.masks is None:
            return {}
        made: dict[str, list[RLE | None]] = {}
        for expression in expressions:
            for annotation_id in expression.annotation_ids:
                if annotation_id in made:
                    continue
                if annotation_id not in self.masks:
                    raise self.meta.error(
                        video_id,
                        f"expression {expression.id!r} refers to annotation {annotation_id},"
                        f" which {self.masks.path} does not have; the two files must be of one"
                        " release",
                    )
                made[annotation_id] = self._masks(video_id, annotation_id, frames)
        return made

    def _masks(self, video_id: str, annotation_id: str, frames: list[str]) -> list[RLE | None]:
        masks, path, size = self.masks[annotation_id], self.masks.path, None
        where = f"annotation {annotation_id}"
        if len(masks) != len(frames):
            raise self.meta.error(
                video_id, f"{where} has {len(masks)} masks for {len(frames)} frames", path
            )
        for name, mask in zip(frames, masks, strict=True):
            if mask is None:
                continue
            if wrong := check_rle(mask):
                raise self.meta.error(video_id, f"{where}: the mask of frame {name} {wrong}", path)
            if size is not None and mask["size"] != size:
                raise self.meta.error(
                    video_id, f"{where}: masks have sizes {size} and {mask['size']}", path
                )
            size = mask["size"]
        return [None if m is None else RLE(size=m["size"], counts=m["counts"]) for m in masks]


def _sentences(folder: Path, release: int) -> Path:
    """The file of sentences of a split.

    Raises:
        InputError: there is none of that release, or there are several and none was named.
    """
    if release not in (0, *SENTENCES):
        raise InputError(
            f"dataset.release is {release}; MeViS has {', '.join(map(str, SENTENCES))}"
        )
    there = {
        number: path
        for number, names in SENTENCES.items()
        for path in (folder / name for name in names)
        if path.exists() and release in (0, number)
    }
    if len(there) > 1:
        raise InputError(
            f"{folder} holds the sentences of two releases, "
            f"{' and '.join(path.name for path in there.values())}; say which to take, "
            "dataset.release=1 or dataset.release=2"
        )
    return next(iter(there.values()), folder / SENTENCES[release or 1][0])
