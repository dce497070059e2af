"""Training throughput: our step against the plain one of `benchmarks.plain_step`, and both against the matmul peak.

Run `python -m benchmarks.train_throughput` on a quiet machine. On a CPU the model is 4 unique + 1 looped x 3 blocks at
d 256, in every precision that the processor multiplies itself, and the demo's own, uncompiled as the demo trains; on a
GPU `nightcrawler-7f3c` and `sp8192-loop3` at full size, each on one GPU's share of the published batch. Both steps
start from equal weights, are compiled, and take turns with the peak measurement; figures are medians. On a CPU ours
runs as one process per core, which share the batch (`launch.num_processes`); the plain step has all cores as the
threads of one process, as in the published scripts, and so has the peak.

Counting: 6 operations per multiply-add of every matrix at every visit, head included, causal attention at half length;
optimizer and element-wise work count as nothing. The peak is the best of large square products of the run.

Axes: B sequences, T position, M, K, N sizes of a matrix product.
Checked by: tests/benchmarks/test_train_throughput.py
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from benchmarks.plain_step import PlainMuon, PlainStep
from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params, parse_value
from pipeline.base.ranks import Ranks
from pipeline.interop.arguments import conditioners_off
from pipeline.launching.processes import available_cores, current_ranks, process_group, torchrun
from pipeline.model.backends import attention_kernel, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.optim.groups import build_adamw, parameter_groups
from pipeline.reports.training import hardware_name
from pipeline.training.backward import Backward, build_backward
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import BF16, DTYPES, FP32, Precision, has_native_bf16


class Case(NamedTuple):
    """One model and its step."""

    model: ModelConfig
    batch_tokens: int
    """Tokens per step on this device."""
    micro_batch_sequences: int | None
    """Sequences per pass of our step."""
    plain_micro_batch_sequences: int | None
    """The same of the plain step."""
    peak_sizes: tuple[int, ...]
    """Sizes of the square products that the peak is the best of."""
    precision: Precision
    """What both steps and the peak multiply in."""
    compiled: bool
    """Whether both steps are compiled."""


class Measured(NamedTuple):
    """Seconds of one round each."""

    ours: float
    plain: float


def cases(size: str, device: torch.device) -> dict[str, Case]:
    """Return what is measured on a device at a size, full or small."""
    if size == "small":
        model = cpu_model(model_dim=32, vocab_size=64, context_tokens=32)
        return {"small": Case(model, 128, 2, None, (64,), FP32, compiled=False)}
    if device.type == "cpu":
        params, sizes = load_params(ROOT / "params.yaml", ["model", "train"]), (1024, 2048, 3072)
        demo = (params.model, params.train.batch_tokens, params.train.micro_batch_sequences, None, sizes)
        return {
            name: case
            for precision in ((BF16, FP32) if has_native_bf16(device) else (FP32,))
            for name, case in {
                f"4f1c-d256 {precision}": Case(cpu_model(256, 1024, 512), 8192, 4, None, sizes, precision, True),
                f"demo {precision}": Case(*demo, precision, False),
            }.items()
        }
    recipes = ("nightcrawler-7f3c", "sp8192-loop3")
    models = {name: load_params(ROOT / "recipes" / f"{name}.yaml", ["model"]).model for name in recipes}
    return {
        "nightcrawler-7f3c": Case(models["nightcrawler-7f3c"], 98304, None, None, (4096, 8192), BF16, True),
        "sp8192-loop3": Case(models["sp8192-loop3"], 98304, 24, 24, (4096, 8192), BF16, True),
    }


def cpu_model(model_dim: int, vocab_size: int, context_tokens: int) -> ModelConfig:
    """Return 4 unique + 1 looped x 3 blocks of a width."""
    return parse_value(
        ModelConfig,
        {
            "vocab_size": vocab_size,
            "context_tokens": context_tokens,
            "model_dim": model_dim,
            "embedding_dim": model_dim,
            "schedule": {"kind": "core", "unique_blocks": 4, "unique_order": None, "looped_blocks": 1, "num_loops": 3},
            "attention": {
                "num_heads": 4,
                "num_kv_heads": 2,
                "qk_gain": 1.5,
                "exclusive_blocks": [4],
                "gate": None,
                "document_bos_id": None,
            },
            "rope": {
                "dims": min(16, model_dim // 4),
                "frequency_dims": None,
                "base": 10000.0,
                "base_tokens": 1024,
                "loop_scales": [9.0, 1.0, 1.0],
            },
            "mlp": {"mult": 3.0, "slope": 0.5, "choke": None},
            "looped_mlp": {"mult": 6.0, "slope": 0.5, "choke": None},
            "ln_scale": True,
            "parallel_blocks": [],
            "visit_controls": False,
            "skip_gates": False,
            "bigram": {"buckets": 2048, "dim": model_dim // 2, "hash": "xor", "scaled": True},
            "smear": {"kind": "channel"},
            "value_embedding": None,
            "conditioners": {**conditioners_off(), "flow_dim": 32},
            "logit_softcap": 30.0,
            "embed_init_std": 0.005,
            "unread": {},
        },
        "model",
    )


def flops_per_token(model: LoopedUNet) -> float:
    """Return the operations of one token's forward and backward pass, by the rule in the module's docstring."""
    config, weights = model.config, []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: weights.append(module.weight.numel()))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.int64, device=model.token_embedding.weight.device))
    for hook in hooks:
        hook.remove()
    head = model.token_embedding.weight.numel()
    scores = model.schedule.effective_depth * config.context_tokens * config.model_dim
    return 6.0 * (sum(weights) + head + scores)


def measure(case: Case, device: torch.device, rounds: int, ranks: Ranks) -> dict[str, Any]:
    """Return tokens per second, operations per second and fraction of the peak of both steps, as medians.

    All ranks call this and take our step together; the plain step and the peak run on rank 0 while the others wait.
    Figures are those of rank 0.
    """
    sequences, length = case.batch_tokens // case.model.context_tokens, case.model.context_tokens
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(case.model.vocab_size, (sequences, length + 1), generator=generator).to(device)
    ours, plain = (build(case.model, seed=0).to(device) for _ in range(2))
    flops = flops_per_token(ours) * case.batch_tokens
    bf16, dtype = case.precision == BF16, DTYPES[case.precision]
    settings: dict[str, Any] = {"device": device, "bf16": bf16, "compiled": case.compiled}
    our_backward = build_backward(ours, micro_batch_sequences=case.micro_batch_sequences, **settings)
    config = replace(load_params(ROOT / "params.yaml", ["train"]).train, precision=case.precision)
    optimizer_step = OptimizerStep(ours, config, ranks)
    plain_module = PlainStep(plain, dtype)
    plain_backward = build_backward(plain_module, micro_batch_sequences=case.plain_micro_batch_sequences, **settings)
    plain_step = plain_step_of(plain, plain_backward, tokens_BT)
    kernel = resolve_attention("auto", device, bf16)

    def our_step() -> None:
        with attention_kernel(kernel):
            optimizer_step.take(our_backward(tokens_BT[ranks.rank :: ranks.world_size]))
        _meet(ranks)

    def one_of_ours() -> float:
        _meet(ranks)
        return seconds_of(our_step, device)

    def one_plain() -> float:
        return _alone(lambda: seconds_of(plain_step, device), ranks)

    for _ in range(2):
        one_of_ours(), one_plain()
    seconds, peaks = [], [_alone(lambda: matmul_peak(device, case.peak_sizes, dtype), ranks)]
    for _ in range(rounds):
        seconds.append(Measured(one_of_ours(), one_plain()))
        peaks.append(_alone(lambda: matmul_peak(device, case.peak_sizes, dtype), ranks))
    result: dict[str, Any] = {
        "flops_per_token": flops / case.batch_tokens,
        "batch_tokens": case.batch_tokens,
        "attention": kernel,
        "compiled": case.compiled,
        "precision": case.precision,
        "rounds": rounds,
        "peak_flops": max(peaks),
        "processes": ranks.world_size,
        "plain_over_ours": statistics.median(s.plain / s.ours for s in seconds),
    }
    for name in Measured._fields:
        median = statistics.median(getattr(s, name) for s in seconds)
        result[name] = {
            "step_ms": 1000 * median,
            "tokens_per_second": case.batch_tokens / median,
            "flops": flops / median,
            "fraction_of_peak": flops / median / max(peaks),
        }
    return result


def _meet(ranks: Ranks) -> None:
    if ranks.world_size > 1:
        dist.barrier()


def _alone(work: Callable[[], float], ranks: Ranks) -> float:
    """Return what rank 0 measured with all cores of the machine, while the other ranks waited; 1.0 on these."""
    if ranks.world_size == 1:
        return work()
    result, threads = 1.0, torch.get_num_threads()
    if ranks.rank == 0:
        torch.set_num_threads(available_cores())
        result = work()
        torch.set_num_threads(threads)
    _meet(ranks)
    return result


def plain_step_of(model: LoopedUNet, backward: Backward, tokens_BT: Tensor) -> Callable[[], None]:
    """Return one whole plain training step: passes, clipping and both optimizers."""
    groups = parameter_groups(model)
    optimizers: list[torch.optim.Optimizer] = [
        build_adamw(groups, embed_lr=0.03, scalar_lr=0.02, betas=(0.9, 0.95), weight_decay=0.04),
        PlainMuon(groups.matrices, lr=0.02, momentum=0.95, weight_decay=0.04),
    ]

    def step() -> None:
        backward(tokens_BT)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)

    return step


def matmul_peak(device: torch.device, sizes: Sequence[int], dtype: torch.dtype) -> float:
    """Return the operations per second of the best of several large square products."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        multiply = functools.partial(torch.mm, a, b)
        multiply()
        best = max(best, *(2 * size**3 / seconds_of(multiply, device) for _ in range(4)))
    return best


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Return the wall seconds of one call, the device's share included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@record
def main() -> None:
    """Measure, print and record; on a CPU as one process per core."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small proves that it runs")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each kind that are timed")
    parser.add_argument("--name", default="train_throughput", help="of the file with the results")
    options = parser.parse_args()
    device, ranks = torch.device("cuda" if torch.cuda.is_available() else "cpu"), current_ranks()
    if device.type == "cpu" and available_cores() > 1 and not dist.is_torchelastic_launched():
        torchrun("benchmarks.train_throughput", sys.argv[1:], available_cores())
        return
    measured: dict[str, Any] = {"torch_version": torch.__version__, "cores": available_cores()}
    with process_group(ranks, device):
        for name, case in cases(options.size, device).items():
            measured[name] = measure(case, device, options.rounds, ranks)
            if ranks.rank == 0:
                _print_result(name, measured[name])
    if options.size == "full" and ranks.rank == 0:
        print(write_result(options.name, hardware_name(device), measured).relative_to(ROOT))


def _print_result(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name}: peak {result['peak_flops'] / 1e9:.0f} GFLOP/s, {result['processes']} processes, plain / ours "
        f"{result['plain_over_ours']:.3f}"
    )
    for side in Measured._fields:
        row = result[side]
        print(
            f"  {side:6} {row['step_ms']:8.1f} ms/step {row['tokens_per_second']:9.0f} tokens/s "
            f"{row['flops'] / 1e9:8.0f} GFLOP/s {row['fraction_of_peak']:.3f} of peak"
        )


if __name__ == "__main__":
    main()
