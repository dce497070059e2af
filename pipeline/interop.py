"""Float checkpoints of community scripts, read as Fairway networks.

A layout is a table of constructor arguments and a table of tensor names. What the network cannot express, and any
tensor that is missing, extra or misshapen, is refused by name: a checkpoint that loads computes what its own program
computed.

Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535).
Differs: the rotary base follows `context_tokens`, where the published programs follow the tensor's length.
Checked by: tests/test_interop.py
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.checks import require
from pipeline.config import parse_value
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet

LAYOUTS = ("crawler",)

CRAWLER_RAISES_BASE_ABOVE_TOKENS = 1024
DEFAULT_CONTEXT_TOKENS = 1024

CRAWLER_REQUIRED: dict[str, Any] = {
    "vocab_size": int, "num_flat_layers": int, "num_crawler_layers": int, "crawler_loops": int, "model_dim": int,
    "num_heads": int, "num_kv_heads": int, "mlp_mult": float, "crawler_mlp_mult": float, "tied_embed_init_std": float,
    "logit_softcap": float, "rope_base": float, "qk_gain_init": float, "bigram_vocab_size": int, "bigram_dim": int,
    "rope_dims": int, "ln_scale": bool,
}  # fmt: skip
"""Constructor arguments without a published default -> type."""

CRAWLER_DEFAULTS: dict[str, Any] = {
    "context_tokens": DEFAULT_CONTEXT_TOKENS,
    "tie_embeddings": True,
    "xsa_last_n": 0,
    "ve_enabled": False,
    "ve_dim": 0,
    "ve_layers": (),
    "mlp_act": "relu_sq",
    "mlp_leaky_slope": 0.5,
    "crawler_mlp_leaky_slope": 0.5,
    "crawler_loop_rope_scales": (1.0, 1.0, 1.0),
    "inst_dim": 32,
}
"""Constructor arguments a config may omit -> published default."""

CRAWLER_OPTIONAL: dict[str, Any] = {
    "context_tokens": int, "tie_embeddings": bool, "xsa_last_n": int, "ve_enabled": bool, "ve_dim": int,
    "ve_layers": tuple[int, ...], "mlp_act": str, "mlp_leaky_slope": float, "crawler_mlp_leaky_slope": float,
    "crawler_loop_rope_scales": tuple[float, ...], "inst_dim": int,
}  # fmt: skip
"""The same arguments -> type."""

CRAWLER_RENAMED = {
    "unique_blocks": "num_flat_layers",
    "looped_blocks": "num_crawler_layers",
    "num_loops": "crawler_loops",
    "looped_mlp_mult": "crawler_mlp_mult",
    "mlp_slope": "mlp_leaky_slope",
    "looped_mlp_slope": "crawler_mlp_leaky_slope",
    "rope_loop_scales": "crawler_loop_rope_scales",
    "qk_gain": "qk_gain_init",
    "xsa_last_looped": "xsa_last_n",
    "flow_dim": "inst_dim",
    "bigram_buckets": "bigram_vocab_size",
    "value_embedding_dim": "ve_dim",
    "value_embedding_blocks": "ve_layers",
    "embed_init_std": "tied_embed_init_std",
}
"""Our field -> published argument, where the names differ."""

CRAWLER_OFF: dict[str, Any] = {
    "crawler_tap_dim": 0,
    "anchor_dim": 0,
    "crawler_mlp_choke_dim": 0,
    "crawler_loop_smear": False,
    "helix_enabled": False,
    "flat_weight_share": False,
    "embed_bottleneck": 0,
}
"""Features the network does not have yet, with the value that switches each off."""

CRAWLER_UNREAD = (
    "crawler_tap_layers", "crawler_tap_loop_specific", "crawler_mlp_choke_shape", "crawler_mlp_choke_groups",
    "helix_dim", "helix_stride", "helix_cross_attn",
)  # fmt: skip
"""Details of features that are off: accepted and ignored."""

CRAWLER_TENSORS = (
    (r"tok_emb\.", "token_embedding."),
    (r"bigram\.embed\.", "bigram.table."),
    (r"bigram\.proj\.", "bigram.projection."),
    (r"bigram\.scale$", "bigram.scale"),
    (r"smear\.gate$", "smear.gate"),
    (r"ve_shared\.embed\.", "value_embedding.table."),
    (r"ve_shared\.proj\.", "value_embedding.projection."),
    (r"ve_shared\.scale$", "value_embedding.scale"),
    (r"ve_layer_scales\.", "value_embedding.reader_scales."),
    (r"loop_inst_proj\.", "conditioners.flow.down."),
    (r"loop_inst_up\.", "conditioners.flow.up."),
    (r"skip_weights$", "skip_weights"),
)
"""Prefix of a published tensor name -> ours; names of blocks have a table of their own."""

CRAWLER_BLOCK_TENSORS = {
    "attn.c_q.weight": "attention.query.weight",
    "attn.c_k.weight": "attention.key.weight",
    "attn.c_v.weight": "attention.value.weight",
    "attn.proj.weight": "attention.output.weight",
    "attn.q_gain": "attention.gain",
    "mlp.fc.weight": "mlp.up.weight",
    "mlp.proj.weight": "mlp.down.weight",
    "attn_scale": "attention_scale",
    "mlp_scale": "mlp_scale",
    "resid_mix": "residual_mix",
}


def load_community(path: str | Path, layout: str, config: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a community checkpoint.

    Args:
        path: `.safetensors`, or `.pt` / `.pth` holding a state dict of tensors (loaded weights-only).
        layout: name of the program's family, one of `LAYOUTS`.
        config: the program's constructor arguments, plus an optional `context_tokens`.

    Returns:
        The network's configuration and float32 tensors that it loads strictly.

    Raises:
        ValueError: an unknown layout, argument or feature, or tensors that do not fit the arguments.
    """
    require(layout in LAYOUTS, "layout", layout, f"one of {', '.join(LAYOUTS)}")
    model_config = crawler_config(config)
    tensors = _read_tensors(Path(path))
    state = {_crawler_name(name, model_config.unique_blocks): tensor for name, tensor in tensors.items()}
    state = {name: tensor.to(torch.float32).contiguous() for name, tensor in state.items() if tensor.numel()}
    _check_fit(state, model_config, Path(path))
    return model_config, state


def crawler_config(config: Mapping[str, Any]) -> ModelConfig:
    """Translate the constructor arguments of a crawler program; ValueError names the argument that does not do."""
    require(isinstance(config, Mapping), "config", config, "a mapping of constructor arguments")
    args = _complete_crawler_arguments(config)
    fields = _crawler_fields(args)
    try:
        return ModelConfig(**fields)
    except ValueError as error:
        field, colon, reason = str(error).partition(":")
        raise ValueError(f"{CRAWLER_RENAMED.get(field, field)}{colon}{reason}") from None


def _crawler_fields(args: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `ModelConfig` for complete, typed crawler arguments."""
    leaky = args["mlp_act"] == "leaky_relu_sq"
    looped = args["num_crawler_layers"]
    num_loops = args["crawler_loops"]
    require(num_loops >= 1, "crawler_loops", num_loops, "at least 1")
    require(args["inst_dim"] > 0 or num_loops < 2, "inst_dim", args["inst_dim"],
            "above 0: fixed loop positions are not supported")  # fmt: skip
    return {
        "vocab_size": args["vocab_size"],
        "context_tokens": args["context_tokens"],
        "model_dim": args["model_dim"],
        "num_heads": args["num_heads"],
        "num_kv_heads": args["num_kv_heads"],
        "unique_blocks": args["num_flat_layers"],
        "looped_blocks": looped,
        "num_loops": num_loops,
        "mlp_mult": args["mlp_mult"],
        "looped_mlp_mult": args["crawler_mlp_mult"],
        "mlp_slope": args["mlp_leaky_slope"] if leaky else 0.0,
        "looped_mlp_slope": args["crawler_mlp_leaky_slope"] if leaky else 0.0,
        "rope_dims": args["rope_dims"],
        "rope_base": args["rope_base"],
        "rope_base_tokens": CRAWLER_RAISES_BASE_ABOVE_TOKENS,
        "rope_loop_scales": _crawler_loop_scales(args["crawler_loop_rope_scales"], num_loops),
        "qk_gain": args["qk_gain_init"],
        "xsa_last_looped": min(args["xsa_last_n"], looped),
        "ln_scale": args["ln_scale"],
        "flow_dim": args["inst_dim"],
        "bigram_buckets": args["bigram_vocab_size"],
        "bigram_dim": args["bigram_dim"],
        "smear_gate": True,
        "value_embedding_dim": args["ve_dim"] if args["ve_enabled"] else 0,
        "value_embedding_blocks": args["ve_layers"] if args["ve_enabled"] else (),
        "logit_softcap": args["logit_softcap"],
        "embed_init_std": args["tied_embed_init_std"],
    }


def _complete_crawler_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments the network reads; refuse unknown ones and features it does not have."""
    known = [*CRAWLER_REQUIRED, *CRAWLER_DEFAULTS, *CRAWLER_OFF, *CRAWLER_UNREAD]
    for name, value in config.items():
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        require(name in known, name, value, f"no such argument of layout crawler (nearest: {nearest})")
        require(value == CRAWLER_OFF.get(name, value), name, value,
                f"{CRAWLER_OFF.get(name)!r}: the network does not have this feature")  # fmt: skip
    for name in CRAWLER_REQUIRED:
        require(name in config, name, None, "a value: layout crawler has no default for it")
    types = {**CRAWLER_REQUIRED, **CRAWLER_OPTIONAL}
    given = {name: value for name, value in config.items() if name in types}
    if isinstance(given.get("ve_layers"), str):
        given["ve_layers"] = _listed_indices(given["ve_layers"])
    args = {**CRAWLER_DEFAULTS, **{name: parse_value(types[name], value, name) for name, value in given.items()}}
    require(args["tie_embeddings"] is True, "tie_embeddings", args["tie_embeddings"], "true: heads are tied")
    require(args["mlp_act"] in ("relu_sq", "leaky_relu_sq"), "mlp_act", args["mlp_act"], "relu_sq or leaky_relu_sq")
    return args


def _crawler_loop_scales(scales: tuple[float, ...], num_loops: int) -> tuple[float, ...]:
    """Return one scale per pass; entries beyond the last pass are never read."""
    if all(scale == 1 for scale in scales):
        return (1.0,) * num_loops
    used = scales[:num_loops]
    require(len(used) == num_loops and any(scale != 1 for scale in used), "crawler_loop_rope_scales", scales,
            f"one entry for each of the {num_loops} passes, one of them not 1 (or all 1)")  # fmt: skip
    return used


def _listed_indices(layers: str) -> list[int]:
    """Return the blocks of a `ve_layers` in the published form "0,1"."""
    parts = [part.strip() for part in layers.split(",") if part.strip()]
    require(
        all(re.fullmatch("[0-9]+", part) for part in parts), "ve_layers", layers, 'indices such as "0,1", or a list'
    )
    return [int(part) for part in parts]


def _crawler_name(name: str, unique_blocks: int) -> str:
    """Return our name of a published tensor; an unknown name comes back as it is, to be refused as extra."""
    block = re.fullmatch(r"(flat|crawler)_blocks\.(\d+)\.(.+)", name)
    if block:
        kind, index, rest = block.groups()
        first = unique_blocks if kind == "crawler" else 0
        return f"blocks.{first + int(index)}.{CRAWLER_BLOCK_TENSORS.get(rest, rest)}"
    for pattern, ours in CRAWLER_TENSORS:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name, count=1)
    return name


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` or `.pt` file; never runs code from the file."""
    require(path.is_file(), "checkpoint", str(path), "an existing file")
    require(path.suffix in (".safetensors", ".pt", ".pth"), "checkpoint", str(path), "a .safetensors, .pt or .pth file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"checkpoint: {path} is unreadable ({reason}); expected a state dict of tensors") from error
    require(isinstance(loaded, dict) and all(isinstance(value, Tensor) for value in loaded.values()), "checkpoint",
            str(path), "a state dict of tensors and nothing else")  # fmt: skip
    return loaded


def _check_fit(state: dict[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Raise ValueError naming the tensors that `build(config)` would not load strictly."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in LoopedUNet(config).state_dict().items()}
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"extra {name}" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        raise ValueError(f"checkpoint: {path} does not fit its config: {'; '.join(problems)}")
