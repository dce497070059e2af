"""Tensors that crawler programs construct and never read.

* the value embedding at looped blocks that do not exist (as published: layers 9 and 10 of at most three)
* what the first pass reads from the anchor (zeros) and the note of the last pass
* in a helix, everything about passes: the ordinary core does not run

Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

from typing import Any

from pipeline.interop.translation import Shape
from pipeline.model.config import ModelConfig


def crawler_unread(arguments: dict[str, Any], config: ModelConfig) -> tuple[dict[str, Shape], frozenset[str]]:
    """Return shapes by published name, and the names that a checkpoint may come without."""
    passes = _unread_in_helix(arguments, config) if arguments["helix_enabled"] else _unread_in_core(arguments)
    may_lack = frozenset(passes) if arguments["helix_enabled"] else frozenset()
    return {**_unread_value_embedding(arguments, config), **passes}, may_lack


def _unread_value_embedding(arguments: dict[str, Any], config: ModelConfig) -> dict[str, Shape]:
    if not arguments["ve_enabled"] or not arguments["ve_layers"]:
        return {}
    read = () if config.value_embedding is None else config.value_embedding.readers
    scales: dict[str, Shape] = {
        f"ve_layer_scales.{i}": (1,) for i, layer in enumerate(arguments["ve_layers"]) if layer not in read
    }
    if read:
        return scales
    width = arguments["ve_dim"]
    table: dict[str, Shape] = {"ve_shared.embed.weight": (config.vocab_size, width), "ve_shared.scale": ()}
    if width != config.kv_dim:
        table["ve_shared.proj.weight"] = (config.kv_dim, width)
    return {**table, **scales}


def _unread_in_core(arguments: dict[str, Any]) -> dict[str, Shape]:
    loops, width, dim = arguments["crawler_loops"], arguments["anchor_dim"], arguments["model_dim"]
    if not width or loops < 2 or not arguments["num_crawler_layers"]:
        return {}
    return {"anchor_read.0.weight": (dim, width), f"anchor_write.{loops - 1}.weight": (width, dim)}


def _unread_in_helix(arguments: dict[str, Any], config: ModelConfig) -> dict[str, Shape]:
    loops, dim = arguments["crawler_loops"], config.model_dim
    flow, anchor, tap = (arguments[name] for name in ("inst_dim", "anchor_dim", "crawler_tap_dim"))
    shapes: dict[str, Shape] = {}
    if loops >= 2 and flow:
        shapes["loop_inst_proj.weight"] = (flow, dim)
        shapes |= {f"loop_inst_up.{k}.weight": (dim, flow) for k in range(loops)}
    elif loops >= 2:
        shapes |= {f"loop_pos.{k}": (dim,) for k in range(loops)}
    if loops >= 2 and anchor:
        shapes |= {f"anchor_read.{k}.weight": (dim, anchor) for k in range(loops)}
        shapes |= {f"anchor_write.{k}.weight": (anchor, dim) for k in range(loops)}
    if tap:
        layers = arguments["crawler_tap_layers"]
        ups = [f"loop_tap_up.{k}" for k in range(loops)]
        ups = ups if arguments["crawler_tap_loop_specific"] else ["shared_tap_up"]
        shapes |= {f"tap_proj.{i}.weight": (tap, dim) for i in range(len(layers))}
        shapes |= {f"{up}.weight": (dim, tap * len(layers)) for up in ups}
    if arguments["crawler_loop_smear"]:
        shapes["loop_smear.gate"] = (dim,)
    return {**shapes, **_unread_chokes(arguments, config)}


def _unread_chokes(arguments: dict[str, Any], config: ModelConfig) -> dict[str, Shape]:
    """Return the bottlenecks of passes after the first, which a helix has not."""
    mlp = config.looped_mlp
    if mlp is None or mlp.choke is None:
        return {}
    choke, hidden, dim = mlp.choke, int(mlp.mult * config.model_dim), config.model_dim
    narrow_from = dim if choke.shape.startswith("pyramid") else hidden
    shapes: dict[str, Shape] = {}
    for block in range(arguments["num_crawler_layers"]):
        for k in range(1, arguments["crawler_loops"]):
            prefix = f"crawler_blocks.{block}.mlp"
            shapes[f"{prefix}.choke_up.{k}.weight"] = (dim, choke.dim)
            if choke.shape == "grouped":
                group: Shape = (choke.dim // choke.groups, hidden // choke.groups)
                shapes |= {f"{prefix}.group_w.{k}.{g}": group for g in range(choke.groups)}
            else:
                shapes[f"{prefix}.choke_down.{k}.weight"] = (choke.dim, narrow_from)
    return shapes
