"""Every call of every function of a program whose calls are all known, and how to take an argument out of them.

Checked by: tests/record/test_specialise.py.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.record.flow import Flow
from pipeline.record.lattice import Instance
from pipeline.record.program_names import Function, defaults, is_property, is_static, last_name, parameters


class CallGroup(NamedTuple):
    """Functions that share their calls (methods of one name), all those calls, and the parameters no call writes."""

    functions: list[Function]
    calls: list[ast.Call]
    skipped: int


def call_groups(tree: ast.Module, flow: Flow) -> Iterator[CallGroup]:
    """Yield the groups of a program that `flow` analysed; calls with starred arguments are never known."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(call.func) for call in calls}
    by_name: dict[str, list[ast.Call]] = {}
    by_attribute: dict[str, list[ast.Call]] = {}
    for call in calls:
        if isinstance(call.func, ast.Name):
            by_name.setdefault(call.func.id, []).append(call)
        elif isinstance(call.func, ast.Attribute):
            by_attribute.setdefault(call.func.attr, []).append(call)
    # Names are taken as they stand: one that some function also gives to a variable is left alone.
    loose = names_used_as_values(tree) | flow.names.local_names
    for name, function in flow.names.functions.items():
        if name not in loose and function in flow.ran and not function.decorator_list:
            yield from _known([function], by_name.get(name, []), 0)
    for name, info in flow.names.classes.items():
        alone = flow.names.subclasses(name) == [name] and len(flow.names.line(name)) == 1
        if alone and info.methods.get("__init__") in flow.ran and name not in loose:
            yield from _known([info.methods["__init__"]], by_name.get(name, []), 1)
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in called}
    read |= flow.read_by_string
    for name in flow.names.having:
        if not name.startswith("__") and name not in read:
            yield from _method_group(name, by_attribute.get(name, []), flow)


def names_used_as_values(tree: ast.Module) -> set[str]:
    """Return the names used other than to be called, tested for or named in an annotation or as a base class."""
    plain: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            plain.add(id(node.func))
            if last_name(node.func) in ("isinstance", "cast"):
                plain.update(id(item) for part in node.args for item in ast.walk(part))
        elif isinstance(node, ast.ClassDef):
            plain.update(id(base) for base in node.bases)
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        plain.update(id(item) for part in parts if isinstance(part, ast.AST) for item in ast.walk(part))
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in plain
    }


def methods_of_call(flow: Flow, function: ast.Attribute) -> list[Function]:
    """Return the methods that a call can reach, or none when it may reach others."""
    found = []
    for atom in flow.known.get(function.value, frozenset()):
        method = flow.names.method(atom.class_name, function.attr) if isinstance(atom, Instance) else None
        if method is None:
            return []
        found.append(method[1])
    return found


def _method_group(name: str, calls: list[ast.Call], flow: Flow) -> Iterator[CallGroup]:
    owners = [info for info in flow.names.classes.values() if name in info.methods]
    functions = [info.methods[name] for info in owners if info.methods[name] in flow.ran]
    # Foreign base classes may call what they define themselves.
    foreign = any(flow.names.is_open(info.name, name) for info in owners)
    if foreign or any(is_property(function) or is_static(function) for function in functions):
        return
    if functions and all(isinstance(call.func, ast.Attribute) and methods_of_call(flow, call.func) for call in calls):
        yield from _known(functions, calls, 1)


def _known(functions: list[Function], calls: list[ast.Call], skipped: int) -> Iterator[CallGroup]:
    starred = any(isinstance(item, ast.Starred) for call in calls for item in call.args)
    variadic = any(function.args.vararg or function.args.kwarg for function in functions)
    same = {tuple(item.arg for item in parameters(function.args))[skipped:] for function in functions}
    spread = any(keyword.arg is None for call in calls for keyword in call.keywords)
    if calls and not starred and not variadic and not spread and len(same) == 1:
        yield CallGroup(functions, calls, skipped)


def argument(call: ast.Call, index: int, name: str) -> ast.expr | None:
    """Return what a call gives for its parameter number `index` called `name`, or None for the default."""
    if index < len(call.args):
        return call.args[index]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def remove_argument(call: ast.Call, index: int, name: str) -> None:
    """Take an argument out of a call."""
    if index < len(call.args):
        del call.args[index]
    call.keywords = [keyword for keyword in call.keywords if keyword.arg != name]


def remove_parameter(arguments: ast.arguments, name: str) -> None:
    """Take a parameter and its default out of a function's arguments."""
    default_of = defaults(arguments)
    for items in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
        items[:] = [item for item in items if item.arg != name]
    set_defaults(arguments, default_of)


def set_defaults(arguments: ast.arguments, default_of: dict[str, ast.expr]) -> None:
    """Write the defaults of a function's arguments anew after its parameters have changed."""
    positional = [*arguments.posonlyargs, *arguments.args]
    arguments.defaults = [default_of[item.arg] for item in positional if item.arg in default_of]
    arguments.kw_defaults = [default_of.get(item.arg) for item in arguments.kwonlyargs]
    parameters.cache_clear()
    defaults.cache_clear()
