"""What nobody reads: variables, attributes, fields and parameters of a folded program, and calls that do nothing.

Each function changes the tree it is given and returns whether anything went. A value is only dropped where computing
it has no effect; a parameter only where every call of its function is known.

Checked by: tests/submission/test_specialise.py.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

from pipeline.submission.call_groups import argument, call_groups, methods_of_call, remove_argument, remove_parameter
from pipeline.submission.effects import is_quiet
from pipeline.submission.flow import Flow
from pipeline.submission.lattice import ANY, Const, Instance, Items, Known, plain_values
from pipeline.submission.program_names import Function, last_name, parameters


def prune(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program without what nobody reads; `flow` is the analysis of exactly this tree."""
    _drop_parameters(tree, flow)
    _drop_fields(tree, flow)
    tree = _Pruner(tree, flow).visit(tree)
    return ast.fix_missing_locations(tree)


def loaded_attributes(tree: ast.AST, flow: Flow) -> set[str]:
    """Return the attribute names that are read somewhere; a name that is computed could be any word of a string."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.update(_readings(node, flow))
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "hasattr"):
            names = plain_values(flow.known.get(node.args[1], ANY))
            if isinstance(node.args[1], ast.Constant):
                names = [node.args[1].value]
            found.update(_all_words(tree) if names is None else names)
    return found


def _readings(node: ast.Attribute, flow: Flow) -> list[str]:
    """Return the attribute read, as `Class.name` where the classes of its objects are known."""
    known = flow.known.get(node.value)
    classes = [atom.class_name for atom in known or () if isinstance(atom, Instance)]
    others = [atom for atom in known or () if not isinstance(atom, Instance | Const)]
    if not classes or others:
        return [node.attr]
    lines = {info.name for name in classes for info in [*flow.names.line(name)]}
    below = {name for other in classes for name in flow.names.subclasses(other)}
    return [f"{name}.{node.attr}" for name in sorted(lines | below)]


def is_read(loaded: set[str], class_names: list[str], attribute: str) -> bool:
    """Return whether an attribute of objects of these classes, or of unknown ones, is among the `loaded`."""
    return attribute in loaded or any(f"{name}.{attribute}" in loaded for name in class_names)


def _all_words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


class _Pruner(ast.NodeTransformer):
    """Drop dead stores and statements that do nothing."""

    def __init__(self, tree: ast.Module, flow: Flow) -> None:
        self.flow = flow
        self.attributes = loaded_attributes(tree, flow)
        self.empty = {name for name, node in flow.names.functions.items() if _is_empty(node)}
        self.quiet = frozenset(name for name, info in flow.names.classes.items() if info.declares_fields)
        self.loads: list[set[str]] = []
        self.holders: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        outer = not self.loads
        if outer:
            self.loads.append(_loaded_names(node))
        elif node.name not in self.loads[-1] and not node.decorator_list:
            return None
        self._with_body(node)
        if outer:
            self.loads.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        self.holders.append(node.name)
        kept = [self.visit(item) if isinstance(item, Function) else item for item in node.body]
        node.body = [item for item in kept if not _is_empty_hook(item)] or [ast.Pass()]
        self.holders.pop()
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

    def visit_With(self, node: ast.With) -> Any:
        return self._with_body(node)

    def visit_Try(self, node: ast.Try) -> Any:
        return self._with_body(node)

    def visit_While(self, node: ast.While) -> Any:
        return self._with_body(node)

    def visit_For(self, node: ast.For) -> Any:
        self._with_body(node)
        empty = isinstance(node.body[0], ast.Pass) and not node.orelse and is_quiet(node.iter, self.quiet)
        return None if empty else node

    def visit_If(self, node: ast.If) -> Any:
        self._with_body(node)
        node.orelse = [item for item in node.orelse if not isinstance(item, ast.Pass)]
        if isinstance(node.body[0], ast.Pass):
            if not node.orelse:
                return None if is_quiet(node.test, self.quiet) else ast.Expr(node.test)
            node.test, node.body, node.orelse = ast.UnaryOp(ast.Not(), node.test), node.orelse, []
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        call = node.value
        if (
            isinstance(call, ast.Call)
            and self._does_nothing(call)
            and all(is_quiet(item, self.quiet) for item in [*call.args, *call.keywords])
        ):
            return None
        return None if is_quiet(call, self.quiet) else node

    def _does_nothing(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Name):
            return call.func.id in self.empty
        if isinstance(call.func, ast.Attribute) and is_quiet(call.func.value):
            methods = methods_of_call(self.flow, call.func)
            return bool(methods) and all(_is_empty(method) for method in methods)
        return False

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        return None if self._is_dead(node.target) and is_quiet(node.value, self.quiet) else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return None if self.loads else node
        return self._assignment(node, node.target, node.value)

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self._assignment(node, node.targets[0], node.value) if len(node.targets) == 1 else node

    def _assignment(self, node: ast.Assign | ast.AnnAssign, target: ast.expr, value: ast.expr) -> Any:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = [
                pair
                for pair in zip(target.elts, value.elts, strict=True)
                if not (self._is_dead(pair[0]) and self._is_droppable(pair[0], pair[1]))
            ]
            if not pairs:
                return None
            if len(pairs) == 1:
                return ast.copy_location(ast.Assign([pairs[0][0]], pairs[0][1]), node)
            target.elts, value.elts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            return node
        if not self._is_dead(target):
            return node
        if self._is_droppable(target, value):
            return None
        return ast.Expr(value) if isinstance(target, ast.Name) else node

    def _is_dead(self, target: ast.expr) -> bool:
        if isinstance(target, ast.Name):
            return bool(self.loads) and target.id not in self.loads[-1]
        if not isinstance(target, ast.Attribute) or not is_quiet(target.value):
            return False
        atoms = self.flow.known.get(target.value, ANY)
        if not atoms or not all(isinstance(atom, Instance) for atom in atoms):
            return False
        classes = [atom.class_name for atom in atoms if isinstance(atom, Instance)]
        around = [info.name for name in classes for info in self.flow.names.line(name)]
        return not is_read(self.attributes, [*classes, *around], target.attr)

    def _is_droppable(self, target: ast.expr, value: ast.expr) -> bool:
        if not is_quiet(value, self.quiet):
            return False
        if isinstance(target, ast.Name) or all(self.flow.names.is_closed(name) for name in self.holders):
            return True
        # A module registers what is assigned to it, even where nothing reads it by this name.
        known = self.flow.known.get(value, frozenset())
        if isinstance(value, ast.Constant):
            return True
        return bool(known) and all(self._is_inert(atom) for atom in known)

    def _is_inert(self, atom: object) -> bool:
        if isinstance(atom, Instance):
            return self.flow.names.is_closed(atom.class_name)
        return isinstance(atom, Const | Items)


def _is_empty_hook(node: ast.stmt) -> bool:
    return isinstance(node, Function) and node.name == "__post_init__" and _is_empty(node)


def _is_empty(node: Function) -> bool:
    return not node.decorator_list and all(isinstance(item, ast.Pass) for item in node.body)


def _loaded_names(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store):
            found.add(item.id)
        elif isinstance(item, ast.Nonlocal | ast.Global):
            found.update(item.names)
    return found


def _drop_parameters(tree: ast.Module, flow: Flow) -> None:
    quiet = frozenset(name for name, info in flow.names.classes.items() if info.declares_fields)
    for functions, calls, skipped in call_groups(tree, flow):
        used = {item.id for function in functions for statement in function.body for item in ast.walk(statement)
                if isinstance(item, ast.Name)}  # fmt: skip
        names = [item.arg for item in parameters(functions[0].args)][skipped:]
        for index, name in reversed(list(enumerate(names))):
            found = [argument(call, index, name) for call in calls]
            if name not in used and all(item is None or is_quiet(item, quiet) for item in found):
                for call in calls:
                    remove_argument(call, index, name)
                for function in functions:
                    remove_parameter(function.args, name)


def _drop_fields(tree: ast.Module, flow: Flow) -> None:
    loaded = loaded_attributes(tree, flow)
    whole = classes_used_whole(tree, flow)
    calls_of: dict[str, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            calls_of.setdefault(last_name(node.func), []).append(node)
    quiet = frozenset(name for name, other in flow.names.classes.items() if other.declares_fields)
    for info in flow.names.classes.values():
        if not info.is_dataclass or info.name in whole or len(flow.names.line(info.name)) > 1:
            continue
        calls = calls_of.get(info.name, [])
        names = list(info.fields)
        if flow.names.subclasses(info.name) != [info.name] or any(
            isinstance(item, ast.Starred) for call in calls for item in call.args
        ):
            continue
        for index in reversed(range(len(names))):
            found = [argument(call, index, names[index]) for call in calls]
            if is_read(loaded, [info.name], names[index]) or not all(
                item is None or is_quiet(item, quiet) for item in found
            ):
                continue
            for call in calls:
                remove_argument(call, index, names[index])
            kept = [item for item in info.node.body
                    if not (isinstance(item, ast.AnnAssign) and last_name(item.target) == names[index])]  # fmt: skip
            info.node.body = kept or [ast.Pass()]
            for call in calls_of.get("replace", []):
                _drop_replacement(call, names[index], flow)


def _drop_replacement(node: ast.Call, name: str, flow: Flow) -> None:
    if any(isinstance(atom, Instance) for atom in flow.known.get(node.args[0], frozenset())):
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != name]


def classes_used_whole(tree: ast.Module, flow: Flow) -> set[str]:
    """Return the classes of which some object is turned into a dict."""
    found: set[str] = set()

    def add(known: Known) -> None:
        for atom in known:
            if isinstance(atom, Items):
                for value in atom.values:
                    add(value)
            elif isinstance(atom, Instance) and atom.class_name not in found:
                found.add(atom.class_name)
                for name in flow.names.classes[atom.class_name].fields:
                    add(flow.field(atom, name))
            elif not isinstance(atom, Const):
                found.update(flow.names.classes)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in ("asdict", "astuple", "fields"):
            add(flow.known.get(node.args[0], frozenset()))
    return found
