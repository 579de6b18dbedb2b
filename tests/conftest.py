"""What all tests need of their process.

One thread for torch: models are small, and some tests fork. A forked process that asks the threads
of its parent for help waits for ever. And Ctrl-C as in a terminal: a shell that starts something in
the background has it ignore the interrupts that some tests send.
"""

import os
import signal

import torch

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # for commands, too
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """The size of the house, at the end of every run."""
    from tests.test_house import lines_of_python

    lines = sum(lines_of_python().values())
    terminalreporter.write_line(f"{lines:,} lines of Python outside tests")
