"""The kernels of training, and that the loss is the same with matches that stay on a GPU.

Without a device its part is taken by what it imitates.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.test_assignment import World
from train import kernels
from train.kernels import assign_all, compiled
from train.losses import HeadCriterion, sample_points
from train.losses.assignment import assign
from train.losses.points import STEP

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def by_scipy(costs: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """`assign_all` on a CPU, which also ends with costs that are no numbers; what is behind a
    sample's matches is anything."""
    samples, layers, queries, targets = costs.shape
    counts = counts or [targets] * samples
    found = torch.full((samples, layers, 2, min(queries, targets)), -7)
    for own, table, count in zip(found, costs.nan_to_num().numpy(), counts, strict=True):
        for layer, cost in zip(own, table[..., :count], strict=True):
            pair = assign(cost)
            layer[:, : len(pair.queries)] = torch.stack(pair[:2])
    return found


def by_numpy(states: Tensor, pairs: int) -> Tensor:
    """`draw` on a CPU."""
    steps = np.uint64(STEP) * np.arange(1, pairs + 1, dtype=np.uint64)
    bits = states.cpu().numpy().view(np.uint64)[:, None] + steps
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    both = np.stack([bits >> np.uint64(40), bits >> np.uint64(8) & np.uint64(2**24 - 1)], -1)
    return torch.from_numpy(both.astype(np.float32) * np.float32(2**-24))


@pytest.fixture
def device_path(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "assign_all", by_scipy)
    monkeypatch.setattr(kernels, "draw", by_numpy)
    return monkeypatch


def terms(world: World, loss: HeadCriterion) -> dict[str, Tensor]:
    torch.manual_seed(1)
    outputs = world.outputs()
    found = loss.terms(outputs, world, random=sample_points([1, 2, 3], "cpu"))
    sum(own for name, own in found.items() if name.startswith("loss")).backward()
    return {**found, **{f"{k}": own.logits.grad for k, own in enumerate(outputs)}}


@pytest.mark.parametrize("targets", [0, 2])
def test_the_loss_is_that_of_matches_on_the_host(
    targets: int, device_path: pytest.MonkeyPatch
) -> None:
    loss = HeadCriterion(num_points=16)
    found = terms(World(targets), loss)
    device_path.setattr(HeadCriterion, "stays", False)
    expected = terms(World(targets), loss)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].nan_to_num(-1.0), value.nan_to_num(-1.0)), name


def test_without_the_kernels_a_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device) -> None:
        raise OSError("no NVRTC")

    monkeypatch.setattr(kernels, "_kernels", fails)
    with pytest.warns(UserWarning, match="slower steps, for want of kernels: OSError: no NVRTC"):
        assert not kernels.available.__wrapped__(torch.device("cuda"))
    assert not kernels.available(torch.device("cpu"))


def test_a_sample_s_points_do_not_depend_on_the_others(device_path: pytest.MonkeyPatch) -> None:
    several = sample_points([3, 2**64 - 1, 5], "cpu")
    found = [several([0, 0, 2, 1, 1], 4), several([2, 1], 7)]
    alone = sample_points([2**64 - 1], "cpu")
    assert torch.equal(found[0][3:], alone([0, 0], 4)) and torch.equal(found[1][1:], alone([0], 7))
    rows = torch.cat([*found[0], *found[1]])
    assert len(rows.unique(dim=0)) == len(rows)


def test_numbers_are_uniform(device_path: pytest.MonkeyPatch) -> None:
    numbers = sample_points([0, 1], "cpu")([0, 1], 20000).flatten(0, 1)
    assert numbers.min() >= 0 and numbers.max() < 1
    cells = (numbers * 8).long() @ torch.tensor([8, 1])
    counts = torch.bincount(cells, minlength=64)
    assert (counts - 625).abs().max() < 5 * 25  # standard deviations


def test_it_compiles_or_there_is_no_nvrtc() -> None:
    try:
        from torch.cuda._utils import _get_gpu_rtc_library

        _get_gpu_rtc_library()
    except (ImportError, AttributeError, OSError):
        pytest.skip("torch came without NVRTC")
    assert compiled("90").startswith(b"\x7fELF")


@on_cuda
@pytest.mark.parametrize("shape", [(3, 6, 20, 5), (2, 1, 3, 40), (1, 2, 100, 100), (4, 2, 7, 1)])
def test_the_kernel_finds_what_scipy_finds(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(shape, generator=generator)
    counts = torch.randint(0, shape[-1] + 1, shape[:1], generator=generator).tolist()
    found, expected = assign_all(costs.cuda(), counts).cpu(), by_scipy(costs, counts)
    for own, other, count in zip(found, expected, counts, strict=True):
        assert torch.equal(own[..., :count], other[..., :count])


@on_cuda
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_kernel_ends_whatever_the_costs(value: float) -> None:
    costs = torch.randn(2, 3, 20, 5)
    costs[torch.rand(costs.shape) < 0.5] = value
    queries, targets = assign_all(costs.cuda(), [5, 2]).cpu()[..., :2].unbind(2)
    assert ((queries >= 0) & (queries < 20)).all() and ((targets >= 0) & (targets < 5)).all()


@on_cuda
def test_the_kernel_draws_what_numpy_draws() -> None:
    states = torch.tensor([0, 1, -1, 2**62])
    assert torch.equal(kernels.draw(states.cuda(), 1000).cpu(), by_numpy(states, 1000))
