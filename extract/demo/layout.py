"""Write scenes of the demo world as a data set in the MeViS layout."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cache_schema.host.cli import InputError
from extract.datasets.records import RLE, encode_mask
from extract.demo.world import FRAMES, Scene, make_scene

#: Split -> its number in the seed. `valid` has expressions but, as in MeViS, no masks.
SPLITS = {"train": 1, "valid_u": 2, "valid": 3}
#: As `map`: a function and its arguments to its results, in their order.
Each = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


def write_split(
    root: Path, split: str, videos: int, seed: int, sentences_per_tag: int = 2, *, each: Each = map
) -> bool:
    """Write one split, or leave it if the same one is there already.

    Args:
        root: folder of the data set; the split becomes ``root/split``.
        split: one of `SPLITS`.
        videos: number of videos.
        seed: seed of the world; every file is a pure function of it and of the other arguments.
        sentences_per_tag: at most this many expressions of each tag in a video.
        each: does the same in several processes, perhaps.

    Returns:
        Whether it was written now.

    Raises:
        InputError: something else is in the way, or the folder cannot be written.
    """
    wanted = dict(videos=videos, seed=seed, sentences_per_tag=sentences_per_tag)
    target, record = root / split, root / split / "world.json"
    try:
        if record.is_file() and json.loads(record.read_text()) == wanted:
            return False
        if target.exists():
            raise InputError(
                f"{target} holds other data than {wanted}: move it or choose another root"
            )
        building = root / f".{split}.partial"
        shutil.rmtree(building, ignore_errors=True)
        _write(building, split, each, **wanted)
        (building / "world.json").write_text(json.dumps(wanted))
        os.replace(building, target)
    except OSError as error:
        raise InputError(f"cannot write the demo data to {target}: {error.strerror}") from error
    return True


def _write(
    folder: Path, split: str, each: Each, videos: int, seed: int, sentences_per_tag: int
) -> None:
    expressions: dict[str, Any] = {}
    masks: dict[str, list[RLE | None]] = {}  # None where the object is not to be seen
    draw = partial(_draw, folder / "JPEGImages", split, seed, sentences_per_tag)
    drawn = each(draw, range(videos))
    for video, scene, rles in tqdm(drawn, f"drawing {split}", videos, unit="video", disable=None):
        first = len(masks)
        masks |= {str(first + n): own for n, own in enumerate(rles)}
        expressions[video] = _entry(scene, first)
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": expressions}))
    if split != "valid":
        (folder / "mask_dict.json").write_text(json.dumps(masks))


def _draw(
    folder: Path, split: str, seed: int, sentences_per_tag: int, number: int
) -> tuple[str, Scene, list[list[RLE | None]]]:
    """Write the frames of a video; returns its name, its scene and its objects' masks."""
    scene = make_scene((seed, SPLITS[split], number), sentences_per_tag=sentences_per_tag)
    frames, shown = scene.draw()
    video = f"{split}_{number:04d}"
    (folder / video).mkdir(parents=True)
    for t, frame in enumerate(frames):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        cv2.imwrite(str(folder / video / f"{t:05d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    objects = shown.swapaxes(0, 1)
    rles = [[encode_mask(mask) if mask.any() else None for mask in own] for own in objects]
    return video, scene, rles


def _entry(scene: Scene, first: int) -> dict[str, Any]:
    """One video's part of ``meta_expressions.json``; ``tag`` is the demo's own addition."""
    return {
        "frames": [f"{t:05d}" for t in range(FRAMES)],
        "expressions": {
            str(number): {
                "exp": sentence.text,
                "obj_id": list(sentence.targets),
                "anno_id": [first + n for n in sentence.targets],
                "tag": sentence.tag,
            }
            for number, sentence in enumerate(scene.sentences)
        },
    }
