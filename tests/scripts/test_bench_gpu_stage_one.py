"""The benchmark of stage one on a GPU runs at small sizes without one; no time is asserted."""

import argparse
import json
from collections.abc import Iterator

import pytest
import torch

from extract.segmenters.vita import VITA, forms
from scripts.bench_gpu import stage_one, stage_one_parts
from scripts.bench_gpu.kernels import kernel_lines, union

TINY = argparse.Namespace(tiny=True, turn=2.0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Other tests run beside this one, and the settings of the process stay what they are."""
    before = torch.get_num_threads()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def errors(figures: dict) -> list[str]:
    return [f"{name}: {error}" for name, error in stage_one._errors(figures)]


def test_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_one, "PRECISIONS", ("none", "bfloat16+tf32"))
    monkeypatch.setattr(stage_one, "WHOLE", ("bfloat16+tf32", "none"))
    figures: dict = {}
    stage_one.measure(TINY, CPU, figures)
    (found,) = figures["presets"].values()
    assert errors(found) == []
    for name in stage_one.WHOLE:
        rates = found["precisions"][name]
        assert all(rates[name]["rate"] > 0 for name in ("bare", "model", "whole"))
        assert rates["whole"]["videos"] == 3
    assert found["precisions"]["bfloat16+tf32"]["eager"]["rate"] > 0
    assert all("library" in rates for rates in found["precisions"].values())
    assert min(found["alone"].values()) > 0
    assert found["busy"]["wall_ms"] > 0  # on a processor, other threads are not traced
    assert all(each["rate"] > 0 for each in found["variants"].values())
    json.dumps(figures)
    text = "\n".join(stage_one.lines(figures))
    assert "x library" in text and "% of bare" in text and "MeViS" in text
    assert forms.CHANNELS_LAST is None  # as before


def test_what_fails_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: no kernel image")

    monkeypatch.setattr(stage_one, "PRECISIONS", ("none",))
    monkeypatch.setattr(stage_one, "WHOLE", ("none",))
    monkeypatch.setattr(stage_one, "library", fail)
    monkeypatch.setattr(stage_one, "busy", fail)
    monkeypatch.setattr(stage_one_parts, "code", fail)  # of what runs alone
    figures: dict = {}
    stage_one.measure(TINY, CPU, figures)
    (found,) = figures["presets"].values()
    assert sorted(errors(found)) == [
        "alone: RuntimeError: CUDA error: no kernel image",
        "busy: RuntimeError: CUDA error: no kernel image",
        "precisions none library: RuntimeError: CUDA error: no kernel image",
    ]
    assert found["precisions"]["none"]["whole"]["rate"] > 0
    assert "no kernel image" in "\n".join(stage_one.lines(figures))


def test_without_time_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_one, "TURNS", 0.0)
    figures: dict = {}
    stage_one.measure(TINY, CPU, figures)
    assert {error.split(": ")[1] for error in errors(figures["presets"]["demo"])} == {
        "no time was left"
    }


def test_the_profile_names_what_ran() -> None:
    figures: dict = {}
    stage_one.profile(TINY, CPU, figures)
    (found,) = figures.values()
    assert set(found) == {"none", "bfloat16+tf32"}
    for how, chunk in found.items():
        assert len(chunk["top"]) == 10 and "aten::" in "\n".join(kernel_lines(how, chunk))
    assert stage_one.profile_lines(figures)


def test_graphs_are_switched_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = stage_one_parts.Bench(
        stage_one_parts.loaded("demo", CPU, True), None, None, stage_one_parts.TINY, None, 0.0, {}
    )
    monkeypatch.setattr(stage_one_parts, "images_of", lambda *_: torch.zeros(2, 3, 64, 64))
    seen = []
    monkeypatch.setattr(VITA, "frames", lambda self, images: seen.append(self.graphs))
    stage_one_parts.bare(bench, 2, graphs=False)
    assert set(seen) == {False} and bench.stage.segmenter.graphs


def test_the_union_counts_no_moment_twice() -> None:
    assert union([(0, 2, "a"), (1, 2, "b"), (5, 1, "c"), (5.25, 0.5, "d")]) == (4, 6)
    assert union([]) == (0, 0)
