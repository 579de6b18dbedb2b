"""Several real processes write one cache, one is killed and restarted: as if one had written it."""

import os
import random
import signal
import time

import pytest

from cache_schema import manifest
from cache_schema.host import lock
from cache_schema.host.cli import InputError
from cache_schema.verify import verify
from tests.cache_schema.helpers import contents, die, in_child, listed_contents
from tests.synthetic import make_video, open_writer, write_cache, write_video

RANKS = 4
VIDEO = {"num_expressions": 1, "num_clips": 1, "C": 2, "num_frames": 4}
# A shard holds one or two videos.
SIZES = {"num_videos": 16, "shard_bytes": 4000, **VIDEO}
VIDEOS = [make_video(i, **VIDEO) for i in range(SIZES["num_videos"])]


def open_rank(path, rank, world_size=RANKS):
    return open_writer(
        path, channels=2, shard_bytes=SIZES["shard_bytes"], rank=rank, world_size=world_size
    )


def write_share(path, rank, world_size=RANKS, pause=0.0):
    with open_rank(path, rank, world_size) as writer:
        for video in VIDEOS[rank::world_size]:
            if video.id not in writer.done:
                write_video(writer, video)
                time.sleep(pause)


def start(function):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return child


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start_ranks(path, world_size=RANKS, **options):
    return [
        start(lambda rank=rank: write_share(path, rank, world_size, **options))
        for rank in range(world_size)
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "cache"
    write_cache(path, **SIZES)
    return contents(path)


@pytest.mark.parametrize("seed", range(4))
def test_one_of_four_is_killed_and_restarted(tmp_path, single, seed):
    rng = random.Random(seed)
    path = tmp_path / "cache"
    ranks = start_ranks(path, pause=0.02)
    victim = rng.randrange(RANKS)
    for _ in range(3):
        time.sleep(rng.uniform(0, 0.15))
        os.kill(ranks[victim], signal.SIGKILL)
        wait(ranks[victim])
        ranks[victim] = start(lambda: write_share(path, victim, pause=0.02))
    assert [wait(child) for child in ranks] == [0] * RANKS
    assert contents(path) == single
    report = verify(path)
    assert report.sound, list(report.lines())
    for video in VIDEOS:
        number = int(manifest.SHARD.fullmatch(manifest.read(path).videos[video.id].shard)[1])
        assert number % RANKS == VIDEOS.index(video) % RANKS
    assert not list(path.glob(".*.tmp"))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_all_are_killed_and_others_in_number_go_on(tmp_path, single, world_size):
    path = tmp_path / "cache"
    ranks = start_ranks(path, pause=0.05)
    time.sleep(0.15)
    for child in ranks:
        os.kill(child, signal.SIGKILL)
        wait(child)
    ranks = start_ranks(path, world_size)
    assert [wait(child) for child in ranks] == [0] * world_size
    assert contents(path) == single and verify(path).sound


def test_ranks_of_one_run_write_together_and_nobody_else(tmp_path):
    with open_rank(tmp_path, 1) as one, open_rank(tmp_path, 3) as three:
        for refused in (
            lambda: open_rank(tmp_path, 1),  # the same rank twice
            lambda: open_rank(tmp_path, 0, 2),  # a run of another size
            lambda: open_writer(tmp_path, channels=2),  # a run of one process
        ):
            with pytest.raises(InputError, match="another process is writing"):
                refused()
        write_video(one, VIDEOS[1])
        write_video(three, VIDEOS[3])
    shards = {e.id: e.shard for e in manifest.read(tmp_path).videos.values()}
    assert shards == {"video001": "shard-00001.h5", "video003": "shard-00003.h5"}
    with open_rank(tmp_path, 1) as one:
        write_video(one, VIDEOS[5])
    with open_writer(tmp_path, channels=2) as alone:
        write_video(alone, VIDEOS[0])
    shards = {e.id: e.shard for e in manifest.read(tmp_path).videos.values()}
    assert (shards["video005"], shards["video000"]) == ("shard-00005.h5", "shard-00006.h5")


@pytest.mark.parametrize("healer", [(0, 1), (0, 2)])
def test_ranks_wait_for_the_one_that_heals_but_not_for_ever(tmp_path, monkeypatch, healer):
    held = lock.CacheLock(tmp_path, *healer)
    assert held.alone
    waiting = start(lambda: open_rank(tmp_path, 1, 2).close())
    time.sleep(0.3)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with pytest.raises(InputError, match="another process is writing"):
        lock.CacheLock(tmp_path, 2, 3)
    if healer == (0, 2):
        held.share()
    else:
        held.release()
    assert wait(waiting) == 0
    held.release()


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (2, 2)])
def test_a_rank_outside_its_world_is_a_mistake_of_the_caller(tmp_path, rank, world_size):
    with pytest.raises(ValueError):
        open_rank(tmp_path, rank, world_size)


def test_a_lock_survives_no_crash(tmp_path):
    for open_it in (lambda: open_writer(tmp_path, channels=2), lambda: open_rank(tmp_path, 2)):

        def killed(open_it=open_it):
            writer = open_it()
            write_video(writer, VIDEOS[0])
            die()

        assert in_child(killed) == -signal.SIGKILL
        open_it().close()
        open_writer(tmp_path, channels=2).close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    writer = open_writer(tmp_path, channels=2)
    reading, writing = os.pipe()

    def live_on():
        os.write(writing, b"!")
        signal.pause()

    child = start(live_on)
    os.read(reading, 1)  # it lives, and has been through what a fork does
    try:
        with pytest.raises(InputError, match="another process is writing"):
            open_writer(tmp_path, channels=2)
        writer.close()
        open_writer(tmp_path, channels=2).close()
    finally:
        os.kill(child, signal.SIGKILL)
        wait(child)


def test_a_restarted_rank_leaves_the_shards_of_its_fellows_alone(tmp_path):
    """A fellow builds one shard and has finished another that it has not entered yet."""
    with open_rank(tmp_path, 2) as fellow:
        write_video(fellow, VIDEOS[2])
        write_video(fellow, VIDEOS[6])
        fellow.settle()
        name = manifest.read(tmp_path).videos["video002"].shard
        entered = (tmp_path / "manifest.jsonl").read_bytes()
        (tmp_path / "manifest.jsonl").write_bytes(b"")
        write_video(fellow, VIDEOS[10])
        building = list(tmp_path.glob(".shard-*.tmp"))
        assert len(building) == 1
        with open_rank(tmp_path, 1) as restarted:
            assert restarted.done == set()
            write_video(restarted, VIDEOS[1])
        assert list(tmp_path.glob(".shard-*.tmp")) == building
        assert (tmp_path / name).exists()
        # What only its own restart may do:
        (tmp_path / "manifest.jsonl").write_bytes(
            entered + (tmp_path / "manifest.jsonl").read_bytes()
        )
    assert verify(tmp_path).sound
    assert listed_contents(tmp_path).keys() == {"video001", "video002", "video006", "video010"}


def test_a_line_that_a_killed_rank_tore_is_cut_by_the_next(tmp_path):
    with open_rank(tmp_path, 0) as fellow:
        with open(tmp_path / "manifest.jsonl", "ab") as file:
            file.write(b'{"id": "video00')
        fellow.fail("video007", "its frames are gone")
    assert manifest.read(tmp_path).failures == {"video007": "its frames are gone"}
