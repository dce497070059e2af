"""Which dicts of a program nobody changes: those that are only looked up under every name they go by.

The one idea: a dict that is bound to one name (a constant of the top level, or a field given in the call that runs the
program) can only change through an expression with that name, or with that of a parameter to which it is passed. When
each of those is a look-up (`T[k]`, `k in T`, a loop over it, `T.items()`), nobody else ever holds the dict itself.
Names are compared without regard to inner scopes, so that equal names only make a dict less likely to count.

Checked by: tests/record/test_specialise.py.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.record.program_names import ProgramNames, parameters

_READERS = ("items", "keys", "values", "get")
_CONSUMERS = ("len", "list", "tuple", "sorted", "set", "max", "min")


class _Use(NamedTuple):
    """A name or attribute that is read, and what stands around it."""

    node: ast.expr
    parent: ast.AST
    outer: ast.AST | None


def unchanged_tables(tree: ast.Module, names: ProgramNames) -> dict[ast.AST, str]:
    """Return the dict displays whose contents stay as they are written, and the field or constant that holds each.

    Assumes that no field of a table is read by a name in a string, which the analysis has to make sure of.
    """
    found: dict[ast.AST, str] = {}
    uses: dict[ast.AST, dict[str, list[_Use]]] = {}
    for statement in tree.body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Dict)
            and _Fixed(names, uses).holds(_name(statement.targets[0]), tree, True)
        ):
            found[statement.value] = _name(statement.targets[0])
        elif isinstance(statement, ast.Expr):
            for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
                made = names.classes.get(_name(call.func))
                for keyword in call.keywords if made and made.is_frozen else []:
                    # Fields of frozen objects are never stored: an attribute of this name that is belongs to others.
                    if isinstance(keyword.value, ast.Dict) and _Fixed(names, uses).holds(f".{keyword.arg}", tree, True):
                        found[keyword.value] = str(keyword.arg)
    return {node: name for node, name in found.items() if isinstance(node, ast.Dict)}


class _Fixed:
    """Whether what a name means, within a program or one function, is only looked up."""

    def __init__(self, names: ProgramNames, uses: dict[ast.AST, dict[str, list[_Use]]]) -> None:
        self.names, self.uses = names, uses
        self.open: set[tuple[str, ast.AST]] = set()

    def holds(self, name: str, where: ast.AST, is_stored: bool) -> bool:
        if (name, where) in self.open:
            return True  # as far as the calls that lead here tell
        self.open.add((name, where))
        if where not in self.uses:
            self.uses[where] = {}
            for use in _uses(where, None):
                self.uses[where].setdefault(_name(use.node), []).append(use)
        for use in self.uses[where].get(name, ()):
            is_load = isinstance(use.node.ctx, ast.Load)  # type: ignore[attr-defined]
            if is_load and not _looks_up(use):
                passed = self._parameter(use)
                if passed is None or not self.holds(*passed, False):
                    return False
            elif not is_load and not is_stored:
                return False
        return True

    def _parameter(self, use: _Use) -> tuple[str, ast.AST] | None:
        """Return the parameter of a function or constructor of the program to which a dict is passed by position."""
        call = use.parent
        if not isinstance(call, ast.Call) or use.node not in call.args or not isinstance(call.func, ast.Name):
            return None
        function, skipped = self.names.functions.get(call.func.id), 0
        if function is None and (init := self.names.method(call.func.id, "__init__")):
            function, skipped = init[1], 1
        index = call.args.index(use.node) + skipped
        starred = any(isinstance(item, ast.Starred) for item in call.args)
        if function is None or starred or index >= len(parameters(function.args)):
            return None
        return parameters(function.args)[index].arg, function


def _uses(parent: ast.AST, outer: ast.AST | None) -> Iterator[_Use]:
    for child in ast.iter_child_nodes(parent):
        if isinstance(child, ast.Name | ast.Attribute):
            yield _Use(child, parent, outer)
        yield from _uses(child, parent)


def _name(node: ast.expr) -> str:
    return f".{node.attr}" if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _looks_up(use: _Use) -> bool:
    node, parent = use.node, use.parent
    if isinstance(parent, ast.Subscript):
        return node is parent.value and isinstance(parent.ctx, ast.Load)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _READERS and isinstance(use.outer, ast.Call) and parent is use.outer.func
    if isinstance(parent, ast.Compare):
        return node in parent.comparators and isinstance(parent.ops[parent.comparators.index(node)], ast.In | ast.NotIn)
    if isinstance(parent, ast.For | ast.comprehension):
        return node is parent.iter
    return isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _CONSUMERS
