"""What the rank of the low-rank codec costs the segmenter's own masks, weighted and plain.

    python -m scripts.codec_curve --out DIR [--config demo] [--data-root D] [--split S] \\
        [--weights W] [--frames 512]

Half of the frames fit the basis; masks of the other half, coded against exact, tell what each rank
costs. Prints a table and writes DIR/codec_curve.json (every rank) and DIR/codec_curve.png.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from cache_schema.basis import RIDGE
from cache_schema.codecs import LOWRANK, Codec, get_codec
from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank
from extract.__main__ import find_device
from extract.codecs.calibration import sample_clips
from extract.codecs.fitting import Moments, Sample
from extract.codecs.mask_codec import codec_iou, confident, encode, iou_by_rank
from extract.config import load_config
from extract.datasets import Dataset, open_dataset
from extract.pipeline.inference import clip_of
from extract.stage import Stage, load_stage
from scripts.measuring import number, options, report, table

ASSETS = Path(__file__).parents[1] / "extract" / "assets"
BASES = ("weighted", "plain")
WITHOUT = (get_codec("float16"), get_codec("int8"))
#: Ranks of the printed table, as far as there are so many channels.
SHOWN = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("codec_curve", __doc__)
    parser.add_argument("--config", default="demo", help="of stage one: a preset or a file")
    parser.add_argument("--data-root", type=Path, default=Path("work/demo/data"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--weights", default=str(ASSETS / "vita_tiny.safetensors"))
    number(parser, "frames", 512, "half to fit, half to test")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    arguments = parser.parse_args(argv)
    if arguments.frames < 2:
        raise InputError(f"--frames is {arguments.frames}: give at least 2")

    config = load_config(arguments.config)
    stage = load_stage(
        config, arguments.weights, find_device(arguments.device, Rank()), has_text=False
    )
    dataset = open_dataset(
        config.dataset, arguments.data_root, arguments.split, config.dataset_settings
    )
    content = measure(samples(stage, dataset, arguments.frames), arguments.frames // 2)
    content |= {
        "config": arguments.config,
        "data": f"{config.dataset}/{arguments.split}",
        "weights_sha256": stage.weights_sha256,
    }
    draw(content, arguments.out / "codec_curve.png")
    path = arguments.json or arguments.out / "codec_curve.json"
    where = f"curve: {path}, {arguments.out / 'codec_curve.png'}"
    return report(content, [*lines(content), "", where], path)


def samples(stage: Stage, dataset: Dataset, frames: int) -> Iterator[Sample]:
    """Features and confident queries of clips of many videos, as stage one samples them."""
    with tqdm(total=frames, unit="frame", leave=False) as bar:
        for _, parts in sample_clips(stage, dataset, frames):
            features, video = clip_of(stage.segmenter, map(stage.prepare, parts))
            bar.update(len(features))
            sure = confident(video.logits[0])
            yield Sample(features, video.mask_embeds[0][..., sure, :])


def measure(samples: Iterable[Sample], fit_frames: int) -> dict:
    """The content of codec_curve.json.

    Args:
        samples: fitted to until they have ``fit_frames`` frames, tested on from there.

    Raises:
        InputError: there is nothing left to test on.
    """
    moments, ious = Moments(), defaultdict(list)
    fitted = tested = 0
    for sample in samples:
        if fitted < fit_frames:
            moments.add(sample)
            fitted += len(sample.features)
            continue
        if not tested:
            channels, h, w = sample.features.shape[1:]
            bases = {n: moments.basis(channels, weighted=n == "weighted") for n in BASES}
        for name, basis in bases.items():
            ious[name].append(iou_by_rank(sample.features, sample.embeds, basis))
        for codec in WITHOUT:
            coded = encode(sample.features, codec)
            ious[codec.name].append(codec_iou(sample.features, coded, sample.embeds, codec)[None])
        tested += len(sample.features)
    # (R, M) for a basis, (1, M) for a codec without
    curves = {name: np.concatenate(parts, axis=1) for name, parts in ious.items()}
    if not curves or not curves["plain"].size:
        raise InputError("no mask is left to test on; give more --frames, or more videos")
    return {
        "channels": channels,
        "map": [h, w],
        "ridge": RIDGE,
        "frames": {"fitted": fitted, "tested": tested},
        "masks": curves["plain"].shape[1],
        "codecs": [
            {
                "codec": codec.name,
                "bytes": frame_bytes(codec, channels, h, w),
                "iou": summary(curves[codec.name][0]),
            }
            for codec in WITHOUT
        ],
        "ranks": [
            {
                "rank": rank,
                "bytes": frame_bytes(get_codec(LOWRANK, moments.basis(rank)), channels, h, w),
                **{name: summary(curves[name][rank - 1]) for name in BASES},
            }
            for rank in range(1, channels + 1)
        ],
    }


def frame_bytes(codec: Codec, channels: int, h: int, w: int) -> int:
    """What the mask features of one frame take, scales included."""
    return sum(
        int(np.prod(shape)) * dtype.itemsize
        for shape, dtype in codec.layout(channels, h, w).values()
    )


def summary(ious: np.ndarray) -> dict[str, float]:
    """Mean, 5th percentile and worst of some IoUs."""
    mean, low, worst = ious.mean(), np.percentile(ious, 5), ious.min()
    return {"mean": float(mean), "percentile_5": float(low), "worst": float(worst)}


def lines(content: Mapping) -> list[str]:
    """What is printed."""
    whole = content["codecs"][0]["bytes"]
    rows = {}
    for own in [*content["codecs"], *content["ranks"]]:
        if own.get("rank", 1) not in SHOWN:
            continue
        row = rows[own.get("codec") or f"rank {own['rank']}"] = {
            "bytes": own["bytes"],
            "of float16": own["bytes"] / whole,
        }
        for name in ("iou", *BASES):
            if name in own:
                row[name] = " / ".join(f"{figure:.4f}" for figure in own[name].values())
    head = f"{content['masks']} masks of {content['frames']['tested']} frames"
    return [f"{head}; IoU mean / 5th percentile / worst", *table(rows)]


def draw(content: Mapping, path: Path) -> None:
    """IoU over rank: a line for the mean, a band down to the 5th percentile."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranks = [row["rank"] for row in content["ranks"]]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, colour in (("weighted", "tab:blue"), ("plain", "tab:orange")):
        mean, low = (
            [row[name][key] for row in content["ranks"]] for key in ("mean", "percentile_5")
        )
        axes.plot(ranks, mean, color=colour, label=f"{name}: mean, and 5th percentile")
        axes.fill_between(ranks, low, mean, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0.99, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log", xlabel="rank (int8 codes)", ylabel="mask IoU, coded against exact",
        xlim=(1, ranks[-1]), ylim=(0.5, 1.005), xticks=2 ** np.arange(np.log2(ranks[-1]) + 1),
    )  # fmt: skip
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.legend(loc="lower right")
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(cli.run(main))
