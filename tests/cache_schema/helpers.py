"""What the tests of this folder share."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from hypothesis import HealthCheck, settings

# Deterministic, and patient with a busy machine.
examples = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def contents(path: Path) -> dict[str, dict[str, object]]:
    """Every video's attributes and dataset bytes, whatever shard they are in."""
    videos: dict[str, dict[str, object]] = {}
    for shard in sorted(path.glob("shard-*.h5")):
        with h5py.File(shard) as file:
            for name, group in file["videos"].items():
                assert name not in videos
                found: dict[str, object] = {"": sorted(group.attrs.items())}

                def visit(path, node, found=found):
                    data = None
                    if isinstance(node, h5py.Dataset):
                        data = (node.shape, node.dtype, np.asarray(node[()]).tobytes())
                    found[path] = (data, sorted((k, str(v)) for k, v in node.attrs.items()))

                group.visititems(visit)
                videos[name] = found
    return videos


def in_child(function: Callable[[], None]) -> int:
    """Run a function in a forked process; its exit status, negative for the signal it died of."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def die() -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)
