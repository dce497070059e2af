"""The choke MLP: looped blocks share the wide half of their MLP and have a narrow way out of their own per pass.

With h = act(up(x)) every pass k computes

    flat         out_k(act(down_k(h)))
    pyramid      out_k(act(down_k(m)))          m = act(stage(h)), shared
    pyramid_res  m + out_k(act(down_k(m)))
    grouped      out_k(act(cat_g down_kg(h_g)))  h_g a contiguous slice of h
    residual     bypass(h) + out_k(act(down_k(h)))

Axes: B batch, T position, D model width, F hidden width.
Source: the crawler programs of Parameter Golf (pull requests 1140, 1535).
Differs: every group of a grouped bottleneck is a matrix of its own, so that it is quantized like any other.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.mlp import squared_leaky_relu
from pipeline.model.parts.config import ChokeConfig


class GroupedLinear(nn.Module):
    """A block-diagonal matrix: contiguous slices of the input, each through a matrix of its own."""

    def __init__(self, in_dim: int, out_dim: int, groups: int) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.Linear(in_dim // groups, out_dim // groups, bias=False) for _ in range(groups))

    def forward(self, h_BTF: Tensor) -> Tensor:
        """Return the concatenated outputs of all groups."""
        slices = h_BTF.chunk(len(self.groups), dim=-1)
        return torch.cat([group(part) for group, part in zip(self.groups, slices, strict=True)], dim=-1)


class ChokeMLP(nn.Module):
    """MLP with one bottleneck per pass."""

    def __init__(self, model_dim: int, hidden_dim: int, slope: float, choke: ChokeConfig, num_passes: int) -> None:
        super().__init__()
        self.slope, self.shape = slope, choke.shape
        staged = choke.shape in ("pyramid", "pyramid_res")
        narrow_from = model_dim if staged else hidden_dim
        self.up = nn.Linear(model_dim, hidden_dim, bias=False)
        self.stage = nn.Linear(hidden_dim, model_dim, bias=False) if staged else None
        self.bypass = nn.Linear(hidden_dim, model_dim, bias=False) if choke.shape == "residual" else None
        self.choke_down = nn.ModuleList(
            GroupedLinear(hidden_dim, choke.dim, choke.groups)
            if choke.shape == "grouped"
            else nn.Linear(narrow_from, choke.dim, bias=False)
            for _ in range(num_passes)
        )
        self.choke_up = nn.ModuleList(nn.Linear(choke.dim, model_dim, bias=False) for _ in range(num_passes))

    def writers(self) -> list[nn.Module]:
        """Return the matrices that write to the stream: zero in a fresh network."""
        return [*self.choke_up] if self.bypass is None else [*self.choke_up, self.bypass]

    def forward(self, x_BTD: Tensor, loop: int) -> Tensor:
        """Apply the MLP of pass `loop` to every position."""
        h = squared_leaky_relu(self.up(x_BTD), self.slope)
        if self.stage is not None:
            h = squared_leaky_relu(self.stage(h), self.slope)
        out_BTD = self.choke_up[loop](squared_leaky_relu(self.choke_down[loop](h), self.slope))
        if self.shape == "pyramid_res":
            return h + out_BTD
        return out_BTD if self.bypass is None else self.bypass(h) + out_BTD
