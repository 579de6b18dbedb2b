"""What a sweep says: one table as text, Markdown and CSV, a picture, and all raw numbers as JSON.

    print(write_report(folder, results, reference="mqi_mee", parameters=..., seconds=...))

Every row is one variant: mean and standard deviation over its seeds (n - 1 in the denominator;
none with one seed), and what J&F differs from the reference's, with a paired bootstrap interval
over expressions (`train.sweeping.bootstrap`).
"""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.host.files import write
from train.evaluation.report import align
from train.sweeping.bootstrap import LEVEL, RESAMPLES, compare

FIGURES = ("J&F", "J", "F")
ACCURACIES = ("N-acc", "T-acc")  # not in the table, but in the files


def write_report(folder: Path, results: Mapping[str, Sequence[Mapping]], **about: Any) -> str:
    """Write sweep.csv, sweep.md, sweep.png and sweep.json, each in one piece.

    Args:
        folder: created.
        results, about: see `summarise`.

    Returns:
        The table as text.

    Raises:
        InputError: see `summarise`; or the folder cannot be written to.
    """
    content = summarise(results, **about)
    raw = json.dumps({**content, **_raw(results)}, allow_nan=False) + "\n"
    files = {"json": raw, "csv": csv_text(content), "md": markdown(content), "png": draw(content)}
    for kind, data in files.items():  # once all are made
        write(folder / f"sweep.{kind}", data)
    return table(content)


def summarise(
    results: Mapping[str, Sequence[Mapping]],
    *,
    reference: str,
    parameters: Mapping[str, int],
    seconds: Mapping[str, float],
    dropped: Mapping[str, str] | None = None,
    paper: Mapping[str, tuple[float, float, float]] | None = None,
) -> dict:
    """The figures of the table, shares from 0 to 1.

    Args:
        results: variant to the content of metrics.json of each of its seeds, at least one.
        reference: the variant that the others are compared with.
        parameters: learnable ones of each variant.
        seconds: that each variant took.
        dropped: what is missing of the sweep, and why.
        paper: variant to J&F, J and F in percent as published; None unless the cache is of the
            data that they were measured on.

    Returns:
        ``reference`` (None if it was dropped), ``num_expressions`` and those of each tag as
        ``num_per_tag``, ``dropped``, and for each of ``variants`` its ``seeds``, the ``mean``,
        ``std`` (None with one seed) and ``values`` of ``J&F``, ``J``, ``F``, of J&F ``per_tag`` and
        of ``N-acc`` and ``T-acc`` where there are such expressions,
        its ``difference`` to the reference (``mean``, ``low``, ``high``), ``parameters``,
        ``seconds`` and ``paper``.

    Raises:
        InputError: no variant was left, or they were scored on different expressions.
    """
    if not any(results.values()):
        raise InputError(
            "no variant of the sweep has been scored, so there is nothing to report: "
            + ("; ".join(f"{name}: {why}" for name, why in (dropped or {}).items()) or "none ran")
        )
    results = {name: of_seeds for name, of_seeds in results.items() if of_seeds}
    first = next(iter(results.values()))[0]
    variants = {}
    for name, of_seeds in results.items():
        compared = reference in results and name != reference
        variants[name] = {
            "seeds": len(of_seeds),
            **{key: _spread([m[key] for m in of_seeds]) for key in FIGURES},
            "per_tag": {
                tag: _spread([m["per_tag"][tag]["J&F"] for m in of_seeds])
                for tag in first["per_tag"]
            },
            **{
                key: _spread([m[key] for m in of_seeds])
                for key in ACCURACIES
                if first.get(key) is not None  # there are expressions that it is about
            },
            "difference": asdict(compare(of_seeds, results[reference])) if compared else None,
            "parameters": parameters.get(name),
            "seconds": seconds.get(name),
            "paper": dict(zip(FIGURES, paper[name], strict=True))
            if name in (paper or {})
            else None,
        }
    return {
        "reference": reference if reference in results else None,
        "num_expressions": first["num_expressions"],
        "num_per_tag": {t: part["num_expressions"] for t, part in first["per_tag"].items()},
        "variants": variants,
        "dropped": dict(dropped or {}),
    }


def _spread(values: Sequence[float]) -> dict:
    """Mean and standard deviation over the seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "values": [float(v) for v in values]}


def _raw(results: Mapping[str, Sequence[Mapping]]) -> dict:
    """J and F of every expression, variant and seed; texts and tags only once."""
    expressions: dict[str, dict] = {}
    scores: dict[str, list] = {}
    for name, of_seeds in results.items():
        scores[name] = [
            {key: (e["J"], e["F"]) for key, e in m["per_expression"].items()} for m in of_seeds
        ]
        for metrics in of_seeds:
            for key, e in metrics["per_expression"].items():
                expressions[key] = {"tag": e["tag"], "text": e["text"]}
    return {"expressions": expressions, "per_expression": scores}


def rows(content: Mapping) -> list[list[str]]:
    """The cells of the table, in percent; the first row is the head, the last has counts."""
    tags, several = list(content["num_per_tag"]), _any(content, "paper")
    head = ["", "seeds", "J&F", *tags, "J", "F", "difference", "interval", "M", "seconds"]
    made = [head + (["paper J&F", "paper J", "paper F"] if several else [])]
    for name, v in content["variants"].items():
        difference = v["difference"]
        made.append(
            [
                name,
                str(v["seeds"]),
                *map(_percent, (v["J&F"], *v["per_tag"].values(), v["J"], v["F"])),
                f"{100 * difference['mean']:+.1f}" if difference else "",
                _interval(difference) if difference else "",
                "" if v["parameters"] is None else f"{v['parameters'] / 1e6:.2f}",
                "" if v["seconds"] is None else f"{v['seconds']:.0f}",
                *(_paper(v["paper"]) if several else []),
            ]
        )
    counts = ["", str(content["num_expressions"]), *map(str, content["num_per_tag"].values())]
    made.append(["expressions", *counts] + [""] * (len(made[0]) - 1 - len(counts)))
    return made


def _any(content: Mapping, key: str) -> bool:
    return any(variant[key] for variant in content["variants"].values())


def _percent(spread: Mapping) -> str:
    mean = f"{100 * spread['mean']:.1f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.1f}"


def _interval(difference: Mapping) -> str:
    return f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}"


def _paper(figures: Mapping[str, float] | None) -> list[str]:
    return [f"{figures[key]:.1f}" for key in FIGURES] if figures else [""] * len(FIGURES)


def notes(content: Mapping) -> list[str]:
    """What a reader of the table has to know, and what is missing from it."""
    said = []
    if any(v["seeds"] > 1 for v in content["variants"].values()):
        said.append("±: standard deviation over seeds (n - 1).")
    if content["reference"] is not None and _any(content, "difference"):
        said.append(
            f"Difference: J&F less that of {content['reference']}, seeds averaged; interval: "
            f"{100 * LEVEL:.0f}%, paired bootstrap over expressions ({RESAMPLES:,} resamples), "
            "which does not contain the spread over seeds."
        )
    said += [f"Dropped: {name}: {why}" for name, why in content["dropped"].items()]
    return said


def table(content: Mapping) -> str:
    """The table as text, in percent, with its notes."""
    return "\n".join([align(rows(content)), *notes(content)])


def markdown(content: Mapping) -> str:
    """The table as Markdown, with its notes."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head, *others = rows(content)
    rule = line(["---", *["---:"] * (len(head) - 1)])
    parts = ["\n".join([line(head), rule, *map(line, others)]), *notes(content)]
    return "\n\n".join(parts) + "\n"


def csv_text(content: Mapping) -> str:
    """The table as CSV: a number a cell, shares from 0 to 1, empty where there is none."""
    records = [_record(name, v) for name, v in content["variants"].items()]
    with io.StringIO(newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return file.getvalue()


def _record(name: str, v: Mapping) -> dict:
    spreads = {key: v[key] for key in FIGURES} | v["per_tag"]
    spreads |= {key: v[key] for key in ACCURACIES if key in v}
    difference = v["difference"] or dict.fromkeys(("mean", "low", "high"))
    return {
        "variant": name,
        "seeds": v["seeds"],
        **{f"{key} {part}": s[part] for key, s in spreads.items() for part in ("mean", "std")},
        **{f"difference {part}": value for part, value in difference.items()},
        "parameters": v["parameters"],
        "seconds": v["seconds"],
        **{f"paper {key}": (v["paper"] or {}).get(key) for key in FIGURES},
    }


INK, OWN, REFERENCE = "0.35", "tab:blue", "tab:orange"
OFFSET = 0.28  # between the seeds' dots and the mean


def draw(content: Mapping) -> bytes:
    """A PNG of what `train.sweeping.report.summarise` returned.

    One line a variant, the first on top: a dot for each seed, the mean with one standard deviation
    to both sides, a vertical line at the reference's mean, and a diamond for the paper's figure.
    """
    from matplotlib.figure import Figure  # which a sweep that is not scored need not load

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
