"""A community checkpoint in the place of a trained one: the files that the train stage would have written.

The one idea: later stages read files, so whoever writes the same files with the same provenance has done the stage.
The loss on a few training sequences shows whether checkpoint, architecture and tokenizer belong together.

Checked by: tests/stages/test_import.py.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.base.artifacts import path_of, write_json
from pipeline.base.checks import explain_failure, require
from pipeline.base.files import require_file, sha256_of_file, write_bytes
from pipeline.base.progress import Log
from pipeline.data.batches import calibration_sequences
from pipeline.data.manifest import listed_shards, open_listed
from pipeline.interop.community import LAYOUTS, check_layout, load_community
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, largest_weights

PROBE_SEQUENCES = 8


class Community(NamedTuple):
    """A community checkpoint, read and understood."""

    config: ModelConfig
    state: dict[str, Tensor]
    origin: dict[str, Any]
    """What reports say about where the weights come from."""


def read_community(checkpoint: Path, layout: str | None, config_file: Path, drop_unread: bool, log: Log) -> Community:
    """Read a checkpoint and the JSON of its constructor arguments.

    The file holds the arguments, or an object with `config` and optionally `layout`, which `layout` must not
    contradict, and `train_sequence_tokens`, the default of the argument `context_tokens`.
    Raises ValueError, one line, for anything that does not fit.
    """
    document = read_arguments(config_file)
    is_wrapped = isinstance(document.get("config"), dict)
    arguments = dict(document["config"] if is_wrapped else document)
    stated = document.get("layout") if is_wrapped else None
    require(not (layout and stated) or layout == stated, "--layout", layout, f"{stated!r}, as in {config_file}")
    family = layout or stated
    if not family:
        names = ", ".join(LAYOUTS)
        raise ValueError(f"--layout: missing, and {config_file} names none beside `config`; expected one of {names}")
    check_layout(family, f"{config_file}: layout" if stated else "--layout")
    if is_wrapped and "train_sequence_tokens" in document:
        arguments.setdefault("context_tokens", document["train_sequence_tokens"])
    config, state = load_community(checkpoint, family, arguments, drop_unread=drop_unread, log=log)
    return Community(
        config,
        state,
        {
            "layout": family,
            "file": checkpoint.name,
            "checkpoint_sha256": sha256_of_file(checkpoint),
            "config_sha256": sha256_of_file(config_file),
            "unread": "dropped" if drop_unread else "kept",
        },
    )


def place_checkpoint(community: Community, seed: int, provenance: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """Write the outputs of the train stage for `seed` and return the report among them."""
    model = LoopedUNet.empty(community.config)
    model.load_state_dict(community.state)
    loss, uniform = probe_loss(model, path_of("manifest")), math.log(community.config.vocab_size)
    require(
        math.isfinite(loss),
        "checkpoint: loss on training tokens",
        loss,
        f"a finite number: activations overflow; {largest_weights(model)} is largest",
    )
    if loss > uniform:
        log(
            f"warning: {loss:.2f} nats per training token, a uniform guess has {uniform:.2f}: the shards were probably "
            "not made with this checkpoint's tokenizer (data.tokenizer_model)"
        )
    report = {
        "seed": seed,
        "device": "none",
        "hardware": "none: imported checkpoint",
        "torch_version": torch.__version__,
        "num_processes": 1,
        "model_params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": "none",
        "steps": 0,
        "ended_by": "none",
        "seconds": 0.0,
        "step_avg_ms": 0.0,
        "tokens": 0,
        "final_train_loss": loss,
        "imported": community.origin,
    }
    checkpoint = path_of("checkpoint", seed=seed)
    save_checkpoint(checkpoint, model, community.config, {"seed": seed, "imported": community.origin})
    lines = [
        f"model_params:{report['model_params']}",
        f"imported: {community.origin['layout']} checkpoint sha256 {community.origin['checkpoint_sha256']}",
        f"step:0/0 train_loss:{loss:.4f} train_time:0ms step_avg:0.00ms",
    ]
    train_log = path_of("train_log", seed=seed)
    write_bytes(train_log, ("\n".join(lines) + "\n").encode())
    write_bytes(path_of("curve", seed=seed), f"step,loss,lr_scale,seconds,tokens\n0,{loss},0.0,0.0,0\n".encode())
    report["outputs_sha256"] = {str(path): sha256_of_file(path) for path in (checkpoint, train_log)}
    write_json(path_of("train_report", seed=seed), {**report, "provenance": dict(provenance)})
    return report


@torch.no_grad()
def probe_loss(model: LoopedUNet, manifest: Path) -> float:
    """Return the mean nats per target on a few training sequences of the model's context, in float32."""
    length = model.config.context_tokens
    shards = open_listed(listed_shards(manifest, "train"), model.config.vocab_size)
    ids_NT = calibration_sequences(shards, length, PROBE_SEQUENCES)
    return model(ids_NT[:, :-1], ids_NT[:, 1:]).item()


def plain_model_section(config: ModelConfig) -> dict[str, Any]:
    """Return a model configuration as params.yaml holds it: mappings, lists, scalars."""
    return json.loads(json.dumps(asdict(config)))


def read_arguments(path: Path) -> dict[str, Any]:
    """Return the JSON object of constructor arguments in a file; ValueError, one line, when it holds none."""
    require_file(path, "--config", [".json"])
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config: {path} is not valid JSON ({explain_failure(error)})") from None
    require(isinstance(document, dict), f"--config: {path}", document, "an object of constructor arguments")
    return document
