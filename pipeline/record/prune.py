"""Stores that nobody reads and statements that do nothing go.

A value is dropped only where computing it has no effect (`effects.py`), and nothing inside a `try` that catches, where
failing is an effect. An attribute of a torch module goes only with a value that no module would register.

Checked by: tests/record/test_specialise.py.
"""

import ast
from typing import Any

from pipeline.record.call_groups import methods_of_call
from pipeline.record.effects import Effects
from pipeline.record.flow import Flow
from pipeline.record.lattice import ANY, Atom, Const, Instance, Items
from pipeline.record.program_names import Function
from pipeline.record.readings import Readings


def prune(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program without dead stores and statements that do nothing; `flow` is the analysis of `tree`."""
    return ast.fix_missing_locations(_Pruner(tree, flow).visit(tree))


class _Pruner(ast.NodeTransformer):
    def __init__(self, tree: ast.Module, flow: Flow) -> None:
        self.flow = flow
        self.effects = Effects(tree, flow.names, flow.known)
        self.readings = Readings(tree, flow)
        self.empty = {name for name, node in flow.names.functions.items() if _is_empty(node)}
        self.loads: set[str] | None = None
        """The variables read anywhere in the outermost function around."""
        self.guarded = False

    def is_droppable(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name | ast.Constant) or (self.effects.is_quiet(node) and not self.guarded)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        outermost = self.loads is None
        if outermost:
            self.loads = _loaded_names(node)
        elif node.name not in (self.loads or ()) and self.effects.is_quiet(ast.Lambda(node.args, ast.Constant(None))):
            return None
        guarded, self.guarded = self.guarded, False
        self._with_body(node)
        self.guarded = guarded
        if outermost:
            self.loads = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        kept = [self.visit(item) if isinstance(item, Function) else item for item in node.body]
        node.body = [item for item in kept if not _is_empty_check(item)] or [ast.Pass()]
        return node

    def _with_body(self, node: Any) -> Any:
        self.generic_visit(node)
        kept = [item for item in node.body if not isinstance(item, ast.Pass)]
        if kept and isinstance(node, Function) and isinstance(kept[-1], ast.Return):
            last = kept[-1].value
            if last is None or (isinstance(last, ast.Constant) and last.value is None):
                kept.pop()
        node.body = kept or [ast.Pass()]
        return node

    visit_With = visit_While = _with_body

    def visit_For(self, node: ast.For) -> Any:
        self._with_body(node)
        targets = {item.id for item in ast.walk(node.target) if isinstance(item, ast.Name)}
        idle = isinstance(node.body[0], ast.Pass) and self.loads is not None and not targets & self.loads
        return None if idle and self.effects.is_made_here(node.iter) and self.is_droppable(node.iter) else node

    def visit_Try(self, node: ast.Try) -> Any:
        guarded, self.guarded = self.guarded, self.guarded or bool(node.handlers)
        self._with_body(node)
        self.guarded = guarded
        return node

    def visit_If(self, node: ast.If) -> Any:
        self._with_body(node)
        node.orelse = [item for item in node.orelse if not isinstance(item, ast.Pass)]
        if isinstance(node.body[0], ast.Pass):
            if not node.orelse:
                return None if self.is_droppable(node.test) else ast.Expr(node.test)
            node.test, node.body, node.orelse = ast.UnaryOp(ast.Not(), node.test), node.orelse, []
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        call = node.value
        if isinstance(call, ast.Call) and self._does_nothing(call):
            return None
        return None if self.is_droppable(call) else node

    def _does_nothing(self, call: ast.Call) -> bool:
        if not all(self.is_droppable(item) for item in [*call.args, *call.keywords]):
            return False
        if isinstance(call.func, ast.Name):
            return call.func.id in self.empty and call.func.id not in self.flow.names.local_names
        if isinstance(call.func, ast.Attribute) and self.is_droppable(call.func.value):
            methods = methods_of_call(self.flow, call.func)
            return bool(methods) and all(_is_empty(method) for method in methods)
        return False

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return node if self.loads is None else None
        return self._assignment(node, node.target, node.value)

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self._assignment(node, node.targets[0], node.value) if len(node.targets) == 1 else node

    def _assignment(self, node: ast.Assign | ast.AnnAssign, target: ast.expr, value: ast.expr) -> Any:
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        if both and isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if any(isinstance(item, ast.Starred) for item in [*target.elts, *value.elts]):
                return node
            pairs = [pair for pair in zip(target.elts, value.elts, strict=True) if not self._may_go(*pair)]
            if len(pairs) == 1:
                return ast.Assign([pairs[0][0]], pairs[0][1])
            target.elts, value.elts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            return node if pairs else None
        if self._may_go(target, value):
            return None
        return ast.Expr(value) if isinstance(target, ast.Name) and self._is_dead(target) else node

    def _may_go(self, target: ast.expr, value: ast.expr) -> bool:
        return self._is_dead(target) and self.is_droppable(value) and not self._may_register(target, value)

    def _is_dead(self, target: ast.expr) -> bool:
        if isinstance(target, ast.Name):
            return self.loads is not None and target.id not in self.loads
        if not isinstance(target, ast.Attribute) or not self.is_droppable(target.value):
            return False
        atoms = self.flow.known.get(target.value, ANY)
        return bool(atoms) and all(
            isinstance(atom, Instance) and not self.readings.has(atom.class_name, target.attr) for atom in atoms
        )

    def _may_register(self, target: ast.expr, value: ast.expr) -> bool:
        """Return whether the object may be a torch module and keep the value, a tensor or module, as its own."""
        if isinstance(target, ast.Name):
            return False
        assert isinstance(target, ast.Attribute)
        atoms = self.flow.known.get(target.value, ANY)
        closed = all(isinstance(atom, Instance) and self.flow.names.is_closed(atom.class_name) for atom in atoms)
        return not closed and not all(self._is_inert(atom) for atom in self.flow.known.get(value, ANY))

    def _is_inert(self, atom: Atom) -> bool:
        if isinstance(atom, Instance):
            return self.flow.names.is_closed(atom.class_name)
        return isinstance(atom, Const | Items)


def _is_empty_check(node: ast.stmt) -> bool:
    return isinstance(node, Function) and node.name == "__post_init__" and _is_empty(node)


def _is_empty(node: Function) -> bool:
    return not node.decorator_list and all(isinstance(item, ast.Pass) for item in node.body)


def _loaded_names(node: ast.AST) -> set[str]:
    """Return the variables that a function reads; `x += ...` reads x, whose object it may change."""
    found: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.AugAssign) and isinstance(item.target, ast.Name):
            found.add(item.target.id)
        elif isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store):
            found.add(item.id)
        elif isinstance(item, ast.Nonlocal):
            found.update(item.names)
    return found
