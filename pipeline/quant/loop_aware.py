"""Calibrate a looped model: second moments of what its matrices will be fed once the model *is* quantized.

The one idea: a looped block reads its own output, so its quantization error comes back to it, pass after pass. Moments
of the float model do not show that stream. Phase one takes the moments of the float model everywhere. Phase two
quantizes whatever lies outside the looped core provisionally and collects the core's moments again; every sweep after
that also puts the core's own provisional codes in place and collects once more. The caller's model is never touched.
Before all that, gradients of the float model tell what an error in each row costs (`sensitivity.py`).

The core is found from the order of calls: everything between the first and the last call of a looped block's matrix
or of a matrix visited more than once, so that modules between passes belong to it too.

Axes: N calibration sequences, T position, C columns, V vocabulary.
Source: the two-phase calibration of the challenge's looped records, shared/quantization.md.
Differs: sweeps use the core's own codes; visits are stored apart and pooled by token counts.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.checks import require
from pipeline.model.network import LoopedUNet
from pipeline.progress import Progress
from pipeline.quant.config import CalibrateConfig, ProvisionalConfig
from pipeline.quant.gptq import factorise, solve
from pipeline.quant.hessian import InputSite, Moment, MomentCollector, find_input_sites
from pipeline.quant.moments import Bundle, pack_bundle, pooled_moment
from pipeline.quant.sensitivity import collect_sensitivities
from pipeline.quant.steps import max_code_of, sdclip_step

_PROVISIONAL_BLOCK_COLUMNS = 128

SiteMoments = Mapping[tuple[str, int], Moment]


def calibrate(model: LoopedUNet, ids_NT: Tensor, config: CalibrateConfig, device: torch.device,
              progress: Progress) -> Bundle:  # fmt: skip
    """Return the calibration bundle (keys: `pipeline.quant.moments`) of `model` on training ids (N, T) int64.

    The forward runs in float32 on `device`; the caller's model is unchanged. Raises HessianError naming a layer.
    """
    require(ids_NT.ndim == 2 and ids_NT.numel() > 0, "calibration tokens", tuple(ids_NT.shape), "a (N, T) array")
    working = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
    sites = find_input_sites(working, ids_NT[:1].to(device))
    core = core_sites(sites, looped_prefixes(model))
    phases = 1 + (1 + config.sweeps if core else 0)
    batches = _Batches(ids_NT, config, device, phases, progress)

    sensitivities = {}
    if config.sensitivity_sequences:
        sensitivities = collect_sensitivities(working, batches.of("sensitivities", batches.sampled))
    everything = MomentCollector(working, sites)
    everything.run(batches.of("float model"))
    moments = everything.site_moments()
    weights = {name: weight.detach().clone() for name, weight in working.named_parameters()}
    if core:
        _put_provisional_codes(working, weights, [site for site in sites if site not in core], moments, config)
    for sweep in range(phases - 1):
        if sweep:
            _put_provisional_codes(working, weights, core, moments, config)
        perturbed = MomentCollector(working, core)
        perturbed.run(batches.of(f"sweep {sweep} of {config.sweeps}"))
        moments = {**moments, **perturbed.site_moments()}
    frequency_V = torch.bincount(ids_NT.flatten().cpu(), minlength=model.token_embedding.num_embeddings)
    return {**pack_bundle(sites, moments, everything.head_moment(), frequency_V), **sensitivities}


def looped_prefixes(model: LoopedUNet) -> tuple[str, ...]:
    """Return the name prefixes of the looped blocks' parameters."""
    return tuple(f"blocks.{index}." for index in model.schedule.looped)


def core_sites(sites: list[InputSite], prefixes: tuple[str, ...]) -> list[InputSite]:
    """Return the sites first called between the first and the last call of anything that loops, in call order."""
    looped = [site for site in sites if site.visits > 1 or site.owner.startswith(prefixes)]
    if not looped:
        return []
    start, stop = min(site.first_call for site in looped), max(site.last_call for site in looped)
    return [site for site in sites if start <= site.first_call <= stop]


class _Batches:
    """Batches of calibration ids, phase after phase, counted for `progress`."""

    def __init__(self, ids_NT: Tensor, config: CalibrateConfig, device: torch.device, phases: int,
                 progress: Progress) -> None:  # fmt: skip
        sampled_N = torch.arange(config.sensitivity_sequences) * len(ids_NT) // max(config.sensitivity_sequences, 1)
        self.parts = ids_NT.split(config.batch_sequences)
        # A backward pass keeps what a forward pass forgets.
        self.sampled = ids_NT[sampled_N].split(max(1, config.batch_sequences // 4)) if len(sampled_N) else ()
        self._device, self._progress = device, progress
        self._done, self._total = 0, phases * len(self.parts) + len(self.sampled)

    def of(self, phase: str, parts: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        for ids_BT in self.parts if parts is None else parts:
            yield ids_BT.to(self._device)
            self._done += 1
            self._progress(self._done, self._total, phase)


def _put_provisional_codes(working: nn.Module, weights: Mapping[str, Tensor], sites: Iterable[InputSite],
                           moments: SiteMoments, config: CalibrateConfig) -> None:  # fmt: skip
    """Replace the sites' matrices of `working` by the provisional quantization of the float `weights`."""
    for site in sites:
        hessian_CC = pooled_moment([moments[site.owner, visit] for visit in range(site.visits)])
        rows = provisional_rows(torch.cat([weights[name] for name in site.members]), hessian_CC, config.provisional,
                                site.owner)  # fmt: skip
        parts = rows.split([len(weights[name]) for name in site.members])
        for name, part in zip(site.members, parts, strict=True):
            with torch.no_grad():
                working.get_parameter(name).copy_(part)


def provisional_rows(weight_RC: Tensor, hessian_CC: Tensor, config: ProvisionalConfig, name: str) -> Tensor:
    """Return `weight_RC` after a round trip through provisional GPTQ codes."""
    max_code = max_code_of(config.matrix_bits)
    weight_RC = weight_RC.cpu()
    step_R = sdclip_step(weight_RC, config.clip_std, max_code)
    factor = factorise(hessian_CC, config.damp_frac, name)
    codes_RC = solve(weight_RC, factor, step_R, max_code, _PROVISIONAL_BLOCK_COLUMNS)
    return codes_RC * step_R[:, None]
