"""The calibration bundle: one flat dict of tensors, ready for a safetensors file, and how to read it.

Keys (parameter names hold no slash):
* `moment/<owner>/<visit>` float32 (C, C): mean of x x^T over what the matrices of a site were fed on that visit
* `tokens/<owner>/<visit>` int64 scalar: activations in that mean
* `uses/<matrix>/<owner>`  int64 scalar: every matrix's site, the value is its visits per forward
* `head/moment` float32 (D, D), `head/tokens` int64: the final hidden states, input of the tied head
* `token_frequency` int64 (V,): how often each token id occurs in the calibration text
* `sensitivity/...`: see `sensitivity.py`

A site is named after its first matrix. Visits are kept apart; a quantizer that wants one Hessian takes `mean_moment`.

Axes: C columns (in features), D model width, V vocabulary.
Source: ours.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.checks import require
from pipeline.quant.hessian import InputSite, Moment

Bundle = dict[str, Tensor]
_REMEDY = "calibrate this checkpoint again"


def pack_bundle(sites: list[InputSite], moments: Mapping[tuple[str, int], Moment], head: Moment,
                token_frequency_V: Tensor) -> Bundle:  # fmt: skip
    """Return the bundle of a calibration; moments are by (owner, visit)."""
    bundle: Bundle = {}
    for (owner, visit), moment in moments.items():
        bundle[f"moment/{owner}/{visit}"] = moment.mean_CC.to(torch.float32)
        bundle[f"tokens/{owner}/{visit}"] = torch.tensor(moment.tokens)
    for site in sites:
        for member in site.members:
            bundle[f"uses/{member}/{site.owner}"] = torch.tensor(site.visits)
    bundle["head/moment"] = head.mean_CC.to(torch.float32)
    bundle["head/tokens"] = torch.tensor(head.tokens)
    bundle["token_frequency"] = token_frequency_V
    return bundle


def site_members(bundle: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the matrices of every site, by owner."""
    members: dict[str, list[str]] = {}
    for key in bundle:
        if key.startswith("uses/"):
            _, member, owner = key.split("/")
            members.setdefault(owner, []).append(member)
    return members


def row_sensitivity(bundle: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the sensitivities (len(names), R) under `names`, float64; ValueError when they were not collected."""
    for name in names:
        require(f"sensitivity/{name}" in bundle, "calibration bundle", f"no sensitivity of {name}",
                "one, which quantize.steps of kind `rate` needs: set calibrate.sensitivity_sequences above 0 and "
                f"{_REMEDY}")  # fmt: skip
    return torch.stack([bundle[f"sensitivity/{name}"].double() for name in names])


def visit_names(bundle: Mapping[str, Tensor], owner: str, matrix: str) -> list[str]:
    """Return `<matrix>/<visit>` for every visit of a site."""
    return [f"{matrix}/{visit}" for visit in range(int(bundle_entry(bundle, f"uses/{owner}/{owner}")))]


def mean_moment(bundle: Mapping[str, Tensor], owner: str, weights: Sequence[float] | None = None) -> Tensor:
    """Return one float64 (C, C) moment of a site: the mean over all activations of all visits, weighted by visit.

    Raises ValueError when the bundle lacks a visit or its visits are not square and of one shape.
    """
    visits = range(int(bundle_entry(bundle, f"uses/{owner}/{owner}")))
    first = bundle_entry(bundle, f"moment/{owner}/0")
    parts = []
    for visit in visits:
        key = f"moment/{owner}/{visit}"
        mean_CC = bundle_entry(bundle, key)
        require(mean_CC.ndim == 2 and mean_CC.shape == first.mT.shape, f"calibration bundle: {key}",
                tuple(mean_CC.shape), f"a square moment like its other visits'; {_REMEDY}")  # fmt: skip
        parts.append(Moment(mean_CC.to(torch.float64), int(bundle_entry(bundle, f"tokens/{owner}/{visit}"))))
    return pooled_moment(parts, weights)


def bundle_entry(bundle: Mapping[str, Tensor], key: str) -> Tensor:
    """Return one tensor of a bundle; raises ValueError naming the key that it lacks."""
    if key not in bundle:
        raise ValueError(f"calibration bundle: no {key} in it; {_REMEDY}")
    return bundle[key]


def pooled_moment(parts: Sequence[Moment], weights: Sequence[float] | None = None) -> Tensor:
    """Return the mean over the union of several means' activations, float64; each counts `weights` times (None: 1)."""
    shares = [part.tokens * weight for part, weight in zip(parts, weights or [1.0] * len(parts), strict=True)]
    total_CC = torch.zeros_like(parts[0].mean_CC)
    for part, share in zip(parts, shares, strict=True):
        total_CC += part.mean_CC * (share / sum(shares))
    return total_CC
