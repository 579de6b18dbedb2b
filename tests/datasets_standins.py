"""Small stand-ins of every data set, in the layout in which the real one lies on disk.

Videos are boxes that move over noise: object 1 is red and moves right, object 2 is blue and moves
down. Everything is a function of the video's name.
"""

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

SIZE = (48, 64)  # H, W
COLOURS = {1: (220, 40, 40), 2: (40, 40, 220)}
SENTENCES = {
    1: ["the red box moving right", "the  Red Box that slides along", "a red thing", "red box"],
    2: ["the blue box moving down", "what sinks slowly", "a blue thing", "blue box"],
}
DAVIS_FILES = [
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
]


def scene(
    name: str, frames: int = 4, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """A video: images (T, H, W, 3) uint8 RGB and labels (T, H, W) uint8 of 0, 1 and 2."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = size
    labels = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        along = t / max(1, frames - 1)
        top, left = height // 8, round(width // 2 * along)
        labels[t, top : top + height // 4, left : left + width // 3] = 1
        top, left = height // 2 + round(height // 8 * along), width // 8
        labels[t, top : top + height // 4, left : left + width // 4] = 2
    images = rng.integers(90, 130, (frames, height, width, 3), np.uint8)
    for value, colour in COLOURS.items():
        images[labels == value] = colour
    return images, labels


def write_jpegs(folder: Path, names: list[str], images: np.ndarray) -> None:
    """One JPEG a frame."""
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        assert cv2.imwrite(str(folder / f"{name}.jpg"), image[..., ::-1])


def write_palette(path: Path, labels: np.ndarray) -> None:
    """A palette PNG of object ids, coloured as DAVIS and YouTube-VOS colour theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)


def write_json(path: Path, content: Any) -> None:
    """A JSON file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def rle(mask: np.ndarray) -> dict[str, Any] | None:
    """COCO's compressed run lengths; None for an empty mask, as MeViS has it."""
    if not mask.any():
        return None
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": made["counts"].decode()}


def make_mevis(root: Path, videos: int = 2, frames: int = 4, v2: bool = False) -> Path:
    """MeViS: splits train and valid_u with masks, valid without. v2 has a sentence of nothing."""
    for split in ("train", "valid_u", "valid"):
        meta, masks = {}, {}
        for number in range(videos):
            video_id = f"{split}{number}"
            names = [f"{t:05d}" for t in range(frames)]
            images, labels = scene(video_id, frames)
            write_jpegs(root / split / "JPEGImages" / video_id, names, images)
            annotations = {value: len(masks) + value - 1 for value in COLOURS}
            targets = [[1], [2], [1, 2]] + [[]] * v2
            texts = [SENTENCES[1][0], SENTENCES[2][0], "both boxes", "the box that jumps"]
            expressions = {}
            for i, target in enumerate(targets):
                expressions[str(i)] = {"exp": texts[i]}
                if split != "valid":
                    expressions[str(i)] |= {
                        "obj_id": [value - 1 for value in target],
                        "anno_id": [annotations[value] for value in target],
                    }
                if v2:
                    expressions[str(i)]["audio"] = f"{video_id}_{i}.wav"
            meta[video_id] = {"frames": names, "expressions": expressions}
            for value, annotation in annotations.items():
                masks[str(annotation)] = [rle(label == value) for label in labels]
        write_json(root / split / "meta_expressions.json", {"videos": meta})
        if split != "valid":
            write_json(root / split / "mask_dict.json", masks)
    return root


def make_ref_youtube_vos(root: Path, frames: int = 4, valid_masks: bool = False) -> Path:
    """Ref-YouTube-VOS: every fifth frame; valid lists the videos of test (t0) as well.

    Args:
        root: where to.
        frames: of every video.
        valid_masks: with the ground truth of valid, which is not public but goes round.
    """
    names = [f"{5 * t:05d}" for t in range(frames)]
    for split, videos, listed in (
        ("train", ["a0", "a1"], ["a0", "a1"]),
        ("valid", ["v0", "v1"], ["v0", "t0", "v1"]),
        ("test", ["t0"], ["t0"]),
    ):
        public = split == "train" or (split == "valid" and valid_masks)
        for video_id in videos:
            images, labels = scene(video_id, frames)
            write_jpegs(root / split / "JPEGImages" / video_id, names, images)
            if public:
                for name, label in zip(names, labels, strict=True):
                    write_palette(root / split / "Annotations" / video_id / f"{name}.png", label)
        pairs = [(value, text) for value in COLOURS for text in SENTENCES[value][:2]]
        expressions = {
            str(i): {"exp": text} | ({"obj_id": str(value)} if public else {})
            for i, (value, text) in enumerate(pairs)
        }
        meta = {video_id: {"frames": names, "expressions": expressions} for video_id in listed}
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": meta})
        if split == "train":
            objects = {str(value): {"category": "box", "frames": names} for value in COLOURS}
            write_json(
                root / split / "meta.json", {"videos": {v: {"objects": objects} for v in videos}}
            )
    return root


def make_ref_davis(root: Path, raw: bool, frames: int = 4) -> Path:
    """Ref-DAVIS17: train (classic-car) and val (bear, twins), with void pixels in bear.

    Args:
        root: where to.
        raw: as downloaded, misspelt names included, or as ReferFormer prepares it.
        frames: of every video.
    """
    names = [f"{t:05d}" for t in range(frames)]
    splits = {"train": ["classic-car"], "val": ["bear", "twins"]}
    lines: dict[str, list[str]] = {name: [] for name in DAVIS_FILES}
    for split, videos in splits.items():
        folder = root / "DAVIS" if raw else root / {"val": "valid"}.get(split, split)
        images_of = folder / "JPEGImages" / "480p" if raw else folder / "JPEGImages"
        masks_of = folder / "Annotations_unsupervised" / "480p" if raw else folder / "Annotations"
        meta = {}
        for video_id in videos:
            images, labels = scene(video_id, frames)
            if video_id == "bear":
                labels = np.where(labels == 2, 255, labels).astype(np.uint8)
            write_jpegs(images_of / video_id, names, images)
            for name, label in zip(names, labels, strict=True):
                write_palette(masks_of / video_id / f"{name}.png", label)
            values = [1] if video_id == "bear" else [1, 2]
            said = [(value, text) for value in values for text in SENTENCES[value]]
            meta[video_id] = {
                "frames": names,
                "expressions": {
                    str(i): {"exp": text, "obj_id": str(value)}
                    for i, (value, text) in enumerate(said)
                },
            }
            misspelt = {"classic-car": "clasic-car"}.get(video_id, video_id)
            for i, (value, text) in enumerate(said):
                lines[DAVIS_FILES[i % 4]].append(f'{misspelt} {value} "{text}"\n')
        if raw:
            path = folder / "ImageSets" / "2017" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(videos) + "\n")
        else:
            path = root / "meta_expressions" / folder.name / "meta_expressions.json"
            write_json(path, {"videos": meta})
    if raw:
        (root / "davis_text_annotations").mkdir()
        for name, text in lines.items():
            (root / "davis_text_annotations" / name).write_text("".join(text))
    return root


def make_refcoco(root: Path, images: int = 2, size: tuple[int, int] = SIZE) -> Path:
    """RefCOCO, RefCOCO+ and RefCOCOg over the same images, each in all of its partitions.

    The last image is of the split val; in the partition google every image is also of train.
    """
    (root / "train2014").mkdir(parents=True)
    infos, annotations = [], []
    for number in range(images):
        image_id = 100 + number
        name = f"COCO_train2014_{image_id:012d}.jpg"
        pictures, labels = scene(name, 1, size)
        assert cv2.imwrite(str(root / "train2014" / name), pictures[0, ..., ::-1])
        infos.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for value in COLOURS:
            ys, xs = np.nonzero(labels[0] == value)
            top, bottom, left, right = (
                float(n) for n in (ys.min(), ys.max() + 1, xs.min(), xs.max() + 1)
            )
            annotations.append(
                {
                    "id": 10 * image_id + value,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    partitions = {"refcoco": ["unc", "google"], "refcoco+": ["unc"], "refcocog": ["umd", "google"]}
    for name, kinds in partitions.items():
        write_json(
            root / name / "instances.json",
            {"info": {}, "images": infos, "annotations": annotations, "categories": []},
        )
        for kind in kinds:
            refs = []
            for number, annotation in enumerate(annotations):
                last = annotation["image_id"] == 100 + images - 1
                split = "val" if last and (kind != "google" or number % 2) else "train"
                sentences = [
                    {"sent_id": 10 * number, "sent": "left red box", "raw": "LEFT red box"},
                    {"sent_id": 10 * number + 1, "sent": "box on the right", "raw": "Box"},
                ]
                refs.append(
                    {
                        "ref_id": number,
                        "ann_id": annotation["id"],
                        "image_id": annotation["image_id"],
                        "category_id": 1,
                        "file_name": f"COCO_train2014_{number}_0.jpg",
                        "split": split,
                        "sentences": [s | {"tokens": s["sent"].split()} for s in sentences],
                        "sent_ids": [s["sent_id"] for s in sentences],
                    }
                )
            # Protocol 0, as Python 2 wrote the published files.
            (root / name / f"refs({kind}).p").write_bytes(pickle.dumps(refs, protocol=0))
    return root
