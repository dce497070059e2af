"""Which dicts of a program nobody changes: those that no other variable can name and that are only looked up.

The one idea: a dict that is bound to one name (a constant of the top level, or a field given in the call that runs the
program) can only change through an expression with that name. When each of those is a look-up (`T[k]`, `k in T`, a
loop over it, `T.items()`), nobody else ever holds the dict itself.

Checked by: tests/submission/test_specialise.py.
"""

import ast

_READERS = ("items", "keys", "values", "get")
_CONSUMERS = ("len", "list", "tuple", "sorted", "set", "max", "min")


def unchanged_tables(tree: ast.Module) -> set[ast.AST]:
    """Return the dict displays whose contents stay as they are written."""
    looked_up, named = set(), {}
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, ast.Name | ast.Attribute) and isinstance(child.ctx, ast.Load):
                named.setdefault(_name(child), []).append(child)
                if _looks_up(child, parent):
                    looked_up.add(child)
    # `T.items` is a look-up only when it is called.
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in called:
            looked_up.discard(node.value)
    stored = {_name(node) for node in ast.walk(tree)
              if isinstance(node, ast.Name | ast.Attribute) and not isinstance(node.ctx, ast.Load)}  # fmt: skip
    found: set[ast.AST] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            (target,) = statement.targets
            if all(node in looked_up for node in named.get(_name(target), ())):
                found.add(statement.value)
        elif isinstance(statement, ast.Expr):
            for keyword in (node for node in ast.walk(statement) if isinstance(node, ast.keyword)):
                field = f".{keyword.arg}"
                if field not in stored and all(node in looked_up for node in named.get(field, ())):
                    found.add(keyword.value)
    return found


def _name(node: ast.expr) -> str:
    return f".{node.attr}" if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _looks_up(node: ast.expr, parent: ast.AST) -> bool:
    if isinstance(parent, ast.Subscript):
        return node is parent.value and isinstance(parent.ctx, ast.Load)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _READERS
    if isinstance(parent, ast.Compare):
        return node in parent.comparators and isinstance(parent.ops[parent.comparators.index(node)], ast.In | ast.NotIn)
    if isinstance(parent, ast.For | ast.comprehension):
        return node is parent.iter
    return isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _CONSUMERS
