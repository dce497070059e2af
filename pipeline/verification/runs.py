"""What a log states, once it is read: figures with their lines, scores, runs.

Checked by: tests/verification/test_reading.py.
"""

from decimal import Decimal
from functools import cached_property
from typing import Literal, NamedTuple

from pipeline.base.checks import one_line

BEYOND = Decimal(10) ** 18
"""What stands for every larger number."""
MOST_FIGURES = 300
"""Of one run: what states more is no log."""
_MOST_ODDITIES = 8
_LONGEST_NUMBER = 2000

Kind = Literal[
    "code bytes", "model bytes", "total bytes", "tokens", "targets", "params", "steps", "train ms", "step ms", "eval ms"
]


class Figure(NamedTuple):
    """A number that a line states."""

    value: Decimal
    line: int
    label: str = ""
    """What the line calls it beyond its kind: the coding of a model, `compressed` of code."""


class Score(NamedTuple):
    """A score at the digits that were printed."""

    val_loss: Decimal | None
    """None for a line that states a bpb alone."""
    val_bpb: Decimal


class ScoreLine(NamedTuple):
    """A score that a line states."""

    name: str
    score: Score
    line: int
    weights: Literal["artifact", "float", "training"]
    """What was scored: the artifact, the weights before they were quantized, or the model during training."""


class Run:
    """What a log states of one run."""

    def __init__(self, name: str) -> None:
        self.name = name
        """Of the log, relative to the record."""
        self.seed: Figure | None = None
        self.lines: list[ScoreLine] = []
        """Scores in their order, of training only the last."""
        self.figures: dict[Kind, dict[tuple[str, Decimal], Figure]] = {}
        """Each label and value once, in the order of the last time; of what training counts only the last."""
        self.digests: dict[str, str] = {}
        """File -> hex sha256."""
        self.oddities: list[str] = []
        """What no log of a single run of ours states."""
        self.is_fineweb = False

    @property
    def scores(self) -> list[ScoreLine]:
        """The artifact's scores; where lines of full precision (`_exact`) exist, these alone."""
        found = [line for line in self.lines if line.weights == "artifact"]
        return [line for line in found if line.name.endswith("_exact")] or found

    @property
    def float_score(self) -> Score | None:
        """The last score of the weights before they were quantized."""
        return next((line.score for line in reversed(self.lines) if line.weights == "float"), None)

    @cached_property
    def last_scores(self) -> list[ScoreLine]:
        """The last line of each name, in order; to be asked when all is read."""
        by_name: dict[str, ScoreLine] = {}
        for line in self.lines:
            by_name.pop(line.name, None)
            by_name[line.name] = line
        return list(by_name.values())

    def all(self, kind: Kind) -> list[Figure]:
        """Return the figures of a kind."""
        return list(self.figures.get(kind, {}).values())

    def latest(self, kind: Kind) -> list[Figure]:
        """Return the last figure of each label."""
        return list({figure.label: figure for figure in self.all(kind)}.values())

    def last(self, kind: Kind) -> Decimal | None:
        """Return the last number of a kind; of models and totals the last that is coded, not the raw one."""
        found = self.all(kind)
        coded = [each for each in found if each.label] if kind in ("model bytes", "total bytes") else found
        return coded[-1].value if coded else None

    def coded(self, kind: Kind) -> list[Figure]:
        """Return the last figures of the labels that name a coding; where none does, all: then a model may be raw."""
        found = self.latest(kind)
        return [figure for figure in found if figure.label] or found

    def note(self, kind: Kind, figure: Figure) -> None:
        """Keep a figure."""
        held = self.figures.setdefault(kind, {})
        if kind in ("steps", "train ms", "step ms"):
            held.clear()
        held.pop((figure.label, figure.value), None)
        if len(held) < MOST_FIGURES:
            held[figure.label, figure.value] = figure

    def odd(self, what: str) -> None:
        """Keep, as a short line, what no log of ours states."""
        if len(self.oddities) < _MOST_ODDITIES and (shown := one_line(what, 80)) not in self.oddities:
            self.oddities.append(shown)


class Log(NamedTuple):
    """A log."""

    name: str
    runs: list[Run]
    digest: str
    """Hex sha256 of its content."""
    sources: list[str]
    """Hex sha256 of each source that it prints, without white space at its ends."""


def stated_number(text: str) -> Decimal:
    """Return a number as written; beyond anything that a record counts `BEYOND`, which agrees with nothing."""
    if len(text) > _LONGEST_NUMBER:
        return BEYOND
    try:
        number = Decimal(text.replace(",", "").replace("_", ""))
    except ArithmeticError:  # an exponent of twenty digits
        return BEYOND
    if number.adjusted() >= BEYOND.adjusted():
        return BEYOND
    is_coarse = int(number.as_tuple().exponent) > 0  # 2e7 says no more digits than 20000000
    return Decimal(int(number)) if is_coarse else number
