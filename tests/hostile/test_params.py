"""params.yaml at its worst: whatever a file holds, it loads or is refused in one short line, within seconds."""

import copy
import dataclasses
import importlib
import json
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import SECTIONS, load_params, read_yaml

REPO = Path(__file__).resolve().parent.parent.parent
FILES = [REPO / "params.yaml", *sorted((REPO / "recipes").glob("*.yaml"))]
MAY_BE_NEGATIVE = {"model.attention.qk_gain", "model.mlp.slope", "model.looped_mlp.slope"}

# What no shipped file has: section, place in it, value.
UNSHIPPED: list[tuple[str, str, Any]] = []


def section_class(section: str) -> Any:
    """Return the annotation of a section."""
    address = SECTIONS[section]
    if address is None:
        return tuple[int, ...]
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def dataclasses_of(annotation: Any) -> Iterator[Any]:
    """Yield every dataclass that an annotation reaches."""
    if dataclasses.is_dataclass(annotation):
        yield annotation
        for inner in typing.get_type_hints(annotation).values():
            yield from dataclasses_of(inner)
    elif typing.get_origin(annotation) is not typing.Literal:
        for inner in typing.get_args(annotation):
            yield from dataclasses_of(inner)


def number_types(annotation: Any) -> set[type]:
    """Return which of int and float an annotation takes, itself or as entries of its lists and mappings."""
    if dataclasses.is_dataclass(annotation) or typing.get_origin(annotation) is typing.Literal:
        return set()
    return {annotation} & {int, float} or set().union(*map(number_types, typing.get_args(annotation)))


SCHEMA = {cls for section in SECTIONS for cls in dataclasses_of(section_class(section))}
NUMBERS = {
    (cls, name) for cls in SCHEMA for name, annotation in typing.get_type_hints(cls).items() if number_types(annotation)
}


def leaves(annotation: Any, parsed: Any, where: str) -> Iterator[tuple[Any, str, str]]:
    """Yield (dataclass, field, dotted key) of every numeric field below a parsed value."""
    if dataclasses.is_dataclass(parsed):
        for name, inner in typing.get_type_hints(type(parsed)).items():
            if number_types(inner):
                yield type(parsed), name, f"{where}.{name}"
            yield from leaves(inner, getattr(parsed, name), f"{where}.{name}")
    elif isinstance(parsed, tuple):
        for index, item in enumerate(parsed):
            yield from leaves(None, item, f"{where}[{index}]")
    elif isinstance(parsed, Mapping):
        for key, item in parsed.items():
            yield from leaves(None, item, f"{where}.{key}")


def documents() -> list[dict[str, Any]]:
    """Return valid documents in which every field of the schema occurs."""
    shipped = [read_yaml(path) for path in FILES]
    extra = []
    for section, place, value in UNSHIPPED:
        document = copy.deepcopy(shipped[0])
        put(document, f"{section}.{place}", value)
        extra.append(document)
    return [*shipped, *extra]


def put(document: Any, key: str, value: Any) -> None:
    """Set the value at a dotted key."""
    *path, last = [int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", key)]
    for part in path:
        document = document[part]
    document[last] = value


def load(path: Path, document: Any) -> Any:
    """Write a document as JSON, which is YAML but for numbers that JSON has not, and load it."""
    text = json.dumps(document).replace("NaN", ".nan").replace("Infinity", ".inf")
    path.write_text(text)
    return load_params(path, SECTIONS)


def test_coverage(tmp_path):
    seen = set()
    for document in documents():
        params = load(tmp_path / "p.yaml", document)
        for section in SECTIONS:
            seen |= {(cls, name) for cls, name, _ in leaves(None, getattr(params, section), section)}
    print(sorted((c.__name__, n) for c, n in NUMBERS - seen))
    assert seen == NUMBERS
