"""Which video query holds a target, by its track; and that the matching can go by it."""

import numpy as np
import torch

from cache_schema.codecs import get_codec
from train.data.affinity import DOUBT, track_distance
from train.data.targets import Boxes
from train.losses import Binary, SetCriterion, Supervision, Targets
from train.masks.logits import MaskFeatures


def boxes_as_masks(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """(M, T, H, W) = (len(boxes), 2, 20, 40): each box moves one pixel to the right."""
    masks = np.zeros((len(boxes), 2, 20, 40), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        for t in range(2):
            mask[t, y0:y1, x0 + t : x1 + t] = 1
    return masks


def boxes_of(masks: np.ndarray) -> Boxes:
    """Found in the pixels (M, T, H, W), to test against what is found in the runs."""
    sides = []
    for axis in (3, 2):
        line = masks.any(axis=5 - axis)  # (M, T, W or H)
        length = line.shape[-1]
        first, last = line.argmax(axis=-1), length - line[..., ::-1].argmax(axis=-1)
        sides.append(((first + last) / (2 * length), (last - first) / length))
    (x, width), (y, height) = sides
    visible = masks.any(axis=(2, 3))
    boxes = np.stack([x, y, width, height], axis=-1).astype(np.float32)
    return Boxes(boxes * visible[..., None], visible)


BOXES = [(2, 3, 8, 9), (20, 10, 30, 18)]
#: Centre x, y, width, height of both boxes in both frames, by hand.
TRACKS = np.zeros((2, 2, 6), np.float16)
TRACKS[0, :, :4] = [[5 / 40, 6 / 20, 6 / 40, 6 / 20], [6 / 40, 6 / 20, 6 / 40, 6 / 20]]
TRACKS[1, :, :4] = [[25 / 40, 14 / 20, 10 / 40, 8 / 20], [26 / 40, 14 / 20, 10 / 40, 8 / 20]]


def test_a_track_is_at_no_distance_from_its_own_mask() -> None:
    distance = track_distance(TRACKS, np.ones(2), boxes_of(boxes_as_masks(BOXES)))
    assert distance.shape == (2, 2) and distance.dtype == np.float32
    assert np.abs(np.diag(distance)).max() < 2e-3
    # 20/40 in x, 8/20 in y, 4/40 in width, 2/20 in height
    assert np.allclose(distance[0, 1], 0.5 + 0.4 + 0.1 + 0.1, atol=2e-3)


def test_of_two_queries_with_one_track_the_confident_one_is_nearer() -> None:
    targets = boxes_of(boxes_as_masks(BOXES[:1]))
    distance = track_distance(TRACKS[[0, 0]], np.array([0.1, 0.9]), targets)
    assert np.allclose(distance[0] - distance[1], 0.8 * DOUBT)


def test_frames_without_the_target_do_not_count() -> None:
    masks = boxes_as_masks(BOXES[:1])
    masks[0, 1] = 0
    tracks = TRACKS[:1].copy()
    tracks[0, 1] = 0.9
    assert track_distance(tracks, np.ones(1), boxes_of(masks))[0, 0] < 2e-3


def test_no_targets_give_no_distances() -> None:
    none = boxes_of(np.zeros((0, 2, 20, 40), np.uint8))
    assert track_distance(TRACKS, np.ones(2), none).shape == (2, 0)


def test_the_prior_decides_between_equal_masks() -> None:
    features = MaskFeatures({"values": torch.randn(2, 4, 5, 10)}, get_codec("float32"))
    targets = [Targets(torch.from_numpy(boxes_as_masks(BOXES)), torch.zeros(2).long())]
    layer = torch.zeros(1, 3), torch.ones(1, 3, 4)  # three queries that say the same
    prior = [torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])]
    for weight, expected in ((1.0, [[0, 1], [1, 0]]), (-1.0, [[0, 1], [0, 1]])):
        criterion = SetCriterion(Binary(), num_points=8, prior_weight=weight)
        truth = Supervision([features], targets)
        _, ((queries, own, _),) = criterion.compare([layer], truth, prior=prior)
        assert [queries.tolist(), own.tolist()] == expected
