"""What is known about a value before the program runs: a small set of possibilities, or nothing.

A `Known` is a frozenset of atoms; the empty set means that no value has arrived yet, `ANY` that it could be anything.
Sets only grow while an analysis runs, and a set that grows too large becomes `ANY`, so that every analysis ends.

Source: sparse conditional constant propagation (Wegman and Zadeck 1991), with allocation sites for objects.
Checked by: tests/record/test_specialise.py.
"""

import ast
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_MAX_ATOMS = 12
_MAX_DEPTH = 3
_MAX_COMBINATIONS = 64
_MAX_TEXT = 40


class Const(NamedTuple):
    """A plain constant; the name of its type keeps 1, 1.0 and True apart."""

    kind: str
    text: str
    value: Any


class Instance(NamedTuple):
    """Some object of a class of the program; with a `site`, one that a certain call constructs, unchanged since."""

    class_name: str
    site: int | None = None


class Items(NamedTuple):
    """A tuple of known length, with `keys` a dict that nobody changes, or a `view`: what only looks like a tuple."""

    values: tuple["Known", ...]
    keys: tuple[Any, ...] | None = None
    is_view: bool = False


class Reference(NamedTuple):
    """A function of the program's top level."""

    name: str


class Foreign(NamedTuple):
    """An object of a foreign class: neither None nor one of the program's own."""


class Anything(NamedTuple):
    """The atom of `ANY`."""


Atom = Const | Instance | Items | Reference | Foreign | Anything
Known = frozenset[Atom]
NOTHING: Known = frozenset()
FOREIGN: Known = frozenset({Foreign()})
ANY: Known = frozenset({Anything()})


def constant(value: object) -> Known:
    """Return the knowledge of exactly this None, bool, int, float, str, bytes or tuple of those."""
    if isinstance(value, tuple):
        return frozenset({Items(tuple(constant(item) for item in value))})
    return frozenset({Const(type(value).__name__, repr(value), value)})


def join(*parts: Known) -> Known:
    """Return what is known of a value that is one of `parts`."""
    found: Known = frozenset().union(*parts)
    if len(found) > _MAX_ATOMS:
        found = frozenset(Instance(atom.class_name) if isinstance(atom, Instance) else atom for atom in found)
    wide = Anything() in found or len(found) > _MAX_ATOMS or any(_depth(atom) > _MAX_DEPTH for atom in found)
    return ANY if wide else found


def _depth(atom: Atom) -> int:
    if not isinstance(atom, Items):
        return 0
    return 1 + max((_depth(inner) for value in atom.values for inner in value), default=0)


def truths(known: Known, falsy_classes: Iterable[str] = ()) -> set[bool]:
    """Return the truth values possible; objects are true but for those of classes that define otherwise."""
    found: set[bool] = set()
    for atom in known:
        if isinstance(atom, Const):
            found.add(bool(atom.value))
        elif isinstance(atom, Items):
            found.add(bool(atom.values))
        elif isinstance(atom, Reference) or (isinstance(atom, Instance) and atom.class_name not in falsy_classes):
            found.add(True)
        else:
            return {True, False}
    return found


def single(known: Known) -> Const | None:
    """Return the constant that a value must be, if it is one."""
    (atom,) = known if len(known) == 1 else (None,)
    return atom if isinstance(atom, Const) else None


def plain_values(known: Known) -> list[Any] | None:
    """Return every Python value possible, or None where they cannot be listed."""
    found: list[Any] = []
    for atom in known:
        if isinstance(atom, Const):
            found.append(atom.value)
        elif isinstance(atom, Items) and atom.keys is None and not atom.is_view:
            members = [plain_values(value) for value in atom.values]
            if any(member is None or len(member) != 1 for member in members):
                return None
            found.append(tuple(member[0] for member in members if member))
        else:
            return None
    return found


def compute(function: Callable[..., Any], *arguments: Known) -> Known:
    """Return what a pure function gives for every combination of arguments; `ANY` where that cannot be told."""
    lists = [plain_values(argument) for argument in arguments]
    if NOTHING in arguments:
        return NOTHING
    listed = [values for values in lists if values is not None]
    if len(listed) < len(lists):
        return ANY
    combinations = list(itertools.product(*listed))
    if len(combinations) > _MAX_COMBINATIONS:
        return ANY
    results = []
    for combination in combinations:
        try:
            result = function(*combination)
        except Exception:
            return ANY
        if not _is_plain(result):
            return ANY
        results.append(constant(result))
    return join(*results)


def as_view(known: Known) -> Known:
    """Return knowledge of tuples as that of a range or a view of a dict, which is not equal to a tuple."""
    return frozenset(atom._replace(is_view=True) if isinstance(atom, Items) else atom for atom in known)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) <= _MAX_TEXT and all(_is_plain(item) for item in value)
    return value is None or (type(value) in (bool, int, float, str) and len(repr(value)) <= _MAX_TEXT)


def _power(base: float, exponent: float) -> float:
    # The C library's pow may round differently elsewhere.
    if isinstance(base, float) or isinstance(exponent, float) or exponent < 0 or exponent > 64:
        raise ValueError("left to the program")
    return int(base**exponent)


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, found: item in found,
    ast.NotIn: lambda item, found: item not in found,
}
"""Operators whose result on constants is the same on every machine."""
