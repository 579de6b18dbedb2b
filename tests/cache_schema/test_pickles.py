"""Files of torch's that ask for memory of their own choice are refused before they are loaded."""

import pickle
import zipfile

import pytest
import torch

from cache_schema.host.cli import InputError
from cache_schema.host.pickles import check_pickle
from extract.segmenters.vita.weights import read_checkpoint as read_weights
from train.checkpoint import read_checkpoint


class Bomb:
    def __reduce__(self):
        return bytearray, (1 << 40,)


@pytest.fixture(params=["zip", "old", "packed"])
def bomb(request, tmp_path):
    path = tmp_path / "iter_1.pth"
    if request.param == "packed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/data/0", bytes(1 << 20))
    else:
        content = {"model": Bomb(), "meta": {}, "state_dict": {}}
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_a_bomb_is_refused_whoever_reads_it(bomb, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    for read in (check_pickle, read_checkpoint, read_weights):
        with pytest.raises(InputError, match="refused"):
            read(bomb)


@pytest.mark.parametrize("new", [True, False])
def test_weights_pass(tmp_path, new):
    path = tmp_path / "iter_1.pth"
    content = {"meta": {"iter": 1}, "state_dict": {"a": torch.arange(5.0)}}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    check_pickle(path)
    assert read_checkpoint(path)["state_dict"]["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x80\2("])
def test_what_is_broken_is_left_to_torch(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    check_pickle(tmp_path / "a.pth")
