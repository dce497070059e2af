"""What a program needs no more once it is a record: checks of its own settings, advice, unread words, annotations.

The one idea: the configuration was checked when the record was built, so `require`, functions that only require, and
asserts cannot fire. Kept is what a judge can cause: missing or foreign data, a damaged artifact or tokenizer, a machine
that does not fit (`require_always`, and every other exception), without the part of a message that says how to go on in
a checkout. Nor does it report progress.

Rests on checks whose arguments and conditions do nothing but give values.
Checked by: tests/record/test_trim.py, tests/record/test_ship.py.
"""

import ast
from typing import Any

_UNREAD = {"zip": ("strict",), "add_argument": ("help", "metavar"), "ArgumentParser": ("description",)}
"""Call -> keyword arguments without which it does the same on sound input, or tells less."""
_UNHEARD = {"progress", "_progress"}
"""Calls that tell how far work is; the record's program has nobody who listens."""


def without_checks(tree: ast.Module) -> ast.Module:
    """Return a program without docstrings and what can only fail before a record is built; changes `tree`."""
    functions: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
    checks = {"require"}
    while added := {
        name
        for name, nodes in functions.items()
        if name not in checks and all(_only_checks(node, checks) for node in nodes)
    }:
        checks |= added
    return _Trimmer(checks).visit(tree)


def _only_checks(node: ast.FunctionDef | ast.If | ast.For, checks: set[str]) -> bool:
    """Return whether a function or block checks something, and does nothing else."""
    idle = all(_is_check(each, checks) for each in [*node.body, *getattr(node, "orelse", ())])
    return idle and any(_calls(each, checks) for each in ast.walk(node))


def _is_check(node: ast.stmt, checks: set[str]) -> bool:
    """Return whether a statement of a check can do nothing but raise what a record never does."""
    match node:
        case ast.If() | ast.For():
            return all(_is_check(each, checks) for each in [*node.body, *node.orelse])
        case ast.Assign(targets=[ast.Name() | ast.Tuple()]) | ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr():
            return _calls(node.value, checks)
    return isinstance(node, ast.Assert | ast.Pass) or (isinstance(node, ast.Return) and node.value is None)


def _calls(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and _last_name(node.func) in names


class _Trimmer(ast.NodeTransformer):
    def __init__(self, checks: set[str]) -> None:
        self.checks = checks

    def visit_Expr(self, node: ast.Expr) -> Any:
        unread = isinstance(node.value, ast.Constant) or _calls(node.value, self.checks | _UNHEARD)
        return None if unread else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> Any:
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return None if node.name == "__post_init__" and _only_checks(node, self.checks) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        kept = (ast.Assign, ast.NamedExpr, ast.Return)  # what later statements may rest on
        is_check = _only_checks(node, self.checks) and not any(isinstance(each, kept) for each in ast.walk(node))
        return None if is_check else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        unread = _UNREAD.get(_last_name(node.func), ())
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in unread]
        if _last_name(node.func) == "require_always":
            node.args = [_without_advice(each) for each in node.args]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> Any:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc.args = [_without_advice(each) for each in node.exc.args]
        return self.generic_visit(node)


class Bare(ast.NodeTransformer):
    """Leaves annotations only where they declare fields, as int."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return ast.copy_location(ast.Assign([node.target], node.value), node) if node.value else None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for item in node.body:
            if not isinstance(item, ast.AnnAssign):
                self.visit(item)
            elif "ClassVar" not in ast.unparse(item.annotation):
                item.annotation = ast.Name("int", ast.Load())
        return node


def _without_advice(message: ast.expr) -> ast.expr:
    """Return a message up to its first semicolon: what follows says how to go on in a checkout."""
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    for index, part in enumerate(parts):
        head, semicolon, _ = str(part.value if isinstance(part, ast.Constant) else "").partition(";")
        if semicolon:
            return ast.JoinedStr([*parts[:index], ast.Constant(head)])
    return message


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
