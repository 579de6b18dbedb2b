"""Write `report.html` of an evaluation: figures, and every expression with its frames.

    python -m scripts.report --cache CACHE --evaluation [NAME=]DIR [...] --out report.html \\
        [--dataset mevis --data-root D --split S] [--sweep DIR]

DIR is the folder of an evaluation (metrics.json, predictions.h5). With a data set the page shows
its frames; without, masks over a plain ground.
"""

import argparse
import base64
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.lookup import existing
from cache_schema.reader import CacheReader
from extract.datasets import DATASETS, open_dataset
from train.options import check_caches, named_path
from train.predictions import Predictions

if TYPE_CHECKING:
    from train.report.build import Evaluated, FrameOf


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("scripts.report", __doc__)
    add = parser.add_argument
    add("--cache", required=True, help="that was evaluated on")
    add("--evaluation", required=True, nargs="+", metavar="[NAME=]DIR", help="heads on the page")
    add("--out", required=True, help="page to write (.html)")
    add("--dataset", default="mevis", choices=list(DATASETS))
    add("--data-root", type=Path, help="of the data set, for the frames")
    add("--split", help="of the data set")
    add("--sweep", type=Path, metavar="DIR", help="of a sweep, for its table and plot")
    add("--num", type=int, default=400, help="expressions at most (default 400)")
    arguments = parser.parse_args(argv)
    if arguments.num < 1:
        raise InputError(f"--num {arguments.num}: give 1 or more")
    out = files.output(arguments.out, ".html")
    named = [named_path(word) for word in arguments.evaluation]
    for _, folder in named:
        existing(folder, "the folder of an evaluation")
    check_caches([arguments.cache])
    from train.report.build import table, write_report  # takes seconds to load

    heads = [_evaluated(*words) for words in named]
    names = [head.name for head in heads]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--evaluation: several are called {min(twice)}; name each, as NAME=DIR")
    if len({frozenset(head.metrics["per_expression"]) for head in heads}) > 1:
        raise InputError("the evaluations are of different expressions; evaluate on one cache")
    write_report(
        out,
        CacheReader(arguments.cache),
        heads,
        frame_of=_frames(arguments),
        sweep=_sweep(arguments.sweep) if arguments.sweep else None,
        pictured=arguments.num,
    )
    print(f"{table(heads)}\n")
    print(f"report: {arguments.out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _evaluated(name: str, folder: str) -> "Evaluated":
    """A head from the folder of its evaluation."""
    from train.report.build import Evaluated

    path = Path(folder) / "metrics.json"
    try:
        metrics = json.loads(path.read_text("utf-8"))
        return Evaluated.of(name, metrics, Predictions(path.with_name("predictions.h5")))
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} is not the metrics.json of an evaluation by expressions ({error}); run "
            "train.evaluate first"
        ) from None


def _frames(arguments: argparse.Namespace) -> "FrameOf | None":
    """The frames of the data set, if one is given."""
    if arguments.data_root is None:
        return None
    data = open_dataset(arguments.dataset, arguments.data_root, arguments.split)
    videos: dict[str, Any] = {}

    def frame_of(video_id: str, t: int):
        if video_id not in data.ids:
            raise InputError(
                f"--data-root {arguments.data_root}, --split {arguments.split}: there is no video "
                f"{video_id!r}; give those of {arguments.cache}"
            )
        if video_id not in videos:
            videos.clear()
            videos[video_id] = data.video(video_id, objects=False)
        return videos[video_id].read_frame(t)

    return frame_of


def _sweep(folder: Path) -> dict[str, Any]:
    """The table and the plot of a sweep."""
    try:
        with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        plot = base64.b64encode((folder / "sweep.png").read_bytes()).decode()
    except OSError as error:
        raise InputError(f"{folder} holds no finished sweep ({error}); run train.sweep") from None
    return {"rows": rows, "plot": plot}


if __name__ == "__main__":
    sys.exit(cli.run(main))
