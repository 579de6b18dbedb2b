"""The command that writes published weights in our own layout."""

import os
import pickle
import signal
from pathlib import Path

import pytest
import torch
from vita_cases import SHIPPED, config_of, load, unpacked

from cache_schema.host import cli
from extract.segmenters.vita import VITA
from extract.segmenters.vita.convert import main
from tests.cache_schema.helpers import die, in_child
from tests.processes import Command, module


@pytest.fixture
def source() -> Path:
    return unpacked(SHIPPED / "tiny_r50.pth")


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What a command says that ends with status 2; one sentence."""
    assert cli.run(main, [str(argument) for argument in arguments]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")
    return sentence


def config(tmp_path: Path, **changes: object) -> Path:
    """The sizes of tiny_r50 as a configuration."""
    sizes = vars(config_of(SHIPPED / "tiny_r50_config.json")) | changes
    path = tmp_path / "tiny.py"
    path.write_text(f"from extract.configs.demo import *\nsegmenter = {sizes!r}\n")
    return path


def as_pickle(source: Path, path: Path) -> Path:
    model = torch.load(source, weights_only=True)["model"]
    arrays = {key: tensor.numpy() for key, tensor in model.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party"}))
    return path


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_the_same_weights(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, pickled: bool, sized: bool
) -> None:
    source = as_pickle(source, tmp_path / "tiny.pkl") if pickled else source
    more = ["--config", str(config(tmp_path))] if sized else []
    target = tmp_path / "tiny.safetensors"
    assert cli.run(main, [str(source), str(target), *more]) == 0
    assert f"{target}: 5.0 MB; no preset has this size" in capsys.readouterr().out
    loaded = VITA.load(config_of(SHIPPED / "tiny_r50_config.json"), target).state_dict()
    for name, tensor in load(SHIPPED, "tiny_r50").state_dict().items():
        assert torch.equal(loaded[name], tensor)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".pkl", ".py"}


def test_sizes_that_are_not_those_of_the_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = config(tmp_path, num_classes=7)
    sentence = refusal(capsys, source, tmp_path / "a.safetensors", "--config", other)
    assert (
        "sem_seg_head.predictor.class_embed.weight (6x64 in the file, 8x64 in the model)"
        in sentence
    )
    assert "configuration none does not exist" in refusal(
        capsys, source, tmp_path / "a.safetensors", "--config", "none"
    )
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_that_exists_is_replaced_on_demand_only(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "tiny.safetensors"
    target.write_text("precious")
    assert "--force" in refusal(capsys, source, target)
    assert target.read_text() == "precious"
    assert cli.run(main, [str(source), str(target), "--force"]) == 0
    assert target.stat().st_size > 4e6


@pytest.mark.parametrize(
    "source, target, words",
    [
        ("none.pth", "a.safetensors", ["none.pth", "do not exist"]),
        ("none.pth", "a.pth", ["a.pth", "ends in .safetensors"]),
        ("none.safetensors", "a.safetensors", ["none.safetensors", "already"]),
        ("none.pth", "nowhere/a.safetensors", ["nowhere/a.safetensors", "folder"]),
    ],
)
def test_names_that_cannot_be(
    capsys: pytest.CaptureFixture, tmp_path: Path, source: str, target: str, words: list[str]
) -> None:
    sentence = refusal(capsys, tmp_path / source, tmp_path / target)
    assert all(word in sentence for word in words)


@pytest.mark.parametrize(
    "drop, word",
    [
        ("backbone.", "backbone.patch_embed.proj.weight"),
        ("backbone.res4.5.", "backbone.res*"),
        ("vita_module.query_feat.weight", "vita_module.query_feat.weight"),
        ("vita_module.enc_ffn.2.linear2.bias", "vita_module.enc_ffn.2.linear2.bias"),
        ("vita_module.", "vita_module.query_feat.weight"),
        ("", "backbone.patch_embed.proj.weight"),
    ],
)
def test_weights_that_are_no_vita(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, drop: str, word: str
) -> None:
    model = torch.load(source, weights_only=True)["model"]
    path = tmp_path / "other.pth"
    torch.save({"model": {k: v for k, v in model.items() if not k.startswith(drop)}}, path)
    sentence = refusal(capsys, path, tmp_path / "a.safetensors")
    assert word in sentence and str(path) in sentence


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_file_is_refused_with_status_2(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    made, target = tmp_path / "made", tmp_path / "a.safetensors"
    content = {"model": {"a": Touch(made)}}
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
    torch.save(content, tmp_path / "bad.pth")
    assert "would call 'posix.system'" in refusal(capsys, tmp_path / "bad.pkl", target)
    assert "cannot be read" in refusal(capsys, tmp_path / "bad.pth", target)
    words = [tmp_path / "bad.pkl", target]
    log = tmp_path_factory.mktemp("log") / "said"
    done = Command(module("extract.segmenters.vita.convert", words), log)
    assert len(done.said().splitlines()) == 1 and done.status == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pkl", "bad.pth"]


def test_a_killed_conversion_leaves_what_was_there(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.safetensors"
    target.write_text("old")

    def killed() -> None:
        os.replace = lambda *_: die()
        main([str(source), str(target), "--force"])

    assert in_child(killed) == -signal.SIGKILL
    assert target.read_text() == "old"
    assert cli.run(main, [str(source), str(target), "--force"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_an_unwritable_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    sentence = refusal(capsys, source, tmp_path / "a.safetensors")
    assert "a.safetensors cannot be written (No space left on device)" in sentence
    assert not list(tmp_path.iterdir())
