"""The work of `python -m scripts.segment`: video to cache, sentences to masks."""

import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cache_schema import manifest
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.reader import CacheReader
from cache_schema.records import Expression
from extract.datasets.one_video import OneVideo
from extract.datasets.records import SourceExpression
from extract.frozen import NoRandomInit
from extract.text import encode_expressions
from scripts.segment.results import Results, folder_of
from scripts.segment.trained import Trained
from train.checkpoint import head_of
from train.commands import pick_device
from train.data.sizes import common_sizes
from train.heads import find_head
from train.inference import predict_video
from train.replay import keep, replay


def run(arguments: Namespace) -> None:
    """Do what the command line says."""
    start, out = time.perf_counter(), Path(arguments.out)
    for number, sentence in enumerate(arguments.sentences, 1):
        folder = folder_of(out, number, sentence).resolve()
        if Path(arguments.video).resolve().is_relative_to(folder):
            raise InputError(
                f"{arguments.video} lies where the results go and would be lost: give another --out"
            )
    trained = Trained(Path(arguments.checkpoint))
    device = pick_device(arguments.device)
    torch.set_num_threads(model_threads())
    video = OneVideo(arguments.video, stride=arguments.stride, max_frames=arguments.max_frames)
    expressions = encoded(video, trained, arguments)
    reader = cache_of(video, trained, arguments, device)
    needs = find_head(trained.config.model.type).needs(trained.config.model)
    sizes = common_sizes([reader], needs, text_dim=len(expressions[0].sentence))
    with NoRandomInit():
        head = head_of(trained.config, trained.checkpoint, sizes, device, path=trained.path)
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
    seconds, shown = video.seconds(), video.video(name)
    with ExitStack() as stack:
        results = [
            stack.enter_context(Results(out, number, sentence, shown, seconds))
            for number, sentence in enumerate(arguments.sentences, 1)
        ]
        frames = replay(reader.video(name), groups, device=device)
        for t, masks in enumerate(frames):
            image = shown.read_frame(t)
            for result, mask in zip(results, masks, strict=True):
                result.add(image, mask)
        for result, (scores, _), chosen in zip(results, said, kept, strict=True):
            result.finish(scores, chosen, rule=rule, sigma=sigma)
    _print(results, said, kept)
    print(f"{len(seconds)} frames, {time.perf_counter() - start:.1f} s; everything is in {out}")


def cache_of(
    video: OneVideo, trained: Trained, arguments: Namespace, device: torch.device
) -> CacheReader:
    """What the segmenter says of the video, from the folder where it was kept or by asking it."""
    (name,) = video.ids
    (digest,) = video.fingerprint().values()
    folder = Path(arguments.out) / "cache" / digest[:16]
    # A run that was stopped, or failed, leaves a manifest without the video.
    if not (folder / manifest.MANIFEST).exists() or name not in manifest.read(folder).videos:
        from extract.pipeline.run import extract  # which another sentence needs not load

        thinning = {"stride": arguments.stride, "max_frames": arguments.max_frames}
        summary = extract(
            trained.extraction(arguments.config, arguments.codec or "float16", thinning),
            data_root=Path(arguments.video),
            split=None,
            weights=trained.weights(arguments.weights),
            out=folder,
            device=str(device),
        )
        for reason in summary.failures.values():
            raise InputError(reason)
    reader = CacheReader(folder)
    if arguments.codec not in (None, found := reader.codec.name):
        raise InputError(
            f"--codec {arguments.codec}: what the segmenter said of {arguments.video} is kept as "
            f"{found} in {folder}; leave --codec out, or choose another --out"
        )
    trained.check_cache(reader)
    return reader


def encoded(video: OneVideo, trained: Trained, arguments: Namespace) -> list[Expression]:
    """The sentences as a head reads them."""
    text = trained.text(arguments.encoder, arguments.tagger)
    (name,) = video.ids
    asked = [
        SourceExpression(id=str(n), text=sentence, object_ids=[], annotation_ids=[])
        for n, sentence in enumerate(arguments.sentences, 1)
    ]
    return encode_expressions(text, replace(video.video(name), expressions=asked))


def _print(
    results: list[Results], said: list[tuple[np.ndarray, np.ndarray]], kept: list[np.ndarray]
) -> None:
    """A line a sentence."""
    width = max(len(result.sentence) for result in results)
    print(f"{'sentence':{width}}  objects  best score  frames with a mask")
    for result, (scores, _), chosen in zip(results, said, kept, strict=True):
        shown = f"{result.shown} of {result.frames}"
        print(f"{result.sentence:{width}}  {len(chosen):7}  {scores.max():10.2f}  {shown:>18}")
