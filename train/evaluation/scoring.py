"""One video's expressions: replayed, scored frame by frame beside the controls, and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache_schema.codecs import Codec
from cache_schema.reader import Video
from train.evaluation import controls
from train.evaluation.jf import Outline
from train.evaluation.mevis import Score, Tally, Truth
from train.evaluation.pngs import mask_path, write_mask
from train.evaluation.records import Item
from train.replay import replay_rounds, vita_masks


@dataclass(frozen=True)
class VideoScores:
    """Scores of a video's E expressions: of each round, and of the controls by name."""

    rounds: list[list[Score]]
    controls: dict[str, list[Score]]


def score_video(
    video: Video,
    items: Sequence[Item],
    rounds: Sequence[Sequence[np.ndarray]],
    *,
    codec: Codec,
    has_truth: bool,
    with_controls: bool = False,
    masks: Path | None = None,
    device: torch.device | str = "cpu",
) -> VideoScores | None:
    """Replay and score the expressions of one video, frame by frame.

    All rounds share the reading of mask features and truth, and memory does not grow with them.

    Args:
        items: its E expressions.
        rounds: for each round the kept mask embeddings (N, C) of each expression: those of a head
            at some sigma, or with shuffled texts.
        codec: of the cache.
        has_truth: without it nothing is scored.
        with_controls: score the controls of VITA's own masks, too.
        masks: folder for PNG masks of the first round; None writes none.
        device: where the masks are computed.

    Returns:
        The scores; None without ground truth.
    """
    size = (video.geometry.height, video.geometry.width)
    annotation_ids = [item.annotation_ids if has_truth else [] for item in items]
    targets = [bool(ids) for ids in annotation_ids]
    truth = Truth(video.objects(), annotation_ids, size=size, where=video.id)
    own = VitaControls(video, targets, codec=codec, device=device) if with_controls else None
    tallies = [Tally(targets) for _ in rounds]
    # One product a round, so that a round's masks are the same to the bit whatever else is scored.
    for t, of_rounds in enumerate(replay_rounds(video, rounds, codec=codec, device=device)):
        true = truth.outlines(t) if has_truth else []
        for number, predicted in enumerate(of_rounds):  # (E, H, W)
            if masks is not None and number == 0:
                for item, mask in zip(items, predicted, strict=True):
                    path = mask_path(masks, item.video, item.expression, video.frame_names[t])
                    write_mask(path, mask)
            if not has_truth:
                break
            tallies[number].add(true, [Outline.of(mask) for mask in predicted])
        if has_truth and own is not None:
            own.add(true, truth.frame(t))
    if not has_truth:
        return None
    return VideoScores([tally.scores() for tally in tallies], own.scores() if own else {})


class VitaControls:
    """The controls that need no head, from one pass over VITA's own masks.

    Args:
        video: of the cache.
        targets: for each of the E expressions whether it means anything.
        codec: of the cache.
        device: where the masks are computed.
    """

    def __init__(
        self, video: Video, targets: Sequence[bool], *, codec: Codec, device: torch.device | str
    ) -> None:
        self._sure = controls.every_object(video.video_logits())
        self._frames = vita_masks(video, codec=codec, device=device)
        size = (video.geometry.height, video.geometry.width)
        self._masks, self._truth = controls.PackedMasks(size), controls.PackedMasks(size)
        self._every, self._nothing, self._best = (Tally(targets) for _ in range(3))

    def add(self, truth: Sequence[Outline], truth_masks: np.ndarray) -> None:
        """Count the next frame; its truth is (E, H, W) bool."""
        masks = next(self._frames)  # (N_v, H, W)
        every, nothing = masks[self._sure].any(0), np.zeros(masks.shape[1:], bool)
        self._every.add(truth, [Outline.of(every)] * len(truth))
        self._nothing.add(truth, [Outline.of(nothing)] * len(truth))
        self._masks.add(masks)
        self._truth.add(truth_masks)

    def scores(self) -> dict[str, list[Score]]:
        """For each control one score an expression, after the last frame."""
        masks, truths = self._masks.words(), self._truth.words()  # (N_v or E, T, words)
        best = np.stack([controls.best_choice(masks, truth)[0] for truth in truths])
        for t in range(truths.shape[1]):
            true, chosen = self._truth.unpack(truths[:, t]), self._masks.unpack(best[:, t])
            self._best.add(list(map(Outline.of, true)), list(map(Outline.of, chosen)))
        return {
            "every_object": self._every.scores(),
            "nothing": self._nothing.scores(),
            "best_choice": self._best.scores(),
        }
