"""Scores of many heads in one pass: equal to each head's own evaluation, frame by frame."""

import json
from pathlib import Path

import pytest
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from tests import synthetic
from tests.train.protocol_caches import CONFIG, SIZES, write_cache
from tests.train.scores import score_heads
from train import replay
from train.config import load_config
from train.evaluate import main
from train.evaluation import jf
from train.evaluation.from_cache import expressions
from train.evaluation.from_cache.contents import list_expressions
from train.evaluation.from_cache.head_scores import (
    collect_metrics,
    from_json,
    score_videos,
    to_json,
)
from train.heads import Head, build_head

#: Name to N_m, rule and sigma.
VARIANTS = {
    "few": (2, "threshold", 0.5),
    "many": (6, "threshold", 0.55),
    "best": (4, "top1", 0.5),
    "silent": (4, "threshold", 1.0),
}
RULE = {name: rule for name, (_, rule, _) in VARIANTS.items()}
SIGMA = {name: sigma for name, (_, _, sigma) in VARIANTS.items()}


def _config(folder: Path, queries: int) -> Path:
    path = folder / f"config{queries}.py"
    path.write_text(CONFIG.replace("num_motion_queries=4", f"num_motion_queries={queries}"))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweep_scores")
    # More expressions a video than go through a head together.
    synthetic.write_cache(
        place / "cache", num_videos=3, num_frames=(4, 6, 3), num_expressions=18, N_v=6
    )
    return place


@pytest.fixture(scope="module")
def heads(place: Path) -> dict[str, Head]:
    made = {}
    for seed, (name, (queries, _, _)) in enumerate(VARIANTS.items()):
        torch.manual_seed(seed)
        head = build_head(load_config(_config(place, queries)), SIZES).eval()
        with torch.no_grad():
            head.class_head.weight.mul_(4)  # an untrained head says 0.5 to everything
        made[name] = head
    return made


@pytest.fixture(scope="module")
def together(place: Path, heads: dict[str, Head]) -> dict[str, dict]:
    return score_heads(CacheReader(place / "cache"), heads, rule=RULE, sigma=SIGMA)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_scores_as_alone(
    place: Path, heads: dict[str, Head], together: dict[str, dict], name: str
) -> None:
    queries, rule, sigma = VARIANTS[name]
    weights = {f"head.{key}": value for key, value in heads[name].state_dict().items()}
    torch.save({"meta": {"iter": 0}, "state_dict": weights}, place / f"{name}.pth")
    options = [f"evaluation.rule={rule}", f"evaluation.sigma={sigma}"]
    out = place / f"out_{name}"
    arguments = ["--cache", str(place / "cache"), "--checkpoint", str(place / f"{name}.pth")]
    main(
        [str(_config(place, queries)), *arguments, "--out", str(out), "--device", "cpu"]
        + ["--allow-other-models", "--cfg-options", *options]
    )
    alone = json.loads((out / "metrics.json").read_text())
    assert {key: alone[key] for key in together[name]} == together[name]
    assert together[name]["num_expressions"] == 54


def test_heads_do_not_say_the_same(together: dict[str, dict]) -> None:
    figures = {metrics["J&F"] for metrics in together.values()}
    assert len(figures) == len(VARIANTS)
    assert together["silent"]["T-acc"] == 0.0 and together["best"]["T-acc"] == 1.0


def test_partial_scores_survive_being_stored(
    place: Path, heads: dict[str, Head], together: dict[str, dict]
) -> None:
    reader = CacheReader(place / "cache")
    how = {"rule": RULE, "sigma": SIGMA}
    stream = score_videos(reader, heads, **how)
    first = next(stream)
    stream.close()
    stored = {first[0]: json.loads(json.dumps(to_json(first[1])))}
    listed = list_expressions(reader)
    left = {video_id: items for video_id, items in listed.items() if video_id not in stored}
    resumed = dict(score_videos(reader, heads, videos=left, **how))
    assert set(resumed) == set(listed) - {first[0]}
    assert from_json(stored[first[0]]) == first[1]
    found = [*resumed.values(), from_json(stored[first[0]])]  # in another order
    assert collect_metrics(listed, found) == together


def test_each_frame_and_video_is_read_once_for_all_heads(
    place: Path, heads: dict[str, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []
    for name in ("mask_features", "frame_queries"):
        read = getattr(Video, name)

        def spy(self: Video, *frames: list, name: str = name, read=read, **how: object) -> object:
            asked.append((name, self.id, *map(tuple, frames)))
            return read(self, *frames, **how)

        monkeypatch.setattr(Video, name, spy)
    for _ in score_videos(CacheReader(place / "cache"), heads, rule=RULE, sigma=SIGMA):
        pass
    frames = [("mask_features", f"video{v:03d}", (t,)) for v, n in enumerate((4, 6, 3))
              for t in range(n)]  # fmt: skip
    videos = [("frame_queries", f"video{v:03d}") for v in range(3)]
    assert sorted(asked) == sorted(frames + videos)


def test_masks_of_one_head_exist_at_a_time(
    place: Path, heads: dict[str, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    resize, outline = replay.to_original, jf.Outline
    monkeypatch.setattr(replay, "to_original", lambda *a: events.append("m") or resize(*a))
    monkeypatch.setattr(expressions, "Outline", lambda mask: events.append("s") or outline(mask))
    copies = {f"best{copy}": heads["best"] for copy in range(4)}
    how = {"rule": dict.fromkeys(copies, "top1"), "sigma": dict.fromkeys(copies, 0.5)}
    next(score_videos(CacheReader(place / "cache"), copies, **how))
    longest = max(map(len, "".join(events).split("s")))
    assert longest == 18  # the expressions of one head in one frame


def test_heads_come_back_in_the_mode_they_were_in(place: Path, heads: dict[str, Head]) -> None:
    reader = CacheReader(place / "cache")
    try:
        heads["few"].train()
        found = score_heads(reader, heads, rule=RULE, sigma=SIGMA)
        assert heads["few"].training and not heads["many"].training
    finally:
        heads["few"].eval()
    assert found == score_heads(reader, heads, rule=RULE, sigma=SIGMA)


def test_what_cannot_be_scored_is_refused(tmp_path: Path, heads: dict[str, Head]) -> None:
    how = {"rule": RULE, "sigma": SIGMA}
    write_cache(tmp_path / "davis", "ref_davis")
    with pytest.raises(InputError, match="scored annotator by annotator"):
        score_heads(CacheReader(tmp_path / "davis"), heads, **how)
    write_cache(tmp_path / "secret", "ref_youtube_vos", truth=False)
    with pytest.raises(InputError, match="no ground truth to score heads with"):
        score_heads(CacheReader(tmp_path / "secret"), heads, **how)
