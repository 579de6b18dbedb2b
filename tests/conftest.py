"""One thread for torch in all tests: their models are small, and some tests fork.

A forked process that asks the threads of its parent for help waits for ever.
"""

import torch

torch.set_num_threads(1)
