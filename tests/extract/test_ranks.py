"""Several ranks that write one cache, as torchrun starts them; one is killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_one import DEMO, image_folder

from cache_schema import codec_file
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank, find_rank
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from extract.__main__ import find_device, main
from extract.datasets import VideoFolder
from extract.pipeline import run as pipeline
from extract.pipeline.run import share, wait_for
from tests.cache_schema.helpers import contents

ROOT = DEMO.parents[2]
RANKS = 2
LENGTHS = [40, 9, 31, 12, 23, 5, 17, 28, 14]


# --- who is who


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "2"}


def test_the_rank_comes_from_the_launchers_own_variables():
    assert find_rank(None, TORCHRUN) == find_rank("pytorch", TORCHRUN) == Rank(3, 8, 1)
    assert find_rank("slurm", SLURM) == Rank(5, 6, 2)
    assert find_rank("none", TORCHRUN) == Rank(0, 1, 0)
    # Every job of Slurm has them, also that of a single process.
    assert find_rank(None, SLURM) == Rank(0, 1, 0)


@pytest.mark.parametrize(
    ("launcher", "environment", "said"),
    [
        ("slurm", {}, "SLURM_PROCID=missing.*srun"),
        ("pytorch", TORCHRUN | {"RANK": "three"}, "RANK=three.*torchrun"),
        ("pytorch", TORCHRUN | {"RANK": "8"}, "no rank 8 of 8"),
    ],
)
def test_a_launcher_that_did_not_start_this_is_refused(launcher, environment, said):
    with pytest.raises(InputError, match=said):
        find_rank(launcher, environment)


def test_each_rank_has_the_cuda_device_of_its_number():
    with pytest.raises(InputError, match="--device cuda:1:"):  # there is none here
        find_device("cuda", Rank(3, 8, 1))
    assert find_device("cpu", Rank(3, 8, 1)) == "cpu"


# --- what is whose


class Lengths:
    """A data set of which only the lengths are known; None cannot be read."""

    def __init__(self, lengths):
        self._lengths = {f"v{k}": length for k, length in enumerate(lengths)}
        self.ids = list(self._lengths)

    def video(self, video_id, *, objects=True):
        assert not objects
        if self._lengths[video_id] is None:
            raise InputError("broken")
        self.num_frames = self._lengths[video_id]
        return self


@given(st.lists(st.none() | st.integers(1, 300), max_size=40), st.integers(1, 9))
def test_shares_are_all_of_it_once_and_nearly_equal(lengths, world_size):
    shares = [share(Lengths(lengths), Rank(k, world_size)) for k in range(world_size)]
    assert sorted(sum(shares, [])) == sorted(Lengths(lengths).ids)
    frames = [sum(lengths[int(i[1:])] or 0 for i in own) for own in shares]
    # Longest first: no two ranks differ by more than one video.
    assert max(frames) - min(frames) <= max((n or 0 for n in lengths), default=0)
    for own in shares:
        assert own == sorted(own, key=lambda i: int(i[1:]))


def test_waiting_ends_with_what_was_waited_for_or_a_sentence(monkeypatch):
    monkeypatch.setattr(pipeline, "PAUSE", 0.001)
    found = iter([None, None, "it"])
    assert wait_for(lambda: next(found), "it") == "it"
    monkeypatch.setattr(pipeline, "PATIENCE", 0.01)
    with pytest.raises(InputError, match="rank 0 has not prepared the codec"):
        wait_for(lambda: None, "the codec")


# --- real ranks


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of videos of different lengths, one of them broken."""
    root = tmp_path_factory.mktemp("videos")
    for k, frames in enumerate(LENGTHS):
        image_folder(root, f"v{k}", frames)
    (root / "v5" / "00002.png").write_bytes(b"not an image")
    return root


def arguments(videos, out):
    settings = [
        "dataset=folder", "clips.num=2", "clips.frames=4",
        "codec.name=lowrank-int8", "codec.rank=8", "codec.frames=24",
    ]  # fmt: skip
    return [DEMO, "--data-root", videos, "--weights", "random", "--out", out, "--device", "cpu",
            "--shard-bytes", "1", "--chunk-frames", "3", "--cfg-options", *settings]  # fmt: skip


def workers(agent):
    """Process ids of the ranks that torchrun has started."""
    listed = Path(f"/proc/{agent.pid}/task").glob("*/children")
    return [int(pid) for path in listed for pid in path.read_text().split()]


def feed(pipe, frame):
    """Give a frame to who waits for it, if anybody does."""
    with suppress(OSError):
        writing = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writing, frame.read_bytes())
        os.close(writing)


def test_ranks_one_of_them_killed_write_what_one_process_writes(videos, tmp_path):
    out, held_up = tmp_path / "cache", Path(shutil.copytree(videos, tmp_path / "videos"))
    # A frame of each rank's last video comes for the codec's fit, but then not before the kill.
    dataset = VideoFolder(videos, None)
    frames = [held_up / share(dataset, Rank(k, RANKS))[-1] / "00000.png" for k in range(RANKS)]
    for frame in frames:
        frame.unlink()
        os.mkfifo(frame)
    agent = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", str(RANKS), "--max-restarts", "1",
         "-m", "extract", *map(str, arguments(held_up, out))],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    try:
        while not list(out.glob("shard-*.h5")):
            assert agent.poll() is None, agent.communicate()
            for frame in frames if not (out / codec_file.CODEC_FILE).exists() else ():
                feed(frame, videos / frame.parent.name / frame.name)
            time.sleep(0.01)
        for frame in frames:
            os.replace(shutil.copy(videos / frame.parent.name / frame.name, tmp_path), frame)
        os.kill(workers(agent)[1], signal.SIGKILL)
        said, _ = agent.communicate()
    finally:
        agent.kill()
    # The broken video of one rank stopped no other, and torchrun's status says it all the same.
    assert agent.returncode == 1
    assert "[rank 0] " in said and "video v5 failed" in said and "were there already" in said
    known = CacheReader(out)
    assert set(known.video_ids) == {f"v{k}" for k in range(len(LENGTHS)) if k != 5}
    assert list(known.failures) == ["v5"]
    assert verify(out).sound

    assert cli.run(main, [str(a) for a in arguments(videos, tmp_path / "single")]) == 2
    assert contents(out) == contents(tmp_path / "single")
