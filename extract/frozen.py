"""Models that nobody can train: no gradients, and evaluation mode in every part for good."""

from collections.abc import Callable
from functools import cache
from typing import Any, Self, TypeVar

from torch import nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)


class _Frozen:
    """Placed before a module's own class."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)


def freeze(model: Model) -> Model:
    """Freeze a model in place; `requires_grad_` alone would leave ``model.part.train()`` possible.

    Every part gets a class of its own that inherits from the one it had. Nothing else about it
    changes, and copies are as frozen.
    """
    model.requires_grad_(False)
    for module in model.modules():
        if not isinstance(module, _Frozen):
            module.__class__ = _frozen(type(module))
    return model.eval()


@cache
def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_Frozen, kind), names)


class NoRandomInit(TorchFunctionMode):
    """Inside, new modules get no random numbers: for modules that are filled from a file at once.

    What is computed or constant (buffers, ones and zeros of norms) is as always. Most of the time
    of building a VITA, or a head, goes into random numbers.
    """

    RANDOM = {"normal_", "uniform_", "trunc_normal_"} | {
        f"{kind}_{law}_" for kind in ("kaiming", "xavier") for law in ("normal", "uniform")
    }

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
