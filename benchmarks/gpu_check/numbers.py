"""Does a GPU compute what the CPU computes? Parity, attention kernels, walls, collectives, training, calibration.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_check.parts import Findings
from benchmarks.results import ROOT
from benchmarks.train_throughput import cpu_model, matmul_peak, seconds_of
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.calibration.calibrate import calibrate
from pipeline.data.batches import SequenceSampler
from pipeline.launching.firewall import raise_walls
from pipeline.model.backends import attention_kernel, installed_flash_kernels, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.optim.muon import Muon
from pipeline.reports.training import hardware_name
from pipeline.training.backward import build_backward
from pipeline.training.loop import train
from pipeline.training.precision import has_native_bf16, resolve_precision
from pipeline.training.sharded_muon import ShardedMuon

LARGEST_FP32_ERROR = 2e-3
"""Of a logit: float32 products of other shapes, some in TF32-free tensor cores, sum in another order."""
LARGEST_BF16_LOSS_ERROR = 0.02
"""Nats: bfloat16 keeps eight bits."""
LARGEST_MOMENT_ERROR = 1e-3
"""Of a second moment's norm: its inputs are a network's float32 activations."""
TRAINING_STEPS = {"full": 200, "small": 40}
BATCH_TOKENS = {"full": 4096, "small": 1024}


def machine(device: torch.device, size: str) -> Findings:
    """Tell what this machine is: versions, kernels, memory, and how fast it copies and multiplies."""
    cuda = device.type == "cuda"
    yield (
        "versions",
        {
            "hardware": hardware_name(device),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": list(torch.cuda.nccl.version()) if cuda else None,
            "capability": list(torch.cuda.get_device_capability(device)) if cuda else None,
            "memory_bytes": torch.cuda.mem_get_info(device)[1] if cuda else None,
            "cores": os.cpu_count(),
        },
    )
    kernels = {
        "installed": sorted(installed_flash_kernels()),
        "auto": resolve_attention("auto", device, bf16=True),
        "native_bf16": has_native_bf16(device),
    }
    yield "kernels", kernels
    words = (1 << 28) if size == "full" else (1 << 20)
    source, target = (torch.empty(words, dtype=torch.float32, device=device) for _ in range(2))
    seconds = min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))
    sizes = (8192,) if size == "full" else (256,)
    yield (
        "speed",
        {
            "copy_bytes_per_second": 8 * words / seconds,
            "bf16_flops": matmul_peak(device, sizes, torch.bfloat16),
            "fp32_flops": matmul_peak(device, (sizes[0] // 2,), torch.float32),
        },
    )


def parity(device: torch.device, size: str) -> Findings:
    """Compare float32 logits, loss and gradients with the CPU's, and every attention kernel's loss with float32's."""
    for name, config in (("crawler", checked_model()), ("folded", folded_model())):
        outcomes = [logits_and_gradients(config, place) for place in (torch.device("cpu"), device)]
        (cpu_logits, cpu_loss, cpu_grads), (logits, loss, grads) = outcomes
        errors = {
            "logits": float((logits - cpu_logits).abs().max()),
            "loss": abs(loss - cpu_loss),
            "gradients": float((grads - cpu_grads).norm() / cpu_grads.norm()),
        }
        yield name, {"passed": max(errors.values()) < LARGEST_FP32_ERROR, **errors}
    exact, exact_norm = loss_and_norm(checked_model(), device, bf16=False)
    for name, kernel in attention_kernels(device).items():
        with kernel:
            loss, norm = loss_and_norm(checked_model(), device, bf16=True)
        error, norm_error = abs(loss - exact), abs(norm - exact_norm) / exact_norm
        passed = max(error, norm_error) < LARGEST_BF16_LOSS_ERROR
        yield f"attention {name}", {"passed": passed, "loss": error, "gradient_norm": norm_error}


def walls(device: torch.device, size: str) -> Findings:
    """Compile a small function, forward and backward, behind the walls of `train`, with nothing cached."""
    started = Counter[str]()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
            started[f"{event} {os.path.basename(os.fsdecode(arguments[0]))}"[:100]] += 1

    def smooth(x: Tensor) -> Tensor:
        return (torch.tanh(x) @ torch.softmax(x, 0).mT).square().mean()

    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    eager = smooth(x)
    (eager_grad,) = torch.autograd.grad(eager, x)
    with fresh_cache():
        sys.addaudithook(note)
        raise_walls("train")
        compiled = torch.compile(smooth, fullgraph=True, dynamic=False)(x)
        (grad,) = torch.autograd.grad(compiled, x)
    error = max(float((compiled - eager).abs()), float((grad - eager_grad).abs().max()))
    yield "compile", {"passed": error < LARGEST_FP32_ERROR, "error": error, "children": dict(started)}


def muon(device: torch.device, size: str) -> Findings:
    """Take three steps of Muon and of its sharded form in a group of one: equal bits, through the real collectives."""
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        device_id=device if device.type == "cuda" else None,
    )
    settings: dict[str, Any] = {
        "lr": 0.02,
        "momentum": 0.95,
        "weight_decay": 0.1,
        "newton_schulz": "polar-express",
        "newton_schulz_steps": 5,
        "normalize_rows": True,
        "dtype": torch.bfloat16,
    }
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((256, 512), (512, 256), (128, 128))]
    alone, sharded = ([nn.Parameter(weight.to(device)) for weight in weights] for _ in range(2))
    plain, shared = Muon(alone, **settings), ShardedMuon(sharded, rank=0, world_size=1, **settings)
    for _ in range(3):
        for one, other in zip(alone, sharded, strict=True):
            one.grad = torch.randn(one.shape, generator=generator).to(device)
            other.grad = one.grad.clone()
        plain.step()
        shared.start_averaging()
        shared.finish_averaging()
        shared.step()
    equal = all(torch.equal(one, other) for one, other in zip(alone, sharded, strict=True))
    yield "sharded", {"passed": equal, "backend": dist.get_backend_config()}
    dist.destroy_process_group()


def training(device: torch.device, size: str) -> Findings:
    """Train on a repeating text with every part of the engine on: the loss must fall."""
    config = load_params(ROOT / "params.yaml", ["train"]).train
    settings = {
        **vars(config),
        "max_steps": TRAINING_STEPS[size],
        "batch_tokens": BATCH_TOKENS[size],
        "log_every_steps": 10,
        "precision": resolve_precision(config.precision, device),
    }
    model = build(checked_model(), seed=1)
    pattern = np.random.default_rng(0).integers(0, model.config.vocab_size, 997)
    sampler = SequenceSampler([np.tile(pattern, 200).astype(np.uint16)], model.config.context_tokens, 0)
    with attention_kernel(resolve_attention("auto", device, bf16=settings["precision"] == "bf16")):
        result = train(model, type(config)(**settings), sampler, ALONE, device, lambda line: None, silent)
    first, last = result.curve[0]["loss"], result.last["loss"]
    yield "learning", {"passed": last < 0.5 * first, "first_loss": first, "last_loss": last, **result.last}


def tests(device: torch.device, size: str) -> Findings:
    """Run the tests marked `gpu`, from the files that have some: the others need packages that may be missing."""
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = outcome.stdout.strip().splitlines()
    failures = [line[:300] for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    yield "gpu tests", {"passed": outcome.returncode == 0, "summary": lines[-1] if lines else "", "failures": failures}
    print(outcome.stdout[-20_000:], outcome.stderr[-5000:])


def calibration(device: torch.device, size: str) -> Findings:
    """Compare calibration statistics with the CPU's."""
    config, params = checked_model(), load_params(ROOT / "params.yaml", ["calibrate"])
    settings = dataclasses.replace(params.calibrate, num_sequences=4, sensitivity_sequences=2, batch_sequences=2)
    ids_NT = tokens_of(config, torch.device("cpu"))
    exact, found = (
        calibrate(roused(config, torch.device("cpu")), ids_NT, settings, ALONE, place, silent)
        for place in (torch.device("cpu"), device)
    )
    errors = {
        name: float((found[name].double().cpu() - value.double()).norm() / (value.double().norm() + 1e-12))
        for name, value in exact.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    passed = sorted(exact) == sorted(found) and errors[worst] < LARGEST_MOMENT_ERROR
    yield "statistics", {"passed": passed, "worst": worst, "error": errors[worst], "tensors": len(errors)}


def attention_kernels(device: torch.device) -> dict[str, AbstractContextManager[Any]]:
    """Return the contexts of all attention kernels that this machine can run in bfloat16, by name."""
    found: dict[str, AbstractContextManager[Any]] = {"sdpa": nullcontext()}
    for kernel in sorted(installed_flash_kernels()):
        try:
            found[kernel] = attention_kernel(resolve_attention(kernel, device, bf16=True))
        except ValueError as refusal:
            print(f"{kernel}: {refusal}")
    if device.type == "cuda":
        found["cudnn"] = sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
    return found


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


def loss_and_norm(config: ModelConfig, device: torch.device, *, bf16: bool) -> tuple[float, float]:
    """Return the loss of one pass and the norm of its gradient."""
    model = roused(config, device)
    backward = build_backward(model, device, bf16=bf16, compiled=False, micro_batch_sequences=None)
    loss = float(backward(tokens_of(config, device)))
    return loss, float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
