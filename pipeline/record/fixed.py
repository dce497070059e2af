"""Attributes that an object is born with and keeps: `self.helix = None` in `__init__`, assigned nowhere else.

The one idea: once `settle` has written what a recipe decides, an attribute that every object of a class is given as one
plain constant, under a name that the whole program stores once, is that constant wherever the class reads it from
`self`. What it guards then folds in the next `settle`.

Rests on objects whose attributes are set by plain assignments: a program that says `setattr` is left alone.

Checked by: tests/record/test_fixed.py, tests/record/test_ship.py.
"""

import ast
from collections import Counter

from pipeline.record.reachable import defined_names


def fix_attributes(tree: ast.Module) -> ast.Module:
    """Write constants in the place of attributes that hold nothing else; changes `tree`."""
    nodes = list(ast.walk(tree))
    if any(isinstance(node, ast.Name) and node.id == "setattr" for node in nodes):
        return tree
    stored = Counter(node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_stored(node))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    stored.update(name for node in classes for item in node.body for name in defined_names(item))
    for node in classes:
        constants = {name: value for name, value in _born_with(node).items() if stored[name] == 1}
        if constants:
            _Reader(constants).visit(node)
    return tree


def _is_stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)


def _born_with(owner: ast.ClassDef) -> dict[str, ast.Constant]:
    """Return the attributes that `__init__` sets to a constant, whatever happens."""
    found: dict[str, ast.Constant] = {}
    statements = [line for item in owner.body if getattr(item, "name", "") == "__init__" for line in item.body]  # type: ignore[attr-defined]
    for statement in statements:
        match statement:
            case (
                ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Constant() as value)
                | ast.AnnAssign(
                    target=ast.Attribute(value=ast.Name(id="self"), attr=name), value=ast.Constant() as value
                )
            ):
                found[name] = value
    return found


class _Reader(ast.NodeTransformer):
    def __init__(self, constants: dict[str, ast.Constant]) -> None:
        self.constants = constants

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        is_own = isinstance(node.value, ast.Name) and node.value.id == "self" and not _is_stored(node)
        return self.constants.get(node.attr, node) if is_own else node
