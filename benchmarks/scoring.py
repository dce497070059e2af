"""What scoring costs: the exact shortcut of sliding windows, and one pass with cached keys in the place of windows.

Run `python -m benchmarks.scoring` on a quiet machine; `--part stream` measures the second.

Shortcut: the model of `nightcrawler-7f3c` (7 unique + 3 looped x 3 blocks) with random weights, two vocabularies. The
full path computes hidden states and logits of a whole window and then keeps those of the last stride; the shortcut is
what `score` runs. Both score the same windows in turns; figures are medians, and so is the ratio of each pair. Peak
memory is that of the tensors of one pass.

Stream: bits per byte and seconds of `sliding` and `stream` on held-out documents under the checkpoint of the finished
run in `artifacts`, printed only, or of a folder DATA (recorded: d 256, trained on sequences of 512), at several
windows, strides and lanes, and of chunk TTT on windows and on lanes, training included. Differences are from the first
of a kind, means over blocks of targets with their standard error. The cost of one stride is measured on the model of
the first part too.

Seconds are a processor's on a CPU, run with OMP_NUM_THREADS=1: other programs disturb them less than a clock's.
Counting: multiply-adds of every matrix at every position it is called on, of the head, and of causal attention.

Axes: B windows, T positions of a window, V vocabulary, N targets.
Checked by: tests/benchmarks/test_scoring.py
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quantization.data import Material, add_data, exit_without_checkpoint, is_run, load_material
from benchmarks.quantize_speed import random_model
from benchmarks.results import ROOT, write_result
from benchmarks.train_throughput import seconds_of as clock_seconds_of
from pipeline.base.config import load_params
from pipeline.data.byte_count import bits_per_byte
from pipeline.model.network import LoopedUNet, build
from pipeline.model.stream_cache import StreamCache
from pipeline.reports.training import hardware_name
from pipeline.scoring.protocols import score_tokens

_MIB = 1 << 20
_STREAM_TARGETS = 16384
_BLOCK_TARGETS = 512
_CHUNKS = {
    "chunk_tokens": 2048,
    "epochs": 2,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "grad_clip": 1.0,
    "batch_sequences": 4,
    "freeze_blocks": 0,
    "lane_tokens": None,
    "mixture": None,
}


def main() -> None:
    """Measure one part, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("shortcut", "stream"), default="shortcut", help="what is measured")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small proves that it runs")
    parser.add_argument("--rounds", type=int, default=7, help="passes of each path that are timed")
    add_data(parser)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured: dict[str, Any] = {"threads": torch.get_num_threads()}
    if options.part == "shortcut":
        measured |= measure_shortcuts(options.size, options.rounds, device)
        name = "scoring"
    else:
        exit_without_checkpoint(options.data)
        material = load_material(options.data)
        measured |= measure_streams(options.size, options.rounds, device, material)
        name = "" if is_run(options.data) else "scoring_stream"
    if options.size == "full" and name:
        print(write_result(name, hardware_name(device), measured).relative_to(ROOT))


def measure_shortcuts(size: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Return what the shortcut saves at each vocabulary."""
    vocabularies, length, stride = ((1024, 8192), 2048, 64) if size == "full" else ((64, 512), 96, 16)
    num_windows = 1 if device.type == "cpu" else 64
    measured: dict[str, Any] = {
        "context_tokens": length,
        "stride_tokens": stride,
        "windows": num_windows,
        "rounds": rounds,
    }
    for vocab_size in vocabularies:
        model = recipe_model(vocab_size, size).to(device)
        tokens_BT = random_windows(vocab_size, num_windows, length + 1).to(device)
        measured[f"vocabulary {vocab_size}"] = result = measure_shortcut(model, tokens_BT, stride, rounds)
        _print_result(f"vocabulary {vocab_size}", result)
    return measured


def recipe_model(vocab_size: int, size: str) -> LoopedUNet:
    """Return the measured network, in eval mode; a small one has the same blocks at a tiny width."""
    config = load_params(ROOT / "recipes" / "nightcrawler-7f3c.yaml", ["model"]).model
    config = replace(config, vocab_size=vocab_size)
    if size == "small":
        config = replace(config, model_dim=64, embedding_dim=64, rope=replace(config.rope, dims=4))
    return random_model(build(config)).eval()


def random_windows(vocab_size: int, num_windows: int, length: int) -> Tensor:
    """Return int64 ids (B, T)."""
    return torch.randint(vocab_size, (num_windows, length), generator=torch.Generator().manual_seed(0))


def full_path(model: LoopedUNet, tokens_BT: Tensor, num_scored: int) -> Tensor:
    """Return the nats (B, num_scored) of the last targets, by way of all hidden states and all logits."""
    logits_BTV = model(tokens_BT[:, :-1])[:, -num_scored:]
    return F.cross_entropy(logits_BTV.mT, tokens_BT[:, -num_scored:], reduction="none")


def shortcut(model: LoopedUNet, tokens_BT: Tensor, num_scored: int) -> Tensor:
    """Return the same, as scoring computes it."""
    return model.nats(model.hidden(tokens_BT[:, :-1], num_scored), tokens_BT[:, -num_scored:])


@torch.inference_mode()
def measure_shortcut(model: LoopedUNet, tokens_BT: Tensor, stride: int, rounds: int) -> dict[str, Any]:
    """Return seconds, targets per second, peak MiB and multiply-adds of both paths, and their ratios."""
    device, (num_windows, num_tokens) = tokens_BT.device, tokens_BT.shape
    paths = {"full": full_path, "shortcut": shortcut}
    work = {name: lambda path=path: path(model, tokens_BT, stride) for name, path in paths.items()}
    difference = (work["full"]() - work["shortcut"]()).abs().max().item()
    peaks = {name: peak_bytes(each, device) for name, each in work.items()}
    seconds = [{name: seconds_of(each, device) for name, each in work.items()} for _ in range(rounds)]
    counts = {
        "full": multiply_adds(model, num_tokens - 1, None),
        "shortcut": multiply_adds(model, num_tokens - 1, stride),
    }
    result: dict[str, Any] = {
        "speed_up": statistics.median(pair["full"] / pair["shortcut"] for pair in seconds),
        "predicted_speed_up": counts["full"] / counts["shortcut"],
        "largest_difference_nats": difference,
        "peak_saved_mib": (peaks["full"] - peaks["shortcut"]) / _MIB,
        "logits_mib": num_windows * (num_tokens - 1) * model.config.vocab_size * 4 / _MIB,
    }
    for name in paths:
        median = statistics.median(pair[name] for pair in seconds)
        result[name] = {
            "seconds": median,
            "targets_per_second": num_windows * stride / median,
            "peak_mib": peaks[name] / _MIB,
            "multiply_adds": num_windows * counts[name],
        }
    return result


def multiply_adds(model: LoopedUNet, num_tokens: int, num_scored: int | None) -> int:
    """Return the multiply-adds of one window by the rule in the module's docstring; no helix."""
    counted: list[int] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args: counted.append(module.weight.numel() * args[0].shape[:-1].numel())
        )
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    model.hidden(torch.zeros(1, num_tokens, dtype=torch.int64, device=model.token_embedding.weight.device), num_scored)
    for hook in hooks:
        hook.remove()
    scored = num_scored or num_tokens
    pairs = (model.schedule.effective_depth - 1) * num_tokens * (num_tokens + 1) // 2
    pairs += scored * (2 * num_tokens - scored + 1) // 2
    return sum(counted) + scored * model.token_embedding.weight.numel() + 2 * pairs * model.config.model_dim


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes of tensors that one call holds at a time beyond what there was."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call: by the clock on a GPU, the process's own on a CPU."""
    if device.type == "cuda":
        return clock_seconds_of(work, device)
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_streams(size: str, rounds: int, device: torch.device, material: Material) -> dict[str, Any]:
    """Return bits per byte and seconds of windows and streams, and the cost of one stride at the recipe's size."""
    length, stride = (2048, 64) if size == "full" else (96, 16)
    tokens_BT = random_windows(64, 1, length + 1 + rounds * stride).to(device)
    measured: dict[str, Any] = {
        "nightcrawler-7f3c": measure_stride(recipe_model(1024, size).to(device), tokens_BT, length, stride)
    }
    print(f"nightcrawler-7f3c, L {length}, S {stride}: {measured['nightcrawler-7f3c']}")
    num_targets = min(_STREAM_TARGETS if size == "full" else 1024, len(material.scored.bytes_N))
    tokens_M, bytes_N = material.scored.tokens_M[: num_targets + 1], material.scored.bytes_N[:num_targets]
    measured |= {"num_targets": num_targets, "protocols": []}
    for group in stream_protocols(size):
        base_nats, base_seconds = None, 0.0
        for protocol in group:
            nats_N, seconds = _scored(material.model, tokens_M, protocol, device)
            if base_nats is None:
                base_nats, base_seconds = nats_N, seconds
            row = {
                **protocol,
                "bpb": bits_per_byte(math.fsum(nats_N), int(bytes_N.sum())),
                "seconds": seconds,
                "cost_frac": seconds / base_seconds,
                **_difference(nats_N - base_nats, bytes_N),
            }
            measured["protocols"].append(row)
            print(
                "  ".join(
                    f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
                )
            )
    return measured


def stream_protocols(size: str) -> list[list[dict[str, Any]]]:
    """Return groups of protocols of one context and stride, sliding windows first."""
    if size == "small":
        return [_windows_and_streams(64, 16, (128,))]
    far, chunks = _STREAM_TARGETS, {**_CHUNKS, "kind": "ttt", "context_tokens": 512, "stride_tokens": 64}
    return [
        _windows_and_streams(512, 64, (512, 2048, far)),
        _windows_and_streams(512, 256, (far,)),
        _windows_and_streams(1024, 64, (far,)),
        _windows_and_streams(2048, 64, (8192, far)),
        [chunks, {**chunks, "lane_tokens": 1024}, {**chunks, "lane_tokens": 2048}],
    ]


def _windows_and_streams(context: int, stride: int, lanes: tuple[int, ...]) -> list[dict[str, Any]]:
    sizes = {"context_tokens": context, "stride_tokens": stride, "mixture": None}
    return [{"kind": "sliding", **sizes}, *({"kind": "stream", **sizes, "lane_tokens": lane} for lane in lanes)]


@torch.inference_mode()
def measure_stride(model: LoopedUNet, tokens_BT: Tensor, length: int, stride: int) -> dict[str, float]:
    """Return the seconds that one stride of targets takes as a window of its own and as a step of a stream."""
    model.set_context(length)
    windows, steps, cache = [], [], StreamCache(length - stride)
    model.hidden(tokens_BT[:, :length], stride, cache)

    def step(start: int) -> Tensor:
        hidden_BTD = model.hidden(tokens_BT[:, start : start + stride], None, cache)
        return model.nats(hidden_BTD, tokens_BT[:, start + 1 : start + stride + 1])

    for start in range(length, tokens_BT.size(1) - stride, stride):
        window_BT = tokens_BT[:, start + stride - length : start + stride + 1]
        windows.append(seconds_of(lambda: shortcut(model, window_BT, stride), tokens_BT.device))  # noqa: B023
        steps.append(seconds_of(lambda: step(start), tokens_BT.device))  # noqa: B023
    ratios = [window / step for window, step in zip(windows, steps, strict=True)]
    return {
        "window_seconds": statistics.median(windows),
        "step_seconds": statistics.median(steps),
        "window_over_step": statistics.median(ratios),
    }


def _scored(
    model: LoopedUNet, tokens_M: np.ndarray, protocol: dict[str, Any], device: torch.device
) -> tuple[np.ndarray, float]:
    scores: list[np.ndarray] = []
    seconds = seconds_of(lambda: scores.append(score_tokens(model, tokens_M, protocol, device)), device)
    return scores[0], seconds


def _difference(nats_N: np.ndarray, bytes_N: np.ndarray) -> dict[str, float]:
    """Return thousandths of a bit per byte, mean and standard error over blocks, of a difference in nats."""
    num_blocks = len(nats_N) // _BLOCK_TARGETS
    blocks = nats_N[: num_blocks * _BLOCK_TARGETS].reshape(num_blocks, -1).sum(axis=1) / math.log(2)
    scale = 1000 * num_blocks / bytes_N[: num_blocks * _BLOCK_TARGETS].sum()
    return {
        "over_first_mbpb": float(blocks.mean() * scale),
        "standard_error_mbpb": float(blocks.std(ddof=1) / num_blocks**0.5 * scale),
    }


def _print_result(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name}: full / shortcut {result['speed_up']:.3f}, by multiply-adds {result['predicted_speed_up']:.3f}; "
        f"peak {result['peak_saved_mib']:.0f} MiB lower, logits {result['logits_mib']:.0f} MiB; "
        f"nats within {result['largest_difference_nats']:.1e}"
    )
    for path in ("full", "shortcut"):
        row = result[path]
        print(
            f"  {path:9} {row['seconds']:7.2f} s {row['targets_per_second']:7.2f} targets/s "
            f"peak {row['peak_mib']:6.0f} MiB {row['multiply_adds'] / 1e9:8.1f} G multiply-adds"
        )


if __name__ == "__main__":
    main()
