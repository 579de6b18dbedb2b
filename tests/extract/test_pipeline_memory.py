"""A long video takes no more memory than a short one."""

import os
import subprocess
import sys

import pytest
import torch
from stage_one import DEMO, image_folder

from extract.config import load_config
from extract.segmenters.base import configure
from extract.segmenters.vita import VITAConfig, VITAHead
from extract.segmenters.vita import head as vita_head

#: Extracts a folder, then prints the peak of this process and of the largest of its own, in KB.
MEASURED = """
import resource, sys
from cache_schema.host import cli
from extract.__main__ import main

status = cli.run(main)
for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    print(resource.getrusage(who).ru_maxrss)
sys.exit(status)
"""


def peaks(root, out, frames):
    image_folder(root, "video", frames, size=(96, 160))
    options = ["--data-root", root, "--weights", "random", "--out", out, "--device", "cpu"]
    settings = ["dataset=folder", "codec=float32"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, DEMO, *options, "--cfg-options", *settings],
        cwd=DEMO.parents[2], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    return [int(line) for line in done.stdout.splitlines()[-2:]]


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """The features of 360 more frames, 88 MB, would be 18% of the one and 25% of the other."""
    short = peaks(tmp_path / "short", tmp_path / "one", 40)
    long = peaks(tmp_path / "long", tmp_path / "two", 400)
    for name, before, after in zip(("model", "reader or writer"), short, long, strict=True):
        assert after < 1.1 * before, name


@pytest.mark.parametrize("frames", [4, 17, 23])
def test_windows_in_groups_are_the_same_windows(monkeypatch, frames):
    """A long video goes through the Object Encoder some windows at a time."""
    torch.manual_seed(0)
    head = VITAHead(configure(VITAConfig, load_config(DEMO).segmenter)).eval()
    queries = torch.randn(2, frames, 16, 64)
    with torch.no_grad():
        monkeypatch.setattr(vita_head, "GROUP", 1000)
        together = head.encode(queries)
        monkeypatch.setattr(vita_head, "GROUP", 2)
        assert (head.encode(queries) - together).abs().max() < 1e-5
