"""Arguments by position: parameter names that no call writes down need not survive minification.

Foreign code is taken to call our functions by position, as torch, numpy and the standard library do.

Checked by: tests/record/test_specialise.py.
"""

import ast
import re

from pipeline.record.call_groups import call_groups, set_defaults
from pipeline.record.effects import Effects
from pipeline.record.flow import Flow
from pipeline.record.program_names import defaults, last_name, parameters


def by_position(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program with keywords of its own functions and dataclasses gone and parameters marked with `/`."""
    ordered: list[ast.arguments] = []
    effects = Effects(tree, flow.names, flow.known)
    for functions, calls, skipped in call_groups(tree, flow):
        arguments = functions[0].args
        names = [item.arg for item in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]][skipped:]
        if all(_fits(call, names, effects) for call in calls):
            for call in calls:
                _order(call, names)
            for function in functions:
                _without_star(function.args)
                ordered.append(function.args)
    constructions: dict[str, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constructions.setdefault(last_name(node.func), []).append(node)
    for info in flow.names.classes.values():
        _order_fields(constructions.get(info.name, []), info.name, flow, effects)
    written = _written_names(tree)
    open_methods = {
        method
        for info in flow.names.classes.values()
        for name, method in info.methods.items()
        if flow.names.is_open(info.name, name) and name not in ("forward", "backward") and not name.startswith("__")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and node not in open_methods:
            arguments = node.args
            while arguments.args and (arguments in ordered or arguments.args[0].arg not in written):
                arguments.posonlyargs.append(arguments.args.pop(0))
    parameters.cache_clear()
    return ast.fix_missing_locations(tree)


def _written_names(tree: ast.Module) -> set[str]:
    """Return the names that some call gives as a keyword, or could: any word of a string where calls spread a dict."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {str(keyword.arg) for call in calls for keyword in call.keywords}
    if any(keyword.arg is None for call in calls for keyword in call.keywords):
        found |= {
            word
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            for word in re.findall(r"\w+", node.value)
        }
        found |= {
            item.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
    return found


def _fits(call: ast.Call, names: list[str], effects: Effects) -> bool:
    """Return whether a call's keywords can follow its positional arguments without a gap, in another order or not."""
    given = [keyword.arg for keyword in call.keywords]
    after = names[len(call.args) :]
    starred = any(isinstance(item, ast.Starred) for item in call.args)
    in_order = given == after[: len(given)] or all(effects.is_quiet(keyword.value) for keyword in call.keywords)
    return not starred and set(given) == set(after[: len(given)]) and in_order


def _order(call: ast.Call, names: list[str]) -> None:
    values = {str(keyword.arg): keyword.value for keyword in call.keywords}
    call.args += [values[name] for name in names if name in values]
    call.keywords = []


def _without_star(arguments: ast.arguments) -> None:
    default_of = defaults(arguments)
    arguments.args += arguments.kwonlyargs
    arguments.kwonlyargs = []
    set_defaults(arguments, default_of)


def _order_fields(calls: list[ast.Call], name: str, flow: Flow, effects: Effects) -> None:
    info = flow.names.classes[name]
    line = flow.names.line(name)
    if not info.declares_fields or len(line) > 1 or flow.names.subclasses(name) != [name]:
        return
    names = list(info.fields)
    if not all(_fits(call, names, effects) for call in calls):
        return
    for call in calls:
        _order(call, names)
    for decorator in info.node.decorator_list:
        if isinstance(decorator, ast.Call) and last_name(decorator.func) == "dataclass":
            decorator.keywords = [keyword for keyword in decorator.keywords if keyword.arg != "kw_only"]
