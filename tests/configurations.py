"""Whole configurations for tests: valid documents in which every field of the schema occurs, and the schema itself."""

import copy
import dataclasses
import importlib
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.base.config import SECTIONS, parse_value, read_yaml, with_model_context

REPO = Path(__file__).resolve().parent.parent
FILES = [REPO / "params.yaml", *sorted((REPO / "recipes").glob("*.yaml"))]

_CLIP = {
    "kind": "clip",
    "bits": dict.fromkeys(("attention", "mlp", "looped", "other", "embedding", "table"), 6),
    "embedding_clip_ratio": 1.0,
    "table_clip_ratio": 1.0,
    "min_clip_std": 1.0,
    "max_clip_std": 20.0,
}
_UNSHIPPED: list[dict[str, Any]] = [
    {
        "quantize.steps": _CLIP,
        "quantize.trellis_states": None,
        "train.average": {"kind": "swa", "every_steps": 10},
        "package.baseline": {"name": "other", "val_losses": [1.5, 1.6]},
    },
    {
        "train.quantization": {"kind": "noise", "from_frac": 0.5, "bits": 6, "clip_std": 12.0},
        "train.context_stages": [{"from_frac": 0.0, "context_tokens": 128}, {"from_frac": 0.5, "context_tokens": 256}],
        "model.looped_mlp.choke": {"shape": "flat", "dim": 4, "groups": 1},
    },
    {
        "model.logit_softcap": {"positive": 30.0, "negative": 20.0, "trained": True},
        "model.attention.qk_gain": [1.0, 1.5, 2.0, 2.5, 3.0],
        "train.matrix_lr": {"peak": 0.02, "block_factors": [1.0, 0.9, 0.8, 0.7, 0.6]},
        "train.muon_momentum_warmup_steps": {"cycle_steps": 50},
        "train.adam_beta1": {"embedding": 0.9, "scalar": 0.8},
        "train.average": {"kind": "ema", "decay": 0.99, "from_frac": 0.0, "every_steps": 10},
    },
    {
        "model.conditioners.step": {"kind": "contractive", "fraction": 0.5},
        "model.conditioners.tap": {"dim": 4, "encoder_visits": [0], "per_loop": True},
    },
]
"""Changes of params.yaml, by dotted key, that bring in what no shipped file has."""


@cache
def documents() -> list[dict[str, Any]]:
    """Return valid documents as plain values; every field of the schema occurs in one of them."""
    shipped = [with_model_context(read_yaml(path)) for path in FILES]
    return [*shipped, *(changed(shipped[0], changes) for changes in _UNSHIPPED)]


def changed(document: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of a document with other values at dotted keys; `[n]` is an entry of a list."""
    document = copy.deepcopy(document)
    for key, value in changes.items():
        *path, last = [int(part[1:]) if part[0] == "[" else part for part in re.findall(r"\[\d+|[^.\[\]]+", key)]
        place = document
        for part in path:
            place = place[part]
        place[last] = value
    return document


def section_class(section: str) -> Any:
    """Return the dataclass of a section of params.yaml."""
    module, _, name = (SECTIONS[section] or "").partition(":")
    return getattr(importlib.import_module(module), name)


def classes_below(annotation: Any) -> set[type]:
    """Return every dataclass that an annotation reaches."""
    if dataclasses.is_dataclass(annotation):
        return {typing.cast(type, annotation)}.union(*map(classes_below, typing.get_type_hints(annotation).values()))
    return set().union(*map(classes_below, typing.get_args(annotation)))


def takes_numbers(annotation: Any) -> bool:
    """Tell whether a field holds a number, or a list or mapping of numbers; one of a few literals is none."""
    return annotation in (int, float) or (
        typing.get_origin(annotation) is not typing.Literal and any(map(takes_numbers, typing.get_args(annotation)))
    )


SCHEMA = set().union(*(classes_below(section_class(name)) for name, address in SECTIONS.items() if address))
"""Every dataclass that params.yaml is made of."""


def numeric_fields(value: Any, where: str) -> Iterator[tuple[type, str, str]]:
    """Yield (dataclass, field, dotted key) of every numeric field of a loaded section and of what is inside."""
    if dataclasses.is_dataclass(value):
        for name, annotation in typing.get_type_hints(type(value)).items():
            if takes_numbers(annotation):
                yield type(value), name, f"{where}.{name}"
            yield from numeric_fields(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from numeric_fields(item, f"{where}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from numeric_fields(item, f"{where}.{key}")


def places_of_numbers() -> dict[tuple[type, str], tuple[dict[str, Any], str]]:
    """Return, for every numeric field of the schema, a document and the dotted key at which it stands there."""
    places: dict[tuple[type, str], tuple[dict[str, Any], str]] = {}
    for document in documents():
        for section in filter(SECTIONS.get, SECTIONS):
            loaded = parse_value(section_class(section), document[section], section)
            for cls, name, key in numeric_fields(loaded, section):
                places.setdefault((cls, name), (document, key))
    return places
