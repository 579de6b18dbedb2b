"""Frames on their way into the segmenter: sizes, normalisation, padding."""

import numpy as np
import pytest
import torch
from stage_one import prepare

from cache_schema.host.cli import InputError
from extract.segmenters.preprocessing import Preprocessor

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (480, 854, (360, 641)),  # 640.5 rounds up
        (720, 1280, (360, 640)),
        (1280, 720, (640, 360)),
        (360, 360, (360, 360)),
        (100, 400, (333, 1333)),  # the bound of the long side wins
        (4, 4000, (1, 1333)),
    ],
)
def test_short_side_rule(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Preprocessor(360, 1333, MEAN, STD).resized_size(height, width) == expected


def test_no_bound_on_the_long_side() -> None:
    assert Preprocessor(360, None, MEAN, STD).resized_size(100, 400) == (360, 1440)


def test_frames_as_they_are_are_normalised_and_padded_with_zeros() -> None:
    frame = noise(33, 40)
    image, geometry = prepare(Preprocessor(None, None, MEAN, STD), frame)
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.float32
    expected = (frame.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(image[:, :33, :40].permute(1, 2, 0).numpy(), expected)
    assert image[:, 33:].abs().sum() == 0
    assert image[:, :, 40:].abs().sum() == 0
    assert (geometry.height, geometry.width) == (33, 40)
    assert (geometry.resized_height, geometry.resized_width) == (33, 40)
    assert (geometry.padded_height, geometry.padded_width) == (64, 64)
    assert geometry.stride == 4


@pytest.mark.parametrize(("short", "size"), [(None, (33, 40)), (24, (57, 101)), (32, (32, 32))])
def test_frames_together_are_bitwise_what_each_is_alone(
    short: int | None, size: tuple[int, int]
) -> None:
    """Whoever resizes and whoever normalises may be apart: bytes travel between them."""
    preprocess = Preprocessor(short, 64, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    frames = [np.roll(noise(*size), k, axis=0) for k in range(3)]
    resized = np.stack([preprocess.resize(frame) for frame in frames])
    assert resized.dtype == np.uint8
    images = preprocess.normalise(torch.from_numpy(resized))
    for frame, small, image in zip(frames, resized, images, strict=True):
        assert torch.equal(image, prepare(preprocess, frame)[0])
        # By hand, in the order of the reference.
        pixels = small.transpose(2, 0, 1).astype(np.float32)
        expected = (pixels - preprocess.mean.numpy()) / preprocess.std.numpy()
        height, width = expected.shape[1:]
        assert np.array_equal(image[:, :height, :width].numpy(), expected)
        assert not image[:, height:].any() and not image[:, :, width:].any()


def test_sizes_are_known_before_the_frames() -> None:
    preprocess = Preprocessor(40, 64, MEAN, STD)
    image, geometry = prepare(preprocess, np.zeros((57, 101, 3), np.uint8))
    assert preprocess.geometry(57, 101) == geometry
    assert image.shape == (3, geometry.padded_height, geometry.padded_width)


def test_a_frame_that_fits_is_not_padded() -> None:
    image, geometry = prepare(Preprocessor(64, None, MEAN, STD), noise(128, 192))
    assert image.shape == (3, 64, 96)
    assert (geometry.padded_height, geometry.padded_width) == (64, 96)


def test_shrinking_averages() -> None:
    """Antialiasing: a fine checkerboard becomes grey, where plain sampling would keep it."""
    board = np.indices((128, 128)).sum(0) % 2 * 255
    frame = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    image, _ = prepare(Preprocessor(32, None, (0, 0, 0), (1, 1, 1)), frame)
    assert image.min() > 120 and image.max() < 135


@pytest.mark.parametrize("short, longest", [(0, None), (360, 0), (360, 100), (None, -1)])
def test_bad_lengths_are_refused(short: int | None, longest: int | None) -> None:
    with pytest.raises(InputError, match="resize.(short|max) is"):
        Preprocessor(short, longest, MEAN, STD)
