"""What every expression of a program can evaluate to, found by running the program on knowledge instead of values.

The one idea: start from the statements that run the program, with the recipe as constants, and follow every call and
every branch that can happen; arguments, returned values, variables and attributes collect what reaches them until
nothing new arrives. What was never visited cannot run. One `Known` per parameter, variable and attribute of a class,
whoever calls (objects of frozen dataclasses keep the attributes of the call that makes them).

What it takes as given stands in `specialise.py`, what it refuses in `admit.py`.

Source: sparse conditional constant propagation (Wegman and Zadeck 1991); call graph by 0-CFA.
Checked by: tests/record/test_specialise_meaning.py; every value of a run by tests/record/test_specialise.py.
"""

import ast

from pipeline.record.admit import admit
from pipeline.record.flow_calls import Calls
from pipeline.record.flow_objects import Scoped
from pipeline.record.lattice import ANY, NOTHING, Items, Known, constant, join
from pipeline.record.program_names import Function
from pipeline.record.scopes import Scope
from pipeline.record.tables import unchanged_tables


class Flow(Calls):
    """The analysis of one program."""

    def __init__(self, tree: ast.Module) -> None:
        super().__init__(tree)
        self.reached: set[ast.stmt] = set()
        admit(tree, self.names)
        self.tables = unchanged_tables(tree, self.names)
        while self._changed:
            self._changed = False
            self._visited = set()
            self._block(tree.body, self._module)
            for node in sorted(self.ran, key=_place):
                if node not in self._visited and isinstance(node, Scoped):
                    self._run(node)
        self._check_tests()

    def _check_tests(self) -> None:
        """Raise ValueError for a condition on values that nothing seems to give: the analysis missed them."""
        for node in self.reached | set(self.known):
            if isinstance(node, ast.If | ast.While | ast.IfExp) and not self.test(node.test):
                raise ValueError(f"specialise: no value reaches the condition `{ast.unparse(node.test)}`")

    def _block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; return whether control never reaches their end."""
        return any(self._statement(statement, scope) for statement in body)

    def _statement(self, node: ast.stmt, scope: Scope) -> bool:
        self.reached.add(node)
        if isinstance(node, ast.If):
            possible = self._condition(node.test, scope)
            ends = [self._block(node.body, scope)] if True in possible else []
            ends += [self._block(node.orelse, scope)] if False in possible else []
            return all(ends)
        if isinstance(node, ast.Return):
            value = constant(None) if node.value is None else self._value(node.value, scope)
            self._grow(self._returns, scope.node, value)
            return True
        if isinstance(node, ast.Raise | ast.Continue | ast.Break):
            self._children(node, scope)
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assignment(node, scope)
        elif isinstance(node, Function):
            if scope.node is not self._module.node:
                self._set(node.name, ANY, scope)
                self._enter_freely(node, scope.class_name, None, scope)
        elif isinstance(node, ast.For | ast.While):
            self._loop(node, scope)
        elif isinstance(node, ast.With):
            for item in node.items:
                self._value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, ANY, scope)
            self._block(node.body, scope)  # a context may swallow what ends it
        elif isinstance(node, ast.Try):
            return self._try(node, scope)
        elif isinstance(node, ast.Assert) or not isinstance(node, ast.ClassDef):
            self._children(node, scope)
        return False

    def _children(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._value(child, scope)
            elif isinstance(child, ast.stmt):
                self._statement(child, scope)
            else:
                self._children(child, scope)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, scope: Scope) -> None:
        if isinstance(node, ast.AugAssign):
            self._value(node.value, scope)
            self._load_target(node.target, scope)
            self._assign(node.target, ANY, scope)
        elif node.value is not None:
            value = self._value(node.value, scope)
            if isinstance(node, ast.AnnAssign):
                self._assign(node.target, self.refined(value, node.annotation), scope)
            else:
                for target in node.targets:
                    self._assign(target, value, scope)

    def _load_target(self, target: ast.expr, scope: Scope) -> None:
        if isinstance(target, ast.Attribute | ast.Subscript):
            self._value(target.value, scope)

    def _assign(self, target: ast.expr, value: Known, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            self._set(target.id, value, scope)
        elif isinstance(target, ast.Attribute):
            self._store_attribute(self._value(target.value, scope), target.attr, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for index, part in enumerate(target.elts):
                self._assign(part, self._part(value, index, len(target.elts)), scope)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, ANY, scope)
        elif isinstance(target, ast.Subscript):
            self._value(target.value, scope)
            self._value(target.slice, scope)

    @staticmethod
    def _part(value: Known, index: int, count: int) -> Known:
        parts = []
        for atom in value:
            whole = isinstance(atom, Items) and atom.keys is None and len(atom.values) == count
            parts.append(atom.values[index] if whole and isinstance(atom, Items) else ANY)
        return join(*parts)

    def _loop(self, node: ast.For | ast.While, scope: Scope) -> None:
        if isinstance(node, ast.While):
            possible = self._condition(node.test, scope)
            if True in possible:
                self._block(node.body, scope)
        elif (item := self._element(self._value(node.iter, scope))) != NOTHING:
            self._assign(node.target, item, scope)
            self._block(node.body, scope)
        self._block(node.orelse, scope)

    def _try(self, node: ast.Try, scope: Scope) -> bool:
        ends = self._block(node.body, scope) or self._block(node.orelse, scope)
        for handler in node.handlers:
            if handler.type is not None:
                self._value(handler.type, scope)
            if handler.name:
                self._set(handler.name, ANY, scope)
            ends = self._block(handler.body, scope) and ends
        return self._block(node.finalbody, scope) or ends


def _place(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
