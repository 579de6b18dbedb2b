"""One function over many tasks, in several processes, with few tasks in memory at a time."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import TypeVar

import cv2

from cache_schema.host import children

Task, Result = TypeVar("Task"), TypeVar("Result")


def run(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int
) -> Iterator[Result]:
    """The results, in the order of the tasks.

    Args:
        function: of a module, so that it can be handed to another process.
        tasks: taken as they are needed; plain data.
        workers: 1 works in this process.

    Raises:
        What the function raises; tasks that have not started are dropped then.
        SystemTrouble: a process ended before its work did.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    # Not forked from here: a fork of a process with threads can wait for ever for one of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(children.PRELOAD)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        with children.no_survivors():
            waiting: deque = deque()
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenExecutor:
        raise children.died("a working process") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    children.serve()
    cv2.setNumThreads(1)
