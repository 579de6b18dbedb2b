"""Damaged files of every kind and odd settings end in a sentence, or are read; in nothing else.

`FUZZ_CASES` is how many (300). More show counts of how they ended, by kind; run them alone:

    FUZZ_CASES=10000 python -m pytest tests/test_fuzz.py -s
"""

import json
import os
import pickle
import random
import runpy
import shutil
import struct
import tarfile
import zipfile
import zlib
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cache_schema import codec_file
from cache_schema.__main__ import main as cache_main
from cache_schema.codecs import LOWRANK
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.options import Options
from cache_schema.manifest import MANIFEST
from cache_schema.reader import CacheReader
from cache_schema.verify import _read_small
from extract.arguments import PRESETS
from extract.config import KEYS, load_config
from extract.datasets import open_dataset
from extract.datasets.archives import Archive
from extract.datasets.check import check_split
from extract.datasets.frames import VideoDecoder, read_image
from extract.datasets.palette import read_objects
from extract.segmenters.base import configure, find_segmenter
from extract.segmenters.vita.weights import read_checkpoint as read_weights
from scripts import report, submit
from scripts import score as score_masks
from tests import datasets_standins as standins
from tests import fuzz
from tests.fuzz import Kind
from tests.synthetic import make_codec, write_cache
from tests.train.protocol_caches import SIZES, write_head
from tests.train.test_training import CONFIG
from train import evaluate
from train.__main__ import main as train_main
from train.checkpoint import read_checkpoint
from train.config import known_keys, load_row
from train.config import load_config as load_train_config
from train.evaluation.pngs.files import MaskFiles
from train.evaluation.pngs.png import PNG, grey_values, labels, object_pixels
from train.heads import build_head
from train.sweeping.run import _read_scores
from train.trainee import DROPPED, why_dropped

CASES = int(os.environ.get("FUZZ_CASES", 300))
HEADS = ("dmvs", "dshmp", "select", "trajectory", "vita_rvos")
SETTINGS = {"segmenter": {"name": "synthetic", "seed": 0}, "codec": {"name": LOWRANK, "rank": 6}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files of every kind."""
    base = tmp_path_factory.mktemp("sound")
    write_cache(base / "cache", num_videos=2, num_frames=3, num_expressions=1)
    write_cache(base / "coded", num_videos=1, num_frames=2, codec=LOWRANK)
    codec_file.save(base / "coded", make_codec(LOWRANK), SETTINGS)
    (base / "small.py").write_text(CONFIG)
    assert train(base, base / "run", 2) == 0
    write_head(base)
    assert evaluated(base, base / "out", "--checkpoint", base / "iter_0.pth", "--save-masks") == 0
    standins.make_mevis(base / "mevis", videos=1, frames=2)
    standins.make_ref_youtube_vos(base / "ytvos", frames=2)
    standins.make_ref_davis(base / "davis", raw=True, frames=2)
    standins.make_refcoco(base / "coco")
    clip = cv2.VideoWriter(str(base / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (40, 30))
    for _ in range(3):
        clip.write(np.full((30, 40, 3), 90, np.uint8))
    clip.release()
    with tarfile.open(base / "a.tar", "w") as tar, zipfile.ZipFile(base / "a.zip", "w") as packed:
        for path in (base / "out" / "masks").rglob("*.png"):
            tar.add(path, str(path.relative_to(base / "out" / "masks")))
            packed.write(path, str(path.relative_to(base / "out" / "masks")))
    (base / "weights.pkl").write_bytes(pickle.dumps({"model": {"a": np.arange(6.0)}}, protocol=2))
    (base / "scores.jsonl").write_text('["v", {"0": {"JF": [0.5]}}]\n["w", {}]\n')
    return base


def train(base: Path, run: Path, iterations: int, *options: str) -> int:
    given = [f"train.max_iters={iterations}", "train.checkpoint_interval=1", "data.num_workers=0"]
    arguments = [base / "small.py", "--cache", base / "cache", "--work-dir", run, "--resume"]
    options = ["--device", "cpu", "--cfg-options", *given, *options]
    return cli.run(train_main, [*map(str, arguments), *options])


def evaluated(base: Path, out: Path, *source: str | Path) -> int:
    arguments = [base / "config.py", "--cache", base / "cache", "--out", out, *source]
    return evaluate.main([*map(str, arguments), "--device", "cpu"])


# What writes damaged files: into the folder of a case, from sound ones.


def copied(source: Path, damage: Callable, names: str, place: Path, rng: random.Random) -> str:
    """A copy of a folder or file with one of its files damaged."""
    whole = shutil.copytree(source, place / "x") if source.is_dir() else place / source.name
    if not source.is_dir():
        shutil.copy(source, whole)
    files = sorted(whole.rglob(names)) if source.is_dir() else [whole]
    damage(path := rng.choice(files), rng)
    return path.name


def lines(path: Path, rng: random.Random) -> None:
    """A line of JSON lines is changed, gone, doubled, or another."""
    rows = path.read_text().splitlines()
    at = rng.randrange(len(rows))
    match rng.randrange(5):
        case 0:
            rows[at] = rng.choice(["", "{", "[]", "5", "[" * 9999, '{"id": "a"}', "9" * 5000])
        case 1:
            rows[at:at] = [rows[at]]
        case 2:
            del rows[at]
        case _:
            content = json.loads(rows[at])
            if isinstance(content, dict):
                content.pop("crc32", None)
            content, _ = fuzz.mutated([content], rng)
            rows[at] = json.dumps(content[0] if content else 0, default=repr)
    path.write_text("\n".join(rows) + "\n")
    if rng.random() < 0.2:
        fuzz.damage_bytes(path, rng)


def text(path: Path, rng: random.Random) -> None:
    """Words of a text file."""
    words = path.read_text().split(" ")
    words[rng.randrange(len(words))] = rng.choice([*fuzz.WORDS, "", "\n", "1", '"'])
    path.write_text(" ".join(words), "utf-8", errors="surrogatepass")


def image(path: Path, rng: random.Random) -> None:
    """Bytes, or the size and kind in the header of a PNG."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5 or data[:4] != b"\x89PNG":
        return fuzz.damage_bytes(path, rng)
    at = rng.choice([16, 20, 24, 25, 26, 27, 28])
    value = rng.choice([0, 1, 255, 60_000, (1 << 31) - 1])
    data[at : at + (4 if at < 24 else 1)] = struct.pack(">I", value)[-4 if at < 24 else -1 :]
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def archive(path: Path, rng: random.Random) -> None:
    """Names, fields of headers and bytes of an archive."""
    data = path.read_bytes()
    if path.suffix == ".zip" and rng.random() < 0.6:
        mark, fields = rng.choice([(b"PK\3\4", (4, 6, 8, 14, 18, 22, 26, 28)),
                                   (b"PK\1\2", (6, 8, 10, 16, 20, 24, 28, 30, 38, 42)),
                                   (b"PK\5\6", (8, 10, 12, 16, 20))])  # fmt: skip
        at = data.index(mark) + rng.choice(fields)
        value = rng.choice([b"\xff\xff\xff\xff", b"\0\0", b"\x63", b"\1", rng.randbytes(2)])
        data = data[:at] + value + data[at + len(value) :]
    elif rng.random() < 0.5:
        old, new = b"00000.png", rng.choice([b"../../.pn", b"\0\0\0\0\0\0\0\0\0", b"\xff" * 9])
        data = data.replace(old, new, rng.choice([1, 2]))
    else:
        return fuzz.damage_bytes(path, rng)
    path.write_bytes(data)


def weights(path: Path, rng: random.Random) -> None:
    """A checkpoint of torch's with another value, as a zip or in the old way; or bytes."""
    if rng.random() < 0.3:
        return fuzz.damage_bytes(path, rng)
    content, _ = fuzz.mutated(torch.load(path, weights_only=True), rng)
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.8)


class Runs:
    """Code in a pickle, which nobody is to run."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/never",)


def pickled(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.5:
        return fuzz.damage_bytes(path, rng)
    content = pickle.loads(path.read_bytes())
    content, _ = fuzz.mutated(content, rng)
    if rng.random() < 0.2:
        content = [content, Runs()]
    path.write_bytes(pickle.dumps(content, protocol=rng.choice([0, 2, 4])))


# What reads them, as commands do.


def read_cache(place: Path, what: str) -> int:
    status = cache_main(["verify", str(place / "x")])
    cache_main(["info", str(place / "x"), "--json"])
    reader = CacheReader(place / "x")
    for video_id in reader.video_ids:
        _read_small(reader, video_id)
        video = reader.video(video_id)
        video.frame_queries(range(video.num_frames))
        video.mask_features(range(video.num_frames))
    codec_file.load(place / "x", SETTINGS)
    return status


def read_dataset(name: str, place: Path, what: str) -> int:
    split = "val" if name == "ref_davis" else "train"
    found = check_split(name, place / "x", split, full=True)
    for video in open_dataset(name, place / "x", split):
        video.read_frame(0)
    return len(found.wrong)


def read_masks(base: Path, command: Callable, name: str, place: Path, what: str) -> int:
    """Score or check masks of the cache, or of MeViS."""
    where = ["--root", str(base / "mevis"), "--split", "valid_u"]
    if command is submit.main:
        where = ["--check", str(place / name), "--cache", str(base / "cache")]
    else:
        where += ["--pred", str(place / name), "--out", str(place / "m.json")]
    return command([*where, "--workers", "1"])


def read_png(place: Path, what: str) -> None:
    path = next(place.iterdir())
    errors = []
    for read in (
        lambda: read_image(path, video_id="v"),
        lambda: read_objects([path], video_id="v"),
        lambda: [use(PNG.parse(path.read_bytes())) for use in (object_pixels, labels, grey_values)],
    ):
        try:
            read()
        except (InputError, ValueError) as error:
            errors.append(error)
    if errors:
        raise InputError(str(errors[0]))


def read_clip(place: Path, what: str) -> None:
    decoder = VideoDecoder(place / "a.avi", video_id="v")
    for index in range(decoder.count()):
        decoder.read(index)


def read_archive(place: Path, what: str) -> None:
    path = next(place.iterdir())
    found = Archive(path)
    for name in list(found._names):
        try:
            found.read(name)
        except OSError as error:
            raise InputError(str(error)) from None


def read_zip_of_masks(place: Path, what: str) -> None:
    found = MaskFiles(place / "a.zip")
    for name in found.names():
        found.pixels(name, object_pixels, None)


def resume(base: Path, place: Path, what: str) -> int:
    (place / "run").mkdir()
    (place / "iter_2.pth").rename(place / "run" / "iter_2.pth")
    return train(base, place / "run", 3)


def use_weights(base: Path, place: Path, what: str) -> int:
    source = ["--checkpoint", place / "iter_0.pth", "--allow-other-models"]
    return evaluated(base, place / "out", *source)


def use_predictions(base: Path, place: Path, what: str) -> int:
    return evaluated(base, place / "out", "--from-predictions", place / "predictions.h5")


def use_metrics(base: Path, place: Path, what: str) -> int:
    arguments = ["--cache", base / "cache", "--evaluation", place / "x", "--out", place / "r.html"]
    return report.main([*map(str, arguments), "--num", "1"])


# Settings: keys and words of the command line.

VALUES = [repr(value) for value in fuzz.ODD] + fuzz.WORDS[:3] + ["1,2", "(1,2,3)", "[[0]]", "nan"]
VALUES += ["1e300", "-1e9", "1" * 5000, "()", "[" * 3000 + "]" * 3000, "int8", "os:system", "64"]


#: What looks right: least, odd and most numbers.
NUMBERS = ["0", "1", "2", "3", "7", "33", "1000", "65536", "1000000000", "0.5", "1e-30", "1e30"]
NUMBERS += ["-1", "True", "None", "1,2,3,4", "0,0,0", "video", "float16"]


def option(keys: list[str], rng: random.Random) -> list[str]:
    words = []
    for key in rng.sample(keys, rng.choice([1, 1, 2])):
        key = rng.choice([key] * 6 + [f"{key}.x", key[:-1]])
        words.append(f"{key}={rng.choice(rng.choice([NUMBERS, VALUES]))}")
    return words


def option_of_extract(place: Path, rng: random.Random) -> list[str]:
    preset = rng.choice(["demo", "demo", "mevis_swinl", "videomt_small_ytvis"])
    values = runpy.run_path(str(PRESETS / f"{preset}.py"))
    values = {name: value for name, value in values.items() if name in KEYS}
    return [preset, *option([".".join(map(str, p)) for p in fuzz.places(values)], rng)]


def option_of_train(place: Path, rng: random.Random) -> list[str]:
    head = rng.choice(HEADS)
    keys = [f"{section}.{name}" for section, own in known_keys(head).items() for name in own]
    return [f"model.type={head}", *option(keys, rng)]


def merged(words: list[str]) -> dict:
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=Options)
    return parser.parse_args(["--cfg-options", *words]).cfg_options


def use_extract(base: Path, place: Path, words: list[str]) -> None:
    config = load_config(words[0], merged(words[1:]))
    kind = find_segmenter(config.segmenter_type)
    sizes = configure(kind.Config, config.segmenter)
    open_dataset(config.dataset, base / "mevis", "train", config.dataset_settings)
    resize = config.resize or {"short": None, "max": None}
    with torch.device("meta"):
        if words[0] == "demo":
            kind(sizes).preprocessor(resize["short"], resize["max"])


def use_train(base: Path, place: Path, words: list[str]) -> None:
    config = load_train_config(base / "config.py", merged(words))
    with torch.device("meta"):
        build_head(config, SIZES)


def use_both(base: Path, place: Path, words: list[str]) -> int:
    return train(base, place / "run", 1, *words)


def python_file(path: Path, rng: random.Random) -> None:
    """A configuration as text: lines doubled, gone, or of something else."""
    rows = path.read_text().splitlines()
    row = rng.choice(["1/0", "model = 5", "x" * 99, "\tx", "import nothing", "raise KeyError", "]"])
    rows[rng.randrange(len(rows))] = rng.choice([row, "", rng.choice(rows)])
    path.write_text("\n".join(rows))


def use_python_file(place: Path, what: str) -> None:
    for load in (load_train_config, load_row, load_config):
        load(place / "small.py")


def kinds(base: Path) -> list[Kind]:
    hdf5, bytes_, json_ = fuzz.damage_hdf5, fuzz.damage_bytes, fuzz.mutated_json

    def of(source: str, damage: Callable, names: str = "*") -> Callable:
        return partial(copied, base / source, damage, names)

    mevis, ytvos = partial(read_dataset, "mevis"), partial(read_dataset, "ref_youtube_vos")
    return [
        Kind("shard", 12, of("cache", hdf5, "shard-*.h5"), read_cache),
        Kind("shard of a fitted codec", 6, of("coded", hdf5, "*.h5"), read_cache),
        Kind("manifest", 6, of("cache", lines, MANIFEST), read_cache),
        Kind("MeViS", 8, of("mevis", json_, "train/*.json"), mevis),
        Kind("frames of MeViS", 3, of("mevis", image, "train/*/*/*.jpg"), mevis),
        Kind("Ref-YouTube-VOS", 5, of("ytvos", json_, "train/*.json"), ytvos),
        Kind("its masks", 3, of("ytvos", image, "train/*/*/*.png"), ytvos),
        Kind("Ref-DAVIS17", 4, of("davis", text, "*.txt"), partial(read_dataset, "ref_davis")),
        Kind("RefCOCO", 4, of("coco", json_, "refcoco/instances.json"),
             partial(read_dataset, "refcoco")),
        Kind("its references", 4, of("coco", pickled, "refcoco/refs(unc).p"),
             partial(read_dataset, "refcoco")),
        Kind("image", 8, of("out/masks", image, "*.png"), lambda place, what: read_png(
            next((place / "x").rglob(what)).parent, what)),
        Kind("video file", 3, of("a.avi", bytes_), read_clip),
        Kind("zip of frames", 4, of("a.zip", archive), read_archive),
        Kind("tar of frames", 4, of("a.tar", archive), read_archive),
        Kind("zip of masks", 4, of("a.zip", archive), read_zip_of_masks),
        Kind("submission", 2, of("a.zip", archive),
             partial(read_masks, base, submit.main, "a.zip")),
        Kind("masks to be scored", 2, of("out/masks", image, "*.png"),
             partial(read_masks, base, score_masks.main, "x")),
        Kind("checkpoint", 6, of("run/iter_2.pth", weights),
             lambda place, what: read_checkpoint(place / "iter_2.pth") and None),
        Kind("checkpoint to be resumed", 3, of("run/iter_2.pth", weights), partial(resume, base)),
        Kind("weights of a head", 2, of("iter_0.pth", weights), partial(use_weights, base)),
        Kind("weights of detectron2", 4, of("weights.pkl", pickled),
             lambda place, what: read_weights(place / "weights.pkl") and None),
        Kind("predictions", 5, of("out/predictions.h5", hdf5), partial(use_predictions, base)),
        Kind("scores of a sweep", 2, of("scores.jsonl", lines),
             lambda place, what: _read_scores(place / "scores.jsonl") and None),
        Kind("metrics", 3, of("out", json_, "metrics.json"), partial(use_metrics, base)),
        Kind("why a head was dropped", 1, dropped,
             lambda place, what: why_dropped(place, {}) and None),
        Kind("configuration", 3, of("small.py", python_file), use_python_file),
        Kind("options of stage one", 14, option_of_extract, partial(use_extract, base)),
        Kind("options of stage two", 12, option_of_train, partial(use_train, base)),
        Kind("options in training", 5, option_of_train, partial(use_both, base)),
    ]  # fmt: skip


def dropped(place: Path, rng: random.Random) -> str:
    (place / DROPPED).write_text('{"reason": "its loss is NaN"}')
    fuzz.damage_bytes(place / DROPPED, rng)
    return DROPPED


def test_every_kind_of_file_and_setting(base: Path, tmp_path: Path) -> None:
    every = kinds(base)
    total, bad = Counter(), []
    for kind in every:
        cases = max(1, round(CASES * kind.share / sum(each.share for each in every)))
        counts, wrong = fuzz.run(kind, cases, tmp_path)
        total += counts
        bad += wrong
        if CASES > 300:
            print(f"{kind.name:26}", *(f"{name} {counts[name]}" for name in fuzz.OUTCOMES))
            print(*wrong[:40], sep="\n", end="\n" * bool(wrong), flush=True)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
    print("all", *(f"{name} {total[name]}" for name in fuzz.OUTCOMES))
    assert not bad, "\n".join(bad[:40])
    assert total["clean"] > total["accepted"] / 4 > 0
