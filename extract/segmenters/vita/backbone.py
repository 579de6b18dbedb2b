"""The backbone for inference: batch norms folded into convolutions, maps as the device wants them.

A batch norm that does not learn is a scale and a shift of every channel, which the convolution
before it can do with its own weights. That changes rounding only. A Swin has no batch norm and runs
as the library wrote it on a processor, where nearly all of its time is matrix products.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extract.segmenters.vita import forms
from extract.segmenters.vita.swin import swin_maps


class FoldedBackbone:
    """A backbone with its batch norms folded, which follows the weights that it was made from.

    Not a module: the folded weights are in no state dictionary, and when the backbone's own are
    loaded, moved or changed, the next call folds them again.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._has_norms = any(isinstance(each, nn.BatchNorm2d) for each in backbone.modules())
        self._folded = backbone
        self._state: list[Any] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """(t, 3, Hp, Wp) -> the maps (t, C_l, h_l, w_l) of the stages, fine to coarse."""
        if forms.gpu(images) and hasattr(self._backbone, "swin"):
            return swin_maps(self._backbone, images)
        layout = forms.layout(images.device)
        if self._has_norms and self._state != (state := [layout, *state_of(self._backbone)]):
            self._folded, self._state = _fold(self._backbone, layout), state
        return self._folded(images.contiguous(memory_format=layout)).feature_maps


def _fold(backbone: nn.Module, layout: torch.memory_format) -> nn.Module:
    """A copy of the library's ResNet without batch norms."""
    backbone = copy.deepcopy(backbone).eval()
    for module in backbone.modules():
        if isinstance(getattr(module, "normalization", None), nn.BatchNorm2d):
            module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
            module.normalization = nn.Identity()
        elif isinstance(module, nn.ReLU):
            module.inplace = True  # what it takes are convolutions and sums, read by nothing else
    return backbone.to(memory_format=layout)


def state_of(backbone: nn.Module) -> list[tuple[int, int]]:
    """What changes whenever weights do: where they are, and how often they were written to."""
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in [*backbone.parameters(), *backbone.buffers()]
    ]
