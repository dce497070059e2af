"""Layout `crawler`: unique blocks around a looped core, every conditioner of the passes, and the helix.

Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535).
Differs: the rotary base follows `context_tokens`, where the published programs follow the tensor's length.
Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.base.checks import require
from pipeline.interop.arguments import (
    COMMON_FIELDS,
    COMMON_OPTIONAL,
    ArgumentTable,
    complete_arguments,
    conditioners_off,
    listed_indices,
    model_config_from,
)
from pipeline.interop.crawler_unread import crawler_unread
from pipeline.interop.translation import Translation, block_name, rename
from pipeline.model.config import ModelConfig

CRAWLER_RAISES_BASE_ABOVE_TOKENS = 1024

CRAWLER_ARGUMENTS = ArgumentTable(
    layout="crawler",
    required={
        "vocab_size": int,
        "num_flat_layers": int,
        "num_crawler_layers": int,
        "crawler_loops": int,
        "model_dim": int,
        "num_heads": int,
        "num_kv_heads": int,
        "mlp_mult": float,
        "crawler_mlp_mult": float,
        "logit_softcap": float,
        "rope_base": float,
        "qk_gain_init": float,
    },
    optional={
        **COMMON_OPTIONAL,
        "bigram_vocab_size": (int, 0),
        "bigram_dim": (int, 128),
        "xsa_last_n": (int, 0),
        "rope_dims": (int, 0),
        "ln_scale": (bool, False),
        "ve_enabled": (bool, False),
        "ve_dim": (int, 128),
        "ve_layers": (object, "0"),
        "mlp_act": (str, "relu_sq"),
        "mlp_leaky_slope": (float, 0.5),
        "crawler_mlp_leaky_slope": (float, 0.5),
        "crawler_mlp_choke_dim": (int, 0),
        "crawler_mlp_choke_shape": (str, "flat"),
        "crawler_mlp_choke_groups": (int, 8),
        "crawler_loop_smear": (bool, False),
        "crawler_tap_dim": (int, 0),
        "crawler_tap_loop_specific": (bool, True),
        "crawler_tap_layers": (object, "all"),
        "crawler_loop_rope_scales": (tuple[float, ...], (1.0, 1.0, 1.0)),
        "inst_dim": (int, 32),
        "anchor_dim": (int, 0),
        "flat_weight_share": (bool, False),
        "helix_enabled": (bool, False),
        "helix_dim": (int, 32),
        "helix_stride": (int, 1),
        "helix_cross_attn": (bool, False),
    },
    fields={
        **COMMON_FIELDS,
        "schedule.unique_blocks": "num_flat_layers",
        "schedule.looped_blocks": "num_crawler_layers",
        "schedule.num_loops": "crawler_loops",
        "schedule.stride": "helix_stride",
        "schedule.bridge_dim": "helix_dim",
        "looped_mlp.mult": "crawler_mlp_mult",
        "looped_mlp.choke.dim": "crawler_mlp_choke_dim",
        "looped_mlp.choke.shape": "crawler_mlp_choke_shape",
        "looped_mlp.choke.groups": "crawler_mlp_choke_groups",
        "mlp.slope": "mlp_leaky_slope",
        "looped_mlp.slope": "crawler_mlp_leaky_slope",
        "rope.dims": "rope_dims",
        "rope.loop_scales": "crawler_loop_rope_scales",
        "bigram.buckets": "bigram_vocab_size",
        "bigram.dim": "bigram_dim",
        "value_embedding.dim": "ve_dim",
        "value_embedding.readers": "ve_layers",
        "conditioners.tap.encoder_visits": "crawler_tap_layers",
        "conditioners.tap.dim": "crawler_tap_dim",
        "conditioners.flow_dim": "inst_dim",
        "conditioners.anchor_dim": "anchor_dim",
    },
)

CRAWLER_TENSORS = {
    r"token_embedding\.": "tok_emb.",
    r"bigram\.table\.": "bigram.embed.",
    r"bigram\.projection\.": "bigram.proj.",
    r"value_embedding\.table\.": "ve_shared.embed.",
    r"value_embedding\.projection\.": "ve_shared.proj.",
    r"value_embedding\.scale$": "ve_shared.scale",
    r"conditioners\.flow\.down\.": "loop_inst_proj.",
    r"conditioners\.flow\.up\.": "loop_inst_up.",
    r"conditioners\.positions\.offsets\.": "loop_pos.",
    r"conditioners\.anchor\.write\.": "anchor_write.",
    r"conditioners\.tap\.projections\.": "tap_proj.",
    r"conditioners\.smear\.": "loop_smear.",
    r"helix\.merge_gate$": "helix_merge_gate",
}
"""Our tensor name -> published, where neither the block nor an argument decides."""


def translate_crawler(config: Mapping[str, Any]) -> Translation:
    """Translate the constructor arguments of a crawler program; ValueError names the argument that does not do."""
    arguments = complete_arguments(config, CRAWLER_ARGUMENTS)
    require(arguments["crawler_loops"] >= 1, "crawler_loops", arguments["crawler_loops"], "at least 1")
    activation = arguments["mlp_act"]
    require(activation in ("relu_sq", "leaky_relu_sq"), "mlp_act", activation, "relu_sq or leaky_relu_sq")
    arguments["ve_layers"] = listed_indices(arguments["ve_layers"], "ve_layers")
    arguments["crawler_tap_layers"] = _tapped_layers(arguments)
    model_config = model_config_from(_crawler_fields(arguments), CRAWLER_ARGUMENTS)
    unread, may_lack = crawler_unread(arguments, model_config)
    shared = arguments["flat_weight_share"] and arguments["num_flat_layers"] == 4
    return Translation(
        config=model_config,
        published_name=lambda name: _crawler_name(name, model_config, arguments),
        unread=unread,
        may_lack=may_lack,
        same_as={"flat_blocks.2.": "flat_blocks.1.", "flat_blocks.3.": "flat_blocks.0."} if shared else {},
        reshape=_split_groups,
    )


def _crawler_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of the configuration for complete, typed arguments."""
    schedule = _crawler_schedule(arguments)
    unique, looped = schedule["unique_blocks"], schedule["looped_blocks"]
    exclusive = min(arguments["xsa_last_n"], looped)
    leaky = arguments["mlp_act"] == "leaky_relu_sq"
    choke = {
        "shape": arguments["crawler_mlp_choke_shape"],
        "dim": arguments["crawler_mlp_choke_dim"],
        "groups": arguments["crawler_mlp_choke_groups"],
    }
    readers = list(crawler_value_readers(arguments))
    values = {"dim": arguments["ve_dim"], "shared_scale": True, "read_by": "looped_blocks", "readers": readers}
    return {
        **{name: arguments[name] for name in ("vocab_size", "context_tokens", "model_dim", "logit_softcap")},
        "ln_scale": arguments["ln_scale"],
        "embedding_dim": arguments["model_dim"],
        "schedule": schedule,
        "attention": {
            "num_heads": arguments["num_heads"],
            "num_kv_heads": arguments["num_kv_heads"],
            "qk_gain": arguments["qk_gain_init"],
            "exclusive_blocks": list(range(unique + looped - exclusive, unique + looped)),
            "gate": None,
            "document_bos_id": None,
        },
        "rope": {
            "dims": arguments["rope_dims"],
            "frequency_dims": None,
            "base": arguments["rope_base"],
            "base_tokens": CRAWLER_RAISES_BASE_ABOVE_TOKENS,
            "loop_scales": _crawler_battery(arguments, schedule),
        },
        "mlp": {"mult": arguments["mlp_mult"], "slope": arguments["mlp_leaky_slope"] if leaky else 0.0, "choke": None},
        "looped_mlp": {
            "mult": arguments["crawler_mlp_mult"],
            "slope": arguments["crawler_mlp_leaky_slope"] if leaky else 0.0,
            "choke": choke if choke["dim"] else None,
        }
        if looped
        else None,
        "parallel_blocks": [],
        "visit_controls": False,
        "skip_gates": False,
        "bigram": {
            "buckets": arguments["bigram_vocab_size"],
            "dim": arguments["bigram_dim"],
            "hash": "xor",
            "scaled": True,
        }
        if arguments["bigram_vocab_size"]
        else None,
        "smear": {"kind": "channel"},
        "value_embedding": values if values["readers"] else None,
        "conditioners": _crawler_conditioners(arguments, schedule),
        "embed_init_std": arguments["tied_embed_init_std"],
    }


def _crawler_schedule(arguments: dict[str, Any]) -> dict[str, Any]:
    shared = arguments["flat_weight_share"] and arguments["num_flat_layers"] == 4
    blocks = {
        "unique_blocks": 2 if shared else arguments["num_flat_layers"],
        "unique_order": [0, 1, 1, 0] if shared else None,
        "looped_blocks": arguments["num_crawler_layers"],
    }
    if not arguments["helix_enabled"]:
        return {"kind": "core", **blocks, "num_loops": arguments["crawler_loops"]}
    bridge = "attention" if arguments["helix_cross_attn"] else "linear"
    return {
        "kind": "helix",
        **blocks,
        "stride": arguments["helix_stride"],
        "bridge": bridge,
        "bridge_dim": arguments["helix_dim"],
    }


def _crawler_battery(arguments: dict[str, Any], schedule: dict[str, Any]) -> list[float] | None:
    """Return one scale per pass; entries beyond the last pass only decide whether there is a battery at all."""
    scales = arguments["crawler_loop_rope_scales"]
    if all(scale == 1 for scale in scales) or not schedule["looped_blocks"]:
        return None
    passes = schedule.get("num_loops", 1)
    require(
        len(scales) >= passes,
        "crawler_loop_rope_scales",
        scales,
        f"one entry for each of the {passes} passes (or all 1)",
    )
    return list(scales[:passes])


def _tapped_layers(arguments: dict[str, Any]) -> tuple[int, ...]:
    """Return the encoder blocks that the tap reads."""
    layers, outputs = arguments["crawler_tap_layers"], arguments["num_flat_layers"] // 2
    named = {"all": tuple(range(outputs)), "deep": (outputs - 1,), "shallow": (0,)}
    return (
        named[layers] if isinstance(layers, str) and layers in named else listed_indices(layers, "crawler_tap_layers")
    )


def crawler_value_readers(arguments: dict[str, Any]) -> tuple[int, ...]:
    """Return the listed looped blocks whose value-embedding scale some visit reads."""
    if not arguments["ve_enabled"]:
        return ()
    layers = arguments["num_crawler_layers"]
    existing = min(layers, 1) if arguments["helix_enabled"] else layers
    return tuple(index for index in arguments["ve_layers"] if index < existing)


def _crawler_conditioners(arguments: dict[str, Any], schedule: dict[str, Any]) -> dict[str, Any]:
    """Return the conditioners that run: none in a helix, those that tell passes apart from two passes on."""
    wanted = conditioners_off()
    if schedule["kind"] == "helix" or not schedule["looped_blocks"]:
        return wanted
    wanted["smear"] = arguments["crawler_loop_smear"]
    if arguments["crawler_tap_dim"]:
        wanted["tap"] = {
            "dim": arguments["crawler_tap_dim"],
            "encoder_visits": list(arguments["crawler_tap_layers"]),
            "per_loop": arguments["crawler_tap_loop_specific"],
        }
    if arguments["crawler_loops"] >= 2:
        wanted["flow_dim"] = arguments["inst_dim"] or None
        wanted["positions"] = arguments["inst_dim"] == 0
        wanted["anchor_dim"] = arguments["anchor_dim"] or None
    return wanted


def _crawler_name(name: str, config: ModelConfig, arguments: dict[str, Any]) -> str:
    """Return the published name of one of our tensors."""
    in_block = block_name(name, config.schedule.unique_blocks, "flat_blocks", "crawler_blocks")
    if in_block is not None:
        return in_block
    if match := re.fullmatch(r"value_embedding\.reader_scales\.(\d+)", name):
        reader = crawler_value_readers(arguments)[int(match[1])]
        return f"ve_layer_scales.{arguments['ve_layers'].index(reader)}"
    if match := re.fullmatch(r"conditioners\.anchor\.read\.(\d+)\.weight", name):
        return f"anchor_read.{int(match[1]) + 1}.weight"
    if match := re.fullmatch(r"conditioners\.tap\.up\.(\d+)\.weight", name):
        return f"loop_tap_up.{match[1]}.weight" if arguments["crawler_tap_loop_specific"] else "shared_tap_up.weight"
    if match := re.fullmatch(r"helix\.(to_loop|to_main)\.(\w+)\.weight", name):
        # The published names of the two directions change places between the two kinds of bridge.
        crossed = arguments["helix_cross_attn"]
        direction = "c2f" if (match[1] == "to_loop") == crossed else "f2c"
        part = {"query": "q", "key": "k", "value": "v", "output": "out"}.get(match[2], match[2])
        return f"helix_{direction}_{part}.weight"
    return rename(name, CRAWLER_TENSORS)


def _split_groups(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with every grouped bottleneck (G, in, out) split into G matrices (out, in)."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if re.search(r"\.mlp\.group_w\.\d+$", name) and tensor.ndim == 3:
            found.update({f"{name}.{group}": weight.mT.contiguous() for group, weight in enumerate(tensor)})
        else:
            found[name] = tensor
    return found
