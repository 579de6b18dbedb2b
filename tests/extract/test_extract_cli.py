"""Bad input of stage one, through the command: one sentence that helps, status 2, no traceback."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from stage_one import DEMO, edit, small_data

from cache_schema import manifest
from cache_schema.host import cli
from cache_schema.host.cores import model_threads
from cache_schema.reader import CacheReader
from extract.__main__ import main


@pytest.fixture
def data(tmp_path):
    return small_data(tmp_path / "data", videos=1)


@pytest.fixture
def command(data, tmp_path):
    """Arguments of a good command, by name."""
    return {
        "config": DEMO,
        "--data-root": data,
        "--split": "train",
        "--weights": "random",
        "--out": tmp_path / "cache",
    }


def fails(command, capsys, *options):
    """Run the command; what it says on its one line of error, after asserting status 2."""
    arguments = [str(command["config"])]
    for name, value in command.items():
        arguments += [] if name == "config" else [name, str(value)]
    status = cli.run(main, [*arguments, "--device", "cpu", *options])
    said = capsys.readouterr().err
    assert status == 2 and "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return sentence


def test_missing_folder(command, capsys):
    assert "nowhere" in fails(command | {"--data-root": "nowhere"}, capsys)


def test_missing_split(command, capsys):
    assert "test" in fails(command | {"--split": "test"}, capsys)


def test_missing_json(command, data, capsys):
    (data / "train/meta_expressions.json").unlink()
    assert "meta_expressions.json" in fails(command, capsys)


def test_malformed_json(command, data, capsys):
    (data / "train/meta_expressions.json").write_text('{"videos": {,}}')
    sentence = fails(command, capsys)
    assert "meta_expressions.json" in sentence and "line 1" in sentence


def test_a_frame_that_is_not_an_image(command, data, capsys):
    (data / "train/JPEGImages/train_0000/00003.jpg").write_text("hello")
    assert "00003.jpg" in fails(command, capsys)


def test_a_missing_frame(command, data, capsys):
    (data / "train/JPEGImages/train_0000/00003.jpg").unlink()
    assert "00003.jpg" in fails(command, capsys)


def test_a_video_without_frames(command, data, capsys):
    edit(
        data / "train/meta_expressions.json",
        lambda meta: meta["videos"]["train_0000"].update(frames=[]),
    )
    sentence = fails(command, capsys)
    assert "train_0000" in sentence and "frame" in sentence


def test_an_empty_expression(command, data, capsys):
    edit(
        data / "train/meta_expressions.json",
        lambda meta: meta["videos"]["train_0000"]["expressions"]["0"].update(exp="  "),
    )
    sentence = fails(command, capsys)
    assert "train_0000" in sentence and "empty" in sentence


def test_missing_weights(command, capsys):
    assert "none.pth" in fails(command | {"--weights": "none.pth"}, capsys)


def test_weights_of_another_shape(command, tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    save_file({"head.class_embed.weight": torch.zeros(3, 3)}, path)
    sentence = fails(command | {"--weights": path}, capsys)
    assert "head.class_embed.weight" in sentence and "3x3" in sentence


def test_unknown_config_key(command, capsys):
    sentence = fails(command, capsys, "--cfg-options", "clips.number=2")
    assert "clips.number" in sentence and "num" in sentence


def test_an_option_without_a_value(command, capsys):
    assert "write key=value" in fails(command, capsys, "--cfg-options", "codec")


@pytest.mark.parametrize("device", ["abacus", "meta"])
def test_unknown_device(command, capsys, device):
    assert f"--device {device}" in fails(command, capsys, "--device", device)


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("--chunk-frames", 0, 1),
        ("--threads", 0, 1),
        ("--queue", -1, 0),
        ("--readers", 0, 1),
        ("--shard-bytes", 0, 1),
    ],
)
def test_numbers_that_make_no_sense(command, capsys, option, value, least):
    sentence = fails(command, capsys, option, str(value))
    assert f"{option} is {value}: give at least {least}" in sentence


def test_half_of_the_cores_are_the_models(monkeypatch):
    assert model_threads() == 1  # what tests say in the environment, as launchers of ranks do
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert model_threads() == max(1, len(os.sched_getaffinity(0)) // 2)


def test_help_says_what_may_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "a Python file, or a preset: coco_r50" in said and "mevis_r50" in said
    assert "a .pth, .pkl or .safetensors file" in said and "or 'random'" in said


def test_weights_that_are_a_folder_or_of_no_known_kind(command, tmp_path, capsys):
    assert "do not exist" in fails(command | {"--weights": tmp_path}, capsys)
    (tmp_path / "weights.bin").write_bytes(b"weights")
    sentence = fails(command | {"--weights": tmp_path / "weights.bin"}, capsys)
    assert "weights.bin cannot be read" in sentence and ".pkl, or a .safetensors" in sentence


def test_unknown_segmenter_key(command, capsys):
    assert "windows" in fails(command, capsys, "--cfg-options", "segmenter.windows=2")


def test_unknown_dataset(command, capsys):
    sentence = fails(command, capsys, "--cfg-options", "dataset=davis")
    assert "davis" in sentence and "mevis" in sentence


def test_unknown_codec(command, capsys):
    assert "zip" in fails(command, capsys, "--cfg-options", "codec=zip")


def test_missing_text_model(command, capsys):
    assert "/nowhere" in fails(command, capsys, "--cfg-options", "text.encoder=/nowhere")


def test_missing_config(command, capsys):
    assert "none.py" in fails(command | {"config": "none.py"}, capsys)


def test_config_that_does_not_run(command, tmp_path, capsys):
    broken = tmp_path / "broken.py"
    for text in ("dataset = undefined", "raise SystemExit(0)"):
        broken.write_text(text)
        assert "broken.py does not run" in fails(command | {"config": broken}, capsys)


def test_config_that_lacks_a_key(command, tmp_path, capsys):
    partial = tmp_path / "partial.py"
    partial.write_text('dataset = "mevis"')
    assert "config key segmenter has no default" in fails(command | {"config": partial}, capsys)


def test_a_complete_cache_needs_neither_data_nor_weights(command, data, capsys):
    def run(given, *options):
        words = [str(given["config"]), *(f"{k}={v}" for k, v in given.items() if k != "config")]
        return cli.run(main, [*words, "--device", "cpu", *options])

    kept = command | {"--data-root": "gone", "--weights": "gone.pth"}
    sentence = fails(kept, capsys)
    assert "--data-root gone does not exist" in sentence and "cache is not" in sentence
    assert run(command) == 0
    files = {p.name: p.read_bytes() for p in command["--out"].iterdir()}
    assert run(kept) == run(command | {"--weights": "gone.pth"}) == 0
    said = capsys.readouterr().out
    assert "cache is complete; --data-root gone does not exist and is not needed" in said
    assert "cache is complete; --weights gone.pth does not exist and is not needed" in said
    assert files == {p.name: p.read_bytes() for p in command["--out"].iterdir()}
    sentence = fails(kept, capsys, "--cfg-options", "clips.num=3", "codec=float32")
    assert "clips.num: " in sentence and "codec.name: " in sentence
    assert 'split: "train" != "valid_u"' in fails(kept | {"--split": "valid_u"}, capsys)
    manifest.append(command["--out"], [{"id": "train_0000", "dropped": "it was damaged"}])
    assert "cache is not" in fails(kept, capsys)
    assert run(command) == 0 and run(kept) == 0  # which brought it back


def test_a_cache_of_which_a_video_failed_is_not_complete(command, data, capsys):
    next((data / "train/JPEGImages/train_0000").iterdir()).write_bytes(b"broken")
    fails(command, capsys)
    assert not manifest.read(command["--out"]).complete
    assert "cache is not" in fails(command | {"--data-root": "gone"}, capsys)


def test_unwritable_output(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file/cache" in fails(command | {"--out": tmp_path / "file/cache"}, capsys)


def test_unwritable_output_leaves_a_sound_cache_alone(command, tmp_path, capsys):
    """A cache of another configuration is refused before anything in it changes."""
    other = {str(k): str(v) for k, v in command.items() if k != "config"}
    flat = [str(command["config"])] + [part for pair in other.items() for part in pair]
    assert cli.run(main, [*flat, "--device", "cpu"]) == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()}
    assert "codec" in fails(command, capsys, "--cfg-options", "codec=float32")
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()}
    assert len(CacheReader(tmp_path / "cache")) == 1


def test_debug_shows_the_traceback(command, capsys):
    status = cli.run(main, [str(DEMO), "--data-root", "nowhere", "--weights", "random",
                            "--split", "train", "--out", "x", "--debug"])  # fmt: skip
    assert status == 2 and "Traceback" in capsys.readouterr().err


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "extract", "none.py", "--data-root", "x", "--weights", "random",
         "--out", "y"],
        capture_output=True, text=True, env=os.environ, cwd=DEMO.parents[2],
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith(
        "error: configuration none.py does not exist"
    )
