"""The published crawler network, unrolled from its definition: published arguments and tensors in, logits out.

Slow, obvious, an oracle; it shares no code with the importer or the network.
"""

from itertools import pairwise

import torch

from tests.published_parts import act, attention, block_shapes, capped, norm, raised, smeared

DEFAULTS = {
    "bigram_vocab_size": 0,
    "bigram_dim": 128,
    "xsa_last_n": 0,
    "rope_dims": 0,
    "ln_scale": False,
    "ve_enabled": False,
    "ve_dim": 128,
    "ve_layers": "0",
    "mlp_act": "relu_sq",
    "mlp_leaky_slope": 0.5,
    "crawler_mlp_leaky_slope": 0.5,
    "crawler_mlp_choke_dim": 0,
    "crawler_mlp_choke_shape": "flat",
    "crawler_mlp_choke_groups": 8,
    "crawler_loop_smear": False,
    "crawler_tap_dim": 0,
    "crawler_tap_loop_specific": True,
    "crawler_tap_layers": "all",
    "crawler_loop_rope_scales": (1, 1, 1),
    "inst_dim": 32,
    "anchor_dim": 0,
    "flat_weight_share": False,
    "helix_enabled": False,
    "helix_dim": 32,
    "helix_stride": 1,
    "helix_cross_attn": False,
    "context_tokens": 1024,
}


def indices(listed):
    """Return "0,1" as [0, 1]."""
    return [int(part) for part in listed.split(",")] if isinstance(listed, str) else list(listed)


class CrawlerOracle:
    def __init__(self, config, weights, ids_T):
        self.c, self.w, self.ids = {**DEFAULTS, **config}, weights, ids_T
        self.unique, self.looped = config["num_flat_layers"], config["num_crawler_layers"]
        self.loops, self.x0 = config["crawler_loops"], None

    def embed(self):
        c, w, ids = self.c, self.w, self.ids.tolist()
        x = w["tok_emb.weight"][self.ids]
        if c["bigram_vocab_size"]:
            last = c["bigram_vocab_size"] - 1
            buckets = [last] + [((36313 * b) ^ (27191 * a)) % last for a, b in pairwise(ids)]
            x = x + w["bigram.scale"] * w.projected(w["bigram.embed.weight"][buckets], "bigram.proj")
        return smeared(norm(x), w["smear.gate"])

    def added_value(self, looped_index):
        c, w = self.c, self.w
        listed = indices(c["ve_layers"]) if c["ve_enabled"] else []
        if looped_index not in listed:
            return None
        value = w["ve_shared.scale"] * w.projected(w["ve_shared.embed.weight"][self.ids], "ve_shared.proj")
        return w[f"ve_layer_scales.{listed.index(looped_index)}"] * value

    def block(self, prefix, x, layer, looped_index=None, loop=None, value_index=None):
        """Visit one block; the last three arguments belong to looped blocks."""
        c, w = self.c, self.w
        rotated = c["rope_dims"] or c["model_dim"] // c["num_heads"]
        base, divisor = raised(c["rope_base"], rotated, c["context_tokens"], 1024), 1.0
        scales = c["crawler_loop_rope_scales"]
        exclusive, added = False, None
        if looped_index is not None:
            exclusive = looped_index >= self.looped - c["xsa_last_n"]
            added = self.added_value(looped_index if value_index is None else value_index)
            if any(scale != 1 for scale in scales):
                base, divisor = c["rope_base"], scales[loop]
        s = (layer + 1) ** -0.5 if c["ln_scale"] else 1.0
        x_in = w[f"{prefix}.resid_mix"][0] * x + w[f"{prefix}.resid_mix"][1] * self.x0
        y = attention(
            w,
            f"{prefix}.attn",
            norm(x_in) * s,
            c["num_heads"],
            c["num_kv_heads"],
            base,
            rotated,
            divisor,
            added,
            exclusive,
        )
        x = x_in + w[f"{prefix}.attn_scale"] * y
        return x + w[f"{prefix}.mlp_scale"] * self.mlp(prefix, norm(x) * s, looped_index, loop)

    def mlp(self, prefix, x, looped_index, loop):
        c, w, p = self.c, self.w, f"{prefix}.mlp"
        slope = c["mlp_leaky_slope"] if looped_index is None else c["crawler_mlp_leaky_slope"]
        slope = slope if c["mlp_act"] == "leaky_relu_sq" else 0.0
        h = act(w.linear(x, f"{p}.fc"), slope)
        if looped_index is None or not c["crawler_mlp_choke_dim"]:
            return w.linear(h, f"{p}.proj")

        def choked(h, down=f"{p}.choke_down.{loop}"):
            return w.linear(act(w.linear(h, down), slope), f"{p}.choke_up.{loop}")

        shape = c["crawler_mlp_choke_shape"]
        if shape == "flat":
            return choked(h)
        if shape == "residual":
            return w.linear(h, f"{p}.bypass") + choked(h)
        if shape == "grouped":
            size = h.size(1) // c["crawler_mlp_choke_groups"]
            group_w = w[f"{p}.group_w.{loop}"]
            narrow = [h[:, g * size : (g + 1) * size] @ group_w[g] for g in range(len(group_w))]
            return w.linear(act(torch.cat(narrow, -1), slope), f"{p}.choke_up.{loop}")
        middle = act(w.linear(h, f"{p}.stage1"), slope)
        return choked(middle) if shape == "pyramid" else middle + choked(middle)

    def flat(self, i, x):
        shared = self.c["flat_weight_share"] and self.unique == 4
        which = {3: 0, 2: 1}.get(i, i) if shared else i
        return self.block(f"flat_blocks.{which}", x, which)

    def run(self):
        """Return the logits (T, V)."""
        c, w, pushed = self.c, self.w, []
        x = self.x0 = self.embed()
        beside = x
        for i in range(self.unique):
            if i == self.unique // 2 and not c["helix_enabled"]:
                x = self.core(x, list(pushed))
            if i >= self.unique // 2 and pushed:
                x = x + w["skip_weights"][i - self.unique // 2] * pushed.pop()
            x = self.flat(i, x)
            if i < self.unique // 2:
                pushed.append(x)
            if c["helix_enabled"] and (i + 1) % c["helix_stride"] == 0:
                x, beside = self.helix(x, beside)
        if not self.unique:
            x = self.core(x, [])
        if c["helix_enabled"]:
            x = x + torch.sigmoid(w["helix_merge_gate"]) * beside
        return capped(norm(x) @ w["tok_emb.weight"].T, c["logit_softcap"])

    def core(self, x, encoded):
        c, w, several = self.c, self.w, self.loops >= 2
        note = None  # zeros: the first read has no effect, nor has the last write
        for k in range(self.loops if self.looped else 0):
            z = x
            if several and c["inst_dim"]:
                z = x + w.linear(w.linear(x, "loop_inst_proj"), f"loop_inst_up.{k}")
            elif several:
                z = x + w[f"loop_pos.{k}"]
            if note is not None:
                z = z + w.linear(note, f"anchor_read.{k}")
            if c["crawler_tap_dim"]:
                layers, names = c["crawler_tap_layers"], {"all": range(len(encoded)), "deep": [-1], "shallow": [0]}
                chosen = names.get(str(layers)) or indices(layers)
                tapped = torch.cat([w.linear(encoded[j], f"tap_proj.{i}") for i, j in enumerate(chosen)], -1)
                up = f"loop_tap_up.{k}" if c["crawler_tap_loop_specific"] else "shared_tap_up"
                z = z + w.linear(tapped, up)
            for j in range(self.looped):
                z = self.block(f"crawler_blocks.{j}", z, self.unique + j, j, k)
            if c["crawler_loop_smear"]:
                g = torch.sigmoid(w["loop_smear.gate"])
                z = (1 - g) * z + g * x
            if several and c["anchor_dim"] and k < self.loops - 1:
                note = w.linear(z, f"anchor_write.{k}")
            x = z
        return x

    def helix(self, x, beside):
        """Return both streams after one firing."""
        w = self.w
        if self.c["helix_cross_attn"]:
            to_beside, to_main = self.asked("helix_c2f", beside, x), self.asked("helix_f2c", x, beside)
        else:
            to_beside = w.linear(w.linear(x, "helix_f2c_down"), "helix_f2c_up")
            to_main = w.linear(w.linear(beside, "helix_c2f_down"), "helix_c2f_up")
        beside = beside + to_beside
        for j in range(self.looped):
            beside = self.block(f"crawler_blocks.{j}", beside, self.unique + j, j, 0, value_index=0)
        return x + to_main, beside

    def asked(self, name, listener, speaker):
        q, k, v = (self.w.linear(x, f"{name}_{part}") for part, x in (("q", listener), ("k", speaker), ("v", speaker)))
        future = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
        weights = torch.softmax((q @ k.T / q.size(1) ** 0.5).masked_fill(future, -torch.inf), -1)
        return self.w.linear(weights @ v, f"{name}_out")


def crawler_logits(config, weights, ids_T):
    """Return the logits (T, V) of one sequence."""
    return CrawlerOracle(config, weights, ids_T).run()


def crawler_shapes(config):
    """Return the name and shape of every parameter that the published constructor makes."""
    c = {**DEFAULTS, **config}
    dim, heads, loops, looped = c["model_dim"], c["num_heads"], c["crawler_loops"], c["num_crawler_layers"]
    kv_dim, unique, hidden = dim // heads * c["num_kv_heads"], c["num_flat_layers"], int(c["mlp_mult"] * dim)
    shapes = {"tok_emb.weight": (c["vocab_size"], dim), "smear.gate": (dim,), "skip_weights": (unique // 2, dim)}
    if c["bigram_vocab_size"]:
        shapes |= {"bigram.embed.weight": (c["bigram_vocab_size"], c["bigram_dim"]), "bigram.scale": ()}
        shapes |= {"bigram.proj.weight": (dim, c["bigram_dim"])} if c["bigram_dim"] != dim else {}
    for i in range(2 if c["flat_weight_share"] and unique == 4 else unique):
        p = f"flat_blocks.{i}"
        shapes |= block_shapes(p, dim, kv_dim, heads)
        shapes |= {f"{p}.mlp.fc.weight": (hidden, dim), f"{p}.mlp.proj.weight": (dim, hidden)}
    for j in range(looped):
        shapes |= block_shapes(f"crawler_blocks.{j}", dim, kv_dim, heads)
        shapes |= _looped_mlp_shapes(f"crawler_blocks.{j}.mlp", c, dim, loops)
    if c["ve_enabled"]:
        shapes |= {"ve_shared.embed.weight": (c["vocab_size"], c["ve_dim"]), "ve_shared.scale": ()}
        shapes |= {"ve_shared.proj.weight": (kv_dim, c["ve_dim"])} if c["ve_dim"] != kv_dim else {}
        shapes |= {f"ve_layer_scales.{i}": (1,) for i in range(len(indices(c["ve_layers"])))}
    return shapes | (_conditioner_shapes(c, dim, unique // 2, loops) if looped else {}) | _helix_shapes(c, dim)


def _looped_mlp_shapes(p, c, dim, loops):
    hidden, narrow, shape = int(c["crawler_mlp_mult"] * dim), c["crawler_mlp_choke_dim"], c["crawler_mlp_choke_shape"]
    shapes = {f"{p}.fc.weight": (hidden, dim)}
    if not narrow:
        return shapes | {f"{p}.proj.weight": (dim, hidden)}
    if shape in ("pyramid", "pyramid_res"):
        shapes[f"{p}.stage1.weight"] = (dim, hidden)
    if shape == "residual":
        shapes[f"{p}.bypass.weight"] = (dim, hidden)
    for k in range(loops):
        shapes[f"{p}.choke_up.{k}.weight"] = (dim, narrow)
        if shape == "grouped":
            groups = c["crawler_mlp_choke_groups"]
            shapes[f"{p}.group_w.{k}"] = (groups, hidden // groups, narrow // groups)
        else:
            shapes[f"{p}.choke_down.{k}.weight"] = (narrow, dim if "pyramid" in shape else hidden)
    return shapes


def _conditioner_shapes(c, dim, encoders, loops):
    shapes = {"loop_smear.gate": (dim,)} if c["crawler_loop_smear"] else {}
    if loops >= 2 and c["inst_dim"]:
        shapes["loop_inst_proj.weight"] = (c["inst_dim"], dim)
        shapes |= {f"loop_inst_up.{k}.weight": (dim, c["inst_dim"]) for k in range(loops)}
    elif loops >= 2:
        shapes |= {f"loop_pos.{k}": (dim,) for k in range(loops)}
    if loops >= 2 and c["anchor_dim"]:
        shapes |= {f"anchor_read.{k}.weight": (dim, c["anchor_dim"]) for k in range(loops)}
        shapes |= {f"anchor_write.{k}.weight": (c["anchor_dim"], dim) for k in range(loops)}
    if c["crawler_tap_dim"]:
        layers, width = c["crawler_tap_layers"], c["crawler_tap_dim"]
        count = {"all": encoders, "deep": 1, "shallow": 1}.get(str(layers)) or len(indices(layers))
        shapes |= {f"tap_proj.{i}.weight": (width, dim) for i in range(count)}
        ups = [f"loop_tap_up.{k}" for k in range(loops)] if c["crawler_tap_loop_specific"] else ["shared_tap_up"]
        shapes |= {f"{up}.weight": (dim, width * count) for up in ups}
    return shapes


def _helix_shapes(c, dim):
    if not c["helix_enabled"]:
        return {}
    narrow, shapes = c["helix_dim"], {"helix_merge_gate": (dim,)}
    for name in ("helix_c2f", "helix_f2c"):
        if c["helix_cross_attn"]:
            shapes |= {f"{name}_{part}.weight": (narrow, dim) for part in "qkv"}
            shapes[f"{name}_out.weight"] = (dim, narrow)
        else:
            shapes |= {f"{name}_down.weight": (narrow, dim), f"{name}_up.weight": (dim, narrow)}
    return shapes
