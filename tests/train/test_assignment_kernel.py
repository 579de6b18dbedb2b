"""Matches that stay on a GPU: what the kernel finds there, and that the loss is the same with them.

Without a device its part is taken by what it imitates.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.train.test_assignment import World
from train.losses import HeadCriterion, assignment_kernel, criterion, sample_points
from train.losses.assignment import assign
from train.losses.assignment_kernel import KernelError, assign_all, compiled

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def by_scipy(costs: Tensor, counts: Sequence[int]) -> Tensor:
    """`assign_all` on a CPU; what is behind a sample's matches is anything."""
    samples, layers, queries, targets = costs.shape
    found = torch.full((samples, layers, 2, min(queries, targets)), -7)
    for own, table, count in zip(found, costs.numpy(), counts, strict=True):
        for layer, cost in zip(own, table[..., :count], strict=True):
            pair = assign(cost)
            layer[:, : len(pair.queries)] = torch.stack(pair[:2])
    return found


@pytest.fixture
def device_path(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(criterion, "on_cpu", lambda tensor: False)
    monkeypatch.setattr(criterion, "assign_all", by_scipy)
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
    device_path.undo()
    expected = terms(World(targets), loss)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].nan_to_num(-1.0), value.nan_to_num(-1.0)), name


def test_without_the_kernel_matches_come_to_the_host(device_path: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KernelError("no compiler")

    device_path.setattr(criterion, "assign_all", fails)
    device_path.setattr(assignment_kernel, "WORKS", True)
    loss = HeadCriterion(num_points=16)
    with pytest.warns(UserWarning, match="no compiler"):
        found = terms(World(), loss)
    again = terms(World(), loss)  # is not tried again
    assert all(torch.equal(found[n].nan_to_num(), again[n].nan_to_num()) for n in found)


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
