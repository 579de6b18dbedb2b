"""How a machine's cores are shared out."""

import os

#: Cores that this process may use.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: Threads for what is done frame by frame beside the model: one, unless there are many cores.
SPARE_THREADS = max(1, min(CORES // 4, 4))


def model_threads() -> int:
    """Threads of a model on a CPU: ``OMP_NUM_THREADS``, as launchers set it, or half of the cores.

    The rest is for reading and writing. Measured on two cores, where a second thread made every
    model slower: stage one's, and the head at the demo's and at the paper's size.
    """
    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    except (KeyError, ValueError):
        return max(1, CORES // 2)
