"""Checkpoints as detectron2 pickles them (.pkl, NumPy arrays), read without running their code.

A pickle is a program that may call any function by its name. This reader knows the few names that
NumPy arrays need, and even these are its own functions: nothing outside this file is ever called.
"""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")


class Refused(Exception):
    """The pickle asks for a function that arrays do not need; the message is its name."""


def load_arrays(path: Path) -> Any:
    """The content of a pickle of plain containers, strings, numbers and NumPy arrays.

    Arrays are writable and in the machine's byte order.

    Raises:
        Refused: it would call anything else. Nothing of it was called.
        Exception: of many kinds, if it is damaged or no pickle.
    """
    with open(path, "rb") as file:
        return _arrays(_Unpickler(file).load())


class _Unpickler(pickle._Unpickler):  # the one in C takes memory for any number that is said
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 has renamed its core
        known = _KNOWN.get((module.replace("numpy.core.", "numpy._core."), name))
        if known is None:
            raise Refused(f"{module}.{name}")
        return known


class _Dtype:
    """Stands for numpy.dtype: numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, name: str) -> None:
        if not NUMBERS.fullmatch(name):
            raise ValueError(f"arrays of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">", "|": "="}[state[1]])


class _Array:
    """Stands for an array, which a pickle creates empty and fills later."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, values = state
        self.array = _array(values, dtype, shape, "F" if fortran_order else "C")


def _array(values: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    array = np.frombuffer(values, dtype.dtype).reshape(shape, order=order)
    return array.astype(dtype.dtype.newbyteorder("="), order="C")  # a copy: writable


def _encode(text: str, encoding: str) -> bytes:
    """Older pickles write bytes as text."""
    return text.encode({"latin1": "latin1"}[encoding])


class _Dict(dict):
    """Stands for collections.OrderedDict; PyTorch hangs notes on it, which are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Function:
    """A function that a pickle can call and not change."""

    __slots__ = ("__call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.__call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.__call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function has no state")


_KNOWN = {
    ("numpy", "ndarray"): "ndarray",  # an argument of the next, which does not need it
    ("numpy._core.multiarray", "_reconstruct"): _Function(lambda *_: _Array()),
    ("numpy._core.numeric", "_frombuffer"): _Function(_array),
    ("numpy", "dtype"): _Function(lambda name, align=False, copy=False: _Dtype(name)),
    ("_codecs", "encode"): _Function(_encode),
    ("__builtin__", "bytes"): _Function(lambda: b""),
    ("collections", "OrderedDict"): _Function(_Dict),
}


def _arrays(value: Any) -> Any:
    """The containers of a pickle with arrays in place of what stood for them."""
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value.array if isinstance(value, _Array) else value
