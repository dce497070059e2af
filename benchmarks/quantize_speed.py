"""How long a model of a recipe's size takes to quantize, and how much memory: search and report included.

Run `python -m benchmarks.quantize_speed [--recipe NAME] [--rule clip] [--ranks N]` on a quiet machine. Weights are
random, Hessians synthetic: correlated through a low-rank part, of spread-out scales, one per visit as in real ones; the
sizes are those of the recipe, whose `budget` and `quantize` sections are used as they are (`--rule clip`: SDClip steps
instead of the recipe's). Memory is the process's peak up to the report, the float32 statistics and the model included.

`shares`: what one process and the slowest of N spend on the work that ranks share, by processor seconds.

The baseline is GPTQ as published (IST-DASLab's `gptq.py`): one matrix at a time, float32, three factorisations per
Hessian, every column pushing its error onto the later ones of its block. It runs on the matrices of two blocks, of
which ours are timed again in the same process, factorisation and solving both: processor seconds of one thread.

Axes: R rows, C columns, V vocabulary, K columns of a block, S rank.
Checked by: tests/benchmarks/test_quantize_speed.py
"""

import argparse
import dataclasses
import resource
import time
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE, Ranks
from pipeline.calibration.moments import find_input_sites
from pipeline.codec.container import ArtifactTensors, CodedTensor, QuantizedTensor, code_tensor, encode_artifact
from pipeline.model.network import LoopedUNet, build
from pipeline.quant.config import BudgetConfig, ClipSteps, CodeBits, QuantizeConfig, RateSteps
from pipeline.quant.fit import fit_to_budget, quantize_plan
from pipeline.quant.gptq import factorise, solve_stack
from pipeline.quant.plan import TensorGroup, plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.reports.quantization import quantization_report
from pipeline.reports.training import hardware_name

_CLIP = ClipSteps(
    kind="clip",
    bits=CodeBits(attention=6, mlp=6, looped=6, other=6, embedding=8, table=6),
    embedding_clip_ratio=1.55,
    table_clip_ratio=1.55,
    min_clip_std=2.0,
    max_clip_std=60.0,
)
_MIB = 1 << 20
_SHARED_BITS = 3.0
"""Bits per weight at which shares are timed: about what 16 MB leave."""


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="nightcrawler-7f3c")
    parser.add_argument("--ranks", type=int, default=8, help="processes that share the work")
    parser.add_argument("--rule", choices=("rate", "clip"), default="rate")
    arguments = parser.parse_args()
    params = load_params(ROOT / "recipes" / f"{arguments.recipe}.yaml", ["model", "quantize", "budget"])
    config = params.quantize if arguments.rule == "rate" else dataclasses.replace(params.quantize, steps=_CLIP)
    model = random_model(build(params.model, 0))
    statistics = synthetic_statistics(model)
    measured = {
        "recipe": arguments.recipe,
        "rule": arguments.rule,
        "trellis_states": config.trellis_states,
        "threads": torch.get_num_threads(),
        **measure_fit(model, statistics, config, params.budget),
        "shares": measure_shares(model, statistics, config, arguments.ranks),
        "baseline": measure_baseline(model, statistics, config),
    }
    for name, value in measured.items():
        print(f"{name:16} {value}")
    suffix = "" if arguments.rule == "rate" else f"_{arguments.rule}"
    path = write_result(f"quantize_speed{suffix}", hardware_name(torch.device("cpu")), measured)
    print(path.relative_to(ROOT))


def random_model(model: LoopedUNet) -> LoopedUNet:
    """Fill every matrix with Gaussians whose rows differ in spread, and return the model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                spread_R1 = 0.05 * (0.2 * torch.randn(len(parameter), 1, generator=generator)).exp()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread_R1)
    return model


def synthetic_statistics(model: LoopedUNet) -> dict[str, Tensor]:
    """Return calibration statistics of the shapes that `calibrate` would give."""
    generator = torch.Generator().manual_seed(1)
    weights = dict(model.named_parameters())

    def curvature(rows: int) -> Tensor:
        return 1e-6 * torch.randn(rows, generator=generator).exp()

    def moment(columns: int) -> Tensor:
        factor_CS = torch.randn(columns, max(columns // 8, 1), generator=generator)
        moment_CC = factor_CS @ factor_CS.T / factor_CS.shape[1]
        moment_CC.diagonal().add_(0.3)
        scale_C = (0.7 * torch.randn(columns, generator=generator)).exp()
        return moment_CC.mul_(scale_C).mul_(scale_C[:, None])

    statistics = {
        "moment/head": moment(model.token_embedding.embedding_dim),
        "tokens/head": torch.tensor(1),
        "sensitivity/head": curvature(model.token_embedding.num_embeddings),
    }
    for site in find_input_sites(model, torch.zeros(1, 2, dtype=torch.int64)):
        for visit in range(site.visits):
            mean_CC = moment(weights[site.owner].shape[1])
            statistics[f"moment/{site.owner}/{visit}"], statistics[f"cross/{site.owner}/{visit}"] = (
                mean_CC,
                0.98 * mean_CC,
            )
            statistics[f"tokens/{site.owner}/{visit}"] = torch.tensor(1)
            statistics.update({f"sensitivity/{name}/{visit}": curvature(len(weights[name])) for name in site.members})
        statistics.update({f"uses/{name}/{site.owner}": torch.tensor(site.visits) for name in site.members})
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            statistics[f"sensitivity/{prefix}.weight"] = curvature(module.num_embeddings)
    return statistics


def measure_fit(model: LoopedUNet, statistics: dict[str, Tensor], config: QuantizeConfig, budget: BudgetConfig) -> dict:
    """Return parameters, wall and processor seconds, trials and peak memory of `fit_to_budget`."""
    before_bytes = _peak_bytes()
    started, processor = time.perf_counter(), time.process_time()
    fit = fit_to_budget(model, statistics, config, budget, {}, silent)
    report = quantization_report(model, statistics, fit)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "trials": len(report["search"]),
        "artifact_bytes": len(fit.content),
        "unused_bytes": report["budget"]["unused_bytes"],
        "peak_mib": _peak_bytes() // _MIB,
        "peak_before_mib": before_bytes // _MIB,
        "statistics_mib": sum(tensor.nbytes for tensor in statistics.values()) // _MIB,
    }


def measure_shares(
    model: LoopedUNet, statistics: dict[str, Tensor], config: QuantizeConfig, num_ranks: int
) -> dict[str, Any]:
    """Return what one process, and the slowest of `num_ranks`, take: processor seconds of one thread.

    The shares are computed one after the other, and nothing travels. `plan`: once; `trial`: of each trial that part
    which is shared; `join`: the rest of a trial, which every process does.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone, tensors, coded = _seconds_of_share(model, statistics, config, ALONE)
    started = time.process_time()
    encode_artifact(tensors, {}, coded)
    join_seconds = time.process_time() - started
    with mock.patch("pipeline.base.ranks.from_all_ranks", lambda value, ranks: [value]):
        each = [_seconds_of_share(model, statistics, config, Ranks(r, r, num_ranks))[0] for r in range(num_ranks)]
    torch.set_num_threads(threads)
    slowest = {name: max(share[name] for share in each) for name in alone}
    parts = {f"{name}_seconds": {"alone": alone[name], "slowest": slowest[name]} for name in alone}
    ratio = (alone["trial"] + join_seconds) / (slowest["trial"] + join_seconds)
    return {"ranks": num_ranks, **parts, "join_seconds": join_seconds, "trial_alone_over_slowest": ratio}


def _seconds_of_share(
    model: LoopedUNet, statistics: dict[str, Tensor], config: QuantizeConfig, ranks: Ranks
) -> tuple[dict[str, float], ArtifactTensors, dict[str, CodedTensor]]:
    started = time.process_time()
    plan = plan_quantization(model, statistics, config, ranks)
    planned = time.process_time()
    tensors = quantize_plan(plan, RateEstimate(plan).knob(_SHARED_BITS))
    coded = {name: code_tensor(each) for name, each in tensors.items() if isinstance(each, QuantizedTensor)}
    return {"plan": planned - started, "trial": time.process_time() - planned}, tensors, coded


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_baseline(model: LoopedUNet, statistics: dict[str, Tensor], config: QuantizeConfig) -> dict[str, Any]:
    """Return seconds of the published form and of ours for the matrices of the first and of the last block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plan = plan_quantization(model, statistics, config)
    blocks = [f"blocks.{index}." for index in (0, len(model.blocks) - 1)]
    groups = [group for group in plan.groups if group.names[0].startswith(tuple(blocks))]
    steps = [group.steps.grid(1.0 if isinstance(config.steps, RateSteps) else 12.85).step for group in groups]
    ours = [_seconds_of_ours(group, step, config) for group, step in zip(groups, steps, strict=True)]
    plain = [_seconds_of_plain(group, step, config) for group, step in zip(groups, steps, strict=True)]
    torch.set_num_threads(threads)
    sums = {
        name: [sum(pair[i] for pair in pairs) for i in (0, 1)] for name, pairs in (("ours", ours), ("plain", plain))
    }
    return {
        "matrices": sum(len(group.names) for group in groups),
        "ours_seconds": sum(sums["ours"]),
        "plain_seconds": sum(sums["plain"]),
        "plain_over_ours": sum(sums["plain"]) / sum(sums["ours"]),
        "factorise_plain_over_ours": sums["plain"][0] / sums["ours"][0],
        "solve_plain_over_ours": sums["plain"][1] / sums["ours"][1],
    }


def _seconds_of_ours(group: TensorGroup, step: Tensor, config: QuantizeConfig) -> tuple[float, float]:
    assert group.factor is not None, "a matrix has a Hessian"
    started = time.process_time()
    factor = factorise(group.factor.hessian_CC, config.damp_frac)
    factorised = time.process_time()
    solve_stack([group.weight_RC], [factor], [step], None, config.block_columns)
    return factorised - started, time.process_time() - factorised


def _seconds_of_plain(group: TensorGroup, step: Tensor, config: QuantizeConfig) -> tuple[float, float]:
    assert group.factor is not None, "a matrix has a Hessian"
    seconds = [0.0, 0.0]
    hessian_CC = group.factor.hessian_CC.float()
    for weight_RC, rows in zip(group.weight_RC.split(list(group.rows)), step.split(list(group.rows)), strict=True):
        started = time.process_time()
        order_C, upper_CC = plain_factor(hessian_CC, config.damp_frac)
        factorised = time.process_time()
        plain_solve(weight_RC, order_C, upper_CC, rows, config.block_columns)
        seconds = [seconds[0] + factorised - started, seconds[1] + time.process_time() - factorised]
    return seconds[0], seconds[1]


def plain_factor(hessian_CC: Tensor, damp_frac: float) -> tuple[Tensor, Tensor]:
    """Return the act-order and the upper Cholesky factor of the damped Hessian's inverse, in H's precision."""
    order_C = torch.argsort(hessian_CC.diagonal(), descending=True, stable=True)
    damped_CC = hessian_CC[order_C][:, order_C]
    damped_CC.diagonal().add_(damp_frac * float(damped_CC.diagonal().mean()))
    inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(damped_CC))
    return order_C, torch.linalg.cholesky(inverse_CC, upper=True)


def plain_solve(weight_RC: Tensor, order_C: Tensor, upper_CC: Tensor, step: Tensor, block_columns: int) -> Tensor:
    """Return codes (R, C), unclipped, in the precision of `upper_CC`."""
    weight_RC = weight_RC.detach().to(upper_CC.dtype)[:, order_C]
    step_RC = step.to(upper_CC.dtype).reshape(len(step), -1).expand_as(weight_RC)[:, order_C]
    codes_RC = torch.zeros_like(weight_RC)
    for start in range(0, weight_RC.shape[1], block_columns):
        block = slice(start, start + block_columns)
        weight_RK, upper_KK = weight_RC[:, block].clone(), upper_CC[block, block]
        error_RK = torch.zeros_like(weight_RK)
        for j in range(weight_RK.shape[1]):
            step_R = step_RC[:, start + j]
            codes_RC[:, start + j] = torch.round(weight_RK[:, j] / step_R)
            error_RK[:, j] = (weight_RK[:, j] - codes_RC[:, start + j] * step_R) / upper_KK[j, j]
            weight_RK[:, j:] -= error_RK[:, j : j + 1] @ upper_KK[j : j + 1, j:]
        weight_RC[:, start + block_columns :] -= error_RK @ upper_CC[block, start + block_columns :]
    return torch.empty_like(codes_RC).index_copy_(1, order_C, codes_RC)


if __name__ == "__main__":
    main()
