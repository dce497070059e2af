"""What is known of classes and functions that a program imports, by looking at them where the record is built.

The one idea: the attributes of a foreign base class decide which methods others may call and which names are not ours,
so they are read off the class itself, not written down here. Another version of torch can only change the result by a
name that the library uses too.

Checked by: tests/record/test_specialise_meaning.py, tests/record/test_flatten.py.
"""

import contextlib
import importlib
import inspect
import io
import re
from collections import abc
from typing import Any, NamedTuple

PROTOCOL_METHODS = frozenset(
    name
    for kind in (
        io.IOBase,
        io.RawIOBase,
        io.TextIOBase,
        abc.MutableMapping,
        abc.MutableSequence,
        abc.MutableSet,
        abc.Generator,
    )
    for name in dir(kind)
)
"""Methods that foreign code calls on whatever it is given."""


class Foreign(NamedTuple):
    """Whether something is a class, and the attributes of its objects."""

    is_class: bool
    attributes: frozenset[str]


SEEN: dict[str, Foreign] = {}
"""What has been looked at, by dotted path."""


def foreign(meaning: str) -> Foreign:
    """Return what is known of a class or function by its dotted path; raises ValueError where there is none."""
    if meaning not in SEEN:
        found = _object_at(meaning)
        is_class = isinstance(found, type)
        SEEN[meaning] = Foreign(is_class, _attributes_of(found) if is_class else frozenset())
    return SEEN[meaning]


def _object_at(meaning: str) -> Any:
    module, *names = meaning.split(".")
    try:
        found: Any = importlib.import_module(module)
        for name in names:
            module = f"{module}.{name}"
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(module)
    except ImportError:
        found = getattr(importlib.import_module("builtins"), meaning, None)
    if found is None:
        raise ValueError(f"specialise: `{meaning}` is not installed here, and what it is decides what may be removed")
    return found


def _attributes_of(base: type) -> frozenset[str]:
    """Return the names that a class defines, and those that its methods set on `self`."""
    found = set(dir(base))
    for ancestor in base.__mro__:
        with contextlib.suppress(OSError, TypeError):  # written in C: dir tells all
            found.update(re.findall(r"\bself\.(\w+)", inspect.getsource(ancestor)))
    return frozenset(found)
