"""J and F against the goldens of the original evaluator, and their edge cases."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.train.scores import video_scores
from train.evaluation import jf

SHIPPED = Path(__file__).parents[1] / "data" / "jf"
GOLDENS = [SHIPPED] + [Path(p) for p in [os.environ.get("DMVS_GOLDENS")] if p]


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda p: p.name)
def test_pairs_equal_the_reference(folder: Path) -> None:
    golden = np.load(folder / "jf_pairs.npz")
    for i, (height, width) in enumerate(golden["shapes"]):
        truth, prediction = (
            np.unpackbits(golden[f"{name}_{i}"], count=height * width).reshape(1, height, width)
            for name in ("gt", "pred")
        )
        region, boundary = video_scores(truth, prediction)
        assert region[0] == pytest.approx(golden["J"][i], abs=1e-12), golden["names"][i]
        assert boundary[0] == pytest.approx(golden["F"][i], abs=1e-12), golden["names"][i]


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda p: p.name)
def test_videos_equal_the_reference(folder: Path) -> None:
    golden = np.load(folder / "jf_videos.npz")
    means = []
    for i in range(sum(name.startswith("gt_") for name in golden.files)):
        region, boundary = video_scores(golden[f"gt_{i}"], golden[f"pred_{i}"])
        np.testing.assert_allclose(region, golden[f"J_frames_{i}"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(boundary, golden[f"F_frames_{i}"], rtol=0, atol=1e-12)
        means.append((region.mean(), boundary.mean()))
    if "dataset_J" in golden.files:
        region, boundary = np.mean(means, axis=0)
        assert region == pytest.approx(float(golden["dataset_J"]), abs=1e-12)
        assert boundary == pytest.approx(float(golden["dataset_F"]), abs=1e-12)


def test_masks_inside_a_large_frame_score_as_the_uncropped_formula() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = np.zeros((90, 120), bool)
        prediction = truth.copy()
        for mask in (truth, prediction):
            y, x = rng.integers(0, 80, 2)
            mask[y : y + 12, x : x + 30] = rng.random(mask[y : y + 12, x : x + 30].shape) > 0.4
        assert jf.scores(jf.Outline(truth), jf.Outline(prediction))[1] == pytest.approx(
            _plain(truth, prediction)
        )


def _boundary_map(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _plain(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F by distances between all boundary pixels of the whole frame."""
    edges = [np.argwhere(_boundary_map(m)) for m in (truth, prediction)]
    distance = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    near = distance <= jf.boundary_radius(*truth.shape)
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / max(precision + recall, 1e-300)


def test_full_against_empty_has_no_boundary_to_miss() -> None:
    full, empty = np.ones((1, 9, 9), bool), np.zeros((1, 9, 9), bool)
    assert [s.item() for s in video_scores(full, empty)] == [0.0, 1.0]
    assert [s.item() for s in video_scores(empty, empty)] == [1.0, 1.0]


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes"):
        jf.scores(jf.Outline(np.zeros((4, 4), bool)), jf.Outline(np.zeros((4, 5), bool)))


def test_the_order_in_memory_does_not_matter() -> None:
    truth, prediction = np.random.default_rng(0).random((2, 3, 30, 40)) > 0.7
    expected = video_scores(truth, prediction)
    turned = [np.asfortranarray(m).astype(np.uint8) * 255 for m in (truth, prediction)]
    np.testing.assert_array_equal(video_scores(*turned), expected)
    np.testing.assert_array_equal(
        [
            jf.scores(jf.Outline(np.asfortranarray(g)), jf.Outline(p))
            for g, p in zip(truth, prediction, strict=True)
        ],
        np.transpose(expected),
    )
