"""What submission.json states, in all the forms that people give it: the only reader of that file.

The one idea: seeds may stand under `seed_results`, under `seeds` as an object or a list of objects, or as `seed_N` at
the top; wherever a number stands, its key says what it is (pipeline/verification/keys.py). Numbers keep the digits that
were stated.

Source: the submissions of the challenge (docs/verifying.md).
Checked by: tests/verification/test_fields.py.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.base.checks import one_line
from pipeline.verification.findings import Finding, Place, Verdict, finding, shown
from pipeline.verification.keys import Meaning, Quantity, Statistic, is_about_us, meaning_of, words_of
from pipeline.verification.runs import stated_number

NAME = "submission.json"
MOST_BYTES = 1_000_000
HEADLINES = ("val_bpb", "val_loss")
"""Keys that state the record's score, which must be a number."""
_MOST_SEEDS, MOST_STATED, _DEEPEST = 64, 400, 3
_ASIDE = frozenset(("comparison", "baseline", "compliance", "audit", "config", "hyperparameters", "all", "history"))
"""Words of keys whose objects speak of something else."""


class Stated(NamedTuple):
    """A number of submission.json that says something of the record."""

    place: str
    """Its keys, joined by dots."""
    seed: str | None
    """None for the record as a whole."""
    meaning: Meaning
    value: Decimal

    @property
    def quantity(self) -> Quantity:
        """What the number is."""
        return self.meaning.quantity

    @property
    def statistic(self) -> Statistic:
        """Which statistic over the seeds it is."""
        return self.meaning.statistic

    @property
    def words(self) -> frozenset[str]:
        """The words of its key."""
        return self.meaning.words

    @property
    def at(self) -> Place:
        """Where it is stated, and what."""
        return Place(NAME, self.place, self.value)


class Submission(NamedTuple):
    """What submission.json holds."""

    fields: Mapping[str, Any]
    """Numbers as Decimal or int."""
    seeds: Mapping[str, Mapping[str, Any]]
    """Seed -> its entry, in order; empty entries of seeds that are only listed."""
    stated: list[Stated]
    findings: list[Finding]
    """What is wrong with the file itself."""


NOTHING = Submission({}, {}, [], [])


def read_submission(content: bytes) -> Submission:
    """Return what the file states; whatever is wrong with it is among the findings."""
    reader = _Reader()
    try:
        fields = reader.parse(content)
    except (ValueError, RecursionError) as error:
        said = f"not valid JSON ({one_line(error, 120)})"
        return NOTHING._replace(findings=[*reader.findings, finding("files", "contradiction", f"{NAME}: {said}")])
    seeds: dict[str, Mapping[str, Any]] = {}
    for seed, _, entry in _entries(fields):
        seeds[seed] = seeds.get(seed) or entry
    stated = list(itertools.islice(reader.stated(fields), MOST_STATED + 1))
    if len(stated) > MOST_STATED:
        said = f"{NAME}: states more than {MOST_STATED} numbers of the record: the rest is not compared"
        reader.findings.append(finding("files", "contradiction", said))
    return Submission(fields, seeds, stated[:MOST_STATED], reader.findings)


class _Reader:
    """Reads a submission and keeps what is wrong with it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def parse(self, content: bytes) -> Mapping[str, Any]:
        """Return the object that the file holds."""
        if content.startswith(b"\xef\xbb\xbf"):
            self._warn("begins with a byte order mark, expected none")
            content = content[3:]
        fields = json.loads(
            content.decode("utf-8"),
            parse_float=stated_number,
            parse_int=lambda digits: int(stated_number(digits)),
            parse_constant=Decimal,
            object_pairs_hook=self._object,
        )
        if not isinstance(fields, dict):
            raise ValueError(f"got {type(fields).__name__}, expected an object")
        return fields

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                said = f"{NAME}: {key} is there twice, as {fields[key]!s:.40} and {value!s:.40}"
                verdict: Verdict = "warning" if fields[key] == value else "contradiction"
                self.findings.append(finding("files", verdict, said, Place(NAME, key, str(value))))
            fields[key] = value
        return fields

    def stated(self, fields: Mapping[str, Any]) -> Iterator[Stated]:
        """Yield every number whose keys say what it is, of the record and of its seeds."""
        entries = list(_entries(fields))
        apart = {prefix.partition(".")[0] for _, prefix, _ in entries}
        own = {key: value for key, value in fields.items() if key not in apart}
        for seed, prefix, entry in [(None, "", own), *entries]:
            yield from self._within(seed, prefix, "", entry, _DEEPEST)

    def _within(
        self, seed: str | None, prefix: str, words: str, held: Mapping[str, Any], depth: int
    ) -> Iterator[Stated]:
        """Yield the numbers of an object and of objects in it, whose keys are read with those above them."""
        for key, value in held.items():
            whole = f"{words} {key}".strip()
            if isinstance(value, Mapping) and value:
                if depth and not frozenset(words_of(key)) & _ASIDE:
                    yield from self._within(seed, f"{prefix}{key}.", whole, value, depth - 1)
            elif meaning := meaning_of(whole):
                number = self._number(prefix + key, key, value)
                if number is not None:
                    yield Stated(prefix + key, seed, meaning, number)
            elif number_in(value) is not None and is_about_us(key):
                said = f"{NAME}: {prefix}{key} {shown(value)} is not compared: its words speak of something else"
                self.findings.append(finding("files", "not stated", said, Place(NAME, prefix + key, value)))

    def _number(self, place: str, key: str, value: Any) -> Decimal | None:
        """Return a value as a number; None, and what is wrong with it, when it is none."""
        number = number_in(value)
        if isinstance(value, str) and number is None and (as_text := _number_in_text(value)) is not None:
            self._warn(f"{place} is the text {value!r:.40}, expected a number", Place(NAME, place, value))
            return as_text
        if number is None and (key in HEADLINES or value is not None):
            verdict: Verdict = "contradiction" if key in HEADLINES or isinstance(value, Decimal) else "not stated"
            said = f"{NAME}: {place} is {value!s:.40}, expected a number"
            self.findings.append(finding("files", verdict, said, Place(NAME, place, str(value))))
        return number

    def _warn(self, said: str, place: Place | None = None) -> None:
        self.findings.append(finding("files", "warning", f"{NAME}: {said}", place))


def _entries(fields: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield seed, place and entry of each seed, in whatever forms they are stated: a seed may be in several."""
    seen: set[str] = set()
    for key in dict.fromkeys((*_HOLDERS, *fields)):
        pairs = _items(fields.get(key)) if key in _HOLDERS else [(key, fields[key])]
        for name, entry in pairs:
            seed = _seed_in(name, key in _HOLDERS)
            if seed is not None and isinstance(entry, Mapping) and (seed in seen or len(seen) < _MOST_SEEDS):
                seen.add(seed)
                yield seed, f"{key}.{name}." if key in _HOLDERS else f"{key}.", entry
    alone = number_in(fields.get("seed"))
    if alone is not None and not seen:
        yield str(int(alone)), "seed.", {}


_HOLDERS = ("seed_results", "seeds", "per_seed", "per_seed_results", "results_per_seed", "seed_metrics", "runs")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and entry of a list or object of seeds; a bare number is a bpb, in a list it is a seed."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield name, {"val_bpb": entry} if number_in(entry) is not None else entry
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping) and "seed" in entry:
                yield str(entry["seed"]), entry
            elif isinstance(entry, int):
                yield str(entry), {}


def _seed_in(name: str, is_held: bool) -> str | None:
    """Return the seed that a key names; `is_held`: among seeds, where a number alone is one."""
    found = re.fullmatch(r"(?:seed|s)[ _-]?(\d{1,18})" + (r"|(\d{1,18})" if is_held else ""), name, re.IGNORECASE)
    return next(filter(None, found.groups()), None) if found else None


def in_ms(stated: Stated) -> Decimal:
    """Return a stated time in milliseconds, at the digits it was stated with."""
    return stated.value if "ms" in stated.words else stated.value * Decimal("1E3")


def number_in(value: Any) -> Decimal | None:
    """Return a finite number that was stated as one; None for anything else."""
    is_number = isinstance(value, Decimal | int) and not isinstance(value, bool) and math.isfinite(value)
    return Decimal(value) if is_number else None


def _number_in_text(text: str) -> Decimal | None:
    is_number = re.fullmatch(r"\s*-?\d[\d,_]{0,30}(?:\.\d{1,30})?\s*", text)
    return stated_number(text.strip()) if is_number else None


def part_of(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object that was stated under a key; an empty one for anything else."""
    value = fields.get(key)
    return value if isinstance(value, Mapping) else {}
