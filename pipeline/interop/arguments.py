"""Constructor arguments of community programs: types, published defaults, and errors in the program's own words.

Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from pipeline.base.checks import one_line, require
from pipeline.base.config import parse_value
from pipeline.model.config import ModelConfig
from pipeline.model.parts.config import ConditionersConfig

DEFAULT_CONTEXT_TOKENS = 1024
_MOST_PARTS = 128
"""Most blocks, passes, groups or anything else that is counted and not measured."""
_MOST_SIZE = 1 << 24
"""Largest width, table or length."""
_SIZE_WORDS = {"tokens", "len", "size", "buckets", "dim", "dims"}


class ArgumentTable(NamedTuple):
    """What the constructor of one family of programs takes."""

    layout: str
    """Name of the family, for errors."""
    required: dict[str, Any]
    """Argument without a published default -> type."""
    optional: dict[str, tuple[Any, Any]]
    """Argument that may be left out -> (type, published default); type `object` is checked by the layout."""
    fields: dict[str, str]
    """Field of our configuration, dotted -> argument, where the names differ."""
    may_be_negative: tuple[str, ...] = ()
    """Whole numbers below zero that mean something."""


COMMON_OPTIONAL: dict[str, tuple[Any, Any]] = {
    "context_tokens": (int, DEFAULT_CONTEXT_TOKENS),
    "tie_embeddings": (bool, True),
    "tied_embed_init_std": (float, 0.005),
    "embed_bottleneck": (int, 0),
}
"""Arguments of every layout; `context_tokens` is ours, it sets the RoPE base."""

COMMON_FIELDS = {
    "attention.num_heads": "num_heads",
    "attention.num_kv_heads": "num_kv_heads",
    "attention.qk_gain": "qk_gain_init",
    "rope.base": "rope_base",
    "mlp.mult": "mlp_mult",
    "embed_init_std": "tied_embed_init_std",
}


def complete_arguments(config: Mapping[str, Any], table: ArgumentTable) -> dict[str, Any]:
    """Return every argument, typed, defaults filled in; ValueError names the one that does not do."""
    require(isinstance(config, Mapping), "config", config, "a mapping of constructor arguments")
    types = {**table.required, **{name: kind for name, (kind, _) in table.optional.items()}}
    for name, value in config.items():
        shown = one_line(name, 60)
        nearest = difflib.get_close_matches(shown, types, n=1, cutoff=0)[0]
        require(name in types, shown, value, f"no such argument of layout {table.layout} (nearest: {nearest})")
    for name in table.required:
        require(name in config, name, None, f"a value: layout {table.layout} has no default for it")
    arguments = {name: default for name, (_, default) in table.optional.items()}
    for name, value in config.items():
        arguments[name] = value if types[name] is object else parse_value(types[name], value, name)
        if types[name] is int and name not in table.may_be_negative:
            require(arguments[name] >= 0, name, value, "at least 0")
        if types[name] is int:
            most = _MOST_PARTS if _SIZE_WORDS.isdisjoint(name.split("_")) else _MOST_SIZE
            require(arguments[name] <= most, name, value, f"at most {most}")
    require(arguments["tie_embeddings"] is True, "tie_embeddings", False, "true: heads are tied")
    require(
        arguments["embed_bottleneck"] == 0,
        "embed_bottleneck",
        arguments["embed_bottleneck"],
        "0: the network has no embedding bottleneck",
    )
    return arguments


def model_config_from(fields: dict[str, Any], table: ArgumentTable) -> ModelConfig:
    """Return the configuration with these (nested, plain) values; an error names the argument, not our field."""
    try:
        return parse_value(ModelConfig, {**fields, "unread": {}}, "")
    except ValueError as error:
        field, colon, reason = str(error).partition(":")
        field = field.lstrip(".")
        raise ValueError(f"{table.fields.get(field, field)}{colon}{reason}") from None


def listed_indices(layers: str | list[int] | tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return indices given as a list or in the published form "0,1"; ValueError names the argument."""
    if isinstance(layers, str):
        parts = [part.strip() for part in layers.split(",") if part.strip()]
        require(all(re.fullmatch("[0-9]+", part) for part in parts), name, layers, 'indices such as "0,1", or a list')
        layers = [int(part) for part in parts]
    indices = parse_value(tuple[int, ...], layers, name)
    require(
        len(set(indices)) == len(indices) and all(index >= 0 for index in indices),
        name,
        layers,
        "indices of at least 0, each once",
    )
    return indices


def conditioners_off() -> dict[str, Any]:
    """Return the section `conditioners` with nothing in it: false for what is true or false, null for the rest."""
    return {name: False if hint is bool else None for name, hint in get_type_hints(ConditionersConfig).items()}
