"""Ref-YouTube-VOS: sentences under `<root>/meta_expressions/<split>/meta_expressions.json`.

Frames are `<root>/<split>/JPEGImages/<video>/<frame>.jpg` and masks palette PNGs of the same names
under `Annotations`, whose values are the sentences' "obj_id"; `<root>/train/meta.json` names the
objects' categories. Public are the masks of train. The frames listed are every fifth.
"""

from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.files import existing_folder, plain_name
from extract.datasets.frames import ImageFiles
from extract.datasets.meta_expressions import MetaExpressions, read_videos, times_of
from extract.datasets.palette import PaletteDataset, object_id
from extract.datasets.records import SourceExpression, SourceVideo

#: Videos of valid proper; its file lists those of test (305) as well.
VALID_VIDEOS = 202


class RefYouTubeVOS(PaletteDataset):
    """Videos of a split.

    Of the split valid those are left out that are in test. Where a split other than train has
    masks for every frame of a video and its sentences say their objects, it has ground truth;
    masks of first frames only, which YouTube-VOS hands out, are none.

    Args:
        root: folder of the splits.
        split: train, valid or test.

    Raises:
        InputError: no sentences, no masks of train, no list of test to reduce valid by.
    """

    facts = Facts(one_object=True, protocol="expressions", has_text=True)
    SPLITS = ("train", "valid", "test")

    def __init__(self, root: str | Path, split: str | None) -> None:
        if not plain_name(split):
            raise InputError(
                f"Ref-YouTube-VOS needs the name of a split ({', '.join(self.SPLITS)}), not"
                f" {split!r}"
            )
        self.root, self.split = existing_folder(Path(root), what="data root"), split
        self.folder = self.root / split
        self.meta = MetaExpressions(self._sentences(split))
        self._files = [self.meta.path]
        self.ids = self._reduced() if split == "valid" else self.meta.ids
        annotations = self.folder / "Annotations"
        self.needs_masks = split == "train"
        if self.needs_masks:
            existing_folder(annotations, what="folder of masks")
        self.annotations = annotations if annotations.is_dir() else None
        self._categories = self._read_categories()

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The splits that lie under a root."""
        return [s for s in cls.SPLITS if (root / "meta_expressions" / s).is_dir()]

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        frames = self.meta.frames(video_id)
        expressions = [
            self._expression(video_id, i, value)
            for i, value in self.meta.expressions(video_id).items()
        ]
        folder = self.folder / "JPEGImages" / video_id
        return SourceVideo(
            id=video_id,
            frame_names=frames,
            frame_times=times_of(frames),
            frames=ImageFiles([folder / f"{name}.jpg" for name in frames], video_id),
            expressions=expressions,
            objects=self._objects(video_id, frames, expressions) if objects else {},
            categories=self._categories_of(video_id),
        )

    def _sentences(self, split: str) -> Path:
        return self.root / "meta_expressions" / split / "meta_expressions.json"

    def _reduced(self) -> list[str]:
        test = self._sentences("test")
        if test.is_file():
            self._files.append(test)
            others = set(MetaExpressions(test).ids)
            ids = [video_id for video_id in self.meta.ids if video_id not in others]
            if not ids:
                raise InputError(f"all videos of {self.meta.path} are in {test} as well")
            return ids
        if len(self.meta.ids) > VALID_VIDEOS:
            raise InputError(
                f"{self.meta.path} lists {len(self.meta.ids)} videos, those of test among them, and"
                f" {test} does not exist; put it there, so that the {VALID_VIDEOS} of valid are"
                " known"
            )
        return self.meta.ids

    def _read_categories(self) -> dict[str, Any]:
        path = self.folder / "meta.json"
        if not path.is_file():
            return {}
        self._files.append(path)
        return read_videos(path, '{"objects": {id: {"category": str}}}')

    def _categories_of(self, video_id: str) -> dict[str, str]:
        entry = self._categories.get(video_id)
        if entry is None:
            return {}
        path = self.folder / "meta.json"
        objects = entry.get("objects") if isinstance(entry, dict) else None
        if not isinstance(objects, dict):
            raise self.meta.error(video_id, 'the key "objects" is missing or not an object', path)
        made = {}
        for key, value in objects.items():
            category = value.get("category") if isinstance(value, dict) else None
            if object_id(key) is None or not isinstance(category, str):
                raise self.meta.error(
                    video_id, f'object {key!r} is not an id of 1 to 254 with a "category"', path
                )
            made[key] = category
        return made

    def _expression(
        self, video_id: str, expression_id: str, value: dict[str, Any]
    ) -> SourceExpression:
        ids = []
        if self.needs_masks or "obj_id" in value:
            target = object_id(value.get("obj_id"))
            if target is None:
                raise self.meta.error(
                    video_id,
                    f'expression {expression_id!r}: "obj_id" is {value.get("obj_id")!r}, not the'
                    " id of an object, 1 to 254",
                )
            known = self._categories_of(video_id)
            if known and target not in known:
                raise self.meta.error(
                    video_id,
                    f"expression {expression_id!r} means object {target}, which"
                    f" {self.folder / 'meta.json'} does not have; both must be of one release",
                )
            ids = [target]
        return SourceExpression(
            id=expression_id,
            text=value["exp"],
            object_ids=ids,
            annotation_ids=ids,
            tag=value.get("tag", ""),
        )
