"""What a GPU takes for the steps of the recipes: training by kernel and by phase, scoring, learning while scoring.

A training step is one rank's share of the published batch, in the recipe's micro batches, compiled, from forward pass
to weights. Phases on a GPU are timed by events in its stream, so that the host shows only where it takes the longer.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.parts import Findings
from benchmarks.plain_step import PlainStep
from benchmarks.results import ROOT
from benchmarks.train_throughput import flops_per_token, plain_step_of, seconds_of
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.model.backends import attention_kernel, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import build
from pipeline.scoring.config import LoraProtocol
from pipeline.scoring.evaluate import nats_of_whole_windows, score
from pipeline.training.backward import build_backward
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import BF16, DTYPES, resolve_precision

LARGEST_COMPILED_ERROR = 0.02
"""Nats between the compiled and the eager loss, both in bfloat16."""
STEPS = {"full": 10, "small": 2}
LORA_STEPS = {"full": 30, "small": 3}
STRIDE = {"full": 64, "small": 8}
PROFILED_KERNELS = 40
SMALL_PROTOCOL = {"context_tokens": 32, "stride_tokens": 8, "chunk_tokens": 16, "batch_documents": 2, "rank": 4}
_CUDNN = {"cuda": SDPBackend.CUDNN_ATTENTION, "cpu": SDPBackend.MATH}
"""cuDNN's attention; a CPU, which has none, takes another to prove that this runs."""


class Share(NamedTuple):
    """What one rank of a recipe trains on."""

    model: ModelConfig
    train: TrainConfig
    sequences: int

    def tokens(self, device: torch.device) -> Tensor:
        """Return random ids (B, T + 1)."""
        shape = (self.sequences, self.model.context_tokens + 1)
        return torch.randint(self.model.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)


def share_of(recipe: str, device: torch.device, size: str) -> Share:
    """Return a rank's share of a recipe's batch; a small one has the same blocks at a tiny width, uncompiled."""
    params = load_params(ROOT / "recipes" / f"{recipe}.yaml", ["model", "train", "launch"])
    train = dataclasses.replace(params.train, precision=resolve_precision(params.train.precision, device))
    processes = int(params.launch.num_processes)
    if size == "full":
        return Share(params.model, train, train.batch_tokens // params.model.context_tokens // processes)
    rope = dataclasses.replace(params.model.rope, dims=4)
    small: dict[str, Any] = {
        "model_dim": 64,
        "embedding_dim": 64,
        "vocab_size": 96,
        "context_tokens": 32,
        "rope": rope,
        "unread": {},
    }
    train = dataclasses.replace(train, micro_batch_sequences=None, compile=False)
    return Share(dataclasses.replace(params.model, **small), train, 2)


def nightcrawler(device: torch.device, size: str) -> Findings:
    """Time the training step of nightcrawler-7f3c as training takes it."""
    yield from trained("nightcrawler-7f3c", device, size)


def nightcrawler_cudnn(device: torch.device, size: str) -> Findings:
    """Time the same step under cuDNN's attention."""
    yield from our_step(share_of("nightcrawler-7f3c", device, size), device, size, sdpa_kernel(_CUDNN[device.type]))


def sp8192(device: torch.device, size: str) -> Findings:
    """Time the training step of sp8192-loop3 as training takes it."""
    yield from trained("sp8192-loop3", device, size)


def trained(recipe: str, device: torch.device, size: str) -> Findings:
    """Time a recipe's training step under the attention kernel that training takes here."""
    share = share_of(recipe, device, size)
    kernel = resolve_attention("auto", device, share.train.precision == BF16)
    yield "attention", {"kernel": kernel}
    yield from our_step(share, device, size, attention_kernel(kernel))


def plain(device: torch.device, size: str) -> Findings:
    """Time the step of nightcrawler-7f3c as the published scripts write it."""
    share = share_of("nightcrawler-7f3c", device, size)
    model = build(share.model, seed=0).to(device)
    module = PlainStep(model, DTYPES[share.train.precision])
    settings: dict[str, Any] = {"bf16": share.train.precision == BF16, "compiled": share.train.compile}
    backward = build_backward(module, device, micro_batch_sequences=share.train.micro_batch_sequences, **settings)
    step = plain_step_of(model, backward, share.tokens(device))
    yield "compile", {"seconds": seconds_of(step, device)}
    yield "step", {"ms": [1e3 * seconds_of(step, device) for _ in range(STEPS[size])], **memory(device)}


def scoring(device: torch.device, size: str) -> Findings:
    """Time a batch of windows, eager, compiled and by kernel, and a stream of each kind of learning."""
    share = share_of("nightcrawler-7f3c", device, size)
    model, windows = build(share.model, seed=0).to(device).eval(), 64 if size == "full" else 2
    tokens_BT = share._replace(sequences=windows).tokens(device)
    inputs = model, tokens_BT[:, :-1], tokens_BT[:, -STRIDE[size] :].flatten()

    def windows_by(forward: Callable[..., Tensor], kernel: SDPBackend) -> dict[str, Any]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            return timed(functools.partial(forward, *inputs), sdpa_kernel(kernel), device)

    yield "windows, flash", windows_by(nats_of_whole_windows, SDPBackend.FLASH_ATTENTION)
    for recipe, item in (("nightcrawler-7f3c", "sliding"), ("sp8192-loop3", "ttt"), ("frontier", "lora")):
        yield f"{recipe} {item}", scored(recipe, item, device, size)
    yield from flash_gradients(device, size)
    compiled = torch.compile(nats_of_whole_windows, options={"deterministic": True}) if size == "full" else None
    yield "windows, flash, compiled", windows_by(compiled or nats_of_whole_windows, SDPBackend.FLASH_ATTENTION)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        off_R = (compiled or nats_of_whole_windows)(*inputs) - nats_of_whole_windows(*inputs)
    yield (
        "compiled nats",
        {"passed": float(off_R.mean().abs()) < LARGEST_COMPILED_ERROR, "most": float(off_R.abs().max())},
    )
    yield "windows, cudnn", windows_by(nats_of_whole_windows, _CUDNN[device.type])


def scored(recipe: str, item: str, device: torch.device, size: str) -> dict[str, Any]:
    """Return the seconds of a short stream under a recipe's protocol, twice: the first carries what is paid once.

    The stream holds two chunks of a protocol that learns from chunks, a few of its steps from documents.
    """
    share = share_of(recipe, device, size)
    evaluate = load_params(ROOT / "recipes" / f"{recipe}.yaml", ["evaluate"]).evaluate
    protocol: Any = evaluate.protocols[item]
    if size == "small":
        known: dict[str, Any] = {name: value for name, value in SMALL_PROTOCOL.items() if hasattr(protocol, name)}
        protocol = dataclasses.replace(protocol, **known)
    chunk = getattr(protocol, "chunk_tokens", 16 * protocol.context_tokens)
    generator, vocab_size = np.random.default_rng(0), share.model.vocab_size
    if isinstance(protocol, LoraProtocol):
        length = LORA_STEPS[size] * chunk
        tokens_M = generator.integers(2, vocab_size, protocol.batch_documents * length)
        tokens_M[::length] = protocol.bos_id
    else:
        tokens_M = generator.integers(2, vocab_size, 2 * chunk + 1)
    model = build(share.model, seed=0).to(device).eval()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    settings: dict[str, Any] = {"device": device, "dtype": dtype, "batch_tokens": evaluate.batch_tokens}
    seconds = [
        seconds_of(lambda: score(model, tokens_M, protocol, progress=silent, **settings), device) for _ in range(2)
    ]
    return {"targets": len(tokens_M) - 1, "seconds": seconds, **memory(device)}


def flash_gradients(device: torch.device, size: str) -> Findings:
    """Time attention's backward pass on each kernel, and see which give the same bits twice."""
    batch, length = (8, 2048) if size == "full" else (1, 64)
    q, k, v, g = (torch.randn(batch, 8, length, 64, device=device, dtype=torch.bfloat16) for _ in range(4))
    for each in (q, k, v):
        each.requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), g)

    for name, kernel, deterministic in (
        ("flash", SDPBackend.FLASH_ATTENTION, False),
        ("deterministic flash", SDPBackend.FLASH_ATTENTION, True),
        ("math", SDPBackend.MATH, False),
    ):
        torch.use_deterministic_algorithms(deterministic)
        with sdpa_kernel(kernel):
            first, second = gradients(), gradients()
        equal = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        yield f"gradients, {name}", {"same_bits": equal, **timed(gradients, sdpa_kernel(kernel), device)}
        torch.use_deterministic_algorithms(False)


def timed(work: Callable[[], Any], kernel: AbstractContextManager[Any], device: torch.device) -> dict[str, Any]:
    """Return the milliseconds of repeated calls, and memory."""
    with kernel:
        work()
        return {"ms": [1e3 * seconds_of(work, device) for _ in range(STEPS["small"] + 1)], **memory(device)}


def our_step(share: Share, device: torch.device, size: str, kernel: AbstractContextManager[Any]) -> Findings:
    """Compile the step, compare its loss with the eager pass, time its phases and profile one."""
    model, tokens_BT = build(share.model, seed=0).to(device), share.tokens(device)
    bf16, micro = share.train.precision == BF16, share.train.micro_batch_sequences
    settings: dict[str, Any] = {"bf16": bf16, "compiled": share.train.compile, "micro_batch_sequences": micro}
    work = flops_per_token(model) * share.sequences * share.model.context_tokens
    backward, optimizer_step = build_backward(model, device, **settings), OptimizerStep(model, share.train, ALONE)
    with kernel:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts = tokens_BT.split(micro or share.sequences)
            eager = statistics.fmean(float(model(part_BT[:, :-1], part_BT[:, 1:])) for part_BT in parts)
        started = time.perf_counter()
        loss = float(backward(tokens_BT))
        yield "compile", {"seconds": time.perf_counter() - started, **memory(device)}
        yield "eager loss", {"passed": abs(loss - eager) < LARGEST_COMPILED_ERROR, "error": abs(loss - eager)}
        model.zero_grad(set_to_none=True)

        def step() -> None:
            optimizer_step.take(backward(tokens_BT))

        seconds_of(step, device)
        rows = [phases(lambda: backward(tokens_BT), optimizer_step, device) for _ in range(STEPS[size])]
        yield "phases", {**{name: statistics.median(row[name] for row in rows) for name in rows[0]}, **memory(device)}
        times = [seconds_of(step, device) for _ in range(STEPS[size])]
        yield "step", {"ms": [1e3 * seconds for seconds in times], "flops": work / statistics.median(times)}
        yield "profile", profiled(step, device)


def phases(backward: Callable[[], Tensor], optimizer_step: OptimizerStep, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of one step's phases, on a GPU those between events in its stream."""
    marks = [_mark(device)]
    loss = backward()
    marks.append(_mark(device))
    norm = optimizer_step.average_gradients(loss)
    marks.append(_mark(device))
    optimizer_step.update(norm)
    marks.append(_mark(device))
    names = ("forward_backward_ms", "norm_ms", "update_ms")
    return {name: _milliseconds(*pair) for name, pair in zip(names, itertools.pairwise(marks), strict=True)}


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _milliseconds(first: Any, second: Any) -> float:
    if isinstance(first, float):
        return 1e3 * (second - first)
    second.synchronize()
    return first.elapsed_time(second)


def memory(device: torch.device) -> dict[str, Any]:
    """Return the largest memory of tensors so far, on a GPU."""
    return {"peak_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def profiled(work: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """Return the kernels that one call spends its time in: name -> [calls, milliseconds], and how many it launches."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as record:
        seconds_of(work, device)
    rows = [row for row in record.key_averages() if not cuda or row.device_type.name == "CUDA"]
    times = {
        row.key[:120]: [row.count, (row.self_device_time_total if cuda else row.self_cpu_time_total) / 1e3]
        for row in rows
    }
    longest = sorted(times, key=lambda name: -times[name][1])[:PROFILED_KERNELS]
    return {"launches": sum(row.count for row in rows), "kernels": {name: times[name] for name in longest}}
