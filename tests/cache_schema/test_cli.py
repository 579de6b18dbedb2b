"""The shared command-line wrapper: statuses, one sentence, and a reader that goes away."""

import subprocess
import sys

from cache_schema import cli
from tests.synthetic import write_cache


def fail(_):
    raise cli.InputError("no such thing; make one")


def test_status_is_what_main_returns_or_zero():
    assert cli.run(lambda _: None, []) == 0
    assert cli.run(lambda _: 3, []) == 3


def test_bad_input_is_one_sentence_and_status_2(capsys):
    assert cli.run(fail, ["--flag"]) == 2
    assert capsys.readouterr().err == "error: no such thing; make one\n"


def test_debug_shows_the_traceback_and_is_not_passed_on(capsys):
    seen = []
    assert cli.run(seen.extend, ["a", "--debug"]) == 0 and seen == ["a"]
    assert cli.run(fail, ["--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_pipe_that_closes_early_is_no_crash(tmp_path):
    write_cache(tmp_path / "cache", num_videos=1)
    command = f"{sys.executable} -m cache_schema info {tmp_path / 'cache'} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""
