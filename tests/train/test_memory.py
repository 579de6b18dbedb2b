import json
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from train.memory import empty, keep_freed_memory

keep_freed_memory()

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    empty((2**24,), torch.device("cpu")).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([faults() for _ in range(4)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="changes glibc's allocator only")
def test_freed_memory_is_used_again() -> None:
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    first, *others = json.loads(run.stdout)
    assert max(others) < 20 < first
