"""Weight files: both layouts, and every way in which a file can be the wrong one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vita_cases import SHIPPED, config_of, load, unpacked

from cache_schema.host.cli import InputError
from extract.frozen import NoRandomInit
from extract.segmenters.vita import VITA, VITAConfig
from extract.segmenters.vita.weights import UNUSED, load_weights, save_safetensors

SELF_ATTENTION = "sem_seg_head.predictor.transformer_self_attention_layers"


@pytest.fixture(scope="module")
def config() -> VITAConfig:
    return config_of(SHIPPED / "tiny_r50_config.json")


@pytest.fixture(scope="module")
def golden() -> VITA:
    return load(SHIPPED, "tiny_r50")


@pytest.fixture(scope="module")
def target(config: VITAConfig) -> VITA:
    """A model that refused files leave as it is."""
    return VITA(config)


@pytest.fixture(scope="module")
def checkpoint() -> dict:
    return torch.load(unpacked(SHIPPED / "tiny_r50.pth"), weights_only=True)["model"]


def refusal(vita: VITA, path: Path) -> str:
    """The sentence that refuses a file; it names the file, and nothing was loaded."""
    before = {name: tensor.clone() for name, tensor in vita.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(vita, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in vita.state_dict().items())
    return str(error.value)


def assert_equal(vita: VITA, golden: VITA) -> None:
    loaded = vita.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in golden.state_dict().items())


def write(tmp_path: Path, model: object) -> Path:
    path = tmp_path / "weights.pth"
    torch.save({"model": model}, path)
    return path


def test_safetensors_round_trip(golden: VITA, config: VITAConfig, tmp_path: Path) -> None:
    save_safetensors(golden, tmp_path / "vita.safetensors")
    assert_equal(VITA.load(config, tmp_path / "vita.safetensors"), golden)


def test_others_can_read_what_is_saved_as_any_other_file(golden: VITA, tmp_path: Path) -> None:
    save_safetensors(golden, tmp_path / "vita.safetensors")
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_safetensors_as_float16(golden: VITA, config: VITAConfig, tmp_path: Path) -> None:
    save_safetensors(golden, tmp_path / "vita.safetensors", torch.float16)
    stored = load_file(tmp_path / "vita.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = VITA.load(config, tmp_path / "vita.safetensors").state_dict()
    expected = golden.state_dict()
    for name, tensor in stored.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(tensor, expected[name].half())
        assert torch.equal(loaded[name], tensor.float())


def test_fused_projections_are_cut_in_order(golden: VITA, checkpoint: dict) -> None:
    published = f"{SELF_ATTENTION}.1.self_attn.in_proj_weight"
    layer = golden.frame_model.model.transformer_module.decoder.layers[1].self_attn
    parts = [layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]
    assert torch.equal(torch.cat(parts), checkpoint[published])


def test_missing_file(target: VITA, tmp_path: Path) -> None:
    assert "do not exist" in refusal(target, tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello there", b"no checkpoint", b"PK\x03\x04 broken"])
def test_not_a_weight_file(target: VITA, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "cannot be read" in refusal(target, path)


def test_a_pickle_that_would_run_code_is_refused(target: VITA, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": Path("surprise")}, path)
    assert "cannot be read" in refusal(target, path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        [1, 2],
        {"model": {"a": 1}},
        {"model": {3: torch.ones(1)}},
        {"model": {"a": torch.empty(1, device="meta")}},
        {"model": {"a": torch.ones(2, 2).to_sparse()}},
    ],
    ids=str,
)
def test_a_checkpoint_without_a_model(target: VITA, tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "no plain tensors under the key 'model'" in refusal(target, path)


def test_a_checkpoint_in_the_middle_of_training(
    config: VITAConfig, golden: VITA, checkpoint: dict, tmp_path: Path
) -> None:
    """Detectron2 puts optimiser and iteration beside the model."""
    path = tmp_path / "model_0004999.pth"
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": checkpoint, "optimizer": optimizer, "iteration": 4999}, path)
    assert_equal(VITA.load(config, path), golden)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_but_the_model_zipped_or_as_old_versions_wrote_it(
    config: VITAConfig, golden: VITA, checkpoint: dict, tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(dict(checkpoint), path, _use_new_zipfile_serialization=zipped)
    assert_equal(VITA.load(config, path), golden)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_the_file_may_change_after_loading(
    config: VITAConfig, golden: VITA, checkpoint: dict, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"model": checkpoint}, path)
    else:
        save_safetensors(golden, path)
    vita = VITA.load(config, path)
    size = path.stat().st_size
    with open(path, "rb+") as file:
        file.write(bytes(size))
    assert_equal(vita, golden)


def test_what_no_file_holds_is_as_in_a_new_model(config: VITAConfig, golden: VITA) -> None:
    swin = config_of(SHIPPED / "tiny_swin_config.json")
    for sizes in (config, swin):
        with NoRandomInit():
            fast = VITA(sizes)
        new = VITA(sizes)
        for name, tensor in new.state_dict().items():
            if UNUSED.fullmatch(name):
                assert torch.equal(fast.state_dict()[name], tensor), name
        buffers = dict(fast.named_buffers())
        for name, buffer in new.named_buffers():
            assert torch.equal(buffers[name], buffer), name


def test_a_new_model_is_random_after_one_that_was_not(config: VITAConfig) -> None:
    with NoRandomInit():
        VITA(config)
    first, second = VITA(config), VITA(config)
    assert not torch.equal(first.head.fq_pos.weight, second.head.fq_pos.weight)


def test_missing_keys_are_counted_and_the_first_named(
    target: VITA, checkpoint: dict, tmp_path: Path
) -> None:
    kept = {key: value for key, value in checkpoint.items() if "vita_module.enc_ffn" not in key}
    sentence = refusal(target, write(tmp_path, kept))
    assert "18 missing: vita_module.enc_ffn.0.linear1.weight, " in sentence
    assert "enc_ffn.2" not in sentence
    assert "unknown" not in sentence


def test_unknown_keys_are_named(target: VITA, checkpoint: dict, tmp_path: Path) -> None:
    extra = checkpoint | {
        "backbone.res9.weight": torch.zeros(1),
        "vita_module.more": torch.zeros(1),
    }
    sentence = refusal(target, write(tmp_path, extra))
    assert "2 unknown to the model: backbone.res9.weight, vita_module.more" in sentence
    assert "missing" not in sentence


def test_other_shapes_are_named_with_both(target: VITA, checkpoint: dict, tmp_path: Path) -> None:
    in_proj = "vita_module.enc_self_attn.0.self_attn.in_proj_weight"
    changed = checkpoint | {
        "vita_module.class_embed.weight": torch.zeros(41, 64),
        in_proj: torch.zeros(96, 32),
    }
    sentence = refusal(target, write(tmp_path, changed))
    assert "2 of another shape" in sentence
    assert "vita_module.class_embed.weight (41x64 in the file, 6x64 in the model)" in sentence
    assert f"{in_proj} (96x32 in the file, 192x64 in the model)" in sentence


@pytest.mark.parametrize("rows", [0, 1, 2, 191])
def test_a_fused_projection_of_another_length(
    target: VITA, checkpoint: dict, tmp_path: Path, rows: int
) -> None:
    key = f"{SELF_ATTENTION}.0.self_attn.in_proj_weight"
    sentence = refusal(target, write(tmp_path, checkpoint | {key: torch.zeros(rows, 64)}))
    assert f"1 of another shape: {key} ({rows}x64 in the file, 192x64 in the model)" in sentence
    assert "missing" not in sentence


def test_a_scalar_where_a_projection_belongs(
    target: VITA, checkpoint: dict, tmp_path: Path
) -> None:
    key = f"{SELF_ATTENTION}.0.self_attn.in_proj_bias"
    sentence = refusal(target, write(tmp_path, checkpoint | {key: torch.tensor(1.0)}))
    assert f"{key} (scalar in the file, 192 in the model)" in sentence


def test_safetensors_of_another_model(target: VITA, golden: VITA, tmp_path: Path) -> None:
    path = tmp_path / "vita.safetensors"
    save_safetensors(golden, path)
    tensors = load_file(path)
    tensors["head.class_embed.bias"] = torch.zeros(26)
    tensors["head.unheard"] = torch.zeros(1)
    del tensors["head.fq_pos.weight"]
    save_file(tensors, path)
    sentence = refusal(target, path)
    assert "1 of another shape: head.class_embed.bias (26 in the file, 6 in the model)" in sentence
    assert "1 unknown to the model: head.unheard" in sentence
    assert "1 missing: head.fq_pos.weight" in sentence
    assert "segmenter" in sentence  # what to change
