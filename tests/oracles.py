"""Slow, obvious versions of the algorithms, written from their definitions; tests compare the fast code with them."""

import math

import torch
import torch.nn.functional as F


def _norm(x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)


def _rotate(x_TE, base, rotated_dims, divisor):
    """Rotate one head, position by position and pair by pair."""
    half = rotated_dims // 2
    out_TE = x_TE.clone()
    for t in range(x_TE.size(0)):
        for i in range(half):
            angle = t * base ** (-2 * i / rotated_dims) / divisor
            a, b = x_TE[t, i], x_TE[t, i + half]
            out_TE[t, i] = a * math.cos(angle) + b * math.sin(angle)
            out_TE[t, i + half] = -a * math.sin(angle) + b * math.cos(angle)
    return out_TE


def _attention(config, w, prefix, x_TD, base, divisor, exclusive, added):
    head_dim = config.model_dim // config.num_heads
    rotated = config.rope_dims or head_dim
    q_TD, k_TK, v_TK = (x_TD @ w[f"{prefix}.{name}.weight"].T for name in ("query", "key", "value"))
    v_TK = v_TK if added is None else v_TK + added
    heads = []
    for h in range(config.num_heads):
        g = h // (config.num_heads // config.num_kv_heads)
        q = _rotate(_norm(q_TD[:, h * head_dim : (h + 1) * head_dim]), base, rotated, divisor)
        k = _rotate(_norm(k_TK[:, g * head_dim : (g + 1) * head_dim]), base, rotated, divisor)
        v = v_TK[:, g * head_dim : (g + 1) * head_dim]
        rows = []
        for t in range(len(x_TD)):
            scores = k[: t + 1] @ (q[t] * w[f"{prefix}.gain"][h]) / math.sqrt(head_dim)
            y = torch.softmax(scores, 0) @ v[: t + 1]
            if exclusive:
                unit = v[t] / max(v[t].norm().item(), 1e-12)
                y = y - (y @ unit) * unit
            rows.append(y)
        heads.append(torch.stack(rows))
    return torch.cat(heads, -1) @ w[f"{prefix}.output.weight"].T


def looped_unet_logits(config, w, ids_T):
    """Return the logits (T, V) of one sequence from a state dict, unrolled: no schedule, no batch, no modules."""
    unique, looped = config.unique_blocks, config.looped_blocks
    battery = any(scale != 1 for scale in config.rope_loop_scales)
    rotated = config.rope_dims or config.model_dim // config.num_heads
    raised = config.rope_base
    if config.context_tokens > config.rope_base_tokens and rotated > 2:
        raised *= (config.context_tokens / config.rope_base_tokens) ** (rotated / (rotated - 2))

    x = w["token_embedding.weight"][ids_T]
    if config.bigram_buckets:
        rows = []
        for t, token in enumerate(ids_T.tolist()):
            last = config.bigram_buckets - 1
            bucket = last if t == 0 else ((36313 * token) ^ (27191 * ids_T[t - 1].item())) % last
            rows.append(w["bigram.table.weight"][bucket])
        pairs = torch.stack(rows)
        if "bigram.projection.weight" in w:
            pairs = pairs @ w["bigram.projection.weight"].T
        x = x + w["bigram.scale"] * pairs
    x = _norm(x)
    if config.smear_gate:
        g = torch.sigmoid(w["smear.gate"])
        x = torch.stack([(1 - g) * x[t] + g * (x[t - 1] if t else torch.zeros_like(x[0])) for t in range(len(x))])
    x0 = x

    def block(index, x, base, divisor):
        p, i = f"blocks.{index}", index - unique
        s = 1 / math.sqrt(index + 1) if config.ln_scale else 1.0
        added = None
        if config.value_embedding_dim and i in config.value_embedding_blocks:
            added = w["value_embedding.table.weight"][ids_T]
            if "value_embedding.projection.weight" in w:
                added = added @ w["value_embedding.projection.weight"].T
            reader = config.value_embedding_blocks.index(i)
            added = added * w["value_embedding.scale"] * w[f"value_embedding.reader_scales.{reader}"]
        x = w[f"{p}.residual_mix"][0] * x + w[f"{p}.residual_mix"][1] * x0
        exclusive = i >= 0 and i >= looped - config.xsa_last_looped
        attended = _attention(config, w, f"{p}.attention", _norm(x) * s, base, divisor, exclusive, added)
        x = x + w[f"{p}.attention_scale"] * attended
        slope = config.looped_mlp_slope if i >= 0 else config.mlp_slope
        h = F.leaky_relu((_norm(x) * s) @ w[f"{p}.mlp.up.weight"].T, slope) ** 2
        return x + w[f"{p}.mlp_scale"] * (h @ w[f"{p}.mlp.down.weight"].T)

    pushed = []
    for index in range(unique // 2):
        x = block(index, x, raised, 1)
        pushed.append(x)
    for k in range(config.num_loops if looped else 0):
        if config.flow_dim and config.num_loops >= 2:
            down = x @ w["conditioners.flow.down.weight"].T
            x = x + down @ w[f"conditioners.flow.up.{k}.weight"].T
        for i in range(looped):
            base, divisor = (config.rope_base, config.rope_loop_scales[k]) if battery else (raised, 1)
            x = block(unique + i, x, base, divisor)
    for n, index in enumerate(range(unique // 2, unique)):
        if pushed:
            x = x + w["skip_weights"][n] * pushed.pop()
        x = block(index, x, raised, 1)
    z = _norm(x) @ w["token_embedding.weight"].T
    return config.logit_softcap * torch.tanh(z / config.logit_softcap)
