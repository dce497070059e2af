"""The published `crawler-pervisit` network, written from its definition and nothing else: slow, obvious, an oracle.

Parameter names are the published state dict's, so `load_state_dict` takes a fixture's tensors as they are. It has what
scoring and adaptation read from a model: `blocks` (unique first, then looped), `schedule.looped`, `hidden`, `logits`.
Axes: B batch, T position, D width, H query heads, G key/value heads, E head width.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULTS = {
    "use_smear_gate": False,
    "bigram_buckets": 0,
    "bigram_dim": 128,
    "ve_enabled": False,
    "ve_dim": 128,
    "ve_last_n": 2,
    "xsa_last_n": 7,
}


def unit(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x_BHTE: Tensor, base: float) -> Tensor:
    """Rotate the first 2 * floor(E / 4) dims with the first floor(E / 4) frequencies of base^(-2i / E)."""
    head_dim, num = x_BHTE.shape[-1], x_BHTE.shape[-1] // 4
    angle_TE = torch.outer(torch.arange(x_BHTE.shape[-2]).float(), base ** (-2.0 * torch.arange(num) / head_dim))
    cos, sin = angle_TE.cos().to(x_BHTE.dtype), angle_TE.sin().to(x_BHTE.dtype)
    a, b, rest = x_BHTE[..., :num], x_BHTE[..., num : 2 * num], x_BHTE[..., 2 * num :]
    return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], dim=-1)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, base: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.base = heads, kv_heads, base
        self.c_q = nn.Linear(dim, dim, bias=False)
        self.c_k = nn.Linear(dim, dim // heads * kv_heads, bias=False)
        self.c_v = nn.Linear(dim, dim // heads * kv_heads, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, value_embedding: Tensor | None, exclusive: bool) -> Tensor:
        def split(y: Tensor, n: int) -> Tensor:
            return y.unflatten(-1, (n, -1)).transpose(1, 2)

        v_flat = self.c_v(x) if value_embedding is None else self.c_v(x) + value_embedding
        repeats = self.heads // self.kv_heads
        q = rotate(unit(split(self.c_q(x), self.heads)), self.base) * self.q_gain[:, None, None]
        k = rotate(unit(split(self.c_k(x), self.kv_heads)), self.base).repeat_interleave(repeats, 1)
        v = split(v_flat, self.kv_heads).repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if exclusive:
            direction = F.normalize(v, dim=-1)
            y = y - (y * direction).sum(-1, keepdim=True) * direction
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, dim: int, mult: float) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, int(dim * mult), bias=False)
        self.proj = nn.Linear(int(dim * mult), dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)) ** 2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, mult: float, base: float) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads, kv_heads, base), MLP(dim, mult)


def table_with_projection(rows: int, width: int, out: int) -> nn.ModuleDict:
    """Return a table and, where the widths differ, its projection; nothing for a table without rows."""
    parts = {"table": nn.Embedding(rows, width)} if rows else {}
    return nn.ModuleDict({**parts, "proj": nn.Linear(width, out, bias=False)} if rows and width != out else parts)


def looked_up(parts: nn.ModuleDict, rows: Tensor) -> Tensor:
    x = parts["table"](rows)
    return parts["proj"](x) if "proj" in parts else x


class PervisitOracle(nn.Module):
    """Built from the published constructor's arguments."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.published = c = SimpleNamespace(**{**DEFAULTS, **config})
        args = (c.model_dim, c.num_heads, c.num_kv_heads, c.mlp_mult, c.rope_base)
        self.visits = c.num_flat_blocks + c.num_crawler_blocks * c.crawler_loops
        self.tok_emb = nn.Embedding(c.vocab_size, c.model_dim)
        self.bigram = table_with_projection(c.bigram_buckets, c.bigram_dim, c.model_dim)
        self.smear = nn.ParameterDict({"gate": torch.zeros(c.model_dim)} if c.use_smear_gate else {})
        self.flat_blocks = nn.ModuleList(Block(*args) for _ in range(c.num_flat_blocks))
        self.crawler_blocks = nn.ModuleList(Block(*args) for _ in range(c.num_crawler_blocks))
        self.attn_scales = nn.Parameter(torch.ones(self.visits, c.model_dim))
        self.mlp_scales = nn.Parameter(torch.ones(self.visits, c.model_dim))
        self.resid_mixes = nn.Parameter(torch.zeros(self.visits, 2, c.model_dim))
        self.skip_weights = nn.Parameter(torch.ones(self.visits // 2, c.model_dim))
        self.crawler_residual_scales = nn.ParameterList(torch.tensor(1.0) for _ in range(c.crawler_loops))
        kv_dim = c.model_dim // c.num_heads * c.num_kv_heads
        self.ve = table_with_projection(c.vocab_size if c.ve_enabled else 0, c.ve_dim, kv_dim)
        self.ve.scales = nn.ParameterList(torch.ones(1) for _ in range(c.ve_last_n * c.ve_enabled))
        looped = range(c.num_flat_blocks, c.num_flat_blocks + c.num_crawler_blocks)
        self.schedule = SimpleNamespace(looped=frozenset(looped))
        self.config = SimpleNamespace(vocab_size=c.vocab_size, context_tokens=1024)

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.flat_blocks, *self.crawler_blocks]

    def visit(self, block: nn.Module, number: int, x: Tensor, x0: Tensor, ids: Tensor, exclusive: bool) -> Tensor:
        c = self.published
        ve_slot = number - (self.visits - c.ve_last_n)
        ve = self.ve.scales[ve_slot] * looked_up(self.ve, ids) if c.ve_enabled and ve_slot >= 0 else None
        x = self.resid_mixes[number, 0] * x + self.resid_mixes[number, 1] * x0
        x = x + self.attn_scales[number] * block.attn(unit(x), ve, exclusive)
        return x + self.mlp_scales[number] * block.mlp(unit(x))

    def embed(self, ids: Tensor) -> Tensor:
        c, x = self.published, self.tok_emb(ids)
        if c.bigram_buckets:
            previous = F.pad(ids[:, :-1], (1, 0))
            x = x + looked_up(self.bigram, (previous * 92821 + ids) % c.bigram_buckets)
        x = unit(x)
        if not c.use_smear_gate:
            return x
        gate = torch.sigmoid(self.smear["gate"])
        return (1 - gate) * x + gate * F.pad(x[:, :-1], (0, 0, 1, 0))

    def hidden(self, ids: Tensor) -> Tensor:
        c = self.published
        x = x0 = self.embed(ids)
        encoders, number, skips = c.num_flat_blocks // 2, 0, []
        for i in range(encoders):
            exclusive = c.xsa_last_n > 0 and i >= self.visits - c.xsa_last_n
            x = self.visit(self.flat_blocks[i], number, x, x0, ids, exclusive)
            skips.append(x)
            number += 1
        for loop in range(c.crawler_loops):
            for block in self.crawler_blocks:
                after = self.visit(block, number, x, x0, ids, c.xsa_last_n > 0)
                x = after if loop == 0 else x + self.crawler_residual_scales[loop] * (after - x)
                number += 1
        for i in range(c.num_flat_blocks - encoders):
            if skips:
                x = x + self.skip_weights[i] * skips.pop()
            index = encoders + i
            late = index >= max(self.visits - c.xsa_last_n, encoders + c.num_crawler_blocks * c.crawler_loops)
            x = self.visit(self.flat_blocks[index], number, x, x0, ids, c.xsa_last_n > 0 and late)
            number += 1
        return unit(x)

    def logits(self, hidden: Tensor) -> Tensor:
        cap = self.published.logit_softcap
        return cap * torch.tanh(F.linear(hidden, self.tok_emb.weight) / cap)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(ids))
