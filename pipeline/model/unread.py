"""Tensors that are stored and counted but never read.

Published programs create parameters that no forward pass reads: a value embedding at layers that do not exist, skip
weights beyond the encoder. They count in the published totals and travel in the checkpoints; here they live apart from
the network that works, under `unread.<name>`, never train and can be left out by name.

Checked by: tests/interop/test_interop.py, tests/model/test_network.py
"""

from collections.abc import Mapping

import torch
from torch import nn


class UnreadTensors(nn.Module):
    """Zero tensors of the given shapes, by name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
