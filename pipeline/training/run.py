"""One training run from shards to weights, as the train stage and the record program both call it.

Checked by: tests/stages/test_pipeline.py, for the stage and for the record program.
"""

import csv
import io
import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.base.progress import Log, Progress
from pipeline.base.ranks import Ranks
from pipeline.data.batches import SequenceSampler
from pipeline.launching.processes import available_cores, process_group
from pipeline.model.backends import attention_kernel, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.training.config import TrainConfig
from pipeline.training.journal import TrainReport
from pipeline.training.loop import train
from pipeline.training.precision import BF16, resolve_precision
from pipeline.training.snapshot import Snapshots


def train_from_shards(
    model_config: ModelConfig,
    train_config: TrainConfig,
    shards: Sequence[np.ndarray],
    seed: int,
    ranks: Ranks,
    device: torch.device,
    log: Log,
    progress: Progress,
    attention: str,
    snapshots: "Snapshots | None" = None,
) -> tuple[LoopedUNet, TrainReport]:
    """Build a model, train it on opened train shards and return it with its report.

    Joins the ranks into a process group for the run; every rank returns the same weights. With `snapshots` it starts
    from the latest one. `attention` names a kernel or is `auto`, and so may the precision; the log says which it is.
    Raises ValueError for shards that are too short or a kernel that is absent.
    """
    sampler = SequenceSampler(shards, model_config.context_tokens, seed, train_config.document_bos_id)
    settings = replace(train_config, precision=resolve_precision(train_config.precision, device))
    kernel = resolve_attention(attention, device, settings.precision == BF16)
    if ranks.rank == 0:
        log(f"train_shards: {len(shards)}")
        log(f"precision: {settings.precision}")
        log(f"attention: {kernel}")
    model = build(model_config, seed).to(device)
    with process_group(ranks, device), attention_kernel(kernel):
        report = train(
            model, settings, sampler, model_config.context_tokens, ranks, device, log, progress, snapshots=snapshots
        )
    return model, report


def train_report(
    model: nn.Module, report: TrainReport, seed: int, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """Return the report of a finished run as JSON-able values."""
    return {
        "seed": seed,
        "device": str(device),
        "hardware": hardware_name(device, ranks.world_size),
        "torch_version": torch.__version__,
        "num_processes": ranks.world_size,
        "model_params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": report.precision,
        "steps": report.steps,
        "ended_by": report.ended_by,
        "seconds": report.seconds,
        "step_avg_ms": 1000 * report.seconds / report.steps,
        "tokens": report.tokens,
        "final_train_loss": report.final_train_loss,
        "imported": None,
        **report.regime,
    }


def hardware_name(device: torch.device, world_size: int = 1) -> str:
    """Return what a report calls the machine: the GPUs in use, or core count and processor architecture."""
    if device.type == "cuda":
        return f"{world_size}x {torch.cuda.get_device_name(device)}"
    return f"{available_cores()}-core {platform.machine()} CPU"


def curve_csv(report: TrainReport) -> str:
    """Return the loss curve as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(report.curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.curve)
    return text.getvalue()
