"""The presets: what they hold, and that they are the published models, key by key."""

import json
import lzma
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache_schema.host.cli import InputError
from extract.arguments import presets
from extract.config import load_config
from extract.segmenters.base import configure, find_segmenter
from extract.segmenters.vita import VITA, VITAConfig
from extract.segmenters.vita.convert import sizes_of
from extract.segmenters.vita.key_mapping import published, rename
from extract.segmenters.vita.weights import UNUSED, translate

LAYOUTS = json.loads(
    lzma.decompress((Path(__file__).parents[1] / "data/layouts/layouts.json.xz").read_bytes())
)
FILE = Path("weights.pth")


def sizes(preset: str) -> VITAConfig:
    return configure(VITAConfig, load_config(preset).segmenter)


@cache
def built(preset: str) -> VITA:
    """A full-size model without memory for its weights."""
    with torch.device("meta"):
        return VITA(sizes(preset))


def tensors(layout: str) -> dict[str, Tensor]:
    shapes = LAYOUTS[layout]["shapes"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def refusal(layout: str, content: dict[str, Tensor]) -> str:
    with pytest.raises(InputError) as error:
        translate(built(layout), content, FILE)
    return str(error.value)


def test_every_preset_is_a_configuration() -> None:
    assert len(presets()) >= 18
    for name in presets():
        config = load_config(name)
        configure(find_segmenter(config.segmenter_type).Config, config.segmenter)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_preset_has_the_sizes_of_the_reference(layout: str) -> None:
    values = LAYOUTS[layout]["values"]
    config = sizes(layout)
    assert {name: getattr(config, name) for name in values} == values | {
        name: tuple(values[name]) for name in ("pixel_mean", "pixel_std")
    }
    assert load_config(layout).resize == LAYOUTS[layout]["resize"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_key_has_its_place(layout: str) -> None:
    own = built(layout).state_dict()
    loaded = translate(built(layout), tensors(layout), FILE)
    assert all(tensor.shape == own[name].shape for name, tensor in loaded.items())
    assert all(UNUSED.fullmatch(name) for name in own.keys() - loaded.keys())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_of_parameters(layout: str) -> None:
    """Frozen norms of a ResNet are buffers in the reference, and parameters in the library."""
    expected = LAYOUTS[layout]["parameters"]
    counts = {"backbone": 0, "sem_seg_head": 0, "vita_module": 0}
    for name, parameter in built(layout).named_parameters():
        frozen_norm = "pixel_level_module.encoder" in name and ".normalization." in name
        if not UNUSED.fullmatch(name) and not frozen_norm:
            counts[published(name).split(".")[0]] += parameter.numel()
    assert counts | {"total": sum(counts.values())} == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_lead_back_to_the_published_ones(layout: str) -> None:
    for key in LAYOUTS[layout]["shapes"]:
        assert {published(name) for name in rename(key)} <= {key}


@pytest.mark.parametrize("layout", ["ovis_r50", "coco_swinl"])
def test_what_inference_does_not_need(layout: str) -> None:
    """The whole list; a file may leave it out."""
    unneeded = {key for key in LAYOUTS[layout]["shapes"] if not rename(key)}
    losses = {"criterion.empty_weight", "vita_criterion.empty_weight"}
    indices = {key for key in LAYOUTS[layout]["shapes"] if key.endswith("relative_position_index")}
    assert unneeded == losses | indices
    assert len(indices) == (0 if layout == "ovis_r50" else 24)
    needed = {key: value for key, value in tensors(layout).items() if key not in unneeded}
    translate(built(layout), needed, FILE)


@pytest.mark.parametrize("layout", ["ytvis2019_r101", "ovis_swinl"])
def test_any_key_that_does_not_fit_is_named(layout: str) -> None:
    whole = tensors(layout)
    for key in list(whole)[::41] + list(whole)[-3:]:
        odd = torch.empty(*whole[key].shape, 2, device="meta")
        assert f"1 of another shape: {key} (" in refusal(layout, whole | {key: odd})
        other = f"{key}s"
        assert f"1 unknown to the model: {other})" in refusal(layout, whole | {other: whole[key]})
        if rename(key):
            without = {name: value for name, value in whole.items() if name != key}
            assert f"missing: {key})" in refusal(layout, without)


def test_keys_of_blocks_that_the_model_lacks_are_unknown() -> None:
    """Also where their values would not be needed."""
    index = "backbone.layers.4.blocks.0.attn.relative_position_index"
    assert f"1 unknown to the model: {index})" in refusal(
        "ovis_swinl", tensors("ovis_swinl") | {index: torch.empty(144, 144, device="meta")}
    )
    assert "unknown to the model: backbone.patch_embed" in refusal(
        "ovis_r50", tensors("ovis_swinl")
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_tell_the_sizes(layout: str) -> None:
    found, config = sizes_of(LAYOUTS[layout]["shapes"]), sizes(layout)
    names = LAYOUTS[layout]["values"].keys() - {"window_size"}
    assert {n: getattr(found, n) for n in names} == {n: getattr(config, n) for n in names}
    backbones = [each.mask2former().backbone_config.to_dict() for each in (found, config)]
    assert backbones[0] == backbones[1]


@pytest.mark.parametrize("backbone", ["r50", "swinl"])
def test_mevis_presets_take_the_weights_of_table_7(backbone: str) -> None:
    for weights, preset in [
        ("ovis", f"mevis_{backbone}"),
        ("ytvis2019", f"mevis_ytvis_{backbone}"),
        ("ytvis2021", f"mevis_ytvis_{backbone}"),
    ]:
        config = load_config(preset)
        assert configure(VITAConfig, config.segmenter) == sizes(f"{weights}_{backbone}")
        assert config.dataset == "mevis" and config.resize == {"short": 360, "max": 640}


def test_options_override_a_preset() -> None:
    config = load_config("ytvis2021_swinl", {"dataset": "folder", "resize.max": 640})
    assert config.dataset == "folder" and config.resize == {"short": 448, "max": 640}
    assert config.segmenter["num_classes"] == 40


@pytest.mark.parametrize("preset, millions", [("swint", 28), ("swins", 50), ("swinb", 88)])
def test_swins_for_own_training_are_those_of_the_paper(preset: str, millions: int) -> None:
    """Liu et al., ICCV 2021, table 1: parameters with a classifier of 1,000 classes."""
    encoder = built(preset).frame_model.model.pixel_level_module.encoder
    swin = sum(parameter.numel() for parameter in encoder.swin.parameters())
    channels = encoder.channels[-1]
    assert round((swin + 1000 * channels) / 1e6) == pytest.approx(millions, abs=1)


def test_parts_of_presets_are_no_presets() -> None:
    assert not [name for name in presets() if name.startswith("_")]
    with pytest.raises(
        InputError, match="configuration _base does not exist.*by its name: .*mevis_r50"
    ):
        load_config("_base")
