"""What an evaluation says in the end: metrics.json and the printed table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache_schema.host import files
from train.evaluation.protocols.davis import COLUMNS

NAMES = {
    "shuffled": "shuffled text",
    "every_object": "every object",
    "nothing": "nothing",
    "best_choice": "best choice",
}

SHOWN = 5  # of what is missing


def write_metrics(path: Path, content: dict) -> None:
    """Write metrics.json in one piece."""
    files.write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def head_name(content: Mapping) -> str:
    """What the head of an evaluation is called, from its metrics.json."""
    model = content.get("run", {}).get("config", {}).get("model")
    if model is None:  # masks or scores that somebody brought
        return "predictions"
    kind = model.get("type", "dmvs")
    return "DMVS" if kind == "dmvs" else kind.rpartition(":")[2]


def table(content: Mapping, name: str | None = None) -> str:
    """What is printed of an evaluation, in percent: one row for the head and for each control.

    Args:
        content: metrics.json, by whichever protocol.
    """
    if "annotators" in content:
        return _davis_table(content)
    rows = [(name or head_name(content), content)]
    rows += [(NAMES.get(row, row), f) for row, f in content.get("controls", {}).items()]
    parts = [figures_table(rows, content), accuracy_lines(content), share_of_best(content) or ""]
    return "\n".join(filter(None, parts)).rstrip("\n")


def sigma_table(contents: Mapping[float, Mapping]) -> str:
    """What is printed of an evaluation at several sigmas: one row, or with DAVIS one table, each.

    Shuffled text depends on sigma, the other controls do not.

    Args:
        contents: metrics.json of each sigma.
    """
    first = next(iter(contents.values()))
    if "annotators" in first:
        return "\n\n".join(f"sigma {s:g}\n{_davis_table(c)}" for s, c in contents.items())
    rows = [(f"sigma {sigma:g}", content) for sigma, content in contents.items()]
    for name, figures in first.get("controls", {}).items():
        if name == "shuffled":
            rows += [
                (f"{NAMES[name]}, sigma {sigma:g}", content["controls"][name])
                for sigma, content in contents.items()
            ]
        else:
            rows.append((NAMES[name], figures))
    accuracies = [key for key in ("N-acc", "T-acc") if first[key] is not None]
    return figures_table(rows, first, accuracies=accuracies)


def figures_table(
    named: Sequence[tuple[str, Mapping]], counted: Mapping, *, accuracies: Sequence[str] = ()
) -> str:
    """Rows of figures, and how many expressions ``counted`` has of each tag."""
    tags = list(counted["per_tag"])
    rows = [["", "J&F", *tags, "J", "F", *accuracies]]
    for name, figures in named:
        per_tag = [figures["per_tag"][tag]["J&F"] for tag in tags]
        values = [figures["J&F"], *per_tag, figures["J"], figures["F"]]
        values += [figures.get(key) for key in accuracies]  # controls have none
        rows.append([name, *("" if value is None else f"{100 * value:.1f}" for value in values)])
    counts = [counted["num_expressions"], *(counted["per_tag"][t]["num_expressions"] for t in tags)]
    rows.append(["expressions", *map(str, counts)] + [""] * (2 + len(accuracies)))
    return align(rows)


def _davis_table(content: Mapping) -> str:
    """One row an annotator; the last column is without matching."""
    rows = [["", *COLUMNS, "strict J&F"]]
    named = [*content["annotators"].items(), ("mean", content)]
    for name, figures in [*named, *content.get("controls", {}).items()]:
        strict = content["strict"]["annotators"].get(name) or figures["strict"]
        values = [*(figures[key] for key in COLUMNS), strict["J&F"]]
        rows.append([NAMES.get(name, name), *(f"{100 * value:.1f}" for value in values)])
    rows.append(["expressions", str(content["num_expressions"]), *[""] * len(COLUMNS)])
    return align(rows)


def accuracy_lines(content: Mapping) -> str:
    """How often nothing and something was found; empty where every expression has a target."""
    if content["N-acc"] is None:
        return ""
    lines = [f"N-acc {100 * content['N-acc']:.1f}% of the expressions without a target stay empty"]
    if content["T-acc"] is not None:
        lines.append(f"T-acc {100 * content['T-acc']:.1f}% of the others do not")
    return "\n".join(lines) + "\n"


def missing_lines(missing: Mapping[str, Sequence[str]]) -> str:
    """What is missing and scored 0, a line a kind; metrics.json lists all of it."""
    return "".join(
        f"missing {kind}, scored 0: {len(names)} ({', '.join(names[:SHOWN])}"
        f"{', ...' if len(names) > SHOWN else ''})\n"
        for kind, names in missing.items()
        if names
    )


def align(rows: Sequence[Sequence[str]]) -> str:
    """A table with a rule under its first and above its last row; figures stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def share_of_best(content: Mapping) -> str | None:
    """How much of the best choice the head reaches, in one sentence; None without that control."""
    best = content.get("controls", {}).get("best_choice")
    if best is None or not best["J&F"]:
        return None
    parts = [
        f"{tag} {100 * content['per_tag'][tag]['J&F'] / best['per_tag'][tag]['J&F']:.0f}%"
        for tag in content["per_tag"]
        if best["per_tag"][tag]["J&F"]
    ]
    share = 100 * content["J&F"] / best["J&F"]
    said = f"{head_name(content)} reaches {share:.0f}% of the best choice"
    return f"{said} ({', '.join(parts)})." if parts else f"{said}."


def no_truth(num_expressions: int) -> str:
    """What to say instead of scores when the cache has no ground truth."""
    return (
        f"The cache has no ground truth: {num_expressions} expressions were predicted, "
        "none was scored. With --save-masks the masks are written for the benchmark's server."
    )
