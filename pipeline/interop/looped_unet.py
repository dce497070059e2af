"""Layout `looped-unet`: a stack whose middle segment repeats, cut in the middle into encoder and decoder.

Source: Parameter Golf pull requests 1394 and 1493; a checkpoint has its loops active.
Differs: the rotary base follows `context_tokens`, where the published programs follow the tensor's length.
Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

from collections.abc import Mapping
from typing import Any

from pipeline.interop.arguments import (
    COMMON_FIELDS,
    COMMON_OPTIONAL,
    DEFAULT_CONTEXT_TOKENS,
    ArgumentTable,
    complete_arguments,
    conditioners_off,
    model_config_from,
)
from pipeline.interop.translation import Translation, block_name, rename

LOOPED_UNET_SLOPE = 0.5

LOOPED_UNET_ARGUMENTS = ArgumentTable(
    layout="looped-unet",
    required={
        "vocab_size": int,
        "num_layers": int,
        "xsa_last_n": int,
        "model_dim": int,
        "embedding_dim": int,
        "num_heads": int,
        "num_kv_heads": int,
        "mlp_mult": float,
        "skip_gates_enabled": bool,
        "logit_softcap": float,
        "rope_base": float,
        "rope_dims": int,
        "ln_scale": bool,
        "qk_gain_init": float,
        "train_seq_len": int,
        "num_loops": int,
        "loop_start": int,
        "loop_end": int,
        "parallel_residual_start": int,
    },
    optional=COMMON_OPTIONAL,
    fields={
        **COMMON_FIELDS,
        "schedule.unique_blocks": "num_layers",
        "schedule.loop_start": "loop_start, loop_end",
        "rope.base_tokens": "train_seq_len",
        "rope.dims": "rope_dims",
    },
    may_be_negative=("parallel_residual_start",),
)

LOOPED_UNET_TENSORS = {
    r"token_embedding\.": "tok_emb.",
    r"embedding_projection\.": "embed_proj.",
    r"head_projection\.": "head_proj.",
}


def translate_looped_unet(config: Mapping[str, Any]) -> Translation:
    """Translate the constructor arguments of the program; ValueError names the argument that does not do."""
    arguments = complete_arguments(config, LOOPED_UNET_ARGUMENTS)
    if "context_tokens" not in config:
        # Published programs score at their training length, where no base is raised.
        arguments["context_tokens"] = min(DEFAULT_CONTEXT_TOKENS, arguments["train_seq_len"])
    model_config = model_config_from(_looped_unet_fields(arguments), LOOPED_UNET_ARGUMENTS)
    layers = arguments["num_layers"]

    def published_name(name: str) -> str:
        return block_name(name, layers, "blocks", "blocks") or rename(name, LOOPED_UNET_TENSORS)

    return Translation(config=model_config, published_name=published_name, unread={})


def _looped_unet_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of the configuration for complete, typed arguments."""
    layers, parallel = arguments["num_layers"], arguments["parallel_residual_start"]
    loops = arguments["num_loops"]
    return {
        **{
            name: arguments[name]
            for name in ("vocab_size", "context_tokens", "model_dim", "embedding_dim", "logit_softcap", "ln_scale")
        },
        "schedule": {
            "kind": "folded",
            "unique_blocks": layers,
            "loop_start": arguments["loop_start"] if loops else 0,
            "loop_end": arguments["loop_end"] if loops else 0,
            "num_loops": loops + 1,  # published: repeats after the first run
        },
        "attention": {
            "num_heads": arguments["num_heads"],
            "num_kv_heads": arguments["num_kv_heads"],
            "qk_gain": arguments["qk_gain_init"],
            "exclusive_blocks": list(range(max(0, layers - arguments["xsa_last_n"]), layers)),
            "gate": None,
            "document_bos_id": None,
        },
        "rope": {
            "dims": arguments["rope_dims"],
            "frequency_dims": None,
            "base": arguments["rope_base"],
            "base_tokens": arguments["train_seq_len"],
            "loop_scales": None,
        },
        "mlp": {"mult": arguments["mlp_mult"], "slope": LOOPED_UNET_SLOPE, "choke": None},
        "looped_mlp": None,
        "parallel_blocks": list(range(parallel, layers)) if parallel >= 0 else [],
        "visit_controls": False,
        "skip_gates": arguments["skip_gates_enabled"],
        "bigram": None,
        "smear": None,
        "value_embedding": None,
        "conditioners": conditioners_off(),
        "embed_init_std": arguments["tied_embed_init_std"],
    }
