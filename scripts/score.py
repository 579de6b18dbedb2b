"""Score anybody's masks: J, F and J&F of PNG files in the layout of a MeViS submission.

    python -m scripts.score --dataset mevis --root D --split S --pred DIR_OR_ZIP --out metrics.json

The predictions are ``<video>/<expression>/<frame>.png``, what is not zero is object. As in the
benchmark's own evaluation a video without any predictions scores 0.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache_schema import cli
from cache_schema.cli import InputError
from extract.datasets.mevis import MeViS
from extract.datasets.records import SourceVideo
from train.evaluation import report
from train.evaluation.mevis import Score, Tally, Truth
from train.evaluation.pngs import read_mask


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="mevis", choices=["mevis"])
    parser.add_argument("--root", required=True, help="folder of the splits")
    parser.add_argument("--split", default="valid_u", help="default: valid_u")
    parser.add_argument("--pred", required=True, help="folder or zip of the masks")
    parser.add_argument("--out", required=True, help="metrics.json to write")
    arguments = parser.parse_args(argv)

    data = MeViS(arguments.root, arguments.split)
    if data.masks is None:
        raise InputError(f"{data.folder} has no mask_dict.json, so there is no truth to score with")
    predictions = _open(Path(arguments.pred))
    scores: dict[str, Score] = {}
    tags, texts = {}, {}
    for video in tqdm(data, total=len(data), unit="video", leave=False):
        of_video = score_video(video, predictions)
        for expression, score in zip(video.expressions, of_video, strict=True):
            key = f"{video.id}/{expression.id}"
            scores[key], tags[key], texts[key] = score, expression.tag, expression.text
    content = report.metrics(scores, {}, tags=tags, texts=texts)
    report.write_metrics(Path(arguments.out), content)
    print(f"{report.table(content, name='score')}\n\nmetrics: {arguments.out}")
    return 0


def _open(path: Path) -> Path | zipfile.Path:
    if path.is_dir():
        return path
    if path.is_file() and zipfile.is_zipfile(path):
        return zipfile.Path(path)
    raise InputError(f"{path} is neither a folder nor a zip file; give the masks to score")


def score_video(video: SourceVideo, predictions: Path | zipfile.Path) -> list[Score]:
    """Scores of a video's expressions.

    Raises:
        InputError: a mask is missing, broken or of another size than the truth.
    """
    if not (predictions / video.id).is_dir():
        return [Score(0.0, 0.0)] * len(video.expressions)
    tally, truth = Tally(len(video.expressions)), None
    for t, frame in enumerate(video.frame_names):
        masks = [
            read_mask(predictions / video.id / expression.id / f"{frame}.png")
            for expression in video.expressions
        ]
        if len({mask.shape for mask in masks}) > 1:
            raise InputError(
                f"the masks of video {video.id}, frame {frame} are of several sizes: "
                f"{sorted({mask.shape for mask in masks})}"
            )
        if truth is None:
            ids = [expression.annotation_ids for expression in video.expressions]
            truth = Truth(video.objects, ids, size=masks[0].shape, where=video.id)
        tally.add(truth.frame(t), np.stack(masks))
    return tally.scores()


if __name__ == "__main__":
    sys.exit(cli.run(main))
