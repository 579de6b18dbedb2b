"""What stage two reads from files is checked before it is used: damage is a sentence, no traceback.

Beside these cases, `tests/test_fuzz.py` damages each kind of file in seeded ways.
"""

import json
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from mmengine.config import Config

from cache_schema.host import cli
from cache_schema.reader import CacheReader
from tests import fuzz
from tests.synthetic import write_cache
from tests.train.protocol_caches import write_head
from tests.train.test_training import CONFIG
from train import evaluate
from train.__main__ import main as train_main
from train.places import BASE
from train.predictions import Predictions


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, a run of two iterations on it, an untrained head and its predictions."""
    place = tmp_path_factory.mktemp("outside")
    write_cache(place / "cache", num_videos=2, num_frames=3, num_expressions=1)
    (place / "small.py").write_text(CONFIG)
    assert train(place, place / "run", 2) == 0
    write_head(place)
    predicted = ["--checkpoint", str(place / "iter_0.pth")]
    assert score(place, place / "out", *predicted) == 0
    return place


def train(place: Path, run: Path, iterations: int) -> int:
    options = [f"train.max_iters={iterations}", "train.checkpoint_interval=1", "data.num_workers=0"]
    arguments = [place / "small.py", "--cache", place / "cache", "--work-dir", run, "--resume"]
    return cli.run(train_main, [*map(str, arguments), "--device", "cpu", "--cfg-options", *options])


def score(place: Path, out: Path, *source: str) -> int:
    arguments = [place / "config.py", "--cache", place / "cache", "--out", out]
    return cli.run(evaluate.main, [*map(str, arguments), "--device", "cpu", *source])


def test_odd_config_values_are_trained_with_or_refused(place: Path, tmp_path: Path) -> None:
    """Every key with a few values of other kinds."""
    known = Config.fromfile(BASE).to_dict()
    keys = [f"{section}.{name}" for section, content in known.items() for name in content]
    rng, refused = random.Random(0), 0
    for number, key in enumerate(keys):
        value = rng.choice([*fuzz.ODD, [[0]], [1, "x"], -(10**30), 10**400, "1" * 5000])
        arguments = [place / "small.py", "--cache", place / "cache", "--work-dir"]
        options = ["train.max_iters=1", "data.num_workers=0", f"{key}={value}"]
        status = cli.run(
            train_main,
            [*map(str, arguments), str(tmp_path / str(number)), "--cfg-options", *options],
        )
        assert status in (0, 2), f"{key}={value!r:.60}"
        refused += status == 2
    assert len(keys) / 4 < refused < len(keys)


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4", b"\x80\2}q\0."])
def test_a_file_that_is_no_checkpoint(place: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "iter_7.pth").write_bytes(data)
    assert score(place, tmp_path / "out", "--checkpoint", str(tmp_path)) == 2
    assert train(place, tmp_path, 8) == 2


def replaced(group: h5py.Group, name: str, **how) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, **{"shape": shape, "dtype": "f4", **how})


def virtual(group: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout(group[name].shape, "f4")
    layout[:] = h5py.VirtualSource("outside.h5", "x", shape=layout.shape)
    del group[name]
    group.create_virtual_dataset(name, layout)


def set_to(group: h5py.Group, name: str, value: float) -> None:
    group[name][...] = value


DAMAGES = {
    "NaN": lambda g, name: set_to(g, name, np.nan),
    "infinite": lambda g, name: set_to(g, name, np.inf),
    "empty": lambda g, name: replaced(g, name, shape=None, data=h5py.Empty("f4")),
    "no rows": lambda g, name: replaced(g, name, shape=(0,) * g[name].ndim),
    "longer": lambda g, name: replaced(g, name, shape=[n + 1 for n in g[name].shape]),
    "huge": lambda g, name: replaced(g, name, shape=[1 << 30] * g[name].ndim, chunks=True),
    "text": lambda g, name: replaced(g, name, dtype=h5py.string_dtype()),
    "deeper": lambda g, name: replaced(g, name, shape=(2, 2, 2)),
    "outside": lambda g, name: replaced(g, name, external=[("outside.bin", 0, 1 << 20)]),
    "virtual": virtual,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["scores", "mask_embeds"])
def test_damaged_predictions_are_refused(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.h5"
    path.write_bytes((place / "out" / "predictions.h5").read_bytes())
    video = CacheReader(place / "cache").video_ids[0]
    with h5py.File(path, "r+") as file:
        DAMAGES[damage](file[f"videos/{video}/{next(iter(file['videos'][video]))}"], name)
    assert score(place, tmp_path / "out", "--from-predictions", str(path)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and video in said


@pytest.mark.parametrize("name", ["format_version", "fingerprint", "rule", "sigma", "training"])
def test_damaged_attributes_of_predictions(place: Path, tmp_path: Path, name: str) -> None:
    whole = (place / "out" / "predictions.h5").read_bytes()
    for value in (None, "", "x", "[", "[1]", 0, -1, 2.5, np.nan, 10**18, np.zeros(5), b"\xff"):
        (tmp_path / "p.h5").write_bytes(whole)
        with h5py.File(tmp_path / "p.h5", "r+") as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        try:
            Predictions(tmp_path / "p.h5")
        except cli.InputError as error:
            assert "p.h5" in str(error)
        else:
            assert name != "format_version"


def test_what_a_run_writes_can_be_read_as_json(place: Path) -> None:
    for path in (place / "out" / "metrics.json", place / "run" / "run.json"):
        json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
