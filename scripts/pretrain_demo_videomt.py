"""Train a tiny VidEoMT on scenes of the demo world, and write it as `save_pretrained` does.

    python -m scripts.pretrain_demo_videomt --out work/pretrain_videomt

It goes through clips frame by frame as in extraction. A query is matched with an object once, by
its masks of the whole clip, so that it keeps the object from frame to frame. The same command goes
on from the last checkpoint. Stage one then takes the folder::

    python -m extract demo_videomt --weights work/pretrain_videomt/model ...
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cache_schema.host import cli
from extract.config import load_config
from extract.demo.world import FRAMES, make_scene
from extract.segmenters.base import configure
from extract.segmenters.videomt import VidEoMT, VidEoMTConfig
from scripts.pretrain_demo_segmenter import WORLD, Run, drawn_scene
from train.losses.assignment import assign

CONFIG = "demo_videomt"
NO_OBJECT = 0.1  # weight of queries that match nothing
WEIGHTS = 2.0, 5.0, 5.0  # of class, cross-entropy and dice, as VITA's


def main(argv: list[str]) -> int:
    parser = cli.parser("scripts.pretrain_demo_videomt", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=4, help="clips a step")
    parser.add_argument("--frames", type=int, default=4, help="of a clip")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    segmenter = VidEoMT(configure(VidEoMTConfig, load_config(CONFIG).segmenter))
    model = segmenter.model.train().requires_grad_(True)
    preprocess = segmenter.preprocessor(None, None)
    run = Run(model, arguments.out / "videomt.pth", rate=5e-4, steps=arguments.steps)
    for step in run:
        rng = np.random.default_rng([WORLD, 4, step])
        clips, truth = [], []
        for number in rng.integers(arguments.scenes, size=arguments.batch):
            chosen = np.sort(rng.permutation(FRAMES)[: arguments.frames])
            frames, masks, labels = drawn_scene(make_scene((WORLD, 1, int(number))), chosen)
            squares = [preprocess.resize(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
            clips.append(preprocess.normalise(torch.from_numpy(np.stack(squares))))
            truth.append((masks, labels))
        said = model(pixel_values_videos=torch.stack(clips))
        parts = len(clips[0]), len(clips)  # the library puts frames before clips
        maps = said.masks_queries_logits.unflatten(0, parts).transpose(0, 1)  # (B, T, N, h, w)
        logits = said.class_queries_logits.unflatten(0, parts).transpose(0, 1)  # (B, T, N, K+1)
        losses = [clip_loss(*each) for each in zip(maps, logits, truth, strict=True)]
        run.learn(torch.stack(losses).mean())
    model.save_pretrained(arguments.out / "model")
    print(f"wrote {arguments.out / 'model'}")
    return 0


def clip_loss(maps: Tensor, logits: Tensor, truth: tuple[Tensor, Tensor]) -> Tensor:
    """Class, cross-entropy and dice of the queries of a clip after Hungarian matching.

    Args:
        maps: mask logits (T, N, h, w).
        logits: (T, N, K+1).
        truth: masks (M, T, H, W) bool and labels (M,).
    """
    masks, labels = truth
    true = F.interpolate(masks.float(), size=maps.shape[-2:], mode="area").flatten(1)  # (M, P)
    own = maps.transpose(0, 1).flatten(1)  # (N, P)
    classes = logits.mean(0).log_softmax(-1)  # (N, K+1)
    weights = torch.tensor(WEIGHTS)
    with torch.no_grad():
        pairs = own[:, None].expand(-1, len(true), -1), true.expand(len(own), -1, -1)
        terms = torch.stack([-classes[:, labels].exp(), *_compare(*pairs)])  # (3, N, M)
        match = assign((weights[:, None, None] * terms).sum(0).numpy())
    wanted = torch.full((len(own),), logits.shape[-1] - 1)
    wanted[match.queries] = labels[match.targets]
    share = torch.ones(logits.shape[-1])
    share[-1] = NO_OBJECT
    matched = _compare(own[match.queries], true[match.targets])
    found = torch.stack([F.nll_loss(classes, wanted, share), *(term.mean() for term in matched)])
    return (weights * found).sum()


def _compare(own: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice loss of logits (..., P) with masks from 0 to 1."""
    entropy = F.binary_cross_entropy_with_logits(own, true, reduction="none").mean(-1)
    inside = own.sigmoid()
    dice = 1 - (2 * (inside * true).sum(-1) + 1) / (inside.sum(-1) + true.sum(-1) + 1)
    return entropy, dice


if __name__ == "__main__":
    sys.exit(cli.run(main))
