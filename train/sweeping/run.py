"""Trains a sweep's rows, scores them and makes the table: what `train.sweep` does."""

import hashlib
import json
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process

from cache_schema.fingerprint import file_sha256
from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import load_head
from train.commands import alone_in, one_of_several
from train.data.compatible import check_compatible, check_releases
from train.data.sizes import common_sizes
from train.distributed import leave
from train.evaluation.from_cache.contents import list_expressions, pick_rule
from train.evaluation.from_cache.head_scores import (
    HeadScores,
    collect_metrics,
    from_json,
    score_videos,
    to_json,
)
from train.evaluation.report import write_metrics
from train.heads import build_head, find_head
from train.members import Trained, train_members
from train.options import named_path
from train.progress import progress
from train.provenance import cache_identity, describe_run
from train.runner import ram_bytes
from train.sweeping.report import write_report
from train.sweeping.variants import Sweep, load_sweep, make_members
from train.trainee import Member

#: Videos of the splits of MeViS that the paper measures on: beside other data its figures would
#: mean nothing, and other data sets come in the layout of MeViS, too.
MEVIS_VIDEOS = {"valid": 140, "valid_u": 50}


def run(arguments: Namespace) -> None:
    """Do what the command line of `train.sweep` says.

    Raises:
        InputError: bad input; or, after all else is done, that some heads were dropped.
    """
    sweep = load_sweep(arguments.sweep)
    members = make_members(sweep, arguments.config, arguments.seeds, arguments.cfg_options)
    if arguments.check:
        return
    work_dir = Path(arguments.work_dir or Path("work/sweeps") / Path(arguments.sweep).stem)
    start = time.perf_counter()
    with one_of_several(arguments) as device, alone_in(work_dir):
        ram = ram_bytes(members[0].config, len(arguments.cache), device)
        caches = open_caches(arguments.cache, "--cache", members, ram)
        val_caches = open_caches(arguments.val_cache, "--val-cache", members)
        eval_caches = open_caches(arguments.eval_cache, "--eval-cache", members)
        for names, readers in eval_caches.items():  # better now than after the training
            list_expressions(readers[0])
            both = (caches[names][0], readers[0])
            check_compatible({str(r.path): r.fingerprint for r in both}, mixed_codecs=True)
            check_releases([*caches[names], readers[0]])
        trained = train_members(
            members, caches, work_dir,
            device=device, resume=arguments.resume, validation=val_caches,
        )  # fmt: skip
        main_process = is_main_process()
        leave()  # the others have done their part
        if not main_process:
            return
        if eval_caches:
            metrics = evaluate(trained, eval_caches, work_dir, device=device)
            print(report(sweep, trained, metrics, eval_caches, work_dir))
        about = describe_run(
            config={member.name: member.config.to_dict() for member in members},
            seed=None,
            caches={"training": _identities(caches), "evaluation": _identities(eval_caches)},
            device=device,
            seconds=time.perf_counter() - start,
            seeds=arguments.seeds,
        )
        write_metrics(work_dir / "run.json", about)
    print(f"checkpoints and tables: {work_dir}")
    if trained.dropped:
        names = ", ".join(member.name for member in trained.dropped)
        raise InputError(
            f"{len(trained.dropped)} of {len(members)} heads were dropped ({names}); all that was "
            "asked for is done for the others"
        )


def open_caches(
    given: Sequence[str], option: str, members: Sequence[Member], ram: int = 0
) -> dict[tuple[str, ...], list[CacheReader]]:
    """The caches of each combination of names that members have.

    Args:
        given: PATH or NAME=PATH.
        ram: bytes that each may keep in memory.

    Raises:
        InputError: a name twice, one that was not given, or a cache that cannot be read.
    """
    if not given:
        return {}
    paths: dict[str, list[str]] = defaultdict(list)
    for text in given:
        name, path = named_path(text)
        paths[name].append(path)
        if name and len(paths[name]) > 1:
            raise InputError(f"{option}: two caches are called {name}; give each its own name")
    readers = {n: [CacheReader(path, ram_bytes=ram) for path in own] for n, own in paths.items()}
    everything = [reader for own in readers.values() for reader in own]
    found = {}
    for names in {member.caches for member in members}:
        unknown = sorted(set(names) - set(readers))
        if option != "--cache":  # one is enough for all, else the one of the first name
            first = readers.get(names[0] if names else "", everything)[:1]
            if names and unknown and len(everything) > 1:
                raise InputError(f"{option}: a row wants the cache {names[0]}; give it by name")
            found[names] = first
        elif unknown:
            raise InputError(
                f"{option}: a row wants the cache(s) {', '.join(unknown)}; give NAME=PATH for each"
            )
        else:
            found[names] = [r for n in names for r in readers[n]] or readers.get("", everything)
    used = {id(reader) for own in found.values() for reader in own}
    if idle := [reader.path for reader in everything if id(reader) not in used]:
        raise InputError(f"{option}: no row would take {idle[0]}; leave it out, or give its name")
    return found


def _identities(caches: Mapping[tuple[str, ...], Sequence[CacheReader]]) -> list[dict[str, str]]:
    readers = {str(reader.path): reader for own in caches.values() for reader in own}
    return [cache_identity(reader) for reader in readers.values()]


def evaluate(
    trained: Trained,
    caches: Mapping[tuple[str, ...], Sequence[CacheReader]],
    work_dir: Path,
    *,
    device: torch.device,
) -> dict[Member, dict]:
    """Score every head, those of one cache with shared reading; each gets its metrics.json.

    What was scored is kept video by video, so that a stopped evaluation goes on where it was.
    """
    metrics: dict[Member, dict] = {}
    groups: dict[CacheReader, dict[Member, Path]] = defaultdict(dict)
    for member, path in trained.checkpoints.items():
        groups[caches[member.caches][0]][member] = path
    for reader, checkpoints in groups.items():
        found = _score(reader, checkpoints, work_dir, device)
        for member in checkpoints:
            metrics[member] = found[member.name]
            write_metrics(work_dir / member.name / "metrics.json", metrics[member])
    return metrics


def _score(
    reader: CacheReader, checkpoints: Mapping[Member, Path], work_dir: Path, device: torch.device
) -> dict[str, dict]:
    """The content of metrics.json of each head, by `Member.name`."""
    models = [member.config.model for member in checkpoints]
    needs = {name for model in models for name in find_head(model.type).needs(model)}
    sizes = common_sizes([reader], needs)
    heads = {m.name: load_head(m.config, path, sizes, device) for m, path in checkpoints.items()}
    rule = {m.name: pick_rule(m.config, reader) for m in checkpoints}
    sigma = {m.name: m.config.evaluation.sigma for m in checkpoints}
    digests = {m.name: file_sha256(path) for m, path in checkpoints.items()}
    header = json.dumps([reader.fingerprint_hex, digests, rule, sigma], sort_keys=True)
    name = hashlib.sha256(header.encode()).hexdigest()[:12]
    path = work_dir / f"scores-{name}.jsonl"  # of these heads on this cache alone
    done = _read_scores(path)
    videos = list_expressions(reader)
    missing = {video_id: items for video_id, items in videos.items() if video_id not in done}
    scored = score_videos(reader, heads, rule=rule, sigma=sigma, device=device, videos=missing)
    for video_id, found in progress(scored, "score", len(missing)):
        done[video_id] = found
        files.append(path, json.dumps([video_id, to_json(found)]))
    return collect_metrics(videos, (done[i] for i in videos if i in done))


def _read_scores(path: Path) -> dict[str, HeadScores]:
    """What an earlier evaluation scored; a line that a kill cut short is cut off."""
    if not path.is_file():
        return {}
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines = whole.splitlines()
    files.write(path, b"".join(line + b"\n" for line in lines))
    try:
        return {video_id: from_json(found) for video_id, found in map(json.loads, lines)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} does not hold scores ({error}); delete it and run the same command again"
        ) from None


def report(
    sweep: Sweep,
    trained: Trained,
    metrics: Mapping[Member, dict],
    caches: Mapping[tuple[str, ...], Sequence[CacheReader]],
    work_dir: Path,
) -> str:
    """Write the sweep's table in all its forms; returns it as text."""
    results: dict[str, list[dict]] = {label: [] for label in sweep.rows}
    seconds: dict[str, list[float]] = defaultdict(list)
    parameters = {}
    for member, content in metrics.items():
        sizes = common_sizes(caches[member.caches])
        results[member.label].append(content)
        seconds[member.label].append(trained.seconds[member])
        with torch.device("meta"):
            head = build_head(member.config, sizes)
        learnable = (p.numel() for p in head.parameters() if p.requires_grad)
        parameters[member.label] = sum(learnable)
    return write_report(
        work_dir,
        results,
        reference=sweep.reference,
        parameters=parameters,
        seconds={label: sum(own) / len(own) for label, own in seconds.items()},
        dropped={member.name: reason for member, reason in trained.dropped.items()},
        paper=sweep.paper if is_mevis(r for own in caches.values() for r in own) else None,
    )


def is_mevis(readers: Iterable[CacheReader]) -> bool:
    """Whether caches hold splits of MeViS that the paper measures on, all of their videos."""
    return all(
        reader.dataset == "mevis" and len(reader) == MEVIS_VIDEOS.get(reader.split)
        for reader in readers
    )
