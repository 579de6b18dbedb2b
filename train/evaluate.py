"""Predict from whole videos, rebuild the masks, score them: J, F and J&F.

    python -m train.evaluate CONFIG --cache CACHE --checkpoint CKPT --out DIR [--controls]
    python -m train.evaluate CONFIG --cache CACHE --from-predictions FILE --out DIR --sigma 0.5

writes DIR/predictions.h5, DIR/metrics.json and, with --save-masks, DIR/masks in the layout of the
benchmark (`train.evaluation.pngs`). The protocol is that of the cache's data set: Ref-DAVIS17 is
scored as DAVIS scores (`train.evaluation.davis`), all others expression by expression.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from tqdm import tqdm

from cache_schema import cli
from cache_schema.cli import InputError
from cache_schema.fingerprint import file_sha256
from cache_schema.reader import CacheReader
from train.__main__ import pick_device
from train.checkpoint import latest_checkpoint
from train.config import Options, load_config
from train.evaluation import controls, davis_report, report
from train.evaluation.cache_scores import (
    DAVIS,
    ONE_OBJECT,
    Task,
    check_origin,
    has_truth,
    list_expressions,
    score_davis,
    score_expressions,
)
from train.evaluation.records import Item
from train.inference import predict_video, read_expression
from train.models.dmvs import DMVS
from train.predictions import Predictions, PredictionsWriter
from train.replay import keep
from train.runner import load_head

NUM_SHUFFLES = 3


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    if arguments.sigma is not None and not 0 <= arguments.sigma <= 1:
        raise InputError(f"--sigma {arguments.sigma}: a score is from 0 to 1, and so is sigma")
    config = load_config(arguments.config, arguments.cfg_options)
    reader = CacheReader(arguments.cache)
    device = pick_device(arguments.device)
    videos = list_expressions(reader)
    scored = has_truth(reader)
    out, shuffled = Path(arguments.out), []
    if arguments.from_predictions:
        predictions = Predictions(arguments.from_predictions)
        sigma = predictions.sigma if arguments.sigma is None else arguments.sigma
    else:
        checkpoint = Path(arguments.checkpoint)
        checkpoint = latest_checkpoint(checkpoint) or checkpoint
        head = load_head(config, checkpoint, device)
        _check_sizes(config, reader, videos)
        sigma = config.evaluation.sigma if arguments.sigma is None else arguments.sigma
        with PredictionsWriter(
            out / "predictions.h5",
            fingerprint=reader.fingerprint_hex,
            checkpoint=file_sha256(checkpoint),
            rule=pick_rule(config, reader.dataset),
            sigma=sigma,
        ) as writer:
            for item, scores, embeds in predict(reader, head, videos, device=device):
                writer.add(item.video, item.expression, scores, embeds)
        predictions = Predictions(writer.path)
        if arguments.controls and scored:
            how = {"rule": predictions.rule, "sigma": sigma, "device": device}
            shuffled = [
                predict_shuffled(reader, head, videos, seed=seed, **how)
                for seed in range(NUM_SHUFFLES)
            ]
    content = evaluate(
        reader,
        predictions,
        videos,
        sigma=sigma,
        has_truth=scored,
        shuffled=shuffled,
        with_controls=arguments.controls,
        masks=out / "masks" if arguments.save_masks else None,
        device=device,
    )
    _close(arguments, content, predictions, videos)
    return 0


def _close(
    arguments: argparse.Namespace,
    content: dict | None,
    predictions: Predictions,
    videos: Mapping[str, Sequence[Item]],
) -> None:
    """Write metrics.json, print the table and where everything lies."""
    out = Path(arguments.out)
    if content is not None:
        report.write_metrics(out / "metrics.json", content)
        if "annotators" in content:
            print(f"{davis_report.table(content)}\n")
        else:
            print(f"{report.table(content)}\n{report.accuracy_lines(content)}")
        if share := report.share_of_best(content):
            print(f"{share}\n")
        if arguments.controls and arguments.from_predictions:
            print("The control with shuffled text needs the head: give --checkpoint.\n")
        print(f"metrics:     {out / 'metrics.json'}")
    else:
        print(f"{report.no_truth(sum(map(len, videos.values())))}\n")
    print(f"predictions: {predictions.path}")
    if arguments.save_masks:
        print(f"masks:       {out / 'masks'}")


def pick_rule(config: Config, dataset: str) -> str:
    """How queries are kept: the config's rule or, with "auto", that of the data set."""
    if config.evaluation.rule != "auto":
        return config.evaluation.rule
    return "top1" if dataset in ONE_OBJECT else "threshold"


def predict(
    reader: CacheReader,
    head: DMVS,
    videos: Mapping[str, Sequence[Item]],
    *,
    donors: Mapping[str, Item] | None = None,
    device: torch.device,
) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
    """What the head says of every expression in its whole video.

    Args:
        donors: with it, expression ``key`` is given the text of ``donors[key]``.

    Yields:
        The expression, its scores (N_m,) after the sigmoid and mask embeddings (N_m, C), f32.
    """
    progress = "shuffled text" if donors else "predict"
    for video_id, items in tqdm(videos.items(), desc=progress, unit="video", leave=False):
        texts = [read_expression(reader, donors[i.key] if donors else i) for i in items]
        found = predict_video(reader, {"": head}, video_id, texts, device=device)
        for _, number, scores, embeds in found:
            yield items[number], scores, embeds


def predict_shuffled(
    reader: CacheReader,
    head: DMVS,
    videos: Mapping[str, Sequence[Item]],
    *,
    seed: int,
    rule: str,
    sigma: float,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Kept mask embeddings (N, C) of every expression when it gets the text of another."""
    items = [item for of_video in videos.values() for item in of_video]
    try:
        chosen = controls.donors([i.video for i in items], [i.text for i in items], seed=seed)
    except ValueError as error:
        raise InputError(
            f"{reader.path}: sentences cannot be shuffled ({error}); leave --controls out"
        ) from None
    donors = {item.key: items[j] for item, j in zip(items, chosen, strict=True)}
    return {
        item.key: embeds[keep(scores, rule=rule, sigma=sigma)]
        for item, scores, embeds in predict(reader, head, videos, donors=donors, device=device)
    }


def evaluate(
    reader: CacheReader,
    predictions: Predictions,
    videos: Mapping[str, Sequence[Item]],
    *,
    sigma: float,
    has_truth: bool = True,
    shuffled: Sequence[Mapping[str, np.ndarray]] = (),
    with_controls: bool = False,
    masks: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict | None:
    """Replay and score stored predictions.

    Args:
        videos: from `list_expressions`.
        sigma: queries above it are kept; with the rule ``top1`` it does not matter.
        has_truth: whether the cache has ground truth; without it masks are written at most.
        shuffled: rounds of `predict_shuffled`.
        with_controls: score the other controls, too.
        masks: folder for PNG masks; None writes none.

    Returns:
        The content of metrics.json; None if the cache has no ground truth.

    Raises:
        InputError: the predictions are of another cache, or incomplete.
    """
    check_origin(reader, predictions)
    if not has_truth and masks is None:
        return None
    task = Task(reader, predictions, videos, sigma, shuffled, masks, device)
    if reader.dataset == DAVIS:
        return score_davis(task)
    return score_expressions(task, with_controls=with_controls)


def _check_sizes(config: Config, reader: CacheReader, videos: Mapping[str, Sequence[Item]]) -> None:
    """Refuse a cache with other channels than the head was built for."""
    item = next(iter(videos.values()))[0]
    video = reader.video(item.video)
    for name, array in (
        ("hidden_dim", video.video_queries()),
        ("mask_dim", video.video_mask_embeds()),
        ("text_dim", read_expression(reader, item).sentence),
    ):
        if config.model[name] != array.shape[-1]:
            raise InputError(
                f"config key model.{name} is {config.model[name]}, but {reader.path} was extracted "
                f"with {array.shape[-1]}; give a cache and a head that belong together"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="configuration the head was trained with")
    parser.add_argument("--cache", required=True, help="cache to predict from")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="trained head: a file, or a work folder's latest")
    source.add_argument("--from-predictions", metavar="FILE", help="score a predictions.h5 again")
    parser.add_argument("--out", required=True, help="folder for the results")
    parser.add_argument("--controls", action="store_true", help="score the controls, too")
    parser.add_argument("--save-masks", action="store_true", help="write PNG masks")
    parser.add_argument("--sigma", type=float, help="keep queries above (default: the config's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
