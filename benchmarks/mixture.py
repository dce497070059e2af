"""What counts of what was scored are worth under every protocol, and what they cost.

Run `OMP_NUM_THREADS=1 python -m benchmarks.mixture`: gains are those of the finished run in `artifacts`, only printed,
or of a folder DATA of the recorded figures (`quantization/data.py`), recorded; `--part` measures one half.

Cost: `mixed_nats` on synthetic text (independent Zipf pieces, log-normal documents) of several lengths, each in a
process that did nothing before. Seconds are a processor's, on one thread; memory is how far the resident set rose.
Beside it one window of the model of `nightcrawler-7f3c`, random weights, float32, on the same thread.

Gains: a checkpoint on held-out documents. A mixture is a function of tokens and of the network's nats, so
every protocol is scored once and both mixtures are made of its nats; their constants are fitted to training documents.
A gain is what is saved, mBPB (0.001 bits per byte), with the central 95 % of a paired bootstrap over documents: a ratio
of sums. A gap is what a quantized model loses against the float one; both have the float model's constants.

Axes: M tokens, N targets, D documents, B resamples (the first is the sample itself), V vocabulary, T position.
Checked by: tests/benchmarks/test_mixture.py
"""

import argparse
import math
import resource
import statistics
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.quantization.arms import DEFAULT, arms_of
from benchmarks.quantization.curves import interval, resample_documents
from benchmarks.quantization.data import (
    TOKENIZER,
    Material,
    ScoredStream,
    add_data,
    exit_without_checkpoint,
    is_run,
    load_material,
    read_sample,
    run_tokens,
)
from benchmarks.quantize_speed import random_model
from benchmarks.results import ROOT, write_result
from benchmarks.scoring import random_windows, recipe_model, seconds_of, shortcut, stream_protocols
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.calibration.calibrate import calibrate
from pipeline.calibration.mixtures import collect_mixtures
from pipeline.codec.container import encode_artifact
from pipeline.codec.restore import dequantized_model
from pipeline.corpus.encoding import encode_documents
from pipeline.data.byte_count import bits_per_byte, byte_table
from pipeline.data.tokenizer import load_tokenizer
from pipeline.mixture.fitting import fit_mixture
from pipeline.mixture.mixing import Mixture, mixed_nats
from pipeline.model.network import LoopedUNet, build
from pipeline.quant.config import MixtureConfig
from pipeline.quant.fit import quantize_plan
from pipeline.quant.gptq import one_thread
from pipeline.quant.plan import plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.reports.training import hardware_name
from pipeline.scoring.protocols import score_tokens

BOS_ID = 1
_CPU = torch.device("cpu")
_DOCUMENT_ORDERS = (1, 2, 3, 4, 6)
_STREAM_ORDERS = (1, 2, 3, 4)
_DOCUMENT_STEPS = [(BOS_ID, order) for order in _DOCUMENT_ORDERS]
STEPS = {"document": _DOCUMENT_STEPS, "stream": [*((-1, order) for order in _STREAM_ORDERS), *_DOCUMENT_STEPS]}
"""Mixture -> its steps."""
_GLIMPSE_TOKENS = 4096
"""Of a synthetic text, what constants are fitted to: they change no cost."""
PLACES = (128, 512, 2048)
"""Targets of a document before which another part of it begins."""
_LENGTH_SPREAD = 1.1
"""Standard deviation of the logarithm of a document's length."""
_MILLI_BITS = 1000 / math.log(2)
_DOTS: dict[str, dict[str, Any]] = {
    "network": {"color": "0.45", "label": "network alone"},
    "document": {"color": "C0", "label": "with counts of the document"},
    "stream": {"color": "C1", "label": "of the stream, then of the document", "fillstyle": "none"},
}


class Cost(NamedTuple):
    """What mixing takes."""

    user_us: float
    """Microseconds per token of the processor in the program itself."""
    system_us: float
    """And in the system, which clears the pages of large tensors."""
    peak_mib: float
    """By how much the resident set rises at most, per million tokens."""


class Scale(NamedTuple):
    """How much is measured."""

    cost_tokens: tuple[int, ...]
    rounds: int
    window_tokens: int
    """Of the window that a mixture's cost is compared to, with the next."""
    window_stride_tokens: int
    context_tokens: int
    """Of the protocols, with the next two."""
    stride_tokens: int
    lane_tokens: int
    chunk_tokens: int
    """Targets between which chunk TTT trains."""
    fitted_tokens: int
    bits_per_weight: tuple[float, ...]


SCALES = {
    "full": Scale(
        (1_000_000, 2_500_000, 5_000_000, 10_000_000), 3, 2048, 64, 512, 128, 4096, 2048, 131072, (2.0, 2.5, 3.0, 4.0)
    ),
    "small": Scale((5_000, 50_000), 1, 96, 16, 64, 32, 128, 256, 1025, (3.0,)),
}


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixture", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("cost", "gains", "all"), default="all", help="what is measured")
    parser.add_argument("--size", choices=SCALES, default="full", help="small proves that it runs, and records nothing")
    add_data(parser)
    options = parser.parse_args()
    if options.part != "cost" and options.size == "full":
        exit_without_checkpoint(options.data)
    found = measure(options.part, options.size, options.data)
    if is_run(options.data):
        found.pop("mixture", None)
    for name in found if options.size == "full" else ():
        print(write_result(name, hardware_name(_CPU), found[name]).relative_to(ROOT))
    if options.size == "full" and "mixture" in found:
        draw_plot(ROOT / "docs" / "mixture.png", found["mixture"])


def measure(part: str, size: str, data: Path = ROOT / "artifacts") -> dict[str, dict[str, Any]]:
    """Return what is recorded by the name of its file, printed on the way; small measures nothing in `data`."""
    found = {}
    with one_thread():
        if part != "gains":
            found["mixture_cost"] = measure_cost(SCALES[size], size)
        if part != "cost":
            material, trained_M = small_material() if size == "small" else full_material(data)
            found["mixture"] = measure_gains(SCALES[size], material, trained_M)
    return found


def synthetic_tokens(num_tokens: int, vocab_size: int, document_tokens: int) -> np.ndarray:
    """Return ids (M,) of documents of a median length, BOS before each, the rarer the larger an id is."""
    generator = np.random.default_rng(0)
    weight_V = 1 / np.arange(1, vocab_size - BOS_ID)
    tokens_M = generator.choice(np.arange(BOS_ID + 1, vocab_size), num_tokens, p=weight_V / weight_V.sum())
    lengths = generator.lognormal(math.log(document_tokens), _LENGTH_SPREAD, 1 + num_tokens // document_tokens)
    starts = np.cumsum([0, *(1 + lengths.astype(np.int64))])
    tokens_M[starts[starts < num_tokens]] = BOS_ID
    return tokens_M


def cost_of(name: str, num_tokens: int) -> Cost:
    """Return what mixing takes; anew in a new process only."""
    torch.set_num_threads(1)
    tokens_M = torch.from_numpy(synthetic_tokens(num_tokens, 1024, 1500))
    nats_N = 6 * torch.rand(num_tokens - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixture = fit_mixture(tokens_M[:_GLIMPSE_TOKENS], nats_N[: _GLIMPSE_TOKENS - 1], STEPS[name])
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before_mib, before = _memory_mib("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    mixed_nats(tokens_M, nats_N, mixture)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user_seconds, system_seconds = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Cost(*(1e6 / num_tokens * x for x in (user_seconds, system_seconds, _memory_mib("VmHWM") - before_mib)))


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def measure_cost(scale: Scale, size: str) -> dict[str, Any]:
    """Return seconds and memory of both mixtures by length of the text, and their share of sliding's seconds."""
    # Before the window is scored: processes begin with the memory of this one.
    costs = {
        name: {num_tokens: _median_cost(name, num_tokens, scale.rounds) for num_tokens in scale.cost_tokens}
        for name in STEPS
    }
    window = measure_window(scale, size)
    measured: dict[str, Any] = {"sliding": window}
    for name, cost in costs.items():
        least, most = cost[scale.cost_tokens[0]], cost[scale.cost_tokens[-1]]
        measured[name] = {
            "steps": STEPS[name],
            "texts": [{"tokens": num_tokens, **each._asdict()} for num_tokens, each in cost.items()],
            "user_largest_over_smallest": most.user_us / least.user_us,
            "largest_over_smallest": (most.user_us + most.system_us) / (least.user_us + least.system_us),
            "share_of_sliding": (most.user_us + most.system_us) / window["us_per_target"],
        }
        print(name, *(f"{key} {value:.3g}" for key, value in measured[name].items() if isinstance(value, float)))
    return measured


def _median_cost(name: str, num_tokens: int, rounds: int) -> Cost:
    """Return the median of processes that did nothing before, and print it."""
    runs = []
    for _ in range(rounds):
        with get_context("spawn").Pool(1) as pool:
            runs.append(pool.apply(cost_of, (name, num_tokens)))
    cost = Cost(*(statistics.median(column) for column in zip(*runs, strict=True)))
    print(
        f"{name:9} {num_tokens:10,} tokens: {cost.user_us:.3f} us per token and {cost.system_us:.3f} of the system's, "
        f"{cost.peak_mib:.0f} MiB per million",
        flush=True,
    )
    return cost


@torch.inference_mode()
def measure_window(scale: Scale, size: str) -> dict[str, Any]:
    """Return the processor seconds of a sliding window of a recipe's model."""
    model = recipe_model(1024, size)
    tokens_BT = random_windows(1024, 1, scale.window_tokens + 1)
    seconds = [
        seconds_of(lambda: shortcut(model, tokens_BT, scale.window_stride_tokens), _CPU)
        for _ in range(2 * scale.rounds + 1)
    ]
    per_target = 1e6 * statistics.median(seconds) / scale.window_stride_tokens
    print(f"sliding   {scale.window_tokens}/{scale.window_stride_tokens}: {per_target:.0f} us per target")
    return {
        "window_tokens": scale.window_tokens,
        "stride_tokens": scale.window_stride_tokens,
        "seconds": seconds,
        "us_per_target": per_target,
    }


def full_material(folder: Path) -> tuple[Material, np.ndarray]:
    """Return a checkpoint with the documents that it is scored on, and the tokens that it was trained on."""
    if is_run(folder):
        return load_material(folder), run_tokens(folder, "train")
    processor, (trained, _) = load_tokenizer(folder / TOKENIZER), read_sample(folder)
    return load_material(folder), encode_documents(processor, byte_table(processor), trained).tokens_M


def small_material() -> tuple[Material, np.ndarray]:
    """Return a tiny model with random weights and synthetic text, three bytes a token."""
    config = load_params(ROOT / "recipes" / "tiny.yaml", ["model"]).model
    model, tokens_M = random_model(build(config)).eval(), synthetic_tokens(600, config.vocab_size, 50)
    document_M = (tokens_M == BOS_ID).cumsum() - 1
    scored = ScoredStream(tokens_M, np.full(len(tokens_M) - 1, 3), document_M[1:], config.context_tokens)
    draws = (random_windows(config.vocab_size, 64, 16),)
    return Material("crawler", model, draws, scored), synthetic_tokens(1200, config.vocab_size, 50)


def scored_protocols(scale: Scale) -> dict[str, dict[str, Any]]:
    """Return the protocols by name, without a mixture."""
    context: dict[str, Any] = {"context_tokens": scale.context_tokens, "mixture": None}
    windows = {**context, "stride_tokens": scale.stride_tokens}
    documents = {**context, "documents": True, "bos_id": BOS_ID}
    adam = {"rank": 8, "learning_rate": 0.001, "beta1": 0.0, "beta2": 0.999, "eps": 1e-8, "batch_documents": 16}
    chunk_ttt = stream_protocols("full")[-1][0]
    return {
        "blocks": {"kind": "blocks", **context},
        "blocks, documents": {"kind": "blocks", **documents},
        "sliding": {"kind": "sliding", **windows},
        "stream": {"kind": "stream", **windows, "lane_tokens": scale.lane_tokens},
        "chunk ttt": {**chunk_ttt, **windows, "chunk_tokens": scale.chunk_tokens},
        "lora-ttt": {"kind": "lora-ttt", **documents, "chunk_tokens": scale.stride_tokens, **adam},
        "sliding, twice the context": {"kind": "sliding", **windows, "context_tokens": 2 * scale.context_tokens},
    }


def measure_gains(scale: Scale, material: Material, trained_M: np.ndarray) -> dict[str, Any]:
    """Return what both mixtures save under every protocol, where they save it, and what they do to quantization."""
    model, scored = material.model, material.scored
    mixtures = fitted_mixtures(model, trained_M, scale.fitted_tokens)
    nats, seconds = {}, {}
    for name, protocol in scored_protocols(scale).items():
        started = time.process_time()
        network_N = score_tokens(model, scored.tokens_M, protocol)
        seconds[name] = time.process_time() - started
        nats[name] = with_mixtures(scored, network_N, mixtures)
    measured: dict[str, Any] = {
        "targets": len(scored.bytes_N),
        "documents": len(scored.document_bytes()),
        "mixtures": mixtures,
        "protocols": {
            name: {
                "protocol": protocol,
                "seconds": seconds[name],
                **describe(nats[name], scored),
                "over_sliding_mbpb": gain(nats["sliding"]["network"] - nats[name]["network"], scored),
            }
            for name, protocol in scored_protocols(scale).items()
        },
        "sliding": where_saved(nats["sliding"], scored),
    }
    print_protocols(measured["protocols"])
    print_places(measured["sliding"])
    return {**measured, "quantization": measure_quantization(scale, material, nats["blocks"], mixtures)}


def fitted_mixtures(model: LoopedUNet, trained_M: np.ndarray, num_tokens: int) -> dict[str, Mixture]:
    """Return both mixtures, fitted to the first tokens of training text."""
    config = MixtureConfig(tokens=num_tokens, document_orders=_DOCUMENT_ORDERS, stream_orders=_STREAM_ORDERS)
    rows = collect_mixtures(model, [trained_M], BOS_ID, config, ALONE, _CPU)
    return {name: rows[f"mixture/{name}"].tolist() for name in STEPS}


def with_mixtures(
    scored: ScoredStream, network_N: np.ndarray, mixtures: Mapping[str, Mixture]
) -> dict[str, np.ndarray]:
    """Return nats (N,) of the network, under this name, and by mixture."""
    tokens_M, nats_N = torch.from_numpy(scored.tokens_M.astype(np.int64)), torch.from_numpy(network_N)
    mixed = {name: mixed_nats(tokens_M, nats_N, mixture).numpy() for name, mixture in mixtures.items()}
    return {"network": network_N, **mixed}


def savings(nats: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the nats (N,) that each mixture saves, and the stream's beyond the document's."""
    saved = {name: nats["network"] - nats[name] for name in STEPS}
    return {**saved, "stream over document": saved["stream"] - saved["document"]}


def gain(saved_N: np.ndarray, scored: ScoredStream, kept_N: np.ndarray | bool = True) -> dict[str, float]:
    """Return the mBPB that these nats are on the targets kept, with an interval over documents."""
    counts_BD = resample_documents(len(scored.document_bytes()))
    saved_B, bytes_B = (
        counts_BD @ np.bincount(scored.document_N, values_N * kept_N) for values_N in (saved_N, scored.bytes_N)
    )
    with np.errstate(invalid="ignore"):  # a resample may have none of them
        return interval(_MILLI_BITS * saved_B / bytes_B)


def bits(nats: Mapping[str, np.ndarray], scored: ScoredStream) -> dict[str, float]:
    """Return bits per byte by the name of the nats."""
    num_bytes = int(scored.bytes_N.sum())
    return {name: bits_per_byte(float(nats_N.sum()), num_bytes) for name, nats_N in nats.items()}


def describe(nats: Mapping[str, np.ndarray], scored: ScoredStream) -> dict[str, Any]:
    """Return bits per byte, gains, and how the nats of the worst and of the median document change."""
    total_D = {name: np.bincount(scored.document_N, nats_N) for name, nats_N in nats.items()}
    change_D = {name: 100 * (total_D[name] / total_D["network"] - 1) for name in STEPS}
    return {
        "bpb": bits(nats, scored),
        "gain_mbpb": {name: gain(saved_N, scored) for name, saved_N in savings(nats).items()},
        "change_percent": {
            name: {"worst": float(change.max()), "median": float(np.median(change))}
            for name, change in change_D.items()
        },
    }


def where_saved(nats: Mapping[str, np.ndarray], scored: ScoredStream) -> dict[str, Any]:
    """Return gains by length of the document, by place in it and by place in the stream, and of every document."""
    document_N, saved = scored.document_N, savings(nats)
    tokens_D, bytes_D = np.bincount(document_N), scored.document_bytes()
    quartile_D = tokens_D.argsort(kind="stable").argsort(kind="stable") * 4 // len(tokens_D)
    place_N, stream_N = np.arange(len(document_N)) - np.searchsorted(document_N, document_N), np.arange(len(document_N))
    lengths = [tokens_D[quartile_D == quartile] for quartile in range(4)]
    places = [*(f"{first}-{after - 1}" for first, after in pairwise((0, *PLACES))), f"{PLACES[-1]}+"]
    parts = {
        "tokens of the document": (quartile_D[document_N], [f"{each.min()}-{each.max()}" for each in lengths]),
        "document": (document_N != tokens_D.argmax(), ["the longest", "the others"]),
        "place in the document": (np.digitize(place_N, PLACES), places),
        "quarter of the stream": (stream_N * 4 // len(stream_N), ["1", "2", "3", "4"]),
    }
    return {
        **{title: gains_by(saved, scored, *part) for title, part in parts.items()},
        "documents": {
            "tokens": tokens_D.tolist(),
            "gain_mbpb": {
                name: (_MILLI_BITS * np.bincount(document_N, saved[name]) / bytes_D).tolist() for name in STEPS
            },
        },
    }


def gains_by(
    saved: Mapping[str, np.ndarray], scored: ScoredStream, part_N: np.ndarray, names: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the gains on each part that has targets."""
    return [
        {
            "part": name,
            "targets": int(kept_N.sum()),
            "gain_mbpb": {arm: gain(saved_N, scored, kept_N) for arm, saved_N in saved.items()},
        }
        for index, name in enumerate(names)
        if (kept_N := part_N == index).any()
    ]


def measure_quantization(
    scale: Scale, material: Material, floats: Mapping[str, np.ndarray], mixtures: Mapping[str, Mixture]
) -> list[dict[str, Any]]:
    """Return what quantized models lose under blocks; `floats`: the float model's nats."""
    model, arm, scored = material.model, arms_of(material)[DEFAULT], material.scored
    moments = calibrate(model, material.draws[0], arm.calibrate, ALONE, _CPU, silent)
    plan = plan_quantization(model, moments, arm.quantize)
    estimate, plain_bytes = RateEstimate(plan), len(encode_artifact(plan.passthrough, {}))
    rows = []
    for asked in scale.bits_per_weight:
        tensors = quantize_plan(plan, estimate.knob(asked))
        quantized, blocks = dequantized_model(tensors, model.config), scored_protocols(scale)["blocks"]
        nats = with_mixtures(scored, score_tokens(quantized, scored.tokens_M, blocks), mixtures)
        row: dict[str, Any] = {
            "asked_bits_per_weight": asked,
            "bits_per_weight": 8 * (len(encode_artifact(tensors, {})) - plain_bytes) / estimate.weights,
            "bpb": bits(nats, scored),
            "gap_mbpb": {name: gain(nats[name] - floats[name], scored) for name in nats},
        }
        gaps = "  ".join(f"{name} {_cell(gap, 2)}" for name, gap in row["gap_mbpb"].items())
        print(f"{row['bits_per_weight']:.3f} bits per weight, gap: {gaps}", flush=True)
        rows.append(row)
    return rows


def _cell(figure: Mapping[str, float], digits: int = 1) -> str:
    return "{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]".format(**figure, n=digits)


def print_protocols(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table: seconds, bits per byte, gains, changes of the worst and the median document."""
    for name, row in protocols.items():
        bpb = "  ".join(f"{value:.5f}" for value in row["bpb"].values())
        changes = "  ".join(f"{each['worst']:+.2f} {each['median']:+.2f} %" for each in row["change_percent"].values())
        gains = "  ".join(_cell(figure) for figure in row["gain_mbpb"].values())
        print(f"{name:27} {row['seconds']:6.1f} s  {bpb}  gain {gains}  worst, median {changes}", flush=True)
        print(f"{'':27} the network over sliding {_cell(row['over_sliding_mbpb'])}")


def print_places(places: Mapping[str, Any]) -> None:
    """Print where the mixtures save."""
    for title, parts in places.items():
        for part in parts if title != "documents" else ():
            gains = "  ".join(_cell(figure) for figure in part["gain_mbpb"].values())
            print(f"{title:23} {part['part']:>12} {part['targets']:7,} targets  gain {gains}")


def draw_plot(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw bits per byte by protocol, and the gain of every document by its length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    names = list(scored_protocols(SCALES["full"]))[::-1]  # a file keeps no order
    rows = [measured["protocols"][name] for name in names]
    for place, row in enumerate(rows):
        left.plot([min(row["bpb"].values()), max(row["bpb"].values())], [place, place], color="0.85", zorder=0)
    for arm, dots in _DOTS.items():
        left.plot([row["bpb"][arm] for row in rows], range(len(rows)), "o", **dots)
    left.set_yticks(range(len(rows)), names)
    left.set_xlabel("bits per byte")
    documents = measured["sliding"]["documents"]
    for arm in STEPS:
        right.plot(documents["tokens"], documents["gain_mbpb"][arm], "o", markersize=5, **_DOTS[arm])
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set_xscale("log")
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.set_xlabel("tokens of the document")
    right.set_ylabel("gain under sliding, mBPB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    main()
