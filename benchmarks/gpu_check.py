"""Does this machine's GPU compute what the CPU computes, and how fast? One command, one JSON.

Run `make gpu-check` on any CUDA machine. It compares logits, loss and gradients with the CPU's, every attention kernel
that the machine has with float32, the compiled with the eager loss, trains for 200 steps, and measures memory and
throughput. Exit status 1 when a check fails. `--device cpu --size small` runs the same code anywhere.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import ROOT, write_result
from benchmarks.train_throughput import cases, cpu_model, measure
from pipeline.base.checks import FairwayError
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.data.batches import SequenceSampler
from pipeline.model.backends import attention_kernel, installed_flash_kernels, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.reports.training import hardware_name
from pipeline.training.backward import build_backward
from pipeline.training.loop import train
from pipeline.training.precision import resolve_precision

LARGEST_FP32_ERROR = 2e-3
"""Of a logit: float32 products of other shapes, some in TF32-free tensor cores, sum in another order."""
LARGEST_BF16_LOSS_ERROR = 0.02
"""Nats: bfloat16 keeps eight bits."""
TRAINING_STEPS = {"full": 200, "small": 40}
BATCH_TOKENS = {"full": 4096, "small": 1024}


def main() -> None:
    """Check, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="what to check")
    parser.add_argument("--size", default="full", choices=("full", "small"), help="sizes of the models")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu-check: error: no usable CUDA device; try --device cpu --size small")
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    results = run_checks(device, arguments.size)
    if arguments.size == "full":
        print(write_result("gpu_check", hardware_name(device), results))
    failed = [name for name, result in results.items() if not result["passed"]]
    sys.exit(f"gpu-check: failed: {', '.join(failed)}" if failed else 0)


def run_checks(device: torch.device, size: str) -> dict[str, dict[str, Any]]:
    """Run every check; return {passed, ...figures} by name. A check that raises a domain error has failed."""
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "parity": lambda: check_parity(device),
        "attention": lambda: check_attention(device),
        "compile": lambda: check_compile(device),
        "training": lambda: check_training(device, size),
        "throughput": lambda: check_throughput(device, size),
    }
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except (FairwayError, ValueError, RuntimeError) as error:
            results[name] = {"passed": False, "error": " ".join(str(error).split())}
        print(
            name,
            "passed" if results[name]["passed"] else "FAILED",
            {key: value for key, value in results[name].items() if key != "passed"},
            flush=True,
        )
    return results


def check_parity(device: torch.device) -> dict[str, Any]:
    """Compare float32 logits, loss and gradients of a roused network on `device` and on the CPU."""
    errors = {}
    for name, config in (("crawler", checked_model()), ("folded", folded_model())):
        outcomes = [logits_and_gradients(config, place) for place in (torch.device("cpu"), device)]
        (cpu_logits, cpu_loss, cpu_grads), (logits, loss, grads) = outcomes
        errors[name] = {
            "logits": float((logits - cpu_logits).abs().max()),
            "loss": abs(loss - cpu_loss),
            "gradients": float((grads - cpu_grads).norm() / cpu_grads.norm()),
        }
    worst = max(error for of_model in errors.values() for error in of_model.values())
    return {"passed": worst < LARGEST_FP32_ERROR, **errors}


def check_attention(device: torch.device) -> dict[str, Any]:
    """Compare the bfloat16 loss under every attention kernel of this machine with the float32 loss."""
    kernels = sorted({"sdpa", resolve_attention("auto", device, bf16=True), *usable_kernels(device)})
    exact = loss_of(checked_model(), device, bf16=False, kernel="sdpa")
    errors = {kernel: abs(loss_of(checked_model(), device, bf16=True, kernel=kernel) - exact) for kernel in kernels}
    return {
        "passed": max(errors.values()) < LARGEST_BF16_LOSS_ERROR,
        "auto": resolve_attention("auto", device, True),
        "loss_errors": errors,
    }


def check_compile(device: torch.device) -> dict[str, Any]:
    """Compare the compiled full graph with the eager pass: loss and gradient norm, float32."""
    eager, compiled = (
        loss_and_norm(checked_model(), device, bf16=False, compiled=compiled) for compiled in (False, True)
    )
    errors = {"loss": abs(eager[0] - compiled[0]), "gradient_norm": abs(eager[1] - compiled[1]) / eager[1]}
    return {"passed": max(errors.values()) < LARGEST_FP32_ERROR, **errors}


def check_training(device: torch.device, size: str) -> dict[str, Any]:
    """Train on a repeating text with every part of the engine on: the loss must fall, memory is reported."""
    config = load_params(ROOT / "params.yaml", ["train"]).train
    settings = {
        **vars(config),
        "max_steps": TRAINING_STEPS[size],
        "batch_tokens": BATCH_TOKENS[size],
        "log_every_steps": 10,
        "precision": resolve_precision(config.precision, device),
        "compile": device.type == "cuda",
    }
    model = build(checked_model(), seed=1)
    pattern = np.random.default_rng(0).integers(0, model.config.vocab_size, 997)
    sampler = SequenceSampler([np.tile(pattern, 200).astype(np.uint16)], model.config.context_tokens, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result = train(
        model,
        type(config)(**settings),
        sampler,
        model.config.context_tokens,
        Ranks(0, 0, 1),
        device,
        lambda line: None,
        silent,
    )
    first, last = result.curve[0]["loss"], result.last["loss"]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "passed": last < 0.5 * first,
        "first_loss": first,
        "last_loss": last,
        "steps": result.last["step"],
        "tokens_per_second": result.last["tokens"] / result.last["seconds"],
        "peak_bytes": peak,
    }


def check_throughput(device: torch.device, size: str) -> dict[str, Any]:
    """Measure our step against the plain one; passes when ours is the faster on every model."""
    measured = {name: measure(case, device, 5, Ranks(0, 0, 1)) for name, case in cases(size, device).items()}
    ratio = min(result["plain_over_ours"] for result in measured.values())
    return {"passed": size == "small" or ratio > 1, **measured}


def checked_model() -> ModelConfig:
    """Return the crawler that most checks run: sizes that every attention kernel takes."""
    return cpu_model(model_dim=256, vocab_size=256, context_tokens=128)


def folded_model() -> ModelConfig:
    """Return a reduced looped U-Net with parallel blocks and skip gates."""
    config = load_params(ROOT / "recipes" / "sp8192-loop3.yaml", ["model"]).model
    return dataclasses.replace(config, vocab_size=256, context_tokens=128, model_dim=256, embedding_dim=256)


def roused(config: ModelConfig, device: torch.device) -> LoopedUNet:
    """Return a network in which nothing is zero, equal on every device."""
    model, generator = build(config, seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.to(device)


def tokens_of(config: ModelConfig, device: torch.device) -> Tensor:
    """Return random ids (4, T + 1)."""
    shape = (4, config.context_tokens + 1)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(2)).to(device)


def logits_and_gradients(config: ModelConfig, device: torch.device) -> tuple[Tensor, float, Tensor]:
    """Return (logits, loss, all gradients in one vector) in float32, on the CPU."""
    model, tokens_BT = roused(config, device), tokens_of(config, device)
    with torch.no_grad():
        logits = model(tokens_BT[:, :-1]).cpu()
    loss = model(tokens_BT[:, :-1], tokens_BT[:, 1:])
    loss.backward()
    gradients = [parameter.grad.flatten().cpu() for parameter in model.parameters() if parameter.grad is not None]
    return logits, loss.item(), torch.cat(gradients)


def loss_of(config: ModelConfig, device: torch.device, *, bf16: bool, kernel: str) -> float:
    """Return the mean nats of random ids under an attention kernel."""
    with attention_kernel(kernel):
        return loss_and_norm(config, device, bf16=bf16, compiled=False)[0]


def loss_and_norm(config: ModelConfig, device: torch.device, *, bf16: bool, compiled: bool) -> tuple[float, float]:
    """Return the loss of one pass and the norm of its gradient."""
    model = roused(config, device)
    backward = build_backward(model, device, bf16=bf16, compiled=compiled, micro_batch_sequences=None)
    loss = float(backward(tokens_of(config, device)))
    return loss, float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def usable_kernels(device: torch.device) -> list[str]:
    """Return the flash kernels that this machine can run by name."""
    usable = []
    for kernel in sorted(installed_flash_kernels()):
        try:
            usable.append(resolve_attention(kernel, device, bf16=True))
        except ValueError as refusal:
            print(f"{kernel}: {refusal}")
    return usable


if __name__ == "__main__":
    main()
