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
from typing import Any

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.datasets import DATASETS, open_dataset
from train.predictions import Predictions
from train.report.build import PICTURED, Evaluated, FrameOf, table, write_report


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cache", required=True, help="that was evaluated on")
    add("--evaluation", required=True, nargs="+", metavar="[NAME=]DIR", help="heads on the page")
    add("--out", required=True, help="page to write (.html)")
    add("--dataset", default="mevis", choices=list(DATASETS))
    add("--data-root", type=Path, help="of the data set, for the frames")
    add("--split", help="of the data set")
    add("--sweep", type=Path, metavar="DIR", help="of a sweep, for its table and plot")
    add("--num", type=int, default=PICTURED, help=f"expressions at most (default {PICTURED})")
    arguments = parser.parse_args(argv)
    heads = [_evaluated(word) for word in arguments.evaluation]
    if len({frozenset(head.metrics["per_expression"]) for head in heads}) > 1:
        raise InputError("the evaluations are of different expressions; evaluate on one cache")
    write_report(
        Path(arguments.out),
        CacheReader(arguments.cache),
        heads,
        frame_of=_frames(arguments),
        sweep=_sweep(arguments.sweep) if arguments.sweep else None,
        pictured=arguments.num,
    )
    print(f"{table(heads)}\n")
    print(f"report: {arguments.out} ({Path(arguments.out).stat().st_size / 1e6:.1f} MB)")
    return 0


def _evaluated(word: str) -> Evaluated:
    """A head from the folder of its evaluation."""
    name, _, folder = word.rpartition("=")
    path = Path(folder) / "metrics.json"
    try:
        metrics = json.loads(path.read_text("utf-8"))
        sigma = metrics["run"]["sigma"]
        sigma = float(sigma[0] if isinstance(sigma, list) else sigma)
        _check(metrics)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} is not the metrics.json of an evaluation by expressions ({error}); run "
            "train.evaluate first"
        ) from None
    predictions = Predictions(Path(folder) / "predictions.h5")
    return Evaluated(name or "DMVS", metrics, predictions, sigma)


def _check(metrics: dict[str, Any]) -> None:
    """Raise some error unless all that the page shows is there and a number."""
    tags = metrics["per_tag"]
    shown = [metrics["num_expressions"], *(tags[tag]["num_expressions"] for tag in tags)]
    for row in (metrics, *metrics.get("controls", {}).values()):
        shown += [row["J&F"], row["J"], row["F"], *(row["per_tag"][tag]["J&F"] for tag in tags)]
    shown += [scores["J&F"] for scores in metrics["per_expression"].values()]
    shown += [metrics[name] for name in ("N-acc", "T-acc") if metrics.get(name) is not None]
    if odd := [value for value in shown if type(value) not in (int, float) or not 0 <= value < 1e9]:
        raise ValueError(f"{odd[0]!r:.40} is no figure")


def _frames(arguments: argparse.Namespace) -> FrameOf | None:
    """The frames of the data set, if one is given."""
    if arguments.data_root is None:
        return None
    data = open_dataset(arguments.dataset, arguments.data_root, arguments.split)
    videos: dict[str, Any] = {}

    def frame_of(video_id: str, t: int):
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
