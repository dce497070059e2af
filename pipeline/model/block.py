"""One block: attention and MLP on a residual stream that can be mixed with the embedding.

    x_in = mix0 * x + mix1 * x0
    x    = x_in + attention_scale * attention(norm(x_in) * s)
    x    = x + mlp_scale * mlp(norm(x) * s)

`x0` is the embedding after the smear, `s` falls with the layer when `ln_scale` is on.

Axes: B batch, T position, D model width.
Source: the residual mix of modded-nanogpt, in the form of Parameter Golf pull request 1535.
Differs: a looped block counts as layer `unique_blocks + i`, whichever the pass.
Checked by: tests/model/test_network.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.attention import Attention
from pipeline.model.config import ModelConfig
from pipeline.model.layers import compute_dtype, rms_norm
from pipeline.model.mlp import MLP
from pipeline.model.rotary import Rotation


class Block(nn.Module):
    """Physical block `index`: unique below `config.unique_blocks`, looped from there on."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        dim = config.model_dim
        looped_index = index - config.unique_blocks
        looped = looped_index >= 0
        mlp_mult = config.looped_mlp_mult if looped else config.mlp_mult
        slope = config.looped_mlp_slope if looped else config.mlp_slope
        self.norm_scale = (index + 1) ** -0.5 if config.ln_scale else 1.0
        self.attention = Attention(config, exclusive=looped_index >= config.looped_blocks - config.xsa_last_looped)
        self.mlp = MLP(dim, int(mlp_mult * dim), slope)
        self.residual_mix = nn.Parameter(torch.stack((torch.ones(dim), torch.zeros(dim))))
        self.attention_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))

    def forward(self, x_BTD: Tensor, x0_BTD: Tensor, rotation: Rotation, added_value: Tensor | None) -> Tensor:
        """Return the stream after this block; arguments as in `Attention.forward`, x0 the embedding."""
        x_BTD = self.residual_mix[0] * x_BTD + self.residual_mix[1] * x0_BTD
        x_BTD = x_BTD + self.attention_scale * self.attention(self._normed(x_BTD), rotation, added_value)
        return x_BTD + self.mlp_scale * self.mlp(self._normed(x_BTD))

    def _normed(self, x_BTD: Tensor) -> Tensor:
        # One cast here spares autocast one for every matrix that reads the result.
        return (rms_norm(x_BTD) * self.norm_scale).to(compute_dtype(x_BTD))
