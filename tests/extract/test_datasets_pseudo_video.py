"""Videos made of one image: what moves how, and that masks and sentences go with it."""

import math

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.datasets.pseudo_video import (
    ANGLE,
    LONG,
    SHORT,
    VISIBLE,
    Warp,
    WarpedImage,
    draw_clip,
)
from tests.extract.refusals import refused


def centred(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5] = 1
    return mask


def drawn(seed: int, *masks: np.ndarray, frames: int = 8) -> Warp:
    return draw_clip(np.random.default_rng(seed), masks[0].shape, frames=frames).settle(list(masks))


def angles(warp: Warp) -> np.ndarray:
    """Degrees by which each frame is turned, from the maps alone."""
    linear = warp.maps[:, :, :2] @ np.diag([-1 if warp.flipped else 1, 1])
    return np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), height=st.integers(200, 700), width=st.integers(200, 700))
def test_a_clip_turns_one_way_within_fifteen_degrees(seed, height, width):
    warp = drawn(seed, centred(height, width))
    turned = angles(warp)
    assert np.abs(turned).max() <= ANGLE + 1e-6
    assert abs(np.sign(np.diff(turned)).sum()) == len(turned) - 1
    assert max(warp.size) <= LONG
    assert min(warp.size) in SHORT or max(warp.size) == LONG
    assert warp.flipped == (np.linalg.det(warp.maps[0, :, :2]) < 0)


def still_point(warp: Warp) -> np.ndarray | None:
    """Where in all frames one point of the image is; None if a crop makes it drift."""
    # Maps of two frames agree in the pixel that both put at the same place.
    a, b = warp.maps[0], warp.maps[-1]
    pixel = np.linalg.solve(a[:, :2] - b[:, :2], b[:, 2] - a[:, 2])
    places = warp.maps @ [*pixel, 1]
    return places[0] + 0.5 if np.abs(places - places[0]).max() < 1e-6 else None


def test_about_half_of_the_clips_turn_round_a_point_that_stands_still():
    still = [still_point(drawn(seed, centred(480, 640))) is not None for seed in range(100)]
    assert 30 < sum(still) < 75  # a crop may have been taken back


def test_same_draw_same_clip():
    a, b, c = (drawn(seed, centred(480, 640)) for seed in (3, 3, 4))
    assert a.size == b.size and np.array_equal(a.maps, b.maps)
    assert not np.array_equal(a.maps, c.maps)


def test_about_half_are_flipped_and_sizes_vary():
    clips = [drawn(seed, centred(480, 640)) for seed in range(200)]
    assert 70 < sum(clip.flipped for clip in clips) < 130
    assert {min(clip.size) for clip in clips} >= set(SHORT)


@given(seed=st.integers(0, 10_000))
def test_masks_go_where_the_image_goes(seed):
    mask = centred(300, 400)
    image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    warp = drawn(seed, mask)
    for t in range(len(warp.maps)):
        shown = warp.image(image, t)[..., 0] > 127
        moved = warp.mask(mask, t)
        assert moved.shape == warp.size and set(np.unique(moved)) <= {0, 1}
        moved = moved.astype(bool)
        assert (shown & moved).sum() > 0.97 * (shown | moved).sum()


def test_turned_back_the_corners_of_an_image_are_those_of_the_frame():
    """No shift by a part of a pixel: pixel i covers the interval from i to i + 1."""
    height, width = 480, 640
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1]]) - [0.5, 0.5, 0]
    checked = 0
    for seed in range(40):
        warp = drawn(seed, centred(height, width))
        centre = still_point(warp)
        if centre is None:
            continue
        assert (centre / warp.size[::-1] >= 0.4).all() and (centre / warp.size[::-1] <= 0.6).all()
        ends = np.array([[0, 0], [warp.size[1], 0], [0, warp.size[0]]])
        if warp.flipped:
            ends[:, 0] = warp.size[1] - ends[:, 0]
        for linear, angle in zip(warp.maps, np.deg2rad(angles(warp)), strict=True):
            back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            places = (corners @ linear.T + 0.5 - centre) @ back.T + centre
            assert np.abs(places - ends).max() < 1e-6
        checked += 1
    assert checked > 10


def test_flipped_maps_exchange_the_sides():
    corner = np.zeros((300, 400), np.uint8)
    corner[100:200, 40:120] = 1  # on the left
    clips = [drawn(seed, corner) for seed in range(12)]
    assert {clip.flipped for clip in clips} == {True, False}
    for clip in clips:
        x = np.nonzero(clip.mask(corner, 4))[1].mean()
        assert (x > clip.size[1] / 2) == clip.flipped


def test_no_crop_takes_an_object_out_of_view():
    """Objects at opposite edges of a long image: no window of a crop shows both."""
    edge = [np.zeros((300, 900), np.uint8) for _ in range(2)]
    edge[0][120:180, 20:60] = 1
    edge[1][120:180, 840:880] = 1
    for seed in range(40):
        clip = drawn(seed, *edge)
        scale = abs(np.linalg.det(clip.maps[0, :, :2]))
        assert math.isclose(clip.size[1] / clip.size[0], 3, rel_tol=0.01)  # the whole image
        shares = [clip.mask(mask, t).sum() / (scale * mask.sum()) for mask in edge for t in (0, 7)]
        assert min(shares) > VISIBLE / 2


def test_images_are_read_once_and_must_fit_their_annotation(tmp_path):
    path = tmp_path / "x.jpg"
    cv2.imwrite(str(path), np.full((300, 400, 3), 90, np.uint8))
    mask, settled = centred(300, 400), []
    draw = draw_clip(np.random.default_rng(0), (300, 400), frames=6)

    def masks():
        settled.append(1)
        return [mask]

    source = WarpedImage(path, (300, 400), draw, masks, "7_0")
    assert settled == []
    assert source.read(0).shape == (*draw.settle([mask]).size, 3)
    path.unlink()
    assert source.read(5).max() == 90 and settled == [1]
    other = WarpedImage(path, (300, 400), draw, masks, "7_0")
    refused(lambda: other.read(0), "7_0", str(path), "does not exist")
    cv2.imwrite(str(path), np.zeros((400, 300, 3), np.uint8))
    refused(lambda: other.read(0), "7_0", "400x300", "300x400")
