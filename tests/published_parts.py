"""What the published programs share, on dicts of published tensors: norm, rotation, attention, act; slow and obvious.

Written from the definitions, in float64, one sequence at a time; nothing of `pipeline.model` is used.
Axes: T position, D width, E head width.
"""

import torch
import torch.nn.functional as F

EPSILON = torch.finfo(torch.float32).eps


class Weights(dict):
    """Published tensors as float64, remembering which names were read."""

    def __init__(self, tensors):
        super().__init__({name: tensor.double() for name, tensor in tensors.items()})
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T

    def projected(self, x, name):
        """Project where the checkpoint has such a matrix: it is absent when both widths are equal."""
        return self.linear(x, name) if f"{name}.weight" in self else x


def random_tensors(shapes, seed):
    """Return float32 tensors in which every control is away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if any(part in name for part in ("gate", "loop_pos")):
            tensors[name] = noise
        elif "group_w" in name:
            tensors[name] = noise * shape[1] ** -0.5
        elif "embed.weight" in name or "table.weight" in name or "tok_emb" in name:
            tensors[name] = 0.7 * noise
        elif name.endswith(".weight"):
            tensors[name] = 0.8 * noise * shape[1] ** -0.5
        else:  # gains, scales, mixes, skip weights
            tensors[name] = 0.7 + 0.3 * noise
    return tensors


def norm(x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPSILON)


def act(x, slope):
    return torch.where(x > 0, x, slope * x) ** 2


def raised(base, rotated, context, length):
    """Return the base for a context beyond the length; a single pair turns with frequency 1 whatever the base."""
    if context <= length or rotated == 2:
        return base
    return base * (context / length) ** (rotated / (rotated - 2))


def rotate(x_TE, base, rotated, divisor):
    """(a, b) -> (a cos + b sin, -a sin + b cos) for the two halves of the first `rotated` dims."""
    half = rotated // 2
    frequency = torch.tensor([base ** (-2 * i / rotated) / divisor for i in range(half)], dtype=torch.float64)
    angle = torch.arange(len(x_TE), dtype=torch.float64)[:, None] * frequency
    a, b = x_TE[:, :half], x_TE[:, half:rotated]
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.cat((a * cos + b * sin, -a * sin + b * cos, x_TE[:, rotated:]), -1)


def attention(w, prefix, x_TD, heads, groups, base, rotated, divisor=1.0, added=None, exclusive=False):
    width = x_TD.size(1) // heads
    q_TD, k_TD, v_TD = (w.linear(x_TD, f"{prefix}.{name}") for name in ("c_q", "c_k", "c_v"))
    v_TD = v_TD if added is None else v_TD + added
    future = torch.ones(len(x_TD), len(x_TD), dtype=torch.bool).triu(1)
    outputs = []
    for h in range(heads):
        mine, group = slice(h * width, (h + 1) * width), h * groups // heads
        theirs = slice(group * width, (group + 1) * width)
        q = rotate(norm(q_TD[:, mine]), base, rotated, divisor) * w[f"{prefix}.q_gain"][h]
        k = rotate(norm(k_TD[:, theirs]), base, rotated, divisor)
        v = v_TD[:, theirs]
        y = torch.softmax((q @ k.T / width**0.5).masked_fill(future, -torch.inf), -1) @ v
        if exclusive:
            direction = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            y = y - (y * direction).sum(-1, keepdim=True) * direction
        outputs.append(y)
    return w.linear(torch.cat(outputs, -1), f"{prefix}.proj")


def smeared(x_TD, gate_D):
    g = torch.sigmoid(gate_D)
    return (1 - g) * x_TD + g * F.pad(x_TD[:-1], (0, 0, 1, 0))


def capped(z, cap):
    return cap * torch.tanh(z / cap)


def block_shapes(prefix, dim, kv_dim, heads):
    """Return what every block of every family has but its MLP's way out and its controls."""
    return {
        f"{prefix}.attn.c_q.weight": (dim, dim),
        f"{prefix}.attn.c_k.weight": (kv_dim, dim),
        f"{prefix}.attn.c_v.weight": (kv_dim, dim),
        f"{prefix}.attn.proj.weight": (dim, dim),
        f"{prefix}.attn.q_gain": (heads,),
        f"{prefix}.attn_scale": (dim,),
        f"{prefix}.mlp_scale": (dim,),
        f"{prefix}.resid_mix": (2, dim),
    }
