"""How a machine's cores are shared out while everything of stage one works at the same time."""

import os

#: Cores that this process may use.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: Threads of the model on a CPU: half of the cores, the rest is for reading and writing. Measured
#: on two, where a second thread made the demo's model slower, and stage one with it.
MODEL_THREADS = max(1, CORES // 2)
#: Threads for what is done frame by frame beside the model: one, unless there are many cores.
SPARE_THREADS = max(1, min(CORES // 4, 4))
