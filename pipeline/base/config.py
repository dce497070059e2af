"""The strict loader of params.yaml: the only reader of that file.

Each section is a frozen dataclass that lives beside the library code it configures; this module knows only their
addresses and imports a section's class when it is asked for. There are no defaults: a key is present or it is an error.
Every number has a range: a field's own checks say from where, `LARGEST` how far.

Checked by: tests/base/test_config.py, tests/hostile/test_params.py.
"""

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

if TYPE_CHECKING:
    from pipeline.corpus.config import DataConfig
    from pipeline.launching.config import LaunchConfig
    from pipeline.model.config import ModelConfig
    from pipeline.quant.config import BudgetConfig, CalibrateConfig, QuantizeConfig
    from pipeline.record.config import PackageConfig
    from pipeline.scoring.config import EvaluateConfig
    from pipeline.training.config import TrainConfig

SECTIONS = {
    "seeds": None,
    "data": "pipeline.corpus.config:DataConfig",
    "model": "pipeline.model.config:ModelConfig",
    "train": "pipeline.training.config:TrainConfig",
    "launch": "pipeline.launching.config:LaunchConfig",
    "calibrate": "pipeline.quant.config:CalibrateConfig",
    "quantize": "pipeline.quant.config:QuantizeConfig",
    "budget": "pipeline.quant.config:BudgetConfig",
    "evaluate": "pipeline.scoring.config:EvaluateConfig",
    "package": "pipeline.record.config:PackageConfig",
}
"""Section of params.yaml -> module:class of its dataclass; `seeds` is a plain list."""

LARGEST = {
    "seeds": 2**63 - 1,
    **dict.fromkeys(("blocks", "loops"), 256),
    "processes": 4096,
    "mult": 1000,
    **dict.fromkeys(("dim", "dims", "width", "rank", "heads", "groups"), 2**16),
    "buckets": 2**24,
}
"""Last word of a number's name -> how far from 0 it may be: beyond any sane use, below what hangs or fills memory."""
LARGEST_OF_TYPE = {int: 2**31 - 1, float: 10**12}
"""The same for every other name."""
MOST_ENTRIES = 4096
"""Entries of a list or of a mapping with names of the user's."""
MOST_CHARACTERS = 200_000
"""Of a configuration file: as it stands, and once its aliases are followed."""
SHOWN_CHARACTERS, LISTED_CHARACTERS = 100, 300
"""How much of a value, and of a list of names, a message shows."""
UNHASHED_NAMES = ("size", "nfiles")
"""Keys that DVC leaves out of its run-cache key, at any depth: a change of their values would go unnoticed."""


class Params:
    """The sections that were asked for, as attributes; a section that was not asked for does not exist."""

    seeds: tuple[int, ...]
    data: "DataConfig"
    model: "ModelConfig"
    train: "TrainConfig"
    launch: "LaunchConfig"
    calibrate: "CalibrateConfig"
    quantize: "QuantizeConfig"
    budget: "BudgetConfig"
    evaluate: "EvaluateConfig"
    package: "PackageConfig"

    def __init__(self, **sections: object) -> None:
        self.__dict__.update(sections)


def load_params(path: str | Path, sections: Iterable[str]) -> Params:
    """Read `sections` of the YAML 1.2 file at `path`, each checked key by key.

    Raises ValueError with one line: dotted key, value found, what was expected, nearest valid name.
    """
    document = with_model_context(read_yaml(Path(path)))
    _check_keys(document, tuple(SECTIONS), "", str(path))
    return Params(**{name: _parse_section(name, document[name]) for name in sections})


def with_model_context(document: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose protocols of no context of their own, null, have the model's; changes `document`."""
    match document:
        case {"model": {"context_tokens": int() as length}, "evaluate": {"protocols": dict() as protocols}}:
            for protocol in protocols.values():
                if isinstance(protocol, dict) and protocol.get("context_tokens", length) is None:
                    protocol["context_tokens"] = length
    return document


def parse_value(annotation: Any, value: object, where: str) -> Any:
    """Return `value` (plain YAML or JSON data) as the type `annotation` says; `where` is its dotted key for errors."""
    if dataclasses.is_dataclass(annotation):
        return _parse_dataclass(annotation, value, where)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return _parse_choice(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, list | tuple), where, value, "a list")
        return tuple(parse_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_few(value, where)))
    if origin is dict:
        _expect(isinstance(value, Mapping), where, value, "a mapping")
        _check_names(_few(value, where), f"{where}.")
        return {str(key): parse_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}  # type: ignore
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    return _parse_scalar(annotation, value, where)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a configuration file as plain values; ValueError, one line, when it is absent or no mapping."""
    text = _read_text(path)
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _expect(isinstance(document, dict), str(path), document, "a mapping of sections")
    return document


def parse_yaml(text: str) -> Any:
    """Return YAML 1.2 text as plain values; ValueError, one line, names the line at fault."""
    from ruamel.yaml import YAML, YAMLError
    from ruamel.yaml.constructor import ConstructorError, SafeConstructor

    class Constructor(SafeConstructor):
        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                problem = f"{node.value!r:.40} is no {node.tag.rpartition(':')[2]}"
                raise ConstructorError(problem=problem, problem_mark=node.start_mark) from None

    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        node = yaml.compose(text)
        if _characters(node, {}) > MOST_CHARACTERS:
            raise ValueError(f"more than {MOST_CHARACTERS:,} characters with aliases (*) followed; use fewer of them")
        return None if node is None else yaml.constructor.construct_document(node)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}not valid YAML: {problem[:160]}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None


def _read_text(path: Path) -> str:
    """Return the text of a configuration file: a regular file of UTF-8 and of no more than some size."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; go to the folder that has it, or lay one out with `fairway init`")
    if not path.is_file():
        raise ValueError(f"{path}: got a {'folder' if path.is_dir() else 'pipe or device'}, expected a YAML file")
    if (size := path.stat().st_size) > MOST_CHARACTERS:
        raise ValueError(f"{path}: got {size:,} bytes, expected a configuration of at most {MOST_CHARACTERS:,}")
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from None


def _characters(node: Any, known: dict[int, int]) -> int:
    """Return the characters that a YAML node stands for, its aliases followed; `known` holds them by node."""
    if id(node) not in known:
        known[id(node)] = MOST_CHARACTERS + 1  # of a node inside itself
        value = node.value if node is not None else ""
        parts = value if isinstance(value, list) else []
        nodes = [item for part in parts for item in (part if isinstance(part, tuple) else [part])]
        known[id(node)] = 1 + sum(_characters(item, known) for item in nodes) + (0 if parts else len(value))
    return known[id(node)]


def _parse_section(name: str, value: object) -> object:
    address = SECTIONS[name]
    if address is None:
        seeds = parse_value(tuple[int, ...], value, name)
        ok = len(seeds) >= 1 and len(set(seeds)) == len(seeds) and min(seeds) >= 0
        _expect(ok, name, value, "at least one seed, each once and 0 or more")
        return seeds
    module, _, class_name = address.partition(":")
    return parse_value(getattr(importlib.import_module(module), class_name), value, name)


def _parse_dataclass(cls: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), where, value, "a mapping of keys")
    annotations = typing.get_type_hints(cls)
    _check_keys(value, tuple(annotations), f"{where}.", where)
    fields = {key: parse_value(annotations[key], value[key], f"{where}.{key}") for key in annotations}
    try:
        return cls(**fields)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _check_keys(found: Mapping, expected: tuple[str, ...], prefix: str, where: str) -> None:
    _check_names(found, prefix)
    for key in found:
        if key not in expected:
            raise ValueError(f"{prefix}{str(key)[:60]}: unknown key in {where}{_nearest(str(key), expected)}")
    for key in expected:
        if key not in found:
            raise ValueError(f"{prefix}{key}: missing key in {where}; present: {_listed(found)}")


def _check_names(found: Mapping, prefix: str) -> None:
    for name in UNHASHED_NAMES:
        if name in found:
            raise ValueError(
                f"{prefix}{name}: got a key named {name}, expected another name: "
                f"DVC leaves keys named {' or '.join(UNHASHED_NAMES)} out of its run-cache key"
            )


def _few(entries: Any, where: str) -> Any:
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{where}: got {len(entries)} entries, expected at most {MOST_ENTRIES}")
    return entries


def _parse_choice(choices: tuple, value: object, where: str) -> object:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        names = tuple(str(choice) for choice in choices)
        raise ValueError(f"{where}: got {_shown(value)}, expected {' or '.join(names)}{_nearest(str(value), names)}")
    return value


def _parse_union(members: tuple, value: Any, where: str) -> Any:
    """Parse `X | None`, words or a scalar, a scalar or list or mapping, or mappings told apart by a literal `kind`."""
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    if len(members) == 1:
        return parse_value(members[0], value, where)
    words = [word for member in members for word in typing.get_args(member) if typing.get_origin(member) is Literal]
    if value in words:
        return value
    members = tuple(member for member in members if typing.get_origin(member) is not Literal)
    _expect(not words or type(value) is not str, where, value, f"{' or '.join(map(str, words))} or a number")
    mapped, is_list = tuple(filter(dataclasses.is_dataclass, members)), isinstance(value, list | tuple)
    plain = [member for member in members if member not in mapped]
    plain.sort(key=lambda member: (typing.get_origin(member) is tuple) is not is_list)
    members = mapped if mapped and (isinstance(value, Mapping) or not plain) else (plain[0],)
    if len(members) == 1:
        return parse_value(members[0], value, where)
    _expect(isinstance(value, Mapping) and "kind" in value, where, value, "a mapping with a key `kind`")
    hints = {member: typing.get_type_hints(member) for member in members}
    kinds = {member: typing.get_args(keys["kind"])[0] for member, keys in hints.items()}
    chosen = _parse_choice(tuple(dict.fromkeys(kinds.values())), value["kind"], f"{where}.kind")
    # One kind may come in several forms: the one that shares most keys with what is there is the one meant.
    meant = max(members, key=lambda member: (kinds[member] == chosen, len(hints[member].keys() & value.keys())))
    return parse_value(meant, value, where)


def _parse_scalar(kind: type, value: object, where: str) -> object:
    """Accept exactly the type, or an int where a float is due; a bool is never a number. Numbers have a range."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    _expect(type(value) is kind or (kind is float and type(value) is int), where, value, names[kind])
    if isinstance(value, int | float) and kind is not bool:
        largest = LARGEST.get(re.split(r"[._]", where.partition("[")[0])[-1], LARGEST_OF_TYPE[kind])
        _expect(-largest <= value <= largest, where, value, f"{names[kind]} within {largest:,} of 0")
        return kind(value)
    return value


def _expect(ok: bool, where: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{where}: got {_shown(value)} ({type(value).__name__}), expected {expected}")


def _listed(names: Iterable) -> str:
    text = ", ".join(map(str, names)) or "none"
    return text if len(text) <= LISTED_CHARACTERS else f"{text[:LISTED_CHARACTERS]}..."


def _shown(value: object) -> str:
    """Return a value as Python writes it, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list inside itself
        return "a value too large to be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _nearest(name: str, valid: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name[:60], valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; valid: {_listed(valid)}"
