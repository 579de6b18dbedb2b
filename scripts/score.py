"""Score anybody's masks: J, F and J&F of PNG files in the layout of a submission.

    python -m scripts.score --dataset NAME --root D [--split S] --pred DIR_OR_ZIP --out metrics.json

Of the data set only annotations are read. Layouts; what is missing scores 0 and is listed:
    mevis            <video>/<expression>/<frame>.png, what is not zero is object
    ref_youtube_vos  the same, or all of it in a folder Annotations
    ref_davis        anno_{0..3}/<sequence>/<frame>.png, the ids of the objects (palette or grey)
"""

import argparse
import sys
from pathlib import Path

from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from scripts.annotations import NAMES, open_dataset, with_truth
from train.evaluation import report
from train.evaluation.pngs.davis import score_maps
from train.evaluation.pngs.expressions import score_masks


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: at least one process has to work")
    out = _output(arguments.out)
    data = open_dataset(arguments.dataset, arguments.root, arguments.split)
    score = score_maps if data.facts.protocol == "davis" else score_masks
    content = score(
        with_truth(data),
        Path(arguments.pred),
        num_videos=len(data),
        workers=arguments.workers,
        strict=arguments.strict,
    )
    if data.facts.release:
        content["release"] = data.facts.release
    report.write_metrics(out, content)
    print(f"{report.table(content, name='score')}\n")
    print(report.missing_lines(content["missing"]), end="")
    if content.get("all_empty"):
        print(f"warning: all masks of {arguments.pred} are empty", file=sys.stderr)
    print(f"metrics: {arguments.out}")
    return 0


def _output(path: str) -> Path:
    """Where metrics go; InputError if something else is there, such as a file of annotations."""
    out = files.output(path, ".json")
    if out.is_file():
        with out.open("rb") as file:
            found = file.read(1 << 12)
        if found and b'"J&F"' not in found:
            raise InputError(f"--out {path} holds no metrics and would be lost: give another file")
    return out


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("scripts.score", __doc__)
    parser.add_argument("--dataset", default="mevis", choices=NAMES)
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--split", help="default: valid_u of MeViS, valid of the others")
    parser.add_argument("--pred", required=True, help="folder or zip of the masks")
    parser.add_argument("--out", required=True, help="metrics.json to write")
    parser.add_argument("--strict", action="store_true", help="stop at the first missing mask")
    parser.add_argument("--workers", type=int, default=CORES, help="processes (default: the cores)")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
