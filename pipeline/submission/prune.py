"""What nobody reads: variables, attributes, fields and parameters of a folded program, and calls that do nothing.

Each function changes the tree it is given and returns whether anything went. A value is only dropped where computing
it has no effect; a parameter only where every call of its function is known.

Checked by: tests/submission/test_fold.py.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

from pipeline.submission.effects import is_quiet
from pipeline.submission.flow import Flow
from pipeline.submission.lattice import ANY, Const, Instance, Items, Known, plain_values
from pipeline.submission.program_names import Function, defaults, is_property, is_static, last_name, parameters


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
            found.add(node.attr)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "hasattr"):
            names = plain_values(flow.known.get(node.args[1], ANY))
            if isinstance(node.args[1], ast.Constant):
                names = [node.args[1].value]
            found.update(_all_words(tree) if names is None else names)
    return found


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
        node.body = [self.visit(item) if isinstance(item, Function) else item for item in node.body] or [ast.Pass()]
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
        if isinstance(call, ast.Call) and self._does_nothing(call) and all(
            is_quiet(item, self.quiet) for item in [*call.args, *call.keywords]
        ):
            return None
        return None if is_quiet(call, self.quiet) else node

    def _does_nothing(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Name):
            return call.func.id in self.empty
        if isinstance(call.func, ast.Attribute) and is_quiet(call.func.value):
            methods = _methods(self.flow, call.func)
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
        return isinstance(target, ast.Attribute) and target.attr not in self.attributes and is_quiet(target.value)

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


def _methods(flow: Flow, function: ast.Attribute) -> list[Function]:
    """Return the methods that a call can reach, or none when it may reach others."""
    found = []
    for atom in flow.known.get(function.value, frozenset()):
        method = flow.names.method(atom.class_name, function.attr) if isinstance(atom, Instance) else None
        if method is None:
            return []
        found.append(method[1])
    return found


# -- parameters ------------------------------------------------------------------------------------------------------


def _drop_parameters(tree: ast.Module, flow: Flow) -> None:
    for functions, calls, skipped in _call_groups(tree, flow):
        count = min(len(parameters(function.args)) for function in functions)
        same = {tuple(item.arg for item in parameters(function.args)) for function in functions}
        if len(same) > 1 or any(function.args.vararg or function.args.kwarg for function in functions):
            continue
        for index in reversed(range(skipped, count)):
            name = parameters(functions[0].args)[index].arg
            if any(name in _used_names(function) for function in functions):
                continue
            found = [_argument(call, index - skipped, name) for call in calls]
            if all(item is None or is_quiet(item) for item in found):
                for call in calls:
                    _remove_argument(call, index - skipped, name)
                for function in functions:
                    _remove_parameter(function.args, name)
    parameters.cache_clear()
    defaults.cache_clear()


def _used_names(function: Function) -> set[str]:
    return {item.id for statement in function.body for item in ast.walk(statement) if isinstance(item, ast.Name)}


def _call_groups(tree: ast.Module, flow: Flow) -> Iterator[tuple[list[Function], list[ast.Call], int]]:
    """Yield functions that share their calls, all those calls, and how many parameters no call writes down."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(call.func) for call in calls}
    loose = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    by_name: dict[str, list[ast.Call]] = {}
    by_attribute: dict[str, list[ast.Call]] = {}
    for call in calls:
        if isinstance(call.func, ast.Name):
            by_name.setdefault(call.func.id, []).append(call)
        elif isinstance(call.func, ast.Attribute):
            by_attribute.setdefault(call.func.attr, []).append(call)
    for name, function in flow.names.functions.items():
        if name not in loose and function in flow.ran:
            yield from _plain([function], by_name.get(name, []), 0)
    for name, info in flow.names.classes.items():
        alone = flow.names.subclasses(name) == [name] and len(flow.names.line(name)) == 1
        if alone and info.methods.get("__init__") in flow.ran and not _is_value(tree, name):
            yield from _plain([info.methods["__init__"]], by_name.get(name, []), 1)
    yield from _method_groups(tree, flow, by_attribute, called)


def _is_value(tree: ast.Module, name: str) -> bool:
    """Return whether a class is used other than to be called, tested for or named in an annotation."""
    plain: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            plain.add(id(node.func))
            if last_name(node.func) in ("isinstance", "cast"):
                plain.update(id(item) for part in node.args for item in ast.walk(part))
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        plain.update(id(item) for part in parts if isinstance(part, ast.AST) for item in ast.walk(part))
    return any(isinstance(node, ast.Name) and node.id == name and id(node) not in plain for node in ast.walk(tree)
               if not isinstance(node, ast.ClassDef))  # fmt: skip


def _method_groups(
    tree: ast.Module, flow: Flow, by_attribute: dict[str, list[ast.Call]], called: set[int]
) -> Iterator[tuple[list[Function], list[ast.Call], int]]:
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in called}
    for name in flow.names.having:
        functions = [info.methods[name] for info in flow.names.classes.values() if name in info.methods]
        functions = [function for function in functions if function in flow.ran]
        fixed = name.startswith("__") or name in ("forward", "backward") or name in read
        if fixed or any(is_property(function) or is_static(function) for function in functions):
            continue
        if any(not flow.names.is_closed(info.name) and name in ("step", "load_state_dict", "state_dict")
               for info in flow.names.classes.values()):  # fmt: skip
            continue
        calls = by_attribute.get(name, [])
        own = all(isinstance(call.func, ast.Attribute) and _methods(flow, call.func) for call in calls)
        if own and calls and functions:
            yield from _plain(functions, calls, 1)


def _plain(
    functions: list[Function], calls: list[ast.Call], skipped: int
) -> Iterator[tuple[list[Function], list[ast.Call], int]]:
    starred = any(isinstance(item, ast.Starred) for call in calls for item in call.args)
    if calls and not starred and all(keyword.arg for call in calls for keyword in call.keywords):
        yield functions, calls, skipped


def _argument(call: ast.Call, index: int, name: str) -> ast.expr | None:
    if index < len(call.args):
        return call.args[index]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _remove_argument(call: ast.Call, index: int, name: str) -> None:
    if index < len(call.args):
        del call.args[index]
    call.keywords = [keyword for keyword in call.keywords if keyword.arg != name]


def _remove_parameter(arguments: ast.arguments, name: str) -> None:
    default_of = defaults(arguments)
    for items in (arguments.posonlyargs, arguments.args):
        items[:] = [item for item in items if item.arg != name]
    arguments.kwonlyargs = [item for item in arguments.kwonlyargs if item.arg != name]
    arguments.defaults = [
        default_of[item.arg] for item in [*arguments.posonlyargs, *arguments.args] if item.arg in default_of
    ]
    arguments.kw_defaults = [default_of.get(item.arg) for item in arguments.kwonlyargs]
    parameters.cache_clear()
    defaults.cache_clear()


# -- fields ----------------------------------------------------------------------------------------------------------


def _drop_fields(tree: ast.Module, flow: Flow) -> None:
    loaded = loaded_attributes(tree, flow)
    whole = _classes_used_whole(tree, flow)
    for info in flow.names.classes.values():
        if not info.is_dataclass or info.name in whole or len(flow.names.line(info.name)) > 1:
            continue
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and last_name(node.func) == info.name]
        names = list(info.fields)
        if flow.names.subclasses(info.name) != [info.name] or any(
            isinstance(item, ast.Starred) for call in calls for item in call.args
        ):
            continue
        for index in reversed(range(len(names))):
            found = [_argument(call, index, names[index]) for call in calls]
            quiet = frozenset(name for name, other in flow.names.classes.items() if other.declares_fields)
            if names[index] in loaded or not all(item is None or is_quiet(item, quiet) for item in found):
                continue
            for call in calls:
                _remove_argument(call, index, names[index])
            kept = [item for item in info.node.body
                    if not (isinstance(item, ast.AnnAssign) and last_name(item.target) == names[index])]  # fmt: skip
            info.node.body = kept or [ast.Pass()]
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and last_name(node.func) == "replace":
                    _drop_replacement(node, names[index], flow)


def _drop_replacement(node: ast.Call, name: str, flow: Flow) -> None:
    if any(isinstance(atom, Instance) for atom in flow.known.get(node.args[0], frozenset())):
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != name]


def _classes_used_whole(tree: ast.Module, flow: Flow) -> set[str]:
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
