"""Predictions from whole videos, their masks and scores: what `train.evaluate` does."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import load_head, read_checkpoint
from train.commands import pick_device
from train.config import load_config, stored_config
from train.data.compatible import check_models
from train.data.sizes import common_sizes
from train.evaluation import report
from train.evaluation.from_cache import controls
from train.evaluation.from_cache.contents import (
    ReplayTask,
    check_origin,
    has_truth,
    list_expressions,
    pick_rule,
)
from train.evaluation.from_cache.davis import score_davis
from train.evaluation.from_cache.expressions import score_expressions
from train.heads import Head, find_head
from train.inference import predict_video, read_expression
from train.places import find_checkpoint
from train.predictions import Predictions, PredictionsWriter
from train.progress import progress
from train.provenance import cache_identity, describe_run, prediction_digest
from train.records import ExpressionRef
from train.replay import keep
from train.report.build import Evaluated, write_report

NUM_SHUFFLES = 3

#: For each expression ("video/expression") scores (N,) and mask embeddings (N, C) of some queries.
QueryOutputs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def run(arguments: Namespace) -> None:
    """Do what the command line of `train.evaluate` says."""
    start = time.perf_counter()
    config = training = None
    over = {"options": arguments.cfg_options, "row": arguments.row}
    if arguments.checkpoint:
        checkpoint = find_checkpoint(arguments.checkpoint)
        training = read_checkpoint(checkpoint)["meta"].get("training")
        config = stored_config(checkpoint, training, **over) if arguments.config is None else None
    if arguments.config is not None:
        config = load_config(arguments.config, **over)
    reader = CacheReader(arguments.cache)
    device = pick_device(arguments.device)
    videos = list_expressions(reader)
    if arguments.report and not (reader.facts.protocol == "expressions" and has_truth(reader)):
        raise InputError(
            f"--report shows what is scored by expressions, with truth, and {reader.path} is not: "
            "leave it out"
        )
    if arguments.from_predictions:
        predictions, shuffled = Predictions(arguments.from_predictions), []
        check_origin(reader, predictions)
        sigmas = arguments.sigma or [predictions.sigma]
    else:
        sigmas = arguments.sigma or [config.evaluation.sigma]
        predictions, shuffled = _predict_all(
            arguments, checkpoint, config, reader, videos, sigmas=sigmas, device=device
        )
    sigmas, out = list(dict.fromkeys(sigmas)), Path(arguments.out)
    task = ReplayTask(
        reader,
        predictions,
        videos,
        sigmas,
        at_most=arguments.keep,
        shuffled=shuffled,
        masks=out / "masks" if arguments.save_masks else None,
        device=device,
    )
    contents = evaluate(task, with_controls=arguments.controls)
    if contents:
        run = describe_run(
            config=config.to_dict() if config else predictions.training.get("config", {}),
            seed=predictions.training.get("seed"),
            caches={
                "training": predictions.training.get("caches", []),
                "evaluation": [cache_identity(reader)],
            },
            device=device,
            seconds=time.perf_counter() - start,
            checkpoint=predictions.checkpoint,
            rule=predictions.rule,
            sigma=sigmas,
            keep=arguments.keep,
            shuffle_frames=arguments.shuffle_frames,
        )
        metrics = _write(out / "metrics.json", contents, sigmas, run)
        contents[0] = metrics  # which says what the head is called
        if arguments.report:
            write_report(out / "report.html", reader, [Evaluated.of("", metrics, predictions)])
    _print(arguments, contents, task)


def _predict_all(
    arguments: Namespace,
    checkpoint: Path,
    config: Config,
    reader: CacheReader,
    videos: Mapping[str, Sequence[ExpressionRef]],
    *,
    sigmas: Sequence[float],
    device: torch.device,
) -> tuple[Predictions, list[QueryOutputs]]:
    """What the head says of every expression, stored; the same with other texts for the control.

    What is stored already is taken if it depends on nothing that has changed.
    """
    training = read_checkpoint(checkpoint)["meta"].get("training")
    problem = check_models(
        training,
        reader,
        checkpoint=f"checkpoint {checkpoint}",
        allowed=arguments.allow_other_models,
    )
    if problem:
        print(f"warning: {problem}", file=sys.stderr)
    path, digest = Path(arguments.out) / "predictions.h5", file_sha256(checkpoint)
    rule, shuffle = pick_rule(config, reader), arguments.shuffle_frames
    made_from = prediction_digest(reader, config, digest, device, rule=rule, shuffled=shuffle)
    predictions = _kept(path, made_from, videos)
    with_shuffled = arguments.controls and has_truth(reader)
    if predictions is None or with_shuffled:
        sizes = common_sizes([reader], find_head(config.model.type).needs(config.model))
        head = load_head(config, checkpoint, sizes, device)
    if predictions is not None:
        print(f"{path} is used again: nothing that the predictions depend on has changed")
        predictions = predictions.at_sigma(sigmas[0])
    else:
        with PredictionsWriter(
            path,
            fingerprint=reader.fingerprint_hex,
            checkpoint=digest,
            rule=rule,
            sigma=sigmas[0],
            training=_origin(training),
            made_from=made_from,
        ) as writer:
            found = predict(reader, head, videos, shuffle_frames=shuffle, device=device)
            for expression, scores, embeds in found:
                writer.add(expression.video, expression.id, scores, embeds)
        predictions = Predictions(path)
    if not with_shuffled:
        return predictions, []
    how = {"rule": predictions.rule, "sigma": min(sigmas), "device": device}
    try:
        return predictions, [
            predict_shuffled(reader, head, videos, seed=seed, **how) for seed in range(NUM_SHUFFLES)
        ]
    except controls.NoDonor as error:
        print(f"The control with shuffled text is left out: {error}.")
        return predictions, []


def _kept(
    path: Path, made_from: str, videos: Mapping[str, Sequence[ExpressionRef]]
) -> Predictions | None:
    """Stored predictions that were made from the same, if they are whole."""
    with suppress(InputError):
        predictions = Predictions(path)
        if made_from and predictions.made_from == made_from:
            for expression in (e for of_video in videos.values() for e in of_video):
                predictions.get(expression.video, expression.id)
            return predictions
    return None


def _origin(training: Any) -> dict[str, Any]:
    """Seed and caches of a checkpoint's ``meta["training"]``; empty where it does not tell."""
    try:
        names = ("fingerprint", "dataset", "split")
        caches = [
            {name: str(cache[name]) for name in names}
            | {name: str(cache[name]) for name in ("release",) if name in cache}
            for cache in training["caches"]
        ]
        return {"seed": int(training["seed"]), "caches": caches}
    except (TypeError, KeyError, ValueError, OverflowError):
        return {}


def predict(
    reader: CacheReader,
    head: Head,
    videos: Mapping[str, Sequence[ExpressionRef]],
    *,
    donors: Mapping[str, ExpressionRef] | None = None,
    shuffle_frames: bool = False,
    device: torch.device,
) -> Iterator[tuple[ExpressionRef, np.ndarray, np.ndarray]]:
    """What the head says of every expression in its whole video.

    Args:
        donors: with it, expression ``key`` is given the text of ``donors[key]``.
        shuffle_frames: see `predict_video`.

    Yields:
        The expression, its scores (N_m,) after the sigmoid and mask embeddings (N_m, C), f32.
    """
    what = "shuffled text" if donors else "predict"
    for video_id, expressions in progress(videos.items(), what, len(videos)):
        texts = [read_expression(reader, donors[e.key] if donors else e) for e in expressions]
        how = {"device": device, "shuffle_frames": shuffle_frames}
        outputs = predict_video(reader, {"": head}, video_id, texts, **how)
        for _, number, scores, embeds in outputs:
            yield expressions[number], scores, embeds


def predict_shuffled(
    reader: CacheReader,
    head: Head,
    videos: Mapping[str, Sequence[ExpressionRef]],
    *,
    seed: int,
    rule: str,
    sigma: float,
    device: torch.device,
) -> QueryOutputs:
    """What the head says of every expression when it gets the text of another.

    Only queries that are kept at ``sigma`` are in it, so they can be kept at any higher one.

    Raises:
        NoDonor: an expression cannot.
    """
    everything = [expression for of_video in videos.values() for expression in of_video]
    ids, texts = [e.video for e in everything], [e.text for e in everything]
    chosen = controls.donors(ids, texts, seed=seed)
    donors = {e.key: everything[j] for e, j in zip(everything, chosen, strict=True)}
    outputs = {}
    for expression, scores, embeds in predict(reader, head, videos, donors=donors, device=device):
        kept = keep(scores, rule=rule, sigma=sigma)
        outputs[expression.key] = scores[kept], embeds[kept]
    return outputs


def evaluate(task: ReplayTask, *, with_controls: bool = False) -> list[dict]:
    """Replay and score stored predictions, by the protocol of the cache's data set.

    Args:
        with_controls: score the controls that need no head, too.

    Returns:
        The content of metrics.json for each sigma; empty if the cache has no ground truth.

    Raises:
        InputError: the predictions are of another cache, or incomplete.
    """
    check_origin(task.reader, task.predictions)
    if task.masks is None and not has_truth(task.reader):
        return []
    if task.reader.facts.protocol == "davis":
        return score_davis(task)
    return score_expressions(task, with_controls=with_controls)


def _write(
    path: Path, contents: Sequence[dict], sigmas: Sequence[float], run: Mapping[str, Any]
) -> dict[str, Any]:
    """Write metrics.json: the figures at the first sigma and, of several, all of them."""
    content = dict(contents[0])
    if len(sigmas) > 1:
        content["sigmas"] = [
            {"sigma": sigma, **figures} for sigma, figures in zip(sigmas, contents, strict=True)
        ]
    content["run"] = run
    report.write_metrics(path, content)
    return content


def _print(arguments: Namespace, contents: Sequence[dict], task: ReplayTask) -> None:
    """The table, and where everything lies."""
    out = Path(arguments.out)
    if contents:
        if len(contents) > 1:
            print(f"{report.sigma_table(dict(zip(task.sigmas, contents, strict=True)))}\n")
        else:
            print(f"{report.table(contents[0])}\n")
        if arguments.controls and arguments.from_predictions:
            print("The control with shuffled text needs the head: give --checkpoint.\n")
        print(f"metrics:     {out / 'metrics.json'}")
    else:
        print(f"{report.no_truth(sum(map(len, task.videos.values())))}\n")
    print(f"predictions: {task.predictions.path}")
    if arguments.save_masks:
        print(f"masks:       {out / 'masks'}")
    if arguments.report:
        print(f"report:      {out / 'report.html'} (scripts.report shows the frames, too)")
