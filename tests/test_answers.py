"""Answers that come at once: help, and whatever can be told wrong before a library is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import find_config
from cache_schema.host.options import parse
from tests.synthetic import write_cache
from train.config import load_config
from train.places import CONFIGS, find_checkpoint

ROOT = Path(__file__).parents[1]
#: Runs commands in turn, and tells each one's status and what it loaded.
COMMANDS = """
import importlib, json, sys
from cache_schema.host import cli
found = []
for module, *words in json.loads(sys.argv[1]):
    try:
        status = cli.run(importlib.import_module(module).main, words)
    except SystemExit as end:
        status = end.code
    found.append((status, sorted(set(sys.argv[2:]) & sys.modules.keys())))
print(json.dumps(found))
"""
TRAIN = ("train.__main__", "demo", "--work-dir", "out")
EVALUATE = ("train.evaluate", "--checkpoint", "run", "--out", "out")
SWEEP = ("train.sweep", "demo", "--cache", "nothing")
EXTRACT = ("extract.__main__", "demo", "--split", "train", "--out", "out")
SEGMENT = ("scripts.segment.__main__", "clip.mp4", "a bird", "--out", "out")
#: A command that cannot be done, and words of the sentence that says so.
WRONG = [
    ((*TRAIN, "--cache", "nothing"), "nothing is not a cache"),
    ((*TRAIN, "--cache", "caches"), "caches holds the caches train and valid_u"),
    ((*TRAIN, "--cache", "caches/valid"), "(did you mean 'valid_u'?)"),
    ((*TRAIN, "--cache", "caches/train", "--row", "dmsv"), "row dmsv does not exist (did you mean"),
    ((*TRAIN, "--cache", "caches/train", "--cfg-options", "a=[1,"), "brackets do not match"),
    (("train.__main__", "dmo", *TRAIN[2:], "--cache", "nothing"), "(did you mean 'demo'?)"),
    ((*EVALUATE, "--cache", "nothing"), "nothing is not a cache"),
    ((*EVALUATE, "mevos", "--cache", "caches/train"), "config mevos does not exist (did you mean"),
    ((*EVALUATE[:1], *EVALUATE[3:], "--checkpoint", "empty", "--cache", "c"), "empty is empty"),
    ((*EVALUATE[:1], *EVALUATE[3:], "--checkpoint", "gone", "--cache", "c"), "gone does not exist"),
    ((*EVALUATE[:1], *EVALUATE[3:], "--checkpoint", ".", "--cache", "c"), "there are some in run"),
    (SWEEP, "nothing is not a cache"),
    (("train.sweep", "encodr", *SWEEP[2:]), "encodr does not exist (did you mean 'encoder'?)"),
    ((*SWEEP, "--config", "demmo"), "config demmo does not exist (did you mean 'demo'?)"),
    ((*EXTRACT, "--data-root", "gone", "--weights", "random"), "--data-root gone does not exist"),
    ((*EXTRACT, "--data-root", ".", "--weights", "w.pth"), "--weights w.pth does not exist"),
    (("extract.__main__", "deno", *EXTRACT[2:], "--data-root", ".", "--weights", "random"),
     "configuration deno does not exist (did you mean 'demo'?)"),
    ((*SEGMENT, "--checkpoint", "run"), "the video clip.mp4 does not exist"),
    ((*SEGMENT[:1], ".", *SEGMENT[2:], "--checkpoint", "empty"), "empty is empty"),
    ((*SEGMENT[:1], ".", *SEGMENT[2:], "--checkpoint", "run", "--weights", "w.pkl"), "w.pkl does"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with caches, a work folder and an empty one."""
    path = tmp_path_factory.mktemp("place")
    for name in ("train", "valid_u"):
        write_cache(path / "caches" / name, num_videos=1)
    for name in ("run", "empty"):
        (path / name).mkdir()
    (path / "run" / "iter_3.pth").touch()
    return path


def ask(place: Path, commands: list[tuple[str, ...]], *libraries: str) -> tuple[list, str]:
    """Status of each command with those of some libraries that were loaded, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands), *libraries],
        capture_output=True, text=True, cwd=place, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_help_comes_before_anything_heavy(place: Path) -> None:
    commands = [(c[0], "--help") for c in (TRAIN, EVALUATE, SWEEP, EXTRACT, SEGMENT)]
    heavy = ("torch", "mmengine", "transformers", "cv2", "scipy")
    found, said = ask(place, commands, *heavy)
    assert found == [[0, []]] * len(commands) and not said
    for module in ("score", "submit", "report"):
        assert ask(place, [(f"scripts.{module}", "--help")], *heavy[:3]) == ([[0, []]], "")


def test_training_does_without_what_only_stage_one_needs(place: Path) -> None:
    checked = [(*TRAIN, "--cache", "caches/train", "--check")]
    assert ask(place, checked, "transformers", "stanza", "mmengine") == ([[0, ["mmengine"]]], "")


def test_what_is_wrong_is_said_before_anything_heavy(place: Path) -> None:
    found, said = ask(place, [command for command, _ in WRONG], "torch", "mmengine", "cv2")
    assert found == [[2, []]] * len(WRONG)
    for line, (command, words) in zip(said.splitlines(), WRONG, strict=True):
        assert line.startswith("error: ") and words in line, command


def test_what_is_not_there_is_said_before_torch_is_loaded(place: Path) -> None:
    submit, report = ("scripts.submit", "--out", "s.zip"), ("scripts.report", "--out", "r.html")
    wrong = [
        ((*submit, "--predictions", "p.h5", "--cache", "nothing"), "p.h5 does not exist"),
        ((*submit, "--predictions", "empty", "--cache", "nothing"), "nothing is not a cache"),
        ((*submit, "--pred", "empty"), "give --cache, or --dataset"),
        ((*report, "--evaluation", "DMVS=gone", "--cache", "caches/train"), "gone does not exist"),
        ((*report, "--evaluation", "empty", "--cache", "caches/valid"), "did you mean 'valid_u'?"),
    ]
    found, said = ask(place, [command for command, _ in wrong], "torch", "mmengine")
    assert found == [[2, []]] * len(wrong)
    for line, (command, words) in zip(said.splitlines(), wrong, strict=True):
        assert line.startswith("error: ") and words in line, command


def test_configs_have_names(tmp_path: Path) -> None:
    assert find_config("demo", CONFIGS) == CONFIGS / "demo.py"
    (tmp_path / "mine.py").touch()
    assert find_config(tmp_path / "mine.py", CONFIGS) == tmp_path / "mine.py"
    assert load_config("demo").to_dict() == load_config(CONFIGS / "demo.py").to_dict()
    with pytest.raises(InputError, match="config mvis does not exist.*'mevis'.*demo, .*mevis"):
        find_config("mvis", CONFIGS)


def test_a_work_folder_stands_for_its_latest_checkpoint(tmp_path: Path) -> None:
    for iteration in (9, 10, 2):
        (tmp_path / f"iter_{iteration}.pth").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "iter_10.pth"
    assert find_checkpoint(tmp_path / "iter_9.pth") == tmp_path / "iter_9.pth"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.5", 1.5), ("1e-4", 1e-4), ("TRUE", True), ("false", False), ("None", None),
        ("'a b'", "ab"), ("a,1", ["a", 1]), ("[5]", [5]), ("[]", []),
        ("(1,[a,(2,)])", (1, ["a", (2,)])),
        ("[[1,2],3]", [[1, 2], 3]), ("", ""),
    ],
)  # fmt: skip
def test_values_of_options(text: str, value: object) -> None:
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize("text", ["[1,", "1,(2", "(" * 5000 + ")" * 5000])
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(text)
