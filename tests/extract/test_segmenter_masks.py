"""Mask logits, their way back to the original size, and tracks."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from cache_schema.records import Geometry
from extract.segmenters import masks
from extract.segmenters.masks import cells_of, mask_logits, measure, object_cells, to_original

# resized without change to 24x40 and padded to 32x64: 6x10 of 8x16 cells are image
GEOMETRY = Geometry(
    height=24,
    width=40,
    resized_height=24,
    resized_width=40,
    padded_height=32,
    padded_width=64,
    stride=4,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_mask_logits_are_products_with_the_features() -> None:
    features, embeds = noise(3, 16, 8, 12), noise(5, 16)
    expected = (embeds[None, :, :, None, None] * features[:, None]).sum(2)
    torch.testing.assert_close(mask_logits(features, embeds), expected)


def test_a_frame_has_the_same_bits_whatever_frames_come_with_it() -> None:
    features, embeds = noise(7, 64, 24, 40), noise(12, 64)
    together = mask_logits(features, embeds)
    for index in range(7):
        assert torch.equal(mask_logits(features[index : index + 1], embeds)[0], together[index])


def test_to_original_keeps_leading_dimensions_and_cuts_the_padding() -> None:
    logits = torch.full((2, 3, 8, 16), -5.0)
    logits[..., :6, :10] = 5.0
    restored = to_original(logits, GEOMETRY)
    assert restored.shape == (2, 3, 24, 40)
    assert (restored[..., :20, :36] > 0).all()
    # interpolated with the padding at the border, as the original does
    assert restored[..., -1, 0].max() < restored[..., 0, 0].min()


def test_to_original_scales_to_the_size_of_the_frame() -> None:
    large = Geometry(**{**vars(GEOMETRY), "height": 48, "width": 80})
    logits = torch.full((1, 8, 16), -5.0)
    logits[..., 2:4, 3:6] = 5.0  # cells of 8x8 pixels at the original size
    mask = to_original(logits, large)[0] > 0
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    assert (rows.min(), rows.max()) == (16, 31)
    assert (columns.min(), columns.max()) == (24, 47)


def test_tracks_measure_the_box_area_and_certainty() -> None:
    logits = torch.full((2, 2, 8, 16), -4.0)  # (T, N, h, w)
    logits[0, 0, 1:4, 2:7] = 3.0
    logits[1, 0, 0, 9] = 1.0
    logits[1, 0, 5, 0] = 2.0
    logits[0, 1, 7, 12] = 9.0  # in the padding only
    found = measure(logits, GEOMETRY)[0]
    assert found.shape == (2, 2, 6)
    assert found.dtype == torch.float16
    sure = torch.tensor(3.0).sigmoid().item()
    expected = torch.tensor([4.5 / 10, 2.5 / 6, 5 / 10, 3 / 6, 15 / 60, sure])
    torch.testing.assert_close(found[0, 0].float(), expected, atol=1e-3, rtol=0)
    both = torch.tensor([1.0, 2.0]).sigmoid().mean().item()
    expected = torch.tensor([0.5, 0.5, 1, 1, 2 / 60, both])
    torch.testing.assert_close(found[0, 1].float(), expected, atol=1e-3, rtol=0)
    assert (found[1] == 0).all()


def test_tracks_do_not_depend_on_what_is_measured_together(monkeypatch) -> None:
    logits = 3 * noise(2, 5, 8, 16) - 2
    together = measure(logits, GEOMETRY)[0]
    monkeypatch.setattr(masks, "CACHED_CELLS", 120)  # two masks of 60 cells
    assert torch.equal(measure(logits, GEOMETRY)[0], together)
    assert torch.equal(measure(logits[:1, 3:4], GEOMETRY)[0], together[3:4, :1])
    assert measure(logits[:, :0], GEOMETRY)[0].shape == (0, 2, 6)


@pytest.mark.parametrize(
    ("original", "resized"), [((24, 40), (24, 40)), ((48, 60), (24, 30)), ((10, 14), (27, 38))]
)
def test_cells_of_objects_are_areas(original, resized) -> None:
    """Against the frame blown up until every pixel and every cell is a whole number of squares."""
    (height, width), (new_height, new_width) = original, resized
    geometry = Geometry(height, width, new_height, new_width, 32, 64, 4)
    mask = np.random.default_rng(0).random((2, height, width)) < 0.4
    rles = [coco.encode(np.asfortranarray(own.view(np.uint8))) for own in mask]
    found = object_cells({"a": [rles[0], None], "b": [None, rles[1]]}, geometry)
    rows, columns = cells_of(geometry)
    assert found.shape == (2, 2, rows, columns) and found.dtype == np.float16
    assert not found[1, 0].any() and not found[0, 1].any()
    for t in range(2):
        blown = np.kron(mask[t], np.ones((new_height, new_width)))  # of height * new_height
        for i in range(rows):
            for j in range(columns):
                cell = blown[4 * i * height : 4 * (i + 1) * height,
                             4 * j * width : 4 * (j + 1) * width]  # fmt: skip
                assert abs(found[t, t, i, j] - cell.mean()) < 1e-3
    assert object_cells({}, geometry) is None
