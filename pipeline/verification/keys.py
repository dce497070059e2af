"""What the words of a key say of its number: of what it is, and which statistic.

The one idea: `val_bpb_exact`, `mean_bpb` and `int6_sw_bpb` need no table: the word `bpb` says what they are. A key
whose words speak of another record (`delta`, `baseline`) says nothing of this one.

Checked by: tests/verification/test_fields.py.
"""

import re
from typing import Literal, NamedTuple

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


_OTHERS = frozenset(
    ("base", "baseline", "budget", "cap", "ci", "comparison", "cost", "degradation", "delta", "diff", "effect", "gain")
    + (
        "gap",
        "headroom",
        "improve",
        "improvement",
        "leaderboard",
        "limit",
        "margin",
        "method",
        "minus",
        "naive",
        "note",
    )
    + (
        "over",
        "parent",
        "penalty",
        "prev",
        "previous",
        "prior",
        "protocol",
        "range",
        "raw",
        "record",
        "reduction",
        "ref",
    )
    + ("reference", "saved", "sem", "sota", "target", "threshold", "versus", "vs", "weight")
)
"""Words of keys that speak of other records, of differences, or of no number of ours."""
_PLAIN = frozenset(
    ("artifact", "average", "avg", "best", "bpb", "bytes", "code", "compressed", "count", "eval", "exact", "final")
    + ("headline", "int", "loss", "max", "mean", "metrics", "min", "model", "ms", "n", "num", "params", "parameters")
    + (
        "float",
        "legal",
        "pre",
        "prequant",
        "quant",
        "quantized",
        "roundtrip",
        "sliding",
        "sw",
        "window",
        "seed",
        "seeds",
    )
    + ("results", "s", "sd", "sec", "seconds", "size", "std", "stddev", "stdev", "steps", "step", "stop", "submission")
    + ("time", "tokens", "total", "train", "training", "ttt", "scoring", "val", "validation", "wallclock", "targets")
)
"""Words that leave no doubt of what a number is."""
_STATISTICS: dict[str, Statistic] = {
    **dict.fromkeys(("mean", "avg", "average"), "mean"),
    **dict.fromkeys(("std", "stdev", "sd", "stddev"), "std"),
    "max": "max",
    **dict.fromkeys(("min", "best"), "min"),
}


class Meaning(NamedTuple):
    """What a key says of its number."""

    quantity: Quantity
    statistic: Statistic
    words: frozenset[str]

    @property
    def is_plain(self) -> bool:
        """Whether no word of the key leaves in doubt what the number is."""
        return self.words <= _PLAIN


def words_of(key: str) -> list[str]:
    """Return the words of a key, in lower case."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key[:120]).lower())


def meaning_of(key: str) -> Meaning | None:
    """Return what the words of a key say of its number; None for nothing of ours."""
    words = [word for word in words_of(key) if not word.isdecimal()]
    held = frozenset(words)
    if held in ({"val", "tokens"}, {"target", "tokens"}):
        return Meaning("tokens" if "val" in held else "targets", "", frozenset(["tokens"]))
    quantity = None if held & _OTHERS else _quantity_of(held)
    if quantity is None:
        return None
    statistic: Statistic = next((_STATISTICS[word] for word in words if word in _STATISTICS), "")
    if quantity == "step ms" and not held & {"mean", "max", "min", "std"}:
        statistic = ""  # the average is over steps
    return Meaning(quantity, statistic, held)


def is_about_us(key: str) -> bool:
    """Return whether a key without meaning has a word for scores, sizes or times: what is left out is to be said."""
    return bool(frozenset(words_of(key)) & {"bpb", "bytes", "mb", "mib", "loss", "steps", "minutes", "wallclock"})


def _quantity_of(words: frozenset[str]) -> Quantity | None:
    if "bpb" in words:
        return "bpb"
    if "loss" in words and (words & {"val", "eval", "validation"} or words == {"loss"}):
        return "loss"
    if "bytes" in words:
        return _bytes_of(words)
    if words & {"params", "parameters"} and words <= {"model", "params", "parameters", "num", "n", "total", "count"}:
        return "params"
    if words & {"ms", "seconds", "s", "sec", "time", "wallclock"}:
        return None if words & {"min", "minutes", "m", "h", "hours", "max"} else _time_of(words)
    if words & {"steps", "step"} and words <= {"steps", "step", "stop", "train", "training", "num", "n", "mean", "avg"}:
        return "steps" if words & {"steps", "stop"} else None
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
