"""The training of a run or a sweep: who still has to be trained from where, and pass after pass."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.dist import barrier, is_main_process

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import read_checkpoint
from train.data.compatible import check_releases
from train.distributed import check_agreed
from train.places import checkpoints, latest_checkpoint
from train.provenance import cache_identity, contents
from train.resume import check_same_run, training_facts
from train.runner import build_runner
from train.trainee import DROPPED, Member, Trainee, why_dropped

#: By the names that a member has for its caches: these caches.
Caches = Mapping[tuple[str, ...], Sequence[CacheReader]]


@dataclass
class Trained:
    """What came of the training.

    Attributes:
        checkpoints: the last one of each member.
        seconds: that each member's own steps took.
        dropped: members that diverged, and why.
    """

    checkpoints: dict[Member, Path] = field(default_factory=dict)
    seconds: dict[Member, float] = field(default_factory=dict)
    dropped: dict[Member, str] = field(default_factory=dict)


def train_members(
    members: Sequence[Member],
    caches: Caches,
    work_dir: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    validation: Caches | None = None,
) -> Trained:
    """Train all members; those that read the same batches in one pass.

    In several processes each calls this, after `train.distributed.join`.

    Args:
        members: of a sweep, or the only one of a run.
        caches: to train on.
        work_dir: each member has a folder in it, see `Member.name`.
        device: where to train.
        resume: go on from the checkpoints in `work_dir`.
        validation: to evaluate on during training, the first cache of each combination.

    Raises:
        InputError: caches that cannot be trained on, or a folder that holds another run.
        Diverged: the only member of a run has.
    """
    device, trained = torch.device(device), Trained()
    if any(bool(validation) != (member.config.train.val_interval > 0) for member in members):
        raise InputError(
            "--val-cache and the config key train.val_interval go together: the one says what to "
            "evaluate on, the other how often"
        )
    used = [*caches.values(), *(validation or {}).values()]
    check_releases(reader for readers in used for reader in readers)
    left = [m for m in members if not _is_done(m, caches, work_dir, trained, resume=resume)]
    if done := [member.name or "this run" for member in trained.checkpoints]:
        _say(f"trained already, and left as it is: {', '.join(done)}")
    for member in trained.dropped:
        _say(f"dropped before, and left out; delete {work_dir / member.name} to train it anew")
    passes = plan(left, work_dir)
    check_agreed(
        {
            "options": [member.config.to_dict() for member in members],
            "caches": {
                names: [{**cache_identity(own), **contents(own)} for own in readers]
                for names, readers in caches.items()
            },
            "checkpoints in the work folder": [
                (start, [member.name for member in some]) for start, some in passes
            ],
        }
    )  # nobody writes while others still look
    for number, (start, some) in enumerate(passes, 1):
        title = "train" if len(passes) == 1 else f"pass {number} of {len(passes)}"
        if start or done or len(passes) > 1:
            names = ", ".join(member.name or "this run" for member in some)
            _say(f"{title} from iteration {start}: {names}")
        _train_pass(
            some, caches, work_dir, trained,
            device=device, start=start, title=title, validation=validation,
        )  # fmt: skip
        gc.collect()  # a runner and its loop hold each other, and the heads
    return trained


def _train_pass(
    members: Sequence[Member],
    caches: Caches,
    work_dir: Path,
    trained: Trained,
    *,
    device: torch.device,
    start: int,
    title: str,
    validation: Caches | None,
) -> None:
    """Train members that read the same batches, and note what came of them."""
    for member in members if is_main_process() else ():
        files.make_folder(work_dir / member.name)
    names = members[0].caches
    heads = [Trainee(member, caches[names], work_dir, device) for member in members]
    for head in heads if start else ():
        head.load(start)
    model = build_runner(
        heads, caches[names], work_dir, device=device, start=start, title=title,
        validation=validation[names][0] if validation else None,
    ).train()  # fmt: skip
    barrier()  # nobody goes on while the main process still writes
    for head in model.alive:
        trained.checkpoints[head.member] = latest_checkpoint(head.folder)
        trained.seconds[head.member] = head.seconds
    trained.dropped |= {head.member: reason for head, reason in model.dropped.items()}


def _is_done(
    member: Member, caches: Caches, work_dir: Path, trained: Trained, *, resume: bool
) -> bool:
    """Whether nothing is left to train of a member, which is noted then."""
    folder = work_dir / member.name
    path, dropped = latest_checkpoint(folder), (folder / DROPPED).is_file()
    if not resume and (path or dropped):
        raise InputError(
            f"{folder} already holds {path.name if path else 'a head'} of an earlier run; add "
            "--resume to go on with it, or choose another --work-dir"
        )
    if not (path or dropped):
        return False
    facts = training_facts(member.config, caches[member.caches])
    if dropped:
        trained.dropped[member] = why_dropped(folder, facts)
    else:
        content = read_checkpoint(path)
        check_same_run(path, content, facts)
        done, asked = max(checkpoints(folder)), member.config.train.max_iters
        if (written := content["meta"].get("iter", done)) != done:
            raise InputError(
                f"--resume: {path} was written after iteration {written}; give it its own name, or "
                "delete it"
            )
        if done > asked:
            raise InputError(
                f"--resume: {path} is beyond train.max_iters={asked}; give {done} or more, or "
                "choose another --work-dir"
            )
        if done < asked:
            return False
        trained.checkpoints[member] = path
        trained.seconds[member] = content["meta"].get("seconds") or 0.0
    return True


def plan(members: Sequence[Member], work_dir: Path) -> list[tuple[int, list[Member]]]:
    """The passes: iterations that are done already, and the members that go on from there.

    Members of one pass read the same batches. A kill may have come between the checkpoints of two
    of them; then both go on from the one before.
    """
    passes: list[tuple[str, list[Member], set[int]]] = []
    places = {m: [0, *checkpoints(work_dir / m.name)][-2:] for m in members}
    # The furthest first: whoever is behind joins those that can go back to where it is.
    for member in sorted(members, key=lambda member: -places[member][-1]):
        batches = _batches_of(member)
        for theirs, some, common in passes:
            if theirs == batches and places[member][-1] in common:
                some.append(member)
                common &= set(places[member])
                break
        else:
            passes.append((batches, [member], set(places[member])))
    order = {member: number for number, member in enumerate(members)}
    found = [(max(common), sorted(some, key=order.get)) for _, some, common in passes]
    return sorted(found, key=lambda own: order[own[1][0]])


def _batches_of(member: Member) -> str:
    """What decides which batches a member reads, and when it is saved."""
    config = member.config.to_dict()
    shared = {**config["train"], "seed": None, "autocast": None}
    return json.dumps([member.caches, config["data"], shared], sort_keys=True)


def _say(text: str) -> None:
    if is_main_process():
        print(text)
