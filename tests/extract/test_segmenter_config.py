"""Sizes of a segmenter: what is refused, and in which words."""

import pytest

from cache_schema.host.cli import InputError
from extract.segmenters.base import configure
from extract.segmenters.vita import VITAConfig

SWIN = {
    "type": "swin",
    "embed_dim": 32,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 5,
}
VALUES = {
    "backbone": SWIN,
    "num_frame_queries": 16,
    "num_video_queries": 12,
    "window_size": 4,
    "num_classes": 12,
    "hidden_dim": 64,
}


def test_from_dict_gives_the_library_its_sizes() -> None:
    config = configure(VITAConfig, VALUES | {"decoder_layers": 4, "feedforward_dim": 256})
    mask2former = config.mask2former()
    assert mask2former.backbone_config.depths == [1, 1, 2, 1]
    assert mask2former.num_queries == 16
    assert mask2former.num_labels == 12
    assert mask2former.feature_size == mask2former.hidden_dim == 64
    assert mask2former.mask_feature_size == 256
    assert mask2former.dim_feedforward == 256
    assert mask2former.encoder_feedforward_dim == 1024


@pytest.mark.parametrize("depth, blocks", [(50, [3, 4, 6, 3]), (101, [3, 4, 23, 3])])
def test_resnets(depth: int, blocks: list[int]) -> None:
    backbone = {"type": "resnet", "depth": depth}
    config = configure(VITAConfig, VALUES | {"backbone": backbone}).mask2former()
    assert config.backbone_config.depths == blocks
    assert config.backbone_config.hidden_sizes == [256, 512, 1024, 2048]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_querys": 3}, ["unknown config key 'segmenter.num_querys'", "num_frame_queries"]),
        ({"backbone": {"type": "vit"}}, ["segmenter.backbone", "'swin' or 'resnet'"]),
        ({"backbone": "swin"}, ["segmenter.backbone", "'swin' or 'resnet'"]),
        ({"backbone": {"type": "resnet", "depth": 34}}, ["34", "choose one of 50, 101"]),
        ({"backbone": {"type": "resnet"}}, ["segmenter.backbone.depth has no default"]),
        (
            {"backbone": SWIN | {"depth": 50}},
            ["unknown config key", "backbone.depth'", "embed_dim"],
        ),
        ({"backbone": SWIN | {"depths": (1, 1)}}, ["depths", "a list of 4 whole numbers"]),
        ({"num_classes": 0}, ["num_classes is 0; it has to be from 1 to 65536"]),
        ({"window_size": -1}, ["window_size", "from 0 to"]),
        ({"num_heads": "8"}, ["num_heads", "'8'"]),
        ({"hidden_dim": 48}, ["hidden_dim", "48", "multiple of 32"]),
        ({"decoder_layers": 1}, ["decoder_layers is 1; it has to be from 2 to 256"]),
        ({"pixel_mean": (1.0, 2.0)}, ["pixel_mean", "a list of 3 numbers"]),
        *(
            ({name: value}, [f"key segmenter.{name} is", "it has to be"])
            for name in ("pixel_mean", "pixel_std")
            for value in ("abc", 5, None, [1, 2, "x"], (1.0, float("nan"), 1.0), [True, 1, 1])
        ),
        ({"pixel_std": (1.0, 0.0, 1.0)}, ["pixel_std is 0.0; it has to be from"]),
        *(
            ({"backbone": SWIN | {name: value}}, [f"segmenter.backbone.{name}", "it has to be"])
            for name in SWIN
            for value in ("abc", None, 1.5, -1, True, 10**30)
            if name != "type"
        ),
        ({"hidden_dim": 10**30}, ["hidden_dim", "from 1 to"]),
    ],
)
def test_bad_sizes_are_named(changes: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        configure(VITAConfig, VALUES | changes)
    for word in words:
        assert word in str(error.value)


def test_a_missing_size_is_named() -> None:
    with pytest.raises(InputError, match="key segmenter.num_classes has no default"):
        configure(VITAConfig, {k: v for k, v in VALUES.items() if k != "num_classes"})
