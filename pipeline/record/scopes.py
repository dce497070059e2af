"""The variables of functions, lambdas and comprehensions of a program that an analysis runs.

Checked by: tests/record/test_specialise_meaning.py.
"""

import ast

from pipeline.record.lattice import Known
from pipeline.record.program_names import Function, own_nodes


class Scope:
    """The variables of one function, lambda or comprehension."""

    def __init__(self, node: ast.AST, parent: "Scope | None", names: set[str], class_name: str | None) -> None:
        self.node, self.parent, self.names, self.class_name = node, parent, names, class_name
        self.known: dict[str, Known] = {}

    def owner(self, name: str) -> "Scope | None":
        """Return the scope that holds a variable, or None."""
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope


def assigned(node: ast.AST) -> set[str]:
    """Return the variables that a function's own body or a module binds; those of comprehensions are their own."""
    found, outer = set(), set()
    own = {
        id(item) for child in own_nodes(node) if isinstance(child, ast.comprehension) for item in ast.walk(child.target)
    }
    for child in own_nodes(node):
        if id(child) in own:
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            found.add(child.name)
        elif isinstance(child, ast.Nonlocal | ast.Global):
            outer.update(child.names)
    for holder in [node, *own_nodes(node)]:
        found |= {child.name for child in ast.iter_child_nodes(holder) if isinstance(child, Function | ast.ClassDef)}
    return found - outer
