"""Train the demo's tiny VITA on scenes of the demo world, and write it as safetensors.

    python -m scripts.pretrain_demo_segmenter --out work/pretrain

Two phases, as the two halves of VITA are frozen one after the other. The frame level (Mask2Former)
learns from single frames with the losses of `transformers`; the video level (Object Encoder and
Decoder) learns from the frozen frame level's queries and features with VITA's losses.

Classes say what an object is and what it does (stays, moves sideways, spins, ...), as far as its
blur shows it. Trained on kinds alone, the video queries turned out to hold nothing about motion,
and a head on top of them has nothing else to go by. Left and right are one class.

Both phases save checkpoints now and then, and the same command goes on from there.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import Mask2FormerForUniversalSegmentation

from cache_schema.codecs import get_codec
from cache_schema.host import cli
from extract.config import load_config
from extract.demo.world import FRAMES, Scene, make_scene
from extract.segmenters.base import configure
from extract.segmenters.vita import VITA, VITAConfig, VITAHead
from extract.segmenters.vita.weights import save_safetensors
from train.losses import SetCriterion, Softmax
from train.losses.vita import Similarity, similarity_loss
from train.masks.logits import MaskFeatures
from train.masks.supervision import Match, Supervision
from train.masks.targets import Targets

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
WORLD = 7  # seed of the scenes; the demo's own splits use others
CONFIG = Path(__file__).parents[1] / "extract/configs/demo.py"


def main(argv: list[str]) -> int:
    parser = cli.parser("scripts.pretrain_demo_segmenter", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--frame-steps", type=int, default=6000)
    parser.add_argument("--frame-scenes", type=int, default=3000)
    parser.add_argument("--video-steps", type=int, default=3000)
    parser.add_argument("--video-scenes", type=int, default=1200)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vita = VITA(configure(VITAConfig, load_config(CONFIG).segmenter))
    vita.frame_model.load_state_dict(train_frame_level(vita.config, arguments))
    vita.head.load_state_dict(train_video_level(vita, arguments))
    target = arguments.out / "vita_tiny.safetensors"
    save_safetensors(vita, target, dtype=torch.float16)
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def train_frame_level(config: VITAConfig, arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Mask2Former on single frames, with the set criterion of `transformers`; its weights."""
    sizes = config.mask2former()
    sizes.train_num_points = 1024
    model = Mask2FormerForUniversalSegmentation(sizes).train()
    run = Run(model, arguments.out / "frame_level.pth", rate=6e-4, steps=arguments.frame_steps)
    if run.start == run.steps:
        return model.state_dict()
    images, masks, labels = _frames(config, arguments.frame_scenes)
    for step in run:
        rng = np.random.default_rng([WORLD, 1, step])
        chosen = rng.integers(len(images), size=8)
        flips = [axis for axis in (-1, -2) if rng.random() < 0.5]
        outputs = model(
            pixel_values=_normalised(config, torch.stack([images[i] for i in chosen]).flip(flips)),
            mask_labels=[masks[i].float().flip(flips) for i in chosen],
            class_labels=[labels[i] for i in chosen],
        )
        run.learn(outputs.loss)
    return model.state_dict()


def train_video_level(vita: VITA, arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Object Encoder and Decoder on the frozen frame level's output; their weights."""
    # In evaluation mode windows shift, as they will in extraction; there is no dropout to miss.
    head = VITAHead(vita.config).eval()
    run = Run(head, arguments.out / "video_level.pth", rate=5e-4, steps=arguments.video_steps)
    if run.start == run.steps:
        return head.state_dict()
    clips = _encoded_clips(vita, arguments.video_scenes, arguments.out)
    loss = SetCriterion(Softmax(vita.config.num_classes), num_points=128)
    exact = get_codec("float32")
    for step in run:
        rng = np.random.default_rng([WORLD, 2, step])
        num_frames = int(rng.choice((8, 12)))  # a clip of the bank, or a whole video
        batch = [
            clips[i].pick(np.sort(rng.permutation(12)[:num_frames]))
            for i in rng.integers(len(clips), size=8)
        ]
        # (B, T, N_f, C)
        layers = head(torch.stack([c.queries for c in batch]), all_layers=True, similarity=True)
        maps = [
            MaskFeatures({"values": head.vita_mask_features(c.features.float())}, exact)
            for c in batch
        ]
        ids = [torch.arange(len(c.labels)) for c in batch]
        truth = Supervision(maps, [Targets(c.masks, c.labels) for c in batch])
        said = [(layer.logits, layer.mask_embeds) for layer in layers]
        losses, matches = loss.compare(said, truth)
        similarity = Similarity(
            frame_embeds=layers[-1].sim_frame,
            frame_matches=[Match(*match) for c in batch for match in c.matches],
            frame_ids=[own for own in ids for _ in range(num_frames)],
            video_embeds=layers[-1].sim_clip,
            video_ids=ids,
        )
        run.learn(sum(losses.values()) + 0.5 * similarity_loss(similarity, matches))
    return head.state_dict()


@dataclass
class EncodedClip:
    """A scene as the frozen frame level sees it: T frames, N objects."""

    queries: Tensor  # (T, N_f, C) float32
    features: Tensor  # (T, C, h, w) float16, before VITA's own projection
    matches: list[tuple[Tensor, Tensor]]  # per frame: frame queries and the objects they found
    masks: Tensor  # (N, T, H, W) uint8
    labels: Tensor  # (N,)

    def pick(self, frames: np.ndarray) -> "EncodedClip":
        return EncodedClip(
            queries=self.queries[frames],
            features=self.features[frames],
            matches=[self.matches[t] for t in frames],
            masks=self.masks[:, frames],
            labels=self.labels,
        )


def _encoded_clips(vita: VITA, scenes: int, out: Path) -> list[EncodedClip]:
    """Scenes as the frame level sees them, in files of a hundred that a later run takes up."""
    clips: list[EncodedClip] = []
    for start in range(0, scenes, 100):
        file = out / f"scenes_{start:05d}.pth"
        if not file.exists():
            numbers = range(start, min(start + 100, scenes))
            encoded = [vars(_encoded(vita, number)) for number in tqdm(numbers, desc=file.stem)]
            torch.save(encoded, f"{file}.partial")
            os.replace(f"{file}.partial", file)
        clips += [EncodedClip(**clip) for clip in torch.load(file, weights_only=True)]
    return clips


@torch.no_grad()
def _encoded(vita: VITA, number: int) -> EncodedClip:
    frames, masks, labels = drawn_scene(make_scene((WORLD, 1, number)))
    model = vita.frame_model
    finest: list[Tensor] = []
    projection = model.model.pixel_level_module.decoder.mask_projection
    hook = projection.register_forward_pre_hook(lambda _, inputs: finest.append(inputs[0]))
    images = _normalised(vita.config, frames)
    outputs = model.model(pixel_values=images, output_hidden_states=True)
    hook.remove()
    queries = outputs.transformer_decoder_intermediate_states[-1].transpose(0, 1)
    torch.manual_seed(number)  # the matcher draws points
    matches = model.criterion.matcher(
        outputs.masks_queries_logits[-1],
        model.class_predictor(queries),
        masks.transpose(0, 1).float(),
        [labels] * len(frames),
    )
    return EncodedClip(
        queries=queries.contiguous(),
        features=finest[0].half(),
        matches=[(q.long(), n.long()) for q, n in matches],
        masks=masks.byte(),
        labels=labels,
    )


class Run:
    """Steps of AdamW with a progress bar, a rate that falls, and a checkpoint now and then."""

    def __init__(self, model: nn.Module, checkpoint: Path, *, rate: float, steps: int) -> None:
        self.model, self.checkpoint, self.steps = model, checkpoint, steps
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
        self.rate, self.start = rate, 0
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)
            self.start = saved["step"]
            model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])

    def __iter__(self) -> Iterator[int]:
        bar = trange(self.start, self.steps, initial=self.start, total=self.steps, mininterval=30)
        for self.step in bar:
            torch.manual_seed(self.step)  # so that a resumed run equals an uninterrupted one
            yield self.step
            bar.set_postfix(loss=f"{self.mean_loss:.3f}", refresh=False)

    def learn(self, loss: Tensor) -> None:
        """One optimiser step; saves after every 500th and after the last."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:  # warm-up, then half a cosine
            warm = min(1.0, (self.step + 1) / (0.05 * self.steps))
            fall = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
            group["lr"] = self.rate * warm * fall
        self.optimizer.step()
        before = getattr(self, "mean_loss", loss.item())
        self.mean_loss = 0.99 * before + 0.01 * loss.item()
        done = self.step + 1
        if done % 500 == 0 or done == self.steps:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save({"step": done, **state}, f"{self.checkpoint}.partial")
            os.replace(f"{self.checkpoint}.partial", self.checkpoint)


def _frames(
    config: VITAConfig, scenes: int, each: int = 4
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Random frames of random scenes, after JPEG, with the objects that they show.

    Returns:
        Images (3, H, W) uint8, masks (N, H, W) bool and labels (N,) int64, a list of each.
    """
    images, masks, labels = [], [], []
    for number in trange(scenes, desc="drawing scenes", mininterval=30):
        # Some are crowds of one kind: only there do masks have to go by places alone.
        scene = make_scene((WORLD, 0, number), crowd=number % 4 == 0)
        picked = np.random.default_rng([WORLD, 3, number]).permutation(FRAMES)[:each]
        drawn, shown, kinds = drawn_scene(scene, picked)
        images += drawn
        masks += shown.unbind(1)
        labels += [kinds] * each
    return images, masks, labels


def drawn_scene(
    scene: Scene, indices: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (T, 3, H, W) uint8 after JPEG, masks (N, T, H, W) bool, labels (N,) of a scene."""
    frames, masks = scene.draw(indices)
    for frame in frames:
        frame[:] = cv2.imdecode(cv2.imencode(".jpg", frame, JPEG)[1], cv2.IMREAD_COLOR)
    labels = torch.tensor([shape.label for shape in scene.shapes])
    return (
        torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(masks).transpose(0, 1).contiguous(),
        labels,
    )


def _normalised(config: VITAConfig, images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float32, normalised as in extraction."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.pixel_mean, config.pixel_std))
    return (images.float() - mean) / std


if __name__ == "__main__":
    sys.exit(cli.run(main))
