"""RefCOCO, RefCOCO+ and RefCOCOg: images of COCO 2014 with sentences, as videos to train on too.

`<root>/<name>/refs(<partition>).p`, `<root>/<name>/instances.json`, and the images in
`<root>/train2014` or `<root>/images/mscoco/images/train2014`. A split is named as in the files
(train, val, testA, ...); "train@google" takes it from another partition than the usual one.
"""

from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as coco

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.files import existing_folder, plain_name, read_json
from extract.datasets.mirrored import mirrored
from extract.datasets.pickles import read_plain_pickle
from extract.datasets.pseudo_video import Warp, WarpedImage, draw_clip
from extract.datasets.records import (
    RLE,
    Dataset,
    SourceExpression,
    SourceVideo,
    check_rle,
    encode_mask,
)

IMAGE_FOLDERS = ("train2014", "images/mscoco/images/train2014")
LARGEST = 1 << 14  # pixels a side


class RefCOCO(Dataset):
    """Pseudo-videos of a split: each image gives ``variants`` of them, `draw_clip` says how.

    The id of a video is ``<image>_<variant>``. All sentences about an image share its variants,
    and say "right" for "left" where it is flipped. Annotation ids are those of instances.json.

    Args:
        root: folder that holds ``refcoco``, ``refcoco+``, ``refcocog`` and the images.
        split: ``train``, ``val``, ..., or with a partition as in ``train@google``.
        variants: K videos an image.
        frames: T of every video.
        seed: of all variants; those of an image depend on nothing else.

    Raises:
        InputError: a file is missing, malformed or not plain data; no such split.
    """

    facts = Facts(one_object=True, protocol="expressions", has_text=True)
    name = "refcoco"
    RANGES: ClassVar = {"variants": (1, 1e9), "frames": (1, 1e9), "seed": (0, 1 << 64)}
    #: Files refs(<partition>).p; the first is the usual one.
    partitions: tuple[str, ...] = ("unc", "google")

    def __init__(
        self,
        root: str | Path,
        split: str | None,
        *,
        variants: int = 1,
        frames: int = 10,
        seed: int = 0,
    ) -> None:
        self.root = existing_folder(Path(root), what="data root")
        self.folder = existing_folder(self.root / self.name, what="data set")
        self.variants, self.frames, self.seed = variants, frames, seed
        name, _, partition = (split or "").partition("@")
        partition = partition or self.partitions[0]
        if partition not in self.partitions:
            raise InputError(
                f"{self.name} has no partition {partition!r}, as the split {split!r} says; there"
                f" is {', '.join(self.partitions)}"
            )
        self._refs_path = self.folder / f"refs({partition}).p"
        self._instances_path = self.folder / "instances.json"
        self._refs = self._of_split(name)
        self._images, self._annotations = self._read_instances()
        folders = [self.root / folder for folder in IMAGE_FOLDERS]
        self.images = next((f for f in folders if f.is_dir()), None)
        if self.images is None:
            raise InputError(f"{folders[0]} does not exist; put the images of COCO 2014 there")

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The splits that lie under a root, of the usual partition first."""
        made = []
        for partition in cls.partitions:
            path = root / cls.name / f"refs({partition}).p"
            if path.is_file():
                there = dict.fromkeys(ref["split"] for ref in _read_refs(path))
                other = partition != cls.partitions[0]
                made += [f"{split}@{partition}" if other else split for split in there]
        return made

    @property
    def ids(self) -> list[str]:
        """Video ids: the images in the order of the file, the variants of each together."""
        return [f"{image}_{k}" for image in self._refs for k in range(self.variants)]

    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of each annotation file, and what the variants are drawn from."""
        paths = (self._refs_path, self._instances_path)
        return {f"{self.name}/{path.name}": file_sha256(path) for path in paths} | {
            "variants": {"num": self.variants, "frames": self.frames, "seed": self.seed}
        }

    def image_path(self, video_id: str) -> tuple[Path, tuple[int, int]]:
        """The image of a video and the (H, W) that it should have.

        Raises:
            InputError: instances.json lacks it or says nonsense about it.
        """
        image_id = int(video_id.split("_")[0])
        image = self._images.get(image_id)
        if image is None:
            raise self._error(video_id, f"image {image_id} is missing")
        name, size = image.get("file_name"), (image.get("height"), image.get("width"))
        if not plain_name(name):
            raise self._error(video_id, f'"file_name" is {name!r}, not the plain name of a file')
        if not all(type(n) is int and 0 < n <= LARGEST for n in size):
            raise self._error(video_id, f'"height" and "width" are {size[0]!r} and {size[1]!r}')
        return self.images / name, size

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        image_id, variant = (int(part) for part in video_id.split("_"))
        path, size = self.image_path(video_id)
        refs = self._refs[image_id]
        rng = np.random.default_rng([self.seed, image_id, variant])
        draw = draw_clip(rng, size, frames=self.frames)

        @cache
        def masks() -> dict[str, np.ndarray]:
            return {str(r["ann_id"]): self._mask(video_id, r["ann_id"], size) for r in refs}

        frames = WarpedImage(path, size, draw, lambda: list(masks().values()), video_id)
        return SourceVideo(
            id=video_id,
            frame_names=[f"{t:05d}" for t in range(self.frames)],
            frames=frames,
            expressions=self._expressions(video_id, refs, draw.flipped),
            objects={i: _track(m, frames.warp) for i, m in masks().items()} if objects else {},
        )

    def _error(self, video_id: str, what: str) -> InputError:
        return InputError(f"video {video_id} in {self._instances_path}: {what}")

    def _of_split(self, split: str) -> dict[int, list[dict[str, Any]]]:
        """Image id -> what refers to it in the split."""
        refs = _read_refs(self._refs_path)
        made: dict[int, list[dict[str, Any]]] = {}
        for ref in refs:
            if ref["split"] == split:
                made.setdefault(ref["image_id"], []).append(ref)
        if not made:
            there = ", ".join(sorted({ref["split"] for ref in refs}))
            raise InputError(f"{self._refs_path} has no split {split!r}; there is {there}")
        return made

    def _read_instances(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """Images and annotations by id: of all in the file, those that the split refers to."""
        content = read_json(self._instances_path)
        wanted = {
            "images": set(self._refs),
            "annotations": {ref["ann_id"] for refs in self._refs.values() for ref in refs},
        }
        found = []
        for key, ids in wanted.items():
            entries = content.get(key) if isinstance(content, dict) else None
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise InputError(f'{self._instances_path} has no list of objects "{key}"')
            by_id: dict[int, Any] = {}
            for entry in entries:
                if type(entry.get("id")) is int and entry["id"] in ids:
                    if entry["id"] in by_id:
                        raise InputError(
                            f'{self._instances_path}: the id {entry["id"]} stands twice in "{key}"'
                        )
                    by_id[entry["id"]] = entry
            found.append(by_id)
        return found[0], found[1]

    def _mask(self, video_id: str, annotation_id: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 of an annotation."""
        annotation = self._annotations.get(annotation_id)
        if annotation is None:
            raise self._error(video_id, f"annotation {annotation_id} is missing")
        if annotation.get("image_id") != int(video_id.split("_")[0]):
            raise self._error(video_id, f"annotation {annotation_id} is of another image")
        segmentation = annotation.get("segmentation")
        if wrong := _check_segmentation(segmentation, size):
            raise self._error(video_id, f"the segmentation of annotation {annotation_id} {wrong}")
        if isinstance(segmentation, list):
            return coco.decode(coco.merge(coco.frPyObjects(segmentation, *size)))
        if isinstance(segmentation["counts"], list):
            segmentation = coco.frPyObjects(segmentation, *size)
        return coco.decode(segmentation)

    def _expressions(
        self, video_id: str, refs: list[dict[str, Any]], flipped: bool
    ) -> list[SourceExpression]:
        made: dict[str, SourceExpression] = {}
        for ref in refs:
            ids = [str(ref["ann_id"])]
            for sentence in ref["sentences"]:
                number, text = str(sentence["sent_id"]), sentence["sent"]
                if number in made:
                    raise InputError(
                        f"video {video_id} in {self._refs_path}: the sentence {number} stands twice"
                    )
                made[number] = SourceExpression(
                    id=number,
                    text=mirrored(text) if flipped else text,
                    object_ids=ids,
                    annotation_ids=ids,
                )
        return list(made.values())


class RefCOCOPlus(RefCOCO):
    """RefCOCO+: sentences without words of place."""

    name = "refcoco+"
    partitions = ("unc",)


class RefCOCOg(RefCOCO):
    """RefCOCOg: longer sentences. In the partition google images are in several splits."""

    name = "refcocog"
    partitions = ("umd", "google")


def _track(mask: np.ndarray, warp: Warp) -> list[RLE | None]:
    frames = (warp.mask(mask, t) for t in range(len(warp.maps)))
    return [encode_mask(frame) if frame.any() else None for frame in frames]


def _read_refs(path: Path) -> list[dict[str, Any]]:
    """All references of a file."""
    refs = read_plain_pickle(path)
    if not isinstance(refs, list) or not refs:
        raise InputError(f"{path} is not a list of references; download it again")
    for number, ref in enumerate(refs):
        if wrong := _check_ref(ref):
            raise InputError(f"{path}: reference number {number} {wrong}")
    return refs


def _check_ref(ref: Any) -> str | None:
    """What is wrong with an entry of refs.p, or None."""
    if not isinstance(ref, dict):
        return "is not a dict"
    for key in ("image_id", "ann_id"):
        if type(ref.get(key)) is not int or ref[key] < 0:
            return f"has no whole number {key!r}"
    if not isinstance(ref.get("split"), str):
        return "has no string 'split'"
    sentences = ref.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        return "has no list of 'sentences'"
    for sentence in sentences:
        if not isinstance(sentence, dict) or type(sentence.get("sent_id")) is not int:
            return "has a sentence without a whole number 'sent_id'"
        if not isinstance(sentence.get("sent"), str) or not sentence["sent"].strip():
            return f"has the sentence {sentence['sent_id']} without text 'sent'"
    return None


def _check_segmentation(value: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with polygons or run lengths, or None: COCO's C code trusts them."""
    if isinstance(value, list) and value:
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                return "has a polygon that is not a list of three or more x, y"
            if not all(type(n) in (int, float) and isfinite(n) for n in polygon):
                return "has a polygon of something else than numbers"
            xs, ys = polygon[::2], polygon[1::2]
            # A little beyond the image is cut off; far beyond takes memory without end.
            if any(
                min(n) < -side or max(n) > 2 * side for n, side in ((ys, size[0]), (xs, size[1]))
            ):
                return f"has a polygon far beyond its {size[0]}x{size[1]} (height x width) pixels"
        return None
    if not isinstance(value, dict) or value.get("size") != list(size):
        return f"is neither polygons nor run lengths of the size {list(size)}"
    counts = value.get("counts")
    if isinstance(counts, list):
        whole = all(type(n) is int and n >= 0 for n in counts)
        return None if whole and sum(counts) == size[0] * size[1] else "has wrong run lengths"
    return check_rle(value)
