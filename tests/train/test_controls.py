"""The controls: which texts are swapped, which masks are chosen."""

import itertools

import numpy as np
import pytest

from train.evaluation.from_cache import controls


def test_donors_are_of_other_videos_and_read_differently() -> None:
    videos = list("aaaaaaabbc")  # one video has more than half of the expressions
    texts = [f"text {i % 4}" for i in range(10)]
    for seed in range(20):
        chosen = controls.donors(videos, texts, seed=seed)
        assert all(videos[i] != videos[j] for i, j in enumerate(chosen))
        assert all(texts[i] != texts[j] for i, j in enumerate(chosen))
    assert controls.donors(videos, texts, seed=3) == controls.donors(videos, texts, seed=3)
    assert controls.donors(videos, texts, seed=3) != controls.donors(videos, texts, seed=4)


@pytest.mark.parametrize("videos", ["aa", "ab"])
def test_without_any_donor_there_is_no_shuffle(videos: str) -> None:
    with pytest.raises(ValueError, match="no other video"):
        controls.donors(list(videos), ["x", "y"] if videos == "aa" else ["x", "x"], seed=0)


def test_an_object_of_doubtful_class_is_an_object() -> None:
    logits = np.float32([[9, 0, 0], [0, 0, 9], [1, 1, 1], [0, 0, 1]])  # the last column: none
    assert controls.every_object(logits).tolist() == [0, 2]


@pytest.mark.parametrize("size", [(5, 7), (8, 16), (1, 1), (16, 40)])
def test_packed_masks_come_back(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).random((3, 4, *size)) > 0.5  # T, N, H, W
    packed = controls.PackedMasks(size)
    for frame in frames:
        packed.add(frame)
    np.testing.assert_array_equal(packed.unpack(packed.words()), frames.swapaxes(0, 1))


def _pack(masks: np.ndarray) -> np.ndarray:
    packed = controls.PackedMasks(masks.shape[-2:])
    for frame in masks.swapaxes(0, 1):
        packed.add(frame)
    return packed.words()


def _region(prediction: np.ndarray, truth: np.ndarray) -> float:
    union = (prediction | truth).sum((-2, -1))
    overlap = (prediction & truth).sum((-2, -1))
    return np.where(union == 0, 1, overlap / np.maximum(union, 1)).sum()


def test_best_choice_finds_the_union_of_the_parts() -> None:
    masks = np.zeros((5, 2, 6, 10), bool)  # N, T, H, W
    masks[0, :, :, :3] = True  # a part
    masks[1, :, :, 3:5] = True  # the other part
    masks[2, :, :, :9] = True  # covers both and more
    masks[3, :, :, 7:] = True  # something else
    truth = masks[0] | masks[1]
    union, chosen = controls.best_choice(_pack(masks), _pack(truth[None])[0])
    assert chosen == [0, 1]
    np.testing.assert_array_equal(union, _pack(truth[None])[0])


def test_best_choice_takes_nothing_for_an_empty_truth() -> None:
    masks = np.ones((2, 3, 4, 4), bool)
    union, chosen = controls.best_choice(_pack(masks), _pack(np.zeros((1, 3, 4, 4), bool))[0])
    assert chosen == [] and not union.any()


def test_best_choice_is_at_least_the_best_single_mask_and_near_the_best_subset() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        masks = rng.random((5, 2, 6, 8)) > 0.6
        truth = (masks[0] | masks[1]) ^ (rng.random((2, 6, 8)) > 0.9)
        union, chosen = controls.best_choice(_pack(masks), _pack(truth[None])[0])
        reached = _region(masks[chosen].any(0), truth)
        np.testing.assert_array_equal(union, _pack(masks[chosen].any(0)[None])[0])
        subsets = itertools.chain.from_iterable(
            itertools.combinations(range(5), k) for k in range(1, 6)
        )
        best = max(_region(masks[list(s)].any(0), truth) for s in subsets)
        assert max(_region(mask, truth) for mask in masks) <= reached <= best + 1e-9
        assert reached > 0.8 * best
