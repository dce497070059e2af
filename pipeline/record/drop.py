"""Parameters and fields that nobody reads go, with the arguments that every call gives for them.

A parameter goes only where every call of its function is known, a field only from a dataclass of which every object is
made by a call of its name and where dropping it cannot make two objects equal: they all have the same value there, or
there is one object. An argument that is dropped has no effect.

Checked by: tests/record/test_specialise.py.
"""

import ast

from pipeline.record.call_groups import argument, call_groups, names_used_as_values, remove_argument, remove_parameter
from pipeline.record.effects import Effects
from pipeline.record.flow import Flow
from pipeline.record.program_names import ClassInfo, defaults, last_name, parameters
from pipeline.record.readings import Readings


def drop_unread(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program without unread parameters and fields; `flow` is the analysis of `tree`."""
    effects = Effects(tree, flow.names, flow.known)
    _drop_parameters(tree, flow, effects)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    replaced = {
        keyword.arg
        for call in calls
        if flow.names.meaning(call.func) == "dataclasses.replace"
        for keyword in call.keywords
    }
    runs_once = {node for statement in tree.body if isinstance(statement, ast.Expr) for node in ast.walk(statement)}
    readings, loose = Readings(tree, flow), names_used_as_values(tree)
    for info in flow.names.classes.values():
        if info.is_dataclass and info.name not in loose and not flow.names.method(info.name, "__post_init__"):
            made = [call for call in calls if last_name(call.func) == info.name]
            unread = [name for name in info.fields if name not in replaced and not readings.has(info.name, name)]
            _drop_fields(info, unread, made, effects, alone=len(made) == 1 and made[0] in runs_once)
    return ast.fix_missing_locations(tree)


def _drop_parameters(tree: ast.Module, flow: Flow, effects: Effects) -> None:
    for functions, calls, skipped in call_groups(tree, flow):
        used = {
            item.id
            for function in functions
            for statement in function.body
            for item in ast.walk(statement)
            if isinstance(item, ast.Name)
        }
        names = [item.arg for item in parameters(functions[0].args)][skipped:]
        for index, name in reversed(list(enumerate(names))):
            given = [argument(call, index, name) for call in calls]
            own = [defaults(function.args).get(name) for function in functions]
            if name not in used and all(item is None or effects.is_quiet(item) for item in [*given, *own]):
                for call in calls:
                    remove_argument(call, index, name)
                for function in functions:
                    remove_parameter(function.args, name)


def _drop_fields(info: ClassInfo, unread: list[str], calls: list[ast.Call], effects: Effects, alone: bool) -> None:
    spread = any(isinstance(item, ast.Starred) for call in calls for item in call.args)
    if spread or any(keyword.arg is None for call in calls for keyword in call.keywords):
        return
    for index, name in reversed(list(enumerate(info.fields))):
        given = [argument(call, index, name) for call in calls]
        alike = len({ast.dump(item) if item else "" for item in given}) == 1 and all(map(_is_literal, given))
        quiet = all(item is None or effects.is_quiet(item) for item in given)
        if name in unread and quiet and (alike or alone):
            for call in calls:
                remove_argument(call, index, name)
            kept = [
                item
                for item in info.node.body
                if not (isinstance(item, ast.AnnAssign) and last_name(item.target) == name)
            ]
            info.node.body = kept or [ast.Pass()]


def _is_literal(node: ast.expr | None) -> bool:
    kinds = ast.Constant | ast.UnaryOp | ast.USub | ast.Tuple | ast.Load
    return node is None or all(isinstance(item, kinds) for item in ast.walk(node))
