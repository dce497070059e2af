"""Layout `crawler-pervisit`: a looped core whose mixes and scales belong to every visit.

Source: Parameter Golf pull request 1579.
Differs: nothing; the rotary base is never raised.
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
    model_config_from,
)
from pipeline.interop.translation import Shape, Translation, block_name, rename
from pipeline.model.config import ModelConfig

PERVISIT_ARGUMENTS = ArgumentTable(
    layout="crawler-pervisit",
    required={
        "vocab_size": int,
        "num_flat_blocks": int,
        "num_crawler_blocks": int,
        "crawler_loops": int,
        "model_dim": int,
        "num_heads": int,
        "num_kv_heads": int,
        "mlp_mult": float,
        "logit_softcap": float,
        "rope_base": float,
        "qk_gain_init": float,
    },
    optional={
        **COMMON_OPTIONAL,
        "use_smear_gate": (bool, False),
        "bigram_buckets": (int, 0),
        "bigram_dim": (int, 128),
        "ve_enabled": (bool, False),
        "ve_dim": (int, 128),
        "ve_last_n": (int, 2),
        "xsa_last_n": (int, 7),
    },
    fields={
        **COMMON_FIELDS,
        "schedule.unique_blocks": "num_flat_blocks",
        "schedule.looped_blocks": "num_crawler_blocks",
        "schedule.num_loops": "crawler_loops",
        "bigram.buckets": "bigram_buckets",
        "bigram.dim": "bigram_dim",
        "value_embedding.dim": "ve_dim",
    },
)

PERVISIT_TENSORS = {
    r"token_embedding\.": "tok_emb.",
    r"bigram\.projection\.": "bigram.proj.",
    r"value_embedding\.table\.": "ve.table.",
    r"value_embedding\.projection\.": "ve.proj.",
    r"visit_controls\.residual_mixes$": "resid_mixes",
    r"visit_controls\.attention_scales$": "attn_scales",
    r"visit_controls\.mlp_scales$": "mlp_scales",
}


def translate_pervisit(config: Mapping[str, Any]) -> Translation:
    """Translate the constructor arguments of the program; ValueError names the argument that does not do."""
    arguments = complete_arguments(config, PERVISIT_ARGUMENTS)
    require(arguments["crawler_loops"] >= 1, "crawler_loops", arguments["crawler_loops"], "at least 1")
    require(arguments["num_heads"] >= 1, "num_heads", arguments["num_heads"], "at least 1")
    model_config = model_config_from(_pervisit_fields(arguments), PERVISIT_ARGUMENTS)
    return Translation(
        config=model_config,
        published_name=lambda name: _pervisit_name(name, model_config, arguments),
        unread=_pervisit_unread(arguments, model_config),
        reshape=lambda tensors: _split_skips(tensors, arguments),
    )


def _pervisit_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of the configuration for complete, typed arguments."""
    head_dim = arguments["model_dim"] // arguments["num_heads"]
    require(head_dim >= 4, "num_heads", arguments["num_heads"], "heads of width 4 or more: a quarter of one is rotated")
    readers = _pervisit_readers(arguments)
    looped = arguments["num_crawler_blocks"] > 0 and arguments["crawler_loops"] >= 2
    return {
        **{name: arguments[name] for name in ("vocab_size", "context_tokens", "model_dim", "logit_softcap")},
        "embedding_dim": arguments["model_dim"],
        "schedule": {
            "kind": "core",
            "unique_blocks": arguments["num_flat_blocks"],
            "unique_order": None,
            "looped_blocks": arguments["num_crawler_blocks"],
            "num_loops": arguments["crawler_loops"],
        },
        "attention": {
            "num_heads": arguments["num_heads"],
            "num_kv_heads": arguments["num_kv_heads"],
            "qk_gain": arguments["qk_gain_init"],
            "exclusive_blocks": _pervisit_exclusive(arguments),
            "gate": None,
            "document_bos_id": None,
        },
        "rope": {
            "dims": 2 * (head_dim // 4),
            "frequency_dims": head_dim,
            "base": arguments["rope_base"],
            "base_tokens": None,
            "loop_scales": None,
        },
        "mlp": {"mult": arguments["mlp_mult"], "slope": 0.0, "choke": None},
        "looped_mlp": None,
        "ln_scale": False,
        "parallel_blocks": [],
        "visit_controls": True,
        "skip_gates": False,
        "bigram": {
            "buckets": arguments["bigram_buckets"],
            "dim": arguments["bigram_dim"],
            "hash": "linear",
            "scaled": False,
        }
        if arguments["bigram_buckets"]
        else None,
        "smear": {"kind": "channel"} if arguments["use_smear_gate"] else None,
        "value_embedding": {"dim": arguments["ve_dim"], "shared_scale": False, "read_by": "visits", "readers": readers}
        if readers
        else None,
        "conditioners": {**conditioners_off(), "step": {"kind": "learned"} if looped else None},
        "embed_init_std": arguments["tied_embed_init_std"],
    }


def _num_visits(arguments: dict[str, Any]) -> int:
    return arguments["num_flat_blocks"] + arguments["num_crawler_blocks"] * arguments["crawler_loops"]


def _num_skip_rows(arguments: dict[str, Any]) -> int:
    """Return the rows of the published skip weights: half of the visits, of which the encoder's come first."""
    return _num_visits(arguments) // 2


def _pervisit_exclusive(arguments: dict[str, Any]) -> list[int]:
    """Return the blocks with exclusive attention; the rule compares block indices with a count of visits."""
    unique, last = arguments["num_flat_blocks"], arguments["xsa_last_n"]
    encoders, visits = unique // 2, _num_visits(arguments)
    if last == 0:
        return []
    behind_core = encoders + visits - unique
    encoder = [i for i in range(encoders) if i >= visits - last]
    decoder = [i for i in range(encoders, unique) if i >= behind_core and i >= visits - last]
    return encoder + decoder + list(range(unique, unique + arguments["num_crawler_blocks"]))


def _pervisit_readers(arguments: dict[str, Any]) -> list[int]:
    """Return the last visits, which read the value embedding."""
    visits = _num_visits(arguments)
    return list(range(max(0, visits - arguments["ve_last_n"]), visits)) if arguments["ve_enabled"] else []


def _pervisit_unread(arguments: dict[str, Any], config: ModelConfig) -> dict[str, Shape]:
    """Return the tensors that exist and are never read: surplus skip weights, the first fraction, surplus scales."""
    shapes = dict[str, Shape]()
    if surplus := _num_skip_rows(arguments) - arguments["num_flat_blocks"] // 2:
        shapes["skip_weights.surplus"] = (surplus, config.model_dim)
    passes_read = arguments["crawler_loops"] if arguments["num_crawler_blocks"] else 0
    unread_alphas = [0] if passes_read else list(range(arguments["crawler_loops"]))
    shapes |= {f"crawler_residual_scales.{p}": () for p in unread_alphas}
    if arguments["ve_enabled"]:
        surplus = arguments["ve_last_n"] - len(_pervisit_readers(arguments))
        shapes |= {f"ve.scales.{j}": (1,) for j in range(surplus)}
        if config.value_embedding is None:
            shapes["ve.table.weight"] = (config.vocab_size, arguments["ve_dim"])
            if arguments["ve_dim"] != config.kv_dim:
                shapes["ve.proj.weight"] = (config.kv_dim, arguments["ve_dim"])
    return shapes


def _pervisit_name(name: str, config: ModelConfig, arguments: dict[str, Any]) -> str:
    """Return the published name of one of our tensors."""
    in_block = block_name(name, config.schedule.unique_blocks, "flat_blocks", "crawler_blocks")
    if in_block is not None:
        return in_block
    if match := re.fullmatch(r"value_embedding\.reader_scales\.(\d+)", name):
        return f"ve.scales.{int(match[1]) + arguments['ve_last_n'] - len(_pervisit_readers(arguments))}"
    if match := re.fullmatch(r"conditioners\.step\.alpha\.(\d+)", name):
        return f"crawler_residual_scales.{int(match[1]) + 1}"
    return rename(name, PERVISIT_TENSORS)


def _split_skips(tensors: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors with the skip weights that have no skip on their own."""
    weights, num_skips = tensors.get("skip_weights"), arguments["num_flat_blocks"] // 2
    if weights is None or weights.ndim != 2 or len(weights) != _num_skip_rows(arguments):
        return tensors
    return {**tensors, "skip_weights": weights[:num_skips], "skip_weights.surplus": weights[num_skips:]}
