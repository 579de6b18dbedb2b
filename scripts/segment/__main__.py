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

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.loading import loading
from cache_schema.host.lookup import existing, find_config
from extract.arguments import ENDINGS, PRESETS
from train.options import DEVICE
from train.places import find_checkpoint

DEMO = Path("work/demo")


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    if arguments.video is None:
        _take_the_demo(arguments)
    _check(arguments)
    with loading():  # takes seconds: not before all is there
        from scripts.segment.run import run

    run(arguments)
    return 0


def _take_the_demo(arguments: Namespace) -> None:
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
    arguments.checkpoint = arguments.checkpoint or str(DEMO / "heads/select")
    arguments.out = arguments.out or str(DEMO / "segment")


def _check(arguments: Namespace) -> None:
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
    if arguments.top and arguments.sigma is not None:
        raise InputError("--top 1 takes the best whatever its score: leave --sigma out, or --top")
    existing(arguments.video, "the video")
    find_checkpoint(arguments.checkpoint)
    if arguments.config is not None:
        find_config(arguments.config, PRESETS, "configuration")
    kept = any(Path(arguments.out).glob("cache/*/manifest.jsonl"))  # which may be of this video
    if arguments.weights and Path(arguments.weights).suffix in ENDINGS and not kept:
        existing(arguments.weights, "--weights")


def _parser() -> ArgumentParser:
    parser = cli.parser("scripts.segment", __doc__)
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
    add("--codec", help="of the mask features on the disk (default: float16)")
    add("--config", help="preset of stage one, where the checkpoint does not know it")
    add("--encoder", metavar="NAME", help="folder of the text encoder, where there is no network")
    add("--tagger", metavar="NAME", help="folder of the tagger, where there is no network")
    add("--device", default="auto", help=DEVICE)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
