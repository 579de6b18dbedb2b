"""The demo's segmenter can be trained again: the script runs, and what it writes loads."""

import pytest
import torch

from cache_schema.host import cli
from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.vita import VITA, VITAConfig
from scripts.pretrain_demo_segmenter import CONFIG, main


def pretrain(folder, frame_steps, video_steps):
    steps = ["--frame-steps", str(frame_steps), "--video-steps", str(video_steps)]
    scenes = ["--frame-scenes", "3", "--video-scenes", "3"]
    assert cli.run(main, ["--out", str(folder), *steps, *scenes]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    pretrain(folder, 2, 2)
    return folder


def test_the_file_loads_as_any_other_weights(trained):
    sizes = configure(VITAConfig, load_config(CONFIG).segmenter)
    vita = VITA.load(sizes, trained / "vita_tiny.safetensors")
    saved = torch.load(trained / "video_level.pth", weights_only=True)["model"]
    own = vita.head.state_dict()
    for name, tensor in saved.items():
        assert torch.allclose(own[name], tensor, atol=1e-2, rtol=1e-3), name


def test_a_finished_run_is_not_trained_again(trained):
    before = (trained / "frame_level.pth").stat().st_mtime_ns
    pretrain(trained, 2, 2)
    assert (trained / "frame_level.pth").stat().st_mtime_ns == before
