"""VITA beyond the goldens: windows, time reversal, chunks, batches, training of the head."""

import pytest
import torch
from vita_cases import SHIPPED, load

from extract.segmenters.vita import VITA, VITAConfig, VITAHead

R50 = {"type": "resnet", "depth": 50}


@pytest.fixture(scope="module")
def vita() -> VITA:
    return load(SHIPPED, "tiny_r50")


def head_config(window: int) -> VITAConfig:
    return VITAConfig(
        backbone=R50,
        num_frame_queries=3,
        num_video_queries=5,
        window_size=window,
        num_classes=4,
        hidden_dim=32,
        mask_dim=16,
        num_heads=2,
        video_feedforward_dim=48,
        encoder_layers=3,
    )


def queries(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [0, 1, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 12])
def test_windows_are_a_mask_over_time(window: int, frames: int) -> None:
    """The encoder equals full attention under the mask that its windows stand for."""
    torch.manual_seed(window)
    head = VITAHead(head_config(window)).eval()
    inputs = queries(2, frames, 3, 32)
    dense = inputs.flatten(1, 2)  # (B, T*N_f, C)
    time = torch.arange(frames).repeat_interleave(3)
    with torch.no_grad():
        for index, (attention, ffn) in enumerate(
            zip(head.enc_self_attn, head.enc_ffn, strict=True)
        ):
            shift = (window + 1) // 2 if index % 2 else 0
            place = (time + shift) // window if window else torch.zeros_like(time)
            apart = place[:, None] != place[None, :]
            attended = attention.self_attn(dense, dense, dense, attn_mask=apart)[0]
            dense = ffn(attention.norm(dense + attended))
        encoded = head.encode(inputs)
    torch.testing.assert_close(encoded.flatten(1, 2), dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [4, 8, 12])
def test_a_video_and_its_reverse_have_equal_video_queries(vita: VITA, frames: int) -> None:
    """The arrow of time is invisible to VITA when T is a multiple of the window."""
    clip = queries(1, frames, 20, 64)
    forward, backward = vita.video(clip), vita.video(clip.flip(1))
    assert forward.video_queries.std() > 0.1
    torch.testing.assert_close(forward.video_queries, backward.video_queries, atol=1e-4, rtol=0)
    torch.testing.assert_close(forward.mask_embeds, backward.mask_embeds, atol=1e-4, rtol=0)


def test_order_matters_where_windows_change(vita: VITA) -> None:
    """The reversal test would not notice a head that ignores frames altogether; this does."""
    clip = queries(1, 8, 20, 64)
    shuffled = clip[:, [0, 4, 1, 5, 2, 6, 3, 7]]
    difference = vita.video(clip).video_queries - vita.video(shuffled).video_queries
    assert difference.abs().max() > 1e-3


def test_chunks_do_not_change_what_frames_say(vita: VITA) -> None:
    images = queries(5, 3, 64, 96)
    whole = vita.frames(images)[0]
    for size in (1, 2, 4):
        parts = [vita.frames(chunk)[0] for chunk in images.split(size)]
        found = torch.cat([part.frame_queries for part in parts])
        torch.testing.assert_close(found, whole.frame_queries, atol=1e-5, rtol=0)
        found = torch.cat([part.mask_features for part in parts])
        torch.testing.assert_close(found, whole.mask_features, atol=1e-5, rtol=0)


def test_a_batch_of_clips_equals_its_clips(vita: VITA) -> None:
    clips = queries(3, 6, 20, 64)
    batch = vita.video(clips)
    for index in range(3):
        alone = vita.video(clips[index : index + 1])
        torch.testing.assert_close(
            alone.video_queries[0], batch.video_queries[index], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(alone.logits[0], batch.logits[index], atol=1e-5, rtol=0)


def test_shapes_of_frames(vita: VITA) -> None:
    output = vita.frames(queries(2, 3, 64, 96))[0]
    assert output.frame_queries.shape == (2, 20, 64)
    assert output.mask_features.shape == (2, 64, 16, 24)


def test_vita_is_frozen(vita: VITA) -> None:
    vita.train()
    assert not any(module.training for module in vita.modules())
    assert not any(parameter.requires_grad for parameter in vita.parameters())
    assert not vita.video(queries(1, 4, 20, 64).requires_grad_()).video_queries.requires_grad


def test_head_trains_on_its_own_with_deep_supervision() -> None:
    head = VITAHead(head_config(4)).train()
    layers = head(queries(2, 6, 3, 32), all_layers=True, similarity=True)
    assert len(layers) == 3
    assert layers[0].video_queries.shape == (2, 5, 32)
    assert layers[0].logits.shape == (2, 5, 5)
    assert layers[0].mask_embeds.shape == (2, 5, 16)
    assert layers[0].sim_frame.shape == (2, 6, 3, 32)
    assert layers[0].sim_clip.shape == (2, 5, 32)
    features = head.vita_mask_features(queries(2, 32, 4, 4))
    loss = features.square().mean() + sum(
        layer.logits.square().mean()
        + layer.mask_embeds.square().mean()
        + (layer.sim_frame.mean() - layer.sim_clip.mean()).square()
        for layer in layers
    )
    loss.backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_last_of_all_layers_is_the_output() -> None:
    head = VITAHead(head_config(4)).eval()
    clip = queries(1, 5, 3, 32)
    last, layers = head(clip), head(clip, all_layers=True)
    assert torch.equal(last.logits, layers[-1].logits)
    assert last.sim_frame is None and last.sim_clip is None


def test_windows_shift_in_evaluation_only() -> None:
    head = VITAHead(head_config(4)).train()
    clip = queries(1, 8, 3, 32)
    moved = clip.clone()
    moved[:, 4:] += 1  # in another window than the first four frames
    with torch.no_grad():
        assert torch.equal(head.encode(clip)[:, :4], head.encode(moved)[:, :4])
        head.eval()
        assert not torch.equal(head.encode(clip)[:, :4], head.encode(moved)[:, :4])


def test_full_size_models_build() -> None:
    sizes = {"num_frame_queries": 100, "num_video_queries": 100, "window_size": 6}
    with torch.device("meta"):
        vita = VITA(VITAConfig(backbone=R50, num_classes=25, **sizes))
    # the original's OVIS model has 57.1 million
    assert 57_000_000 < sum(p.numel() for p in vita.parameters()) < 57_300_000
