"""A VidEoMT of the demo world: training learns, a killed run goes on, what it writes loads."""

import torch

from cache_schema.host import cli
from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.videomt import VidEoMT, VidEoMTConfig
from scripts import pretrain_demo_videomt as script


def test_it_learns_and_is_loaded_as_published_weights_are(tmp_path, monkeypatch):
    small = "hidden_size=32, num_hidden_layers=2, num_blocks=1, image_size=64"
    own = f"from extract.configs.demo_videomt import *\nsegmenter = dict(segmenter, {small})\n"
    (tmp_path / "small.py").write_text(own)
    monkeypatch.setattr(script, "CONFIG", tmp_path / "small.py")
    seen = []

    def watched(*clip):
        seen.append(loss(*clip))
        return seen[-1]

    loss = script.clip_loss
    monkeypatch.setattr(script, "clip_loss", watched)
    command = ["--out", str(tmp_path), "--scenes", "1", "--batch", "1", "--frames", "2"]
    assert cli.run(script.main, [*command, "--steps", "30"]) == 0
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])
    config = configure(VidEoMTConfig, load_config(script.CONFIG).segmenter)
    loaded = VidEoMT.load(config, str(tmp_path / "model"))
    saved = torch.load(tmp_path / "videomt.pth", weights_only=True)
    own = loaded.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in saved["model"].items())
    del seen[:]
    assert cli.run(script.main, [*command, "--steps", "30"]) == 0 and not seen  # it is finished


def test_the_loss_is_small_where_masks_and_classes_are_right():
    masks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)  # (M, T, H, W)
    masks[0, :, :4], masks[1, :, 4:] = True, True
    labels = torch.tensor([1, 0])
    maps = torch.full((3, 4, 8, 8), -20.0)
    maps[:, 2], maps[:, 0] = 40.0 * masks[0] - 20, 40.0 * masks[1] - 20
    logits = torch.zeros(3, 4, 3)
    logits[:, [2, 0, 1, 3], [1, 0, 2, 2]] = 20.0
    assert script.clip_loss(maps, logits, (masks, labels)) < 1e-3
    assert script.clip_loss(maps, logits, (masks, 1 - labels)) > 1  # of the other classes
    assert script.clip_loss(maps.flip(0).roll(1, 2), logits, (masks, labels)) > 1
