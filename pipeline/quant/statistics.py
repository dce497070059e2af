"""The calibration statistics: one flat dict of tensors, ready for a safetensors file, and how to read it.

Keys (parameter names hold no slash):
* `moment/<owner>/<visit>` float32 (C, C): mean of x x^T over what the matrices of a site were fed on that visit
* `cross/<owner>/<visit>`  float32 (C, C): mean of y x^T, y what the float model's were fed; in sweeps with targets
* `tokens/<owner>/<visit>` int64 scalar: activations in those means
* `uses/<matrix>/<owner>`  int64 scalar: every matrix's site, the value is its visits per forward
* `moment/head` float32 (D, D), `tokens/head` int64: the final hidden states, input of the tied head
* `token_frequency` int64 (V,): how often each token id occurs in the calibration text
* `sensitivity/...`: see `calibration/sensitivity.py`
* `mixture/<name>` float64 (S, C): the steps of `mixture/mixing.py`; they pass into the artifact as they are

A site is named after its first matrix. Visits are kept apart; a quantizer pools them with `pooled_mean`.

Axes: C columns (in features), D model width, V vocabulary.
Source: ours.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.base.checks import one_line, require

Statistics = dict[str, Tensor]
_REMEDY = "calibrate this checkpoint again"


_AXES = {"moment": 2, "cross": 2, "tokens": 0, "uses": 0, "token_frequency": 1, "sensitivity": 1, "mixture": 2}
"""Kind of entry -> axes."""
_COUNTS = ("tokens", "uses", "token_frequency")


def check_statistics(statistics: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the first entry that is nothing calibration writes: other axes, numbers, not finite."""
    for key, entry in statistics.items():
        kind, *names = key.split("/")
        where = f"calibration statistics: {one_line(key, 100)}"
        require(
            entry.ndim == _AXES.get(kind) and (kind != "uses" or len(names) == 2),
            where,
            one_line(f"{entry.dtype} {tuple(entry.shape)}"),
            f"what calibration writes; {_REMEDY}",
        )
        if kind in _COUNTS:
            least, most = 0 if kind == "token_frequency" else 1, len(statistics) if kind == "uses" else math.inf
            is_sound = entry.dtype == torch.int64 and bool(((entry >= least) & (entry <= most)).all())
            require(is_sound, where, one_line(entry), f"whole numbers of at least {least}; {_REMEDY}")
        else:
            is_sound = entry.is_floating_point() and bool(torch.isfinite(entry.float()).all())
            require(
                is_sound,
                where,
                "values that are not finite floats",
                f"finite ones: weights or inputs of that tensor are too large; {_REMEDY}",
            )


def mixture_meta(statistics: Mapping[str, Tensor]) -> dict[str, dict[str, list]]:
    """Return what an artifact says in its `meta` of the mixtures among its statistics; nothing where there are none."""
    found = {key.partition("/")[2]: steps.tolist() for key, steps in statistics.items() if key.startswith("mixture/")}
    return {"mixtures": found} if found else {}


def site_members(statistics: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the matrices of every site, by owner."""
    members: dict[str, list[str]] = {}
    for key in statistics:
        if key.startswith("uses/"):
            _, member, owner = key.split("/")
            members.setdefault(owner, []).append(member)
    return members


def row_sensitivity(statistics: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the sensitivities (len(names), R) under `names`, float64; ValueError when they were not collected."""
    for name in names:
        require(
            f"sensitivity/{name}" in statistics,
            "calibration statistics",
            f"no sensitivity of {name}",
            "one, which steps of kind `rate` and visit_weights `sensitivity` need: set "
            f"calibrate.sensitivity_sequences above 0 and "
            f"{_REMEDY}",
        )
    return torch.stack([statistics[f"sensitivity/{name}"].double() for name in names])


def visit_names(statistics: Mapping[str, Tensor], owner: str, matrix: str) -> list[str]:
    """Return `<matrix>/<visit>` for every visit of a site."""
    return [f"{matrix}/{visit}" for visit in range(int(statistics_entry(statistics, f"uses/{owner}/{owner}")))]


def pooled_mean(
    statistics: Mapping[str, Tensor], kind: str, owner: str, width: int, weights: Sequence[float] | None = None
) -> Tensor:
    """Return one float64 (width, width) mean of kind `moment` or `cross` over all activations of all visits of a site.

    An activation counts as much as its visit weighs; None weighs all alike. Raises ValueError naming what they
    lack or hold in another shape.
    """
    visits = range(int(statistics_entry(statistics, f"uses/{owner}/{owner}")))
    tokens = [int(statistics_entry(statistics, f"tokens/{owner}/{visit}")) for visit in visits]
    shares = [count * weight for count, weight in zip(tokens, weights or [1.0] * len(visits), strict=True)]
    total_CC = torch.zeros(width, width, dtype=torch.float64)
    for visit, share in enumerate(shares):
        total_CC += square_entry(statistics, f"{kind}/{owner}/{visit}", width) * (share / sum(shares))
    return total_CC


def square_entry(statistics: Mapping[str, Tensor], key: str, width: int) -> Tensor:
    """Return a (width, width) entry as float64; ValueError when it is absent or of another shape."""
    entry_CC = statistics_entry(statistics, key)
    require(
        entry_CC.shape == (width, width),
        f"calibration statistics: {key}",
        tuple(entry_CC.shape),
        f"({width}, {width}); {_REMEDY}",
    )
    return entry_CC.double()


def statistics_entry(statistics: Mapping[str, Tensor], key: str) -> Tensor:
    """Return one tensor of the statistics; raises ValueError naming the key that it lacks."""
    require(
        key in statistics,
        "calibration statistics",
        f"no {key} in it",
        "one: " + ("set calibrate.provisional.target_share above 0 and " if key.startswith("cross/") else "") + _REMEDY,
    )
    return statistics[key]
