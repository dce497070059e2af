"""The strict loader of params.yaml: the only reader of that file.

Each section is a frozen dataclass that lives beside the library code it configures; this module knows only their
addresses and imports a section's class when it is asked for. There are no defaults: a key is present or it is an error.

Checked by: tests/test_config.py.
"""

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

if TYPE_CHECKING:
    from pipeline.data.config import DataConfig
    from pipeline.model.config import ModelConfig
    from pipeline.quant.config import BudgetConfig, CalibrateConfig, QuantizeConfig
    from pipeline.scoring.config import EvaluateConfig
    from pipeline.submission.config import PackageConfig
    from pipeline.training.config import TrainConfig
    from pipeline.training.launch_config import LaunchConfig

SECTIONS = {
    "seeds": None,
    "data": "pipeline.data.config:DataConfig",
    "model": "pipeline.model.config:ModelConfig",
    "train": "pipeline.training.config:TrainConfig",
    "launch": "pipeline.training.launch_config:LaunchConfig",
    "calibrate": "pipeline.quant.config:CalibrateConfig",
    "quantize": "pipeline.quant.config:QuantizeConfig",
    "budget": "pipeline.quant.config:BudgetConfig",
    "evaluate": "pipeline.scoring.config:EvaluateConfig",
    "package": "pipeline.submission.config:PackageConfig",
}
"""Section of params.yaml -> module:class of its dataclass; `seeds` is a plain list."""


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
    document = read_yaml(Path(path))
    _check_keys(document, tuple(SECTIONS), "", str(path))
    return Params(**{name: _parse_section(name, document[name]) for name in sections})


def parse_value(annotation: Any, value: object, where: str) -> Any:
    """Return `value` (plain YAML or JSON data) as the type `annotation` says; `where` is its dotted key for errors."""
    if dataclasses.is_dataclass(annotation):
        return _parse_dataclass(annotation, value, where)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return _parse_choice(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, list | tuple), where, value, "a list")
        return tuple(parse_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))  # type: ignore
    if origin is dict:
        _expect(isinstance(value, Mapping), where, value, "a mapping")
        return {str(key): parse_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}  # type: ignore
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    return _parse_scalar(annotation, value, where)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a configuration file as plain values; ValueError, one line, when it is absent or no mapping."""
    from ruamel.yaml import YAMLError

    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run from the root of the checkout or pass --params") from None
    except YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    _expect(isinstance(document, dict), str(path), document, "a mapping of sections")
    return document


def parse_yaml(text: str) -> Any:
    """Return YAML 1.2 text as plain values; raises ruamel.yaml's YAMLError."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _parse_section(name: str, value: object) -> object:
    address = SECTIONS[name]
    if address is None:
        seeds = parse_value(tuple[int, ...], value, name)
        _expect(len(seeds) >= 1 and len(set(seeds)) == len(seeds), name, value, "at least one seed, each once")
        return seeds
    module, _, class_name = address.partition(":")
    return parse_value(getattr(importlib.import_module(module), class_name), value, name)


def _parse_dataclass(cls: Any, value: object, where: str) -> Any:
    _expect(isinstance(value, Mapping), where, value, "a mapping of keys")
    assert isinstance(value, Mapping)
    annotations = typing.get_type_hints(cls)
    _check_keys(value, tuple(annotations), f"{where}.", where)
    fields = {key: parse_value(annotations[key], value[key], f"{where}.{key}") for key in annotations}
    try:
        return cls(**fields)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _check_keys(found: Mapping, expected: tuple[str, ...], prefix: str, where: str) -> None:
    for key in found:
        if key not in expected:
            raise ValueError(f"{prefix}{key}: unknown key in {where}{_nearest(str(key), expected)}")
    for key in expected:
        if key not in found:
            others = tuple(str(k) for k in found)
            raise ValueError(f"{prefix}{key}: missing key in {where}; present: {', '.join(others) or 'none'}")


def _parse_choice(choices: tuple, value: object, where: str) -> object:
    if value not in choices:
        names = tuple(str(choice) for choice in choices)
        raise ValueError(f"{where}: got {value!r}, expected {' or '.join(names)}{_nearest(str(value), names)}")
    return value


def _parse_union(members: tuple, value: object, where: str) -> Any:
    """Parse `X | None`, words or a scalar (`Literal["auto"] | int`), or dataclasses told apart by a literal `kind`."""
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    if len(members) == 1:
        return parse_value(members[0], value, where)
    words = [word for member in members for word in typing.get_args(member) if typing.get_origin(member) is Literal]
    if value in words:
        return value
    members = tuple(member for member in members if typing.get_origin(member) is not Literal)
    if words:
        _expect(type(value) is not str, where, value, f"{' or '.join(words)} or a number")
    if len(members) == 1:
        return parse_value(members[0], value, where)
    _expect(isinstance(value, Mapping) and "kind" in value, where, value, "a mapping with a key `kind`")
    assert isinstance(value, Mapping)
    hints = {member: typing.get_type_hints(member) for member in members}
    kinds = {typing.get_args(keys["kind"])[0]: None for keys in hints.values()}
    chosen = _parse_choice(tuple(kinds), value["kind"], f"{where}.kind")
    of_kind = [member for member, keys in hints.items() if typing.get_args(keys["kind"])[0] == chosen]
    # One kind may come in several forms: the one that shares most keys with what is there is the one meant.
    return parse_value(max(of_kind, key=lambda member: len(hints[member].keys() & value.keys())), value, where)


def _parse_scalar(kind: type, value: object, where: str) -> object:
    """Accept exactly the type, or an int where a float is due; a bool is never a number."""
    if kind is float and type(value) is int:
        return float(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    _expect(type(value) is kind, where, value, names[kind])
    return value


def _expect(ok: bool, where: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{where}: got {value!r} ({type(value).__name__}), expected {expected}")


def _nearest(name: str, valid: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; valid: {', '.join(valid)}"
