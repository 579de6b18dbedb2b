"""What all tests need of their process.

One thread for torch: models are small, and some tests fork. A forked process that asks the threads
of its parent for help waits for ever. And Ctrl-C as in a terminal: a shell that starts something in
the background has it ignore the interrupts that some tests send.

Every run tries the same examples, however busy the machine is and whatever ran before it;
``--hypothesis-profile random`` tries others.
"""

import gc
import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # for commands, too
torch.set_num_threads(1)

PATIENT = {"max_examples": 25, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", **PATIENT, derandomize=True, database=None)
settings.register_profile("random", **PATIENT, print_blob=True)
settings.load_profile("same")

#: Files that take longest: begun first, so that no process is left alone with one in the end, and
#: those that fork most, which costs more of a process that has grown.
LONGEST = [
    "test_pipeline_concurrency.py", "test_fuzz.py", "test_distributed.py", "test_ranks.py",
    "test_bench_gpu.py", "test_bench_train.py", "test_children.py", "test_full_disk.py",
    "test_sweep.py", "test_training.py",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # files are not dealt out by how many tests they have


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_sessionstart() -> None:
    """Take no examples from the numbers and words of whatever modules have been loaded by then."""
    if settings.default.derandomize:
        providers.HypothesisProvider._local_constants = providers.Constants()


def pytest_collection_finish() -> None:
    """Leave what the tests have loaded, half a million objects, out of each search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test, and what is made for several, at the same place in random numbers."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """The size of the house, at the end of every run."""
    from tests.test_house import lines_of_python

    lines = sum(lines_of_python().values())
    terminalreporter.write_line(f"{lines:,} lines of Python outside tests")
