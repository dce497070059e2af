"""Slow, obvious versions of the algorithms, written from their definitions; tests compare the fast code with them."""

import math

import torch
import torch.nn.functional as F


def _norm(x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)


def _rotate(x_TE, base, rotated_dims, frequency_dims, divisor):
    """Rotate one head, position by position and pair by pair."""
    half = rotated_dims // 2
    out_TE = x_TE.clone()
    for t in range(x_TE.size(0)):
        for i in range(half):
            angle = t * base ** (-2 * i / frequency_dims) / divisor
            a, b = x_TE[t, i], x_TE[t, i + half]
            out_TE[t, i] = a * math.cos(angle) + b * math.sin(angle)
            out_TE[t, i + half] = -a * math.sin(angle) + b * math.cos(angle)
    return out_TE


class Unrolled:
    """One sequence through one network, straight from a state dict: no schedule, no batch, no modules."""

    def __init__(self, config, weights, ids_T):
        self.c, self.w, self.ids = config, weights, ids_T
        self.x0 = None
        self.visited = 0

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T

    def projected(self, x, name):
        return self.linear(x, name) if f"{name}.weight" in self.w else x

    def embed(self):
        c, ids = self.c, self.ids.tolist()
        x = self.w["token_embedding.weight"][self.ids]
        if c.bigram is not None:
            buckets, last = [], c.bigram.buckets - 1
            for t, token in enumerate(ids):
                if c.bigram.hash == "position":
                    half = (c.bigram.buckets - 1) // 2
                    bucket = ((36313 * token) ^ (27191 * ids[t - 1])) % half
                    inside = bool(self.w["bigram.inside_V"][token])
                    buckets.append(last if t == 0 else bucket + half if inside else bucket)
                elif c.bigram.hash == "xor":
                    buckets.append(last if t == 0 else ((36313 * token) ^ (27191 * ids[t - 1])) % last)
                else:
                    buckets.append(((ids[t - 1] if t else 0) * 92821 + token) % c.bigram.buckets)
            pairs = self.projected(self.w["bigram.table.weight"][buckets], "bigram.projection")
            x = x + (self.w["bigram.scale"] * pairs if c.bigram.scaled else pairs)
        kind = None if c.smear is None else c.smear.kind
        x = self.smeared(x, kind) if kind == "token" else x
        x = self.projected(_norm(x), "embedding_projection")
        return self.smeared(x, kind) if kind == "channel" else x

    def smeared(self, x, kind):
        rows = []
        for t in range(len(x)):
            before = x[t - 1] if t else torch.zeros_like(x[0])
            if kind == "channel":
                g = torch.sigmoid(self.w["smear.gate"])
                rows.append((1 - g) * x[t] + g * before)
            else:
                g = torch.sigmoid(self.w["smear.open.weight"][0] @ x[t][: self.c.smear.width])
                begins = self.ids[t] == self.c.smear.bos_id
                rows.append(x[t] if begins else x[t] + self.w["smear.strength"] * g * before)
        return torch.stack(rows)

    def added_value(self, block, visit):
        v = self.c.value_embedding
        if v is None:
            return None
        looped = block - self.c.schedule.unique_blocks
        if v.read_by == "looped_blocks" and self.c.schedule.kind == "helix" and looped >= 0:
            looped = 0
        who = visit if v.read_by == "visits" else looped
        if who not in v.readers:
            return None
        added = self.projected(self.w["value_embedding.table.weight"][self.ids], "value_embedding.projection")
        if v.shared_scale:
            added = added * self.w["value_embedding.scale"]
        return added * self.w[f"value_embedding.reader_scales.{v.readers.index(who)}"]

    def attention(self, block, x_TD, base, divisor, added):
        c, p = self.c, f"blocks.{block}.attention"
        heads, groups = c.attention.num_heads, c.attention.num_kv_heads
        width = c.model_dim // heads
        rotated = c.rope.dims or width
        spread = c.rope.frequency_dims or rotated
        q_TD, k_TK, v_TK = (self.linear(x_TD, f"{p}.{name}") for name in ("query", "key", "value"))
        v_TK = v_TK if added is None else v_TK + added
        outputs = []
        for h in range(heads):
            g = h // (heads // groups)
            q = _rotate(_norm(q_TD[:, h * width : (h + 1) * width]), base, rotated, spread, divisor)
            k = _rotate(_norm(k_TK[:, g * width : (g + 1) * width]), base, rotated, spread, divisor)
            v = v_TK[:, g * width : (g + 1) * width]
            rows = []
            for t in range(len(x_TD)):
                scores = k[: t + 1] @ (q[t] * self.w[f"{p}.gain"][h]) / math.sqrt(width)
                y = torch.softmax(scores, 0) @ v[: t + 1]
                if block in c.attention.exclusive_blocks:
                    direction = v[t] / max(v[t].norm().item(), 1e-12)
                    y = y - (y @ direction) * direction
                if c.attention.gate is not None:
                    seen = x_TD[t, : c.attention.gate.width]
                    y = y * torch.sigmoid(c.attention.gate.scale * (self.w[f"{p}.gate.open.weight"][h] @ seen))
                rows.append(y)
            outputs.append(torch.stack(rows))
        return self.linear(torch.cat(outputs, -1), f"{p}.output")

    def mlp(self, block, x, loop):
        p, m = f"blocks.{block}.mlp", self.c.mlp_of(block)

        def act(z):
            return F.leaky_relu(z, m.slope) ** 2

        h = act(self.linear(x, f"{p}.up"))
        if m.choke is None:
            return self.linear(h, f"{p}.down")
        if m.choke.shape == "grouped":
            size = h.size(-1) // m.choke.groups
            parts = [h[:, g * size : (g + 1) * size] for g in range(m.choke.groups)]
            narrow = [self.linear(part, f"{p}.choke_down.{loop}.groups.{g}") for g, part in enumerate(parts)]
            return self.linear(act(torch.cat(narrow, -1)), f"{p}.choke_up.{loop}")
        middle = act(self.linear(h, f"{p}.stage")) if "pyramid" in m.choke.shape else h
        out = self.linear(act(self.linear(middle, f"{p}.choke_down.{loop}")), f"{p}.choke_up.{loop}")
        if m.choke.shape == "pyramid_res":
            return middle + out
        return self.linear(h, f"{p}.bypass") + out if m.choke.shape == "residual" else out

    def raised_base(self):
        rope = self.c.rope
        rotated = rope.dims or self.c.model_dim // self.c.attention.num_heads
        if rope.base_tokens is None or self.c.context_tokens <= rope.base_tokens or rotated == 2:
            return rope.base
        return rope.base * (self.c.context_tokens / rope.base_tokens) ** (rotated / (rotated - 2))

    def controls(self, block, visit):
        if self.c.visit_controls:
            names = ("residual_mixes", "attention_scales", "mlp_scales")
            return [self.w[f"visit_controls.{name}"][visit] for name in names]
        return [self.w[f"blocks.{block}.{name}"] for name in ("residual_mix", "attention_scale", "mlp_scale")]

    def block(self, block, x, loop=None, layer=None):
        """Visit a block; `loop` is None outside a core."""
        c = self.c
        visit, self.visited = self.visited, self.visited + 1
        mix, attention_scale, mlp_scale = self.controls(block, visit)
        s = 1 / math.sqrt(layer + 1) if c.ln_scale else 1.0
        base, divisor = self.raised_base(), 1
        if loop is not None and c.rope.loop_scales is not None:
            base, divisor = c.rope.base, c.rope.loop_scales[loop]
        x_in = mix[0] * x + mix[1] * self.x0
        added = self.added_value(block, visit)
        x = x_in + attention_scale * self.attention(block, _norm(x_in) * s, base, divisor, added)
        is_parallel = isinstance(c.parallel_blocks, tuple) and block in c.parallel_blocks
        read = x_in if is_parallel else x
        return x + mlp_scale * self.mlp(block, _norm(read) * s, loop)

    def skip(self, i, x, pushed):
        s = self.w["skip_weights"][i] * pushed.pop()
        if not self.c.skip_gates:
            return x + s
        g = torch.sigmoid(self.w["skip_gates"][i])
        return (1 - g) * s + g * x

    def core_network(self, x):
        s = self.c.schedule
        order = list(range(s.unique_blocks)) if s.unique_order is None else list(s.unique_order)
        half, pushed = len(order) // 2, []
        for i in range(half):
            x = self.block(order[i], x, layer=order.index(order[i]))
            pushed.append(x)
        x = self.looped_core(x, list(pushed), len(order))
        for i in range(half, len(order)):
            if pushed:
                x = self.skip(i - half, x, pushed)
            x = self.block(order[i], x, layer=order.index(order[i]))
        return x

    def looped_core(self, x, encoded, first_layer):
        s, d = self.c.schedule, self.c.conditioners
        note = None
        for k in range(s.num_loops if s.looped_blocks else 0):
            entry = x
            if d.flow_dim:
                x = x + self.linear(self.linear(x, "conditioners.flow.down"), f"conditioners.flow.up.{k}")
            if d.positions:
                x = x + self.w[f"conditioners.positions.offsets.{k}"]
            if note is not None:
                x = x + self.linear(note, f"conditioners.anchor.read.{k - 1}")
            if d.tap is not None:
                taps = [
                    self.linear(encoded[j], f"conditioners.tap.projections.{i}")
                    for i, j in enumerate(d.tap.encoder_visits)
                ]
                x = x + self.linear(torch.cat(taps, -1), f"conditioners.tap.up.{k if d.tap.per_loop else 0}")
            for i in range(s.looped_blocks):
                after = self.block(s.unique_blocks + i, x, k, first_layer + i)
                learned = d.step is not None and d.step.kind == "learned" and k > 0
                x = x + self.w[f"conditioners.step.alpha.{k - 1}"] * (after - x) if learned else after
            if d.step is not None and d.step.kind == "contractive":
                x = (1 - d.step.fraction) * entry + d.step.fraction * x
            if d.smear:
                g = torch.sigmoid(self.w["conditioners.smear.gate"])
                x = (1 - g) * x + g * entry
            if d.anchor_dim and k < s.num_loops - 1:
                note = self.linear(x, f"conditioners.anchor.write.{k}")
        return x

    def folded_network(self, x):
        s = self.c.schedule
        blocks = list(range(s.loop_start))
        for _ in range(s.num_loops):
            blocks += list(range(s.loop_start, s.loop_end + 1))
        blocks += list(range(s.loop_end + 1, s.unique_blocks))
        half, pushed, m = len(blocks) // 2, [], None
        first_lane = getattr(self.c.parallel_blocks, "first_block", None)
        repeats = 0
        for position, block in enumerate(blocks):
            m = x if block == first_lane else m
            if position >= half and pushed:
                x = self.skip(position - half, x, pushed)
            if block == s.loop_start and self.c.conditioners.positions:
                x = x + self.w[f"conditioners.positions.offsets.{repeats}"]
                repeats += 1
            if m is None:
                x = self.block(block, x, layer=block)
            else:
                x, m = self.lane_block(block, x, m)
            if position < half:
                pushed.append(x)
        return x if m is None else (x + m) / 2

    def lane_block(self, block, a, m):
        """Visit a block of two lanes outside of any loop."""
        c, p = self.c, f"blocks.{block}"
        mix, attention_scale, mlp_scale = self.controls(block, self.visited)
        self.visited += 1
        s = 1 / math.sqrt(block + 1) if c.ln_scale else 1.0
        read = _norm(mix[0] * a + mix[1] * self.x0) * s
        attended = attention_scale * self.attention(block, read, self.raised_base(), 1, None)
        changed = mlp_scale * self.mlp(block, _norm(m) * s, None)
        (r0, r1), ((p00, p01), (p10, p11)) = self.w[f"{p}.lane_keep"], self.w[f"{p}.lane_write"]
        return r0 * a + p00 * attended + p01 * changed, r1 * m + p10 * attended + p11 * changed

    def hint(self, direction, listener, speaker):
        p = f"helix.{direction}"
        if self.c.schedule.bridge == "linear":
            return self.linear(self.linear(speaker, f"{p}.down"), f"{p}.up")
        q, k, v = (
            self.linear(listener, f"{p}.query"),
            self.linear(speaker, f"{p}.key"),
            self.linear(speaker, f"{p}.value"),
        )
        rows = [torch.softmax(k[: t + 1] @ q[t] / math.sqrt(q.size(1)), 0) @ v[: t + 1] for t in range(len(q))]
        return self.linear(torch.stack(rows), f"{p}.output")

    def helix_network(self, x):
        s = self.c.schedule
        order = list(range(s.unique_blocks)) if s.unique_order is None else list(s.unique_order)
        half, pushed, c = len(order) // 2, [], x
        for i, block in enumerate(order):
            if i >= half and pushed:
                x = self.skip(i - half, x, pushed)
            x = self.block(block, x, layer=order.index(block))
            if i < half:
                pushed.append(x)
            if (i + 1) % s.stride == 0:
                to_loop, to_main = self.hint("to_loop", c, x), self.hint("to_main", x, c)
                c = c + to_loop
                for j in range(s.looped_blocks):
                    c = self.block(s.unique_blocks + j, c, 0, len(order) + j)
                x = x + to_main
        return x + torch.sigmoid(self.w["helix.merge_gate"]) * c


def network_logits(config, weights, ids_T):
    """Return the logits (T, V) of one sequence from a state dict."""
    run = Unrolled(config, weights, ids_T)
    run.x0 = run.embed()
    network = {"core": run.core_network, "folded": run.folded_network, "helix": run.helix_network}[config.schedule.kind]
    x = run.projected(_norm(network(run.x0)), "head_projection")
    z = x @ weights["token_embedding.weight"].T
    if "cap.caps" in weights:
        positive, negative = weights["cap.caps"]
        return torch.where(z >= 0, positive * torch.tanh(z / positive), negative * torch.tanh(z / negative))
    return config.logit_softcap * torch.tanh(z / config.logit_softcap)
