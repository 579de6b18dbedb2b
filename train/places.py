"""Where things lie: the project's own configs, and the checkpoints of a work folder."""

import re
from pathlib import Path

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import existing

CONFIGS = Path(__file__).parent / "configs"
BASE, ROWS, SWEEPS = CONFIGS / "base.py", CONFIGS / "rows", CONFIGS / "sweeps"

NAME = "iter_{}.pth"
PATTERN = re.compile(r"iter_(\d+)\.pth")


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a work folder by their iteration, the earliest first."""
    found = {int(m[1]): path for path in folder.glob("*") if (m := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration in a work folder, None without any."""
    return next(reversed(checkpoints(folder).values()), None)


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint, or the latest one of a work folder. Raises InputError: there is none."""
    path = existing(path, "checkpoint")
    found = latest_checkpoint(path) if path.is_dir() else path
    if found is None:
        within = sorted(p.parent.name for p in path.glob(f"*/{NAME.format('*')}"))
        advice = (
            f"there are some in {', '.join(dict.fromkeys(within))}" if within else "train first"
        )
        what = "holds no iter_*.pth" if any(path.iterdir()) else "is empty"
        raise InputError(f"the folder of checkpoints {path} {what}; {advice}")
    return found


def how_to_go_on(work_dir: Path) -> str:
    """What is true of the training in a work folder after Ctrl-C: of a run, or of a sweep."""
    folders = [work_dir, *(path for path in work_dir.iterdir() if path.is_dir())]
    reached = sorted({max(found) for folder in folders if (found := checkpoints(folder))})
    if not reached:
        return f"{work_dir} holds no checkpoint yet: the same command starts from the beginning"
    span = "iteration " if len(reached) == 1 else f"iterations {reached[0]} to "
    return f"the same command with --resume goes on from {span}{reached[-1]}"
