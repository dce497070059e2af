"""What submission.json states, in all the forms that people give it: the only reader of that file.

The one idea: seeds may stand under `seed_results`, under `seeds` as an object or a list of objects, or as `seed_N` at
the top; wherever a number stands, its key says what it is (pipeline/verification/keys.py). Numbers keep the digits that
were stated.

Source: the submissions of the challenge (docs/verifying.md).
Checked by: tests/verification/test_fields.py.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.base.checks import one_line
from pipeline.verification.findings import Finding, Place, Verdict, finding
from pipeline.verification.keys import Quantity, Statistic, meaning_of
from pipeline.verification.runs import stated_number

NAME = "submission.json"
MOST_BYTES = 1_000_000
HEADLINES = ("val_bpb", "val_loss")
"""Keys that state the record's score, which must be a number."""
_MOST_SEEDS = 64


class Stated(NamedTuple):
    """A number of submission.json that says something of the record."""

    place: str
    """Its keys, joined by dots."""
    seed: str | None
    """None for the record as a whole."""
    quantity: Quantity
    statistic: Statistic
    words: frozenset[str]
    value: Decimal

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
    seeds = {seed: entry for seed, _, entry in _entries(fields)}
    stated = list(reader.stated(fields))
    return Submission(fields, seeds, stated, reader.findings)


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
        """Yield every number whose key says what it is, of the record and of its seeds."""
        entries = list(_entries(fields))
        for seed, prefix, entry in [(None, "", fields), *entries]:
            for key, value in entry.items():
                meaning = meaning_of(key)
                number = self._number(prefix + key, key, value) if meaning else None
                if meaning and number is not None:
                    yield Stated(prefix + key, seed, *meaning, number)

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
    """Yield seed, place and entry of each seed, in whatever form they are stated."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key in ("seed_results", "seeds", "per_seed", "results_per_seed"):
        for name, entry in _items(fields.get(key)):
            seed = _seed_in(name)
            is_new = seed is not None and not found.get(seed, ("", {}))[1]
            if seed is not None and is_new and len(found) < _MOST_SEEDS:
                found[seed] = (f"{key}.{name}.", entry)
    for key, value in fields.items():
        if re.fullmatch(r"seed_?\d{1,18}", key) and isinstance(value, Mapping) and len(found) < _MOST_SEEDS:
            found.setdefault(re.sub(r"\D", "", key), (f"{key}.", value))
    yield from ((seed, *entry) for seed, entry in found.items())


def _items(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and entry of a list or object of seeds; a bare number is a bpb, in a list it is a seed."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if isinstance(entry, Mapping):
                yield name, entry
            elif number_in(entry) is not None:
                yield name, {"val_bpb": entry}
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping) and "seed" in entry:
                yield str(entry["seed"]), entry
            elif isinstance(entry, int):
                yield str(entry), {}


def _seed_in(name: str) -> str | None:
    found = re.fullmatch(r"(?:seed_?)?(\d{1,18})", name)
    return found[1] if found else None


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
