"""A seed's log as text: the lines that people and tools look for, ours or another program's.

Checked by: tests/record/test_verify.py.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pipeline.base.checks import require
from pipeline.record.claims import half_unit, stated_number

_SCORE = re.compile(
    r"^(?P<name>final_\w+) (?>.*?val_loss:)\s*(?P<loss>\d+\.\d+)(?>.*?val_bpb:)\s*(?P<bpb>\d+\.\d+)", re.MULTILINE
)
_DIGEST = re.compile(r"^sha256 ([0-9a-f]{64}) (.+)$", re.MULTILINE)
_CODE = re.compile(r"^Code size:\s*(\d+)", re.MULTILINE)
_ARTIFACT = re.compile(r"^Serialized model (?:int\d|mixed|quant)\S*:\s*(\d+)", re.MULTILINE)
_TOTAL = re.compile(r"^Total submission size (?:int\d|mixed|quant)\S*:\s*(\d+)", re.MULTILINE)
_TARGETS = re.compile(r"^(?:target_tokens:\s*|val_loader:.*\btokens:)(\d+)", re.MULTILINE)


MOST_TEXT_BYTES = 64_000_000
"""Of a log, of submission.json and of README.md."""


class ScoreLine(NamedTuple):
    """A final score, at the digits that were printed."""

    name: str
    val_loss: Decimal
    val_bpb: Decimal


class SeedLog:
    """The last statement of each kind; a log of several runs ends with the one that counts."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.scores = _exact_scores(text)
        self.digests = {file: digest for digest, file in _DIGEST.findall(text)}
        self.code_bytes = _last_number(_CODE, text)
        self.artifact_bytes = _last_number(_ARTIFACT, text)
        self.total_bytes = _last_number(_TOTAL, text)
        self.target_tokens = _last_number(_TARGETS, text)

    def seed_among(self, seeds: Sequence[str]) -> str | None:
        """Return the seed that the file's name holds, or the only seed there is."""
        numbers = re.findall(r"\d+", self.name)
        named = [seed for seed in seeds if seed in numbers]
        return named[-1] if named else seeds[0] if len(seeds) == 1 else None


def record_text(path: Path) -> str:
    """Return a text of a record; ValueError, naming the file, when it is too long to be one."""
    size = path.stat().st_size
    require(size <= MOST_TEXT_BYTES, str(path), f"{size:,} bytes", f"at most {MOST_TEXT_BYTES:,}")
    return path.read_text("utf-8", errors="replace")


def implied_bytes(line: ScoreLine, targets: int) -> tuple[float, float]:
    """Return the bytes that a score line divides by, targets * loss / (ln 2 * bpb), and how far its digits fix them.

    Raises ValueError for a line without loss: it divides by nothing.
    """
    loss, bpb = float(line.val_loss), float(line.val_bpb)
    require(loss > 0 and bpb > 0, line.name, f"val_loss {loss:g} and val_bpb {bpb:g}", "scores above 0")
    value = targets * loss / (math.log(2) * bpb)
    return value, 1 + value * (half_unit(line.val_loss) / loss + half_unit(line.val_bpb) / bpb)


def _exact_scores(text: str) -> list[ScoreLine]:
    """Return the final scores in their order; where lines of full precision (`_exact`) exist, these alone."""
    lines = [
        ScoreLine(found["name"], stated_number(found["loss"]), stated_number(found["bpb"]))
        for found in _SCORE.finditer(text)
    ]
    return [line for line in lines if line.name.endswith("_exact")] or lines


def _last_number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.findall(text)
    return int(stated_number(found[-1])) if found else None
