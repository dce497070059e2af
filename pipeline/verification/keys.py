"""What the words of a key say of its number: of what it is, and which statistic.

The one idea: `val_bpb_exact`, `mean_bpb` and `int6_sw_bpb` need no table: the word `bpb` says what they are. A key
whose words speak of another record (`delta`, `baseline`) says nothing of this one.

Checked by: tests/verification/test_fields.py.
"""

import re
from typing import Literal

Quantity = Literal[
    "bpb",
    "loss",
    "code bytes",
    "artifact bytes",
    "total bytes",
    "text bytes",
    "steps",
    "train ms",
    "eval ms",
    "step ms",
    "params",
    "tokens",
    "targets",
]
Statistic = Literal["", "mean", "std", "max", "min"]


_OTHERS = re.compile(
    "base|baseline|best|budget|cap|comparison|cost|degradation|delta|diff|gain|gap|improve|improvement|leaderboard|"
    "limit|margin|method|minus|note|over|parent|prev|previous|prior|protocol|reduction|ref|reference|saved|sota|"
    "threshold|versus|vs"
)
"""Words of keys that speak of other records, of differences, or of no number."""
_STATISTICS: dict[str, Statistic] = {
    **dict.fromkeys(("mean", "avg", "average"), "mean"),
    **dict.fromkeys(("std", "stdev", "sd", "stddev"), "std"),
    "max": "max",
    "min": "min",
}


def meaning_of(key: str) -> tuple[Quantity, Statistic, frozenset[str]] | None:
    """Return what the words of a key say of its number: quantity, statistic and all words; None for nothing of ours."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key[:80]).lower())
    held = frozenset(words)
    quantity = None if any(map(_OTHERS.fullmatch, words)) else _quantity_of(held)
    if quantity is None:
        return None
    statistic: Statistic = next((_STATISTICS[word] for word in words if word in _STATISTICS), "")
    if quantity == "step ms" and not held & {"mean", "max", "min", "std"}:
        statistic = ""  # the average is over steps
    return quantity, statistic, held


def _quantity_of(words: frozenset[str]) -> Quantity | None:
    if "bpb" in words:
        return "bpb"
    if "loss" in words and "train" not in words:
        return "loss"
    if "bytes" in words:
        return _bytes_of(words)
    if words & {"params", "parameters"} and words <= {"model", "params", "parameters", "num", "n", "total", "count"}:
        return "params"
    if words & {"ms", "seconds", "s", "sec", "time", "wallclock"}:
        return None if words & {"min", "minutes", "m", "h", "hours"} else _time_of(words)
    if "steps" in words and words <= {"steps", "train", "training", "num", "n", "mean", "max", "min", "avg"}:
        return "steps"
    if words == {"val", "tokens"} or words == {"target", "tokens"}:
        return "tokens" if "val" in words else "targets"
    return None


def _bytes_of(words: frozenset[str]) -> Quantity | None:
    if "code" in words:
        return "code bytes"
    if "total" in words or "submission" in words:
        return "total bytes"
    if words & {"artifact", "model", "compressed"}:
        return "artifact bytes"
    return "text bytes" if "eval" in words else None


def _time_of(words: frozenset[str]) -> Quantity | None:
    if "step" in words:
        return "step ms"
    if words & {"eval", "ttt", "scoring"} and not words & {"pre"}:
        return "eval ms"
    return "train ms" if words & {"train", "training", "wallclock"} else None
