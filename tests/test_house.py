"""The house itself: what stands at the top level, and what `make` offers."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = [
    "setup",
    "data",
    "extract",
    "train",
    "eval",
    "demo",
    "segment",
    "sweep",
    "params",
    "check-data",
    "stats",
    "submit",
    "verify",
    "bench",
    "bench-gpu",
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


@pytest.mark.parametrize("target", ["train", "submit", "sweep", "demo"])
def test_options_of_stage_two_are_checked_before_stage_one(target: str):
    command = ["make", "--no-print-directory", "-n", target, "TRAIN_OPTIONS=a.b=1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    check, extract = said.index("--cfg-options a.b=1 --check"), said.index("-m extract")
    assert check < extract


@pytest.mark.parametrize("status", [0, 2])
def test_parts_of_the_demo_are_quiet_unless_they_fail(tmp_path: Path, status: int):
    (tmp_path / "logs").mkdir()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho said; echo complained >&2; exit {status}\n")
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "demo-page", "demo-score-dmvs", "-k"]
    command += [f"BIN={tmp_path}", f"OUT={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("said\ncomplained\n") == status


def test_a_sentence_comes_as_it_was_written(tmp_path: Path):
    python, sentence = tmp_path / "python", """the dog's `date` and "one" \\ more"""
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()
    command = ["make", "segment", f"BIN={tmp_path}", f"INSTALLED={tmp_path}/installed"]
    command += ["VIDEO=my clip.mp4", f"TEXT={sentence}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"my clip.mp4", sentence} <= set(said.splitlines())


def test_what_is_pinned_is_what_is_asked_for():
    """Every dependency of setup.cfg has a version in the one place for versions."""
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "scripts/constraints.txt").read_text().splitlines()
    }
    asked = re.findall(r"^    ([\w-]+)[=>]=", (ROOT / "setup.cfg").read_text(), re.M)
    assert len(asked) > 10
    assert {name.lower() for name in asked} <= pinned


def tracked() -> list[Path]:
    """Every file of the project, as git knows them, by its path from the top."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


def test_the_top_level_holds_what_it_should():
    top = {path.parts[0] for path in tracked()}
    assert {name for name in top if not name.startswith(".")} == {
        "extract", "train", "cache_schema", "scripts", "tests",
        "setup.cfg", "Makefile", "README.md", "LICENSE", "pyproject.toml",
    }  # fmt: skip


def lines_of_python() -> dict[Path, int]:
    """How long each module outside the tests is."""
    return {
        path: len((ROOT / path).read_text().splitlines())
        for path in tracked()
        if path.suffix == ".py" and path.parts[0] != "tests"
    }


def test_modules_are_short_and_files_are_small():
    assert {path: count for path, count in lines_of_python().items() if count > 400} == {}
    sizes = {path: (ROOT / path).stat().st_size for path in tracked()}
    assert {path: size for path, size in sizes.items() if size > 6 << 20} == {}


def test_nothing_imports_what_it_may_not():
    """`lint-imports` knows what one package reaches through another; this knows the rooms."""
    forbidden = {
        "cache_schema": ("torch", "mmengine", "transformers", "extract", "train", "scripts"),
        "extract": ("train", "scripts", "tests"),
        "train": ("extract", "scripts", "tests", "transformers"),
        "scripts": ("tests",),
    }
    found = []
    for path in tracked():
        names = forbidden.get(path.parts[0], ()) if path.suffix == ".py" else ()
        for node in ast.walk(ast.parse((ROOT / path).read_text())) if names else ():
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path}: {m}" for m in modules if m.split(".")[0] in names]
    assert found == []


def unmapped(readme: str, there: set[str]) -> set[str]:
    """Where the map of a room and the room's modules differ.

    A map names a module by its path, by its name alone, or by a folder ("`losses/`") above it.

    Args:
        readme: text of the room's README; its map is the section "Map".
        there: paths of the modules below the room. Packages' own files need no line.
    """
    section = readme.partition("\n## Map\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", section))

    def means(name: str, path: str) -> bool:
        return path.startswith(name) if name.endswith("/") else f"/{path}".endswith(f"/{name}")

    own = ("__init__.py", "__main__.py")
    missing = {path for path in there if not any(means(name, path) for name in named)}
    missing = {path for path in missing if Path(path).name not in own}
    return missing | {name for name in named if not any(means(name, path) for path in there)}


def test_a_map_names_every_file_of_its_room():
    files = tracked()
    for room in ("extract", "train", "cache_schema"):
        readme = (ROOT / room / "README.md").read_text()
        there = {
            str(path.relative_to(room))
            for path in files
            if path.parts[0] == room and path.suffix == ".py"
        }
        assert unmapped(readme, there) == set(), room


def test_a_map_that_lacks_a_file_or_names_one_too_many_is_found():
    text = "# x\n\n## Map\n\n- `a.py`: one\n- `b/c.py`, `d/`: two\n\n## Else\n\n`e.py`\n"
    assert unmapped(text, {"a.py", "b/c.py", "d/f.py"}) == set()
    assert unmapped(text, {"deep/a.py", "b/c.py", "d/f.py"}) == set()
    assert unmapped(text, {"a.py", "b/c.py", "d/f.py", "e.py"}) == {"e.py"}
    assert unmapped(text, {"a.py"}) == {"b/c.py", "d/"}
