"""Our VITA against outputs of the original, from the original's own checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stage_one import prepare
from vita_cases import SHIPPED, cases, config_of, model_of, unpacked

from extract.segmenters.masks import mask_logits, to_original
from extract.segmenters.preprocessing import Preprocessor
from extract.segmenters.vita import VITA
from extract.segmenters.vita.key_mapping import rename

FEATURES = 1e-4
LOGITS = 1e-3
FLIPPED_PIXELS = 1e-4


@pytest.mark.parametrize("case", cases())
def test_agrees_with_the_original(case: Path) -> None:
    golden, vita = np.load(case), model_of(case)
    # 0 says: no resizing
    short, longest = (int(golden[key]) or None for key in ("resize_min", "resize_max"))
    preprocess = Preprocessor(short, longest, vita.config.pixel_mean, vita.config.pixel_std)
    images, geometries = zip(
        *(prepare(preprocess, frame) for frame in golden["frames"]), strict=True
    )
    geometry = geometries[0]
    resized = (geometry.resized_height, geometry.resized_width)
    assert resized == tuple(golden["input_image_size"])
    assert (geometry.height, geometry.width) == tuple(golden["out_size"])

    frames = vita.frames(torch.stack(images))[0]
    encoded = vita.head.encode(vita.head.input_proj_dec(frames.frame_queries[None]))
    with torch.no_grad():
        video = vita.head(frames.frame_queries[None], similarity=True)
        frame_logits = vita.frame_model.class_predictor(frames.frame_queries)
    ours = {
        "padded_normalized_input_t0": images[0],
        "frame_queries": frames.frame_queries,
        "vita_mask_features": frames.mask_features,
        "frame_pred_logits": frame_logits,
        "enc_out": encoded[0],
        "video_queries": video.video_queries[0],
        "pred_logits": video.logits[0],
        "pred_mask_embed": video.mask_embeds[0],
        "pred_fq_embed": video.sim_frame[0],
        "pred_cq_embed": video.sim_clip[0],
    }
    for name, tensor in ours.items():
        expected = torch.from_numpy(golden[name])
        if name == "vita_mask_features":  # trimmed cases have the first frames only
            tensor = tensor[: len(expected)]
        torch.testing.assert_close(
            tensor, expected, atol=FEATURES, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )

    logits = mask_logits(frames.mask_features, video.mask_embeds[0])  # (T, N_v, h, w)
    features = torch.from_numpy(golden["vita_mask_features"])
    expected = mask_logits(features, torch.from_numpy(golden["pred_mask_embed"]))
    torch.testing.assert_close(logits[: len(expected)], expected, atol=LOGITS, rtol=0)

    width = golden["pred_masks_shape"][-1]
    packed = golden["pred_masks_packed"]
    expected = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)  # (N, T, H, W)
    chosen = logits[:, golden["topk_query_index"]].transpose(0, 1)  # (N, T, h, w)
    masks = (to_original(chosen, geometry) > 0).numpy()
    assert masks.shape == expected.shape
    assert (masks != expected).mean() <= FLIPPED_PIXELS


@pytest.mark.parametrize("case", cases())
def test_resizes_as_the_original(case: Path) -> None:
    golden = np.load(case)
    if "resized_t0" not in golden:
        pytest.skip("the case has frames as they are")
    plain = Preprocessor(int(golden["resize_min"]), int(golden["resize_max"]), (0, 0, 0), (1, 1, 1))
    image, geometry = prepare(plain, golden["frames"][0])
    image = image[:, : geometry.resized_height, : geometry.resized_width]
    np.testing.assert_array_equal(image.numpy(), golden["resized_t0"])


def test_swin_stages_agree_with_the_original() -> None:
    """The shipped part of the Swin goldens: a backbone up to its third stage."""
    vita = VITA(config_of(SHIPPED / "tiny_swin_config.json"))
    checkpoint = torch.load(unpacked(SHIPPED / "swin_stages.pth"), weights_only=True)["model"]
    renamed = {
        name: part
        for key, tensor in checkpoint.items()
        if (names := rename(key))
        for name, part in zip(names, tensor.chunk(len(names)), strict=True)
    }
    assert not vita.load_state_dict(renamed, strict=False).unexpected_keys
    golden = np.load(SHIPPED / "swin_stages.npz")
    with torch.no_grad():
        maps = vita.frame_model.model.pixel_level_module.encoder(
            torch.from_numpy(golden["padded_normalized_input_t0"])[None]
        ).feature_maps
    for stage in (2, 3, 4):
        expected = torch.from_numpy(golden[f"backbone_res{stage}_t0"])[None]
        torch.testing.assert_close(maps[stage - 2], expected, atol=FEATURES, rtol=0)
