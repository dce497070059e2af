"""Measures the rate points of `benchmarks.quantization`: calibrate, quantize, code and score, each only once.

The one idea: what arms share is kept. The float model is scored once, a calibration is made once per draw and settings,
and tensors that were scored before (another codec, a solver that looks at no calibration) are not scored again.

Axes: D documents.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.quantization.additions import folded
from benchmarks.quantization.arms import Arm, arms_of
from benchmarks.quantization.bound import code_bits, gaussian_bits
from benchmarks.quantization.data import Material
from benchmarks.quantization.judge import Judge, Verdict
from benchmarks.results import ROOT
from pipeline.base.artifacts import git_commit
from pipeline.base.progress import Log, silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.codec.container import ArtifactTensors, dequantize
from pipeline.codec.restore import dequantized_model
from pipeline.data.byte_count import bits_per_byte
from pipeline.quant.config import CalibrateConfig, RateSteps
from pipeline.quant.fit import quantize_plan
from pipeline.quant.statistics import Statistics
from pipeline.reports.quantization import describe_quantization


class Point(NamedTuple):
    """One arm at one rate with one draw of calibration text."""

    arm: str
    seed: int
    knob: float
    file_bytes: int
    layout: str
    """How the file was coded."""
    bits_per_weight: float
    """File bytes less those of a file of the passthrough tensors alone, over the quantized weights."""
    bits_above_bound: float | None
    """By how much these exceed what Gaussians need (`bound.py`); None but for codes of the rate rule as they are."""
    code_bits_above_bound: float | None
    """The same for the codes alone, without what says their scales and steps."""
    bpb: float
    gap_mbpb: float
    divergence_mbpb: float
    """From the float model (`judge.py`), over the bytes of the text as the gap."""
    proxy_loss: float
    """Summed tr(E H E^T) under the arm's own moments: comparable between arms with equal moments only."""
    calibrate_seconds: float
    quantize_seconds: float
    encode_seconds: float
    nats_by_document: list[float]
    divergence_by_document: list[float]
    """Nats."""


class Bench:
    """The material and what has been computed from it."""

    def __init__(self, material: Material, log: Log, journal: Path) -> None:
        """Take up the points that an interrupted run left in `journal`, a file of a JSON object per line."""
        self.material = material
        self._log, self._journal = log, journal
        lines = journal.read_text().splitlines() if journal.is_file() else []
        self._kept = {(point.arm, point.seed, point.knob): point for point in (Point(**json.loads(x)) for x in lines)}
        self._statistics: dict[tuple[int, CalibrateConfig], tuple[Statistics, float]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._meta = {"model": dataclasses.asdict(material.model.config)}
        self.text_bytes_D = material.scored.document_bytes()
        self._judge, seconds = _timed(Judge, material.model, material.scored)
        self.float_D = self._judge.float_D
        log(
            f"float model: {self.bpb(self.float_D):.5f} bpb on {len(material.scored.bytes_N)} targets of "
            f"{len(self.float_D)} documents in {seconds:.1f} s"
        )

    def bpb(self, nats_D: np.ndarray) -> float:
        """Return bits per byte over all documents."""
        return bits_per_byte(float(nats_D.sum()), int(self.text_bytes_D.sum()))

    def statistics(self, seed: int, config: CalibrateConfig) -> tuple[Statistics, float]:
        """Return the calibration of one draw and the seconds it took, made at most once."""
        if (seed, config) not in self._statistics:
            ids_NT, cpu = self.material.draws[seed], torch.device("cpu")
            alone = Ranks(0, 0, 1)
            self._statistics[seed, config] = _timed(calibrate, self.material.model, ids_NT, config, alone, cpu, silent)
            self._log(f"calibration of draw {seed}: {self._statistics[seed, config][1]:.1f} s")
        return self._statistics[seed, config]

    def measure(self, name: str, arm: Arm, seed: int) -> list[Point]:
        """Return the arm's rate points with one draw."""
        kept = [self._kept[key] for knob in arm.knobs if (key := (name, seed, knob)) in self._kept]
        if len(kept) == len(arm.knobs):
            return kept
        statistics, calibrate_seconds = self.statistics(seed, arm.calibrate)
        plan, plan_seconds = _timed(arm.plan, self.material.model, statistics, arm.quantize)
        plain_bytes, _ = arm.codec(plan.passthrough, self._meta)
        points = []
        for knob in arm.knobs:
            tensors, solve_seconds = _timed(arm.solve, plan, knob)
            (file_bytes, layout), encode_seconds = _timed(arm.codec, tensors, self._meta)
            verdict = self._judged(folded(tensors))
            bpb, divergence = self.bpb(verdict.nats_D), self.bpb(verdict.divergence_D)
            totals = describe_quantization(plan, tensors)["totals"]
            bits = 8 * (file_bytes - plain_bytes)
            above = code_above = None
            if arm.solve is quantize_plan and isinstance(arm.quantize.steps, RateSteps):
                least = gaussian_bits(plan, tensors)
                above, code_above = ((part - least) / totals["weights"] for part in (bits, code_bits(tensors)))
            nats, divergences = ([round(value, 3) for value in values_D.tolist()] for values_D in verdict)
            points.append(
                Point(
                    name,
                    seed,
                    knob,
                    file_bytes,
                    layout,
                    bits / totals["weights"],
                    above,
                    code_above,
                    bpb,
                    1000 * (bpb - self.bpb(self.float_D)),
                    1000 * divergence,
                    totals["proxy_loss"],
                    calibrate_seconds,
                    plan_seconds + solve_seconds,
                    encode_seconds,
                    nats,
                    divergences,
                )
            )
            self._log(point_line(points[-1]))
        with self._journal.open("a") as journal:
            journal.writelines(json.dumps(point._asdict()) + "\n" for point in points)
        return points

    def _judged(self, tensors: ArtifactTensors) -> Verdict:
        digest = hashlib.sha256()
        for values in dequantize(tensors).values():
            digest.update(values.tobytes())
        key = digest.hexdigest()
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(dequantized_model(tensors, self.material.model.config).eval())
        return self._verdicts[key]


def measure_draw(load: Callable[[], Material], names: Sequence[str], seed: int) -> tuple[list[Point], np.ndarray]:
    """Return every rate point of these arms with one draw of calibration sequences, and the float model's nats (D,)."""
    material = load()
    arms = arms_of(material)
    journal = ROOT / "artifacts" / "bench" / f"{material.family}-{git_commit(ROOT)}-{seed}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(material, partial(print, flush=True), journal)
    return [point for name in names for point in bench.measure(name, arms[name], seed)], bench.float_D


POINT_HEADER = (
    f"{'arm':4} {'seed':>4} {'knob':>8} {'bytes':>9} {'bits':>6} {'bpb':>8} {'gap':>7} {'diverg':>7} "
    f"{'above':>6} {'proxy':>9} {'quant s':>8} {'code s':>7}  layout"
)


def point_line(point: Point) -> str:
    """Return a point as a line of the table under POINT_HEADER."""
    above = "-" if point.bits_above_bound is None else f"{point.bits_above_bound:.3f}"
    return (
        f"{point.arm:4} {point.seed:4} {point.knob:8.4g} {point.file_bytes:9} {point.bits_per_weight:6.3f} "
        f"{point.bpb:8.5f} {point.gap_mbpb:7.3f} {point.divergence_mbpb:7.3f} {above:>6} "
        f"{point.proxy_loss:9.4g} {point.quantize_seconds:8.2f} "
        f"{point.encode_seconds:7.2f}  {point.layout}"
    )


def _timed(function: Callable[..., Any], *arguments: object) -> tuple[Any, float]:
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started
