"""What of a program can run or be read: definitions, methods and settings that nothing names are removed.

The one idea: names alone decide. A top-level definition (function, class, assignment) is needed when a needed statement
reads its name, in whatever scope; statements that define nothing (calls, `if`) are needed from the start. A method is
needed when anything names it, on any object or in a text. Relies on definitions having no side effects.

Checked by: tests/record/test_flatten.py, tests/record/test_trim.py.
"""

import ast
import builtins
from collections.abc import Iterable, Iterator


def defined_names(statement: ast.stmt) -> list[str]:
    """Return the names a top-level function, class or assignment binds; empty for every other statement."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", ast.Pass())]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def import_binding(alias: ast.alias) -> str:
    """Return the name that `import a.b`, `import a.b as c` or `from a import b` binds."""
    return alias.asname or alias.name.partition(".")[0]


def bound_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that a tree binds, in whatever scope, as often as it does."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.id
            case ast.arg():
                yield node.arg
            case ast.alias():
                yield import_binding(node)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from names
            case ast.ExceptHandler(name=str() as name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def read_names(tree: ast.AST) -> set[str]:
    """Return every name that a tree reads, in whatever scope."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def undefined_names(tree: ast.Module) -> list[str]:
    """Return the names that a program reads and nothing in it binds, sorted."""
    return sorted(read_names(tree) - {"__name__", *dir(builtins), *bound_names(tree)})


def remove_unreachable(tree: ast.Module) -> ast.Module:
    """Return a module with the top-level definitions and imported names that nothing needed reads removed."""
    owners: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in defined_names(statement):
            owners.setdefault(name, []).append(statement)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    pending = [node for node in tree.body if not defined_names(node) and node not in imports]
    kept: set[ast.stmt] = set()
    used: set[str] = set()
    while pending:
        statement = pending.pop()
        if statement not in kept:
            kept.add(statement)
            used |= (names := read_names(statement))
            pending += [owner for name in names for owner in owners.get(name, ())]
    for node in imports:
        node.names = [alias for alias in node.names if import_binding(alias) in used]
    kept.update(node for node in imports if node.names)
    return ast.Module([node for node in tree.body if node in kept], type_ignores=[])


def replacing_calls(nodes: Iterable[ast.AST]) -> list[ast.Call]:
    """Return the calls of `dataclasses.replace`, or of anything else called so."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return [call for call in calls if "replace" in (getattr(call.func, "id", ""), getattr(call.func, "attr", ""))]


def remove_unread(tree: ast.Module) -> ast.Module:
    """Remove methods that nothing names and settings that nothing reads; changes `tree`.

    Settings are the fields of the objects that the last statement makes, but for those in a mapping: protocols, which
    ledgers state whole.
    """
    nodes = [node for statement in tree.body[:-1] for node in ast.walk(statement)]
    named: set[object] = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for call in replacing_calls(nodes):
        named |= {keyword.arg for keyword in call.keywords}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    settings: set[str] = set()
    pending: list[ast.AST] = [tree.body[-1]]
    while pending:
        match pending.pop():
            case ast.Call(func=ast.Name(id=name)) as call if name in classes:
                settings.add(name)
                call.keywords = [keyword for keyword in call.keywords if keyword.arg in named]
                pending += [keyword.value for keyword in call.keywords]
            case other if not isinstance(other, ast.Dict):
                pending += ast.iter_child_nodes(other)
    for name, node in classes.items():
        node.body = [item for item in node.body if _is_named(item, named, name in settings)]
    return tree


def filled(tree: ast.Module) -> ast.Module:
    """Return a program in which no block is empty; changes `tree`."""
    for node in ast.walk(tree):
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_named(item: ast.stmt, named: set[object], is_setting: bool) -> bool:
    if isinstance(item, ast.FunctionDef):
        return item.name in {*named, "forward", "backward"} or item.name.startswith("__")  # torch calls those
    return not (is_setting and isinstance(item, ast.AnnAssign)) or not named.isdisjoint(defined_names(item))
