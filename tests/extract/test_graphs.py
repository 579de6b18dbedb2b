"""Chunks by captured graphs: here what is around the capture, and all of it where there is CUDA."""

import copy

import pytest
import torch
from stage_one import DEMO
from torch import Tensor

from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.vita import VITA, VITAConfig, forms, graphs
from extract.segmenters.vita.forms import constant, holding
from extract.segmenters.vita.graphs import Graphs

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Replayed:
    """In place of a graph: runs the function into the outputs that it had."""

    def __init__(self, function, images: Tensor, outputs: tuple[Tensor, ...]) -> None:
        self.function, self.images, self.outputs = function, images, outputs

    def replay(self) -> None:
        for output, fresh in zip(self.outputs, self.function(self.images), strict=True):
            output.copy_(fresh)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Sizes of what was captured, by a stand-in for the device."""
    sizes: list[torch.Size] = []

    def capture(self: Graphs, images: Tensor) -> graphs._Graph:
        sizes.append(images.shape)
        outputs = self._function(images)
        replayed = Replayed(self._function, images, outputs)
        return graphs._Graph(replayed, images, outputs, [])

    monkeypatch.setattr(Graphs, "_capture", capture)
    return sizes


def double(images: Tensor) -> tuple[Tensor, Tensor]:
    return images * 2, images.sum(1)


def test_chunks_of_every_length_give_what_the_function_does(captured) -> None:
    run, generator = Graphs(double), torch.Generator().manual_seed(0)
    results = []
    for count in (8, 3, 1, 4, 8, 7, 5):
        images = torch.randn(count, 3, 2, generator=generator)
        results.append((run(images, 0), double(images)))
    for found, expected in results:  # after all of them: nobody writes into an earlier result
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert [size[0] for size in captured] == [8, 4]


def test_a_bounded_number_of_graphs_is_kept_and_changes_start_anew(captured, monkeypatch) -> None:
    monkeypatch.setattr(graphs, "GRAPHS", 2)
    run = Graphs(double)
    for width in (1, 2, 1, 3, 1, 2):
        run(torch.ones(4, width), 0)
    assert [size[1] for size in captured] == [1, 2, 3, 2]
    run(torch.ones(4, 2), 1)
    assert len(captured) == 5


def test_a_failed_capture_is_one_warning_and_no_graphs(monkeypatch) -> None:
    def fail(self, images):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graphs, "_capture", fail)
    run = Graphs(double)
    with pytest.warns(UserWarning, match="no CUDA graph, .* not permitted") as warned:
        found = [run(torch.ones(3, 2), 0) for _ in range(3)]
    assert len(warned) == 1
    assert all(torch.equal(each[0], torch.full((3, 2), 2.0)) for each in found)


def test_constants_are_held_after_they_left_the_cache() -> None:
    made = []

    @constant(maxsize=1)
    def ones(length: int) -> Tensor:
        made.append(length)
        return torch.ones(length)

    first = ones(2)
    with holding() as held:
        assert ones(2) is first
        ones(3)
    ones(2)
    assert made == [2, 3, 2] and held[0] is first and len(held) == 2


@pytest.fixture(scope="module")
def vita() -> VITA:
    torch.manual_seed(0)
    return VITA(configure(VITAConfig, load_config(DEMO).segmenter))


@on_cuda
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_frame_level_is_the_same_by_graphs(vita: VITA, dtype: torch.dtype | None) -> None:
    used = copy.deepcopy(vita).cuda()
    used.autocast = dtype
    for count in (8, 3, 8):
        images = torch.randn(count, 3, 96, 160, device="cuda")
        used.graphs = True
        found = used.frames(images)[0]
        used.graphs = False
        expected = used.frames(images)[0]
        difference = (found.mask_features - expected.mask_features).abs().max()
        assert difference <= 1e-4 * expected.mask_features.abs().max()
    assert not used._graphs.error


@on_cuda
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_frame_level_is_the_same_on_a_gpu(
    vita: VITA, monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(forms, "layout", lambda device: layout)
    images = torch.randn(2, 3, 96, 160)
    expected = vita.frames(images)[0]
    found = copy.deepcopy(vita).cuda().frames(images.cuda())[0]
    assert (found.mask_features.cpu() - expected.mask_features).abs().max() < 1e-3
    assert forms.KERNEL  # which did not fail
