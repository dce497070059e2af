"""What the exact shortcut of sliding windows saves: the full path against scored positions only, in the same run.

Run `python -m benchmarks.scoring` on a quiet machine. The model is that of `nightcrawler-7f3c` (7 unique + 3 looped x 3
blocks) with random weights, at two vocabularies. The full path computes hidden states and logits of a whole window and
then keeps those of the last stride; the shortcut is what `score` runs. Both score the same windows in turns; figures
are medians, and so is the ratio of each pair. Peak memory is what one pass adds to the process.

Counting: multiply-adds of every matrix at every position it is called on, of the head, and of causal attention.

Axes: B windows, T positions of a window, V vocabulary.
Checked by: tests/scoring/test_scoring_benchmark.py
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quantize_speed import random_model
from benchmarks.results import ROOT, write_result
from benchmarks.train_throughput import seconds_of
from pipeline.config import load_params
from pipeline.model.network import LoopedUNet, build
from pipeline.training.run import hardware_name

_MIB = 1 << 20


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small proves that it runs")
    parser.add_argument("--rounds", type=int, default=7, help="passes of each path that are timed")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabularies, length, stride = ((1024, 8192), 2048, 64) if options.size == "full" else ((64, 512), 96, 16)
    num_windows = 1 if device.type == "cpu" else 64
    measured: dict[str, Any] = {"threads": torch.get_num_threads(), "context_tokens": length, "stride_tokens": stride,
                                "windows": num_windows, "rounds": options.rounds}  # fmt: skip
    for vocab_size in vocabularies:
        model = shortcut_model(vocab_size, options.size).to(device)
        tokens_BT = random_windows(vocab_size, num_windows, length + 1).to(device)
        measured[f"vocabulary {vocab_size}"] = result = measure_shortcut(model, tokens_BT, stride, options.rounds)
        _print_result(f"vocabulary {vocab_size}", result)
    if options.size == "full":
        print(write_result("scoring", hardware_name(device), measured).relative_to(ROOT))


def shortcut_model(vocab_size: int, size: str) -> LoopedUNet:
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
        result[name] = {"seconds": median, "targets_per_second": num_windows * stride / median,
                        "peak_mib": peaks[name] / _MIB, "multiply_adds": num_windows * counts[name]}  # fmt: skip
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
    """Return how far one call raises the memory in use: a GPU's allocations, or the resident set of a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    before = _resident_bytes("VmRSS")
    work()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return 1024 * int(lines[field].split()[0])


def _print_result(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: full / shortcut {result['speed_up']:.3f}, by multiply-adds {result['predicted_speed_up']:.3f}; "
          f"peak {result['peak_saved_mib']:.0f} MiB lower, logits {result['logits_mib']:.0f} MiB; "
          f"nats within {result['largest_difference_nats']:.1e}")  # fmt: skip
    for path in ("full", "shortcut"):
        row = result[path]
        print(f"  {path:9} {row['seconds']:7.2f} s {row['targets_per_second']:7.2f} targets/s "
              f"peak {row['peak_mib']:6.0f} MiB {row['multiply_adds'] / 1e9:8.1f} G multiply-adds")  # fmt: skip


if __name__ == "__main__":
    main()
