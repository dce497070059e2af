"""What the train stage says of a finished run: its report and its loss curve.

Checked by: tests/stages/test_pipeline.py, tests/launching/test_launch.py.
"""

import csv
import io
import platform
from typing import Any

import torch
from torch import nn

from pipeline.base.ranks import Ranks
from pipeline.launching.processes import available_cores
from pipeline.training.journal import TrainResult


def train_report(
    model: nn.Module, result: TrainResult, precision: str, seed: int, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """Return the report of a finished run as JSON-able values."""
    last = result.last
    return {
        "seed": seed,
        "device": str(device),
        "hardware": hardware_name(device, ranks.world_size),
        "torch_version": torch.__version__,
        "num_processes": ranks.world_size,
        "model_params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": precision,
        "steps": int(last["step"]),
        "ended_by": result.ended_by,
        "seconds": last["seconds"],
        "step_avg_ms": 1000 * last["seconds"] / last["step"],
        "tokens": int(last["tokens"]),
        "final_train_loss": last["loss"],
        "imported": None,
        **result.regime,
    }


def hardware_name(device: torch.device, world_size: int = 1) -> str:
    """Return what a report calls the machine: the GPUs in use, or core count and processor architecture."""
    if device.type == "cuda":
        return f"{world_size}x {torch.cuda.get_device_name(device)}"
    return f"{available_cores()}-core {platform.machine()} CPU"


def curve_csv(result: TrainResult) -> str:
    """Return the loss curve as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(result.curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.curve)
    return text.getvalue()
