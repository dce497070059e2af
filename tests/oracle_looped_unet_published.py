"""The published looped U-Net, unrolled from its definition: published arguments and tensors in, logits out.

Slow, obvious, an oracle; it shares no code with the importer or the network.
"""

import torch

from tests.published_parts import act, attention, block_shapes, capped, norm, raised


def visited_blocks(config):
    """Return (encoder blocks, decoder blocks); the published `num_loops: 2` means three passes."""
    start, end = config["loop_start"], config["loop_end"]
    order = list(range(config["num_layers"]))
    if config["num_loops"]:
        order = order[:start] + (config["num_loops"] + 1) * order[start : end + 1] + order[end + 1 :]
    return order[: len(order) // 2], order[len(order) // 2 :]


def looped_unet_logits(config, weights, ids_T):
    """Return the logits (T, V) of one sequence."""
    c, w = config, weights
    rotated = c["rope_dims"] or c["model_dim"] // c["num_heads"]
    context = c.get("context_tokens", min(1024, c["train_seq_len"]))
    base = raised(c["rope_base"], rotated, context, c["train_seq_len"])
    x0 = w.projected(norm(w["tok_emb.weight"][ids_T]), "embed_proj")

    def block(i, x):
        p, s = f"blocks.{i}", (i + 1) ** -0.5 if c["ln_scale"] else 1.0
        x_in = w[f"{p}.resid_mix"][0] * x + w[f"{p}.resid_mix"][1] * x0
        y = attention(
            w,
            f"{p}.attn",
            norm(x_in) * s,
            c["num_heads"],
            c["num_kv_heads"],
            base,
            rotated,
            exclusive=i >= c["num_layers"] - c["xsa_last_n"],
        )
        after = x_in + w[f"{p}.attn_scale"] * y
        parallel = 0 <= c["parallel_residual_start"] <= i
        h = act(w.linear(norm(x_in if parallel else after) * s, f"{p}.mlp.fc"), 0.5)
        return after + w[f"{p}.mlp_scale"] * w.linear(h, f"{p}.mlp.proj")

    encoder, decoder = visited_blocks(c)
    x, pushed = x0, []
    for i in encoder:
        x = block(i, x)
        pushed.append(x)
    for position, i in enumerate(decoder):
        if pushed:
            s = w["skip_weights"][position] * pushed.pop()
            g = torch.sigmoid(w["skip_gates"][position]) if c["skip_gates_enabled"] else None
            x = x + s if g is None else s + g * (x - s)
        x = block(i, x)
    return capped(w.projected(norm(x), "head_proj") @ w["tok_emb.weight"].T, c["logit_softcap"])


def looped_unet_shapes(config):
    """Return the name and shape of every parameter that the published constructor makes."""
    c = config
    dim, width, heads = c["model_dim"], c["embedding_dim"], c["num_heads"]
    hidden, skips = int(c["mlp_mult"] * dim), len(visited_blocks(c)[0])
    shapes = {"tok_emb.weight": (c["vocab_size"], width), "skip_weights": (skips, dim)}
    if c["skip_gates_enabled"]:
        shapes["skip_gates"] = (skips, dim)
    if width != dim:
        shapes |= {"embed_proj.weight": (dim, width), "head_proj.weight": (width, dim)}
    for i in range(c["num_layers"]):
        p = f"blocks.{i}"
        shapes |= block_shapes(p, dim, dim // heads * c["num_kv_heads"], heads)
        shapes |= {f"{p}.mlp.fc.weight": (hidden, dim), f"{p}.mlp.proj.weight": (dim, hidden)}
    return shapes
