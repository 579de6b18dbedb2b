"""What waits in a file comes back as it was, or a sentence says why it cannot wait."""

import resource

import numpy as np
import pytest

from cache_schema.host.cli import InputError
from extract.pipeline.spilled import Spilled
from tests.cache_schema.helpers import in_child


@pytest.mark.parametrize("chunks", [[5], [1, 3, 1], [2, 0, 3]])
def test_every_frame_comes_back(tmp_path, chunks):
    frames = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)
    spilled, start = Spilled(tmp_path), 0
    for size in chunks:
        spilled.append(frames[start : start + size])
        start += size
    assert (spilled.frames, spilled.shape) == (5, (3, 2))
    for t in (4, 0, 2, 1, 3):
        assert np.array_equal(spilled[t], frames[t])
    assert not list(tmp_path.iterdir())


def test_no_room(tmp_path):
    def run():
        spilled = Spilled(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))
        with pytest.raises(InputError, match=f"{tmp_path} cannot hold .*; make room"):
            spilled.append(np.zeros((4, 1 << 12), np.float32))

    assert in_child(run) == 0
    with pytest.raises(InputError, match="absent cannot hold .*No such file"):
        Spilled(tmp_path / "absent")
