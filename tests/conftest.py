"""One thread for torch in all tests: their models are small, and some tests fork.

A forked process that asks the threads of its parent for help waits for ever.
"""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
torch.set_num_threads(1)
