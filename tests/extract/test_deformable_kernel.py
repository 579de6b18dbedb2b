"""The CUDA kernel of deformable attention: that it compiles, and on a device what it computes.

What happens where it fails is tested with the frame level.
"""

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from extract.segmenters.vita.deformable import relative_centres
from extract.segmenters.vita.deformable_kernel import compiled, weighted_sums

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
# heads, channels of a head, maps, points in each: published sizes, the demo's, and odd ones
SIZES = [(8, 32, 3, 4), (4, 16, 3, 4), (2, 8, 3, 4), (3, 5, 4, 2), (1, 7, 1, 1), (2, 64, 2, 3)]
SHAPES = [(9, 14), (18, 28), (1, 5), (3, 1)]


@pytest.fixture
def nvrtc() -> None:
    try:
        from torch.cuda._utils import _get_gpu_rtc_library

        _get_gpu_rtc_library()
    except (ImportError, AttributeError, OSError):
        pytest.skip("torch came without NVRTC")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("sizes", SIZES)
def test_it_compiles(sizes: tuple[int, ...]) -> None:
    for capability in ("80", "90"):
        assert compiled(*sizes, capability).startswith(b"\x7fELF")


@pytest.mark.usefixtures("nvrtc")
def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(RuntimeError, match="gpu-architecture"):
        compiled(*SIZES[0], "0")


def drawn(
    sizes: tuple[int, ...], spread: float, frames: int = 2
) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """Values, offsets, logits and shapes; some points lie on cells and on borders of maps."""
    heads, channels, levels, points = sizes
    shapes = tuple(SHAPES[:levels])
    length = sum(height * width for height, width in shapes)
    generator = torch.Generator().manual_seed(0)

    def normal(width: int) -> Tensor:
        return torch.randn(frames, length, heads * width, generator=generator)

    offsets = spread * normal(levels * points * 2)
    offsets[:, ::3] = offsets[:, ::3].mul(2).round() / 2
    return normal(channels), offsets, 3 * normal(levels * points), shapes


def by_the_library(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: tuple[tuple[int, int], ...],
    heads: int,
    points: int,
) -> Tensor:
    """The same in float64."""
    values, offsets, logits = (
        each.double().unflatten(2, (heads, -1)) for each in (values, offsets, logits)
    )
    centres = torch.cat([relative_centres(*shape) for shape in shapes], 1).T.flip(1)  # (S, 2): x, y
    lengths = torch.tensor(shapes).flip(1)[:, None]  # (L, 1, 2)
    places = centres[:, None, None, None] + offsets.unflatten(3, (-1, points, 2)) / lengths
    weights = logits.softmax(-1).unflatten(3, (-1, points))
    return multi_scale_deformable_attention(values, list(shapes), places, weights)


@on_cuda
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0, 1e6])
def test_it_equals_the_library(sizes: tuple[int, ...], spread: float) -> None:
    *tensors, shapes = drawn(sizes, spread)
    heads, points = sizes[0], sizes[3]
    expected = by_the_library(*tensors, shapes, heads, points)
    tensors = [each.cuda() for each in tensors]
    found = weighted_sums(*tensors, shapes, heads=heads, points=points)
    torch.testing.assert_close(found.cpu().double(), expected, atol=1e-5, rtol=0)


@on_cuda
def test_what_is_no_number_stays_where_it_is() -> None:
    values, offsets, logits, shapes = (
        each.cuda() if isinstance(each, Tensor) else each for each in drawn(SIZES[0], 1.0)
    )
    expected = weighted_sums(values, offsets, logits, shapes, heads=8, points=4)
    offsets[0, 5, 0] = logits[1, 7, -1] = torch.nan  # of the first head, of the last one
    offsets[0, 6] = torch.inf
    found = weighted_sums(values, offsets, logits, shapes, heads=8, points=4)
    broken = torch.zeros_like(found, dtype=torch.bool)
    broken[0, 5, :32] = broken[1, 7, -32:] = True
    assert torch.equal(found.isnan(), broken)
    broken[0, 6] = True
    assert torch.equal(found[~broken], expected[~broken])


@on_cuda
def test_a_graph_captures_it() -> None:
    *tensors, shapes = drawn(SIZES[0], 1.0)
    values, offsets, logits = (each.cuda() for each in tensors)

    def run() -> Tensor:
        return weighted_sums(values, offsets, logits, shapes, heads=8, points=4)

    run()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    values.mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, run())
