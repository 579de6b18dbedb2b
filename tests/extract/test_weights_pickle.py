"""Pickled checkpoints of NumPy arrays: what is read, and that nothing of theirs ever runs."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vita_cases import SHIPPED, config_of, load, unpacked

from cache_schema.host.cli import InputError
from extract.segmenters.vita import VITA
from extract.segmenters.vita.numpy_pickle import load_arrays
from extract.segmenters.vita.weights import read_checkpoint


def write(tmp_path: Path, content: Any, protocol: int = 4) -> Path:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_as_detectron2_writes_them(tmp_path: Path, protocol: int) -> None:
    checkpoint = torch.load(unpacked(SHIPPED / "tiny_r50.pth"), weights_only=True)["model"]
    arrays = {key: tensor.numpy() for key, tensor in checkpoint.items()}
    content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True}
    path = write(tmp_path, content, protocol)
    loaded = VITA.load(config_of(SHIPPED / "tiny_r50_config.json"), path).state_dict()
    for name, tensor in load(SHIPPED, "tiny_r50").state_dict().items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "u1", "i8", ">i2", "?"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_arrays_come_back_as_they_were(
    tmp_path: Path, protocol: int, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for given in (array, np.asfortranarray(array), array[..., ::-1] if shape else array):
        found = load_arrays(write(tmp_path, {"a": given}, protocol))["a"]
        assert found.dtype == given.dtype.newbyteorder("=") and found.flags.writeable
        np.testing.assert_array_equal(found, given)


def test_names_of_both_versions_of_numpy(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.ones(3, np.float32)}, 2)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in data
    path = tmp_path / "old.pkl"
    path.write_bytes(data.replace(new, old))
    np.testing.assert_array_equal(load_arrays(path)["a"], np.ones(3))


def test_an_ordered_state_dict_with_its_notes(tmp_path: Path) -> None:
    model = OrderedDict(a=np.ones(2, np.float32))
    model._metadata = OrderedDict(version=2)
    tensors = read_checkpoint(write(tmp_path, {"model": model}))
    assert torch.equal(tensors["a"], torch.ones(2))


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, getattr, os.remove, np.load])
def test_no_function_is_called(tmp_path: Path, protocol: int, function: Any) -> None:
    made = tmp_path / "made"
    argument = f"touch {made}" if function is os.system else str(made)
    path = write(tmp_path, {"model": {"a": Calls(function, argument)}}, protocol)
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value) and function.__name__ in str(error.value)
    assert "none of its code was run" in str(error.value) and "\n" not in str(error.value)
    assert not made.exists()


def test_the_pickle_of_that_test_would_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    pickle.loads(write(tmp_path, {"model": Calls(os.mkdir, str(made))}).read_bytes())
    assert made.exists()


@pytest.mark.parametrize(
    "name",
    ["numpy.ndarray", "numpy.dtype", "_codecs.encode", "numpy._core.multiarray._reconstruct"],
)
def test_known_names_cannot_be_changed_or_made_to_do_more(tmp_path: Path, name: str) -> None:
    """Setting the state of a function, or calling it with what arrays do not call it with."""
    module, _, attribute = name.rpartition(".")
    known = f"c{module}\n{attribute}\n".encode()
    path = tmp_path / "weights.pkl"
    for program in (
        known + b"}S'x'\nI1\nsb.",  # state {'x': 1}
        known + b"N}S'__call__'\nI1\ns\x86b.",  # slots {'__call__': 1}
        known + b"(S'zip'\nS'zip'\ntR.",  # called
        known + b")\x81.",  # made by __new__
    ):
        path.write_bytes(program)
        # whatever comes of it, it is no tensor
        with pytest.raises(InputError):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps({"a": np.ones(3, np.float32)}))
    np.testing.assert_array_equal(load_arrays(path)["a"], np.ones(3))


@pytest.mark.parametrize(
    "array",
    [
        np.array([object, None], dtype=object),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array(["2026-11-22"], dtype="datetime64[D]"),
    ],
    ids=["objects", "text", "records", "dates"],
)
def test_arrays_of_other_than_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(InputError):
        read_checkpoint(write(tmp_path, {"model": {"a": array}}))


def test_values_that_do_not_fill_the_array(tmp_path: Path) -> None:
    data = pickle.dumps({"model": {"a": np.zeros((7, 11), np.float32)}}, 2)
    path = tmp_path / "weights.pkl"
    path.write_bytes(data.replace(b"K\x07K\x0b\x86", b"K\x07K\x0c\x86"))
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path)


def test_caffe2_pickles_hold_no_model(tmp_path: Path) -> None:
    path = write(tmp_path, {"blobs": {"conv1_w": np.zeros(3, np.float32)}})
    with pytest.raises(InputError, match="no plain tensors under the key 'model'"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], "text", None, {"model": [1]}, {"model": {"a": 1}}])
def test_pickles_without_arrays(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="weights.pkl"):
        read_checkpoint(write(tmp_path, content))


def test_a_torn_pickle(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": {"a": np.zeros(1000, np.float32)}})
    data = path.read_bytes()
    for size in (0, 1, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="cannot be read"):
            read_checkpoint(path)
