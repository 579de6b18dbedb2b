"""Seeded damage to structures that come from a file: a value of another kind, size or range."""

import copy
import math
import random
from typing import Any

import torch

ODD = [None, True, -1, 0, 10**30, 1.5, math.nan, math.inf, "", "x", b"x", [], {}, [0], {"x": 0}]


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value in nested dicts and lists, but for the whole."""
    found = [path] if path else []
    if isinstance(content, dict):
        items = list(content.items())
    else:
        items = list(enumerate(content)) if isinstance(content, list) else []
    for name, value in items:
        found += places(value, (*path, name))
    return found


def mutated(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy with one value changed or gone, and what was done."""
    content = copy.deepcopy(content)
    # By depth first, so that a few keys at the top are met as often as many weights.
    by_depth: dict[int, list[tuple]] = {}
    for path in places(content):
        by_depth.setdefault(len(path), []).append(path)
    path = rng.choice(by_depth[rng.choice(sorted(by_depth))])
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    old = parent[path[-1]]
    if rng.random() < 0.2:
        del parent[path[-1]]
        return content, f"{path} deleted"
    new = rng.choice(tensors_like(old) + ODD if isinstance(old, torch.Tensor) else ODD)
    parent[path[-1]] = new
    return content, f"{path} = {new!r:.80}"


def tensors_like(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Tensors of another shape, type or content."""
    return [
        tensor.flatten()[:1].clone(),
        torch.zeros(3, 5, 7),
        torch.zeros(0),
        tensor.to(torch.complex64),
        torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor.bool(),
        tensor[None].expand(2, *tensor.shape),
        tensor.to_sparse() if tensor.dim() else tensor.int(),
    ]
