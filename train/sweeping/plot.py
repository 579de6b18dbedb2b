"""The picture of a sweep: J&F of every variant and seed, beside the reference."""

import io
import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

INK, OWN, REFERENCE = "0.35", "tab:blue", "tab:orange"
OFFSET = 0.28  # between the seeds' dots and the mean


def draw(content: Mapping) -> bytes:
    """A PNG of what `train.sweeping.report.summarise` returned.

    One line a variant, the first on top: a dot for each seed, the mean with one standard deviation
    to both sides, a vertical line at the reference's mean, and a diamond for the paper's figure.
    """
    variants = content["variants"]
    figure = Figure(figsize=(7.5, 1.3 + 0.34 * len(variants)), layout="constrained")
    axes = figure.subplots()
    reference = content["reference"]
    if reference is not None:
        axes.axvline(100 * variants[reference]["J&F"]["mean"], color=REFERENCE, linewidth=1)
    for y, (name, variant) in enumerate(variants.items()):
        spread, colour = variant["J&F"], REFERENCE if name == reference else OWN
        axes.errorbar(
            100 * spread["mean"], y, xerr=100 * (spread["std"] or 0), fmt="o", color=colour,
            markersize=6, capsize=3, linewidth=1.4, zorder=3,
        )  # fmt: skip
        if variant["seeds"] > 1:
            dots = [100 * value for value in spread["values"]]
            axes.plot(dots, [y + OFFSET] * len(dots), ".", color=INK, markersize=4, alpha=0.8)
        if variant["paper"]:
            axes.plot(variant["paper"]["J&F"], y, "D", color=INK, markersize=5, fillstyle="none")
    axes.set_yticks(range(len(variants)), list(variants))
    axes.set_ylim(len(variants) - 0.4, -0.6)  # the first on top
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_xlabel("J&F in percent")
    figure.supxlabel(textwrap.fill(_legend(content), 100), fontsize=8, color=INK)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=150)
        return file.getvalue()


def _legend(content: Mapping) -> str:
    variants = content["variants"].values()
    parts = ["mean"]
    if any(variant["seeds"] > 1 for variant in variants):
        parts = ["mean ± standard deviation over seeds", "small dots: seeds"]
    if content["reference"] is not None:
        parts.append(f"line: {content['reference']}")
    if any(variant["paper"] for variant in variants):
        parts.append("diamonds: the paper")
    return "; ".join(parts)
