"""Calibrate a looped model: second moments of what its matrices will be fed once the model *is* quantized.

The one idea: a looped block reads its own output, so its quantization error comes back to it, pass after pass, and all
later layers read what is left of it. Moments of the float model do not show that stream. After a pass over the float
model, every sweep quantizes the whole model with the moments at hand, by the same code that makes the artifact, runs
the calibration text through the result and collects all moments anew. The caller's model is never touched. Before all
that, gradients of the float model tell what an error in each row costs (`sensitivity.py`).

Batches are dealt to the ranks by number. Sums are added over ranks before they are divided, so that the statistics do
not depend on how many ranks there are; only rank 0 quantizes, and shares the result.

Axes: N calibration sequences, B sequences of a batch, T position, V vocabulary.
Source: the two-phase calibration of the challenge's looped records (PR 1308); docs/concepts.md.
Differs: every layer sees the quantized stream, the looped blocks their own included; visits are stored apart.
Checked by: tests/quant/test_calibrate_and_fit.py, tests/calibration/test_calibration_ranks.py.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.base.progress import Progress
from pipeline.base.ranks import Ranks, share_from_rank_zero
from pipeline.calibration.moments import collect_moments, find_input_sites, site_uses
from pipeline.calibration.sensitivity import collect_sensitivities
from pipeline.codec.restore import dequantized_model
from pipeline.model.network import LoopedUNet
from pipeline.quant.config import CalibrateConfig, ProvisionalConfig, QuantizeConfig
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from pipeline.quant.rate_estimate import RateEstimate
from pipeline.quant.statistics import Statistics

_PROVISIONAL_BLOCK_COLUMNS = 128


def calibrate(
    model: LoopedUNet, ids_NT: Tensor, config: CalibrateConfig, ranks: Ranks, device: torch.device, progress: Progress
) -> Statistics:
    """Return the calibration statistics (keys: `pipeline.quant.statistics`) of `model` on training ids (N, T) int64.

    The forward runs in float32 on `device`; the caller's model is unchanged. All ranks of a process group call this
    with equal arguments and get equal sets of statistics. Raises HessianError naming a layer.
    """
    require(ids_NT.ndim == 2 and ids_NT.numel() > 0, "calibration tokens", tuple(ids_NT.shape), "a (N, T) array")
    original = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
    sites = find_input_sites(original, ids_NT[:1].to(device))
    batches = _Batches(ids_NT, config, ranks, device, progress)
    statistics = site_uses(sites)
    statistics["token_frequency"] = torch.bincount(
        ids_NT.flatten().cpu(), minlength=model.token_embedding.num_embeddings
    )
    if config.sensitivity_sequences:
        statistics |= collect_sensitivities(original, sites, batches.sampled(), ranks)
    statistics |= collect_moments(original, sites, batches.all("float model"), ranks)
    share = config.provisional.target_share
    for sweep in range(config.sweeps):
        working = copy.deepcopy(original)
        if ranks.rank == 0:
            # The float model's pass has no targets but its own weights.
            quantized = _provisional_model(original, statistics, config.provisional, share if sweep else 0.0)
            working.load_state_dict(quantized.state_dict())
        share_from_rank_zero(working.state_dict().values(), ranks)
        reference = original if share else None
        statistics |= collect_moments(working, sites, batches.all(f"sweep {sweep + 1}"), ranks, reference)
    return statistics


def _provisional_model(
    original: LoopedUNet, statistics: Mapping[str, Tensor], config: ProvisionalConfig, target_share: float
) -> LoopedUNet:
    """Return the model that the artifact would hold at about the provisional rate."""
    settings = QuantizeConfig(
        solver="gptq",
        trellis_states=None,
        steps=config.steps,
        visit_weights="tokens",
        target_share=target_share,
        damp_frac=config.damp_frac,
        block_columns=_PROVISIONAL_BLOCK_COLUMNS,
    )
    plan = plan_quantization(original, statistics, settings)
    knob = RateEstimate(plan).knob(config.bits_per_weight)
    return dequantized_model(quantize_plan(plan, knob), original.config)


class _Batches:
    """Batches of calibration ids, those of this rank, phase after phase, counted for `progress`."""

    def __init__(
        self, ids_NT: Tensor, config: CalibrateConfig, ranks: Ranks, device: torch.device, progress: Progress
    ) -> None:
        sampled_N = torch.arange(config.sensitivity_sequences) * len(ids_NT) // max(config.sensitivity_sequences, 1)
        # A backward pass keeps what a forward pass forgets.
        sampled = ids_NT[sampled_N].split(max(1, config.batch_sequences // 4)) if len(sampled_N) else ()
        self._parts, self._sampled = (
            list(enumerate(parts))[ranks.rank :: ranks.world_size]
            for parts in (ids_NT.split(config.batch_sequences), sampled)
        )
        self._device, self._progress = device, progress
        self._done, self._total = 0, (1 + config.sweeps) * len(self._parts) + len(self._sampled)

    def all(self, phase: str) -> Iterator[Tensor]:
        """Yield the batches of a pass over all sequences."""
        return (ids_BT for _, ids_BT in self._each(phase, self._parts))

    def sampled(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the batches whose gradients are taken, with their numbers."""
        return self._each("sensitivities", self._sampled)

    def _each(self, phase: str, parts: Sequence[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        for number, ids_BT in parts:
            yield number, ids_BT.to(self._device)
            self._done += 1
            self._progress(self._done, self._total, phase)
