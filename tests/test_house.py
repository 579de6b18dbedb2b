"""The house itself: what stands at the top level, and what `make` offers."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = [
    "setup",
    "data",
    "extract",
    "train",
    "eval",
    "demo",
    "sweep",
    "params",
    "check-data",
    "stats",
    "submit",
    "verify",
    "bench",
    "test",
    "faults",
    "lint",
    "help",
]


def test_make_help_explains_every_target_in_one_line():
    command = ["make", "--no-print-directory", "help"]  # `make test` may be what runs this
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    explained = dict(line.split(maxsplit=1) for line in said.stdout.splitlines())
    assert sorted(explained) == sorted(TARGETS)


def test_every_target_installs_first():
    rules = dict(re.findall(r"^([a-z-]+):([^#\n]*)", (ROOT / "Makefile").read_text(), re.M))
    for target in set(TARGETS) - {"help"}:
        reached = target
        while reached not in ("setup", "$(INSTALLED)"):
            reached = rules[reached].split()[0]


def test_what_is_pinned_is_what_is_asked_for():
    """Every dependency of setup.cfg has a version in the one place for versions."""
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "scripts/constraints.txt").read_text().splitlines()
    }
    asked = re.findall(r"^    ([\w-]+)[=>]=", (ROOT / "setup.cfg").read_text(), re.M)
    assert len(asked) > 10
    assert {name.lower() for name in asked} <= pinned
