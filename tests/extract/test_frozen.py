"""The frozen promise: whatever is done around a VITA, its weights and what it says stay."""

import copy

import pytest
import torch
from stage_one import DEMO
from torch import Tensor, nn
from torch.nn import functional as F
from vita_cases import SHIPPED, load

from extract.config import load_config
from extract.frozen import freeze
from extract.segmenters.base import configure
from extract.segmenters.vita import VITA, VITAConfig
from train.heads import CacheSizes, HeadInputs
from train.heads.dmvs import DMVS

STEPS = 3


@pytest.fixture(params=["resnet", "swin"])
def vita(request: pytest.FixtureRequest) -> VITA:
    """A model with batch norms, and one with drop paths; random and trained weights."""
    if request.param == "resnet":
        return load(SHIPPED, "tiny_r50")
    config = configure(VITAConfig, load_config(DEMO).segmenter)
    return VITA.load(config, DEMO.parents[1] / "assets/vita_tiny.safetensors")


def state(vita: VITA) -> dict[str, Tensor]:
    """Everything a module holds, also what no file of weights has."""
    named = dict(vita.named_parameters()) | dict(vita.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def outputs(vita: VITA, images: Tensor) -> list[Tensor]:
    frames = vita.frames(images)[0]
    video = vita.video(frames.frame_queries[None])
    return [
        frames.frame_queries,
        frames.mask_features,
        video.video_queries,
        video.logits,
        video.mask_embeds,
    ]


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def test_training_mode_changes_nothing(vita: VITA) -> None:
    before = outputs(vita, images(3))
    assert vita.train() is vita and vita.train(True) is vita
    nn.ModuleList([vita]).train()  # as a part of something that is trained
    assert not any(module.training for module in vita.modules())
    assert not any(parameter.requires_grad for parameter in vita.parameters())
    assert all(map(torch.equal, outputs(vita, images(3)), before))


def test_training_mode_of_any_part_changes_nothing(vita: VITA) -> None:
    before = outputs(vita, images(3))
    vita.head.train()
    vita.frame_model.model.pixel_level_module.encoder.train(True)
    for module in vita.modules():
        assert module.train() is module and module.train(True) is module
    assert not any(module.training for module in vita.modules())
    assert all(map(torch.equal, outputs(vita, images(3)), before))


def test_copies_of_a_frozen_model_are_frozen(vita: VITA) -> None:
    copied = copy.deepcopy(vita)
    assert not any(module.train().training for module in copied.modules())
    assert all(map(torch.equal, outputs(copied, images(2)), outputs(vita, images(2))))


def test_freezing_leaves_other_models_alone() -> None:
    frozen, other = freeze(nn.Sequential(nn.Dropout())), nn.Dropout()
    assert isinstance(frozen, nn.Sequential) and isinstance(frozen[0], nn.Dropout)
    assert freeze(frozen) is frozen and not frozen[0].train().training
    assert other.train().training


def test_dropout_and_drop_path_are_inert(vita: VITA) -> None:
    """Each would change what comes out, if it did anything."""
    before = outputs(vita, images(3))
    rates = {}
    for module in vita.modules():
        for name in ("p", "drop_prob", "dropout", "attention_dropout", "activation_dropout"):
            if isinstance(rate := getattr(module, name, None), float):
                rates[module, name] = rate
                setattr(module, name, 0.5)
    assert len(rates) > 5
    try:
        assert all(map(torch.equal, outputs(vita.train(), images(3)), before))
        assert all(map(torch.equal, outputs(vita.train(), images(3)), before))
    finally:
        for (module, name), rate in rates.items():
            setattr(module, name, rate)


def test_training_a_head_leaves_the_segmenter_as_it_is(vita: VITA) -> None:
    """Even if the optimiser is given the segmenter's weights, and decays weights."""
    torch.manual_seed(0)
    config = vita.config
    head = DMVS(
        CacheSizes(
            config.hidden_dim, 8, config.mask_dim, config.num_video_queries, config.num_classes
        ),
        hidden_dim=config.hidden_dim,
        num_motion_queries=4,
        num_layers=1,
        num_heads=2,
        feedforward_dim=16,
    )
    both = nn.ModuleList([vita, head])
    optimizer = torch.optim.AdamW(both.parameters(), lr=1e-3, weight_decay=0.1)
    frozen = state(vita)
    learning = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    said = outputs(vita, images(4))
    for step in range(STEPS):
        both.train()
        # copies, as the cache has them
        queries, features, video, logits, _ = (t.clone() for t in outputs(vita, images(4, step)))
        one_word = torch.ones(1, 1, dtype=torch.bool)
        found = head(
            HeadInputs(
                frame_queries=queries[None],
                frame_mask=torch.ones(1, 4, dtype=torch.bool),
                video_queries=video,
                video_logits=logits,
                words=torch.randn(1, 1, 8),
                word_mask=one_word,
                static=one_word,
                motion=one_word,
                sentence=torch.randn(1, 8),
            )
        )[-1]
        masks = torch.einsum("qc,tchw->qthw", found.mask_embeds[0], features)
        target = (torch.rand_like(masks) > 0.5).float()
        loss = F.binary_cross_entropy_with_logits(masks, target) + found.logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(not torch.equal(learning[n], t) for n, t in head.state_dict().items() if "bias" in n)
    assert all(parameter.grad is None for parameter in vita.parameters())
    after = state(vita)
    assert after.keys() == frozen.keys()
    assert [name for name, tensor in after.items() if not torch.equal(tensor, frozen[name])] == []
    assert all(map(torch.equal, outputs(vita, images(4)), said))
