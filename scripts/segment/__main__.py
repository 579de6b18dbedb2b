"""Masks of everything that sentences mean, in anybody's own video.

    python -m scripts.segment VIDEO "sentence" ["another" ...] \\
        --weights W --checkpoint RUN --out DIR
    python -m scripts.segment                 # the demo's models on a clip of the demo world

VIDEO is a video file or a folder of images. For each sentence DIR gets a folder with
``overlay.mp4`` (H.264, without sound), ``masks/<frame>.png``, ``masks.json`` (COCO's run lengths),
``scores.json`` (every candidate) and ``sheet.png``. What the frozen segmenter said of the video
stays in DIR/cache: another sentence on it needs neither the segmenter nor its weights.

The checkpoint knows its head, its segmenter and its text models. What comes out is what they
learned: the demo's models know moving shapes and nothing else; for real videos train a head on
MeViS with published weights.
"""

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.reader import CacheReader
from cache_schema.records import Expression
from extract.datasets.one_video import OneVideo
from extract.datasets.records import SourceExpression, SourceVideo
from extract.pipeline.reading import encode_expressions
from extract.pipeline.run import extract
from scripts.segment.results import Results
from scripts.segment.trained import Trained
from train.commands import pick_device
from train.data.sizes import common_sizes
from train.heads import find_head
from train.inference import predict_video
from train.replay import keep, replay
from train.runner import load_head

DEMO = Path("work/demo")


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    if arguments.video is None:
        _take_the_demo(arguments)
    _check(arguments)
    start = time.perf_counter()
    trained = Trained(Path(arguments.checkpoint))
    device = pick_device(arguments.device)
    torch.set_num_threads(model_threads())
    video = OneVideo(arguments.video, stride=arguments.stride, max_frames=arguments.max_frames)
    reader = cache_of(video, trained, arguments, device)
    expressions = encoded(video, trained, arguments)
    needs = find_head(trained.config.model.type).needs()
    sizes = common_sizes([reader], needs, text_dim=len(expressions[0].sentence))
    head = load_head(trained.config, trained.path, sizes, device)
    (name,) = video.ids
    said = [
        (scores, queries)
        for _, _, scores, queries in predict_video(
            reader, {"": head}, name, expressions, device=device
        )
    ]
    sigma = trained.config.evaluation.sigma if arguments.sigma is None else arguments.sigma
    rule = "threshold" if arguments.top is None else "top1"
    kept = [keep(scores, rule=rule, sigma=sigma) for scores, _ in said]
    groups = [queries[chosen] for (_, queries), chosen in zip(said, kept, strict=True)]
    out, seconds = Path(arguments.out), video.seconds()
    with ExitStack() as stack:
        results = [
            stack.enter_context(Results(out, number, sentence, video.video(name), seconds))
            for number, sentence in enumerate(arguments.sentences, 1)
        ]
        frames = replay(reader.video(name), groups, codec=reader.codec, device=device)
        for t, masks in enumerate(frames):
            image = video.video(name).read_frame(t)
            for result, mask in zip(results, masks, strict=True):
                result.add(image, mask)
        for result, (scores, _), chosen in zip(results, said, kept, strict=True):
            result.finish(scores, chosen, rule=rule, sigma=sigma)
    _print(results, said, kept)
    print(f"{len(seconds)} frames, {time.perf_counter() - start:.1f} s; everything is in {out}")
    return 0


def cache_of(
    video: OneVideo, trained: Trained, arguments: argparse.Namespace, device: torch.device
) -> CacheReader:
    """What the segmenter says of the video, from the folder where it was kept or by asking it."""
    (name,) = video.ids
    (digest,) = video.fingerprint().values()
    folder = Path(arguments.out) / "cache" / digest[:16]
    if not (folder / "manifest.jsonl").exists():
        thinning = {"stride": arguments.stride, "max_frames": arguments.max_frames}
        summary = extract(
            trained.extraction(arguments.config, arguments.codec, thinning),
            data_root=Path(arguments.video),
            split=None,
            weights=trained.weights(arguments.weights),
            out=folder,
            device=str(device),
        )
        for reason in summary.failures.values():
            raise InputError(reason)
    reader = CacheReader(folder)
    trained.check_cache(reader)
    return reader


def encoded(video: OneVideo, trained: Trained, arguments: argparse.Namespace) -> list[Expression]:
    """The sentences as a head reads them."""
    text = trained.text(arguments.encoder, arguments.tagger)
    (name,) = video.ids
    source = video.video(name)
    asked = SourceVideo(
        id=name,
        frame_names=source.frame_names,
        frames=source.frames,
        expressions=[
            SourceExpression(id=str(n), text=sentence, object_ids=[], annotation_ids=[])
            for n, sentence in enumerate(arguments.sentences, 1)
        ],
    )
    return encode_expressions(text, asked)


def _take_the_demo(arguments: argparse.Namespace) -> None:
    """A clip of the demo world with some of its sentences, and the head that the demo trained."""
    listed = DEMO / "data" / "valid_u" / "meta_expressions.json"
    try:
        videos = json.loads(listed.read_text("utf-8"))["videos"]
        name = min(videos)
        sentences = [e["exp"] for e in videos[name]["expressions"].values()]
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"without a video the demo's is taken, and {listed} cannot be read: run `make demo` "
            'first, or give VIDEO "sentence"'
        ) from None
    arguments.video = str(DEMO / "data" / "valid_u" / "JPEGImages" / name)
    arguments.sentences = list(dict.fromkeys(sentences))
    arguments.checkpoint = arguments.checkpoint or str(DEMO / "run")
    arguments.out = arguments.out or str(DEMO / "segment")


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.sentences:
        raise InputError(
            f'{arguments.video}: say what to look for, as in "the bird that flies away"'
        )
    for name in ("checkpoint", "out"):
        if getattr(arguments, name) is None:
            raise InputError(f"--{name} is missing; see --help")
    if arguments.sigma is not None and not 0 <= arguments.sigma <= 1:
        raise InputError(f"--sigma {arguments.sigma}: a score is from 0 to 1, and so is sigma")
    if arguments.max_frames < 0 or arguments.stride < 1:
        raise InputError("--stride is 1 or more, --max-frames 0 (all) or more")


def _print(
    results: list[Results], said: list[tuple[np.ndarray, np.ndarray]], kept: list[np.ndarray]
) -> None:
    """A line a sentence."""
    width = max(len(result.sentence) for result in results)
    print(f"{'sentence':{width}}  objects  best score  frames with a mask")
    for result, (scores, _), chosen in zip(results, said, kept, strict=True):
        shown = f"{result.shown} of {result.frames}"
        print(f"{result.sentence:{width}}  {len(chosen):7}  {scores.max():10.2f}  {shown:>18}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.segment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="a video file, or a folder of images")
    add("sentences", nargs="*", metavar="SENTENCE", help="what to look for")
    add("--checkpoint", metavar="RUN", help="a trained head: a file, or a work folder's latest")
    add("--weights", metavar="W", help="of the frozen segmenter; the first time for each video")
    add("--out", metavar="DIR", help="where everything goes")
    add("--stride", type=int, default=1, metavar="N", help="look at every N-th frame only")
    add("--max-frames", type=int, default=0, metavar="N", help="look at N frames at most")
    add("--sigma", type=float, metavar="S", help="keep candidates above (default: the head's)")
    add("--top", type=int, choices=[1], help="keep the best candidate and no other")
    add("--codec", default="float16", help="of the mask features on the disk (default: float16)")
    add("--config", help="preset of stage one, where the checkpoint does not know it")
    add("--encoder", metavar="NAME", help="folder of the text encoder, where there is no network")
    add("--tagger", metavar="NAME", help="folder of the tagger, where there is no network")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
