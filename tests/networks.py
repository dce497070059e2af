"""Tiny networks for tests: a base configuration, dotted changes to it, and one of every architecture."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.base.config import parse_value
from pipeline.interop.arguments import conditioners_off
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.model.parts.position_bigram import PositionBigram

NO_CONDITIONERS: dict[str, Any] = conditioners_off()

TINY: ModelConfig = parse_value(
    ModelConfig,
    {
        "vocab_size": 48,
        "context_tokens": 32,
        "model_dim": 32,
        "embedding_dim": 32,
        "schedule": {"kind": "core", "unique_blocks": 4, "unique_order": None, "looped_blocks": 2, "num_loops": 3},
        "attention": {
            "num_heads": 4,
            "num_kv_heads": 2,
            "qk_gain": 1.5,
            "exclusive_blocks": [5],
            "gate": None,
            "document_bos_id": None,
        },
        "rope": {
            "dims": 6,
            "frequency_dims": None,
            "base": 10000.0,
            "base_tokens": 1024,
            "loop_scales": [9.0, 1.0, 2.0],
        },
        "mlp": {"mult": 2.0, "slope": 0.5, "choke": None},
        "looped_mlp": {"mult": 3.0, "slope": 0.3, "choke": None},
        "ln_scale": True,
        "parallel_blocks": [],
        "visit_controls": False,
        "skip_gates": False,
        "bigram": {"buckets": 19, "dim": 8, "hash": "xor", "scaled": True},
        "smear": {"kind": "channel"},
        "value_embedding": {"dim": 8, "shared_scale": True, "read_by": "looped_blocks", "readers": [0, 1]},
        "conditioners": {**NO_CONDITIONERS, "flow_dim": 4},
        "logit_softcap": 30.0,
        "embed_init_std": 0.5,
        "unread": {},
    },
    "model",
)


def changed(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return `config` with the values at dotted keys replaced."""
    values = dataclasses.asdict(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        part = values
        for name in path:
            part = part[name]
        part[last] = copy.deepcopy(value)
    return parse_value(ModelConfig, values, "model")


def random_ids(config: ModelConfig, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return random tokens of a network's vocabulary."""
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def roused(config: ModelConfig, seed: int, build_seed: int = 0, noise: float = 0.1) -> LoopedUNet:
    """Return a fresh network with a little noise on every parameter: no projection is zero, scales stay natural."""
    model = build(config, build_seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model


def randomised(config: ModelConfig, seed: int = 0) -> LoopedUNet:
    """Return a network in which every parameter matters; every other token has a leading space."""
    model = build(config, seed)
    if isinstance(model.bigram, PositionBigram):
        model.bigram.learn_spaces(torch.arange(config.vocab_size) % 2 == 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.5 if "embedding" in name or "table" in name else 0.3
            control = parameter.dim() != 2 or any(part in name for part in ("mix", "scales", "skip"))
            parameter.copy_(1 + noise * spread if control else noise * spread)
    return model


CORE_OFF: dict[str, Any] = {
    "conditioners": NO_CONDITIONERS,
    "rope.loop_scales": None,
    "looped_mlp": None,
    "value_embedding": None,
    "attention.exclusive_blocks": [0],
}


def choked(shape: str, dim: int = 6) -> dict[str, Any]:
    """Return the changes that give looped blocks a bottleneck."""
    return {"looped_mlp.choke": {"shape": shape, "dim": dim, "groups": 3}}


def helix(bridge: str, stride: int, **schedule: Any) -> dict[str, Any]:
    """Return the changes that make a helix."""
    return {
        "schedule": {
            "kind": "helix",
            "unique_blocks": 5,
            "unique_order": None,
            "looped_blocks": 2,
            "stride": stride,
            "bridge": bridge,
            "bridge_dim": 6,
            **schedule,
        },
        "conditioners": NO_CONDITIONERS,
        "rope.loop_scales": [9.0],
        "value_embedding.readers": [0],
        "attention.exclusive_blocks": [6],
    }


def folded(num_loops: int, **schedule: Any) -> dict[str, Any]:
    """Return the changes that make a folded looped U-Net."""
    return {
        **CORE_OFF,
        "bigram": None,
        "smear": None,
        "mlp.slope": 0.5,
        "schedule": {
            "kind": "folded",
            "unique_blocks": 6,
            "loop_start": 2,
            "loop_end": 3,
            "num_loops": num_loops,
            **schedule,
        },
    }


def lanes(first_block: int) -> dict[str, Any]:
    """Return `parallel_blocks` of two lanes."""
    return {"first_block": first_block, "keep": 1.1, "own": 1.0, "other": 0.7}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "odd unique, raised base": {"schedule.unique_blocks": 5, "context_tokens": 4096, "rope.base_tokens": 256},
    "raised base without battery": {"context_tokens": 4096, "rope.loop_scales": None},
    "battery of ones": {"context_tokens": 4096, "rope.loop_scales": [1.0, 1.0, 1.0]},
    "whole head, no XSA": {"rope.dims": 0, "attention.exclusive_blocks": [], "ln_scale": False, "rope.base_tokens": 8},
    "one pass": {
        "schedule.num_loops": 1,
        "rope.loop_scales": [3.0],
        "attention.exclusive_blocks": [4, 5],
        "conditioners.flow_dim": None,
    },
    "core only": {"schedule.unique_blocks": 0, "value_embedding.readers": [1], "attention.exclusive_blocks": []},
    "unique only": {**CORE_OFF, "schedule.looped_blocks": 0, "schedule.unique_blocks": 3},
    "one unique": {"schedule.unique_blocks": 1, "attention.exclusive_blocks": [2], "mlp.slope": 0.0},
    "no projections": {"bigram.dim": 32, "value_embedding.dim": 16},
    "bare": {
        "conditioners.flow_dim": None,
        "bigram": None,
        "smear": None,
        "value_embedding": None,
        "attention.num_kv_heads": 4,
    },
    "swapped readers, one pair": {"value_embedding.readers": [1, 0], "rope.dims": 2, "attention.num_kv_heads": 1},
    "positions, anchor, shared tap": {
        "conditioners": {
            **NO_CONDITIONERS,
            "positions": True,
            "anchor_dim": 5,
            "tap": {"dim": 3, "encoder_visits": [1], "per_loop": False},
        }
    },
    "flow, anchor, tap, smear, pyramid": {
        "conditioners": {
            **NO_CONDITIONERS,
            "flow_dim": 4,
            "anchor_dim": 5,
            "smear": True,
            "tap": {"dim": 3, "encoder_visits": [0, 1], "per_loop": True},
        },
        **choked("pyramid"),
    },
    "contractive, flat choke": {"conditioners.step": {"kind": "contractive", "fraction": 0.4}, **choked("flat")},
    "pyramid_res choke": choked("pyramid_res"),
    "grouped choke": choked("grouped"),
    "residual choke": choked("residual"),
    "shared unique blocks": {
        "schedule.unique_blocks": 2,
        "schedule.unique_order": [0, 1, 1, 0],
        "attention.exclusive_blocks": [3],
    },
    "per visit": {
        "schedule.unique_blocks": 3,
        "schedule.num_loops": 2,
        "rope": {"dims": 4, "frequency_dims": 9, "base": 10000.0, "base_tokens": None, "loop_scales": None},
        "context_tokens": 4096,
        "looped_mlp": None,
        "ln_scale": False,
        "visit_controls": True,
        "bigram": {"buckets": 19, "dim": 8, "hash": "linear", "scaled": False},
        "value_embedding": {"dim": 8, "shared_scale": False, "read_by": "visits", "readers": [5, 6]},
        "attention.exclusive_blocks": [3, 4],
        "conditioners": {**NO_CONDITIONERS, "step": {"kind": "learned"}},
    },
    "helix, linear": helix("linear", 2),
    "helix, attention": helix("attention", 1),
    "helix, choke, shared blocks": {
        **helix("attention", 3, unique_blocks=2, unique_order=[0, 1, 1, 0]),
        **choked("residual"),
        "attention.exclusive_blocks": [],
        "rope.loop_scales": None,
    },
    "folded": {**folded(3), "parallel_blocks": [4, 5], "skip_gates": True},
    "folded, no gates, factorised": {
        **folded(2, unique_blocks=5),
        "embedding_dim": 20,
        "context_tokens": 64,
        "rope.base_tokens": 48,
    },
    "folded once": {**folded(1), "skip_gates": True},
    "lanes": {**folded(3), "parallel_blocks": lanes(4), "skip_gates": True, "attention.exclusive_blocks": [4]},
    "bigram by position": {"bigram": {"buckets": 20, "dim": 8, "hash": "position", "scaled": True}},
    "asymmetric cap, gain per block": {
        "logit_softcap": {"positive": 20.0, "negative": 30.0, "trained": True},
        "attention.qk_gain": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
    },
    "folded, positions": {**folded(3), "conditioners": {**NO_CONDITIONERS, "positions": True}},
    "lanes, plain U-Net": {**folded(1), "parallel_blocks": lanes(3), "visit_controls": True, "ln_scale": False},
    "frontier": {
        **folded(3),
        "skip_gates": True,
        "attention.gate": {"width": 12, "scale": 0.5},
        "smear": {"kind": "token", "width": 12, "bos_id": 1},
    },
}
"""One of every branch of the definitions, as changes to TINY."""


def architecture(name: str) -> ModelConfig:
    """Return one of ARCHITECTURES."""
    return changed(TINY, ARCHITECTURES[name])
