"""What phased test-time training gains, piece by piece, and what it would cost on eight GPUs.

Run `python -m benchmarks.phased DATA`: bits per byte of sliding windows, of `lora-ttt` and of `phased-ttt` with and
without warm A and the global phase, on held-out documents under the checkpoint of DATA. Arms score the same targets, so
differences are paired: means over documents with their standard error. Nats of every arm are kept in
`artifacts/bench/phased`, and an arm that is there is not measured again: `--arm` measures one at a time.

`--part cost` counts the multiply-adds of every arm, published sizes, on the recipe `frontier`'s network, for the
challenge's val splits, and projects seconds on eight H100s (`pipeline/projection`). What the first part prints as
`speed` are multiply-adds per second of one device, by the same count: `--part cost --speed X` divides by it instead.

Axes: N targets, D documents.
Checked by: tests/benchmarks/test_phased.py
"""

import argparse
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quantization.data import ScoredStream, add_data, exit_without_checkpoint, load_material
from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params
from pipeline.base.files import write_bytes
from pipeline.data.byte_count import bits_per_byte
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet
from pipeline.projection.counts import forward_counts
from pipeline.projection.machines import MACHINES
from pipeline.projection.scoring_time import VAL_TARGETS, adapter_counts, challenge_documents, scoring_seconds
from pipeline.scoring.evaluate import document_targets
from pipeline.scoring.protocols import parse_protocol, score_tokens
from pipeline.scoring.windows import plan, steps_of_rank

_BOS_ID = 1
_KEPT = ROOT / "artifacts" / "bench" / "phased"
_MACHINE = "8xh100"
_CONTEXT_TOKENS = 512
"""What the measured checkpoint was trained on."""


def arms(context_tokens: int, first_documents: int, lane_documents: int, phase_chunk: int) -> dict[str, dict[str, Any]]:
    """Return the protocols by name; all but sizes of the stream are the published record's."""
    documents = {"context_tokens": context_tokens, "bos_id": _BOS_ID, "mixture": None}
    adam = {"rank": 80, "learning_rate": 0.0001, "beta1": 0.0, "beta2": 0.99, "eps": 1e-10}
    alone: dict[str, Any] = {
        **documents,
        **adam,
        "kind": "phased-ttt",
        "chunk_tokens": 48,
        "short_chunks": [],
        "chunks_by": "place",
        "batch_documents": 64,
        "lane_documents": 1,
        "alpha": 144.0,
        "adapt_keys": False,
        "weight_decay": 0.5,
        "global_phase": None,
    }
    phase = {
        "documents": first_documents,
        "context_tokens": context_tokens,
        "chunk_tokens": phase_chunk,
        "epochs": 1,
        "learning_rate": 0.001,
        "momentum": 0.9,
        "grad_clip": 1.0,
        "batch_sequences": 32,
    }
    sliding = {"kind": "sliding", "context_tokens": context_tokens, "stride_tokens": 64, "mixture": None}
    lora = {**documents, **adam, "kind": "lora-ttt", "documents": True, "chunk_tokens": 48, "batch_documents": 64}
    warm = {**alone, "lane_documents": lane_documents}
    return {
        "sliding": sliding,
        "lora-ttt": lora,
        "phased": alone,
        "warm A": warm,
        "global phase": {**alone, "global_phase": phase},
        "both": {**warm, "global_phase": phase},
        "both, short chunks": {**warm, "global_phase": phase, "short_chunks": [[256, 8], [2000, 24]]},
    }


def multiply_adds(config: ModelConfig, fields: dict[str, Any], documents: list[int]) -> float:
    """Return those of scoring documents of so many targets, all passes; without those of the global phase."""
    protocol: Any = parse_protocol(fields)
    groups = plan(documents, protocol)
    if "bos_id" in fields:
        counts = adapter_counts(config, protocol, list(steps_of_rank(groups, protocol, 65536, 0, 1)))
        return sum(each.flops for _, each in counts) / 2
    windows = plan([sum(documents)], protocol)[0].windows
    return len(windows) * forward_counts(config, protocol.context_tokens, protocol.stride_tokens).flops / 2


def measure_arm(name: str, model: LoopedUNet, scored: ScoredStream, fields: dict[str, Any]) -> np.ndarray:
    """Return the nats of an arm, kept from before or measured now; prints the speed of what is measured."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    asked = hashlib.sha256(weights + scored.tokens_M.tobytes() + json.dumps(fields, sort_keys=True).encode())
    path = _KEPT / f"{name}-{asked.hexdigest()[:12]}.f64"
    if not path.is_file():
        started = time.process_time()
        nats_N = score_tokens(model, scored.tokens_M, fields)
        seconds = time.process_time() - started
        _KEPT.mkdir(parents=True, exist_ok=True)
        write_bytes(path, nats_N.tobytes())
        work = multiply_adds(model.config, fields, document_targets(torch.from_numpy(scored.tokens_M), _BOS_ID))
        print(f"{name}: {seconds:.0f} s, speed {work / seconds:.4g} multiply-adds per second", flush=True)
    return np.frombuffer(path.read_bytes())


def describe(nats: dict[str, np.ndarray], scored: ScoredStream) -> dict[str, dict[str, Any]]:
    """Return bits per byte of every arm, and differences from two of them in mBPB, each with its error."""
    total = int(scored.bytes_N.sum())
    return {
        name: {"bpb": bits_per_byte(math.fsum(nats_N), total)}
        | {f"over_{base}_mbpb": difference(nats_N - nats[base], scored) for base in ("sliding", "phased")}
        for name, nats_N in nats.items()
    }


def difference(nats_N: np.ndarray, scored: ScoredStream) -> tuple[float, float]:
    """Return a difference in mBPB, a ratio of sums, and its standard error over documents."""
    document_N = scored.document_N - scored.document_N[0]
    bytes_D = np.bincount(document_N, scored.bytes_N)
    bits_D = np.bincount(document_N, nats_N) / math.log(2)
    ratio = bits_D.sum() / bytes_D.sum()
    deviation = (bits_D - ratio * bytes_D).std(ddof=1) * len(bytes_D) ** 0.5 / bytes_D.sum()
    return float(1000 * ratio), float(1000 * deviation)


def measure_gains(data: Path, num_documents: int, wanted: str | None) -> dict[str, Any]:
    """Return the table of the arms that are wanted, None: of all, on the first held-out documents of DATA."""
    material = load_material(data)
    bounds = np.flatnonzero(material.scored.tokens_M == _BOS_ID)
    stop = int(bounds[num_documents]) if num_documents < len(bounds) else len(material.scored.bytes_N)
    whole = material.scored
    scored = ScoredStream(whole.tokens_M[: stop + 1], whole.bytes_N[:stop], whole.document_N[:stop], _CONTEXT_TOKENS)
    found = arms(_CONTEXT_TOKENS, num_documents // 2, num_documents // 2, 1024)
    chosen = found if wanted is None else {name: found[name] for name in {"sliding": 0, "phased": 0, wanted: 0}}
    nats = {name: measure_arm(name, material.model, scored, fields) for name, fields in chosen.items()}
    rows = describe(nats, scored)
    for name, row in rows.items():
        print(name, row)
    return {"targets": stop, "documents": num_documents, "arms": rows}


def project_cost(speed: float | None, wanted: str | None) -> dict[str, Any]:
    """Return multiply-adds per target and seconds on eight devices of an arm, None: all, for the challenge's splits."""
    projected: dict[str, Any] = {}
    config = load_params(ROOT / "recipes" / "frontier.yaml", ["model"]).model
    found = arms(config.context_tokens, 2500, 32, 32768)
    for name, fields in found.items() if wanted is None else [(wanted, found[wanted])]:
        for num_targets in VAL_TARGETS.values():
            work = multiply_adds(config, fields, challenge_documents(num_targets))
            seconds = scoring_seconds(config, parse_protocol(fields), 65536, MACHINES[_MACHINE], num_targets)
            row = {
                "per_target": work / num_targets,
                "seconds": work / speed / MACHINES[_MACHINE].processes if speed else seconds,
            }
            projected.setdefault(name, {})[num_targets] = row
            print(f"{name}, {num_targets:,} targets: {row['per_target'] / 1e9:.2f} G each, {row['seconds']:.0f} s")
    return projected


def main() -> None:
    """Measure one part, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phased", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("gains", "cost"), default="gains", help="what is measured")
    parser.add_argument(
        "--arm", choices=list(arms(8, 1, 1, 8)), help="measure this one, beside sliding and phased, and record nothing"
    )
    parser.add_argument("--documents", type=int, default=8, help="held-out documents that are scored")
    parser.add_argument("--speed", type=float, help="multiply-adds per second of one device, as gains print them")
    add_data(parser)
    options = parser.parse_args()
    if options.part == "cost":
        measured, name = project_cost(options.speed, options.arm), "phased_cost"
    else:
        exit_without_checkpoint(options.data)
        measured, name = measure_gains(options.data, options.documents, options.arm), "phased"
    if options.arm is None and options.speed is None:
        print(write_result(name, "projected for H100 SXM" if name == "phased_cost" else "any", measured))


if __name__ == "__main__":
    main()
