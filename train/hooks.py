"""What happens beside the steps of training, for each head of a pass."""

from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import read_checkpoint, save_checkpoint
from train.evaluation.from_cache.contents import pick_rule
from train.evaluation.from_cache.head_scores import validate
from train.evaluation.report import write_metrics
from train.provenance import describe_run, peak_gpu_memory_mb, peak_memory_mb
from train.trainable import Losses
from train.trainee import Trainee

WINDOW = 10  # iterations over which the log averages, as mmengine's


class Log(Hook):
    """Losses, rate, time and memory: a line of the log for all heads, scalars for each.

    Losses come to the host when a line is written: on a GPU each would wait for the device.

    Args:
        interval: iterations between two lines.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._losses: dict[str, deque[Losses]] = {}
        self._times: deque[tuple[float, float]] = deque(maxlen=min(interval, WINDOW))

    def before_train(self, runner: Runner) -> None:
        self._first, self._start = runner.iter, perf_counter()
        self._last = self._start

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._loaded = perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict[str, Losses]
    ) -> None:
        now = perf_counter()
        self._times.append((now - self._last, self._loaded - self._last))
        self._last = now
        for name, losses in outputs.items():
            self._losses.setdefault(name, deque(maxlen=self._times.maxlen)).append(losses)
        done = runner.iter + 1
        heads = [head for head in runner.model.alive if head.name in outputs]
        if done % self.interval or not heads:
            return
        losses = means([self._losses[head.name] for head in heads])
        took = [sum(column) / len(self._times) for column in zip(*self._times, strict=True)]
        cost = dict(zip(("time", "data_time"), took, strict=True))
        cost["memory"] = peak_gpu_memory_mb(runner.device) or peak_memory_mb()
        for head, terms in zip(heads, losses, strict=True):
            head.record({"lr": head.rate, **cost, **terms}, done)
        left = (now - self._start) / (done - self._first) * (runner.max_iters - done)
        shared = [term for term in losses[0] if all(term in terms for terms in losses)]
        mean = {term: sum(terms[term] for terms in losses) / len(heads) for term in shared}
        line = f"Iter(train) [{done:>{len(str(runner.max_iters))}}/{runner.max_iters}]  "
        line += f"{len(heads)} heads  " if heads[0].name else ""
        line += f"lr: {heads[0].rate:.4e}  eta: {timedelta(seconds=int(left))}  "
        line += f"time: {cost['time']:.4f}  data_time: {cost['data_time']:.4f}  "
        line += f"memory: {cost['memory']}  "
        line += "  ".join(f"{term}: {value:.4f}" for term, value in mean.items())
        runner.progress(line, loss=f"{mean['loss']:.4f}")

    def after_train(self, runner: Runner) -> None:
        for head in (*runner.model.alive, *runner.model.dropped):
            for backend in head.backends:
                backend.close()


def means(windows: Sequence[Sequence[Losses]]) -> list[dict[str, float]]:
    """The mean of each loss term over some iterations and over all ranks, of each head."""
    stacked = [torch.stack([torch.stack([*own.values()]) for own in window]) for window in windows]
    # NaN is a share of no targets, not a loss: that would have ended training.
    flat = torch.cat([values.nanmean(0) for values in stacked])
    all_reduce(flat, op="mean")
    numbers = iter(flat.tolist())
    return [{term: next(numbers) for term in window[-1]} for window in windows]


class Checkpoints(Hook):
    """Writes a checkpoint of every head now and then, and in the end.

    Args:
        interval: iterations between two.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters:
            runner.model.each(Trainee.check)
            if is_main_process():
                for head in runner.model.alive:
                    head.save(done)


class RunFile(Hook):
    """Writes each head's ``run.json`` in the end: what was trained on what, and what it cost."""

    def before_train(self, runner: Runner) -> None:
        self._start, self._first = perf_counter(), runner.iter

    def after_train(self, runner: Runner) -> None:
        if not is_main_process() or not runner.model.alive:
            return
        run = describe_run(
            config={},
            seed=None,
            caches={},
            device=runner.device,
            seconds=perf_counter() - self._start,
            processes=get_world_size(),
            resumed_after=self._first,
            iterations=runner.iter,
        )
        for head in runner.model.alive:
            facts = {name: head.facts[name] for name in ("config", "seed")}
            facts["caches"] = {"training": head.facts["caches"]}
            facts["seconds_of_steps"] = round(head.seconds, 1)
            write_metrics(head.folder / "run.json", {**run, **facts})


class Validation(Hook):
    """Evaluates the heads now and then on a few videos, and keeps the best checkpoint of each.

    Args:
        reader: of the cache with these videos.
        interval: iterations between two evaluations.
        num_videos: how many, always the same.
    """

    priority = "LOW"  # before the checkpoints

    def __init__(self, reader: CacheReader, interval: int, num_videos: int) -> None:
        self.reader, self.interval, self.num_videos = reader, interval, num_videos

    def before_train(self, runner: Runner) -> None:
        # From the beginning, what lies there is of a run that left no checkpoint to go on from.
        self.best = {
            h.name: best_so_far(h.folder) if runner.iter else -1.0 for h in runner.model.alive
        }

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        done = runner.iter + 1
        if done % self.interval:
            return
        runner.model.each(Trainee.check)
        heads = {head.name: head for head in runner.model.alive}
        if not is_main_process() or not heads:
            return
        found = validate(
            {name: head.model.evaluated_head() for name, head in heads.items()},
            self.reader,
            num_videos=self.num_videos,
            sigma={name: head.member.config.evaluation.sigma for name, head in heads.items()},
            rule={name: pick_rule(head.member.config, self.reader) for name, head in heads.items()},
            device=runner.device,
        )
        for name, figures in found.items():
            head, score = heads[name], figures["J&F"]
            head.record({f"val/{kind}": figures[kind] for kind in ("J", "F", "J&F")}, done)
            better = score > self.best[name]
            runner.logger.info(
                f"{name and f'{name}: '}validation after {done} iterations: J&F {100 * score:.1f} "
                f"over {figures['num_expressions']} expressions"
                + (", the best so far" if better else "")
            )
            if better:
                self.best[name] = score
                save_checkpoint(head.content(done, validation=figures), head.folder / "best.pth")


def best_so_far(folder: Path) -> float:
    """J&F of the best checkpoint in the folder of a head that goes on; -1 without any."""
    path = folder / "best.pth"
    if not path.is_file():
        return -1.0
    match read_checkpoint(path)["meta"].get("validation"):
        case {"J&F": float(best)} if 0 <= best <= 1:
            return best
    raise InputError(f"{path} does not say how good it is; move it away")
