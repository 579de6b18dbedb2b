"""The shared command-line wrapper: statuses, one sentence, and a reader that goes away."""

import errno
import os
import subprocess
import sys

import pytest

from cache_schema.host import cli
from cache_schema.host.system import SystemTrouble
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


def test_an_interrupt_says_what_to_do_also_where_a_library_hides_it(capsys):
    def plain(_):
        raise KeyboardInterrupt

    def advised(_):
        try:
            plain(_)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("take a rest") from None

    def hidden(_):
        try:
            plain(_)
        except BaseException:
            raise SyntaxError("it cannot be formatted")  # noqa: B904

    assert [cli.run(main, []) for main in (plain, advised, hidden)] == [130] * 3
    again = "interrupted; run the same command again"
    assert capsys.readouterr().err.splitlines() == [again, "interrupted; take a rest", again]


def test_a_pipe_that_closes_early_is_no_crash(tmp_path):
    write_cache(tmp_path / "cache", num_videos=1)
    command = f"{sys.executable} -m cache_schema info {tmp_path / 'cache'} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemTrouble("the disk is gone"), "the disk is gone"),
        (MemoryError(), "there is not enough memory"),
        (
            OSError(errno.EACCES, "Permission denied", "a/b"),
            "a/b cannot be used (Permission denied): mend that, then run the same command again",
        ),
    ],
)
def test_an_error_of_the_system_is_one_sentence_and_status_2(error, said, capsys):
    def trip(_):
        raise error

    assert cli.run(trip, []) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("error", [OSError("of HDF5"), ValueError(), KeyError("x")])
def test_a_mistake_of_ours_is_shown_as_one(error):
    def trip(_):
        raise error

    with pytest.raises(type(error)):
        cli.run(trip, [])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_text_ends_a_run_because_it_cannot_be_shown(encoding):
    program = (
        "import sys; from cache_schema.host import cli\n"
        "def main(_):\n"
        "    print('caf\\xe9 \\u732b \\ud800')\n"
        "    raise cli.InputError('\\u732b \\ud800')\n"
        "sys.exit(cli.run(main))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"\\ud800" in done.stdout and b"\\ud800" in done.stderr
