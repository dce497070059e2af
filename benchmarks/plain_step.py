"""The same training step as the published scripts write it: the baseline of `benchmarks.train_throughput`.

It reads the weights of a network of ours and runs the plain operations on them: weights cast at every visit, a bfloat16
stream, the library's attention, a squared leaky ReLU by two operations, all logits in float32, one Newton-Schulz
iteration per matrix, the whole batch at once. Compiled or not as the caller likes.

Axes: B batch, T position, D model width, H query heads, G key/value heads, E head width.
Source: the training scripts of Parameter Golf pull requests 1140, 1493 and 1535.
Checked by: tests/benchmarks/test_train_throughput.py
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.attention import Attention
from pipeline.model.block import Block
from pipeline.model.network import LoopedUNet
from pipeline.model.parts.conditioning import CorePass
from pipeline.model.rotary import Rotation
from pipeline.model.schedule import Visit


class PlainStep(nn.Module):
    """Mean nats of a network's targets by plain operations; looped cores and folded U-Nets of the recipes."""

    def __init__(self, network: LoopedUNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, input_ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of targets (B, T)."""
        network = self.network
        x_BTD = F.rms_norm(self._embedded(input_ids_BT), (network.config.embedding_dim,))
        if network.smear is not None:
            x_BTD = network.smear(x_BTD, input_ids_BT)
        x_BTD = x_BTD.to(self.dtype)
        x0_BTD, pushed, schedule = x_BTD, [], network.schedule
        rotations = network.rotary(input_ids_BT.size(1))
        for visit in schedule.encoder:
            x_BTD = self._visit(visit, x_BTD, x0_BTD, rotations)
            pushed.append(x_BTD)
        for loop, visits in enumerate(schedule.passes):
            for conditioner in network.conditioners.values():
                x_BTD = conditioner.before(x_BTD, CorePass(loop, x_BTD, (), {})).to(self.dtype)  # type: ignore
            for visit in visits:
                x_BTD = self._visit(visit, x_BTD, x0_BTD, rotations)
        for i, visit in enumerate(schedule.decoder):
            if pushed:
                x_BTD = self._with_skip(i, x_BTD, pushed.pop())
            x_BTD = self._visit(visit, x_BTD, x0_BTD, rotations)
        x_BTD = F.rms_norm(x_BTD, (x_BTD.size(-1),))
        cap = cast(float, network.config.logit_softcap)
        logits_BTV = cap * torch.tanh(F.linear(x_BTD, network.token_embedding.weight.to(x_BTD.dtype)) / cap)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def _embedded(self, input_ids_BT: Tensor) -> Tensor:
        x_BTD = self.network.token_embedding(input_ids_BT)
        return x_BTD if self.network.bigram is None else x_BTD + self.network.bigram(input_ids_BT)

    def _with_skip(self, i: int, x_BTD: Tensor, pushed_BTD: Tensor) -> Tensor:
        assert self.network.skip_weights is not None
        skip_BTD = self.network.skip_weights[i].to(x_BTD.dtype) * pushed_BTD
        if self.network.skip_gates is None:
            return x_BTD + skip_BTD
        return torch.lerp(skip_BTD, x_BTD, torch.sigmoid(self.network.skip_gates[i].to(x_BTD.dtype)))

    def _visit(self, visit: Visit, x_BTD: Tensor, x0_BTD: Tensor, rotations: list[Rotation]) -> Tensor:
        block: Block = self.network.blocks[visit.block]  # type: ignore[assignment]
        mix_2D = block.residual_mix.to(x_BTD.dtype)
        x_BTD = mix_2D[0] * x_BTD + mix_2D[1] * x0_BTD
        read_BTD = F.rms_norm(x_BTD, (x_BTD.size(-1),)) * block.norm_scale
        out_BTD = attended(block.attention, read_BTD, rotations[self.network.rotary.row(visit)])
        x_BTD = x_BTD + block.attention_scale.to(x_BTD.dtype) * out_BTD
        if not block.parallel:
            read_BTD = F.rms_norm(x_BTD, (x_BTD.size(-1),)) * block.norm_scale
        mlp = block.mlp
        hidden_BTF = F.leaky_relu(cast_linear(mlp.up, read_BTD), mlp.slope).square()
        return x_BTD + block.mlp_scale.to(x_BTD.dtype) * cast_linear(mlp.down, hidden_BTF)  # type: ignore


def cast_linear(matrix: nn.Module, x: Tensor) -> Tensor:
    """Apply a float32 matrix in the dtype of `x`."""
    return F.linear(x, matrix.weight.to(x.dtype))  # type: ignore[arg-type]


def rotated(x_BTHE: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the leading dimensions of every head."""
    cos_T1K, sin_T1K = (table.to(x_BTHE.dtype)[:, None] for table in rotation)
    half = cos_T1K.size(-1)
    a, b, rest = x_BTHE[..., :half], x_BTHE[..., half : 2 * half], x_BTHE[..., 2 * half :]
    return torch.cat((a * cos_T1K + b * sin_T1K, -a * sin_T1K + b * cos_T1K, rest), dim=-1)


def attended(attention: Attention, x_BTD: Tensor, rotation: Rotation) -> Tensor:
    """Return the attention's output (B, T, D)."""
    batch, num_tokens, _ = x_BTD.shape
    width = attention.head_dim
    q_BTHE, k_BTGE, v_BTGE = (
        cast_linear(matrix, x_BTD).view(batch, num_tokens, -1, width)
        for matrix in (attention.query, attention.key, attention.value)
    )
    q_BTHE, k_BTGE = (F.rms_norm(x, (width,)) for x in (q_BTHE, k_BTGE))
    q_BTHE, k_BTGE = rotated(q_BTHE, rotation), rotated(k_BTGE, rotation)
    q_BTHE = q_BTHE * attention.gain.to(q_BTHE.dtype)[:, None]
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTGE, v_BTGE))
    y_BTHE = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    if attention.exclusive:
        y_BTGJE = y_BTHE.reshape(batch, num_tokens, v_BTGE.size(2), -1, width)
        unit_BTG1E = F.normalize(v_BTGE, dim=-1, eps=1e-12).unsqueeze(-2)
        y_BTHE = y_BTGJE - (y_BTGJE * unit_BTG1E).sum(dim=-1, keepdim=True) * unit_BTG1E
    return cast_linear(attention.output, y_BTHE.reshape(x_BTD.shape))


class PlainMuon(torch.optim.Optimizer):
    """Muon with one Newton-Schulz iteration after the other, matrix by matrix."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix."""
        for group in self.param_groups:
            for weight in group["params"]:
                buffer = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                buffer.mul_(group["momentum"]).add_(weight.grad)
                update = newton_schulz(weight.grad.add(buffer, alpha=group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1, weight.size(0) / weight.size(1)) ** 0.5
                weight.add_(update.to(weight.dtype), alpha=-group["lr"] * scale)


def newton_schulz(gradient_RC: Tensor, num_iterations: int = 5) -> Tensor:
    """Return the bfloat16 matrix with the same singular vectors and singular values near one."""
    x = gradient_RC.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x
