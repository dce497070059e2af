"""From a float model and its calibration statistics to an artifact of the wanted size.

The one idea: a trial of the size search is only a solve and an encode; all the rest is in the plan, made once.

Axes: R rows (out features), C columns (in features), V vocabulary, D model width.
Source: GPTQ, arXiv 2210.17323; SDClip, challenge PR 1394; docs/concepts.md, "One price of a bit".
Differs: nothing is ever pruned or dropped to fit; one knob, a factor on all steps, moves alone.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.base.checks import FairwayError, require
from pipeline.base.progress import Progress
from pipeline.base.ranks import ALONE, Ranks, errors_shared, from_all_ranks
from pipeline.codec.container import ArtifactTensors, QuantizedTensor, code_tensor, encode_artifact
from pipeline.model.network import LoopedUNet
from pipeline.quant.budget import MAX_TRIALS, KnobTrial, KnobWindow, search_knob
from pipeline.quant.config import BudgetConfig, ClipSteps, QuantizeConfig, RateSteps
from pipeline.quant.gptq import one_thread, round_to_nearest, solve_stack
from pipeline.quant.plan import QuantizationPlan, TensorGroup, plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.quant.steps import Grid, max_code_of
from pipeline.quant.trellis_search import PathSearch

_FINEST_BITS = 12.0
"""Bits per weight beyond which no step is refined under the rate rule."""
_KNOB_OCTAVES = 24.0
"""How far that rule's search may go from there: to nothing left."""
_PATH_SPREAD = 0.7
"""Root mean square of a row's weights, in half steps, from which a path costs less than codes by themselves."""
_STACK_ROWS = 4096
"""Rows solved together: what a processor's cache holds of a block of columns."""


class BudgetError(FairwayError):
    """No allowed step makes the artifact small enough."""


def quantize_plan(plan: QuantizationPlan, knob: float) -> ArtifactTensors:
    """Return the artifact's tensors at one knob: those of the plan's groups, and those that pass through."""
    tensors: ArtifactTensors = dict(plan.passthrough)
    states = plan.config.trellis_states or 1
    for stack in _stacks(plan):
        grids = [group.steps.grid(knob / 2 if states > 1 else knob) for group in stack]
        paths = [_rows_on_paths(group, grid, states) for group, grid in zip(stack, grids, strict=True)]
        codes = _stack_codes(stack, grids, paths, plan.config)
        for group, grid, on_path_R, codes_RC in zip(stack, grids, paths, codes, strict=True):
            column_step = None if grid.step_C is None else grid.step_C.half().numpy()
            largest = int(codes_RC.abs().max())
            require(largest < 2**15, group.names[0], f"code {largest}", "smaller weights")
            dtype = torch.int8 if largest <= max_code_of(8) else torch.int16
            for name, rows in member_slices(group):
                step, on_path = grid.step_R[rows].half().numpy(), on_path_R[rows].numpy()
                tensors[name] = QuantizedTensor(
                    codes_RC[rows].to(dtype).numpy(), step, column_step, states, on_path if on_path.any() else None
                )
    return {name: tensors[name] for name in plan.order if name in tensors}


def _stacks(plan: QuantizationPlan) -> Iterator[list[TensorGroup]]:
    """Yield groups that can be solved together: of the same rows, columns, role, kind of step and limit of codes."""
    alike: dict[tuple, list[TensorGroup]] = {}
    for group in plan.groups:
        key = (group.role, group.rows, group.weight_RC.shape[1], group.steps.step_C is None, group.steps.max_code)
        alike.setdefault(key, []).append(group)
    for groups in alike.values():
        size = max(_STACK_ROWS // len(groups[0].weight_RC), 1)
        yield from (groups[at : at + size] for at in range(0, len(groups), size))


def _stack_codes(
    stack: list[TensorGroup], grids: list[Grid], on_path: list[Tensor], config: QuantizeConfig
) -> list[Tensor]:
    weights, steps = [group.weight_RC for group in stack], [grid.step for grid in grids]
    factors = [group.factor for group in stack if group.factor is not None]
    max_code, search = stack[0].steps.max_code, None
    if config.trellis_states:
        tensor_rows = [rows for group in stack for rows in group.rows]
        search = PathSearch(tensor_rows, torch.cat(on_path).numpy(), config.trellis_states)
    if config.solver == "nearest" or not factors:
        weight_RC, step = torch.cat(weights), torch.cat(steps)
        return list(round_to_nearest(weight_RC, step, max_code, search).split([len(weight) for weight in weights]))
    return solve_stack(weights, factors, steps, max_code, config.block_columns, search)


def _rows_on_paths(group: TensorGroup, grid: Grid, states: int) -> Tensor:
    """Return which rows (R,) bool run on paths of the trellis: those that are not small beside their steps."""
    if states == 1:
        return torch.zeros(len(group.weight_RC), dtype=torch.bool)
    place_RC = group.weight_RC / grid.step.reshape(len(group.weight_RC), -1)
    return place_RC.square().mean(1) >= _PATH_SPREAD**2


class FittedArtifact(NamedTuple):
    """The best artifact of a search, and how it was found."""

    plan: QuantizationPlan
    """With the groups of this rank."""
    knob: float
    tensors: ArtifactTensors
    content: bytes
    """The file of these tensors."""
    window: KnobWindow
    """What the search was to land in; its limit is the budget."""
    trace: list[tuple[float, int]]
    """(knob, bytes) of every trial, in order."""


@one_thread()
def fit_to_budget(
    model: LoopedUNet,
    statistics: Mapping[str, Tensor],
    config: QuantizeConfig,
    budget: BudgetConfig,
    meta: dict,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> FittedArtifact:
    """Return the largest artifact found that fits limit_bytes - code_reserve_bytes, `meta` inside.

    It lands within tolerance_frac * limit_bytes below that budget, or further below in two cases, both accepted: the
    finest allowed steps already give a smaller file, or no tried knob came closer, because file sizes jump over the
    tolerance or the search used up its trials. Deterministic. Raises BudgetError when no tried knob fits.
    All ranks of a process group call this with equal arguments, share the work, and get equal artifacts: the bytes that
    one process makes.
    """
    plan = plan_quantization(model, statistics, config, ranks)
    budget_bytes = budget.limit_bytes - budget.code_reserve_bytes
    trials = 0

    def attempt(knob: float) -> KnobTrial:
        nonlocal trials
        with errors_shared(ranks):
            own = quantize_plan(plan, knob)
            own_coded = {name: code_tensor(each) for name, each in own.items() if isinstance(each, QuantizedTensor)}
        found, coded = (reduce(or_, parts) for parts in zip(*from_all_ranks((own, own_coded), ranks), strict=True))
        tensors = {name: found[name] for name in plan.order}
        content = encode_artifact(tensors, meta, coded)
        trials += 1
        progress(trials, MAX_TRIALS, f"x {knob:.3g}: {len(content):,} bytes")
        return KnobTrial(knob, tensors, content)

    rate = RateEstimate(plan, ranks)
    floor_bytes = budget_bytes - int(budget.tolerance_frac * budget.limit_bytes)
    window = _knob_window(config.steps, rate, floor_bytes, budget_bytes)
    guess = rate.knob(_code_bits(plan, rate.rows, (floor_bytes + budget_bytes) / 2) / rate.weights)
    bytes_per_octave = (rate.bits(guess * 0.5**0.5) - rate.bits(guess * 2**0.5)) * rate.weights / 8
    best, trace = search_knob(attempt, guess, window, bytes_per_octave)
    if best is None:
        needed = min(num_bytes for _, num_bytes in trace)
        raise BudgetError(
            f"budget.limit_bytes: {budget.limit_bytes} leaves {budget_bytes} bytes for the artifact, which needs at "
            f"least {needed} at the coarsest steps tried; raise budget.limit_bytes to at least "
            f"{needed + budget.code_reserve_bytes}"
        )
    return FittedArtifact(plan, *best, window, trace)


def _knob_window(rule: ClipSteps | RateSteps, rate: RateEstimate, floor_bytes: int, limit_bytes: int) -> KnobWindow:
    """Return where the search may go: the rule's own limits, or from far too fine to nothing left."""
    if isinstance(rule, ClipSteps):
        return KnobWindow(rule.min_clip_std, rule.max_clip_std, floor_bytes, limit_bytes)
    finest = rate.knob(_FINEST_BITS)
    return KnobWindow(finest, finest * 2**_KNOB_OCTAVES, floor_bytes, limit_bytes)


def _code_bits(plan: QuantizationPlan, rows: int, file_bytes: float) -> float:
    """Return what a file of so many bytes leaves for codes of so many rows."""
    overhead_bytes = sum(array.nbytes for array in plan.passthrough.values()) + 2 * rows
    return 8 * max(file_bytes - overhead_bytes, 1.0)


def member_slices(group: TensorGroup) -> Iterator[tuple[str, slice]]:
    """Yield each tensor of a group with its rows in the stack."""
    start = 0
    for name, rows in zip(group.names, group.rows, strict=True):
        yield name, slice(start, start + rows)
        start += rows
