"""Arguments by position: parameter names that no call writes down need not survive minification.

Foreign code is taken to call our functions by position, as torch, numpy and the standard library do.

Checked by: tests/submission/test_specialise.py.
"""

import ast

from pipeline.submission.call_groups import call_groups, set_defaults
from pipeline.submission.flow import Flow
from pipeline.submission.program_names import defaults, last_name, parameters


def by_position(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program with keywords of its own functions and dataclasses gone and parameters marked with `/`."""
    ordered: list[ast.arguments] = []
    for functions, calls, skipped in call_groups(tree, flow):
        arguments = functions[0].args
        names = [item.arg for item in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]][skipped:]
        if all(_fits(call, names) for call in calls):
            for call in calls:
                _order(call, names)
            for function in functions:
                _without_star(function.args)
                ordered.append(function.args)
    for info in flow.names.classes.values():
        _order_fields(tree, info.name, flow)
    written = {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments = node.args
            while arguments.args and (arguments in ordered or arguments.args[0].arg not in written):
                arguments.posonlyargs.append(arguments.args.pop(0))
    parameters.cache_clear()
    return ast.fix_missing_locations(tree)


def _fits(call: ast.Call, names: list[str]) -> bool:
    """Return whether a call's keywords follow its positional arguments without a gap."""
    given = {keyword.arg for keyword in call.keywords}
    after = names[len(call.args) :]
    return given == set(after[: len(given)])


def _order(call: ast.Call, names: list[str]) -> None:
    values = {str(keyword.arg): keyword.value for keyword in call.keywords}
    call.args += [values[name] for name in names if name in values]
    call.keywords = []


def _without_star(arguments: ast.arguments) -> None:
    default_of = defaults(arguments)
    arguments.args += arguments.kwonlyargs
    arguments.kwonlyargs = []
    set_defaults(arguments, default_of)


def _order_fields(tree: ast.Module, name: str, flow: Flow) -> None:
    info = flow.names.classes[name]
    line = flow.names.line(name)
    if not info.declares_fields or len(line) > 1 or flow.names.subclasses(name) != [name]:
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and last_name(node.func) == name]
    names = list(info.fields)
    if not all(_fits(call, names) for call in calls):
        return
    for call in calls:
        _order(call, names)
    for decorator in info.node.decorator_list:
        if isinstance(decorator, ast.Call) and last_name(decorator.func) == "dataclass":
            decorator.keywords = [keyword for keyword in decorator.keywords if keyword.arg != "kw_only"]
